//! What a connection consists of, and the small steps that all its parts take.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::event::{ConnectionError, Event, Transmit};
use super::sessions::Sessions;
use super::stats::Tally;
use crate::ctrader::catalog::Catalog;
use crate::ctrader::frame::RequestIds;
use crate::ctrader::liveness::Liveness;
use crate::ctrader::request::{Need, Purpose, Request, application_auth};
use crate::ctrader::session::{Phase, Session};
use crate::ctrader::throttle::Throttle;
use crate::domain::ids::AccountId;
use crate::domain::ledger::Known;
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
    /// `None`: an answer counts whenever it comes.
    pub(super) deadline: Option<Instant>,
}

/// The protocol on one socket.
#[derive(Debug)]
pub struct Connection {
    pub(super) ids: RequestIds,
    pub(super) ready: bool,
    pub(super) failed: bool,
    pub(super) liveness: Liveness,
    pub(super) throttle: Throttle<Request>,
    /// Refused for the moment, to be queued again then.
    pub(super) delayed: Vec<(Instant, Request)>,
    /// How often in a row a payload type was refused as too frequent.
    pub(super) blocks: BTreeMap<u32, u32>,
    pub(super) pending: BTreeMap<u64, Pending>,
    /// A moment, and the wall clock's time then, in milliseconds since the epoch.
    pub(super) wall: (Instant, i64),
    pub(super) sessions: Sessions,
    /// What was known of accounts whose sessions ended.
    pub(super) left: BTreeMap<AccountId, Known>,
    pub(super) catalogs: BTreeMap<Arc<str>, Catalog>,
    /// What may not be asked before the application is authorised.
    pub(super) unasked: Vec<Request>,
    pub(super) generation: u64,
    pub(super) transmits: VecDeque<Transmit>,
    pub(super) events: VecDeque<Event>,
    /// Frames and parts of frames that were skipped because nobody knows them.
    pub skipped: u64,
    pub(super) tally: Tally,
}

impl Connection {
    /// A connection whose socket has just opened, at `wall_ms` by the wall clock, in milliseconds since
    /// the epoch. `seed` makes its request ids its own.
    #[must_use]
    pub fn new(config: &ConnectionConfig, seed: u64, now: Instant, wall_ms: i64) -> Self {
        let mut connection = Self {
            ids: RequestIds::new(seed),
            ready: false,
            failed: false,
            liveness: Liveness::new(now),
            throttle: Throttle::new(config.request_rate, config.history_rate, now),
            delayed: Vec::new(),
            blocks: BTreeMap::new(),
            wall: (now, wall_ms),
            pending: BTreeMap::new(),
            sessions: Sessions::default(),
            left: BTreeMap::new(),
            catalogs: BTreeMap::new(),
            unasked: Vec::new(),
            generation: 0,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            skipped: 0,
            tally: Tally::default(),
        };
        connection.push(application_auth(&config.client_id, &config.client_secret));
        connection.pump(now);
        connection
    }

    /// The session of an account that follows the stream, to look at.
    pub(super) fn live(&self, account: AccountId) -> Option<&Session> {
        self.sessions
            .get(account)
            .filter(|session| session.phase == Phase::Live)
    }

    /// The session of an account that follows the stream.
    pub(super) fn live_session(&mut self, account: AccountId) -> Option<&mut Session> {
        self.sessions
            .get_mut(account)
            .filter(|session| session.phase == Phase::Live)
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

    pub(super) fn is_current(&self, account: AccountId, generation: u64) -> bool {
        self.sessions
            .get(account)
            .is_some_and(|session| session.generation == generation)
    }

    pub(super) fn is_pending(&self, account: AccountId) -> bool {
        self.pending.values().any(
            |pending| matches!(&pending.request.purpose, Purpose::Account { account: of, .. } if *of == account),
        )
    }

    pub(super) fn heard(&mut self, now: Instant) {
        let was_following = self.liveness.is_following();
        self.liveness.handle_inbound(now);
        if !was_following {
            self.events.push_back(Event::Following(true));
        }
    }

    pub(super) fn push_some(&mut self, request: Option<Request>) {
        if let Some(request) = request {
            self.push(request);
        }
    }

    pub(super) fn push(&mut self, request: Request) {
        self.throttle
            .push(request.priority, request.payload_type, request);
    }
}
