//! Writes `public.ctrader_cache`: many rows in a statement, each under its own fence.
//!
//! A row is written if its slot still has the epoch of the fence, and if the stored row is not newer. The statement that
//! writes checks both. A change of state goes to `bridge.sessions` in the same statement, under the same fence, with the
//! slot's row locked for a moment: a new owner raises the epoch first, so its own state is never overwritten.
//!
//! The statements are constants, so that each is parsed once per connection.

use std::collections::HashMap;

use sqlx::Postgres;
use sqlx::encode::{Encode, IsNull};
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgConnection, PgHasArrayType, PgTypeInfo};

use super::connect::PooledConnection;
use super::error::PgError;
use super::from_row::from_row;
use super::numeric::Numeric;
use super::row_json::ToJson;
use super::text::storable_text;
use crate::domain::decimal::Decimal;
use crate::domain::ids::SessionKey;
use crate::domain::row::{AccountRow, RowContent, RowWrite, SessionState};

/// How many rows one statement writes. By measurement 200 to 500 are best; beyond that, sorting and memory cost more
/// than the round trips that they save.
pub const CHUNK_ROWS: usize = 400;

/// What became of a batch.
#[derive(Debug, Default)]
pub struct WriteReport {
    /// Rows whose content was written.
    pub changed: u64,
    /// Rows whose `updated_at` alone was written.
    pub heartbeat: u64,
    /// Refused: the slot has another epoch, or another write changed the row during this statement, most likely that of
    /// the slot's new owner.
    pub fenced: Vec<SessionKey>,
    /// Refused: the row has this `seq` or a later one of the same epoch already.
    pub stale: Vec<SessionKey>,
    /// Refused: the session does not exist, or a heartbeat found no row.
    pub missing: Vec<SessionKey>,
    /// Rows that may not have been written, and why.
    pub failed: Vec<WriteFailure>,
}

/// Rows whose statement failed.
#[derive(Debug)]
pub struct WriteFailure {
    /// Which rows.
    pub keys: Vec<SessionKey>,
    /// Why.
    pub error: PgError,
}

/// Writes a batch. Of several writes of one row those that a later one supersedes are left out.
///
/// A statement that fails because of a value is split in two until the row at fault is alone. When the connection or the
/// server fails, the rest is reported as failed and the connection is not reused. A row that is written again after a
/// failure needs a higher `seq`, since the first write may have succeeded.
///
/// # Cancel safety
/// Dropped before it returns, some rows are written and the connection cannot be used any more.
pub async fn write(conn: &mut PooledConnection, writes: &[RowWrite], worker: &str) -> WriteReport {
    let mut report = WriteReport::default();
    let kinds = WritesByKind::sort(writes);
    let batches = [
        (RowStatement::Full, kinds.full),
        (RowStatement::State, kinds.state),
        (RowStatement::Heartbeat, kinds.heartbeat),
    ];
    for (statement, rows) in batches {
        // A stack: the halves of a chunk that failed come next.
        let mut chunks: Vec<&[KeyedWrite<'_>]> = rows.rchunks(CHUNK_ROWS).collect();
        while let Some(chunk) = chunks.pop() {
            if report.has_lost_connection() {
                report.fail(chunk, None);
                continue;
            }
            match statement.run(conn, chunk, worker).await {
                Ok(refusals) => report.count(statement, chunk, &refusals),
                Err(error) if error.is_data_error() && chunk.len() > 1 => {
                    let (first, second) = chunk.split_at(chunk.len() / 2);
                    chunks.extend([second, first]);
                }
                Err(error) => {
                    if error.is_transient() {
                        conn.mark_broken();
                    }
                    report.fail(chunk, Some(error));
                }
            }
        }
    }
    report
}

impl WriteReport {
    fn has_lost_connection(&self) -> bool {
        self.failed
            .last()
            .is_some_and(|failure| failure.error.is_transient())
    }

    /// Counts a chunk as failed, for a cause of its own or for that of the one before it.
    fn fail(&mut self, chunk: &[KeyedWrite<'_>], error: Option<PgError>) {
        let keys = chunk.iter().map(|row| row.write.fence.key.clone());
        match (error, self.failed.last_mut()) {
            (Some(error), _) => self.failed.push(WriteFailure {
                keys: keys.collect(),
                error,
            }),
            (None, Some(last)) => last.keys.extend(keys),
            (None, None) => {}
        }
    }

    fn count(
        &mut self,
        statement: RowStatement,
        chunk: &[KeyedWrite<'_>],
        refusals: &[RefusedWrite],
    ) {
        let written = (chunk.len() - refusals.len()) as u64;
        match statement {
            RowStatement::Full | RowStatement::State => self.changed += written,
            RowStatement::Heartbeat => self.heartbeat += written,
        }
        for refused in refusals {
            let index = usize::try_from(refused.ord).ok();
            let Some(row) = index.and_then(|index| chunk.get(index)) else {
                continue;
            };
            let list = match refused.reason.as_str() {
                "fenced" => &mut self.fenced,
                "stale" => &mut self.stale,
                _ => &mut self.missing,
            };
            list.push(row.write.fence.key.clone());
        }
    }
}

/// A row of a statement that refused some writes.
struct RefusedWrite {
    /// The write's index in the chunk.
    ord: i32,
    reason: String,
}

from_row!(RefusedWrite { ord, reason });

/// A write, and the public key of its user.
#[derive(Clone)]
struct KeyedWrite<'a> {
    write: &'a RowWrite,
    user_key: String,
}

/// A batch by statement: each row at most once in each, ordered by key.
struct WritesByKind<'a> {
    full: Vec<KeyedWrite<'a>>,
    state: Vec<KeyedWrite<'a>>,
    heartbeat: Vec<KeyedWrite<'a>>,
}

impl<'a> WritesByKind<'a> {
    /// Keeps of each row the last full write; the last state, if it is newer than that; and the last heartbeat, if it is
    /// newer than both. The statements run in this order.
    fn sort(writes: &'a [RowWrite]) -> Self {
        let mut last: HashMap<&SessionKey, [Option<&'a RowWrite>; 3]> = HashMap::new();
        for write in writes {
            let [full, state, heartbeat] = last.entry(&write.fence.key).or_default();
            let newest = match write.content {
                RowContent::Full { .. } => full,
                RowContent::State(_) => state,
                RowContent::Heartbeat => heartbeat,
            };
            if newest.is_none_or(|newest| write_order(newest) < write_order(write)) {
                *newest = Some(write);
            }
        }
        let mut rows: Vec<_> = last.into_iter().collect();
        rows.sort_unstable_by_key(|(key, _)| *key);
        let mut kinds = Self {
            full: Vec::new(),
            state: Vec::new(),
            heartbeat: Vec::new(),
        };
        for (key, [full, state, heartbeat]) in rows {
            let user_key = key.user.key();
            let mut newest = None;
            for (write, list) in [
                (full, &mut kinds.full),
                (state, &mut kinds.state),
                (heartbeat, &mut kinds.heartbeat),
            ] {
                if let Some(write) = write
                    && newest < Some(write_order(write))
                {
                    newest = Some(write_order(write));
                    list.push(KeyedWrite {
                        write,
                        user_key: user_key.clone(),
                    });
                }
            }
        }
        kinds
    }
}

fn write_order(write: &RowWrite) -> (i64, i64) {
    (write.fence.epoch, write.seq)
}

#[derive(Debug, Clone, Copy)]
enum RowStatement {
    Full,
    State,
    Heartbeat,
}

impl RowStatement {
    /// Writes one chunk, and returns the writes that were refused.
    async fn run(
        self,
        conn: &mut PgConnection,
        chunk: &[KeyedWrite<'_>],
        worker: &str,
    ) -> Result<Vec<RefusedWrite>, PgError> {
        let sql = match self {
            Self::Full => WRITE_FULL,
            Self::State => WRITE_STATE,
            Self::Heartbeat => WRITE_HEARTBEAT,
        };
        let ords: Vec<i32> = (0..).take(chunk.len()).collect();
        let query = sqlx::query_as(sql)
            .bind(ords)
            .bind(column(chunk, |row| row.user_key.as_str()))
            .bind(column(chunk, |row| row.write.fence.key.account.0))
            .bind(column(chunk, |row| row.write.fence.slot.0))
            .bind(column(chunk, |row| row.write.fence.epoch))
            .bind(column(chunk, |row| row.write.seq));
        let query = match self {
            Self::Heartbeat => query,
            Self::Full | Self::State => {
                let states: Vec<&SessionState> =
                    chunk.iter().filter_map(KeyedWrite::state).collect();
                query
                    .bind(worker)
                    .bind(column(chunk, |row| row.write.fence.key.user.as_str()))
                    .bind(column(&states, |state| state.status.as_str()))
                    .bind(column(&states, |state| {
                        state.last_error.as_deref().map(storable_text)
                    }))
                    .bind(column(&states, |state| state.attempts))
                    .bind(column(&states, |state| state.is_demo))
            }
        };
        let query = match self {
            Self::State | Self::Heartbeat => query,
            Self::Full => {
                let full: Vec<(bool, &AccountRow)> =
                    chunk.iter().filter_map(KeyedWrite::account).collect();
                let decimals = |of: fn(&AccountRow) -> Option<Decimal>| {
                    column(&full, move |(_, account)| of(account).map(Numeric))
                };
                query
                    .bind(column(&full, |(connected, _)| *connected))
                    .bind(column(&full, |(_, account)| account.trader_login))
                    .bind(column(&full, |(_, account)| {
                        account.currency.as_deref().map(storable_text)
                    }))
                    .bind(decimals(|account| Some(account.balance)))
                    .bind(decimals(|account| account.equity))
                    .bind(decimals(|account| account.unrealized_gross))
                    .bind(decimals(|account| account.unrealized_net))
                    .bind(decimals(|account| Some(account.used_margin)))
                    .bind(decimals(|account| account.free_margin))
                    .bind(decimals(|account| account.bonus))
                    .bind(decimals(|account| account.margin_level))
                    .bind(column(&full, |(_, account)| count(account.positions.len())))
                    .bind(column(&full, |(_, account)| count(account.orders.len())))
                    .bind(column(&full, |(_, account)| JsonText(&account.positions)))
                    .bind(column(&full, |(_, account)| JsonText(&account.orders)))
                    .bind(column(&full, |(_, account)| account.balance_version))
                    .bind(column(&full, |(_, account)| account.event_at))
            }
        };
        Ok(query.fetch_all(conn).await?)
    }
}

impl<'a> KeyedWrite<'a> {
    fn state(&self) -> Option<&'a SessionState> {
        match &self.write.content {
            RowContent::Full { state, .. } | RowContent::State(state) => Some(state),
            RowContent::Heartbeat => None,
        }
    }

    fn account(&self) -> Option<(bool, &'a AccountRow)> {
        match &self.write.content {
            RowContent::Full {
                connected, account, ..
            } => Some((*connected, account)),
            RowContent::State(_) | RowContent::Heartbeat => None,
        }
    }
}

fn column<'r, R, T>(rows: &'r [R], of: impl FnMut(&'r R) -> T) -> Vec<T> {
    rows.iter().map(of).collect()
}

fn count(len: usize) -> i32 {
    i32::try_from(len).unwrap_or(i32::MAX)
}

/// Positions or orders as the text of their JSON, which goes straight into the buffer of the statement's parameters.
struct JsonText<'a, T>(&'a [T]);

impl<T> sqlx::Type<Postgres> for JsonText<'_, T> {
    fn type_info() -> PgTypeInfo {
        <&str as sqlx::Type<Postgres>>::type_info()
    }
}

impl<T> PgHasArrayType for JsonText<'_, T> {
    fn array_type_info() -> PgTypeInfo {
        <&str as PgHasArrayType>::array_type_info()
    }
}

impl<T: ToJson> Encode<'_, Postgres> for JsonText<'_, T> {
    fn encode_by_ref(&self, buf: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        self.0.to_json(buf);
        Ok(IsNull::No)
    }
}

/// `$1`–`$6` are the same in all three: number, key, slot, fence; `$7` is the worker.
const WRITE_FULL: &str = concat!(
    include_str!("cache/write_full.sql"),
    include_str!("cache/update_sessions.sql"),
    include_str!("cache/refused_upserts.sql"),
);
const WRITE_STATE: &str = concat!(
    include_str!("cache/write_state.sql"),
    include_str!("cache/update_sessions.sql"),
    include_str!("cache/refused_upserts.sql"),
);
const WRITE_HEARTBEAT: &str = concat!(
    include_str!("cache/write_heartbeat.sql"),
    include_str!("cache/refused_updates.sql"),
);
