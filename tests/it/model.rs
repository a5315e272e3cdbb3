//! The model test: after every step of a random history the row is what a naive reference makes
//! of nothing but the account's beginning and the list of what happened.
//!
//! `SIM_SEEDS=100000` plays more histories than the usual run, `SIM_SEED=n` one of them again. Each
//! test below plays its share of the seeds with its own [`Weather`] and its own faults.

mod exact;
mod figures;
mod moves;
mod reference;
mod world;

use std::collections::BTreeSet;
use std::time::Duration;

use mahspeccy_bridge::sim::{Broker, JournalEntry};

use crate::support::pair::{Chance, Pair, Weather, seeds};
use reference::Start;
use world::{ACCOUNT, TOKEN, World};

/// Histories of each kind; together they are ten thousand.
const UNDISTURBED: u64 = 2_500;
const DROPS: u64 = 2_500;
const DOUBLES: u64 = 2_000;
const LATE: u64 = 2_000;
const MISSED: u64 = 1_000;

/// A missed event shows with the next change of the balance. Half a second later the account is
/// read anew, waits for its first quotes for two seconds at most, and is checked once more two
/// seconds after that: then at the latest the row is right.
const MENDS_WITHIN: Duration = Duration::from_secs(5);

/// What goes wrong in a history beside what the account itself goes through.
#[derive(Debug, Clone, Copy)]
struct Trouble {
    /// What the link does to events.
    weather: Weather,
    /// Steps before which the socket goes, with all that is on it, out of a thousand.
    drops: u64,
    /// Steps before which the server ends the account's session alone, out of a thousand.
    account_drops: u64,
    /// The row is right this much after a missed event has shown.
    mends_within: Duration,
}

impl Trouble {
    const NONE: Self = Self {
        weather: Weather::GOOD,
        drops: 0,
        account_drops: 0,
        mends_within: Duration::ZERO,
    };
    const DROPS: Self = Self {
        drops: 150,
        account_drops: 80,
        ..Self::NONE
    };
}

/// A history on its way.
struct History {
    pair: Pair,
    world: World,
    start: Start,
    chance: Chance,
    trouble: Trouble,
    /// Deals reported so far.
    told: Vec<i64>,
    /// Events missed so far.
    missed: u64,
    /// Whether it has followed the account from its beginning without a break.
    unbroken: bool,
}

impl History {
    fn begin(seed: u64, trouble: Trouble) -> Self {
        let mut chance = Chance::new(seed);
        let world = World::new(&mut chance);
        let mut pair = Pair::seeded(seed, world.builder());
        pair.broker.keep_journal();
        pair.link.weather = trouble.weather;
        let settings = pair.broker.settings_mut();
        settings.trader_updates = chance.per_mille(300);
        settings.unsigned_withdrawals = chance.per_mille(300);
        settings.partial_stop_out = chance.per_mille(500);
        settings.manual_fill_delay = Duration::from_millis(chance.pick(&[0, 0, 15, 300]));
        settings.partial_fill_delay = Duration::from_millis(chance.pick(&[0, 0, 40]));
        let start = world.start(&pair);
        pair.open(ACCOUNT, TOKEN);
        Self {
            pair,
            world,
            start,
            chance,
            trouble,
            told: Vec::new(),
            missed: 0,
            unbroken: false,
        }
    }

    /// One to three things happen, at once or soon after each other, and then the row is right.
    fn step(&mut self) {
        if self.chance.per_mille(self.trouble.drops) {
            self.drop_socket();
        }
        if self.chance.per_mille(self.trouble.account_drops) {
            self.pair.hand(|broker| broker.drop_account(ACCOUNT));
            self.unbroken = false;
        }
        for _ in 0..self.chance.pick(&[1, 1, 2, 3]) {
            let (spec, chance) = (&self.world.broker, &mut self.chance);
            self.pair
                .hand(|broker| moves::anything(broker, spec, chance));
            if self.chance.per_mille(400) {
                let soon = Duration::from_millis(self.chance.below(40));
                self.pair.run(soon);
            }
        }
        if self.chance.per_mille(40) {
            self.pair.hand(Broker::market_resume);
            self.pair
                .run(Duration::from_millis(self.chance.below(1_000)));
            self.pair.hand(Broker::market_pause);
        }
        self.check();
    }

    /// The row is right once all has come in.
    fn check(&mut self) {
        self.follow();
        if self.pair.link.missed() > self.missed {
            self.show_what_was_missed();
        }
        self.compare();
    }

    /// The socket goes at any moment of what follows: a few events on their way, or the snapshot.
    fn drop_socket(&mut self) {
        let (spec, chance) = (&self.world.broker, &mut self.chance);
        self.pair
            .hand(|broker| moves::anything(broker, spec, chance));
        self.pair.run(Duration::from_millis(self.chance.below(50)));
        self.reconnect();
        while self.chance.per_mille(400) {
            // So long a snapshot takes, from authorisation to the first quotes.
            self.pair.run(Duration::from_millis(self.chance.below(500)));
            let (spec, chance) = (&self.world.broker, &mut self.chance);
            self.pair
                .hand(|broker| moves::anything(broker, spec, chance));
            self.pair.run(Duration::from_millis(self.chance.below(30)));
            if self.chance.per_mille(500) {
                self.reconnect();
            }
        }
    }

    fn reconnect(&mut self) {
        self.note_deals();
        self.unbroken = false;
        self.pair.reconnect();
        self.pair.open(ACCOUNT, TOKEN);
    }

    /// Until all has come in and the account is live and in step again.
    fn follow(&mut self) {
        self.pair.arrive();
        if !self.pair.is_live(ACCOUNT) {
            self.pair.open(ACCOUNT, TOKEN);
            let limit = Duration::from_secs(30);
            self.pair
                .drive_until("the account to be live", limit, |pair| {
                    pair.is_live(ACCOUNT)
                });
            self.pair.arrive();
        }
    }

    /// What was missed shows with the next change of the balance that does come.
    fn show_what_was_missed(&mut self) {
        while self.pair.link.missed() > self.missed {
            self.missed = self.pair.link.missed();
            self.unbroken = false;
            self.pair.hand(|broker| broker.deposit(ACCOUNT, 1));
            self.follow();
        }
        self.pair.run(self.trouble.mends_within);
        self.follow();
    }

    fn compare(&mut self) {
        let row = self.pair.row(ACCOUNT).expect("the account is live");
        let happened: &[JournalEntry] = self.pair.broker.journal();
        let expected = self.start.after(happened);
        let shown = figures::of_row(&row, self.start.digits);
        assert_eq!(
            shown,
            expected,
            "the row, and what it should be, at {:?} after {happened:#?}",
            self.pair.elapsed()
        );
    }

    fn note_deals(&mut self) {
        let deals = self.pair.deals(ACCOUNT);
        self.told.extend(deals.iter().map(|deal| deal.deal_id.0));
    }

    /// The row is the simulator's own truth too, and every deal was reported once.
    fn end(mut self) {
        if self
            .start
            .after(self.pair.broker.journal())
            .equity
            .is_some()
        {
            self.pair.assert_truth(ACCOUNT);
        }
        assert!(self.pair.failure().is_none(), "{:?}", self.pair.failure());
        // What comes late is reported late: then each is only reported once.
        if self.unbroken && self.trouble.weather.late == 0 {
            self.pair.assert_deals(ACCOUNT);
        }
        self.note_deals();
        let once: BTreeSet<i64> = self.told.iter().copied().collect();
        assert_eq!(once.len(), self.told.len(), "each deal once");
    }
}

fn play(seed: u64, trouble: Trouble) {
    let mut history = History::begin(seed, trouble);
    if history.chance.per_mille(500) {
        history.unbroken = true;
        history.check();
    }
    for _ in 0..6 + history.chance.below(7) {
        history.step();
    }
    history.end();
}

#[test]
fn the_row_is_what_a_recount_gives() {
    seeds(UNDISTURBED).for_each(|seed| play(seed, Trouble::NONE));
}

#[test]
fn the_row_is_what_a_recount_gives_whenever_a_connection_drops() {
    seeds(DROPS).for_each(|seed| play(seed, Trouble::DROPS));
}

#[test]
fn the_row_is_what_a_recount_gives_when_events_come_twice() {
    let trouble = Trouble {
        weather: Weather {
            again: 300,
            ..Weather::GOOD
        },
        ..Trouble::DROPS
    };
    seeds(DOUBLES).for_each(|seed| play(seed, trouble));
}

#[test]
fn the_row_is_what_a_recount_gives_when_events_come_late() {
    let trouble = Trouble {
        weather: Weather {
            again: 100,
            late: 300,
            ..Weather::GOOD
        },
        ..Trouble::DROPS
    };
    seeds(LATE).for_each(|seed| play(seed, trouble));
}

/// After an event that never came the next change of the balance shows it, and a new snapshot
/// mends it.
#[test]
fn the_row_is_what_a_recount_gives_when_events_are_missed() {
    let trouble = Trouble {
        weather: Weather {
            missed: 200,
            ..Weather::GOOD
        },
        mends_within: MENDS_WITHIN,
        ..Trouble::NONE
    };
    seeds(MISSED).for_each(|seed| play(seed, trouble));
}
