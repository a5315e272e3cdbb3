//! Builds a simulated world.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use chacha20::ChaCha8Rng;

use super::account_spec::AccountSpec;
use super::broker::{Broker, Settings, Start};
use super::limits::Limits;
use super::market::Venue;
use super::presets;
use super::spec::BrokerSpec;

/// The application that is known unless others are named.
pub const CLIENT_ID: &str = "sim-client";
/// Its secret.
pub const CLIENT_SECRET: &str = "sim-secret";

/// A world to be. Without brokers it gets [`presets::alpha`] and [`presets::beta`]; without an
/// application, [`CLIENT_ID`] with [`CLIENT_SECRET`].
#[derive(Clone, Debug)]
pub struct Builder {
    seed: u64,
    apps: BTreeMap<String, String>,
    brokers: Vec<BrokerSpec>,
    accounts: Vec<AccountSpec>,
    market_running: bool,
    ticks_per_second: Option<f64>,
    settings: Settings,
    pub(super) ports: (u16, u16),
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            seed: 1,
            apps: BTreeMap::new(),
            brokers: Vec::new(),
            accounts: Vec::new(),
            market_running: true,
            ticks_per_second: None,
            settings: Settings::default(),
            ports: (0, 0),
        }
    }
}

impl Builder {
    /// An empty world with seed 1.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Seed of every random choice.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// An application that may authenticate.
    #[must_use]
    pub fn app(mut self, client_id: &str, client_secret: &str) -> Self {
        self.apps
            .insert(client_id.to_owned(), client_secret.to_owned());
        self
    }

    /// A broker, in place of the default ones.
    #[must_use]
    pub fn broker(mut self, broker: BrokerSpec) -> Self {
        self.brokers.push(broker);
        self
    }

    /// An account.
    #[must_use]
    pub fn account(mut self, account: AccountSpec) -> Self {
        self.accounts.push(account);
        self
    }

    /// Prices stand still until [`Broker::market_resume`].
    #[must_use]
    pub fn market_paused(mut self) -> Self {
        self.market_running = false;
        self
    }

    /// Ticks a second of every symbol.
    #[must_use]
    pub fn ticks_per_second(mut self, rate: f64) -> Self {
        self.ticks_per_second = Some(rate);
        self
    }

    /// Time between ORDER_ACCEPTED and ORDER_FILLED of a client's order.
    #[must_use]
    pub fn fill_gap(mut self, gap: Duration) -> Self {
        self.settings.fill_gap = gap;
        self
    }

    /// Request budgets.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.settings.limits = limits;
        self
    }

    /// Connections an application may have.
    #[must_use]
    pub fn connection_cap(mut self, cap: usize) -> Self {
        self.settings.connection_cap = cap;
        self
    }

    /// A client silent for this long is cut off.
    #[must_use]
    pub fn idle_cutoff(mut self, after: Duration) -> Self {
        self.settings.idle_cutoff = after;
        self
    }

    /// Rows a history reply holds at most, and whether the newest comes first.
    #[must_use]
    pub fn history(mut self, chunk: usize, newest_first: bool) -> Self {
        self.settings.history_chunk = chunk;
        self.settings.newest_first = newest_first;
        self
    }

    /// TCP ports of the demo and the live listener; 0 = any.
    #[must_use]
    pub fn ports(mut self, demo: u16, live: u16) -> Self {
        self.ports = (demo, live);
        self
    }

    /// The sans-IO broker of this world, at this time.
    ///
    /// # Panics
    /// If an account names a broker, currency or symbol that does not exist.
    pub fn build(self, now: Instant, wall_ms: i64) -> Broker {
        let brokers = if self.brokers.is_empty() {
            vec![presets::alpha(), presets::beta()]
        } else {
            self.brokers
        };
        let mut apps = self.apps;
        if apps.is_empty() {
            apps.insert(CLIENT_ID.to_owned(), CLIENT_SECRET.to_owned());
        }
        let mut broker = Broker::new(Start {
            now,
            wall_ms,
            seed: self.seed,
            rng: ChaCha8Rng::seed_from_u64(self.seed),
            apps,
            venues: brokers
                .into_iter()
                .map(|spec| Venue::new(spec, now))
                .collect(),
            settings: self.settings,
            market_running: self.market_running,
        });
        if let Some(rate) = self.ticks_per_second {
            broker.tick_rate_all(rate);
        }
        for account in self.accounts {
            broker.add_account(account);
        }
        broker
    }
}
