//! Scripts tokens: revokes them, lets them expire, takes their right to trade.

use std::time::Duration;

use crate::sim::state::broker::Broker;

impl Broker {
    /// The living `(access, refresh)` pair that opens an account, by its first grant.
    pub fn tokens_of(&self, account: i64) -> Option<(String, String)> {
        self.tokens(*self.grants.of_account(account).first()?)
    }

    /// Revokes the grant of an access token: it opens nothing any more, open sessions end (2147, 2164).
    pub fn revoke(&mut self, access_token: &str) {
        if let Some(index) = self.grants.by_access(access_token) {
            if let Some(grant) = self.grants.get_mut(index) {
                grant.revoked = true;
            }
            self.invalidate(index, "Access token was revoked");
        }
    }

    /// The access token expires this much from now; open sessions stay.
    pub fn expire_token_in(&mut self, access_token: &str, left: Duration) {
        let end = self.now + left;
        if let Some(index) = self.grants.by_access(access_token)
            && let Some(grant) = self.grants.get_mut(index)
        {
            grant.expires = Some(end);
        }
    }

    /// Whether the grant of this token may trade (`SCOPE_TRADE`) or only look (`SCOPE_VIEW`).
    pub fn token_may_trade(&mut self, access_token: &str, may: bool) {
        self.grants.ensure(access_token).trade = may;
    }
}
