//! Writes `public.ctrader_cache`: many rows a statement, each under its own fence.
//!
//! A row is written if its slot still has the epoch under which the worker claimed it, and if the row
//! itself says nothing newer. Both are checked in the statement that writes. A change of state goes to
//! `bridge.sessions` in the same statement, under the same fence, with the slot's row locked for a
//! moment: a new owner, which raises the epoch first, never finds its own state written over.
//!
//! The statements are constants, so that each is parsed once a connection.

use std::collections::HashMap;

use sqlx::Postgres;
use sqlx::encode::{Encode, IsNull};
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgConnection, PgHasArrayType, PgTypeInfo};

use super::PgError;
use super::connect::Lease;
use super::numeric::Numeric;
use crate::domain::decimal::Decimal;
use crate::domain::ids::SessionKey;
use crate::domain::row::{AccountRow, RowContent, RowWrite, SessionState, ToJson, storable};

/// Rows of one statement. Measured best between 200 and 500; beyond that, sorting and memory cost more
/// than the round trips they save.
pub const CHUNK_ROWS: usize = 400;

/// What became of a batch.
#[derive(Debug, Default)]
pub struct WriteReport {
    /// Rows whose content was written.
    pub changed: u64,
    /// Rows that were only said to be still so.
    pub heartbeat: u64,
    /// Refused: the slot has another epoch, or another write got to the row while this one was on its way,
    /// most likely that of the slot's new owner.
    pub fenced: Vec<SessionKey>,
    /// Refused: the row has this `seq` or a later one of this same epoch already.
    pub stale: Vec<SessionKey>,
    /// Refused: there is no such session, or no row to say of that it is still so.
    pub missing: Vec<SessionKey>,
    /// Perhaps not written, and why.
    pub failed: Vec<Failure>,
}

/// Rows whose statement failed.
#[derive(Debug)]
pub struct Failure {
    /// Which rows.
    pub keys: Vec<SessionKey>,
    /// Why.
    pub error: PgError,
}

/// Writes a batch. Of several writes of one row those that a later one makes needless are left out.
///
/// A statement that fails because of a value is cut in two until the row at fault stands alone; when the
/// connection or the server fails, what is left is reported as failed and the lease keeps nothing. A row that is written again after
/// a failure needs a higher `seq`, since the first write may have arrived.
///
/// # Cancel safety
/// Given up in the middle, some rows are written and the connection is of no more use.
pub async fn write(lease: &mut Lease, writes: &[RowWrite], worker: &str) -> WriteReport {
    let mut report = WriteReport::default();
    let kinds = Kinds::sort(writes);
    let batches = [
        (Statement::Full, kinds.full),
        (Statement::State, kinds.state),
        (Statement::Heartbeat, kinds.heartbeat),
    ];
    for (statement, rows) in batches {
        // Taken from the end: the halves of a chunk that failed come next.
        let mut chunks: Vec<&[Row<'_>]> = rows.rchunks(CHUNK_ROWS).collect();
        while let Some(chunk) = chunks.pop() {
            if report.has_lost_connection() {
                report.fail(chunk, None);
                continue;
            }
            match statement.run(lease, chunk, worker).await {
                Ok(refusals) => report.count(statement, chunk, &refusals),
                Err(error) if error.is_about_data() && chunk.len() > 1 => {
                    let (first, second) = chunk.split_at(chunk.len() / 2);
                    chunks.extend([second, first]);
                }
                Err(error) => {
                    if error.is_transient() {
                        lease.condemn();
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
    fn fail(&mut self, chunk: &[Row<'_>], error: Option<PgError>) {
        let keys = chunk.iter().map(|row| row.write.fence.key.clone());
        match (error, self.failed.last_mut()) {
            (Some(error), _) => self.failed.push(Failure {
                keys: keys.collect(),
                error,
            }),
            (None, Some(last)) => last.keys.extend(keys),
            (None, None) => {}
        }
    }

    fn count(&mut self, statement: Statement, chunk: &[Row<'_>], refusals: &[(i32, String)]) {
        let written = (chunk.len() - refusals.len()) as u64;
        match statement {
            Statement::Full | Statement::State => self.changed += written,
            Statement::Heartbeat => self.heartbeat += written,
        }
        for (ord, reason) in refusals {
            let Some(row) = usize::try_from(*ord).ok().and_then(|ord| chunk.get(ord)) else {
                continue;
            };
            let list = match reason.as_str() {
                "fenced" => &mut self.fenced,
                "stale" => &mut self.stale,
                _ => &mut self.missing,
            };
            list.push(row.write.fence.key.clone());
        }
    }
}

/// A write that is to be done, with the key it has in public.
#[derive(Clone)]
struct Row<'a> {
    write: &'a RowWrite,
    user_key: String,
}

/// A batch by statement, each row at most once in each, ordered by key.
struct Kinds<'a> {
    full: Vec<Row<'a>>,
    state: Vec<Row<'a>>,
    heartbeat: Vec<Row<'a>>,
}

impl<'a> Kinds<'a> {
    /// Of each row the last full write is done; then the last state, if it is newer; then the last
    /// heartbeat, if that is newer than both. The statements run in this order.
    fn sort(writes: &'a [RowWrite]) -> Self {
        let mut last: HashMap<&SessionKey, [Option<&'a RowWrite>; 3]> = HashMap::new();
        for write in writes {
            let [full, state, heartbeat] = last.entry(&write.fence.key).or_default();
            let newest = match write.content {
                RowContent::Full { .. } => full,
                RowContent::State(_) => state,
                RowContent::Heartbeat => heartbeat,
            };
            if newest.is_none_or(|newest| place(newest) < place(write)) {
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
                    && newest < Some(place(write))
                {
                    newest = Some(place(write));
                    list.push(Row {
                        write,
                        user_key: user_key.clone(),
                    });
                }
            }
        }
        kinds
    }
}

fn place(write: &RowWrite) -> (i64, i64) {
    (write.fence.epoch, write.seq)
}

#[derive(Debug, Clone, Copy)]
enum Statement {
    Full,
    State,
    Heartbeat,
}

impl Statement {
    /// Runs over one chunk, and answers the rows that were refused, by number, with the reason.
    async fn run(
        self,
        conn: &mut PgConnection,
        chunk: &[Row<'_>],
        worker: &str,
    ) -> Result<Vec<(i32, String)>, PgError> {
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
                let states: Vec<&SessionState> = chunk.iter().filter_map(Row::state).collect();
                query
                    .bind(worker)
                    .bind(column(chunk, |row| row.write.fence.key.user.as_str()))
                    .bind(column(&states, |state| state.status.as_str()))
                    .bind(column(&states, |state| {
                        state.last_error.as_deref().map(storable)
                    }))
                    .bind(column(&states, |state| state.attempts))
                    .bind(column(&states, |state| state.is_demo))
            }
        };
        let query = match self {
            Self::State | Self::Heartbeat => query,
            Self::Full => {
                let full: Vec<(bool, &AccountRow)> =
                    chunk.iter().filter_map(Row::account).collect();
                let decimals = |of: fn(&AccountRow) -> Option<Decimal>| {
                    column(&full, move |(_, account)| of(account).map(Numeric))
                };
                query
                    .bind(column(&full, |(connected, _)| *connected))
                    .bind(column(&full, |(_, account)| account.trader_login))
                    .bind(column(&full, |(_, account)| {
                        account.currency.as_deref().map(storable)
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
                    .bind(column(&full, |(_, account)| Json(&account.positions)))
                    .bind(column(&full, |(_, account)| Json(&account.orders)))
                    .bind(column(&full, |(_, account)| account.balance_version))
                    .bind(column(&full, |(_, account)| account.event_at))
            }
        };
        Ok(query.fetch_all(conn).await?)
    }
}

impl<'a> Row<'a> {
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

/// Positions or orders as the text of their JSON, written where the statement has its parameters.
struct Json<'a, T>(&'a [T]);

impl<T> sqlx::Type<Postgres> for Json<'_, T> {
    fn type_info() -> PgTypeInfo {
        <&str as sqlx::Type<Postgres>>::type_info()
    }
}

impl<T> PgHasArrayType for Json<'_, T> {
    fn array_type_info() -> PgTypeInfo {
        <&str as PgHasArrayType>::array_type_info()
    }
}

impl<T: ToJson> Encode<'_, Postgres> for Json<'_, T> {
    fn encode_by_ref(&self, buf: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        self.0.to_json(buf);
        Ok(IsNull::No)
    }
}

/// `$1`–`$6` are the same in all three: number, key, slot, fence; `$7` is the worker.
const WRITE_FULL: &str = concat!(
    include_str!("cache/write_full.sql"),
    include_str!("cache/tell_sessions.sql"),
    include_str!("cache/refused_upserts.sql"),
);
const WRITE_STATE: &str = concat!(
    include_str!("cache/write_state.sql"),
    include_str!("cache/tell_sessions.sql"),
    include_str!("cache/refused_upserts.sql"),
);
const WRITE_HEARTBEAT: &str = concat!(
    include_str!("cache/write_heartbeat.sql"),
    include_str!("cache/refused_updates.sql"),
);
