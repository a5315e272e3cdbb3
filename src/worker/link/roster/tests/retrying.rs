//! Failures, and when a session is tried again.

use super::*;

#[test]
fn failures_back_off_and_then_count_as_failed_and_are_tried_again() {
    let now = Instant::now();
    let (mut roster, mut connection) = (Roster::new(POLICY, clock(now)), connection(now));
    roster.start(assignment("a", "token-a"), Some(&mut connection), now);
    let mut statuses = Vec::new();
    let mut at = now;
    for _ in 0..3 {
        roster.handle_down(ACCOUNT, &Down::Dropped, 1.0, &mut connection, at);
        let state = last_status(&mut roster, "a").expect("published");
        statuses.push((state.status, state.attempts));
        let due = roster.poll_timeout().expect("it waits");
        statuses.push((
            Status::Pending,
            i32::try_from((due - at).as_secs()).expect("small"),
        ));
        at = due;
        roster.handle_timeout(Some(&mut connection), at);
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
    roster.handle_live(ACCOUNT, &mut connection, now);
    assert_eq!(
        live_users(&roster),
        [key("a")],
        "and it may still come back"
    );
}

#[test]
fn a_refused_token_is_to_be_refreshed_and_a_newer_one_is_tried_at_once() {
    let now = Instant::now();
    let (mut roster, mut connection) = (Roster::new(POLICY, clock(now)), connection(now));
    roster.start(assignment("a", "old"), Some(&mut connection), now);
    sent(&mut connection);
    let refused = Down::Refused(Refusal::with_code("CH_ACCESS_TOKEN_INVALID"));
    roster.handle_down(ACCOUNT, &refused, 0.5, &mut connection, now);
    let renewing = last_status(&mut roster, "a").expect("published");
    assert_eq!(renewing.status, Status::Reconnecting);
    assert!(renewing.last_error.expect("a reason").contains("renewed"));
    assert_eq!(sent(&mut connection), []);
    let old = Secret::new("old");
    assert_eq!(
        roster.take_credential_requests(),
        [CredentialRequest::Refresh(key("a"), old.clone())]
    );
    // None is to be had.
    roster.handle_renewal_failed(&key("a"), &old, "connect again".to_owned(), now);
    let failed = last_status(&mut roster, "a").expect("published");
    assert_eq!(failed.status, Status::Failed);
    assert_eq!(failed.last_error.as_deref(), Some("connect again"));
    let later = Secret::new("later");
    roster.handle_renewal_failed(&key("a"), &later, "of another".to_owned(), now);
    assert_eq!(last_status(&mut roster, "a"), None, "not its token");
    // The connection still has the session of the first token in this test: a new one, then.
    let mut connection = self::connection(now);
    roster.start(assignment("a", "new"), Some(&mut connection), now);
    assert_eq!(
        last_status(&mut roster, "a").expect("published").status,
        Status::Connecting
    );
    assert_eq!(sent(&mut connection), owned(&[("authorise", "new")]));
}

#[test]
fn an_account_of_the_other_environment_is_told_from_one_that_cannot_be_reached() {
    for (is_live, failed) in [(Some(true), true), (Some(false), false), (None, false)] {
        let now = Instant::now();
        let (mut roster, mut connection) = (Roster::new(POLICY, clock(now)), connection(now));
        roster.start(assignment("a", "token-a"), Some(&mut connection), now);
        sent(&mut connection);
        let refused = Down::Refused(Refusal::with_code("CANT_ROUTE_REQUEST"));
        // A second later, for the request budget.
        let now = now + Duration::from_secs(1);
        roster.handle_down(ACCOUNT, &refused, 0.5, &mut connection, now);
        assert_eq!(sent(&mut connection), owned(&[("verify", "token-a")]));
        let result = Ok(Covered::from([(ACCOUNT, is_live)]));
        roster.handle_token_verified(1, &result, 0.5, &mut connection, now);
        let state = last_status(&mut roster, "a").expect("published");
        assert_eq!(state.status == Status::Failed, failed, "{state:?}");
    }
}

#[test]
fn a_maintenance_is_waited_for() {
    let now = Instant::now();
    let (mut roster, mut connection) = (Roster::new(POLICY, clock(now)), connection(now));
    roster.start(assignment("a", "token-a"), Some(&mut connection), now);
    let mut refusal = Refusal::with_code("SERVER_IS_UNDER_MAINTENANCE");
    refusal.maintenance_end_ms = Some(WALL_MS + 3_600_000);
    roster.handle_down(ACCOUNT, &Down::Refused(refusal), 0.5, &mut connection, now);
    assert_eq!(roster.poll_timeout(), Some(now + Duration::from_hours(1)));
}
