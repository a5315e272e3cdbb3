//! The members of the fleet: who is alive, how many sessions each has, and which slots are offered to whom.
//!
//! A worker is alive as long as its lock connection holds the lock of its number; the rows have the rest. The row of a
//! dead worker is ignored. A hand-over is a row: its giver inserts it, its taker marks it as ready, and the next claim of
//! the slot deletes it. Hand-overs fence nothing; the epoch alone does that.

use std::time::Duration;

use sqlx::postgres::PgConnection;

use super::claims::{SLOT_LOCK_CLASS, WORKER_LOCK_CLASS};
use super::error::PgError;
use super::from_row::from_row;
use super::listen::FLEET_CHANNEL;
use crate::domain::fleet::{Handover, Member};
use crate::domain::ids::Slot;

/// The fleet as the tables and locks show it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FleetView {
    /// The workers that are alive, the caller included, ordered by number.
    pub members: Vec<Member>,
    /// Hand-overs whose epoch is still that of the slot.
    pub handovers: Vec<Handover>,
    /// The numbers of dead workers that still have a row.
    pub dead: Vec<i32>,
}

/// A row of `fleet.members`.
struct MemberRow {
    number: i32,
    sessions: i32,
    sessions_max: i32,
    draining: bool,
    age_secs: f64,
    is_alive: bool,
}

from_row!(MemberRow {
    number,
    sessions,
    sessions_max,
    draining,
    age_secs,
    is_alive
});

/// A row of `fleet.handovers`.
struct HandoverRow {
    slot: i32,
    epoch: i64,
    giver: i32,
    taker: i32,
    sessions: i32,
    ready: bool,
    age_secs: f64,
}

from_row!(HandoverRow {
    slot,
    epoch,
    giver,
    taker,
    sessions,
    ready,
    age_secs
});

/// Reads the fleet. It takes one round trip for the workers, and one for the hand-overs.
///
/// # Errors
/// When Postgres does not reply as it should.
pub async fn load(conn: &mut PgConnection) -> Result<FleetView, PgError> {
    // The shared lock ends with the statement, so that readers do not disturb one another. A living worker holds its
    // own lock exclusively.
    let rows: Vec<MemberRow> = sqlx::query_as(
        "-- fleet.members
        select number, sessions, sessions_max, draining,
            extract(epoch from clock_timestamp() - joined_at)::float8 as age_secs,
            not pg_try_advisory_xact_lock_shared($1, number) as is_alive
        from bridge.workers order by number",
    )
    .bind(WORKER_LOCK_CLASS)
    .fetch_all(&mut *conn)
    .await?;
    let mut fleet = FleetView::default();
    for row in rows {
        if !row.is_alive {
            fleet.dead.push(row.number);
            continue;
        }
        fleet.members.push(Member {
            number: row.number,
            sessions: to_usize(row.sessions),
            sessions_max: to_usize(row.sessions_max),
            draining: row.draining,
            age: Duration::from_secs_f64(row.age_secs.max(0.0)),
        });
    }
    let rows: Vec<HandoverRow> = sqlx::query_as(
        "-- fleet.handovers
        select h.slot, h.epoch, h.giver, h.taker, h.sessions, h.ready,
            extract(epoch from clock_timestamp() - h.offered_at)::float8 as age_secs
        from bridge.handovers h
        join bridge.slots s on s.slot = h.slot and s.epoch = h.epoch
        order by h.slot",
    )
    .fetch_all(conn)
    .await?;
    fleet.handovers = rows
        .into_iter()
        .map(|row| Handover {
            slot: Slot(row.slot),
            epoch: row.epoch,
            giver: row.giver,
            taker: row.taker,
            sessions: to_usize(row.sessions),
            ready: row.ready,
            age: Duration::from_secs_f64(row.age_secs.max(0.0)),
        })
        .collect();
    Ok(fleet)
}

/// Stores how many sessions a worker has, how many it takes at most, and whether it is draining.
///
/// # Errors
/// When Postgres does not reply as it should.
pub async fn update_member(
    conn: &mut PgConnection,
    number: i32,
    sessions: usize,
    sessions_max: usize,
    draining: bool,
) -> Result<(), PgError> {
    sqlx::query(
        "-- fleet.update_member
        update bridge.workers set sessions = $2, sessions_max = $3, draining = $4,
            updated_at = clock_timestamp() where number = $1",
    )
    .bind(number)
    .bind(to_i32(sessions))
    .bind(to_i32(sessions_max))
    .bind(draining)
    .execute(conn)
    .await?;
    Ok(())
}

/// Deletes the rows of dead workers, except of those that turn out to be alive, and the hand-overs that lead to nobody or
/// have an old epoch.
///
/// # Errors
/// When Postgres does not reply as it should.
pub async fn delete_dead_members(conn: &mut PgConnection, dead: &[i32]) -> Result<(), PgError> {
    sqlx::query(
        "-- fleet.delete_dead_members
        delete from bridge.workers
        where number = any ($2) and pg_try_advisory_xact_lock_shared($1, number)",
    )
    .bind(WORKER_LOCK_CLASS)
    .bind(dead)
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "-- fleet.delete_dead_handovers
        delete from bridge.handovers h
        where not exists (
            select from bridge.slots s where s.slot = h.slot and s.epoch = h.epoch
        ) or not exists (select from bridge.workers w where w.number = h.taker)",
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Returns those of the slots that nobody holds now. Another worker may claim them first all the same.
///
/// # Errors
/// When Postgres does not reply as it should.
pub async fn free_slots(conn: &mut PgConnection, slots: &[Slot]) -> Result<Vec<Slot>, PgError> {
    let slots: Vec<i32> = slots.iter().map(|slot| slot.0).collect();
    let free: Vec<i32> = sqlx::query_scalar(
        "-- fleet.free_slots
        select number from unnest($2::int[]) as number
        where pg_try_advisory_xact_lock_shared($1, number) order by number",
    )
    .bind(SLOT_LOCK_CLASS)
    .bind(slots)
    .fetch_all(conn)
    .await?;
    Ok(free.into_iter().map(Slot).collect())
}

/// An offer of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Which slot.
    pub slot: Slot,
    /// The slot's epoch under the giver.
    pub epoch: i64,
    /// The number of the worker that should take it.
    pub taker: i32,
    /// How many sessions the slot has.
    pub sessions: usize,
}

/// Offers slots that the giver holds, and notifies their takers.
///
/// # Errors
/// When Postgres does not reply as it should.
pub async fn offer(conn: &mut PgConnection, giver: i32, offers: &[Offer]) -> Result<(), PgError> {
    let mut slots = Vec::with_capacity(offers.len());
    let mut epochs = Vec::with_capacity(offers.len());
    let mut takers = Vec::with_capacity(offers.len());
    let mut sessions = Vec::with_capacity(offers.len());
    for offer in offers {
        slots.push(offer.slot.0);
        epochs.push(offer.epoch);
        takers.push(offer.taker);
        sessions.push(to_i32(offer.sessions));
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

/// Marks the hand-overs of these slots as ready, and notifies their givers.
///
/// # Errors
/// When Postgres does not reply as it should.
pub async fn mark_ready(
    conn: &mut PgConnection,
    taker: i32,
    slots: &[Slot],
) -> Result<(), PgError> {
    let slots: Vec<i32> = slots.iter().map(|slot| slot.0).collect();
    sqlx::query(
        "-- fleet.mark_ready
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

/// Deletes the hand-overs of these slots, whose giver or taker the member is, and notifies the other side.
///
/// # Errors
/// When Postgres does not reply as it should.
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

fn to_usize(number: i32) -> usize {
    usize::try_from(number).unwrap_or(0)
}

fn to_i32(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
