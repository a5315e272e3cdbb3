//! The claim protocol, checked exhaustively: three workers, two slots, and whatever may happen to them.
//!
//! The model is Postgres' tables and locks, and of each worker its lock keeper, its coordinator, its links and its
//! writer, as separate as they are in the code: any step of one may come between any two of another.
//! docs/claim-protocol.md maps the steps to functions. `domain::fleet` itself decides who claims, offers and takes
//! over.
//!
//! There are no notifications and no clock. A worker may poll at any time, so it makes no difference whether a
//! notification comes, comes late or is lost. What a time-out does is a step that may come at any time. Time
//! guarantees one thing only: a silent worker stops (4 s) before the server releases its locks (9 s). That is a guard.
//!
//! **What "in the end" means.** The checker's own `eventually` misses counterexamples where paths meet or form a
//! circle. So an `always` property follows, from every state, every path without further disturbance to its end
//! (`convergence`). Each path must have an end, and there one worker runs every wanted session. No fairness is assumed
//! beyond that something happens while something can. A worker that SIGSTOP stopped may never wake. Since epochs only
//! rise and the states are finite, nothing flaps.
//!
//! `FLEET_DISTURBANCES=2` checks two disturbances of any kind instead of one: minutes and gigabytes, so use
//! a release build.

#![allow(
    clippy::unused_self,
    clippy::wildcard_enum_match_arm,
    reason = "every step is a method of the model, whether or not a flaw changes it; a step leaves everything else as it is"
)]

mod convergence;
mod flaw;
mod lock_keeper;
mod ownership;
mod state;
mod steps;

use std::sync::Mutex;
use std::sync::atomic::AtomicU32;
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

use convergence::Explored;
use flaw::Flaw;
use state::State;
use steps::{
    CONVERGES, Disturbance, FleetModel, HELD, IN_ORDER, MADE, ONE_HOLDER, ONE_WRITER, STOPPED,
};

/// Everything but changes of what is wanted, beside which a hand-over may find a session that has just begun.
const ALL: &[Disturbance] = &[
    Disturbance::Crash,
    Disturbance::Pause,
    Disturbance::NetworkCut,
    Disturbance::ServerEnds,
    Disturbance::ServerSilent,
    Disturbance::Drain,
    Disturbance::SecondSignal,
    Disturbance::SlowWrite,
    Disturbance::StalePoll,
    Disturbance::StatementFails,
    Disturbance::ReleaseFails,
    Disturbance::OfferExpires,
];

/// What is cheap enough to come twice in every run of the tests.
const PAIRS: &[Disturbance] = &[
    Disturbance::Crash,
    Disturbance::Drain,
    Disturbance::SecondSignal,
    Disturbance::SlowWrite,
    Disturbance::StalePoll,
    Disturbance::StatementFails,
    Disturbance::OfferExpires,
];

fn fleet(begin: State, disturbances: &'static [Disturbance], rounds_max: usize) -> FleetModel {
    FleetModel {
        begin,
        disturbances,
        rounds_max,
        flaw: Flaw::None,
        checks_convergence: true,
        reached: AtomicU32::new(0),
        explored: Mutex::new(Explored::default()),
    }
}

/// Checks all states, and prints how many there are. `reaches_all`: the model must reach all milestones.
fn check(what: &str, fleet: FleetModel, reaches_all: bool) {
    let began = Instant::now();
    let checker = fleet.checker().spawn_bfs().join();
    eprintln!(
        "{what}: {} states, {} steps, the longest path has {}, {:.1} s",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        began.elapsed().as_secs_f64()
    );
    for (name, path) in checker.discoveries() {
        let is_milestone =
            checker.model().property(name).expectation == stateright::Expectation::Sometimes;
        let last = *path.last_state();
        let steps = path.into_actions();
        let on = checker.model().explored.lock().expect("whole").failure();
        assert!(is_milestone, "{name}: {steps:?}\nthen {on}\nfrom {last:#?}");
    }
    if reaches_all {
        checker.assert_properties();
    }
}

/// Checks a fleet with a flaw: this property must not hold.
fn finds(
    flaw: Flaw,
    disturbances: &'static [Disturbance],
    disturbances_max: u8,
    property: &'static str,
) {
    let fleet = FleetModel {
        flaw,
        checks_convergence: property == CONVERGES,
        ..fleet(State::alone(disturbances_max), disturbances, 2)
    };
    let began = Instant::now();
    let found = HasDiscoveries::AnyOf([property].into());
    let checker = fleet.checker().finish_when(found).spawn_bfs().join();
    let states = checker.unique_state_count();
    let seconds = began.elapsed().as_secs_f64();
    let path = checker.discovery(property);
    let Some(path) = path else {
        panic!("{flaw:?} goes unnoticed in {states} states");
    };
    let steps = path.into_actions();
    eprintln!("{flaw:?}: found in {states} states, {seconds:.1} s: {steps:?}");
    if property == CONVERGES {
        let on = checker.model().explored.lock().expect("whole").failure();
        eprintln!("then {on}");
    }
}

#[test]
fn an_undisturbed_fleet_shares_what_there_is() {
    check("undisturbed", fleet(State::new(0), &[], 3), false);
}

#[test]
fn any_disturbance_leaves_every_session_run_by_one() {
    let disturbances =
        std::env::var("FLEET_DISTURBANCES").map_or(1, |n| n.parse().expect("a number"));
    check("disturbed", fleet(State::alone(disturbances), ALL, 3), true);
}

#[test]
fn any_change_of_what_is_wanted_is_fulfilled_in_the_end() {
    const CHANGES: &[Disturbance] = &[
        Disturbance::DesiredChanges,
        Disturbance::Crash,
        Disturbance::Drain,
    ];
    check("changes", fleet(State::alone(2), CHANGES, 2), false);
}

#[test]
fn disturbances_in_pairs_do_no_more_harm() {
    check("in pairs", fleet(State::alone(2), PAIRS, 2), false);
}

#[test]
fn without_fences_an_old_owner_overwrites_a_new_one() {
    finds(Flaw::NoFences, &[Disturbance::Pause], 1, IN_ORDER);
}

#[test]
fn without_the_fence_of_the_row_a_slow_write_overwrites_a_newer_one() {
    finds(Flaw::NoRowFence, &[Disturbance::SlowWrite], 1, IN_ORDER);
}

#[test]
fn without_locks_a_slot_has_two_holders() {
    finds(Flaw::LocksIgnored, &[], 0, ONE_HOLDER);
    finds(Flaw::LocksIgnored, &[], 0, HELD);
}

#[test]
fn without_a_rising_epoch_two_write_under_one() {
    finds(Flaw::EpochNotRaised, &[], 0, ONE_WRITER);
}

#[test]
fn without_the_trust_window_a_worker_that_is_cut_off_goes_on() {
    finds(Flaw::FreedEarly, &[Disturbance::NetworkCut], 1, STOPPED);
    finds(Flaw::IgnoresSilence, &[Disturbance::NetworkCut], 1, STOPPED);
}

// What the model found in the code, which is repaired since: see docs/claim-protocol.md. The tests above check the
// protocol as it is now; these show what it would be like without.

/// A claim that was requested under a lock connection that is gone was served by the next one. The coordinator then
/// learned of that one and abandoned all it held. The lock keeper did not, and the slot stayed locked by a worker that
/// did not run it, until its connection ended.
#[test]
fn found_a_late_claim_is_locked_and_forgotten() {
    finds(
        Flaw::ServesStaleRequests,
        &[Disturbance::NetworkCut],
        1,
        CONVERGES,
    );
}

/// A release that failed by itself was not tried again: `table::free_slots` does not show the slot even to the worker
/// that has its lock, so nobody claimed it. It stayed locked and was not run.
#[test]
fn found_a_release_that_fails_is_forgotten() {
    finds(
        Flaw::ReleaseNotRetried,
        &[Disturbance::ReleaseFails],
        1,
        CONVERGES,
    );
}

/// A taker that could not read the sessions of an offered slot counted the slot as ready with the next poll, since it
/// knew no session that was not. The giver released it, and nobody streamed until the taker had opened the sessions.
#[test]
fn found_a_taker_that_opened_nothing_reports_ready() {
    finds(Flaw::ReadyUnopened, &[Disturbance::StatementFails], 1, MADE);
}

/// A round that lasted longer than the server waits started sessions that the lock keeper had given up already.
/// They streamed and wrote until the round ended; once another worker had claimed the slot, they were fenced.
#[test]
fn found_a_long_round_starts_what_was_given_up() {
    finds(Flaw::FreedMidRound, &[Disturbance::NetworkCut], 1, STOPPED);
}
