//! All that the simulated server knows, in one struct.
//!
//! It is data: `broker` has the behaviour, `script` what a test does to it. Both add their methods
//! here, so neither is imported.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rand_chacha::ChaCha8Rng;

use crate::sim::world::settings::Settings;

use super::account::Account;
use super::connection::{Conn, ConnId, Output};
use super::faults::Faults;
use super::journal::Entry;
use super::request::Seen;
use super::stats::Stats;
use super::subscriber::Subscriber;
use super::timer::{Timer, millis};
use super::tokens::Grants;
use super::venue::Venue;

/// How often idle sockets, margin calls and stop-outs are looked at.
pub(crate) const HOUSEKEEPING: Duration = Duration::from_millis(250);

/// The simulated cTrader.
#[derive(Debug)]
pub struct Broker {
    pub(crate) now: Instant,
    pub(crate) base: Instant,
    pub(crate) wall_base_ms: i64,
    pub(crate) rng: ChaCha8Rng,
    pub(crate) apps: BTreeMap<String, String>,
    pub(crate) venues: Vec<Venue>,
    pub(crate) accounts: BTreeMap<i64, Account>,
    pub(crate) grants: Grants,
    pub(crate) conns: BTreeMap<ConnId, Conn>,
    pub(crate) subscribers: BTreeMap<(usize, i64), Vec<Subscriber>>,
    pub(crate) resting: BTreeMap<(usize, i64), BTreeSet<(i64, i64)>>,
    pub(crate) faults: Faults,
    pub(crate) market_running: bool,
    pub(crate) scratch: BytesMut,
    pub(crate) stats: Stats,
    pub(crate) seen: VecDeque<Seen>,
    pub(crate) ledger: Option<Vec<Entry>>,
    pub(crate) settings: Settings,
    pub(crate) last_conn: u64,
    pub(crate) timers: BTreeMap<(Instant, u64), Timer>,
    pub(crate) timer_seq: u64,
    pub(crate) housekeeping_at: Instant,
    pub(crate) out: VecDeque<Output>,
}

/// What a broker starts with.
pub(crate) struct Start {
    pub(crate) now: Instant,
    pub(crate) wall_ms: i64,
    pub(crate) rng: ChaCha8Rng,
    pub(crate) apps: BTreeMap<String, String>,
    pub(crate) venues: Vec<Venue>,
    pub(crate) settings: Settings,
    pub(crate) market_running: bool,
}

impl Broker {
    pub(crate) fn new(start: Start) -> Self {
        Self {
            now: start.now,
            base: start.now,
            wall_base_ms: start.wall_ms,
            rng: start.rng,
            apps: start.apps,
            venues: start.venues,
            accounts: BTreeMap::new(),
            grants: Grants::default(),
            conns: BTreeMap::new(),
            subscribers: BTreeMap::new(),
            resting: BTreeMap::new(),
            faults: Faults::default(),
            market_running: start.market_running,
            scratch: BytesMut::new(),
            stats: Stats::default(),
            seen: VecDeque::new(),
            ledger: None,
            settings: start.settings,
            last_conn: 0,
            timers: BTreeMap::new(),
            timer_seq: 0,
            housekeeping_at: start.now + HOUSEKEEPING,
            out: VecDeque::new(),
        }
    }

    /// The server's wall clock, ms since the epoch.
    pub fn wall_ms(&self) -> i64 {
        self.wall_base_ms + millis(self.now.saturating_duration_since(self.base))
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The settings, to be changed while it runs.
    pub fn settings_mut(&mut self) -> &mut Settings {
        &mut self.settings
    }
}
