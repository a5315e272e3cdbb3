//! What the tests of a roster share: assignments, a connection, and what was sent over it.

mod history;
mod outages;
mod retrying;
mod sharing;

use std::time::Duration;

use prost::Message;

use super::*;
use crate::ctrader::connection::{ConnectionConfig, Covered, Down, HistoryReport, Transmit};
use crate::ctrader::error::Refusal;
use crate::ctrader::frame;
use crate::ctrader::wire::{
    ProtoOaAccountAuthReq, ProtoOaAccountDisconnectEvent, ProtoOaApplicationAuthRes,
    ProtoOaGetAccountListByAccessTokenReq, ProtoOaPayloadType as Type,
};
use crate::domain::clock::WallClock;
use crate::domain::fence::HistoryMark;
use crate::domain::ids::UserId;
use crate::domain::ledger::LastSeen;
use crate::domain::row::SessionState;
use crate::domain::secret::Secret;
use crate::domain::status::Status;
use crate::worker::handles::link::Assignment;

const ACCOUNT: AccountId = AccountId(17);
const WALL_MS: i64 = 1_750_000_000_000;
const POLICY: RetryPolicy = RetryPolicy {
    attempts_max: 3,
    failed_pause: Duration::from_mins(5),
};

fn clock(now: Instant) -> WallClock {
    WallClock::from_unix_ms(now, WALL_MS)
}

fn assignment(user: &str, token: &str) -> Assignment {
    assignment_of(ACCOUNT, user, token)
}

fn assignment_of(account: AccountId, user: &str, token: &str) -> Assignment {
    let user = UserId::new(user).expect("valid");
    Assignment {
        fence: Fence::new(&SessionKey { user, account }, 1),
        is_demo: true,
        token: Secret::new(token),
        through_ms: None,
        last_seen: LastSeen::default(),
        standby: false,
    }
}

/// What a token covers that covers one demo account.
fn covering(account: AccountId) -> Covered {
    Covered::from([(account, Some(false))])
}

fn key(user: &str) -> SessionKey {
    assignment(user, "").fence.key
}

/// A connection whose application is authorised.
fn connection(now: Instant) -> Connection {
    let config = ConnectionConfig {
        client_id: "id".to_owned(),
        client_secret: Secret::new("secret"),
        request_rate: 45,
        history_rate: 4,
    };
    let mut connection = Connection::new(&config, 1, clock(now));
    let transmit = connection.poll_transmit();
    let Some(Transmit::Message(bytes)) = transmit else {
        panic!("no authorisation: {transmit:?}")
    };
    let tag = frame::decode(bytes).expect("a frame").client_msg_id;
    let response = ProtoOaApplicationAuthRes::default().encode_to_vec();
    let response = frame::encode(
        frame::number(Type::ProtoOaApplicationAuthRes),
        response.into(),
        tag,
    );
    connection.handle_message(response, now);
    while connection.poll_event().is_some() {}
    connection
}

/// The tokens that were sent, and for what.
fn sent(connection: &mut Connection) -> Vec<(&'static str, String)> {
    let mut sent = Vec::new();
    while let Some(transmit) = connection.poll_transmit() {
        let Transmit::Message(bytes) = transmit else {
            continue;
        };
        let frame = frame::decode(bytes).expect("a frame");
        if frame.payload_type == frame::number(Type::ProtoOaAccountAuthReq) {
            let request = ProtoOaAccountAuthReq::decode(frame.payload).expect("a request");
            sent.push(("authorise", request.access_token));
        } else if frame.payload_type == frame::number(Type::ProtoOaGetAccountsByAccessTokenReq) {
            let request =
                ProtoOaGetAccountListByAccessTokenReq::decode(frame.payload).expect("a request");
            sent.push(("verify", request.access_token));
        } else if frame.payload_type == frame::number(Type::ProtoOaAccountLogoutReq) {
            sent.push(("log out", String::new()));
        }
    }
    sent
}

/// cTrader confirms the log-out of the account: it drops the session.
fn confirm_log_out(roster: &mut Roster, connection: &mut Connection, now: Instant) {
    let gone = ProtoOaAccountDisconnectEvent {
        ctid_trader_account_id: ACCOUNT.0,
        ..Default::default()
    };
    let gone = frame::encode(
        frame::number(Type::ProtoOaAccountDisconnectEvent),
        gone.encode_to_vec().into(),
        None,
    );
    connection.handle_message(gone, now);
    roster.handle_down(ACCOUNT, &Down::LoggedOut, 0.5, connection, now);
}

/// `a` authorised the account, `b` shares it, and both are live.
fn shared(now: Instant) -> (Roster, Connection) {
    let (mut roster, mut connection) = (Roster::new(POLICY, clock(now)), connection(now));
    roster.start(assignment("a", "token-a"), Some(&mut connection), now);
    roster.start(assignment("b", "token-b"), Some(&mut connection), now);
    roster.handle_live(ACCOUNT, &mut connection, now);
    roster.handle_token_verified(1, &Ok(covering(ACCOUNT)), 0.5, &mut connection, now);
    assert_eq!(live_users(&roster), [key("a"), key("b")]);
    sent(&mut connection);
    (roster, connection)
}

fn owned(sent: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
    sent.iter()
        .map(|(what, token)| (*what, (*token).to_owned()))
        .collect()
}

fn live_users(roster: &Roster) -> Vec<SessionKey> {
    roster
        .live()
        .map(|session| session.fence.key.clone())
        .collect()
}

fn last_status(roster: &mut Roster, user: &str) -> Option<SessionState> {
    let updates = roster.take_status_updates();
    updates
        .into_iter()
        .rfind(|update| update.fence.key == key(user))
        .map(|update| update.state)
}
