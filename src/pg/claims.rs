//! Claims: session-level advisory locks on slots, all on one dedicated connection.
//!
//! A slot belongs to the worker that holds its lock. The slot's epoch rises when it changes hands, and fences off what
//! the previous owner still writes. The locks end with the connection, so a lost connection means lost claims: the server
//! releases the locks by itself once the worker is dead, cut off or hung. The connection's settings say how soon.
//!
//! The lock functions are re-entrant on the server, so this side remembers which locks are held and never asks for one
//! twice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use super::connect::{PgConfig, open, set, within};
use super::error::PgError;
use super::from_row::from_row;
use super::listen::{FLEET_CHANNEL, SLOT_CHANNEL};
use super::pooler::backend_pid;
use crate::domain::ids::Slot;

/// Class of the slots' advisory locks, whose object is the slot: "mahs".
pub(super) const SLOT_LOCK_CLASS: i32 = 0x6D61_6873;

/// Class of the workers' advisory locks, whose object is the worker's number: "mahw".
pub(super) const WORKER_LOCK_CLASS: i32 = 0x6D61_6877;

/// Class of the advisory locks that count the fleet's connections to cTrader: "mahc".
const PERMIT_LOCK_CLASS: i32 = 0x6D61_6863;

/// The server's parameters for the lock connection. With them the server drops a worker that is unreachable after 9 s,
/// and one that is reachable but sends nothing after 10 s.
/// The worker pings well within that, and gives up by itself before the server does.
const SETTINGS: [(&str, Duration); 7] = [
    ("tcp_keepalives_idle", Duration::from_secs(5)),
    ("tcp_keepalives_interval", Duration::from_secs(2)),
    ("tcp_user_timeout", Duration::from_secs(9)),
    ("idle_session_timeout", Duration::from_secs(10)),
    ("client_connection_check_interval", Duration::from_secs(2)),
    // Shorter than the caller's timeout, so that a claim that has to wait fails by itself and the connection stays
    // usable. It waits for statements of writers that lock the slot's row.
    ("statement_timeout", Duration::from_millis(1500)),
    ("lock_timeout", Duration::from_millis(700)),
];
const KEEPALIVES_COUNT: &str = "-- claims.keepalives\nset tcp_keepalives_count = 3";

/// The connection that holds a worker's claims.
///
/// # Cancel safety
/// After a call that is dropped before it returns (by a timeout, for example) it is not known which locks are held. From
/// then on every call fails with [`PgError::LockLost`]: drop the connection, and the server releases all locks.
#[derive(Debug)]
pub struct LockConnection {
    conn: PgConnection,
    backend_pid: i32,
    held: BTreeMap<Slot, i64>,
    permits: BTreeSet<i32>,
    /// The worker's number in the fleet, once it has joined.
    number: Option<i32>,
    /// True during a call, and for ever after a call that did not return.
    poisoned: bool,
}

/// The size of the server's lock table, which everybody who uses the cluster shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockCapacity {
    /// `max_locks_per_transaction`
    pub locks_per_transaction: i64,
    /// `max_connections` + `max_prepared_transactions`
    pub transactions: i64,
}

from_row!(LockCapacity {
    locks_per_transaction,
    transactions
});

impl LockCapacity {
    /// How many locks the table has room for at least.
    #[must_use]
    pub const fn locks(self) -> i64 {
        self.locks_per_transaction * self.transactions
    }
}

impl LockConnection {
    /// Connects, and sets the parameters with which the server detects a dead worker.
    ///
    /// # Errors
    /// When Postgres cannot be reached or does not accept the settings.
    pub async fn connect(config: &PgConfig) -> Result<Self, PgError> {
        let mut conn = open(config).await?;
        let backend_pid = within(config.reply_timeout(), async {
            set(&mut conn, &SETTINGS).await?;
            sqlx::raw_sql(KEEPALIVES_COUNT).execute(&mut conn).await?;
            backend_pid(&mut conn).await
        })
        .await?;
        Ok(Self {
            conn,
            backend_pid,
            held: BTreeMap::new(),
            permits: BTreeSet::new(),
            number: None,
            poisoned: false,
        })
    }

    /// Joins the fleet, and returns this worker's number. The worker counts as alive until the connection ends. The lock
    /// is taken before the row is written, so that a row without a lock always belongs to a dead worker.
    ///
    /// # Errors
    /// When Postgres does not reply as it should.
    pub async fn join(&mut self, worker: &str, sessions_max: usize) -> Result<i32, PgError> {
        if let Some(number) = self.number {
            return Ok(number);
        }
        self.begin_call()?;
        let number: i32 = sqlx::query_scalar(
            "-- claims.number
            select nextval(pg_get_serial_sequence('bridge.workers', 'number'))::int",
        )
        .fetch_one(&mut self.conn)
        .await?;
        try_lock(&mut self.conn, WORKER_LOCK_CLASS, &BTreeSet::from([number])).await?;
        sqlx::query(
            "-- claims.join
            insert into bridge.workers (number, worker_id, sessions_max) overriding system value
            values ($1, $2, $3)",
        )
        .bind(number)
        .bind(worker)
        .bind(i32::try_from(sessions_max).unwrap_or(i32::MAX))
        .execute(&mut self.conn)
        .await?;
        self.number = Some(number);
        self.end_call();
        Ok(number)
    }

    /// Returns the slots that are held, and their epochs.
    #[must_use]
    pub fn held(&self) -> &BTreeMap<Slot, i64> {
        &self.held
    }

    /// Claims those of the slots that are free, and returns them with their new epochs. Slots that are held already are
    /// not among them.
    ///
    /// # Errors
    /// Nothing new is claimed then. After [`PgError::LockLost`] nothing is held at all.
    pub async fn acquire(
        &mut self,
        worker: &str,
        slots: &[Slot],
    ) -> Result<Vec<(Slot, i64)>, PgError> {
        let wanted: BTreeSet<i32> = slots
            .iter()
            .filter(|slot| !self.held.contains_key(slot))
            .map(|slot| slot.0)
            .collect();
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        self.begin_call()?;
        let locked = match try_lock(&mut self.conn, SLOT_LOCK_CLASS, &wanted).await {
            Ok(locked) => locked,
            Err(err) => {
                // A statement that fails half-way (because the lock table is full) keeps the locks it took.
                let wanted: Vec<i32> = wanted.into_iter().collect();
                unlock_any(&mut self.conn, SLOT_LOCK_CLASS, &wanted).await?;
                self.end_call();
                return Err(err);
            }
        };
        if locked.is_empty() {
            self.end_call();
            return Ok(Vec::new());
        }
        let claimed = match begin_epochs(&mut self.conn, worker, &locked).await {
            Ok(claimed) if claimed.len() == locked.len() => claimed,
            Ok(_) => {
                unlock(&mut self.conn, SLOT_LOCK_CLASS, &locked).await?;
                self.end_call();
                return Err(PgError::UnexpectedValue {
                    table: "slots",
                    what: "no row for a slot",
                });
            }
            Err(err) => {
                // It also fails if the connection is lost; then there is nothing left to release.
                unlock(&mut self.conn, SLOT_LOCK_CLASS, &locked).await?;
                self.end_call();
                return Err(err);
            }
        };
        self.held.extend(claimed.iter().copied());
        self.end_call();
        Ok(claimed)
    }

    /// Releases those of the slots that are held.
    ///
    /// # Errors
    /// Either all are held as before, or the connection is lost and later calls fail with [`PgError::LockLost`].
    pub async fn release(&mut self, slots: &[Slot]) -> Result<(), PgError> {
        let ours: BTreeMap<Slot, i64> = slots
            .iter()
            .filter_map(|slot| self.held.get(slot).map(|epoch| (*slot, *epoch)))
            .collect();
        if ours.is_empty() {
            return Ok(());
        }
        self.begin_call()?;
        if let Err(err) = clear_owner(&mut self.conn, &ours).await {
            // If the connection is still alive, nothing was released.
            backend_pid(&mut self.conn).await?;
            self.end_call();
            return Err(err);
        }
        let locks: Vec<i32> = ours.keys().map(|slot| slot.0).collect();
        unlock(&mut self.conn, SLOT_LOCK_CLASS, &locks).await?;
        self.held.retain(|slot, _| !ours.contains_key(slot));
        notify_free(&mut self.conn, &locks).await?;
        self.end_call();
        Ok(())
    }

    /// Acquires one of the fleet's permits for a connection to cTrader, which have the numbers 1 to `limit`. Returns
    /// `None` when all are taken. Like a claim, a permit ends with this connection.
    ///
    /// # Errors
    /// When Postgres does not reply as it should.
    pub async fn acquire_permit(&mut self, limit: u32) -> Result<Option<i32>, PgError> {
        let limit = i32::try_from(limit).unwrap_or(i32::MAX);
        self.begin_call()?;
        let mut taken = None;
        for number in (1..=limit).filter(|number| !self.permits.contains(number)) {
            let got =
                try_lock(&mut self.conn, PERMIT_LOCK_CLASS, &BTreeSet::from([number])).await?;
            if !got.is_empty() {
                taken = Some(number);
                break;
            }
        }
        self.permits.extend(taken);
        self.end_call();
        Ok(taken)
    }

    /// Releases a permit.
    ///
    /// # Errors
    /// When Postgres does not reply as it should.
    pub async fn release_permit(&mut self, number: i32) -> Result<(), PgError> {
        if !self.permits.contains(&number) {
            return Ok(());
        }
        self.begin_call()?;
        unlock(&mut self.conn, PERMIT_LOCK_CLASS, &[number]).await?;
        self.permits.remove(&number);
        self.end_call();
        Ok(())
    }

    /// Proves that the connection is alive and still has the backend that holds the locks, and resets the server's idle
    /// timer. It takes one round trip; the caller limits the wait.
    ///
    /// # Errors
    /// [`PgError::LockLost`] when another backend replies: the claims are lost.
    pub async fn ping(&mut self) -> Result<(), PgError> {
        self.begin_call()?;
        if backend_pid(&mut self.conn).await? != self.backend_pid {
            return Err(PgError::LockLost);
        }
        self.end_call();
        Ok(())
    }

    /// Returns how many locks the server has room for.
    ///
    /// # Errors
    /// When Postgres does not reply as it should.
    pub async fn capacity(&mut self) -> Result<LockCapacity, PgError> {
        self.begin_call()?;
        let capacity = capacity(&mut self.conn).await?;
        self.end_call();
        Ok(capacity)
    }

    /// Closes the connection, which ends every claim.
    ///
    /// # Errors
    /// When the connection cannot be closed in an orderly way; the claims end all the same.
    pub async fn close(mut self) -> Result<(), PgError> {
        if let Some(number) = self.number {
            sqlx::query("-- claims.leave\ndelete from bridge.workers where number = $1")
                .bind(number)
                .execute(&mut self.conn)
                .await?;
        }
        // Not left to the server, which sees the end of a connection a moment after it.
        sqlx::query("-- claims.unlock_all\nselect pg_advisory_unlock_all()")
            .execute(&mut self.conn)
            .await?;
        Ok(self.conn.close().await?)
    }

    fn begin_call(&mut self) -> Result<(), PgError> {
        if self.poisoned {
            return Err(PgError::LockLost);
        }
        self.poisoned = true;
        Ok(())
    }

    fn end_call(&mut self) {
        self.poisoned = false;
    }
}

/// Returns how many locks a server has room for.
pub(super) async fn capacity(conn: &mut PgConnection) -> Result<LockCapacity, PgError> {
    Ok(sqlx::query_as(
        "-- claims.capacity
        select current_setting('max_locks_per_transaction')::bigint as locks_per_transaction,
            current_setting('max_connections')::bigint
                + current_setting('max_prepared_transactions')::bigint as transactions",
    )
    .fetch_one(conn)
    .await?)
}

/// Takes those of the locks that are free, and returns their numbers. Lock and epoch take two statements instead of one:
/// in a join the planner might call the lock function more than once for a slot.
async fn try_lock(
    conn: &mut PgConnection,
    class: i32,
    numbers: &BTreeSet<i32>,
) -> Result<Vec<i32>, PgError> {
    let numbers: Vec<i32> = numbers.iter().copied().collect();
    Ok(sqlx::query_scalar(
        "-- claims.try_lock
        select number from unnest($2::int[]) as number where pg_try_advisory_lock($1, number)",
    )
    .bind(class)
    .bind(numbers)
    .fetch_all(conn)
    .await?)
}

/// A row of [`begin_epochs`].
struct ClaimedSlot {
    slot: i32,
    epoch: i64,
}

from_row!(ClaimedSlot { slot, epoch });

async fn begin_epochs(
    conn: &mut PgConnection,
    worker: &str,
    slots: &[i32],
) -> Result<Vec<(Slot, i64)>, PgError> {
    let rows: Vec<ClaimedSlot> = sqlx::query_as(
        "-- claims.begin_epochs
        with claimed as (
            update bridge.slots set epoch = epoch + 1, worker_id = $1, claimed_at = clock_timestamp()
            where slot = any ($2) returning slot, epoch
        ), handed_over as (
            delete from bridge.handovers where slot = any ($2)
        )
        select slot, epoch from claimed",
    )
    .bind(worker)
    .bind(slots)
    .fetch_all(conn)
    .await?;
    let mut claimed: Vec<_> = rows
        .into_iter()
        .map(|row| (Slot(row.slot), row.epoch))
        .collect();
    claimed.sort_unstable();
    Ok(claimed)
}

/// Notifies the takers of these slots, and everybody else, that they are free.
async fn notify_free(conn: &mut PgConnection, slots: &[i32]) -> Result<(), PgError> {
    sqlx::query(
        "-- claims.notify_free
        select pg_notify($3, taker::text) from (
            select distinct taker from bridge.handovers where slot = any ($1)
        ) as takers
        union all
        select pg_notify($2, slot::text) from unnest($1::int[]) as slot",
    )
    .bind(slots)
    .bind(SLOT_CHANNEL)
    .bind(FLEET_CHANNEL)
    .execute(conn)
    .await?;
    Ok(())
}

async fn clear_owner(conn: &mut PgConnection, ours: &BTreeMap<Slot, i64>) -> Result<(), PgError> {
    let (slots, epochs): (Vec<i32>, Vec<i64>) =
        ours.iter().map(|(slot, epoch)| (slot.0, *epoch)).unzip();
    sqlx::query(
        "-- claims.clear_owner
        update bridge.slots s set worker_id = null
        from unnest($1::int[], $2::bigint[]) as ours (slot, epoch)
        where s.slot = ours.slot and s.epoch = ours.epoch",
    )
    .bind(slots)
    .bind(epochs)
    .execute(conn)
    .await?;
    Ok(())
}

/// Unlocks those that are locked, and returns how many were.
async fn unlock_any(
    conn: &mut PgConnection,
    class: i32,
    numbers: &[i32],
) -> Result<usize, PgError> {
    let unlocked: Vec<bool> = sqlx::query_scalar(
        "-- claims.unlock
        select pg_advisory_unlock($1, number) from unnest($2::int[]) as number",
    )
    .bind(class)
    .bind(numbers)
    .fetch_all(conn)
    .await?;
    Ok(unlocked.into_iter().filter(|done| *done).count())
}

async fn unlock(conn: &mut PgConnection, space: i32, numbers: &[i32]) -> Result<(), PgError> {
    if unlock_any(conn, space, numbers).await? == numbers.len() {
        Ok(())
    } else {
        // The server does not know our locks: this is not the backend that took them.
        Err(PgError::LockLost)
    }
}
