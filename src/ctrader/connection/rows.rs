//! Rows of live accounts, for the driver.

use std::time::Instant;

use time::OffsetDateTime;

use super::state::Connection;
use crate::ctrader::session::Session;
use crate::domain::ids::AccountId;
use crate::domain::row::AccountRow;

impl Connection {
    /// The row of a live account as it is now. It stays as due as it was: others may share it.
    #[must_use]
    pub fn peek_row(
        &self,
        account: AccountId,
        wall: impl Fn(Instant) -> OffsetDateTime,
    ) -> Option<AccountRow> {
        let session = self.live(account)?;
        session.row(wall(session.event_at))
    }

    /// Whether an account follows the stream.
    #[must_use]
    pub fn is_live(&self, account: AccountId) -> bool {
        self.live(account).is_some()
    }

    /// Whether an account follows the stream, and each of its positions is valued by quotes.
    #[must_use]
    pub fn is_valued(&self, account: AccountId) -> bool {
        self.live(account).is_some_and(Session::is_valued)
    }

    /// The row of a live account, if it says something else than when it was last taken, or if
    /// `always`. `wall` tells what time it was at an instant.
    pub fn take_row(
        &mut self,
        account: AccountId,
        always: bool,
        wall: impl Fn(Instant) -> OffsetDateTime,
    ) -> Option<AccountRow> {
        let session = self.live_session(account)?;
        if !session.changed && !always {
            return None;
        }
        session.changed = false;
        session.row(wall(session.event_at))
    }
}
