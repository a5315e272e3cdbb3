//! Access and refresh tokens: what a token covers, and new pairs for refresh tokens.

use std::time::Instant;

use super::event::{Event, Refreshed, TokenPair};
use super::state::Connection;
use crate::ctrader::error::Refusal;
use crate::ctrader::frame::Frame;
use crate::ctrader::request::{Purpose, Request, accounts_of_token, refresh};
use crate::ctrader::wire::ProtoOaRefreshTokenRes;
use crate::domain::secret::Secret;

impl Connection {
    /// Asks which accounts a token covers; [`Event::TokenVerified`] answers with the ticket.
    pub fn verify_token(&mut self, ticket: u64, token: &Secret, now: Instant) {
        let question = accounts_of_token(ticket, token);
        if self.ready {
            self.push(question);
        } else {
            self.unasked.push(question);
        }
        self.pump(now);
    }

    /// Spends a refresh token; [`Event::TokenRefreshed`] tells what became of it, however late.
    pub fn refresh_token(&mut self, ticket: u64, token: &Secret, now: Instant) {
        let request = refresh(ticket, token);
        if self.failed {
            self.events
                .push_back(Event::TokenRefreshed(ticket, Refreshed::Unsent));
        } else if self.ready {
            self.push(request);
        } else {
            self.unasked.push(request);
        }
        self.pump(now);
    }

    pub(super) fn handle_refreshed(&mut self, ticket: u64, frame: &Frame) {
        let refreshed = match self.read::<ProtoOaRefreshTokenRes>(frame) {
            Some(answer) if !answer.access_token.is_empty() && !answer.refresh_token.is_empty() => {
                Refreshed::Pair(TokenPair {
                    access: Secret::new(answer.access_token),
                    refresh: Secret::new(answer.refresh_token),
                    expires_in_secs: answer.expires_in,
                })
            }
            // It is spent, and what it was spent for cannot be read.
            _ => Refreshed::Refused(Refusal::with_code("UNREADABLE_ANSWER")),
        };
        self.events
            .push_back(Event::TokenRefreshed(ticket, refreshed));
    }

    /// The connection is over: what had left may have been done, what had not was not.
    pub(super) fn lose_refreshes(&mut self) {
        let of = |request: &Request| match request.purpose {
            Purpose::Refresh { ticket } => Some(ticket),
            Purpose::Application | Purpose::Account { .. } | Purpose::Token { .. } => None,
        };
        let mut unsent: Vec<u64> = self.unasked.iter().filter_map(of).collect();
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
        self.unasked.clear();
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
