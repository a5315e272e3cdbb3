use prost::Message;

use super::*;
use crate::ctrader::connection::{ConnectionConfig, Covered, HistoryReport, Transmit};
use crate::ctrader::error::Refusal;
use crate::ctrader::frame;
use crate::ctrader::wire::{
    ProtoOaAccountAuthReq, ProtoOaAccountDisconnectEvent, ProtoOaApplicationAuthRes,
    ProtoOaGetAccountListByAccessTokenReq, ProtoOaPayloadType as Type,
};
use crate::domain::clock::WallClock;
use crate::domain::fence::HistoryMark;
use crate::domain::ids::UserId;
use crate::domain::status::Status;

const ACCOUNT: AccountId = AccountId(17);
const WALL_MS: i64 = 1_750_000_000_000;
const POLICY: RetryPolicy = RetryPolicy {
    attempts_max: 3,
    failed_pause: Duration::from_mins(5),
};

fn assignment(user: &str, token: &str) -> Assignment {
    let key = SessionKey {
        user: UserId::new(user).expect("valid"),
        account: ACCOUNT,
    };
    Assignment {
        fence: Fence::new(&key, 1),
        is_demo: true,
        token: Secret::new(token),
        through_ms: None,
        known: LastSeen::default(),
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
fn link(now: Instant) -> Connection {
    let config = ConnectionConfig {
        client_id: "id".to_owned(),
        client_secret: Secret::new("secret"),
        request_rate: 45,
        history_rate: 4,
    };
    let mut link = Connection::new(&config, 1, WallClock::from_unix_ms(now, WALL_MS));
    let asked = link.poll_transmit();
    let Some(Transmit::Message(bytes)) = asked else {
        panic!("no authorisation: {asked:?}")
    };
    let tag = frame::decode(bytes).expect("a frame").client_msg_id;
    let answer = ProtoOaApplicationAuthRes::default().encode_to_vec();
    let answer = frame::encode(
        frame::number(Type::ProtoOaApplicationAuthRes),
        answer.into(),
        tag,
    );
    link.handle_message(answer, now);
    while link.poll_event().is_some() {}
    link
}

/// The tokens that were sent, and for what.
fn sent(link: &mut Connection) -> Vec<(&'static str, String)> {
    let mut sent = Vec::new();
    while let Some(transmit) = link.poll_transmit() {
        let Transmit::Message(bytes) = transmit else {
            continue;
        };
        let frame = frame::decode(bytes).expect("a frame");
        if frame.payload_type == frame::number(Type::ProtoOaAccountAuthReq) {
            let ask = ProtoOaAccountAuthReq::decode(frame.payload).expect("a request");
            sent.push(("authorise", ask.access_token));
        } else if frame.payload_type == frame::number(Type::ProtoOaGetAccountsByAccessTokenReq) {
            let ask =
                ProtoOaGetAccountListByAccessTokenReq::decode(frame.payload).expect("a request");
            sent.push(("verify", ask.access_token));
        } else if frame.payload_type == frame::number(Type::ProtoOaAccountLogoutReq) {
            sent.push(("log out", String::new()));
        }
    }
    sent
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
    let says = roster.take_says();
    says.into_iter()
        .rfind(|say| say.fence.key == key(user))
        .map(|say| say.state)
}

#[test]
fn another_user_of_an_account_sees_it_only_by_their_own_right() {
    let now = Instant::now();
    let (mut roster, mut link) = (Roster::new(POLICY, now, WALL_MS), link(now));
    roster.start(assignment("a", "token-a"), Some(&mut link), now);
    roster.start(assignment("b", "token-b"), Some(&mut link), now);
    roster.start(assignment("c", "token-c"), Some(&mut link), now);
    assert_eq!(
        sent(&mut link),
        owned(&[
            ("authorise", "token-a"),
            ("verify", "token-b"),
            ("verify", "token-c")
        ])
    );
    roster.handle_live(ACCOUNT, &mut link, now);
    assert_eq!(live_users(&roster), [key("a")]);
    roster.handle_token_verified(1, &Ok(covering(ACCOUNT)), 0.5, &mut link, now);
    roster.handle_token_verified(2, &Ok(covering(AccountId(99))), 0.5, &mut link, now);
    assert_eq!(live_users(&roster), [key("a"), key("b")]);
    let refused = last_status(&mut roster, "c").expect("said");
    assert_eq!(refused.status, Status::Failed);
    assert!(
        refused
            .last_error
            .expect("a reason")
            .contains("does not cover")
    );
}

#[test]
fn when_the_bearer_leaves_the_others_go_on_by_their_own_token() {
    let now = Instant::now();
    let (mut roster, mut link) = (Roster::new(POLICY, now, WALL_MS), link(now));
    roster.start(assignment("a", "token-a"), Some(&mut link), now);
    roster.start(assignment("b", "token-b"), Some(&mut link), now);
    roster.handle_live(ACCOUNT, &mut link, now);
    roster.handle_token_verified(1, &Ok(covering(ACCOUNT)), 0.5, &mut link, now);
    // cTrader drops the account, as it does at the end of a log-out.
    sent(&mut link);
    assert!(roster.stop(&key("a"), Some(&mut link), now).is_some());
    assert!(roster.is_leaving());
    assert_eq!(sent(&mut link), owned(&[("log out", "")]));
    let gone = ProtoOaAccountDisconnectEvent {
        ctid_trader_account_id: ACCOUNT.0,
        ..Default::default()
    };
    let gone = frame::encode(
        frame::number(Type::ProtoOaAccountDisconnectEvent),
        gone.encode_to_vec().into(),
        None,
    );
    // A second later, for the request budget.
    let now = now + Duration::from_secs(1);
    link.handle_message(gone, now);
    roster.handle_down(ACCOUNT, &Down::LoggedOut, 0.5, &mut link, now);
    assert_eq!(sent(&mut link), owned(&[("authorise", "token-b")]));
}

#[test]
fn failures_back_off_and_then_count_as_failed_and_are_tried_again() {
    let now = Instant::now();
    let (mut roster, mut link) = (Roster::new(POLICY, now, WALL_MS), link(now));
    roster.start(assignment("a", "token-a"), Some(&mut link), now);
    let mut statuses = Vec::new();
    let mut at = now;
    for _ in 0..3 {
        roster.handle_down(ACCOUNT, &Down::Dropped, 1.0, &mut link, at);
        let state = last_status(&mut roster, "a").expect("said");
        statuses.push((state.status, state.attempts));
        let due = roster.poll_timeout().expect("it waits");
        statuses.push((
            Status::Pending,
            i32::try_from((due - at).as_secs()).expect("small"),
        ));
        at = due;
        roster.handle_timeout(Some(&mut link), at);
    }
    assert_eq!(
        statuses,
        [
            (Status::Reconnecting, 1),
            (Status::Pending, 1),
            (Status::Reconnecting, 2),
            (Status::Pending, 2),
            (Status::Failed, 3),
            (Status::Pending, 300),
        ]
    );
    roster.handle_live(ACCOUNT, &mut link, now);
    assert_eq!(
        live_users(&roster),
        [key("a")],
        "and it may still come back"
    );
}

#[test]
fn a_refused_token_is_to_be_renewed_and_a_newer_one_is_tried_at_once() {
    let now = Instant::now();
    let (mut roster, mut link) = (Roster::new(POLICY, now, WALL_MS), link(now));
    roster.start(assignment("a", "old"), Some(&mut link), now);
    sent(&mut link);
    let refused = Down::Refused(Refusal::with_code("CH_ACCESS_TOKEN_INVALID"));
    roster.handle_down(ACCOUNT, &refused, 0.5, &mut link, now);
    let renewing = last_status(&mut roster, "a").expect("said");
    assert_eq!(renewing.status, Status::Reconnecting);
    assert!(renewing.last_error.expect("a reason").contains("renewed"));
    assert_eq!(sent(&mut link), []);
    let old = Secret::new("old");
    assert_eq!(roster.take_wants(), [Want::Renew(key("a"), old.clone())]);
    // None is to be had.
    roster.handle_unrenewable(&key("a"), &old, "connect again".to_owned(), now);
    let failed = last_status(&mut roster, "a").expect("said");
    assert_eq!(failed.status, Status::Failed);
    assert_eq!(failed.last_error.as_deref(), Some("connect again"));
    let later = Secret::new("later");
    roster.handle_unrenewable(&key("a"), &later, "of another".to_owned(), now);
    assert_eq!(last_status(&mut roster, "a"), None, "not its token");
    // The connection still has the session of the first token in this test: a new one, then.
    let mut link = self::link(now);
    roster.start(assignment("a", "new"), Some(&mut link), now);
    assert_eq!(
        last_status(&mut roster, "a").expect("said").status,
        Status::Connecting
    );
    assert_eq!(sent(&mut link), owned(&[("authorise", "new")]));
}

#[test]
fn a_lost_connection_leaves_nothing_live() {
    let now = Instant::now();
    let (mut roster, mut link) = (Roster::new(POLICY, now, WALL_MS), link(now));
    roster.start(assignment("a", "token-a"), Some(&mut link), now);
    roster.handle_live(ACCOUNT, &mut link, now);
    roster.handle_disconnected("gone", false);
    assert_eq!(live_users(&roster), []);
    let state = last_status(&mut roster, "a").expect("said");
    assert_eq!((state.status, state.attempts), (Status::Reconnecting, 1));
    let mut next = self::link(now);
    roster.handle_connected(&mut next, now, WALL_MS);
    assert_eq!(sent(&mut next), owned(&[("authorise", "token-a")]));
}

#[test]
fn a_session_that_begins_in_an_outage_says_so_at_once() {
    let now = Instant::now();
    let mut roster = Roster::new(POLICY, now, WALL_MS);
    roster.start(assignment("a", "token-a"), None, now);
    roster.handle_disconnected("refused", true);
    let before = last_status(&mut roster, "a").expect("said");
    roster.start(assignment("b", "token-b"), None, now);
    let within = last_status(&mut roster, "b").expect("said");
    for state in [before, within] {
        assert_eq!((state.status, state.attempts), (Status::Failed, 3));
        assert_eq!(state.last_error.as_deref(), Some("refused"));
    }
    roster.handle_connected(&mut link(now), now, WALL_MS);
    roster.handle_ready();
    roster.start(assignment("c", "token-c"), None, now);
    let state = last_status(&mut roster, "c").expect("said");
    assert_eq!((state.status, state.last_error), (Status::Connecting, None));
}

#[test]
fn silence_is_said_by_the_row_and_so_is_its_end() {
    let now = Instant::now();
    let (mut roster, mut link) = (Roster::new(POLICY, now, WALL_MS), link(now));
    roster.start(assignment("a", "token-a"), Some(&mut link), now);
    roster.handle_live(ACCOUNT, &mut link, now);
    roster.row_put(&key("a"));
    assert!(!roster.row_is_due());
    roster.handle_following(false);
    let statuses = |roster: &Roster| {
        roster
            .live()
            .map(|live| live.state.status)
            .collect::<Vec<_>>()
    };
    assert!(roster.row_is_due());
    assert_eq!(statuses(&roster), [Status::Reconnecting]);
    roster.handle_following(true);
    assert_eq!(statuses(&roster), [Status::Live]);
}

#[test]
fn a_new_token_of_one_who_shares_an_account_is_checked_anew() {
    let now = Instant::now();
    let (mut roster, mut link) = (Roster::new(POLICY, now, WALL_MS), link(now));
    roster.start(assignment("a", "token-a"), Some(&mut link), now);
    roster.start(assignment("b", "token-b"), Some(&mut link), now);
    roster.handle_live(ACCOUNT, &mut link, now);
    roster.handle_token_verified(1, &Ok(covering(ACCOUNT)), 0.5, &mut link, now);
    sent(&mut link);
    // A second later, for the request budget.
    let now = now + Duration::from_secs(1);
    roster.start(assignment("b", "another"), Some(&mut link), now);
    assert_eq!(live_users(&roster), [key("a")]);
    assert_eq!(sent(&mut link), owned(&[("verify", "another")]));
    roster.handle_token_verified(2, &Ok(Covered::new()), 0.5, &mut link, now);
    assert_eq!(live_users(&roster), [key("a")]);
}

#[test]
fn an_account_of_the_other_environment_is_told_from_one_that_cannot_be_reached() {
    for (is_live, failed) in [(Some(true), true), (Some(false), false), (None, false)] {
        let now = Instant::now();
        let (mut roster, mut link) = (Roster::new(POLICY, now, WALL_MS), link(now));
        roster.start(assignment("a", "token-a"), Some(&mut link), now);
        sent(&mut link);
        let refused = Down::Refused(Refusal::with_code("CANT_ROUTE_REQUEST"));
        // A second later, for the request budget.
        let now = now + Duration::from_secs(1);
        roster.handle_down(ACCOUNT, &refused, 0.5, &mut link, now);
        assert_eq!(sent(&mut link), owned(&[("verify", "token-a")]));
        let answer = Ok(Covered::from([(ACCOUNT, is_live)]));
        roster.handle_token_verified(1, &answer, 0.5, &mut link, now);
        let state = last_status(&mut roster, "a").expect("said");
        assert_eq!(state.status == Status::Failed, failed, "{state:?}");
    }
}

#[test]
fn a_maintenance_is_slept_through() {
    let now = Instant::now();
    let (mut roster, mut link) = (Roster::new(POLICY, now, WALL_MS), link(now));
    roster.start(assignment("a", "token-a"), Some(&mut link), now);
    let mut refusal = Refusal::with_code("SERVER_IS_UNDER_MAINTENANCE");
    refusal.maintenance_end_ms = Some(WALL_MS + 3_600_000);
    roster.handle_down(ACCOUNT, &Down::Refused(refusal), 0.5, &mut link, now);
    assert_eq!(roster.poll_timeout(), Some(now + Duration::from_hours(1)));
}

#[test]
fn a_lost_event_is_said_until_the_account_is_read_anew() {
    let now = Instant::now();
    let (mut roster, mut link) = (Roster::new(POLICY, now, WALL_MS), link(now));
    roster.start(assignment("a", "token-a"), Some(&mut link), now);
    roster.handle_live(ACCOUNT, &mut link, now);
    last_status(&mut roster, "a");
    roster.handle_behind(ACCOUNT);
    assert_eq!(live_users(&roster), []);
    let state = last_status(&mut roster, "a").expect("said");
    assert_eq!((state.status, state.attempts), (Status::Reconnecting, 0));
    roster.handle_live(ACCOUNT, &mut link, now);
    assert_eq!(live_users(&roster), [key("a")]);
}

#[test]
fn a_look_marks_whom_it_served_and_nobody_else() {
    const WEEK_MS: i64 = 604_800_000;
    let now = Instant::now();
    let (mut roster, mut link) = (Roster::new(POLICY, now, WALL_MS), link(now));
    let mut first = assignment("a", "token-a");
    first.through_ms = Some(WALL_MS - 1_000);
    roster.start(first, Some(&mut link), now);
    roster.start(assignment("b", "token-b"), Some(&mut link), now);
    roster.handle_live(ACCOUNT, &mut link, now);
    roster.handle_token_verified(1, &Ok(covering(ACCOUNT)), 0.5, &mut link, now);
    let report = |from_ms| HistoryReport {
        from_ms,
        through_ms: WALL_MS,
        is_partial: false,
        unexplained: None,
    };
    let marked = |marks: Vec<HistoryMark>| -> Vec<SessionKey> {
        marks.into_iter().map(|mark| mark.fence.key).collect()
    };
    let short = roster.handle_history(ACCOUNT, &report(WALL_MS - 601_000), now);
    assert_eq!(marked(short), [key("a")], "the other needs a week");
    let partial = HistoryReport {
        is_partial: true,
        ..report(WALL_MS - WEEK_MS)
    };
    assert_eq!(roster.handle_history(ACCOUNT, &partial, now), []);
    let whole = roster.handle_history(ACCOUNT, &report(WALL_MS - WEEK_MS), now);
    assert_eq!(marked(whole), [key("a"), key("b")]);
    // A deal that found no room is a hole, until the next look.
    roster.handle_lost_deal(ACCOUNT);
    assert_eq!(roster.handle_history(ACCOUNT, &report(0), now), []);
    let due = roster.poll_timeout().expect("the next look");
    roster.handle_timeout(Some(&mut link), due);
    assert_eq!(roster.handle_history(ACCOUNT, &report(0), due).len(), 2);
}
