//! How the tasks of a worker reach one another: the messages that each task takes, and the handles that send
//! them. The ground floor of the worker: no task imports another one, and only `lifecycle` knows them all.
//!
//! | who | takes | from |
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
