//! Refreshing tokens, and what ends with them.

use crate::ctrader::wire::{self, ProtoOaPayloadType as PayloadType};
use crate::sim::state::broker::Broker;
use crate::sim::state::faults::TokenRefreshEffect;
use crate::sim::state::refusal::Refusal;
use crate::sim::state::request::Request;
use crate::sim::state::tokens::ACCESS_TOKEN_LIFETIME;

use super::auth::INVALID_TOKEN;

impl Broker {
    pub(super) fn on_refresh(&mut self, request: &Request) -> Result<(), Refusal> {
        self.require_app(request)?;
        let body: wire::ProtoOaRefreshTokenReq = request.parse()?;
        let Some((access_token, refresh_token)) = self.refresh_elsewhere(&body.refresh_token)
        else {
            return Err(Refusal::new(INVALID_TOKEN).description("Invalid refresh token"));
        };
        let reply = wire::ProtoOaRefreshTokenRes {
            payload_type: None,
            access_token,
            token_type: "bearer".to_owned(),
            expires_in: i64::try_from(ACCESS_TOKEN_LIFETIME.as_secs()).unwrap_or(i64::MAX),
            refresh_token,
        };
        self.reply(request, PayloadType::ProtoOaRefreshTokenRes, &reply);
        Ok(())
    }

    /// Refreshes a grant as another process would over HTTP: `(access, refresh)`, or `None` if the
    /// refresh token is spent, revoked or unknown.
    pub fn refresh_elsewhere(&mut self, refresh_token: &str) -> Option<(String, String)> {
        let index = self.grants.rotate(refresh_token, self.now)?;
        let pair = self.tokens(index)?;
        if self.faults.token_refresh_effect == TokenRefreshEffect::EndsSessions {
            self.invalidate(index, "Access token was refreshed");
        }
        Some(pair)
    }

    pub(crate) fn tokens(&self, grant: usize) -> Option<(String, String)> {
        self.grants
            .get(grant)
            .map(|grant| (grant.access.clone(), grant.refresh.clone()))
    }

    /// Ends every session of a grant: 2147 per socket, then 2164 per account.
    pub(crate) fn invalidate(&mut self, grant: usize, reason: &str) {
        for conn in self.open_connections() {
            let Some(socket) = self.conns.get(&conn) else {
                continue;
            };
            let hit: Vec<i64> = socket
                .accounts
                .iter()
                .filter(|(_, by)| **by == grant)
                .map(|(account, _)| *account)
                .collect();
            if hit.is_empty() {
                continue;
            }
            let body = wire::ProtoOaAccountsTokenInvalidatedEvent {
                payload_type: None,
                ctid_trader_account_ids: hit.clone(),
                reason: Some(reason.to_owned()),
            };
            self.push_to(
                conn,
                PayloadType::ProtoOaAccountsTokenInvalidatedEvent,
                &body,
            );
            for account in hit {
                self.end_session(conn, account);
            }
        }
    }
}
