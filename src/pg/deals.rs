//! Appends deals, each once. A stored deal does not change, except that one that was stored before its symbol was known
//! gets the symbol's name from a later write.

use sqlx::postgres::PgConnection;

use super::error::PgError;
use super::from_row::from_row;
use super::numeric::Numeric;
use super::text::storable_text;
use crate::domain::deal::{Closing, Deal, Source};
use crate::domain::decimal::Decimal;
use crate::domain::fence::Fence;

/// Rows of one statement.
const CHUNK_ROWS: usize = 400;

/// A deal to be appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DealWrite {
    /// For which session, and under which claim.
    pub fence: Fence,
    /// Whether an event or the history reported it.
    pub source: Source,
    /// The execution.
    pub deal: Deal,
}

/// What became of a batch of deals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DealReport {
    /// New rows.
    pub inserted: u64,
    /// Those of them that only the history reported, and no event.
    pub from_gaps: u64,
    /// Deals that were stored already, or are twice in the batch.
    pub already_stored: u64,
    /// Deals whose slot has another epoch: refused.
    pub fenced: u64,
}

/// Appends a batch.
///
/// # Errors
/// Some may be appended; the same batch may be written again.
///
/// # Cancel safety
/// As with an error, and the connection cannot be used any more.
pub async fn insert(conn: &mut PgConnection, writes: &[DealWrite]) -> Result<DealReport, PgError> {
    let mut report = DealReport::default();
    for chunk in writes.chunks(CHUNK_ROWS) {
        let counts = insert_chunk(conn, chunk).await?;
        let (owned, inserted) = (counts.owned.unsigned_abs(), counts.inserted.unsigned_abs());
        report.inserted += inserted;
        report.from_gaps += counts.from_gaps.unsigned_abs();
        report.already_stored += owned - inserted;
        report.fenced += chunk.len() as u64 - owned;
    }
    Ok(report)
}

/// A row of `deals.insert`.
struct InsertCounts {
    owned: i64,
    inserted: i64,
    from_gaps: i64,
}

from_row!(InsertCounts {
    owned,
    inserted,
    from_gaps
});

async fn insert_chunk(
    conn: &mut PgConnection,
    chunk: &[DealWrite],
) -> Result<InsertCounts, PgError> {
    fn column<'w, T>(chunk: &'w [DealWrite], of: impl FnMut(&'w DealWrite) -> T) -> Vec<T> {
        chunk.iter().map(of).collect()
    }
    let decimals = |of: fn(&Deal) -> Option<Decimal>| -> Vec<Option<Numeric>> {
        column(chunk, |write| of(&write.deal).map(Numeric))
    };
    let closing = |of: fn(&Closing) -> Option<Decimal>| -> Vec<Option<Numeric>> {
        column(chunk, |write| {
            write.deal.closing.as_ref().and_then(of).map(Numeric)
        })
    };
    Ok(sqlx::query_as(INSERT)
        .bind(column(chunk, |write| write.fence.slot.0))
        .bind(column(chunk, |write| write.fence.epoch))
        .bind(column(chunk, |write| write.fence.key.user.key()))
        .bind(column(chunk, |write| write.fence.key.account.0))
        .bind(column(chunk, |write| write.deal.deal_id.0))
        .bind(column(chunk, |write| write.deal.order_id.0))
        .bind(column(chunk, |write| write.deal.position_id.0))
        .bind(column(chunk, |write| {
            write.deal.symbol.as_deref().map(storable_text)
        }))
        .bind(column(chunk, |write| write.deal.symbol_id.0))
        .bind(column(chunk, |write| write.deal.side.as_str()))
        .bind(column(chunk, |write| write.deal.status))
        .bind(decimals(|deal| Some(deal.volume)))
        .bind(decimals(|deal| Some(deal.filled_volume)))
        .bind(decimals(|deal| deal.price))
        .bind(column(chunk, |write| write.deal.executed_at))
        .bind(decimals(|deal| deal.commission))
        .bind(closing(|closing| Some(closing.gross_profit)))
        .bind(closing(|closing| Some(closing.swap)))
        .bind(closing(|closing| closing.closed_volume))
        .bind(closing(|closing| closing.entry_price))
        .bind(closing(|closing| Some(closing.balance_after)))
        .bind(column(chunk, |write| write.source == Source::Gap))
        .fetch_one(conn)
        .await?)
}

const INSERT: &str = "-- deals.insert
with owned as materialized (
    select i.*
    from unnest(
        $1::int[], $2::bigint[],
        $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
        $8::text[], $9::bigint[], $10::text[], $11::text[],
        $12::numeric[], $13::numeric[], $14::numeric[], $15::timestamptz[], $16::numeric[],
        $17::numeric[], $18::numeric[], $19::numeric[], $20::numeric[], $21::numeric[],
        $22::bool[]
    ) as i (
        slot, epoch,
        user_key, account_id, deal_id, order_id, position_id,
        symbol, symbol_id, side, status,
        volume, filled_volume, price, executed_at, commission,
        gross_profit, swap, closed_volume, entry_price, balance_after,
        is_gap
    )
    join bridge.slots o on o.slot = i.slot and o.epoch = i.epoch
), chosen as materialized (
    select distinct on (user_key, account_id, deal_id) *
    from owned
    order by user_key, account_id, deal_id, symbol nulls last, is_gap
), written as (
    insert into public.ctrader_deals as d (
        user_key, account_id, deal_id, order_id, position_id, symbol, symbol_id, side, status,
        volume, filled_volume, price, executed_at, commission,
        gross_profit, swap, closed_volume, entry_price, balance_after
    )
    select user_key, account_id, deal_id, order_id, position_id, symbol, symbol_id, side, status,
        volume, filled_volume, price, executed_at, commission,
        gross_profit, swap, closed_volume, entry_price, balance_after
    from chosen
    order by user_key, account_id, deal_id
    on conflict (user_key, account_id, deal_id) do update set
        symbol = excluded.symbol, price = excluded.price, entry_price = excluded.entry_price
    where d.symbol is null and excluded.symbol is not null
    -- A row that was there has the transaction that locked it.
    returning user_key, account_id, deal_id, xmax = 0 as is_new
)
select (select count(*) from owned) as owned, (select count(*) from written where is_new) as inserted, (
    select count(*) from written w
    where w.is_new and (w.user_key, w.account_id, w.deal_id) not in (
        select o.user_key, o.account_id, o.deal_id from owned o where not o.is_gap
    )
) as from_gaps";
