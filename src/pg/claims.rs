//! Claims: session-level advisory locks on slots, all on one dedicated connection.
//!
//! A slot belongs to whoever holds its lock; its epoch rises when it changes hands, and fences what the
//! previous owner still writes. The locks end with the connection, so losing it is losing the claims:
//! the server lets go of them by itself once the worker is dead, cut off or hung, and the settings of
//! the connection say how soon.
//!
//! The lock calls are re-entrant on the server, so what is held is remembered here and never asked for
//! twice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use super::PgError;
use super::connect::{PgConfig, open, set, within};
use super::listen::{CHANNEL, FLEET_CHANNEL};
use super::pooler::backend;
use crate::domain::ids::Slot;

/// First half of the key of a slot's lock, whose second half is the slot: "mahs".
pub(super) const SLOT_SPACE: i32 = 0x6D61_6873;

/// First half of the key of a worker's lock, whose second half is its number: "mahw".
pub(super) const WORKER_SPACE: i32 = 0x6D61_6877;

/// First half of the keys of the locks that count the fleet's connections to cTrader: "mahc".
const PERMIT_SPACE: i32 = 0x6D61_6863;

/// What the server is told about the lock connection. It finds a dead peer in 5 + 3 × 2 s when idle and
/// in 9 s when it has sent something; one that is alive but silent is thrown out after 10 s. The worker
/// pings well within that, and gives up by itself before the server does.
const SETTINGS: [(&str, Duration); 7] = [
    ("tcp_keepalives_idle", Duration::from_secs(5)),
    ("tcp_keepalives_interval", Duration::from_secs(2)),
    ("tcp_user_timeout", Duration::from_secs(9)),
    ("idle_session_timeout", Duration::from_secs(10)),
    ("client_connection_check_interval", Duration::from_secs(2)),
    // Shorter than the caller's patience, so that a claim that stands in line fails by itself and costs
    // no other. What it waits for is a writer's statement that tells a state.
    ("statement_timeout", Duration::from_millis(1500)),
    ("lock_timeout", Duration::from_millis(700)),
];
const KEEPALIVES_COUNT: &str = "-- claims.keepalives\nset tcp_keepalives_count = 3";

/// The connection that holds a worker's claims.
///
/// # Cancel safety
/// A call that is given up in the middle (by a timeout, say) leaves it open which locks are held. From
/// then on every call fails with [`PgError::LockLost`]: drop the connection, and the server frees all.
#[derive(Debug)]
pub struct LockConnection {
    conn: PgConnection,
    backend: i32,
    held: BTreeMap<Slot, i64>,
    permits: BTreeSet<i32>,
    /// As a member of the fleet, once it has joined.
    number: Option<i32>,
    /// True while a call is under way, and for ever after one that did not come to its end.
    in_doubt: bool,
}

/// What the server's one lock table is laid out for, shared by all that use the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// `max_locks_per_transaction`
    pub locks_per_transaction: i64,
    /// `max_connections` + `max_prepared_transactions`
    pub transactions: i64,
}

impl Capacity {
    /// Locks that the table surely has room for.
    #[must_use]
    pub const fn locks(self) -> i64 {
        self.locks_per_transaction * self.transactions
    }
}

impl LockConnection {
    /// Connects, and has the server watch over the connection.
    ///
    /// # Errors
    /// When Postgres can't be reached or does not take the settings.
    pub async fn connect(config: &PgConfig) -> Result<Self, PgError> {
        let mut conn = open(config).await?;
        let backend = within(config.reply_timeout(), async {
            set(&mut conn, &SETTINGS).await?;
            sqlx::raw_sql(KEEPALIVES_COUNT).execute(&mut conn).await?;
            backend(&mut conn).await
        })
        .await?;
        Ok(Self {
            conn,
            backend,
            held: BTreeMap::new(),
            permits: BTreeSet::new(),
            number: None,
            in_doubt: false,
        })
    }

    /// Joins the fleet: from now until the connection ends this worker counts as alive, under the number
    /// that is answered. The lock comes before the row, so that nobody finds a row of somebody dead.
    ///
    /// # Errors
    /// When Postgres does not answer as it should.
    pub async fn join(&mut self, worker: &str, sessions_max: usize) -> Result<i32, PgError> {
        if let Some(number) = self.number {
            return Ok(number);
        }
        self.begin()?;
        let number: i32 = sqlx::query_scalar(
            "-- claims.number
            select nextval(pg_get_serial_sequence('bridge.workers', 'number'))::int",
        )
        .fetch_one(&mut self.conn)
        .await?;
        try_lock(&mut self.conn, WORKER_SPACE, &BTreeSet::from([number])).await?;
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
        self.end();
        Ok(number)
    }

    /// What is held, and since which epoch.
    #[must_use]
    pub fn held(&self) -> &BTreeMap<Slot, i64> {
        &self.held
    }

    /// Claims those of the slots that are free, and answers them with their new epochs. A slot that is
    /// held already is not among them.
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
        self.begin()?;
        let locked = match try_lock(&mut self.conn, SLOT_SPACE, &wanted).await {
            Ok(locked) => locked,
            Err(err) => {
                // A statement that fails half-way (the lock table is full) keeps what it got.
                let wanted: Vec<i32> = wanted.into_iter().collect();
                unlock_any(&mut self.conn, SLOT_SPACE, &wanted).await?;
                self.end();
                return Err(err);
            }
        };
        if locked.is_empty() {
            self.end();
            return Ok(Vec::new());
        }
        let claimed = match begin_epochs(&mut self.conn, worker, &locked).await {
            Ok(claimed) if claimed.len() == locked.len() => claimed,
            Ok(_) => {
                unlock(&mut self.conn, SLOT_SPACE, &locked).await?;
                self.end();
                return Err(PgError::Foreign {
                    table: "slots",
                    what: "no row for a slot",
                });
            }
            Err(err) => {
                // Fails too when the connection is lost; then there is nothing left to let go of.
                unlock(&mut self.conn, SLOT_SPACE, &locked).await?;
                self.end();
                return Err(err);
            }
        };
        self.held.extend(claimed.iter().copied());
        self.end();
        Ok(claimed)
    }

    /// Lets go of those of the slots that are held.
    ///
    /// # Errors
    /// Either all is held as before, or the connection is lost and [`PgError::LockLost`] follows.
    pub async fn release(&mut self, slots: &[Slot]) -> Result<(), PgError> {
        let ours: BTreeMap<Slot, i64> = slots
            .iter()
            .filter_map(|slot| self.held.get(slot).map(|epoch| (*slot, *epoch)))
            .collect();
        if ours.is_empty() {
            return Ok(());
        }
        self.begin()?;
        if let Err(err) = clear_owner(&mut self.conn, &ours).await {
            // Answers whether the connection is still there; if so, nothing was let go of.
            backend(&mut self.conn).await?;
            self.end();
            return Err(err);
        }
        let locks: Vec<i32> = ours.keys().map(|slot| slot.0).collect();
        unlock(&mut self.conn, SLOT_SPACE, &locks).await?;
        self.held.retain(|slot, _| !ours.contains_key(slot));
        notify_free(&mut self.conn, &locks).await?;
        self.end();
        Ok(())
    }

    /// Takes one of the fleet's numbered permits for a connection to cTrader, 1 to `limit`; `None` when
    /// all are taken. Like a claim it ends with this connection.
    ///
    /// # Errors
    /// When Postgres does not answer as it should.
    pub async fn take_permit(&mut self, limit: u32) -> Result<Option<i32>, PgError> {
        let limit = i32::try_from(limit).unwrap_or(i32::MAX);
        self.begin()?;
        let mut taken = None;
        for number in (1..=limit).filter(|number| !self.permits.contains(number)) {
            let got = try_lock(&mut self.conn, PERMIT_SPACE, &BTreeSet::from([number])).await?;
            if !got.is_empty() {
                taken = Some(number);
                break;
            }
        }
        self.permits.extend(taken);
        self.end();
        Ok(taken)
    }

    /// Gives a permit back.
    ///
    /// # Errors
    /// When Postgres does not answer as it should.
    pub async fn return_permit(&mut self, number: i32) -> Result<(), PgError> {
        if !self.permits.contains(&number) {
            return Ok(());
        }
        self.begin()?;
        unlock(&mut self.conn, PERMIT_SPACE, &[number]).await?;
        self.permits.remove(&number);
        self.end();
        Ok(())
    }

    /// Proves that the session lives and is the one that took the locks, and resets the server's idle
    /// timer. One round trip; how long to wait for it is the caller's to say.
    ///
    /// # Errors
    /// [`PgError::LockLost`] when another backend answers: the claims are gone.
    pub async fn ping(&mut self) -> Result<(), PgError> {
        self.begin()?;
        if backend(&mut self.conn).await? != self.backend {
            return Err(PgError::LockLost);
        }
        self.end();
        Ok(())
    }

    /// How many locks the server has room for.
    ///
    /// # Errors
    /// When Postgres does not answer as it should.
    pub async fn capacity(&mut self) -> Result<Capacity, PgError> {
        self.begin()?;
        let capacity = capacity(&mut self.conn).await?;
        self.end();
        Ok(capacity)
    }

    /// Ends the session, and with it every claim.
    ///
    /// # Errors
    /// When the farewell can't be sent; the claims end all the same.
    pub async fn close(mut self) -> Result<(), PgError> {
        if let Some(number) = self.number {
            sqlx::query("-- claims.leave\ndelete from bridge.workers where number = $1")
                .bind(number)
                .execute(&mut self.conn)
                .await?;
        }
        Ok(self.conn.close().await?)
    }

    fn begin(&mut self) -> Result<(), PgError> {
        if self.in_doubt {
            return Err(PgError::LockLost);
        }
        self.in_doubt = true;
        Ok(())
    }

    fn end(&mut self) {
        self.in_doubt = false;
    }
}

/// How many locks a server has room for.
pub(super) async fn capacity(conn: &mut PgConnection) -> Result<Capacity, PgError> {
    let (locks_per_transaction, transactions) = sqlx::query_as(
        "-- claims.capacity
        select current_setting('max_locks_per_transaction')::bigint,
            current_setting('max_connections')::bigint
                + current_setting('max_prepared_transactions')::bigint",
    )
    .fetch_one(conn)
    .await?;
    Ok(Capacity {
        locks_per_transaction,
        transactions,
    })
}

/// Two statements instead of one for lock and epoch: in a join the planner might call the lock function
/// more than once for a slot.
async fn try_lock(
    conn: &mut PgConnection,
    space: i32,
    numbers: &BTreeSet<i32>,
) -> Result<Vec<i32>, PgError> {
    let numbers: Vec<i32> = numbers.iter().copied().collect();
    Ok(sqlx::query_scalar(
        "-- claims.try_lock
        select number from unnest($2::int[]) as number where pg_try_advisory_lock($1, number)",
    )
    .bind(space)
    .bind(numbers)
    .fetch_all(conn)
    .await?)
}

async fn begin_epochs(
    conn: &mut PgConnection,
    worker: &str,
    slots: &[i32],
) -> Result<Vec<(Slot, i64)>, PgError> {
    let rows: Vec<(i32, i64)> = sqlx::query_as(
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
        .map(|(slot, epoch)| (Slot(slot), epoch))
        .collect();
    claimed.sort_unstable();
    Ok(claimed)
}

/// Tells who waits for these slots, and everybody else, that they are free.
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
    .bind(CHANNEL)
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

/// Unlocks those that are locked, and answers how many were.
async fn unlock_any(
    conn: &mut PgConnection,
    space: i32,
    numbers: &[i32],
) -> Result<usize, PgError> {
    let unlocked: Vec<bool> = sqlx::query_scalar(
        "-- claims.unlock
        select pg_advisory_unlock($1, number) from unnest($2::int[]) as number",
    )
    .bind(space)
    .bind(numbers)
    .fetch_all(conn)
    .await?;
    Ok(unlocked.into_iter().filter(|done| *done).count())
}

async fn unlock(conn: &mut PgConnection, space: i32, numbers: &[i32]) -> Result<(), PgError> {
    if unlock_any(conn, space, numbers).await? == numbers.len() {
        Ok(())
    } else {
        // The server does not know our locks: this is not the session that took them.
        Err(PgError::LockLost)
    }
}
