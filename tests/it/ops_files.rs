//! What operations use, held against what it names: metrics that exist, keys that Fly knows, an image
//! that fits both.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use mahspeccy_bridge::config::Env;
use mahspeccy_bridge::worker;
use toml::{Table, Value};

fn read(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The series that a worker has from its start, by name; labels as `name="value"`.
fn exposed() -> BTreeMap<String, BTreeSet<String>> {
    let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in worker::metrics().render().lines() {
        if line.starts_with('#') {
            continue;
        }
        let series = line.rsplit_once(' ').expect("a value").0;
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let labels = labels.trim_end_matches('}').split(',');
        names
            .entry(name.to_owned())
            .or_default()
            .extend(labels.filter(|label| !label.is_empty()).map(str::to_owned));
    }
    names
}

/// The metrics that an expression names, each with what is in its braces.
fn named(expression: &str) -> Vec<(String, String)> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(at) = rest.find(word) {
        let end = rest[at..]
            .find(|c| !word(c))
            .map_or(rest.len(), |end| at + end);
        let (name, after) = (&rest[at..end], &rest[end..]);
        if name.starts_with("bridge_") || name.starts_with("process_") {
            let braces = after
                .strip_prefix('{')
                .and_then(|inside| inside.split_once('}'));
            found.push((
                name.to_owned(),
                braces.map_or("", |(inside, _)| inside).to_owned(),
            ));
        }
        rest = after;
    }
    found
}

/// Fails if an expression names a metric or a label's value that no worker has.
fn exists(expression: &str, exposed: &BTreeMap<String, BTreeSet<String>>) -> usize {
    let found = named(expression);
    for (name, matchers) in &found {
        let labels = exposed
            .get(name)
            .unwrap_or_else(|| panic!("no worker has {name}: {expression}"));
        for matcher in matchers.split(',').filter(|matcher| !matcher.is_empty()) {
            let (label, values) = matcher.split_once(['=', '!']).expect("a matcher");
            let values = values.trim_start_matches(['=', '~']).trim_matches('"');
            for value in values.split('|') {
                let pair = format!("{label}=\"{value}\"");
                assert!(
                    labels.contains(&pair),
                    "no series of {name} has {pair}: {expression}"
                );
            }
        }
    }
    found.len()
}

/// The metric that a series belongs to: a histogram has three series for each.
fn family(name: &str) -> String {
    let stem = ["_bucket", "_count", "_sum"]
        .iter()
        .find_map(|end| name.strip_suffix(end));
    stem.unwrap_or(name).to_owned()
}

#[test]
fn every_metric_of_the_alerts_exists_and_every_alert_has_its_runbook() {
    let (exposed, runbook) = (exposed(), read("docs/runbook.md"));
    let rules = read("ops/prometheus/alerts.yml");
    let mut lines = rules.lines();
    let (mut alerts, mut metrics) = (0, 0);
    while let Some(line) = lines.next() {
        if line.trim() == "expr: |-" {
            alerts += 1;
            metrics += exists(lines.next().expect("an expression"), &exposed);
        }
        if let Some(entry) = line.trim().strip_prefix("runbook: ") {
            let anchor = format!("<a id=\"{}\"></a>", entry.trim_matches('"'));
            assert!(runbook.contains(&anchor), "the runbook has no {anchor}");
        }
    }
    assert!(
        alerts >= 15 && metrics >= alerts,
        "{alerts} alerts, {metrics} metrics"
    );
}

#[test]
fn every_metric_of_the_dashboard_exists_and_every_metric_is_on_it() {
    let exposed = exposed();
    let dashboard: serde_json::Value =
        serde_json::from_str(&read("ops/grafana/dashboard.json")).expect("JSON");
    let mut shown = BTreeSet::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().expect("targets") {
            let expression = target["expr"].as_str().expect("an expression");
            assert!(exists(expression, &exposed) > 0, "{expression}");
            shown.extend(named(expression).into_iter().map(|(name, _)| name));
        }
    }
    let shown: BTreeSet<String> = shown.iter().map(|name| family(name)).collect();
    for name in exposed.keys().filter(|name| name.starts_with("bridge_")) {
        assert!(shown.contains(&family(name)), "{name} is on no panel");
    }
}

#[test]
fn every_metric_of_the_page_exists_and_every_metric_is_on_it() {
    let exposed = exposed();
    let families: BTreeSet<String> = exposed.keys().map(|name| family(name)).collect();
    let page = read("docs/metrics.md");
    let rows = page.lines().filter(|line| line.starts_with("| `bridge_"));
    let shown: BTreeSet<String> = rows
        .flat_map(|row| named(row.split(" | ").next().expect("a cell")))
        .map(|(name, _)| name)
        .collect();
    for name in &shown {
        assert!(families.contains(name), "no worker has {name}");
    }
    for name in families.iter().filter(|name| name.starts_with("bridge_")) {
        assert!(shown.contains(name), "docs/metrics.md has no {name}");
    }
}

#[test]
fn every_metric_of_the_autoscaler_exists() {
    let exposed = exposed();
    let rules = read("ops/autoscaler/fly-autoscaler.yml");
    let queries = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("query: "));
    assert_eq!(
        queries.map(|query| exists(query, &exposed)).sum::<usize>(),
        1
    );
    for variable in [
        "FAS_API_TOKEN",
        "FAS_PROMETHEUS_TOKEN",
        "FLY_ORG",
        "BROKER_PROMETHEUS",
    ] {
        assert!(
            rules.contains(&format!("${{{variable}}}")),
            "{variable} is filled in"
        );
        assert!(
            read("ops/autoscaler/fly.toml").contains(variable),
            "{variable} is told of"
        );
    }
}

/// The keys that Fly reads, by table; anything else it passes over in silence.
const FLY_KEYS: [(&str, &[&str]); 9] = [
    (
        "",
        &[
            "app",
            "primary_region",
            "kill_signal",
            "kill_timeout",
            "build",
            "deploy",
            "env",
            "processes",
            "restart",
            "checks",
            "metrics",
            "vm",
            "files",
        ],
    ),
    ("build", &["dockerfile", "image"]),
    (
        "deploy",
        &[
            "strategy",
            "max_unavailable",
            "wait_timeout",
            "release_command",
        ],
    ),
    ("restart", &["policy", "retries", "processes"]),
    (
        "checks",
        &[
            "type",
            "port",
            "method",
            "path",
            "interval",
            "timeout",
            "grace_period",
            "headers",
            "protocol",
            "processes",
        ],
    ),
    ("metrics", &["port", "path", "processes"]),
    ("vm", &["size", "memory", "cpus", "cpu_kind", "processes"]),
    ("files", &["guest_path", "local_path", "processes"]),
    ("processes", &["worker", "autoscaler"]),
];

fn fly(path: &str) -> Table {
    let table: Table = read(path)
        .parse()
        .unwrap_or_else(|error| panic!("{path}: {error}"));
    let groups: BTreeSet<&String> = table["processes"]
        .as_table()
        .expect("groups")
        .keys()
        .collect();
    let known = |name: &str| {
        FLY_KEYS
            .iter()
            .find(|(table, _)| *table == name)
            .map(|(_, keys)| *keys)
    };
    let holds = |name: &str, table: &Table| {
        let Some(keys) = known(name) else { return };
        for (key, value) in table {
            assert!(
                keys.contains(&key.as_str()),
                "{path}: Fly knows no {key} in [{name}]"
            );
            if key == "processes" && !name.is_empty() {
                for group in value.as_array().expect("a list") {
                    let group = group.as_str().expect("a name").to_owned();
                    assert!(
                        groups.contains(&group),
                        "{path}: no group {group} for [{name}]"
                    );
                }
            }
        }
    };
    holds("", &table);
    for (name, value) in &table {
        match value {
            Value::Array(tables) => {
                for table in tables {
                    holds(name, table.as_table().expect("a table"));
                }
            }
            Value::Table(checks) if name == "checks" => {
                for check in checks.values() {
                    holds(name, check.as_table().expect("a table"));
                }
            }
            Value::Table(table) => holds(name, table),
            Value::String(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Datetime(_) => {}
        }
    }
    table
}

/// "90s" or "2m".
fn duration(value: &Value) -> Duration {
    let text = value.as_str().expect("a string with its unit");
    let (number, unit) = text.split_at(text.len() - 1);
    let number: u64 = number.parse().expect("a number");
    match unit {
        "s" => Duration::from_secs(number),
        "m" => Duration::from_mins(number),
        _ => panic!("{text} has no unit that is known here"),
    }
}

#[test]
fn fly_toml_has_what_fly_knows_and_what_a_worker_needs() {
    let fly = fly("fly.toml");
    let env = fly["env"].as_table().expect("variables");
    for (name, value) in env {
        assert!(
            Env::NAMES.contains(&name.as_str()),
            "the worker reads no {name}"
        );
        assert!(value.is_str(), "{name} is a string");
    }
    for secret in [
        "DATABASE_URL",
        "AMQP_URL",
        "CTRADER_CLIENT_SECRET",
        "TOKEN_ENCRYPTION_KEY",
    ] {
        assert!(
            !env.contains_key(secret),
            "{secret} is set with `fly secrets`"
        );
    }
    let port = env["PORT"]
        .as_str()
        .expect("text")
        .parse::<i64>()
        .expect("a port");

    // Draining ends by itself, before Fly ends it; and Fly takes no more than five minutes.
    assert_eq!(fly["kill_signal"].as_str(), Some("SIGTERM"));
    let grace = env["SHUTDOWN_GRACE_SECS"]
        .as_str()
        .expect("text")
        .parse()
        .expect("seconds");
    let kill = duration(&fly["kill_timeout"]);
    assert!(
        kill >= Duration::from_secs(grace) + Duration::from_secs(5),
        "{kill:?}"
    );
    assert!(kill <= Duration::from_mins(5), "{kill:?}");

    // Not reachable from outside, and never stopped by the proxy.
    for service in ["http_service", "services"] {
        assert!(!fly.contains_key(service), "{service}");
    }
    let deploy = &fly["deploy"];
    assert_eq!(deploy["strategy"].as_str(), Some("rolling"));
    let share = deploy["max_unavailable"].as_float().expect("a share");
    assert!(share > 0.0 && share <= 0.5, "{share}");
    assert!(duration(&deploy["wait_timeout"]) > kill);
    // ENTRYPOINT is still run, with this as its arguments.
    assert_eq!(deploy["release_command"].as_str(), Some("migrate"));
    assert_eq!(fly["processes"]["worker"].as_str(), Some("worker"));

    let restart = &fly["restart"][0];
    let policy = restart["policy"].as_str().expect("a policy");
    assert!(["always", "on-failure"].contains(&policy), "{policy}");
    let idle = env.contains_key("IDLE_EXIT_SECS");
    assert!(
        !idle || policy == "on-failure",
        "a worker that ended idle would be started again"
    );

    let ready = &fly["checks"]["ready"];
    assert_eq!(ready["type"].as_str(), Some("http"));
    assert_eq!(ready["path"].as_str(), Some("/readyz"));
    for at in [&ready["port"], &fly["metrics"][0]["port"]] {
        assert_eq!(at.as_integer(), Some(port));
    }
    assert!(duration(&ready["timeout"]) < duration(&ready["interval"]));
    assert!(duration(&ready["grace_period"]) >= Duration::from_secs(10));
    assert_eq!(fly["metrics"][0]["path"].as_str(), Some("/metrics"));
    assert!(fly["vm"][0]["size"].is_str() && fly["vm"][0]["memory"].is_str());
}

#[test]
fn the_autoscalers_fly_toml_has_what_fly_knows() {
    let fly = fly("ops/autoscaler/fly.toml");
    let local = fly["files"][0]["local_path"].as_str().expect("a path");
    let guest = fly["files"][0]["guest_path"].as_str().expect("a path");
    assert!(!read(&format!("ops/autoscaler/{local}")).is_empty());
    assert!(
        fly["processes"]["autoscaler"]
            .as_str()
            .expect("a command")
            .ends_with(guest)
    );
}

#[test]
fn the_image_fits_fly_and_needs_no_shell() {
    let dockerfile = read("Dockerfile");
    let (_, run) = dockerfile.rsplit_once("\nFROM ").expect("a last stage");
    for line in [
        "USER 10001:10001",
        "ENTRYPOINT [\"/usr/local/bin/mahspeccy-bridge\"]",
        "CMD [\"worker\"]",
        "EXPOSE 3000",
    ] {
        assert!(run.lines().any(|found| found == line), "{line}");
    }
    // The base may have no shell, and Fly does not look at Docker's health checks.
    for instruction in ["RUN ", "HEALTHCHECK ", "SHELL "] {
        assert!(
            !run.lines().any(|line| line.starts_with(instruction)),
            "{instruction}"
        );
    }
    assert_eq!(
        dockerfile.matches("cargo build --locked --release").count(),
        2
    );
    // Where the dependencies are built alone, cargo looks for no target whose path it was given.
    let manifest = read("Cargo.toml");
    for target in manifest.split("\n[[").skip(1) {
        assert!(target.contains("\npath = "), "[[{target}");
    }
    let channel = read("rust-toolchain.toml");
    let version = channel
        .split('"')
        .nth(1)
        .expect("a version")
        .rsplit_once('.')
        .expect("x.y.z")
        .0;
    assert!(
        dockerfile.contains(&format!("ARG BUILD_IMAGE=rust:{version}-")),
        "{version}"
    );
}

#[test]
fn every_entry_of_the_runbook_names_rehearsals_that_exist() {
    let runbook = read("docs/runbook.md");
    let entries: Vec<&str> = runbook.split("<a id=").skip(1).collect();
    assert!(entries.len() >= 9, "{} entries", entries.len());
    for entry in entries {
        let (_, rehearsed) = entry
            .split_once("*Rehearsed: ")
            .unwrap_or_else(|| panic!("nothing rehearses {entry}"));
        let quoted = rehearsed.split('`').skip(1).step_by(2);
        let tests = quoted.filter(|name| !name.contains('.') && !name.starts_with('…'));
        for test in tests {
            let (module, name) = test.split_once("::").unwrap_or((test, ""));
            let file = read(&format!("tests/it/{module}.rs"));
            let name = name.trim_end_matches('…');
            assert!(
                file.contains(&format!("fn {name}")),
                "no test is called {test}"
            );
        }
        for link in rehearsed.split("](").skip(1) {
            let link = link.split(')').next().expect("a path");
            let path = link.strip_prefix("../").expect("out of docs/");
            assert!(!read(path).is_empty());
        }
    }
}

/// The code has each text that the runbook quotes of logs and rows.
#[test]
fn what_the_runbook_quotes_is_said() {
    for (file, quote) in [
        ("src/domain/command.rs", "is not JSON"),
        ("src/domain/command.rs", "is neither start nor stop"),
        ("src/amqp/dead_letters.rs", "the broker gave up"),
        ("src/ctrader/error.rs", "refuses this application"),
        ("src/ctrader/error.rs", "connect cTrader again"),
        ("src/token_cipher.rs", "cannot be decrypted"),
        ("src/token_cipher.rs", "has no key"),
        ("src/worker/ownership/reconcile.rs", "session begins"),
        ("src/worker/link/events.rs", "session live"),
        ("src/worker/link/events.rs", "session down"),
        (
            "src/worker/link/events.rs",
            "our P&L differs from the server's",
        ),
    ] {
        assert!(read(file).contains(quote), "{file} does not have {quote:?}");
    }
}
