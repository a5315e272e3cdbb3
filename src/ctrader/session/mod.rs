//! One account on a connection: authorise → snapshot → prices → live.
//!
//! Events flow from the moment of authorisation, before the snapshot is complete: they are kept
//! and replayed over it, and their versions tell which of them it already has. A version that was
//! jumped over is an event that was lost: the account is read anew then. `prices` has what it takes
//! to value the account, `history` the deals that no event told of, `verify` the looks at whether
//! what is shown is so.

mod deals;
mod events;
mod history;
mod prices;
mod row;
mod snapshot;
mod state;
mod verify;
mod windows;

pub use history::HistoryReport;
pub(super) use state::{Phase, Session, WireEvent};
pub use verify::Audit;
pub(super) use windows::pause as history_pause;
