//! How the tasks of a worker reach one another: the messages that each task receives, and the handles that
//! send them. No task imports another one; only `lifecycle` knows them all.
//!
//! | task | receives | from |
//! | --- | --- | --- |
//! | a link | [`link::LinkCommand`] | ownership, the token refresher, the drain |
//! | the lock keeper | [`locks::LockRequest`] | ownership, links |
//! | the token refresher | [`renewals::RenewalRequest`] | ownership, links |
//! | ownership | [`findings::Finding`], [`wakeups::Wakeup`] | the writer; links, Postgres' notifications |

pub(in crate::worker) mod findings;
pub(in crate::worker) mod link;
pub(in crate::worker) mod locks;
pub(in crate::worker) mod renewals;
pub(in crate::worker) mod wakeups;
