//! Shares, claims and offers, by hand and by playing whole fleets.

use std::collections::BTreeSet;

use super::*;

fn member(number: i32, sessions: usize) -> Member {
    Member {
        number,
        sessions,
        sessions_max: 2_000,
        draining: false,
        age: Duration::from_mins(1),
    }
}

fn singles(numbers: std::ops::Range<i32>) -> Vec<(Slot, usize)> {
    numbers.map(|slot| (Slot(slot), 1)).collect()
}

#[test]
fn shares_are_even_within_what_each_takes() {
    let mut members = vec![member(1, 0), member(2, 0), member(3, 0)];
    assert_eq!(shares(&members, 10), [(1, 4), (2, 3), (3, 3)].into());
    members[1].sessions_max = 1;
    assert_eq!(shares(&members, 11), [(1, 5), (2, 1), (3, 5)].into());
    members[0].draining = true;
    assert_eq!(shares(&members, 11), [(2, 1), (3, 10)].into());
    assert_eq!(shares(&[], 11), [].into());
}

#[test]
fn two_survivors_take_their_shares_at_once_and_the_rest_with_the_next_poll() {
    let free: Vec<FreeSlot> = (0..100)
        .map(|slot| FreeSlot {
            slot: Slot(slot),
            sessions: 1,
            unclaimed_since_last_poll: false,
        })
        .collect();
    let (one, two) = (member(1, 100), member(2, 100));
    let (first, second) = (claims(&one, 150, &free), claims(&two, 150, &free));
    assert_eq!((first.len(), second.len()), (50, 50));
    let both: BTreeSet<Slot> = first.into_iter().chain(second).collect();
    assert!(
        both.len() > 60,
        "they mostly want different ones: {}",
        both.len()
    );
    let left: Vec<FreeSlot> = free
        .iter()
        .filter(|free| !both.contains(&free.slot))
        .map(|free| FreeSlot {
            unclaimed_since_last_poll: true,
            ..*free
        })
        .collect();
    assert_eq!(claims(&member(1, 150), 150, &left).len(), left.len());
}

#[test]
fn a_full_worker_claims_nothing_and_an_empty_one_even_what_is_too_large() {
    let free = [FreeSlot {
        slot: Slot(1),
        sessions: 5,
        unclaimed_since_last_poll: true,
    }];
    let small = Member {
        sessions_max: 4,
        ..member(1, 1)
    };
    assert_eq!(claims(&small, 4, &free), []);
    assert_eq!(
        claims(
            &Member {
                sessions: 0,
                ..small
            },
            4,
            &free
        ),
        [Slot(1)]
    );
    let unable = Member {
        sessions_max: 0,
        ..member(1, 0)
    };
    assert_eq!(claims(&unable, 4, &free), []);
}

#[test]
fn what_is_about_to_be_taken_over_is_nobody_elses() {
    let members = [member(1, 0), member(2, 0)];
    let mut handover = Handover {
        slot: Slot(7),
        epoch: 1,
        giver: 9,
        taker: 2,
        sessions: 1,
        ready: false,
        age: Duration::ZERO,
    };
    assert!(!is_unreserved(Slot(7), 1, &members, &[handover]));
    assert!(is_unreserved(Slot(7), 2, &members, &[handover]));
    assert!(is_unreserved(Slot(8), 1, &members, &[handover]));
    assert!(
        is_unreserved(Slot(7), 1, &members[..1], &[handover]),
        "the taker died"
    );
    handover.age = HANDOVER_TIMEOUT;
    assert!(is_unreserved(Slot(7), 1, &members, &[handover]));
}

#[test]
fn a_trifle_is_left_where_it_is() {
    let members = [member(1, 33), member(2, 28)];
    let mine = singles(0..33);
    assert_eq!(offers(&members[0], &members, &mine, &[], 61), []);
    let members = [member(1, 36), member(2, 25)];
    let offered = offers(&members[0], &members, &singles(0..36), &[], 61);
    assert_eq!(offered.len(), 5, "down to its share of 31");
    let young = Member {
        age: Duration::ZERO,
        ..member(2, 25)
    };
    assert_eq!(
        offers(&members[0], &[members[0], young], &mine, &[], 61),
        []
    );
}

#[test]
fn a_drain_offers_all_there_is_a_window_at_a_time() {
    let leaving = Member {
        draining: true,
        ..member(1, 300)
    };
    let members = [leaving, member(2, 10), member(3, 0)];
    let offered = offers(&leaving, &members, &singles(0..300), &[], 310);
    assert_eq!(offered.len(), 2 * INCOMING_MAX);
    let alone = offers(&leaving, &[leaving], &singles(0..300), &[], 300);
    assert_eq!(alone, []);
    // A user with more sessions than the window is offered as well.
    let offered = offers(&leaving, &members, &[(Slot(1), 150)], &[], 150);
    assert_eq!(offered, [(Slot(1), 3, 150)]);
}

/// Whole fleets: whatever the sizes, offers come to an end, everything stays somewhere, and nobody has much
/// more than their share.
#[test]
fn fleets_converge() {
    for seed in 0..300_u64 {
        let mut chance = seed;
        let mut next = |below: i32| -> i32 {
            chance = chance
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            i32::try_from((chance >> 33) % u64::from(below.unsigned_abs())).expect("below an i32")
        };
        let workers = 2 + next(4);
        let mut slots: Vec<(Slot, usize, i32)> = (0..20 + next(200))
            .map(|slot| {
                let sessions = usize::try_from(1 + next(4)).expect("a few");
                (Slot(slot), sessions, 1 + next(workers) / 2)
            })
            .collect();
        let total: usize = slots.iter().map(|(_, sessions, _)| sessions).sum();
        let sessions_of = |slots: &[(Slot, usize, i32)], number: i32| -> usize {
            let own = slots.iter().filter(|(_, _, owner)| *owner == number);
            own.map(|(_, sessions, _)| sessions).sum()
        };
        let mut rounds = 0;
        loop {
            // All decide by one view, as workers do that look at the same time.
            let members: Vec<Member> = (1..=workers)
                .map(|number| member(number, sessions_of(&slots, number)))
                .collect();
            let mut moves = Vec::new();
            for me in &members {
                let own = slots.iter().filter(|(_, _, owner)| *owner == me.number);
                let mine: Vec<(Slot, usize)> =
                    own.map(|(slot, sessions, _)| (*slot, *sessions)).collect();
                moves.extend(offers(me, &members, &mine, &[], total));
            }
            if moves.is_empty() {
                break;
            }
            for (moved, taker, _) in moves {
                for (slot, _, owner) in &mut slots {
                    if *slot == moved {
                        *owner = taker;
                    }
                }
            }
            rounds += 1;
            assert!(rounds < 50, "seed {seed} flaps");
        }
        let count = usize::try_from(workers).expect("a few");
        let share = total.div_ceil(count);
        for number in 1..=workers {
            let sessions = sessions_of(&slots, number);
            let most = share + (share / 10).max(2) + 4;
            assert!(sessions <= most, "seed {seed}: {sessions} of {share}");
        }
    }
}
