//! Who may ask what on a connection (nobody → application → accounts), and how sessions end.

use crate::ctrader::wire::{self, ProtoOaPayloadType as PayloadType};
use crate::sim::state::broker::Broker;
use crate::sim::state::connection::ConnId;
use crate::sim::state::faults::UnauthorisedReply;
use crate::sim::state::refusal::Refusal;
use crate::sim::state::request::Request;
use crate::sim::state::tokens::TokenStatus;
use crate::sim::world::spec::Environment;

pub(super) const INVALID_TOKEN: &str = "CH_ACCESS_TOKEN_INVALID";

impl Broker {
    /// The application must be authenticated on the socket.
    pub(super) fn require_app(&self, request: &Request) -> Result<(), Refusal> {
        if self.app_of(request.conn).is_some() {
            return Ok(());
        }
        Err(Refusal::new("CH_CLIENT_NOT_AUTHENTICATED").description("Client is not authenticated"))
    }

    /// The account must be authorised on the socket.
    pub(super) fn require_account(&self, request: &Request, account: i64) -> Result<(), Refusal> {
        self.require_app(request)?;
        let known = self
            .conns
            .get(&request.conn)
            .is_some_and(|conn| conn.accounts.contains_key(&account));
        if known && self.accounts.contains_key(&account) {
            return Ok(());
        }
        Err(match self.faults.unauthorised_reply {
            UnauthorisedReply::Code => Refusal::new("ACCOUNT_NOT_AUTHORIZED").account(account),
            UnauthorisedReply::Text => Refusal::new("INVALID_REQUEST")
                .description("Trading account is not authorized")
                .account(account),
        })
    }

    /// The account must be authorised by a token that may trade, and be allowed to.
    pub(super) fn require_trading(&self, request: &Request, account: i64) -> Result<(), Refusal> {
        self.require_account(request, account)?;
        let grant = self
            .conns
            .get(&request.conn)
            .and_then(|conn| conn.accounts.get(&account));
        let may = grant
            .and_then(|index| self.grants.get(*index))
            .is_some_and(|grant| grant.trade);
        if !may {
            return Err(Refusal::new("INVALID_REQUEST")
                .description("Trade permission is required for this operation")
                .account(account));
        }
        let no_trading = i32::from(wire::ProtoOaAccessRights::NoTrading);
        if self
            .accounts
            .get(&account)
            .is_some_and(|account| account.access_rights >= no_trading)
        {
            return Err(Refusal::new("TRADING_NOT_ALLOWED").account(account));
        }
        Ok(())
    }

    fn app_of(&self, conn: ConnId) -> Option<&String> {
        self.conns.get(&conn).and_then(|conn| conn.app.as_ref())
    }

    pub(super) fn on_application_auth(&mut self, request: &Request) -> Result<(), Refusal> {
        let body: wire::ProtoOaApplicationAuthReq = request.parse()?;
        match self.apps.get(&body.client_id) {
            None => {
                return Err(Refusal::new("CH_OA_CLIENT_NOT_FOUND")
                    .description("Open API client is not found"));
            }
            Some(secret) if *secret != body.client_secret => {
                return Err(Refusal::new("CH_CLIENT_AUTH_FAILURE")
                    .description("clientId or clientSecret is incorrect"));
            }
            Some(_) => {}
        }
        if self.app_of(request.conn).is_some() {
            return Err(Refusal::new("CH_CLIENT_ALREADY_AUTHENTICATED")
                .description("Already authenticated"));
        }
        let used = self
            .conns
            .values()
            .filter(|conn| conn.app.as_ref() == Some(&body.client_id))
            .count();
        if used >= self.settings().connection_cap {
            return Err(
                Refusal::new("CONNECTIONS_LIMIT_EXCEEDED").description("Too many connections")
            );
        }
        if let Some(conn) = self.conns.get_mut(&request.conn) {
            conn.app = Some(body.client_id);
        }
        self.reply(
            request,
            PayloadType::ProtoOaApplicationAuthRes,
            &wire::ProtoOaApplicationAuthRes::default(),
        );
        Ok(())
    }

    fn check_token(&self, token: &str) -> Result<usize, Refusal> {
        match self.grants.status(token, self.now) {
            TokenStatus::Valid(index) => Ok(index),
            TokenStatus::Expired if !self.faults.expired_as_invalid => {
                Err(Refusal::new("OA_AUTH_TOKEN_EXPIRED").description("Access token is expired"))
            }
            TokenStatus::Expired | TokenStatus::Unknown => {
                Err(Refusal::new(INVALID_TOKEN).description("Invalid access token"))
            }
        }
    }

    pub(super) fn on_account_auth(&mut self, request: &Request) -> Result<(), Refusal> {
        self.require_app(request)?;
        let body: wire::ProtoOaAccountAuthReq = request.parse()?;
        let id = body.ctid_trader_account_id;
        let grant = self
            .check_token(&body.access_token)
            .map_err(|refusal| refusal.account(id))?;
        let Some(account) = self.accounts.get(&id) else {
            return Err(Refusal::new("CH_CTID_TRADER_ACCOUNT_NOT_FOUND").account(id));
        };
        if !self
            .grants
            .get(grant)
            .is_some_and(|grant| grant.accounts.contains(&id))
        {
            return Err(Refusal::new("ACCOUNT_NOT_AUTHORIZED").account(id));
        }
        if account.disabled {
            return Err(Refusal::new("RET_ACCOUNT_DISABLED").account(id));
        }
        let environment = account.environment;
        let Some(conn) = self.conns.get_mut(&request.conn) else {
            return Ok(());
        };
        if conn.environment != environment {
            return Err(Refusal::new("CANT_ROUTE_REQUEST")
                .description("Cannot route request")
                .account(id));
        }
        if conn.accounts.contains_key(&id) {
            return Err(Refusal::new("ALREADY_LOGGED_IN")
                .description("Trading account is already authorized in this channel")
                .account(id));
        }
        conn.accounts.insert(id, grant);
        let body = wire::ProtoOaAccountAuthRes {
            payload_type: None,
            ctid_trader_account_id: id,
        };
        self.reply(request, PayloadType::ProtoOaAccountAuthRes, &body);
        Ok(())
    }

    pub(super) fn on_account_list(&mut self, request: &Request) -> Result<(), Refusal> {
        self.require_app(request)?;
        let body: wire::ProtoOaGetAccountListByAccessTokenReq = request.parse()?;
        let grant = self.check_token(&body.access_token)?;
        let Some(grant) = self.grants.get(grant) else {
            return Ok(());
        };
        let listed = grant.accounts.iter().filter_map(|id| {
            let account = self.accounts.get(id)?;
            let venue = self.venues.get(account.venue)?;
            Some(wire::ProtoOaCtidTraderAccount {
                ctid_trader_account_id: id.cast_unsigned(),
                is_live: Some(account.environment == Environment::Live),
                trader_login: Some(account.login),
                last_closing_deal_timestamp: account.last_closing_ms(),
                last_balance_update_timestamp: account
                    .cash
                    .last()
                    .map(|flow| flow.change_balance_timestamp),
                broker_title_short: Some(venue.title.clone()),
            })
        });
        let reply = wire::ProtoOaGetAccountListByAccessTokenRes {
            payload_type: None,
            access_token: body.access_token,
            permission_scope: Some(i32::from(grant.trade)),
            ctid_trader_account: listed.collect(),
        };
        self.reply(
            request,
            PayloadType::ProtoOaGetAccountsByAccessTokenRes,
            &reply,
        );
        Ok(())
    }

    /// Ends one session of one account with 2164; its subscriptions end too.
    pub(crate) fn end_session(&mut self, conn: ConnId, account: i64) {
        let Some(socket) = self.conns.get_mut(&conn) else {
            return;
        };
        if socket.accounts.remove(&account).is_none() {
            return;
        }
        let symbols: Vec<i64> = socket
            .spots
            .keys()
            .filter(|(id, _)| *id == account)
            .map(|(_, s)| *s)
            .collect();
        socket.spots.retain(|(id, _), _| *id != account);
        for symbol in symbols {
            self.remove_subscriber(conn, account, symbol);
        }
        let body = wire::ProtoOaAccountDisconnectEvent {
            payload_type: None,
            ctid_trader_account_id: account,
        };
        self.push_to(conn, PayloadType::ProtoOaAccountDisconnectEvent, &body);
    }

    pub(super) fn on_logout(&mut self, request: &Request) -> Result<(), Refusal> {
        let body: wire::ProtoOaAccountLogoutReq = request.parse()?;
        let account = body.ctid_trader_account_id;
        self.require_account(request, account)?;
        let reply = wire::ProtoOaAccountLogoutRes {
            payload_type: None,
            ctid_trader_account_id: account,
        };
        self.reply(request, PayloadType::ProtoOaAccountLogoutRes, &reply);
        self.end_session(request.conn, account);
        Ok(())
    }
}
