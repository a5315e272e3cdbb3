//! What happened, entry after entry: for a test that recomputes an account from nothing else.
//!
//! It is kept only when asked for. It says what was done, not what came of it: volumes, prices and
//! amounts, but no sum. Margins and levels are the server's own to set, so they are said as they are.

use crate::ctrader::wire;
use crate::sim::world::spec::MarginType;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum JournalEvent {
    /// A price moved: the sides that did, raw.
    Quote {
        /// Title of the broker whose feed it is.
        broker: String,
        /// Which symbol.
        symbol: i64,
        /// The new bid.
        bid: Option<i64>,
        /// The new ask.
        ask: Option<i64>,
    },
    /// An order was executed, in whole or in part.
    Deal(Box<wire::ProtoOaDeal>),
    /// The balance changed by this much, by an operation.
    Cash(i64),
    /// The bonus of the broker and that of introducing brokers changed by this much.
    Bonus(i64, i64),
    /// A position's swap changed by this much.
    Swap(i64, i64),
    /// A position ties up this much margin now.
    Margin(i64, i64),
    /// A position has this stop loss and this take profit now, raw.
    Levels(i64, Option<i64>, Option<i64>),
    /// A working order as it is now, or as it ended.
    Order(Box<wire::ProtoOaOrder>),
    /// Margins add up by another rule now.
    MarginType(MarginType),
}

/// An entry.
#[derive(Clone, Debug, PartialEq)]
pub struct JournalEntry {
    /// Whose; 0 for what concerns all accounts of a broker.
    pub account: i64,
    /// What happened.
    pub event: JournalEvent,
}
