//! The environment: what is accepted, what every mistake is called, and that `.env.example` tells
//! the truth.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use mahspeccy_bridge::config::{Config, Env, Problems};

const REQUIRED: [(&str, &str); 4] = [
    ("DATABASE_URL", "postgres://app:hunter2@db.example:5432/app"),
    ("AMQP_URL", "amqps://app:hunter2@mq.example/vhost"),
    ("CTRADER_CLIENT_ID", "7_client"),
    ("CTRADER_CLIENT_SECRET", "hunter2"),
];

fn env(more: &[(&str, &str)]) -> Env {
    let pairs = REQUIRED.iter().chain(more).copied();
    // The last one of a name wins, as in `.env` under the process's environment.
    Env::from_pairs(pairs)
}

fn worker(more: &[(&str, &str)]) -> Result<Config, Problems> {
    Config::for_worker(&env(more))
}

/// The variables that are complained about.
fn blamed(result: Result<Config, Problems>) -> Vec<&'static str> {
    let problems = result.expect_err("something is wrong");
    problems.0.iter().map(|problem| problem.variable).collect()
}

#[test]
fn the_required_variables_are_enough_and_the_rest_has_the_documented_defaults() {
    let config = worker(&[]).expect("valid");
    assert_eq!(
        config.ctrader.demo_url.as_str(),
        "wss://demo.ctraderapi.com:5035/"
    );
    assert_eq!(
        config.ctrader.live_url.as_str(),
        "wss://live.ctraderapi.com:5035/"
    );
    assert!(config.ctrader.extra_roots.is_empty());
    assert_eq!(config.ctrader.connections, 1);
    assert_eq!(config.ctrader.connection_limit, 20);
    assert_eq!(config.ctrader.request_rate, 45);
    assert_eq!(config.ctrader.history_rate, 4);
    assert_eq!(config.port, 3000);
    assert_eq!(config.worker.max_sessions, 2000);
    assert_eq!(config.worker.cache_write_interval.as_millis(), 2000);
    assert_eq!(config.worker.reconnect_max_attempts, 10);
    assert_eq!(config.worker.failed_retry.as_secs(), 300);
    assert_eq!(config.worker.shutdown_grace.as_secs(), 100);
    assert_eq!(config.worker.idle_exit, None);
    assert_eq!(config.worker.token_key, None);
    assert_eq!(config.log.format, None);
    assert_eq!(config.amqp.connection_name, config.worker_id);
}

#[test]
fn worker_id_is_set_or_flys_or_the_hosts_with_something_random() {
    let id = |more: &[(&str, &str)]| worker(more).expect("valid").worker_id;
    let both = [("WORKER_ID", "w1"), ("FLY_MACHINE_ID", "d891")];
    assert_eq!(id(&both), "w1");
    assert_eq!(id(&both[1..]), "d891");
    assert_eq!(
        id(&[("WORKER_ID", " "), ("FLY_MACHINE_ID", "d891")]),
        "d891"
    );
    let (one, other) = (id(&[]), id(&[]));
    assert_ne!(one, other);
    assert!(one.len() >= 10, "{one}");
}

#[test]
fn all_problems_are_told_at_once_and_none_repeats_a_value() {
    let bad = "hunter2-in-the-wrong-place";
    let pairs = Env::NAMES.iter().map(|name| (*name, bad));
    let problems = Config::for_worker(&Env::from_pairs(pairs)).expect_err("all wrong");
    let named: BTreeSet<_> = problems.0.iter().map(|problem| problem.variable).collect();
    let may_be_anything = [
        "CTRADER_CLIENT_ID",
        "CTRADER_CLIENT_SECRET",
        "WORKER_ID",
        "FLY_MACHINE_ID",
        "RUST_LOG",
    ];
    for name in Env::NAMES {
        assert_eq!(
            named.contains(name),
            !may_be_anything.contains(name),
            "{name}"
        );
    }
    let shown = format!("{problems} {problems:?}");
    assert!(!shown.contains("hunter2"), "{shown}");
    assert_eq!(problems.to_string().lines().count(), problems.0.len());
}

#[test]
fn nothing_set_is_four_problems_for_a_worker_and_one_for_the_others() {
    let nothing = Env::default();
    let required: Vec<_> = REQUIRED.iter().map(|(name, _)| *name).collect();
    assert_eq!(blamed(Config::for_worker(&nothing)), required);
    let empty = Env::from_pairs(REQUIRED.iter().map(|(name, _)| (*name, "")));
    assert_eq!(blamed(Config::for_worker(&empty)), required);
    let migrate = Config::for_migrate(&nothing).expect_err("no database");
    assert_eq!(migrate.to_string(), "DATABASE_URL is not set");
    let publish = Config::for_publish(&nothing).expect_err("no broker");
    assert_eq!(publish.to_string(), "AMQP_URL is not set");
    let database = Env::from_pairs(REQUIRED[..1].iter().copied());
    assert!(Config::for_migrate(&database).is_ok());
    let broker = Env::from_pairs(REQUIRED[1..2].iter().copied());
    assert!(Config::for_publish(&broker).is_ok());
}

#[test]
fn numbers_have_ranges() {
    for (name, bad) in [
        ("PORT", vec!["0", "65536", "-1", "http", "80.0"]),
        ("CTRADER_CONNECTIONS", vec!["0", "21"]),
        ("CTRADER_CONNECTION_LIMIT", vec!["0"]),
        ("CTRADER_REQUEST_RATE", vec!["0", "51", "-1"]),
        ("CTRADER_HISTORY_RATE", vec!["0", "6"]),
        ("MAX_SESSIONS", vec!["0", "many"]),
        ("CACHE_WRITE_INTERVAL_MS", vec!["0", "60001"]),
        ("RECONNECT_MAX_ATTEMPTS", vec!["0"]),
        ("FAILED_RETRY_SECS", vec!["0"]),
        ("SHUTDOWN_GRACE_SECS", vec!["0", "99999999"]),
        ("IDLE_EXIT_SECS", vec!["0"]),
    ] {
        for value in bad {
            assert_eq!(blamed(worker(&[(name, value)])), [name], "{name}={value}");
        }
        assert!(worker(&[(name, "")]).is_ok(), "an empty {name} is not set");
    }
    let rates = [("CTRADER_REQUEST_RATE", "3"), ("CTRADER_HISTORY_RATE", "4")];
    assert_eq!(blamed(worker(&rates)), ["CTRADER_HISTORY_RATE"]);
    let set = worker(&[("IDLE_EXIT_SECS", "60"), ("PORT", " 8080\n")]).expect("valid");
    assert_eq!(set.worker.idle_exit.map(|idle| idle.as_secs()), Some(60));
    assert_eq!(set.port, 8080);
}

#[test]
fn unencrypted_sockets_are_for_this_machine_only() {
    for good in [
        "ws://127.0.0.1:5035",
        "ws://127.9.9.9",
        "ws://localhost:1",
        "ws://[::1]:1",
        "wss://elsewhere.example",
    ] {
        assert!(worker(&[("CTRADER_DEMO_URL", good)]).is_ok(), "{good}");
    }
    for bad in [
        "ws://demo.ctraderapi.com:5035",
        "ws://127.0.0.1.example",
        "ws://localhost.example",
        "ws://10.0.0.1",
        "ws://[::2]",
        "https://demo.ctraderapi.com",
        "demo.ctraderapi.com:5035",
        "wss://",
    ] {
        let result = worker(&[("CTRADER_LIVE_URL", bad)]);
        assert_eq!(blamed(result), ["CTRADER_LIVE_URL"], "{bad}");
    }
}

#[test]
fn servers_have_urls_of_their_own_schemes() {
    for (name, bad) in [
        ("DATABASE_URL", "mysql://u:p@h/db"),
        ("DATABASE_URL", "db.example:5432"),
        ("DATABASE_URL", "postgres://u:p#w@h/db"),
        ("AMQP_URL", "http://u:p@h"),
        ("AMQP_URL", "amqp://"),
        ("AMQP_URL", "amqp://u:p@h?heartbeat=often"),
    ] {
        assert_eq!(blamed(worker(&[(name, bad)])), [name], "{bad}");
    }
    assert!(worker(&[("DATABASE_URL", "postgresql://u:p@h/db")]).is_ok());
    assert!(worker(&[("AMQP_URL", "amqp://u:p@h:1/%2f?heartbeat=5")]).is_ok());
}

#[test]
fn keys_certificates_and_log_settings_are_checked() {
    let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let config = worker(&[("TOKEN_ENCRYPTION_KEY", key)]).expect("valid");
    let token_key = config.worker.token_key.as_ref().expect("set");
    assert_eq!(token_key.expose()[..4], [0, 1, 2, 3]);
    for bad in ["AAEC", "not base64", &key[..43]] {
        let result = worker(&[("TOKEN_ENCRYPTION_KEY", bad)]);
        assert_eq!(blamed(result), ["TOKEN_ENCRYPTION_KEY"], "{bad}");
    }

    let dir = tempfile::tempdir().expect("folder");
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).expect("written");
        path.to_str().expect("text").to_owned()
    };
    let pem = "-----BEGIN CERTIFICATE-----\nAAEC\n-----END CERTIFICATE-----\n";
    let two = file("two.pem", &pem.repeat(2));
    let config = worker(&[("CTRADER_CA_FILE", &two)]).expect("valid");
    assert_eq!(config.ctrader.extra_roots.len(), 2);
    for bad in [
        file("empty.pem", ""),
        file("text.pem", "hello"),
        file("cut.pem", &pem[..40]),
        format!("{two}.missing"),
    ] {
        let result = worker(&[("CTRADER_CA_FILE", &bad)]);
        assert_eq!(blamed(result), ["CTRADER_CA_FILE"], "{bad}");
    }

    for (name, bad) in [("LOG_FORMAT", "xml"), ("RUST_LOG", "a=b=c")] {
        assert_eq!(blamed(worker(&[(name, bad)])), [name]);
    }
}

#[test]
fn nothing_of_a_config_prints_a_secret() {
    let key = "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2U=";
    let env = env(&[("TOKEN_ENCRYPTION_KEY", key)]);
    let config = Config::for_worker(&env).expect("valid");
    let shown = format!("{config:?} {env:?}");
    assert!(
        !shown.contains("hunter2") && !shown.contains("115, 101"),
        "{shown}"
    );
    assert!(!shown.contains(key), "{shown}");
}

/// The process's environment cannot be changed in here, so that a process of its own is asked:
/// this very test, told by a variable to answer.
#[test]
fn the_file_is_read_and_the_process_wins() {
    const ASKED: &str = "MAHSPECCY_TEST_ASKED";
    if std::env::var_os(ASKED).is_some() {
        let env = Env::load(Path::new(".")).map(|env| Config::for_worker(&env));
        match env {
            Ok(Ok(config)) => println!(
                "answer: {} {} {} {}",
                config.port,
                config.worker.max_sessions,
                config.worker_id,
                config.worker.reconnect_max_attempts
            ),
            Ok(Err(problems)) | Err(problems) => println!("answer: {problems}"),
        }
        return;
    }
    let ask = |file: &str| {
        let dir = tempfile::tempdir().expect("folder");
        fs::write(dir.path().join(".env"), file).expect("written");
        let output = Command::new(std::env::current_exe().expect("this program"))
            .args([
                "--exact",
                "config::the_file_is_read_and_the_process_wins",
                "--nocapture",
            ])
            .current_dir(dir.path())
            .env_clear()
            .env(ASKED, "1")
            .env("PORT", "8080")
            .env("RECONNECT_MAX_ATTEMPTS", "")
            .env("port", "not ours")
            .output()
            .expect("it runs");
        let text = String::from_utf8(output.stdout).expect("text");
        let answer = text.split("answer: ").nth(1).expect("an answer");
        answer.lines().next().expect("a line").to_owned()
    };
    let required: String = REQUIRED
        .iter()
        .flat_map(|(name, value)| [name, "=", value, "\n"])
        .collect();
    let more = "PORT=1\nMAX_SESSIONS=7\nexport WORKER_ID='w $1'\nRECONNECT_MAX_ATTEMPTS=3\n";
    assert_eq!(
        ask(&format!("{required}{}", more.replace("w $1", "w$1"))),
        "8080 7 w$1 10"
    );
    let broken = ask(&format!("{required}hunter2 is not a line\n"));
    assert_eq!(broken, ".env has an entry that cannot be read, the 5. one");
}

#[test]
fn the_example_file_names_every_variable_with_its_default() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".env.example");
    let text = fs::read_to_string(&path).expect("the file");
    let mut names = Vec::new();
    let mut set = Vec::new();
    let mut commented = Vec::new();
    for line in text.lines() {
        let (entries, entry) = match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(' ') => continue,
            Some(rest) => (&mut commented, rest),
            None => (&mut set, line),
        };
        let Some((name, value)) = entry.split_once('=') else {
            assert!(entry.is_empty(), "{line}");
            continue;
        };
        names.push(name);
        entries.push((name, value));
    }
    let unique: BTreeSet<_> = names.iter().copied().collect();
    assert_eq!(unique.len(), names.len(), "a variable is there twice");
    assert_eq!(unique, Env::NAMES.iter().copied().collect());
    let set_names: Vec<_> = set.iter().map(|(name, _)| *name).collect();
    assert_eq!(set_names, REQUIRED.map(|(name, _)| name));

    // The commented values are the defaults: setting them changes nothing.
    let with = worker(&commented).expect("valid");
    let without = worker(&[]).expect("valid");
    let shown = |config: Config| {
        let id = config.worker_id.clone();
        format!("{config:?}").replace(&id, "")
    };
    assert_eq!(shown(with), shown(without));
}
