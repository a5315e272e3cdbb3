//! The whole state of the simulated server, in one struct.
//!
//! `broker` and `script` add the methods. They import this file, it imports neither.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use chacha20::ChaCha8Rng;

use crate::sim::world::settings::Settings;

use super::account::Account;
use super::connection::{ClientConnection, ConnId, Output};
use super::faults::Faults;
use super::journal::JournalEntry;
use super::request::RequestRecord;
use super::stats::Stats;
use super::subscriber::SpotSubscriber;
use super::timer::{TimerAction, millis};
use super::tokens::TokenGrants;
use super::venue::Venue;

/// How often idle connections, margin calls and stop-outs are checked.
pub(crate) const HOUSEKEEPING: Duration = Duration::from_millis(250);

/// The simulated cTrader.
#[derive(Debug)]
pub struct Broker {
    /// The latest time it got.
    pub(crate) now: Instant,
    /// The time at which the wall clock was `wall_base_ms`.
    pub(crate) base: Instant,
    pub(crate) wall_base_ms: i64,
    pub(crate) rng: ChaCha8Rng,
    /// Client id → client secret.
    pub(crate) apps: BTreeMap<String, String>,
    pub(crate) venues: Vec<Venue>,
    pub(crate) accounts: BTreeMap<i64, Account>,
    pub(crate) grants: TokenGrants,
    pub(crate) conns: BTreeMap<ConnId, ClientConnection>,
    /// (venue, symbol) → who gets its spot events.
    pub(crate) spot_subscribers: BTreeMap<(usize, i64), Vec<SpotSubscriber>>,
    /// (venue, symbol) → (account, order) that wait for their price.
    pub(crate) resting: BTreeMap<(usize, i64), BTreeSet<(i64, i64)>>,
    pub(crate) faults: Faults,
    pub(crate) market_running: bool,
    /// Spot events are encoded here.
    pub(crate) scratch: BytesMut,
    pub(crate) stats: Stats,
    pub(crate) request_log: VecDeque<RequestRecord>,
    /// `None` unless a test asked for it.
    pub(crate) journal: Option<Vec<JournalEntry>>,
    pub(crate) settings: Settings,
    pub(crate) last_conn: u64,
    /// By time and, within one, in the order of their making.
    pub(crate) timers: BTreeMap<(Instant, u64), TimerAction>,
    pub(crate) timer_seq: u64,
    pub(crate) housekeeping_at: Instant,
    pub(crate) out: VecDeque<Output>,
}

/// The parts of a [`Broker`] that a world determines.
pub(crate) struct BrokerSetup {
    pub(crate) now: Instant,
    pub(crate) wall_ms: i64,
    pub(crate) rng: ChaCha8Rng,
    pub(crate) apps: BTreeMap<String, String>,
    pub(crate) venues: Vec<Venue>,
    pub(crate) settings: Settings,
    pub(crate) market_running: bool,
}

impl Broker {
    pub(crate) fn new(setup: BrokerSetup) -> Self {
        Self {
            now: setup.now,
            base: setup.now,
            wall_base_ms: setup.wall_ms,
            rng: setup.rng,
            apps: setup.apps,
            venues: setup.venues,
            accounts: BTreeMap::new(),
            grants: TokenGrants::default(),
            conns: BTreeMap::new(),
            spot_subscribers: BTreeMap::new(),
            resting: BTreeMap::new(),
            faults: Faults::default(),
            market_running: setup.market_running,
            scratch: BytesMut::new(),
            stats: Stats::default(),
            request_log: VecDeque::new(),
            journal: None,
            settings: setup.settings,
            last_conn: 0,
            timers: BTreeMap::new(),
            timer_seq: 0,
            housekeeping_at: setup.now + HOUSEKEEPING,
            out: VecDeque::new(),
        }
    }

    /// Returns the server's wall clock, ms since the epoch.
    pub fn wall_ms(&self) -> i64 {
        self.wall_base_ms + millis(self.now.saturating_duration_since(self.base))
    }

    /// Returns the settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Returns the settings, to change them while the server runs.
    pub fn settings_mut(&mut self) -> &mut Settings {
        &mut self.settings
    }
}
