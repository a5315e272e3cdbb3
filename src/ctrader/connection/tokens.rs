//! Access and refresh tokens: what a token covers, and new pairs for refresh tokens.

use std::time::Instant;

use super::event::{Covered, Event, Refreshed, TokenPair};
use super::state::Connection;
use crate::ctrader::error::RequestError;
use crate::ctrader::frame::Frame;
use crate::ctrader::request::{Purpose, Request, accounts_of_token, refresh};
use crate::ctrader::wire::{ProtoOaGetAccountListByAccessTokenRes, ProtoOaRefreshTokenRes};
use crate::domain::ids::AccountId;
use crate::domain::secret::Secret;

impl Connection {
    /// Asks which accounts a token covers; [`Event::TokenVerified`] with the ticket follows.
    pub fn verify_token(&mut self, ticket: u64, token: &Secret, now: Instant) {
        self.push_when_ready(accounts_of_token(ticket, token));
        self.send_ready(now);
    }

    /// Spends a refresh token; [`Event::TokenRefreshed`] has the outcome, however late.
    pub fn refresh_token(&mut self, ticket: u64, token: &Secret, now: Instant) {
        if self.failed {
            self.events
                .push_back(Event::TokenRefreshed(ticket, Refreshed::Unsent));
        } else {
            self.push_when_ready(refresh(ticket, token));
        }
        self.send_ready(now);
    }

    fn push_when_ready(&mut self, request: Request) {
        if self.ready {
            self.push(request);
        } else {
            self.before_ready.push(request);
        }
    }

    pub(super) fn handle_token_verified(&mut self, ticket: u64, frame: &Frame) {
        let response = self.read::<ProtoOaGetAccountListByAccessTokenRes>(frame);
        let covered = response.ok_or(RequestError::Unreadable).map(|response| {
            let accounts = response.ctid_trader_account.iter().map(|entry| {
                let account = AccountId(entry.ctid_trader_account_id.cast_signed());
                (account, entry.is_live)
            });
            accounts.collect::<Covered>()
        });
        self.events.push_back(Event::TokenVerified(ticket, covered));
    }

    pub(super) fn handle_refreshed(&mut self, ticket: u64, frame: &Frame) {
        let refreshed = match self.read::<ProtoOaRefreshTokenRes>(frame) {
            Some(response)
                if !response.access_token.is_empty() && !response.refresh_token.is_empty() =>
            {
                Refreshed::Pair(TokenPair {
                    access: Secret::new(response.access_token),
                    refresh: Secret::new(response.refresh_token),
                    expires_in_secs: response.expires_in,
                })
            }
            _ => Refreshed::Unreadable,
        };
        self.events
            .push_back(Event::TokenRefreshed(ticket, refreshed));
    }

    /// Tells what became of refresh tokens when the connection ends: a request that had left may have been
    /// carried out, one that had not was not.
    pub(super) fn lose_refreshes(&mut self) {
        let of = |request: &Request| match request.purpose {
            Purpose::Refresh { ticket } => Some(ticket),
            Purpose::Application | Purpose::Account { .. } | Purpose::Token { .. } => None,
        };
        let mut unsent: Vec<u64> = self.before_ready.iter().filter_map(of).collect();
        unsent.extend(self.delayed.iter().filter_map(|(_, request)| of(request)));
        self.throttle.retain(|request| {
            let ticket = of(request);
            unsent.extend(ticket);
            ticket.is_none()
        });
        let lost: Vec<u64> = self
            .pending
            .values()
            .filter_map(|pending| of(&pending.request))
            .collect();
        self.before_ready.clear();
        self.delayed.clear();
        self.pending.clear();
        for (tickets, refreshed) in [(unsent, Refreshed::Unsent), (lost, Refreshed::Lost)] {
            for ticket in tickets {
                self.events
                    .push_back(Event::TokenRefreshed(ticket, refreshed.clone()));
            }
        }
    }
}
