//! This worker's part of the fleet's budget of connections to cTrader: numbered locks on the lock connection.
//!
//! A worker keeps one for as long as it runs. Without a permit it can run no session, and claims nothing.

use std::collections::BTreeSet;

use tokio::sync::watch;
use tracing::{info, warn};

use crate::pg::PgError;
use crate::pg::claims::LockConnection;

/// The permits of one worker.
pub(in crate::worker) struct Permits {
    /// How many the fleet has.
    limit: u32,
    /// Numbers that the lock connection holds.
    numbers: Vec<i32>,
    /// Links that may have a connection.
    links: BTreeSet<usize>,
    /// Whether there is one at least.
    has_permit: watch::Sender<bool>,
    reported: bool,
}

impl Permits {
    pub(in crate::worker) fn new(limit: u32, has_permit: watch::Sender<bool>) -> Self {
        Self {
            limit,
            numbers: Vec::new(),
            links: BTreeSet::new(),
            has_permit,
            reported: false,
        }
    }

    /// Acquires as many permits as there were, on a new lock connection. Returns the links that have lost theirs.
    pub(super) async fn reacquire(
        &mut self,
        connection: &mut LockConnection,
    ) -> Result<Vec<usize>, PgError> {
        self.numbers.clear();
        while self.numbers.len() < self.links.len().max(1) {
            let Some(number) = connection.acquire_permit(self.limit).await? else {
                break;
            };
            self.numbers.push(number);
        }
        self.report();
        let mut without = Vec::new();
        while self.links.len() > self.numbers.len() {
            without.extend(self.links.pop_last());
        }
        Ok(without)
    }

    /// Acquires the first permit, if there is none yet.
    pub(super) async fn acquire_first(
        &mut self,
        connection: &mut LockConnection,
    ) -> Result<(), PgError> {
        if self.numbers.is_empty() {
            let first = connection.acquire_permit(self.limit).await?;
            self.numbers.extend(first);
            self.report();
        }
        Ok(())
    }

    /// Acquires a permit for a link. Returns whether the link may connect.
    pub(super) async fn acquire_for(
        &mut self,
        link: usize,
        connection: &mut LockConnection,
    ) -> Result<bool, PgError> {
        if !self.links.contains(&link) && self.links.len() >= self.numbers.len() {
            let Some(number) = connection.acquire_permit(self.limit).await? else {
                return Ok(false);
            };
            self.numbers.push(number);
            self.report();
        }
        self.links.insert(link);
        Ok(true)
    }

    /// Releases the permit of a link that has no connection any more.
    pub(super) async fn return_permit(
        &mut self,
        link: usize,
        connection: &mut LockConnection,
    ) -> Result<(), PgError> {
        self.links.remove(&link);
        while self.numbers.len() > self.links.len().max(1) {
            if let Some(number) = self.numbers.pop() {
                connection.release_permit(number).await?;
            }
        }
        Ok(())
    }

    fn report(&mut self) {
        let has_permit = !self.numbers.is_empty();
        let changed = self.has_permit.send_if_modified(|before| {
            let changed = *before != has_permit;
            *before = has_permit;
            changed
        });
        if !has_permit && (changed || !self.reported) {
            self.reported = true;
            warn!(
                limit = self.limit,
                "all connections to cTrader are taken: this worker claims nothing until one is free"
            );
        } else if has_permit && changed {
            info!(
                limit = self.limit,
                "this worker has a permit to connect to cTrader"
            );
        }
    }
}
