//! Scripts tokens: revokes them, lets them expire, takes their right to trade.

use std::time::Duration;

use crate::sim::state::broker::Broker;

impl Broker {
    /// Returns the valid `(access, refresh)` pair of the first grant that covers an account.
    pub fn tokens_of(&self, account: i64) -> Option<(String, String)> {
        self.tokens(*self.grants.of_account(account).first()?)
    }

    /// Revokes the grant of an access token. It authorises nothing any more, and its open sessions end.
    pub fn revoke(&mut self, access_token: &str) {
        if let Some(index) = self.grants.by_access(access_token) {
            if let Some(grant) = self.grants.get_mut(index) {
                grant.revoked = true;
            }
            self.invalidate(index, "Access token was revoked");
        }
    }

    /// Makes an access token expire this much from now. Open sessions stay.
    pub fn expire_token_in(&mut self, access_token: &str, left: Duration) {
        let end = self.now + left;
        if let Some(index) = self.grants.by_access(access_token)
            && let Some(grant) = self.grants.get_mut(index)
        {
            grant.expires = Some(end);
        }
    }

    /// Sets whether the grant of a token may trade (`SCOPE_TRADE`) or only read (`SCOPE_VIEW`).
    pub fn token_may_trade(&mut self, access_token: &str, may: bool) {
        self.grants.ensure(access_token).trade = may;
    }
}
