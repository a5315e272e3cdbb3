//! Lost connections, silence and gaps.

use super::*;

#[test]
fn a_lost_connection_leaves_nothing_live() {
    let now = Instant::now();
    let (mut roster, mut connection) = (Roster::new(POLICY, clock(now)), connection(now));
    roster.start(assignment("a", "token-a"), Some(&mut connection), now);
    roster.handle_live(ACCOUNT, &mut connection, now);
    roster.handle_disconnected("gone", false);
    assert_eq!(live_users(&roster), []);
    let state = last_status(&mut roster, "a").expect("published");
    assert_eq!((state.status, state.attempts), (Status::Reconnecting, 1));
    let mut next = self::connection(now);
    roster.handle_connected(&mut next, clock(now));
    assert_eq!(sent(&mut next), owned(&[("authorise", "token-a")]));
}

#[test]
fn a_session_that_starts_in_an_outage_publishes_it_at_once() {
    let now = Instant::now();
    let mut roster = Roster::new(POLICY, clock(now));
    roster.start(assignment("a", "token-a"), None, now);
    roster.handle_disconnected("refused", true);
    let before = last_status(&mut roster, "a").expect("published");
    roster.start(assignment("b", "token-b"), None, now);
    let within = last_status(&mut roster, "b").expect("published");
    for state in [before, within] {
        assert_eq!((state.status, state.attempts), (Status::Failed, 3));
        assert_eq!(state.last_error.as_deref(), Some("refused"));
    }
    roster.handle_connected(&mut connection(now), clock(now));
    roster.handle_ready();
    roster.start(assignment("c", "token-c"), None, now);
    let state = last_status(&mut roster, "c").expect("published");
    assert_eq!((state.status, state.last_error), (Status::Connecting, None));
}

#[test]
fn the_row_shows_silence_and_its_end() {
    let now = Instant::now();
    let (mut roster, mut connection) = (Roster::new(POLICY, clock(now)), connection(now));
    roster.start(assignment("a", "token-a"), Some(&mut connection), now);
    roster.handle_live(ACCOUNT, &mut connection, now);
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
fn a_gap_is_published_until_the_account_is_live_again() {
    let now = Instant::now();
    let (mut roster, mut connection) = (Roster::new(POLICY, clock(now)), connection(now));
    roster.start(assignment("a", "token-a"), Some(&mut connection), now);
    roster.handle_live(ACCOUNT, &mut connection, now);
    last_status(&mut roster, "a");
    roster.handle_gap_detected(ACCOUNT);
    assert_eq!(live_users(&roster), []);
    let state = last_status(&mut roster, "a").expect("published");
    assert_eq!((state.status, state.attempts), (Status::Reconnecting, 0));
    roster.handle_live(ACCOUNT, &mut connection, now);
    assert_eq!(live_users(&roster), [key("a")]);
}

#[test]
fn a_log_out_that_was_not_confirmed_ends_with_its_connection() {
    let now = Instant::now();
    let (mut roster, mut first) = (Roster::new(POLICY, clock(now)), connection(now));
    roster.start(assignment("a", "token-a"), Some(&mut first), now);
    roster.handle_live(ACCOUNT, &mut first, now);
    roster.stop(&key("a"), Some(&mut first), now);
    assert!(roster.is_logging_out());
    // The link closed the connection, as it had no sessions; the next session needs another one.
    roster.start(assignment("a", "token-a"), None, now);
    let mut next = connection(now);
    roster.handle_connected(&mut next, clock(now));
    assert!(!roster.is_logging_out());
    assert_eq!(sent(&mut next), owned(&[("authorise", "token-a")]));
}
