//! Postgres: reachable, directly or by a session pooler, with schema, rights, room for locks, and the
//! same idea of the time.

use super::Line;
use crate::domain::secret::Secret;
use crate::failure::Diagnosis;
use crate::pg::PgError;
use crate::pg::connect::PgConfig;
use crate::pg::pooler;
use crate::pg::probe::{ClockSkew, DatabaseProbe, diagnose};

/// Locks that must be free: one a slot, and what a few hundred statements at once may take.
const LOCKS_NEEDED: i64 = 1_024 + 512;

/// What comes after the connection, in order.
const AFTER: [&str; 5] = ["pooler", "schema", "rights", "locks", "clock"];

pub(super) async fn lines(url: Secret) -> Vec<Line> {
    let config = PgConfig::new(url, "mahspeccy-bridge check");
    let bad = |what, error: &PgError| Line::bad(what, diagnose(error, &config));
    let mut probe = match DatabaseProbe::connect(&config).await {
        Ok(probe) => probe,
        Err(error) => {
            let skipped = AFTER.map(|what| Line::skipped(what, "Postgres cannot be asked"));
            return std::iter::once(bad("Postgres", &error))
                .chain(skipped)
                .collect();
        }
    };
    let mut lines = vec![match probe.server().await {
        Ok(server) => Line::good("Postgres", server),
        Err(error) => bad("Postgres", &error),
    }];
    if let Err(error) = pooler::detect(&config).await {
        lines.push(bad("pooler", &error));
        let [_, after @ ..] = AFTER;
        lines.extend(after.map(|what| Line::skipped(what, "not through this pooler")));
        probe.close().await;
        return lines;
    }
    lines.push(Line::good(
        "pooler",
        "none, or one that keeps a session together",
    ));
    let schema = probe.schema().await;
    let usable = schema.is_ok();
    lines.push(match schema {
        Ok(version) => Line::good("schema", format!("version {version}")),
        Err(error) => bad("schema", &error),
    });
    lines.push(if usable {
        match probe.missing_rights().await {
            Ok(missing) => rights(&missing),
            Err(error) => bad("rights", &error),
        }
    } else {
        Line::skipped("rights", "the schema is not there")
    });
    lines.push(match probe.locks().await {
        Ok((room, held)) => locks(room, held),
        Err(error) => bad("locks", &error),
    });
    lines.push(match probe.clock_skew().await {
        Ok(skew) => clock(skew),
        Err(error) => bad("clock", &error),
    });
    probe.close().await;
    lines
}

fn rights(missing: &[String]) -> Line {
    match missing {
        [] => Line::good("rights", "all that a worker needs"),
        [first, others @ ..] => {
            let more = match others.len() {
                0 => String::new(),
                count => format!(", and {count} more"),
            };
            Line::bad(
                "rights",
                Diagnosis::new(
                    format!("this role {first}{more}"),
                    "connect as the role that ran `migrate` (on Supabase postgres) or as bridge_worker, to the primary server",
                ),
            )
        }
    }
}

fn locks(room: i64, held: i64) -> Line {
    if room - held >= LOCKS_NEEDED {
        return Line::good("locks", format!("room for {room}, {held} in use"));
    }
    Line::bad(
        "locks",
        Diagnosis::new(
            format!("room for {room} locks, {held} in use; {LOCKS_NEEDED} must be free"),
            "raise max_locks_per_transaction (64 is the default; it needs a restart)",
        ),
    )
}

fn clock(skew: ClockSkew) -> Line {
    let ahead_secs = skew.ahead_secs;
    let side = if ahead_secs < 0.0 {
        "behind"
    } else {
        "ahead of"
    };
    let text = format!("{:.1} s {side} Postgres", ahead_secs.abs());
    if !skew.is_wrong() {
        return Line::good("clock", text);
    }
    Line::bad(
        "clock",
        Diagnosis::new(
            format!("this machine's clock is {text}'s"),
            "set it by NTP (`timedatectl set-ntp true`), here or there",
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::super::Found;
    use super::*;

    #[test]
    fn a_clock_is_wrong_beyond_what_the_measurement_may_be() {
        let line = |ahead_secs, error_secs| {
            clock(ClockSkew {
                ahead_secs,
                error_secs,
            })
        };
        assert!(matches!(line(-4.9, 0.0).found, Found::Good(_)));
        assert!(matches!(line(6.0, 2.0).found, Found::Good(_)));
        assert!(matches!(line(-3_600.0, 0.1).found, Found::Bad(_)));
    }

    #[test]
    fn room_for_locks_is_what_is_left() {
        assert!(matches!(locks(6_400, 20).found, Found::Good(_)));
        assert!(matches!(locks(6_400, 6_000).found, Found::Bad(_)));
    }
}
