//! The fleet as its members see it: who is alive, how much each has, and which slots are offered to whom.
//!
//! A worker is alive as long as its lock connection holds the lock of its number; the rows say the rest. A
//! row of a dead worker counts for nothing. A hand-over is a row that its giver makes, its taker marks as
//! ready, and the change of hands deletes; none of it fences anything, which the epoch alone does.

use std::time::Duration;

use sqlx::postgres::PgConnection;

use super::PgError;
use super::claims::{SLOT_SPACE, WORKER_SPACE};
use super::listen::FLEET_CHANNEL;
use crate::domain::fleet::{Handover, Member};
use crate::domain::ids::Slot;

/// What can be seen of the fleet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fleet {
    /// Those who are alive, whoever looks among them, by number.
    pub members: Vec<Member>,
    /// Hand-overs whose giver still has the slot by the epoch, or had it last.
    pub handovers: Vec<Handover>,
    /// Rows of workers that are dead.
    pub dead: Vec<i32>,
}

/// Looks at the fleet. One round trip for the workers, and one for the hand-overs.
///
/// # Errors
/// When Postgres does not answer as it should.
pub async fn look(conn: &mut PgConnection) -> Result<Fleet, PgError> {
    // A shared lock that ends with the statement: those who look do not disturb one another, and a
    // living worker holds its own exclusively.
    let rows: Vec<(i32, i32, i32, bool, f64, bool)> = sqlx::query_as(
        "-- fleet.members
        select number, sessions, sessions_max, draining,
            extract(epoch from clock_timestamp() - joined_at)::float8,
            not pg_try_advisory_xact_lock_shared($1, number)
        from bridge.workers order by number",
    )
    .bind(WORKER_SPACE)
    .fetch_all(&mut *conn)
    .await?;
    let mut fleet = Fleet::default();
    for (number, sessions, sessions_max, draining, age, alive) in rows {
        if !alive {
            fleet.dead.push(number);
            continue;
        }
        fleet.members.push(Member {
            number,
            sessions: count(sessions),
            sessions_max: count(sessions_max),
            draining,
            age: Duration::from_secs_f64(age.max(0.0)),
        });
    }
    let rows: Vec<(i32, i64, i32, i32, i32, bool, f64)> = sqlx::query_as(
        "-- fleet.handovers
        select h.slot, h.epoch, h.giver, h.taker, h.sessions, h.ready,
            extract(epoch from clock_timestamp() - h.offered_at)::float8
        from bridge.handovers h
        join bridge.slots s on s.slot = h.slot and s.epoch = h.epoch
        order by h.slot",
    )
    .fetch_all(conn)
    .await?;
    fleet.handovers = rows
        .into_iter()
        .map(
            |(slot, epoch, giver, taker, sessions, ready, age)| Handover {
                slot: Slot(slot),
                epoch,
                giver,
                taker,
                sessions: count(sessions),
                ready,
                age: Duration::from_secs_f64(age.max(0.0)),
            },
        )
        .collect();
    Ok(fleet)
}

/// Says how many sessions a worker has, how many it takes, and whether it is on its way out.
///
/// # Errors
/// When Postgres does not answer as it should.
pub async fn report(
    conn: &mut PgConnection,
    number: i32,
    sessions: usize,
    sessions_max: usize,
    draining: bool,
) -> Result<(), PgError> {
    sqlx::query(
        "-- fleet.report
        update bridge.workers set sessions = $2, sessions_max = $3, draining = $4,
            updated_at = clock_timestamp() where number = $1",
    )
    .bind(number)
    .bind(amount(sessions))
    .bind(amount(sessions_max))
    .bind(draining)
    .execute(conn)
    .await?;
    Ok(())
}

/// Deletes the rows of dead workers, unless one of them is not dead after all.
///
/// # Errors
/// When Postgres does not answer as it should.
pub async fn bury(conn: &mut PgConnection, dead: &[i32]) -> Result<(), PgError> {
    sqlx::query(
        "-- fleet.bury
        delete from bridge.workers
        where number = any ($2) and pg_try_advisory_xact_lock_shared($1, number)",
    )
    .bind(WORKER_SPACE)
    .bind(dead)
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "-- fleet.bury_handovers
        delete from bridge.handovers h
        where not exists (
            select from bridge.slots s where s.slot = h.slot and s.epoch = h.epoch
        ) or not exists (select from bridge.workers w where w.number = h.taker)",
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Those of the slots that nobody holds now. Somebody else may be faster all the same.
///
/// # Errors
/// When Postgres does not answer as it should.
pub async fn free(conn: &mut PgConnection, slots: &[Slot]) -> Result<Vec<Slot>, PgError> {
    let slots: Vec<i32> = slots.iter().map(|slot| slot.0).collect();
    let free: Vec<i32> = sqlx::query_scalar(
        "-- fleet.free
        select number from unnest($2::int[]) as number
        where pg_try_advisory_xact_lock_shared($1, number) order by number",
    )
    .bind(SLOT_SPACE)
    .bind(slots)
    .fetch_all(conn)
    .await?;
    Ok(free.into_iter().map(Slot).collect())
}

/// Offers slots that the giver holds: slot, its epoch, the taker, and how many sessions.
///
/// # Errors
/// When Postgres does not answer as it should.
pub async fn offer(
    conn: &mut PgConnection,
    giver: i32,
    offers: &[(Slot, i64, i32, usize)],
) -> Result<(), PgError> {
    let mut slots = Vec::with_capacity(offers.len());
    let mut epochs = Vec::with_capacity(offers.len());
    let mut takers = Vec::with_capacity(offers.len());
    let mut sessions = Vec::with_capacity(offers.len());
    for (slot, epoch, taker, count) in offers {
        slots.push(slot.0);
        epochs.push(*epoch);
        takers.push(*taker);
        sessions.push(amount(*count));
    }
    sqlx::query(
        "-- fleet.offer
        with offered as (
            insert into bridge.handovers (slot, epoch, giver, taker, sessions)
            select o.slot, o.epoch, $1, o.taker, o.sessions
            from unnest($2::int[], $3::bigint[], $4::int[], $5::int[]) as o (slot, epoch, taker, sessions)
            join bridge.slots s on s.slot = o.slot and s.epoch = o.epoch
            on conflict (slot) do update set epoch = excluded.epoch, giver = excluded.giver,
                taker = excluded.taker, sessions = excluded.sessions, ready = false,
                offered_at = clock_timestamp()
            returning taker
        )
        select pg_notify($6, taker::text) from offered group by taker",
    )
    .bind(giver)
    .bind(slots)
    .bind(epochs)
    .bind(takers)
    .bind(sessions)
    .bind(FLEET_CHANNEL)
    .execute(conn)
    .await?;
    Ok(())
}

/// The taker is ready for these.
///
/// # Errors
/// When Postgres does not answer as it should.
pub async fn ready(conn: &mut PgConnection, taker: i32, slots: &[Slot]) -> Result<(), PgError> {
    let slots: Vec<i32> = slots.iter().map(|slot| slot.0).collect();
    sqlx::query(
        "-- fleet.ready
        with ready as (
            update bridge.handovers set ready = true
            where taker = $1 and slot = any ($2) and not ready returning giver
        )
        select pg_notify($3, giver::text) from ready group by giver",
    )
    .bind(taker)
    .bind(slots)
    .bind(FLEET_CHANNEL)
    .execute(conn)
    .await?;
    Ok(())
}

/// One of the two thinks better of these.
///
/// # Errors
/// When Postgres does not answer as it should.
pub async fn withdraw(conn: &mut PgConnection, member: i32, slots: &[Slot]) -> Result<(), PgError> {
    let slots: Vec<i32> = slots.iter().map(|slot| slot.0).collect();
    sqlx::query(
        "-- fleet.withdraw
        with gone as (
            delete from bridge.handovers
            where (giver = $1 or taker = $1) and slot = any ($2)
            returning case when giver = $1 then taker else giver end as other
        )
        select pg_notify($3, other::text) from gone group by other",
    )
    .bind(member)
    .bind(slots)
    .bind(FLEET_CHANNEL)
    .execute(conn)
    .await?;
    Ok(())
}

fn count(number: i32) -> usize {
    usize::try_from(number).unwrap_or(0)
}

fn amount(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
