//! What a connection tells its link: about sessions, deals, and tokens.

use std::time::Instant;

use tokio::sync::oneshot;
use tracing::{debug, info, warn};

use super::{Askers, Link};
use crate::ctrader::connection::{
    Audit, Connection, ConnectionError, Covered, Event, HistoryReport, Refreshed,
};
use crate::ctrader::error::RequestError;
use crate::domain::ids::AccountId;
use crate::worker::credentials::refresher::{RefreshRequest, Why};
use crate::worker::link::roster::{Roster, Want};

impl Askers {
    /// A ticket for a refresh token.
    pub(super) fn await_refresh(&mut self, asker: oneshot::Sender<Refreshed>) -> u64 {
        self.next += 1;
        self.refreshes.insert(self.next, asker);
        self.next
    }

    /// A ticket for a question about an access token.
    pub(super) fn await_answer(
        &mut self,
        asker: oneshot::Sender<Result<Covered, RequestError>>,
    ) -> u64 {
        self.next += 1;
        self.verifications.insert(self.next, asker);
        self.next
    }

    /// Whether somebody waits for what became of a refresh token.
    pub(super) fn wait(&self) -> bool {
        !self.refreshes.is_empty()
    }
}

impl Link {
    /// The socket is over: what it still had to say, in rows that no longer look live, in deals, and to
    /// those who asked about tokens.
    pub(super) fn last_words(
        &self,
        roster: &mut Roster,
        mut connection: Connection,
        askers: &mut Askers,
        failures: &mut u32,
    ) {
        self.handle_events(roster, &mut connection, askers, failures);
        self.put_rows(roster, &connection, false, |_| true);
        roster.remember_all(&connection);
        connection.finish();
        self.handle_events(roster, &mut connection, askers, failures);
    }

    /// Handles what the connection tells; gives back why it is of no more use.
    pub(super) fn handle_events(
        &self,
        roster: &mut Roster,
        connection: &mut Connection,
        askers: &mut Askers,
        failures: &mut u32,
    ) -> Option<ConnectionError> {
        while let Some(event) = connection.poll_event() {
            let now = Instant::now();
            match event {
                Event::Ready => {
                    roster.handle_ready();
                    self.status.set_connected(true);
                    info!(link = self.name, "connected to cTrader");
                }
                Event::Live(account) => {
                    // Not before: a server may take the application in and still drop us each time.
                    *failures = 0;
                    info!(link = self.name, %account, "session live");
                    roster.handle_live(account, connection, now);
                }
                Event::GapDetected(account) => {
                    warn!(link = self.name, %account, "an event was lost: the account is read anew");
                    roster.handle_behind(account);
                }
                Event::Down(account, down) => {
                    info!(link = self.name, %account, reason = %down, "session down");
                    roster.handle_down(account, &down, rand::random(), connection, now);
                }
                Event::Deal(account, source, deal) => self.put_deal(roster, account, source, &deal),
                Event::SnapshotDiverged(account) => {
                    info!(link = self.name, %account, "a later snapshot differs: its deals are looked for");
                    roster.handle_amended(account, connection, now);
                }
                Event::History(account, report) => {
                    self.handle_history(roster, account, &report, now);
                }
                Event::Audited(account, audit) => self.handle_audit(account, audit),
                Event::TokenVerified(ticket, answer) => {
                    if let Some(asker) = askers.verifications.remove(&ticket) {
                        // Who no longer waits asks again.
                        let _ = asker.send(answer);
                    } else {
                        roster.handle_token_verified(
                            ticket,
                            &answer,
                            rand::random(),
                            connection,
                            now,
                        );
                        roster.handle_timeout(Some(connection), now);
                    }
                }
                Event::TokenRefreshed(ticket, refreshed) => {
                    if let Some(asker) = askers.refreshes.remove(&ticket) {
                        let _ = asker.send(refreshed);
                    }
                }
                Event::Following(following) => {
                    if following {
                        info!(link = self.name, "cTrader speaks again");
                    } else {
                        warn!(link = self.name, "cTrader has gone silent");
                    }
                    roster.handle_following(following);
                }
                Event::Failed(failure) => return Some(failure),
            }
        }
        None
    }

    fn handle_history(
        &self,
        roster: &mut Roster,
        account: AccountId,
        report: &HistoryReport,
        now: Instant,
    ) {
        let marks = roster.handle_history(account, report, now);
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

    /// Passes on what the roster cannot do by itself.
    pub(super) fn pass_on(&self, roster: &mut Roster) {
        for want in roster.take_wants() {
            match want {
                Want::Reload(key) => self.hints.slot(key.user.slot()),
                Want::Renew(key, token) => {
                    let request = RefreshRequest {
                        key,
                        why: Why::Refused(token),
                    };
                    // See the field.
                    let _ = self.refresher.try_send(request);
                }
            }
        }
    }
}
