//! How the tasks of a worker reach one another: messages and their senders. The ground floor: no task
//! imports another one.

pub(in crate::worker) mod links;
pub(in crate::worker) mod wakeups;
