//! A word in the log when this machine's clock is wrong: commands are ordered by the app's clock, and
//! tokens end by ours.

use sqlx::postgres::PgConnection;
use tracing::{debug, warn};

use crate::pg::probe::{self, SKEW_SECS_MAX};

/// Compares the clocks. It stops nobody: whose clock is wrong, nobody can tell.
pub(in crate::worker) async fn compare(conn: &mut PgConnection) {
    match probe::clock_skew(conn).await {
        Ok(skew) if skew.is_wrong() => warn!(
            ahead_secs = skew.ahead_secs,
            limit_secs = SKEW_SECS_MAX,
            "the clock differs from that of Postgres: set it by NTP"
        ),
        Ok(_) => {}
        // Whatever it is, the next connection meets it too.
        Err(error) => debug!(error = %error, "the clocks could not be compared"),
    }
}
