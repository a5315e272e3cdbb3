//! The history mark of a session, up to which all its deals are stored, and the account as its row last had it.

use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};
use time::OffsetDateTime;

use super::error::PgError;
use crate::domain::decimal::Decimal;
use crate::domain::fence::HistoryMark;
use crate::domain::ids::{PositionId, SessionKey};
use crate::domain::ledger::{LastSeen, Positions};

/// What the tables know of a session before it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Baseline {
    /// Which session.
    pub key: SessionKey,
    /// Every deal executed up to this time is stored; `None` if no mark was ever set.
    pub through: Option<OffsetDateTime>,
    /// The account's balance version and positions, by its row in the cache.
    pub last_seen: LastSeen,
}

/// What became of a batch of marks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MarkReport {
    /// Marks that were written, or that are not later than the session's.
    pub marked: u64,
    /// Marks whose slot has another epoch: refused.
    pub fenced: u64,
}

/// Returns what is known of these sessions, in their order.
///
/// # Errors
/// When Postgres does not reply as it should.
pub async fn baselines(
    conn: &mut PgConnection,
    keys: &[SessionKey],
) -> Result<Vec<Baseline>, PgError> {
    let users: Vec<&str> = keys.iter().map(|key| key.user.as_str()).collect();
    let user_keys: Vec<String> = keys.iter().map(|key| key.user.key()).collect();
    let accounts: Vec<i64> = keys.iter().map(|key| key.account.0).collect();
    let rows = sqlx::query(
        "-- history.baselines
        select i.ord, h.through, c.balance_version, c.balance is not null as is_filled,
            array(select p.value ->> 'positionId' from jsonb_array_elements(
                case jsonb_typeof(c.positions) when 'array' then c.positions else '[]' end) as p)
                as position_ids,
            array(select p.value ->> 'volume' from jsonb_array_elements(
                case jsonb_typeof(c.positions) when 'array' then c.positions else '[]' end) as p)
                as volumes
        from unnest($1::text[], $2::text[], $3::bigint[]) with ordinality
            as i (user_id, user_key, account_id, ord)
        left join bridge.history h on h.user_id = i.user_id and h.account_id = i.account_id
        left join public.ctrader_cache c on c.user_key = i.user_key and c.account_id = i.account_id
        order by i.ord",
    )
    .bind(users)
    .bind(user_keys)
    .bind(accounts)
    .fetch_all(conn)
    .await?;
    keys.iter()
        .zip(&rows)
        .map(|(key, row)| baseline(key, row))
        .collect()
}

fn baseline(key: &SessionKey, row: &PgRow) -> Result<Baseline, PgError> {
    let is_filled: bool = row.try_get("is_filled")?;
    let ids: Vec<Option<String>> = row.try_get("position_ids")?;
    let volumes: Vec<Option<String>> = row.try_get("volumes")?;
    // Workers write and read the positions; what cannot be parsed is left out.
    let positions: Positions = ids
        .into_iter()
        .zip(volumes)
        .filter_map(|(id, volume)| {
            let id = PositionId(id?.parse().ok()?);
            Some((id, volume.as_deref().and_then(decimal)))
        })
        .collect();
    Ok(Baseline {
        key: key.clone(),
        through: row.try_get("through")?,
        last_seen: LastSeen {
            version: row.try_get("balance_version")?,
            positions: is_filled.then_some(positions),
        },
    })
}

/// Parses a number as JSON and Postgres print it, without trailing zeros.
fn decimal(text: &str) -> Option<Decimal> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let scale = u8::try_from(part.len()).ok()?;
    let units = format!("{whole}{part}").parse().ok()?;
    (scale <= Decimal::SCALE_MAX).then(|| Decimal::new(units, scale).trim(0))
}

/// Stores up to when all deals are stored. A mark never moves back.
///
/// # Errors
/// When Postgres does not reply as it should; the same batch may be written again.
pub async fn mark(conn: &mut PgConnection, marks: &[HistoryMark]) -> Result<MarkReport, PgError> {
    let column = |of: fn(&HistoryMark) -> i64| -> Vec<i64> { marks.iter().map(of).collect() };
    let users: Vec<&str> = marks
        .iter()
        .map(|mark| mark.fence.key.user.as_str())
        .collect();
    let slots: Vec<i32> = marks.iter().map(|mark| mark.fence.slot.0).collect();
    let through: Vec<OffsetDateTime> = marks.iter().map(|mark| mark.through).collect();
    let owned: i64 = sqlx::query_scalar(MARK)
        .bind(users)
        .bind(column(|mark| mark.fence.key.account.0))
        .bind(slots)
        .bind(column(|mark| mark.fence.epoch))
        .bind(through)
        .fetch_one(conn)
        .await?;
    let marked = owned.unsigned_abs();
    Ok(MarkReport {
        marked,
        fenced: (marks.len() as u64).saturating_sub(marked),
    })
}

const MARK: &str = "-- history.mark
with owned as materialized (
    select i.user_id, i.account_id, i.through
    from unnest($1::text[], $2::bigint[], $3::int[], $4::bigint[], $5::timestamptz[])
        as i (user_id, account_id, slot, epoch, through)
    join bridge.slots o on o.slot = i.slot and o.epoch = i.epoch
), marked as (
    insert into bridge.history as h (user_id, account_id, through)
    select user_id, account_id, max(through)
    from owned
    group by user_id, account_id
    order by user_id, account_id
    on conflict (user_id, account_id) do update set
        through = greatest(h.through, excluded.through), updated_at = clock_timestamp()
)
select count(*) from owned";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_read_as_it_is_printed() {
        assert_eq!(decimal("10000"), Some(Decimal::new(10_000, 0)));
        assert_eq!(decimal("0.50"), Some(Decimal::new(5, 1)));
        assert_eq!(decimal("-1.5"), Some(Decimal::new(-15, 1)));
        assert_eq!(decimal("1e5"), None);
        assert_eq!(decimal(""), None);
    }
}
