//! Rows of live accounts, for the driver.

use std::time::Instant;

use time::OffsetDateTime;

use super::state::Connection;
use crate::ctrader::session::Session;
use crate::domain::ids::AccountId;
use crate::domain::row::AccountRow;

impl Connection {
    /// The row of a live account as it is now. It counts as not taken: others may share it. `wall` is the
    /// wall clock's time at a moment.
    #[must_use]
    pub fn peek_row(
        &self,
        account: AccountId,
        wall: impl Fn(Instant) -> OffsetDateTime,
    ) -> Option<AccountRow> {
        let session = self.live(account)?;
        session.row(wall(session.event_at))
    }

    /// The row of a live account, if it differs from when it was last taken, or if
    /// `always`. `wall` is the wall clock's time at a moment.
    pub fn take_row(
        &mut self,
        account: AccountId,
        always: bool,
        wall: impl Fn(Instant) -> OffsetDateTime,
    ) -> Option<AccountRow> {
        let session = self.live_mut(account)?;
        if !session.changed && !always {
            return None;
        }
        session.changed = false;
        session.row(wall(session.event_at))
    }

    /// Whether an account follows the stream.
    #[must_use]
    pub fn is_live(&self, account: AccountId) -> bool {
        self.live(account).is_some()
    }

    /// Whether an account follows the stream, and quotes value each of its positions.
    #[must_use]
    pub fn is_valued(&self, account: AccountId) -> bool {
        self.live(account).is_some_and(Session::is_valued)
    }
}
