//! What the code must not grow into, held by a test: who may depend on whom, how long a file may
//! become, that each file has a head that describes it, and that the documents name every variable.

mod imports;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use imports::Imports;

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
        &[
            "amqp",
            "config",
            "ctrader",
            "domain",
            "failure",
            "pg",
            "shutdown",
            "telemetry",
            "worker",
            "ws",
        ],
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

/// Which of the rooms of `worker` a room may import from, besides itself. A file beside the rooms is one by
/// its name. `handles` is the ground floor, and only `lifecycle` knows all.
const ROOMS: &[(&str, &[&str])] = &[
    ("mod", &["lifecycle", "config", "health"]),
    (
        "lifecycle",
        &[
            "config",
            "ownership",
            "credentials",
            "link",
            "health",
            "writing",
            "handles",
        ],
    ),
    ("ownership", &["health", "writing", "handles"]),
    ("credentials", &["handles"]),
    ("link", &["health", "writing", "handles"]),
    ("health", &["config", "writing", "handles"]),
    ("writing", &["handles"]),
    ("handles", &[]),
    ("config", &[]),
];

/// Lines of a file, beyond which it has more than one subject.
const LINES_MAX: usize = 500;

/// The median of the lines of the files of `worker`, tests included, stays below this.
const WORKER_MEDIAN_BELOW: usize = 150;

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
        } else if layer != "ctrader" && !is_test(&relative(&path)) {
            assert!(
                !text.contains("ProtoOa"),
                "{} names the wire's types",
                path.display()
            );
        }
    }
}

/// A path as reports name it: from the root, with `/`.
fn relative(path: &Path) -> String {
    let inside = path.strip_prefix(root()).expect("of this package");
    inside.to_string_lossy().replace('\\', "/")
}

/// Whether a file of `src` has tests only: `x/tests.rs`, or one in a folder `tests`.
fn is_test(file: &str) -> bool {
    file.ends_with("/tests.rs") || file.contains("/tests/")
}

/// Every import between two files of `src`; tests are no part of it, nor is what is generated.
fn imports() -> Imports {
    let files = rust_files(&root().join("src")).into_iter();
    let files = files.map(|path| (relative(&path), path));
    let code = files.filter(|(name, _)| !is_test(name));
    let texts = code.map(|(name, path)| (name, std::fs::read_to_string(path).expect("text")));
    Imports::of(&texts.collect())
}

#[test]
fn no_files_of_src_import_one_another_in_a_circle() {
    let imports = imports();
    let circles = imports.circles();
    let found: String = circles
        .iter()
        .map(|circle| imports.describe(circle))
        .collect();
    assert!(found.is_empty(), "{found}");
}

#[test]
fn every_room_of_the_worker_imports_only_from_those_below_it() {
    let room = |file: &str| {
        let inside = file.strip_prefix("src/worker/")?;
        let name = inside.split('/').next().expect("a name");
        Some(name.trim_end_matches(".rs").to_owned())
    };
    let allowed: BTreeMap<&str, &[&str]> = ROOMS.iter().copied().collect();
    let mut wrong = Vec::new();
    for (from, to, line) in imports().edges() {
        let (Some(from_room), Some(to_room)) = (room(from), room(to)) else {
            continue;
        };
        let may = allowed
            .get(from_room.as_str())
            .unwrap_or_else(|| panic!("{from} stands in no room"));
        if from_room != to_room && !may.contains(&to_room.as_str()) {
            wrong.push(format!("{from}:{line} must not import {to}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_files_of_the_worker_are_short() {
    let files = rust_files(&root().join("src/worker"));
    let mut lines: Vec<usize> = files
        .iter()
        .map(|path| std::fs::read_to_string(path).expect("text").lines().count())
        .collect();
    lines.sort_unstable();
    let median = lines[lines.len() / 2];
    assert!(median < WORKER_MEDIAN_BELOW, "the median is {median} lines");
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
                "{} does not describe itself",
                path.display()
            );
            let lines = text.lines().count();
            assert!(lines <= LINES_MAX, "{} has {lines} lines", path.display());
        }
    }
}

#[test]
fn the_configuration_page_names_every_variable() {
    let page = std::fs::read_to_string(root().join("docs/configuration.md")).expect("the page");
    for name in mahspeccy_bridge::config::Env::NAMES {
        assert!(
            page.contains(&format!("`{name}`")),
            "docs/configuration.md does not name {name}"
        );
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
            "CONTRIBUTING.md",
            "SECURITY.md",
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
