//! Postgres: reachable directly or through a session pooler, with the schema, permissions, room for locks,
//! and a clock that agrees with ours.

use super::report::CheckResult;
use crate::domain::secret::Secret;
use crate::failure::Diagnosis;
use crate::pg::PgError;
use crate::pg::connect::PgConfig;
use crate::pg::pooler;
use crate::pg::probe::{ClockSkew, DatabaseProbe, diagnose};

/// Locks that must be free: one for each slot, and those of a few hundred concurrent statements.
const LOCKS_NEEDED: i64 = 1_024 + 512;

/// The checks that need the connection, in order.
const DEPENDENT_CHECKS: [&str; 5] = ["pooler", "schema", "rights", "locks", "clock"];

pub(super) async fn checks(url: Secret) -> Vec<CheckResult> {
    let config = PgConfig::new(url, "mahspeccy-bridge check");
    let failed = |name, error: &PgError| CheckResult::failed(name, diagnose(error, &config));
    let mut probe = match DatabaseProbe::connect(&config).await {
        Ok(probe) => probe,
        Err(error) => {
            let skipped =
                DEPENDENT_CHECKS.map(|name| CheckResult::skipped(name, "Postgres cannot be asked"));
            return std::iter::once(failed("Postgres", &error))
                .chain(skipped)
                .collect();
        }
    };
    let mut checks = vec![match probe.server().await {
        Ok(server) => CheckResult::passed("Postgres", server),
        Err(error) => failed("Postgres", &error),
    }];
    if let Err(error) = pooler::detect(&config).await {
        checks.push(failed("pooler", &error));
        let [_, after @ ..] = DEPENDENT_CHECKS;
        checks.extend(after.map(|name| CheckResult::skipped(name, "not through this pooler")));
        probe.close().await;
        return checks;
    }
    checks.push(CheckResult::passed(
        "pooler",
        "none, or one that keeps a session together",
    ));
    let schema = probe.schema().await;
    let usable = schema.is_ok();
    checks.push(match schema {
        Ok(version) => CheckResult::passed("schema", format!("version {version}")),
        Err(error) => failed("schema", &error),
    });
    checks.push(if usable {
        match probe.missing_rights().await {
            Ok(missing) => rights(&missing),
            Err(error) => failed("rights", &error),
        }
    } else {
        CheckResult::skipped("rights", "the schema is not there")
    });
    checks.push(match probe.locks().await {
        Ok((room, held)) => locks(room, held),
        Err(error) => failed("locks", &error),
    });
    checks.push(match probe.clock_skew().await {
        Ok(skew) => clock(skew),
        Err(error) => failed("clock", &error),
    });
    probe.close().await;
    checks
}

fn rights(missing: &[String]) -> CheckResult {
    match missing {
        [] => CheckResult::passed("rights", "all that a worker needs"),
        [first, others @ ..] => {
            let more = match others.len() {
                0 => String::new(),
                count => format!(", and {count} more"),
            };
            CheckResult::failed(
                "rights",
                Diagnosis::new(
                    format!("this role {first}{more}"),
                    "connect as the role that ran `migrate` (on Supabase postgres) or as bridge_worker, to the primary server",
                ),
            )
        }
    }
}

fn locks(room: i64, held: i64) -> CheckResult {
    if room - held >= LOCKS_NEEDED {
        return CheckResult::passed("locks", format!("room for {room}, {held} in use"));
    }
    CheckResult::failed(
        "locks",
        Diagnosis::new(
            format!("room for {room} locks, {held} in use; {LOCKS_NEEDED} must be free"),
            "raise max_locks_per_transaction (64 is the default; it needs a restart)",
        ),
    )
}

fn clock(skew: ClockSkew) -> CheckResult {
    let ahead_secs = skew.ahead_secs;
    let side = if ahead_secs < 0.0 {
        "behind"
    } else {
        "ahead of"
    };
    let text = format!("{:.1} s {side} Postgres", ahead_secs.abs());
    if !skew.is_wrong() {
        return CheckResult::passed("clock", text);
    }
    CheckResult::failed(
        "clock",
        Diagnosis::new(
            format!("this machine's clock is {text}'s"),
            "set it by NTP (`timedatectl set-ntp true`), here or there",
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::super::report::CheckOutcome;
    use super::*;

    #[test]
    fn a_clock_is_wrong_beyond_the_error_of_the_measurement() {
        let check = |ahead_secs, error_secs| {
            clock(ClockSkew {
                ahead_secs,
                error_secs,
            })
        };
        assert!(matches!(check(-4.9, 0.0).outcome, CheckOutcome::Passed(_)));
        assert!(matches!(check(6.0, 2.0).outcome, CheckOutcome::Passed(_)));
        assert!(matches!(
            check(-3_600.0, 0.1).outcome,
            CheckOutcome::Failed(_)
        ));
    }

    #[test]
    fn room_for_locks_is_what_is_left() {
        assert!(matches!(locks(6_400, 20).outcome, CheckOutcome::Passed(_)));
        assert!(matches!(
            locks(6_400, 6_000).outcome,
            CheckOutcome::Failed(_)
        ));
    }
}
