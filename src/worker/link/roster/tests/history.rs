//! History requests and marks.

use super::*;

#[test]
fn a_history_request_marks_the_sessions_it_served_and_no_others() {
    const WEEK_MS: i64 = 604_800_000;
    let now = Instant::now();
    let (mut roster, mut connection) = (Roster::new(POLICY, clock(now)), connection(now));
    let mut first = assignment("a", "token-a");
    first.through_ms = Some(WALL_MS - 1_000);
    roster.start(first, Some(&mut connection), now);
    roster.start(assignment("b", "token-b"), Some(&mut connection), now);
    roster.handle_live(ACCOUNT, &mut connection, now);
    roster.handle_token_verified(1, &Ok(covering(ACCOUNT)), 0.5, &mut connection, now);
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
    // A dropped deal is a gap, until the next request.
    roster.handle_lost_deal(ACCOUNT);
    assert_eq!(roster.handle_history(ACCOUNT, &report(0), now), []);
    let due = roster.poll_timeout().expect("the next request");
    roster.handle_timeout(Some(&mut connection), due);
    assert_eq!(roster.handle_history(ACCOUNT, &report(0), due).len(), 2);
}
