//! How the fleet shares its sessions: which free slots a worker claims, and which slots it offers to whom. The functions
//! are pure: they take what the tables have, and return what to do.
//!
//! Every worker decides for itself by what it sees, and two may see different things. So nothing in here
//! keeps two workers from one slot: the lock and the epoch do. These functions make the workers agree in the end,
//! and keep them from handing slots back and forth.

use std::collections::BTreeMap;
use std::time::Duration;

use super::ids::Slot;

/// Sessions that may be on their way to one worker: enough for its request budget to be busy all the time,
/// and few enough that the first slots change hands soon.
pub const INCOMING_MAX: usize = 100;

/// A younger worker is offered nothing: it may end the next moment.
pub const TAKER_AGE_MIN: Duration = Duration::from_secs(2);

/// A hand-over that takes longer has failed; any worker may claim the slot once it is free.
pub const HANDOVER_TIMEOUT: Duration = Duration::from_secs(45);

/// A worker that is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Its number. It has another number for each of its lock connections.
    pub number: i32,
    /// How many sessions the slots have that it holds.
    pub sessions: usize,
    /// How many sessions it takes at most; 0 while it can run none.
    pub sessions_max: usize,
    /// Whether it is draining.
    pub draining: bool,
    /// For how long it has been a member.
    pub age: Duration,
}

impl Member {
    const fn accepts_sessions(&self) -> bool {
        !self.draining && self.sessions_max > 0
    }
}

/// A slot on its way from one worker to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handover {
    /// Which.
    pub slot: Slot,
    /// The giver's.
    pub epoch: i64,
    /// Who has it.
    pub giver: i32,
    /// Who shall have it.
    pub taker: i32,
    /// How many sessions.
    pub sessions: usize,
    /// Whether all of them that can stream do so at the taker.
    pub ready: bool,
    /// For how long it has been under way.
    pub age: Duration,
}

/// Returns the share of each worker that accepts sessions, for this total of sessions.
#[must_use]
pub fn shares(members: &[Member], total: usize) -> BTreeMap<i32, usize> {
    let mut accepting: Vec<&Member> = members
        .iter()
        .filter(|member| member.accepts_sessions())
        .collect();
    // Workers with a small maximum come first: the others share what those cannot take.
    accepting.sort_unstable_by_key(|member| (member.sessions_max, member.number));
    let (mut left, mut count) = (total, accepting.len());
    let mut shares = BTreeMap::new();
    for member in accepting {
        let share = left.div_ceil(count).min(member.sessions_max);
        left -= share;
        count -= 1;
        shares.insert(member.number, share);
    }
    shares
}

/// A slot with work that nobody holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FreeSlot {
    /// Which.
    pub slot: Slot,
    /// How many sessions.
    pub sessions: usize,
    /// Whether it was free at the last poll too, so that the worker whose share it was in did not claim it.
    pub unclaimed_since_last_poll: bool,
}

/// Returns which of the free slots a worker claims now: up to its share at once, and those that nobody claimed since the
/// last poll as long as there is room.
#[must_use]
pub fn claims(me: &Member, share: usize, free: &[FreeSlot]) -> Vec<Slot> {
    if !me.accepts_sessions() {
        return Vec::new();
    }
    // Each worker has an order of its own, so that workers that poll at the same time rarely choose the same slots.
    let mut free: Vec<&FreeSlot> = free.iter().collect();
    free.sort_unstable_by_key(|free| order_for_worker(free.slot, me.number));
    let mut sessions = me.sessions;
    let mut claims = Vec::new();
    for FreeSlot {
        slot,
        sessions: more,
        unclaimed_since_last_poll,
    } in free
    {
        // A slot with more sessions than any worker takes is claimed by a worker that has none.
        let fits = sessions + more <= me.sessions_max || sessions == 0;
        if fits && (*unclaimed_since_last_poll || sessions < share) {
            sessions += more;
            claims.push(*slot);
        }
    }
    claims
}

/// Whether this worker may claim a free slot: not if another worker that is alive is about to take it over.
#[must_use]
pub fn is_unreserved(slot: Slot, me: i32, members: &[Member], handovers: &[Handover]) -> bool {
    handovers
        .iter()
        .filter(|handover| handover.slot == slot && handover.taker != me)
        .all(|handover| {
            handover.age >= HANDOVER_TIMEOUT
                || !members.iter().any(|member| member.number == handover.taker)
        })
}

/// Returns what a worker offers to whom, as slot, taker and sessions: everything when it drains, otherwise what it has
/// beyond its share to those below theirs. `mine` are its slots that have sessions.
#[must_use]
pub fn offers(
    me: &Member,
    members: &[Member],
    mine: &[(Slot, usize)],
    handovers: &[Handover],
    total: usize,
) -> Vec<(Slot, i32, usize)> {
    let shares = shares(members, total);
    let mut takers: Vec<Taker> = members
        .iter()
        .filter(|member| member.number != me.number && member.accepts_sessions())
        .filter(|member| me.draining || member.age >= TAKER_AGE_MIN)
        .map(|member| Taker::of(member, &shares, handovers))
        .collect();
    let leaving: usize = handovers
        .iter()
        .filter(|handover| handover.giver == me.number)
        .map(|handover| handover.sessions)
        .sum();
    let mut slots: Vec<(Slot, usize)> = mine
        .iter()
        .filter(|(slot, _)| !handovers.iter().any(|known| known.slot == *slot))
        .copied()
        .collect();
    // The largest first, while there is most room for them.
    slots.sort_unstable_by_key(|(slot, sessions)| (std::cmp::Reverse(*sessions), *slot));
    let mut offers = Vec::new();
    if me.draining {
        for (slot, sessions) in slots {
            if let Some(taker) = least(&mut takers, |taker| taker.room() >= sessions) {
                taker.incoming += sessions;
                offers.push((slot, taker.number, sessions));
            }
        }
        return offers;
    }
    let share = shares.get(&me.number).copied().unwrap_or(0);
    let mut excess = me.sessions.saturating_sub(leaving).saturating_sub(share);
    // A small excess is not worth a hand-over, unless one is under way already.
    let tolerated = if leaving > 0 { 0 } else { (share / 10).max(2) };
    if excess <= tolerated {
        return offers;
    }
    for (slot, sessions) in slots {
        if sessions > excess {
            continue;
        }
        let fits = |taker: &Taker| taker.deficit() >= sessions && taker.room() >= sessions;
        if let Some(taker) = least(&mut takers, fits) {
            taker.incoming += sessions;
            excess -= sessions;
            offers.push((slot, taker.number, sessions));
        }
    }
    offers
}

/// A worker that might take slots over.
struct Taker {
    number: i32,
    sessions: usize,
    sessions_max: usize,
    share: usize,
    incoming: usize,
}

impl Taker {
    fn of(member: &Member, shares: &BTreeMap<i32, usize>, handovers: &[Handover]) -> Self {
        let incoming = handovers
            .iter()
            .filter(|handover| handover.taker == member.number)
            .map(|handover| handover.sessions)
            .sum();
        Self {
            number: member.number,
            sessions: member.sessions,
            sessions_max: member.sessions_max,
            share: shares.get(&member.number).copied().unwrap_or(0),
            incoming,
        }
    }

    /// How many sessions it may still be offered now. Slots that are larger than the window go one at a time.
    const fn room(&self) -> usize {
        let room = self
            .sessions_max
            .saturating_sub(self.sessions + self.incoming);
        if self.incoming == 0 {
            return room;
        }
        let window = INCOMING_MAX.saturating_sub(self.incoming);
        if room < window { room } else { window }
    }

    const fn deficit(&self) -> usize {
        self.share.saturating_sub(self.sessions + self.incoming)
    }
}

fn least(takers: &mut [Taker], fits: impl Fn(&Taker) -> bool) -> Option<&mut Taker> {
    takers
        .iter_mut()
        .filter(|taker| fits(taker))
        .min_by_key(|taker| (taker.sessions + taker.incoming, taker.number))
}

/// Returns a number that orders slots differently for each worker.
fn order_for_worker(slot: Slot, number: i32) -> u64 {
    let seed = u64::from(slot.0.cast_unsigned()) << 32 | u64::from(number.cast_unsigned());
    // The finaliser of SplitMix64.
    let mut mixed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests;
