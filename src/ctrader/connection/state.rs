//! What a connection consists of, and the small steps that all its parts take.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::event::{ConnectionError, Event, Transmit};
use super::sessions::Sessions;
use super::stats::ConnectionStats;
use crate::ctrader::ask::Need;
use crate::ctrader::catalog::Catalog;
use crate::ctrader::frame::RequestIds;
use crate::ctrader::liveness::Liveness;
use crate::ctrader::request::{Request, application_auth};
use crate::ctrader::session::{Phase, Session};
use crate::ctrader::throttle::Throttle;
use crate::domain::clock::WallClock;
use crate::domain::ids::AccountId;
use crate::domain::ledger::LastSeen;
use crate::domain::secret::Secret;

/// How a connection introduces itself, and how fast it may ask.
#[derive(Debug, Clone)]
pub struct ConnectionConfig {
    /// The Open API application.
    pub client_id: String,
    /// Its secret.
    pub client_secret: Secret,
    /// Requests a second.
    pub request_rate: u32,
    /// Historical requests a second.
    pub history_rate: u32,
}

/// A request that was sent and not yet answered.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) request: Request,
    /// `None`: a response counts whenever it comes.
    pub(super) deadline: Option<Instant>,
}

/// The protocol on one socket.
#[derive(Debug)]
pub struct Connection {
    pub(super) ids: RequestIds,
    /// Whether the application is authorised.
    pub(super) ready: bool,
    pub(super) failed: bool,
    pub(super) liveness: Liveness,
    pub(super) throttle: Throttle<Request>,
    /// Requests that were refused for the moment, and when they are queued again.
    pub(super) delayed: Vec<(Instant, Request)>,
    /// How often in a row a payload type was refused as too frequent.
    pub(super) blocks: BTreeMap<u32, u32>,
    pub(super) pending: BTreeMap<u64, Pending>,
    pub(super) clock: WallClock,
    pub(super) sessions: Sessions,
    /// What was last seen of accounts whose sessions ended.
    pub(super) ended: BTreeMap<AccountId, LastSeen>,
    pub(super) catalogs: BTreeMap<Arc<str>, Catalog>,
    /// Requests about tokens that wait until the application is authorised.
    pub(super) before_ready: Vec<Request>,
    pub(super) generation: u64,
    pub(super) transmits: VecDeque<Transmit>,
    pub(super) events: VecDeque<Event>,
    /// Frames and parts of frames that were skipped because nobody knows them.
    pub skipped: u64,
    pub(super) stats: ConnectionStats,
}

impl Connection {
    /// A connection whose socket has just opened, at the moment of `clock`. `seed` makes its request ids
    /// its own.
    #[must_use]
    pub fn new(config: &ConnectionConfig, seed: u64, clock: WallClock) -> Self {
        let now = clock.moment();
        let mut connection = Self {
            ids: RequestIds::new(seed),
            ready: false,
            failed: false,
            liveness: Liveness::new(now),
            throttle: Throttle::new(config.request_rate, config.history_rate, now),
            delayed: Vec::new(),
            blocks: BTreeMap::new(),
            pending: BTreeMap::new(),
            clock,
            sessions: Sessions::default(),
            ended: BTreeMap::new(),
            catalogs: BTreeMap::new(),
            before_ready: Vec::new(),
            generation: 0,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            skipped: 0,
            stats: ConnectionStats::default(),
        };
        connection.push(application_auth(&config.client_id, &config.client_secret));
        connection.send_ready(now);
        connection
    }

    /// The session of an account that follows the stream.
    pub(super) fn live(&self, account: AccountId) -> Option<&Session> {
        self.sessions
            .get(account)
            .filter(|session| session.phase == Phase::Live)
    }

    /// The same, to be changed.
    pub(super) fn live_mut(&mut self, account: AccountId) -> Option<&mut Session> {
        self.sessions
            .get_mut(account)
            .filter(|session| session.phase == Phase::Live)
    }

    /// The session of an account, unless it is logging out.
    pub(super) fn active_mut(&mut self, account: AccountId) -> Option<&mut Session> {
        self.sessions
            .get_mut(account)
            .filter(|session| session.phase != Phase::Closing)
    }

    pub(super) fn fail(&mut self, error: ConnectionError) {
        if !self.failed {
            self.failed = true;
            self.transmits.clear();
            self.events.push_back(Event::Failed(error));
        }
    }

    pub(super) fn forget_need(&mut self, need: &Need) {
        self.catalogs
            .values_mut()
            .for_each(|catalog| catalog.forget(need));
    }

    /// Whether a session is still the one that asked.
    pub(super) fn is_current(&self, account: AccountId, generation: u64) -> bool {
        self.sessions
            .get(account)
            .is_some_and(|session| session.generation == generation)
    }

    pub(super) fn is_pending(&self, account: AccountId) -> bool {
        self.pending
            .values()
            .any(|pending| pending.request.concerns(account))
    }

    /// Notes that something came in.
    pub(super) fn note_inbound(&mut self, now: Instant) {
        let was_following = self.liveness.is_following();
        self.liveness.handle_inbound(now);
        if !was_following {
            self.events.push_back(Event::Following(true));
        }
    }

    pub(super) fn push_all(&mut self, requests: impl IntoIterator<Item = Request>) {
        for request in requests {
            self.push(request);
        }
    }

    pub(super) fn push(&mut self, request: Request) {
        self.throttle.push(request.class, request);
    }
}
