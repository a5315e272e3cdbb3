//! What a session consists of.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use litemap::LiteMap;

use super::windows::History;
use crate::ctrader::request::{Ask, Request, of_account};
use crate::ctrader::wire::{
    ProtoOaExecutionEvent, ProtoOaMarginChangedEvent, ProtoOaReconcileRes, ProtoOaTrader,
    ProtoOaTrailingSlChangedEvent,
};
use crate::domain::account::{Account, Trader};
use crate::domain::deal::{Deal, Source};
use crate::domain::decimal::Decimal;
use crate::domain::equity::StandIns;
use crate::domain::ids::{AccountId, DealId, PositionId, SymbolId};
use crate::domain::ledger::{self, Ledger, Positions};
use crate::domain::market::Market;
use crate::domain::secret::Secret;

/// How long a version that was jumped over may still come: events of one account may overtake each
/// other by that.
pub(super) const OVERTAKING_MAX: Duration = Duration::from_millis(500);

/// An event as it came, kept until the account's digits are known, and a while for a snapshot that
/// may lag.
#[derive(Debug, Clone)]
pub(in crate::ctrader) enum WireEvent {
    Execution(Box<ProtoOaExecutionEvent>),
    Trader(Box<ProtoOaTrader>),
    Margin(ProtoOaMarginChangedEvent),
    TrailingStop(ProtoOaTrailingSlChangedEvent),
}

/// Where a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ctrader) enum Phase {
    /// Authorisation is asked for.
    Authorising,
    /// Authorised; balance, positions and prices are on their way.
    Loading,
    /// Everything subscribed; the first quotes are awaited until then.
    Warming(Instant),
    /// The account follows the stream.
    Live,
    /// Log-out is asked for.
    Closing,
}

/// A few symbols, in one piece of memory.
pub(super) type Symbols = LiteMap<SymbolId, ()>;

/// One account's session.
#[derive(Debug)]
pub(in crate::ctrader) struct Session {
    pub(in crate::ctrader) id: AccountId,
    pub(in crate::ctrader) generation: u64,
    pub(in crate::ctrader) token: Secret,
    pub(in crate::ctrader) phase: Phase,
    // Boxed is what a session has only for a while.
    pub(super) trader: Option<Box<Trader>>,
    pub(super) reconciled: Option<Box<ProtoOaReconcileRes>>,
    pub(in crate::ctrader) account: Option<Account>,
    /// The account before the snapshot that is on its way.
    pub(super) before: Option<Box<Account>>,
    /// What was open when it was last followed, before this session.
    pub(super) known: Option<Positions>,
    /// Events without an account to apply them to.
    pub(super) buffered: Vec<WireEvent>,
    /// Events that a snapshot asked for now might not have.
    pub(super) recent: VecDeque<(Instant, WireEvent)>,
    /// Which changes of the balance were seen.
    pub(super) ledger: Ledger,
    /// Since when a change is missing.
    pub(super) behind_since: Option<Instant>,
    /// The history has what an event should have told: only a new snapshot makes up for that.
    pub(super) lost: bool,
    pub(in crate::ctrader) checks: Checks,
    pub(in crate::ctrader) history: Option<Box<History>>,
    pub(in crate::ctrader) market: Market,
    pub(in crate::ctrader) currency: Option<Arc<str>>,
    pub(super) subscribed: Symbols,
    pub(super) asked: Symbols,
    /// Unsubscription asked for and not yet answered: not to be subscribed before that.
    pub(super) leaving: Symbols,
    /// Subscribed anew once already, since the server said they were subscribed.
    pub(super) renewed: Symbols,
    pub(super) hints: VecDeque<SymbolId>,
    /// Deals that wait for their symbol's name, or for one before them.
    pub(super) deals: VecDeque<(Deal, Source)>,
    pub(super) deals_seen: VecDeque<DealId>,
    /// Symbols whose quotes change what the row says.
    pub(super) priced: Symbols,
    /// Whether the row says something else than when it was last taken.
    pub(in crate::ctrader) changed: bool,
    /// The last event that changed it.
    pub(in crate::ctrader) event_at: Instant,
}

/// What is planned and what is on its way.
#[derive(Debug, Default)]
pub(in crate::ctrader) struct Checks {
    pub(super) verify_at: Option<Instant>,
    pub(super) verifying: bool,
    pub(super) verifications: u32,
    /// When the snapshot that is on its way was asked for.
    pub(in crate::ctrader) snapshot_sent_at: Option<Instant>,
    pub(super) audit_at: Option<Instant>,
    /// When the server is asked for its figures, should ours still be missing.
    pub(super) stand_in_at: Option<Instant>,
    pub(super) auditing: bool,
    /// Our net P&L when the server was asked for its own.
    pub(super) audited: LiteMap<PositionId, Decimal>,
    /// What was open then.
    pub(super) audited_open: Positions,
    /// When what stands in is too old to go on doing so.
    pub(super) stand_ins_until: Option<Instant>,
    pub(in crate::ctrader) stand_ins: StandIns,
    pub(super) reauthorise_at: Option<Instant>,
}

impl Checks {
    pub(in crate::ctrader) fn deadline(&self) -> Option<Instant> {
        let own = [self.verify_at, self.reauthorise_at];
        own.into_iter()
            .chain([self.audit_at, self.stand_in_at, self.stand_ins_until])
            .flatten()
            .min()
    }

    pub(in crate::ctrader) const fn is_verifying(&self) -> bool {
        self.verifying
    }

    /// What the server has computed for a volume that is another one now stands in no more.
    pub(in crate::ctrader) fn drop_stand_in(&mut self, position: PositionId) {
        self.stand_ins.remove(&position);
        self.audited_open.remove(&position);
    }

    /// The account is read anew: what was planned for the old state is not for the new one.
    pub(in crate::ctrader) fn stop(&mut self) {
        let reauthorise_at = self.reauthorise_at;
        *self = Self {
            reauthorise_at,
            ..Self::default()
        };
    }
}

impl Session {
    pub(in crate::ctrader) fn new(
        id: AccountId,
        generation: u64,
        token: Secret,
        known: ledger::Known,
        now: Instant,
    ) -> Self {
        Self {
            id,
            generation,
            token,
            phase: Phase::Authorising,
            trader: None,
            reconciled: None,
            account: None,
            before: None,
            buffered: Vec::new(),
            recent: VecDeque::new(),
            ledger: Ledger::new(&known),
            known: known.positions,
            behind_since: None,
            lost: false,
            checks: Checks::default(),
            history: None,
            market: Market::default(),
            currency: None,
            subscribed: Symbols::new(),
            asked: Symbols::new(),
            leaving: Symbols::new(),
            renewed: Symbols::new(),
            hints: VecDeque::new(),
            deals: VecDeque::new(),
            deals_seen: VecDeque::new(),
            priced: Symbols::new(),
            changed: false,
            event_at: now,
        }
    }

    pub(in crate::ctrader) fn ask(&self, ask: Ask) -> Request {
        of_account(self.id, self.generation, ask, &self.token)
    }

    /// The broker whose catalog this account uses; one without a name shares with nobody.
    pub(in crate::ctrader) fn broker(&self) -> Option<Arc<str>> {
        let trader = self
            .account
            .as_ref()
            .or(self.before.as_deref())
            .map(Account::trader)
            .or(self.trader.as_deref())?;
        Some(
            trader
                .broker
                .clone()
                .unwrap_or_else(|| format!("\0{}", self.id).into()),
        )
    }

    /// Whether an event is missing for longer than it may be late.
    pub(in crate::ctrader) fn has_lost_an_event(&self, now: Instant) -> bool {
        self.phase == Phase::Live
            && self
                .behind_since
                .is_some_and(|since| since + OVERTAKING_MAX <= now)
    }

    /// When something is due that no message brings.
    pub(in crate::ctrader) fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Warming(until) => Some(until),
            Phase::Live => {
                let behind = self.behind_since.map(|since| since + OVERTAKING_MAX);
                let history = self.history.as_deref().and_then(History::deadline);
                [behind, self.checks.deadline(), history]
                    .into_iter()
                    .flatten()
                    .min()
            }
            Phase::Authorising | Phase::Loading | Phase::Closing => None,
        }
    }

    /// Notes since when a change is missing.
    pub(super) fn watch_ledger(&mut self, now: Instant) {
        if !self.ledger.is_behind() && !self.lost {
            self.behind_since = None;
        } else if self.behind_since.is_none() {
            self.behind_since = Some(now);
        }
    }
}
