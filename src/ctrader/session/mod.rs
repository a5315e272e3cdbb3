//! One account on a connection: authorise → snapshot → prices → live.
//!
//! Events flow from the moment of authorisation, before the snapshot is complete. They are kept and
//! replayed over it, and their versions tell which of them it already has. A version that was jumped
//! over is an event that was lost: the account asks for a new snapshot then.
//!
//! | file | what it owns |
//! | --- | --- |
//! | `state` | the fields of a session, its phases, its deadline |
//! | `timer` | what is due when |
//! | `snapshot` | the first snapshot, and a new one after a gap |
//! | `events` | events: kept, applied, replayed |
//! | `prices` | symbols, conversion chains, subscriptions, first quotes |
//! | `deals`, `history`, `windows` | deals of events, and deals that no event reported |
//! | `verify`, `audit` | a second snapshot, and the server's own P&L |
//! | `row` | the account's row |

mod audit;
mod deals;
mod events;
mod history;
mod prices;
mod row;
mod snapshot;
mod state;
mod timer;
mod verify;
mod windows;

pub use audit::Audit;
pub use history::HistoryReport;
pub(super) use state::{Phase, Session, WireEvent};
pub(super) use windows::retry_pause;
