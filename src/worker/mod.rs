//! The worker: wires the adapters, and stops them in order.
//!
//! ```text
//! consumer: commits desired state          lock keeper: lock connection, claims
//!     │ NOTIFY                                 │ lost: Suspend, ReleaseAll
//!     ▼                                        ▼
//! wakeups ─→ coordinator ── Start, Stop ──→ links (demo, live) ──→ outbox ──→ writer
//!     ▲          │ ExpiresSoon                 │ Refused  ▲
//!     │ NOTIFY   └────────────┐ ┌──────────────┘          │ Refresh
//!     │                       ▼ ▼                         │
//!     └─ bridge.credentials ◄─ refresher ─────────────────┘
//! ```
//!
//! Stop order: consumer (deliveries in flight end and are acknowledged) → coordinator → links
//! (last figures, log-out, rows that are no longer live) → refresher (new tokens
//! committed) → writer (last round) → lock keeper (claims released) → health server. All within the grace period; a
//! second signal ends the waiting.

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
