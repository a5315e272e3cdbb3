//! `status`: what it shows of sessions, for people and for programs.

use std::process::Stdio;

use anstream::adapter::strip_str;
use mahspeccy_bridge::sim::{AccountSpec, Builder, Simulator};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use unicode_width::UnicodeWidthStr;

use super::support::fleet::{DEADLINE, Fleet};
use super::support::postgres::TestDatabase;
use super::support::wait::eventually;

fn world() -> Builder {
    Simulator::builder().market_paused().account(
        AccountSpec::new(1001)
            .token("token-a-8c1f")
            .balance(1_000_000),
    )
}

async fn status(fleet: &Fleet, arguments: &[&str]) -> (Option<i32>, String) {
    let mut call = vec!["status"];
    call.extend(arguments);
    let output = fleet.call(&call).output().await.expect("it runs");
    let text = String::from_utf8(output.stdout).expect("text");
    (output.status.code(), text)
}

/// A watch that goes on, and what it prints.
fn watch(fleet: &Fleet) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut child = fleet
        .call(&["status", "--watch", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    (child, lines)
}

#[tokio::test]
async fn sessions_are_shown_with_owner_state_age_and_figures() {
    let mut fleet = Fleet::new(world()).await;
    let (code, text) = status(&fleet, &[]).await;
    assert_eq!((code, text.as_str()), (Some(0), "no session\n"));

    let worker = fleet.worker().await;
    fleet
        .connect("seen@example.org", 1001, "token-a-8c1f")
        .await;
    fleet.start("seen@example.org", None).await;
    fleet.start("unconnected@example.org", None).await;
    fleet.until_live("seen@example.org", 1001).await;
    fleet
        .until_row(
            "the other to fail",
            DEADLINE,
            "unconnected@example.org",
            0,
            |row| row.status == "failed",
        )
        .await;

    let (code, text) = status(&fleet, &[]).await;
    assert_eq!(code, Some(0));
    let line = |user: &str| {
        let line = text.lines().find(|line| line.starts_with(user));
        line.unwrap_or_else(|| panic!("{user} in {text}"))
    };
    let seen = line("seen@example.org");
    for part in [
        "1001",
        "demo",
        "running",
        "live",
        worker.id.as_str(),
        "10000.00 EUR",
    ] {
        assert!(seen.contains(part), "{part} in {text}");
    }
    let other = line("unconnected@example.org");
    assert!(
        other.contains("primary") && other.contains("connect cTrader first"),
        "{text}"
    );
    assert!(
        text.ends_with("2 sessions, 1 live, 1 failed, 1 worker\n"),
        "{text}"
    );
    assert!(!text.contains('\x1b'), "{text:?}");

    let (_, text) = status(&fleet, &["seen@example.org", "--json"]).await;
    let json: Value = serde_json::from_str(&text).expect("JSON");
    let sessions = json.as_array().expect("an array");
    assert_eq!(sessions.len(), 1);
    let session = &sessions[0];
    assert_eq!(session["userId"], "seen@example.org");
    assert_eq!(session["accountId"], "1001");
    assert_eq!(session["workerId"], worker.id.as_str());
    assert_eq!(session["isConnected"], true);
    assert!(text.contains(r#""balance":10000.00,"#), "{text}");
    assert!(
        session["ageSeconds"]
            .as_f64()
            .is_some_and(|age| (0.0..60.0).contains(&age))
    );
    assert_eq!(session["lastError"], Value::Null);

    let (code, text) = status(&fleet, &["nobody@example.org"]).await;
    assert_eq!(
        (code, text.as_str()),
        (Some(0), "no session of nobody@example.org\n")
    );
    worker.drain().await;

    // A drained worker owns nothing, whatever it wrote last.
    let (_, text) = status(&fleet, &["seen@example.org", "--json"]).await;
    let json: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(json[0]["workerId"], Value::Null, "{text}");
}

/// Runs a command in a terminal of so many columns and prints what the terminal receives.
const IN_TERMINAL: &str = "\
import fcntl, os, pty, struct, sys, termios
pid, terminal = pty.fork()
if pid == 0:
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack('HHHH', 24, int(sys.argv[1]), 0, 0))
    os.execv(sys.argv[2], sys.argv[2:])
while True:
    try:
        data = os.read(terminal, 65536)
    except OSError:
        break
    if not data:
        break
    sys.stdout.buffer.write(data)
";

/// What a terminal of so many columns receives, with its styles.
async fn in_terminal(fleet: &Fleet, columns: u16, variables: &[(&str, &str)]) -> String {
    let call = fleet.call(&["status"]);
    let call = call.as_std();
    let mut python = tokio::process::Command::new("python3");
    python
        .args(["-c", IN_TERMINAL, &columns.to_string()])
        .arg(call.get_program())
        .args(call.get_args())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("TERM", "xterm-256color");
    for (name, value) in call.get_envs() {
        if let Some(value) = value {
            python.env(name, value);
        }
    }
    if let Some(directory) = call.get_current_dir() {
        python.current_dir(directory);
    }
    python.envs(variables.iter().copied());
    let output = python.output().await.expect("Python runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[tokio::test]
async fn no_line_is_wider_than_a_terminal_of_80_columns() {
    let fleet = Fleet::new(world()).await;
    let reason = "市場休止 🛑 the broker has closed the account until further notice, ask support";
    for (user, account, why) in [
        (
            "a-user-with-a-long-name@mail.example.org",
            1001_i64,
            Some(reason),
        ),
        ("山田太郎", 1002, None),
    ] {
        sqlx::query(
            "insert into bridge.sessions
                (user_id, account_id, desired, command_id, command_issued_at, status, last_error)
             values ($1, $2, 'running', gen_random_uuid(), now(), 'failed', $3)",
        )
        .bind(user)
        .bind(account)
        .bind(why)
        .execute(fleet.db.pool())
        .await
        .expect("stored");
    }

    // Elsewhere nothing is left out.
    let (_, piped) = status(&fleet, &[]).await;
    assert!(
        piped.contains(reason) && piped.contains("POSITIONS"),
        "{piped}"
    );
    assert!(!piped.contains('\x1b'), "{piped:?}");

    for columns in [80, 60, 120] {
        let shown = in_terminal(&fleet, columns, &[]).await;
        assert!(shown.contains("\x1b[38;5;1mfailed\x1b["), "{shown:?}");
        let plain = in_terminal(&fleet, columns, &[("NO_COLOR", "1")]).await;
        assert!(!plain.contains('\x1b'), "{plain:?}");
        assert_eq!(strip_str(&shown).to_string(), plain);
        let lines: Vec<&str> = plain.lines().collect();
        assert_eq!(lines.len(), 4, "{plain}");
        for line in &lines {
            assert!(line.width() <= usize::from(columns), "{columns}: {plain}");
        }
        for part in ["USER", "STATUS", "WHY", "市場休止", "山田太郎", "…"] {
            assert!(plain.contains(part), "{part} in {plain}");
        }
        // The reason begins where its column does, in cells of the terminal.
        let start = |line: &str, text: &str| line.find(text).map(|at| line[..at].width());
        assert_eq!(
            start(lines[0], "STATUS"),
            start(lines[1], "failed"),
            "{plain}"
        );
        assert_eq!(
            start(lines[0], "STATUS"),
            start(lines[2], "failed"),
            "{plain}"
        );
    }
}

#[tokio::test]
async fn a_watch_goes_on_until_it_is_interrupted() {
    let fleet = Fleet::new(world()).await;
    let (mut child, mut lines) = watch(&fleet);
    for _ in 0..2 {
        let line = tokio::time::timeout(DEADLINE, lines.next_line()).await;
        let line = line.expect("in time").expect("readable").expect("a line");
        assert_eq!(line, "[]");
    }
    let pid = child.id().expect("it runs").to_string();
    std::process::Command::new("kill")
        .args(["-INT", &pid])
        .status()
        .expect("kill runs");
    let ended = tokio::time::timeout(DEADLINE, child.wait()).await;
    assert_eq!(ended.expect("in time").expect("a status").code(), Some(0));
}

#[tokio::test]
async fn a_database_that_is_not_there_is_named_with_what_to_do() {
    let fleet = Fleet::new(world()).await;
    let mut call = fleet.call(&["status"]);
    call.env("DATABASE_URL", "postgres://me:hunter2@127.0.0.1:1/postgres");
    let output = call.output().await.expect("it runs");
    let errors = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(69), "{errors}");
    assert!(
        errors.contains("nothing listens at 127.0.0.1:1") && errors.contains("DATABASE_URL"),
        "{errors}"
    );
    assert!(!errors.contains("hunter2"), "{errors}");
}

#[tokio::test]
async fn a_database_without_the_schema_is_named_with_what_to_do() {
    let fleet = Fleet::new(world()).await;
    let empty = TestDatabase::create().await;
    let mut call = fleet.call(&["status"]);
    call.env("DATABASE_URL", empty.url());
    let output = call.output().await.expect("it runs");
    let errors = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(69), "{errors}");
    assert!(
        errors.contains("run `mahspeccy-bridge migrate`"),
        "{errors}"
    );
}

#[tokio::test]
async fn help_and_completions_need_no_settings() {
    for (arguments, has) in [
        (vec!["--help"], "mahspeccy-bridge status --watch"),
        (vec!["status", "--help"], "Examples:"),
        (vec!["dead", "--help"], "Nothing is lost"),
        (vec!["completions", "bash"], "complete -F"),
        (vec!["completions", "zsh"], "#compdef mahspeccy-bridge"),
        (vec!["completions", "fish"], "complete -c mahspeccy-bridge"),
    ] {
        let mut call = tokio::process::Command::new(super::support::fleet::BINARY);
        let output = call
            .args(&arguments)
            .env_clear()
            .output()
            .await
            .expect("it runs");
        let text = String::from_utf8(output.stdout).expect("text");
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(text.contains(has), "{arguments:?}: {text}");
    }
    let mut call = tokio::process::Command::new(super::support::fleet::BINARY);
    let output = call
        .args(["dead", "requeue"])
        .env_clear()
        .output()
        .await
        .expect("it runs");
    assert_eq!(output.status.code(), Some(64), "an id or --all is needed");
}

#[tokio::test]
async fn a_reader_that_leaves_early_is_no_error() {
    let fleet = Fleet::new(world()).await;
    let (mut child, mut lines) = watch(&fleet);
    let first = tokio::time::timeout(DEADLINE, lines.next_line()).await;
    assert!(first.expect("in time").expect("readable").is_some());
    drop(lines);
    // It must neither panic nor go on for nobody.
    let code = eventually("it to end", DEADLINE, async || {
        child
            .try_wait()
            .expect("it can be asked")
            .map(|status| status.code())
    })
    .await;
    assert_eq!(code, Some(0));
}
