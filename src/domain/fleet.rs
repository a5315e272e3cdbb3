//! How the fleet shares its sessions: who takes what is free, and who hands what to whom. Pure: what the
//! tables say goes in, what to do comes out.
//!
//! Every worker decides for itself by what it sees, and two may see different things. So nothing in here
//! keeps two workers from one slot: the lock and the epoch do. This module makes them agree in the end, and
//! keeps them from handing slots back and forth.

use std::collections::BTreeMap;
use std::time::Duration;

use super::ids::Slot;

/// Sessions that may be on their way to one worker: enough for its request budget to be busy all the time,
/// and few enough that the first slots change hands soon.
pub const INCOMING_MAX: usize = 100;

/// A worker that is younger than that is given no slots yet: it may be gone the next moment.
pub const TAKER_AGE_MIN: Duration = Duration::from_secs(2);

/// A hand-over that takes longer has failed; the slot is anybody's once it is free.
pub const HANDOVER_WITHIN: Duration = Duration::from_secs(45);

/// A worker that is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Its number: another one for each of its lock connections.
    pub number: i32,
    /// Sessions of the slots that it holds.
    pub sessions: usize,
    /// Sessions that it takes; none while it can't run any.
    pub sessions_max: usize,
    /// Whether it is about to stop.
    pub draining: bool,
    /// For how long it has been there.
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

/// How many sessions each worker that accepts any should have, when there are `total` in all.
#[must_use]
pub fn shares(members: &[Member], total: usize) -> BTreeMap<i32, usize> {
    let mut eligible: Vec<&Member> = members
        .iter()
        .filter(|member| member.accepts_sessions())
        .collect();
    // Workers with little room first: what they can't take is shared by the others.
    eligible.sort_unstable_by_key(|member| (member.sessions_max, member.number));
    let (mut left, mut count) = (total, eligible.len());
    let mut shares = BTreeMap::new();
    for member in eligible {
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
    /// It was free at the last poll too: the worker that it was due to did not take it.
    pub unclaimed_since_last_poll: bool,
}

/// Which of the free slots a worker takes now: up to its share at once, and slots that stayed unclaimed as
/// long as there is room.
#[must_use]
pub fn claims(me: &Member, share: usize, free: &[FreeSlot]) -> Vec<Slot> {
    if !me.accepts_sessions() {
        return Vec::new();
    }
    // Each worker in an order of its own: those that poll at the same time rarely want the same slot.
    let mut free: Vec<&FreeSlot> = free.iter().collect();
    free.sort_unstable_by_key(|free| shuffle_key(free.slot, me.number));
    let mut sessions = me.sessions;
    let mut claims = Vec::new();
    for FreeSlot {
        slot,
        sessions: more,
        unclaimed_since_last_poll,
    } in free
    {
        // A slot with more sessions than anybody takes is taken by one that has none.
        let fits = sessions + more <= me.sessions_max || sessions == 0;
        if fits && (*unclaimed_since_last_poll || sessions < share) {
            sessions += more;
            claims.push(*slot);
        }
    }
    claims
}

/// Whether a worker may claim a free slot: not if another one that is alive is about to take it over.
#[must_use]
pub fn is_claimable(slot: Slot, me: i32, members: &[Member], handovers: &[Handover]) -> bool {
    handovers
        .iter()
        .filter(|handover| handover.slot == slot && handover.taker != me)
        .all(|handover| {
            handover.age >= HANDOVER_WITHIN
                || !members.iter().any(|member| member.number == handover.taker)
        })
}

/// What a worker offers to whom: all it has when it drains, otherwise what it has beyond its share to those
/// below theirs. `mine` are its slots that have sessions.
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
    // A small imbalance is left as it is; but a transfer that has begun goes on to its end.
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

    /// What it may still be given now. Of a slot that is larger than the window, one at a time.
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

/// A number that orders slots differently for each worker.
fn shuffle_key(slot: Slot, number: i32) -> u64 {
    let seed = u64::from(slot.0.cast_unsigned()) << 32 | u64::from(number.cast_unsigned());
    // The finaliser of SplitMix64.
    let mut mixed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests;
