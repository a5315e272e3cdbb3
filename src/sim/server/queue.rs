//! The bounded queue between the broker and one socket's task.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::sim::state::connection::Close;

/// Messages that wait for one socket at most: a second of the heaviest stream a client is meant to bear.
pub const QUEUE_MAX: usize = 131_072;

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Bytes>,
    end: Option<Close>,
}

/// The way to one socket.
#[derive(Debug, Default)]
pub(super) struct SendQueue {
    queue: Mutex<Queue>,
    ready: Notify,
    /// The socket is to be reset at once, whatever it is doing.
    pub(super) reset: CancellationToken,
    /// The socket is to stand still.
    pub(super) frozen: CancellationToken,
}

/// What a socket's task has to do next.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) frames: VecDeque<Bytes>,
    pub(super) end: Option<Close>,
}

impl SendQueue {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a message; false if the queue is full, and then the socket is reset.
    pub(super) fn push(&self, frame: Bytes) -> bool {
        let mut queue = self.lock();
        if queue.frames.len() >= QUEUE_MAX {
            queue.frames.clear();
            self.reset.cancel();
            return false;
        }
        let first = queue.frames.is_empty();
        queue.frames.push_back(frame);
        if first {
            self.ready.notify_one();
        }
        true
    }

    /// Ends the socket after what is queued; a reset does not wait for that.
    pub(super) fn end(&self, how: Close) {
        if how == Close::Reset {
            self.reset.cancel();
            return;
        }
        self.lock().end = Some(how);
        self.ready.notify_one();
    }

    pub(super) fn freeze(&self) {
        self.frozen.cancel();
    }

    /// Waits until there is something to do, then takes all of it.
    ///
    /// # Cancel safety
    /// Safe: nothing is taken before the wait is over.
    pub(super) async fn next(&self) -> Batch {
        loop {
            {
                let mut queue = self.lock();
                if !queue.frames.is_empty() || queue.end.is_some() {
                    return Batch {
                        frames: std::mem::take(&mut queue.frames),
                        end: queue.end,
                    };
                }
            }
            self.ready.notified().await;
        }
    }
}
