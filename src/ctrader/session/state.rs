//! What a session consists of, its phases, and when it is due.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use litemap::LiteMap;

use super::timer::{Timer, TimerTable};
use super::windows::HistoryFetch;
use crate::ctrader::ask::Ask;
use crate::ctrader::request::{Request, of_account};
use crate::ctrader::wire::{
    ProtoOaExecutionEvent, ProtoOaMarginChangedEvent, ProtoOaReconcileRes, ProtoOaTrader,
    ProtoOaTrailingSlChangedEvent,
};
use crate::domain::account::{Account, Trader};
use crate::domain::deal::{Deal, Source};
use crate::domain::decimal::Decimal;
use crate::domain::equity::PnlFallbacks;
use crate::domain::ids::{AccountId, DealId, PositionId, SymbolId};
use crate::domain::ledger::{LastSeen, Ledger, Positions};
use crate::domain::market::Market;
use crate::domain::secret::Secret;

/// How long an event whose version was jumped over may still come: events of one account may overtake
/// each other by that.
pub(super) const OVERTAKING_MAX: Duration = Duration::from_millis(500);

/// An event as it came. It is kept until the account's digits are known, and a while longer for a
/// snapshot that may lag.
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
    /// Everything is subscribed; the first quotes are on their way.
    AwaitingQuotes,
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
    /// One half of a snapshot that is on its way.
    pub(super) trader: Option<Box<Trader>>,
    /// The other half.
    pub(super) snapshot: Option<Box<ProtoOaReconcileRes>>,
    pub(in crate::ctrader) account: Option<Account>,
    /// The account before the snapshot that is on its way.
    pub(super) previous: Option<Box<Account>>,
    /// What was open when the account was last followed, before this session.
    pub(super) last_positions: Option<Positions>,
    /// Events without an account to apply them to.
    pub(super) buffered: Vec<WireEvent>,
    /// Events that a snapshot asked for now might not have.
    pub(super) recent: VecDeque<(Instant, WireEvent)>,
    /// Which changes of the balance were seen.
    pub(super) ledger: Ledger,
    /// The history has what an event should have reported: only a new snapshot makes up for that.
    pub(super) needs_snapshot: bool,
    pub(super) timers: TimerTable,
    pub(super) checks: Checks,
    pub(super) history: Option<Box<HistoryFetch>>,
    pub(in crate::ctrader) market: Market,
    pub(super) currency: Option<Arc<str>>,
    pub(super) subscribed: Symbols,
    /// Subscription asked for and not yet answered.
    pub(super) subscribing: Symbols,
    /// Unsubscription asked for and not yet answered: not to be subscribed before that.
    pub(super) unsubscribing: Symbols,
    /// Subscribed anew once already, since the server said they were subscribed.
    pub(super) resubscribed: Symbols,
    /// Symbols of orders that are being executed: they are subscribed before their position is there.
    pub(super) order_symbols: VecDeque<SymbolId>,
    /// Deals that wait for their symbol's name, or for one before them.
    pub(super) deals: VecDeque<(Deal, Source)>,
    pub(super) deals_seen: VecDeque<DealId>,
    /// Symbols whose quotes change the row.
    pub(super) priced: Symbols,
    /// Whether the row differs from when it was last taken.
    pub(in crate::ctrader) changed: bool,
    /// The last event that changed it.
    pub(in crate::ctrader) event_at: Instant,
}

/// Checks that are on their way, and what they are compared with.
#[derive(Debug, Default)]
pub(super) struct Checks {
    /// A snapshot after the first is on its way.
    pub(super) snapshot_pending: bool,
    /// How many came after the first.
    pub(super) snapshots: u32,
    /// When the snapshot that is on its way was asked for.
    pub(super) snapshot_sent_at: Option<Instant>,
    /// The server's P&L is on its way.
    pub(super) audit_pending: bool,
    /// Our net P&L when the server was asked for its own.
    pub(super) audit_net: LiteMap<PositionId, Decimal>,
    /// What was open then.
    pub(super) audit_open: Positions,
    /// The server's P&L where ours is unknown.
    pub(super) pnl_fallbacks: PnlFallbacks,
}

impl Checks {
    /// What the server computed for a volume that is another one now is no longer shown.
    pub(super) fn drop_pnl_fallback(&mut self, position: PositionId) {
        self.pnl_fallbacks.remove(&position);
        self.audit_open.remove(&position);
    }
}

impl Session {
    pub(in crate::ctrader) fn new(
        id: AccountId,
        generation: u64,
        token: Secret,
        last_seen: LastSeen,
        now: Instant,
    ) -> Self {
        Self {
            id,
            generation,
            token,
            phase: Phase::Authorising,
            trader: None,
            snapshot: None,
            account: None,
            previous: None,
            buffered: Vec::new(),
            recent: VecDeque::new(),
            ledger: Ledger::new(&last_seen),
            last_positions: last_seen.positions,
            needs_snapshot: false,
            timers: TimerTable::default(),
            checks: Checks::default(),
            history: None,
            market: Market::default(),
            currency: None,
            subscribed: Symbols::new(),
            subscribing: Symbols::new(),
            unsubscribing: Symbols::new(),
            resubscribed: Symbols::new(),
            order_symbols: VecDeque::new(),
            deals: VecDeque::new(),
            deals_seen: VecDeque::new(),
            priced: Symbols::new(),
            changed: false,
            event_at: now,
        }
    }

    /// A request of this session.
    pub(in crate::ctrader) fn ask(&self, ask: Ask) -> Request {
        of_account(self.id, self.generation, ask, &self.token)
    }

    /// The broker whose catalog this account uses; one without a name shares with nobody.
    pub(in crate::ctrader) fn broker(&self) -> Option<Arc<str>> {
        let trader = self
            .account
            .as_ref()
            .or(self.previous.as_deref())
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
        self.phase == Phase::Live && self.timers.is_expired(Timer::Gap, now)
    }

    /// When something is due that no message brings.
    pub(in crate::ctrader) fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::AwaitingQuotes => self.timers.get(Timer::FirstQuotes),
            Phase::Live => self.timers.next_timeout(),
            Phase::Authorising | Phase::Loading | Phase::Closing => None,
        }
    }

    /// Starts or stops the timer of a missing change.
    pub(super) fn watch_gap(&mut self, now: Instant) {
        if !self.ledger.has_gap() && !self.needs_snapshot {
            self.timers.stop(Timer::Gap);
        } else if !self.timers.is_set(Timer::Gap) {
            self.timers.set(Timer::Gap, now + OVERTAKING_MAX);
        }
    }
}
