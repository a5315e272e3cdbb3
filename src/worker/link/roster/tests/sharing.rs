//! Several users of one account.

use super::super::session::Stage;
use super::*;

#[test]
fn another_user_of_an_account_sees_it_only_by_their_own_right() {
    let now = Instant::now();
    let (mut roster, mut connection) = (Roster::new(POLICY, clock(now)), connection(now));
    roster.start(assignment("a", "token-a"), Some(&mut connection), now);
    roster.start(assignment("b", "token-b"), Some(&mut connection), now);
    roster.start(assignment("c", "token-c"), Some(&mut connection), now);
    assert_eq!(
        sent(&mut connection),
        owned(&[
            ("authorise", "token-a"),
            ("verify", "token-b"),
            ("verify", "token-c")
        ])
    );
    roster.handle_live(ACCOUNT, &mut connection, now);
    assert_eq!(live_users(&roster), [key("a")]);
    roster.handle_token_verified(1, &Ok(covering(ACCOUNT)), 0.5, &mut connection, now);
    roster.handle_token_verified(2, &Ok(covering(AccountId(99))), 0.5, &mut connection, now);
    assert_eq!(live_users(&roster), [key("a"), key("b")]);
    let refused = last_status(&mut roster, "c").expect("published");
    assert_eq!(refused.status, Status::Failed);
    assert!(
        refused
            .last_error
            .expect("a reason")
            .contains("does not cover")
    );
}

#[test]
fn when_the_authoriser_stops_first_the_others_go_on_by_their_own_token() {
    let now = Instant::now();
    let (mut roster, mut connection) = shared(now);
    assert!(roster.stop(&key("a"), Some(&mut connection), now).is_some());
    assert!(roster.is_logging_out());
    assert_eq!(sent(&mut connection), owned(&[("log out", "")]));
    // Nobody is authorised before the log-out is confirmed, not even a session that starts meanwhile.
    assert_eq!(live_users(&roster), [key("b")]);
    roster.start(assignment("c", "token-c"), Some(&mut connection), now);
    roster.handle_timeout(Some(&mut connection), now);
    assert_eq!(sent(&mut connection), []);
    // A second later, for the request budget.
    let now = now + Duration::from_secs(1);
    confirm_log_out(&mut roster, &mut connection, now);
    assert!(!roster.is_logging_out());
    let opened = owned(&[("authorise", "token-b"), ("verify", "token-c")]);
    assert_eq!(sent(&mut connection), opened);
    assert_eq!(live_users(&roster), []);
    roster.handle_live(ACCOUNT, &mut connection, now);
    assert_eq!(live_users(&roster), [key("b")]);
    // Now it is the other one whose end logs the account out.
    assert!(roster.stop(&key("c"), Some(&mut connection), now).is_some());
    assert!(!roster.is_logging_out());
    assert!(roster.stop(&key("b"), Some(&mut connection), now).is_some());
    assert!(roster.is_logging_out());
}

#[test]
fn when_a_sharer_stops_first_the_authorisers_stream_goes_on() {
    let now = Instant::now();
    let (mut roster, mut connection) = shared(now);
    assert!(roster.stop(&key("b"), Some(&mut connection), now).is_some());
    assert!(roster.stop(&key("b"), Some(&mut connection), now).is_none());
    assert!(!roster.is_logging_out());
    assert_eq!(sent(&mut connection), []);
    assert_eq!(live_users(&roster), [key("a")]);
    assert_eq!(roster.len(), 1);
    assert!(roster.stop(&key("a"), Some(&mut connection), now).is_some());
    assert_eq!(sent(&mut connection), owned(&[("log out", "")]));
    assert_eq!((roster.len(), roster.is_logging_out()), (0, true));
    confirm_log_out(&mut roster, &mut connection, now);
    assert!(!roster.is_logging_out());
    assert!(roster.accounts.is_empty(), "nothing is left of the account");
}

#[test]
fn a_sharer_whose_authoriser_stops_during_the_check_is_authorised_by_the_own_token() {
    let now = Instant::now();
    let (mut roster, mut connection) = (Roster::new(POLICY, clock(now)), connection(now));
    roster.start(assignment("a", "token-a"), Some(&mut connection), now);
    roster.start(assignment("b", "token-b"), Some(&mut connection), now);
    roster.handle_live(ACCOUNT, &mut connection, now);
    sent(&mut connection);
    roster.stop(&key("a"), Some(&mut connection), now);
    roster.handle_token_verified(1, &Ok(covering(ACCOUNT)), 0.5, &mut connection, now);
    assert_eq!(live_users(&roster), []);
    assert_eq!(sent(&mut connection), owned(&[("log out", "")]));
    // A second later, for the request budget.
    let now = now + Duration::from_secs(1);
    confirm_log_out(&mut roster, &mut connection, now);
    assert_eq!(sent(&mut connection), owned(&[("authorise", "token-b")]));
}

#[test]
fn a_refused_authoriser_waits_and_the_sharer_is_authorised_by_the_own_token() {
    let now = Instant::now();
    let (mut roster, mut connection) = shared(now);
    roster.take_status_updates();
    let refused = Down::Refused(Refusal::with_code("CH_ACCESS_TOKEN_INVALID"));
    roster.handle_down(ACCOUNT, &refused, 0.5, &mut connection, now);
    let refresh = CredentialRequest::Refresh(key("a"), Secret::new("token-a"));
    assert_eq!(roster.take_credential_requests(), [refresh]);
    let stages = |roster: &Roster| -> Vec<(SessionKey, Stage)> {
        let sessions = roster.sessions();
        sessions
            .map(|session| (session.key().clone(), session.stage))
            .collect()
    };
    // The token itself was refused: a pause of 20 s.
    let retry_at = now + Duration::from_secs(20);
    let (waiting, opening) = (Stage::Waiting(retry_at), Stage::Opening);
    assert_eq!(stages(&roster), [(key("a"), waiting), (key("b"), opening)]);
    roster.handle_live(ACCOUNT, &mut connection, now);
    assert_eq!(live_users(&roster), [key("b")]);
    // The former authoriser comes back as one who shares.
    roster.handle_timeout(Some(&mut connection), retry_at);
    assert_eq!(sent(&mut connection), owned(&[("verify", "token-a")]));
}

#[test]
fn live_sessions_and_fences_come_by_account_and_then_by_user() {
    let now = Instant::now();
    let (mut roster, mut connection) = (Roster::new(POLICY, clock(now)), connection(now));
    let (first, second, third) = (AccountId(5), ACCOUNT, AccountId(400));
    for (user, account) in [
        ("b", third),
        ("c", second),
        ("a", third),
        ("a", first),
        ("b", second),
        ("d", first),
        ("a", second),
    ] {
        roster.start(
            assignment_of(account, user, "token"),
            Some(&mut connection),
            now,
        );
    }
    for account in [third, first, second] {
        roster.handle_live(account, &mut connection, now);
    }
    for ticket in 1..=4 {
        let covered = Covered::from([first, second, third].map(|account| (account, Some(false))));
        roster.handle_token_verified(ticket, &Ok(covered), 0.5, &mut connection, now);
    }
    let of = |account: AccountId, user: &str| assignment_of(account, user, "").fence.key;
    let everything = [
        of(first, "a"),
        of(first, "d"),
        of(second, "a"),
        of(second, "b"),
        of(second, "c"),
        of(third, "a"),
        of(third, "b"),
    ];
    assert_eq!(live_users(&roster), everything);
    let fences: Vec<SessionKey> = roster
        .fences_of(second)
        .map(|fence| fence.key.clone())
        .collect();
    assert_eq!(Some(fences.as_slice()), everything.get(2..5));
    assert_eq!(roster.len(), 7);
    let stopped = roster.stop_all(Some(&mut connection), now);
    let stopped: Vec<SessionKey> = stopped.into_iter().map(|(fence, _)| fence.key).collect();
    assert_eq!(stopped, everything);
    assert_eq!((roster.len(), roster.is_logging_out()), (0, true));
}

#[test]
fn a_new_token_of_one_who_shares_an_account_is_checked_anew() {
    let now = Instant::now();
    let (mut roster, mut connection) = shared(now);
    // A second later, for the request budget.
    let now = now + Duration::from_secs(1);
    roster.start(assignment("b", "another"), Some(&mut connection), now);
    assert_eq!(live_users(&roster), [key("a")]);
    assert_eq!(sent(&mut connection), owned(&[("verify", "another")]));
    roster.handle_token_verified(2, &Ok(Covered::new()), 0.5, &mut connection, now);
    assert_eq!(live_users(&roster), [key("a")]);
}
