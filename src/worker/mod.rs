//! The worker: wires the adapters, and stops them in order.
//!
//! ```text
//! consumer ─ commits desired state          keeper ─ lock connection, claims
//!     │ NOTIFY                                 │ lost: ReleaseAll
//!     ▼                                        ▼
//! hints ──→ coordinator ── Start, Stop ──→ link (demo), link (live) ──→ outbox ──→ writer
//!     ▲          │ ends soon                   │ refused  ▲
//!     │ NOTIFY   ▼                             ▼          │ refresh
//!     └─ bridge.credentials ◄── refresher ◄────┴──────────┘
//! ```
//!
//! Stop order: consumer (deliveries in flight end and are acknowledged) → coordinator → links
//! (last figures, log-out, rows that no longer look live) → refresher (new tokens committed) → writer (last round) → keeper (claims
//! released) → health server. All within the grace; a second signal skips the waiting.

mod clock;
mod coordinator;
mod drain;
mod gauges;
mod hints;
mod keeper;
mod link;
mod links;
mod outbox;
mod refresher;
mod roster;
mod run;
mod serving;
mod setup;
mod status;
mod tally;
mod writer;

pub use gauges::metrics;
pub use run::run;
pub use setup::{StartError, WorkerConfig};
