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

mod config;
mod credentials;
mod handles;
mod health;
mod lifecycle;
mod link;
mod ownership;
mod writing;

pub use config::{StartError, WorkerConfig};
pub use health::gauges::metrics;
pub use lifecycle::run;
