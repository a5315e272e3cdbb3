//! Describes a simulated world step by step. `broker::build` makes a server of it, `server` starts it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::account_spec::AccountSpec;
use super::settings::{Limits, Settings};
use super::spec::BrokerSpec;

/// The application that exists unless others are named.
pub const CLIENT_ID: &str = "sim-client";
/// Its secret.
pub const CLIENT_SECRET: &str = "sim-secret";

/// Begin with [`Simulator::builder`].
#[derive(Clone, Copy, Debug)]
pub struct Simulator;

impl Simulator {
    /// Begins the description of a world.
    pub fn builder() -> Builder {
        Builder::new()
    }
}

/// The description of a world. Without brokers it gets [`alpha`](super::brokers::alpha) and
/// [`beta`](super::brokers::beta); without an application, [`CLIENT_ID`] with [`CLIENT_SECRET`].
#[derive(Clone, Debug)]
pub struct Builder {
    pub(crate) seed: u64,
    pub(crate) apps: BTreeMap<String, String>,
    pub(crate) brokers: Vec<BrokerSpec>,
    pub(crate) accounts: Vec<AccountSpec>,
    pub(crate) market_running: bool,
    pub(crate) ticks_per_second: Option<f64>,
    pub(crate) settings: Settings,
    pub(crate) ports: (u16, u16),
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

    /// Prices do not move until [`market_resume`](crate::sim::Broker::market_resume).
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
    pub fn fill_delay(mut self, gap: Duration) -> Self {
        self.settings.fill_delay = gap;
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

    /// A client that sends nothing for this long is disconnected.
    #[must_use]
    pub fn idle_timeout(mut self, after: Duration) -> Self {
        self.settings.idle_timeout = after;
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
}
