//! What a connection tells its link: about sessions, deals, and tokens.

use std::time::Instant;

use tracing::{debug, info, warn};

use super::context::LinkContext;
use super::replies::Exchange;
use crate::ctrader::connection::{Audit, ConnectionError, Event, HistoryReport};
use crate::domain::ids::AccountId;

impl LinkContext {
    /// The socket is over: writes what the connection still has to tell, in rows that no longer look live and in
    /// deals, and replies to those who asked about tokens.
    pub(super) fn flush_on_close(&mut self, exchange: &mut Exchange) {
        self.handle_events(exchange);
        self.put_rows(&exchange.connection, false, |_| true);
        self.roster.save_all_last_seen(&exchange.connection);
        exchange.connection.finish();
        self.handle_events(exchange);
    }

    /// Handles the connection's events; returns the failure that ends the connection.
    pub(super) fn handle_events(&mut self, exchange: &mut Exchange) -> Option<ConnectionError> {
        while let Some(event) = exchange.connection.poll_event() {
            let now = Instant::now();
            let connection = &mut exchange.connection;
            match event {
                Event::Ready => {
                    self.roster.handle_ready();
                    self.status.set_connected(true);
                    info!(link = self.name, "connected to cTrader");
                }
                Event::Live(account) => {
                    exchange.reached_live = true;
                    info!(link = self.name, %account, "session live");
                    self.roster.handle_live(account, connection, now);
                }
                Event::Behind(account) => {
                    warn!(link = self.name, %account, "an event was lost: the account is read anew");
                    self.roster.handle_gap_detected(account);
                }
                Event::Down(account, down) => {
                    info!(link = self.name, %account, reason = %down, "session down");
                    self.roster
                        .handle_down(account, &down, rand::random(), connection, now);
                }
                Event::Deal(account, source, deal) => self.put_deal(account, source, &deal),
                Event::Amended(account) => {
                    info!(link = self.name, %account, "a later snapshot differs: its deals are looked for");
                    self.roster
                        .handle_snapshot_diverged(account, connection, now);
                }
                Event::History(account, report) => self.handle_history(account, &report, now),
                Event::Audited(account, audit) => self.handle_audit(account, audit),
                Event::TokenVerified(ticket, answer) => {
                    if let Some(reply_to) = exchange.replies.take_verification(ticket) {
                        // Who no longer waits asks again.
                        let _ = reply_to.send(answer);
                    } else {
                        let jitter = rand::random();
                        self.roster
                            .handle_token_verified(ticket, &answer, jitter, connection, now);
                        self.roster.handle_timeout(Some(connection), now);
                    }
                }
                Event::TokenRefreshed(ticket, refreshed) => {
                    if let Some(reply_to) = exchange.replies.take_refresh(ticket) {
                        let _ = reply_to.send(refreshed);
                    }
                }
                Event::Following(is_following) => {
                    if is_following {
                        info!(link = self.name, "cTrader sends again");
                    } else {
                        warn!(link = self.name, "cTrader has gone silent");
                    }
                    self.roster.handle_following(is_following);
                }
                Event::Failed(failure) => return Some(failure),
            }
        }
        None
    }

    fn handle_history(&mut self, account: AccountId, report: &HistoryReport, now: Instant) {
        let marks = self.roster.handle_history(account, report, now);
        if let Some(left) = report.unexplained {
            warn!(
                link = self.name, %account, changes = left.changes, positions = left.positions,
                "neither deals nor cash operations explain all that changed"
            );
        } else if report.is_partial {
            warn!(link = self.name, %account, "a part of the history cannot be read");
        } else {
            debug!(link = self.name, %account, sessions = marks.len(), "history is complete");
        }
        for mark in marks {
            self.outbox.put_mark(mark);
        }
        self.outbox.wake();
    }

    fn handle_audit(&self, account: AccountId, audit: Audit) {
        self.metrics.audited(audit.drift.to_f64());
        if audit.is_excessive {
            warn!(
                link = self.name, %account, drift = %audit.drift, positions = audit.positions,
                "our P&L differs from the server's"
            );
        }
    }
}
