//! What the code must not grow into, held by a test: who may depend on whom, how long a file may
//! become, that each file says what it is, and that the documents name every variable.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Which of our modules a layer may name, besides itself.
const LAYERS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("ctrader", &["domain"]),
    ("ws", &["ctrader", "failure"]),
    ("amqp", &["domain", "failure"]),
    ("pg", &["domain", "failure"]),
    ("http", &[]),
    ("metrics", &[]),
    ("telemetry", &[]),
    ("shutdown", &[]),
    ("failure", &[]),
    ("token_cipher", &["domain"]),
    // It builds the adapters' own settings out of the environment.
    ("config", &["amqp", "domain", "telemetry"]),
    (
        "worker",
        &[
            "amqp",
            "config",
            "ctrader",
            "domain",
            "failure",
            "http",
            "metrics",
            "pg",
            "shutdown",
            "token_cipher",
            "ws",
        ],
    ),
    (
        "cli",
        &["amqp", "config", "ctrader", "domain", "failure", "pg", "ws"],
    ),
    // Of the other end's code it may use the generated messages alone: no mistake is shared.
    ("sim", &["ctrader"]),
];

/// Crates that stay out of a layer.
const BANNED: &[(&str, &[&str])] = &[
    (
        "domain",
        &["tokio", "sqlx", "lapin", "prost", "tracing", "axum"],
    ),
    (
        "ctrader",
        &[
            "tokio",
            "sqlx",
            "lapin",
            "tokio_tungstenite",
            "axum",
            "futures_util",
        ],
    ),
];

/// Lines of a file, beyond which it has more than one subject.
const LINES_MAX: usize = 520;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            files.push(path);
        }
    }
    files
}

fn layer(path: &Path) -> String {
    let inside = path.strip_prefix(root().join("src")).expect("a source");
    let first = inside
        .components()
        .next()
        .expect("a name")
        .as_os_str()
        .to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// The first segments after every `crate::` of a text.
fn named(text: &str) -> BTreeSet<String> {
    text.split("crate::")
        .skip(1)
        .map(|rest| {
            rest.chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect()
        })
        .collect()
}

#[test]
fn every_layer_names_only_those_below_it() {
    let allowed: BTreeMap<&str, &[&str]> = LAYERS.iter().copied().collect();
    let banned: BTreeMap<&str, &[&str]> = BANNED.iter().copied().collect();
    for path in rust_files(&root().join("src")) {
        let layer = layer(&path);
        if layer == "main" || layer == "lib" {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("text");
        let allowed = allowed
            .get(layer.as_str())
            .unwrap_or_else(|| panic!("{layer} is in no list"));
        for name in named(&text) {
            let may = name == layer || allowed.contains(&name.as_str());
            assert!(may, "{} must not name crate::{name}", path.display());
        }
        for krate in banned.get(layer.as_str()).copied().unwrap_or_default() {
            let used =
                text.contains(&format!("use {krate}::")) || text.contains(&format!(" {krate}::"));
            assert!(!used, "{} must not use {krate}", path.display());
        }
        if layer == "sim" {
            for rest in text.split("crate::ctrader").skip(1) {
                assert!(
                    rest.starts_with("::wire"),
                    "{} may use the messages alone",
                    path.display()
                );
            }
        } else if layer != "ctrader" && !path.ends_with("tests.rs") {
            assert!(
                !text.contains("ProtoOa"),
                "{} names the wire's types",
                path.display()
            );
        }
    }
}

#[test]
fn every_file_says_what_it_is_and_has_one_subject() {
    for folder in ["src", "tests", "examples"] {
        for path in rust_files(&root().join(folder)) {
            if path.ends_with("wire/generated.rs") {
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("text");
            let inner_tests = path.ends_with("tests.rs");
            assert!(
                inner_tests || text.starts_with("//!"),
                "{} does not say what it is",
                path.display()
            );
            let lines = text.lines().count();
            assert!(lines <= LINES_MAX, "{} has {lines} lines", path.display());
        }
    }
}

#[test]
fn the_readme_names_every_variable() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("a README");
    for name in mahspeccy_bridge::config::Env::NAMES {
        // Fly sets it, nobody else.
        if *name != "FLY_MACHINE_ID" {
            assert!(
                readme.contains(&format!("`{name}`")),
                "the README does not name {name}"
            );
        }
    }
}

#[test]
fn nothing_speaks_of_where_it_was_made() {
    let mut files = rust_files(&root().join("src"));
    files.extend(rust_files(&root().join("tests")));
    files.extend(
        [
            "README.md",
            "ARCHITECTURE.md",
            "Cargo.toml",
            "CHANGELOG.md",
            "Dockerfile",
            "compose.yaml",
            "fly.toml",
            "deny.toml",
            "ops/rehearsals.md",
            "ops/autoscaler/fly.toml",
            "ops/prometheus/alerts.yml",
            "scripts/image",
            "scripts/lib/tools.sh",
            "scripts/newcomer",
            "scripts/ops-check",
            "scripts/sbom",
            "scripts/trace",
        ]
        .map(|name| root().join(name)),
    );
    let shared = ["..", "shared"].join("/");
    let work = ["", "work", ""].join("/");
    for path in files {
        let text = std::fs::read_to_string(&path).expect("text");
        for stranger in [&shared, &work] {
            assert!(
                !text.contains(stranger.as_str()),
                "{} names {stranger}",
                path.display()
            );
        }
    }
}
