//! The pages: every link leads somewhere, every path exists, code that a link names is in the file that it
//! leads to, and README and ARCHITECTURE.md keep the shape that a newcomer relies on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines of the README, beyond which it is a manual and no front door any more.
const README_LINES_MAX: usize = 219;

/// Folders that a page names paths of.
const FOLDERS: [&str; 14] = [
    ".ci",
    "bench",
    "benches",
    "docs",
    "examples",
    "fuzz",
    "migrations",
    "ops",
    "packages",
    "proto",
    "scripts",
    "src",
    "supabase",
    "tests",
];

/// What runs make, and no checkout has.
const MADE_BY_RUNS: [&str; 2] = ["fuzz/artifacts", "fuzz/corpus"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file of the repository, as paths from its root: what is tracked, and what would be after `git add`.
fn files() -> BTreeSet<String> {
    let output = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(root())
        .output()
        .expect("git runs");
    assert!(output.status.success(), "git ls-files fails");
    let names = String::from_utf8(output.stdout).expect("text");
    let names = names.split('\0').filter(|name| !name.is_empty());
    // One that was deleted and not committed yet is still listed.
    names
        .filter(|name| root().join(name).exists())
        .map(str::to_owned)
        .collect()
}

fn is_page(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|kind| kind == "md")
}

fn pages(files: &BTreeSet<String>) -> Vec<&String> {
    let pages: Vec<_> = files.iter().filter(|name| is_page(name)).collect();
    assert!(pages.len() >= 10, "{} pages", pages.len());
    pages
}

/// Whether a path is a file or a folder of the repository.
fn exists(files: &BTreeSet<String>, path: &str) -> bool {
    let path = path.trim_end_matches('/');
    let inside = format!("{path}/");
    path.is_empty() || files.contains(path) || files.iter().any(|file| file.starts_with(&inside))
}

/// The lines of a page that are not inside a block of code.
fn prose(page: &str) -> impl Iterator<Item = &str> {
    let mut in_code = false;
    page.lines().filter(move |line| {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
            return false;
        }
        !in_code
    })
}

/// The links of a page: text and target.
fn links(page: &str) -> Vec<(String, String)> {
    let text: Vec<&str> = prose(page).collect();
    let text = text.join("\n");
    let mut links = Vec::new();
    for (at, _) in text.match_indices("](") {
        let target = &text[at + 2..];
        let target = &target[..target.find(')').expect("the end of a link")];
        let label = &text[..at];
        let label = &label[label.rfind('[').expect("the beginning of a link") + 1..];
        links.push((label.replace('\n', " "), target.replace('\n', " ")));
    }
    links
}

/// What stands in backticks.
fn quoted(page: &str) -> Vec<String> {
    let text: Vec<&str> = prose(page).collect();
    let text = text.join("\n");
    let quoted = text.split('`').skip(1).step_by(2);
    quoted.map(str::to_owned).collect()
}

/// The anchors of a page: its headings as GitHub makes them, and those that it sets itself.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for line in prose(page) {
        for id in line.split("<a id=\"").skip(1) {
            anchors.insert(id.split('"').next().expect("an id").to_owned());
        }
        let Some(heading) = line.strip_prefix('#') else {
            continue;
        };
        let slug = slug(heading.trim_start_matches('#'));
        let before = times.entry(slug.clone()).or_default();
        anchors.insert(match before {
            0 => slug,
            _ => format!("{slug}-{before}"),
        });
        *before += 1;
    }
    anchors
}

fn slug(heading: &str) -> String {
    let mut text = String::new();
    let mut in_tag = false;
    for c in heading.trim().chars() {
        match c {
            '<' => in_tag = true,
            '>' => in_tag = false,
            _ if in_tag => {}
            ' ' => text.push('-'),
            _ if c.is_alphanumeric() || c == '-' || c == '_' => text.extend(c.to_lowercase()),
            _ => {}
        }
    }
    text
}

/// Where a link of a page leads to, as a path from the root.
fn resolve(page: &str, target: &str) -> String {
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "." | "" => {}
            ".." => assert!(parts.pop().is_some(), "{page} leads out: {target}"),
            name => parts.push(name),
        }
    }
    parts.join("/")
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether a text has this name as a word.
fn has_name(text: &str, name: &str) -> bool {
    text.match_indices(name).any(|(at, _)| {
        !text[..at].ends_with(is_word) && !text[at + name.len()..].starts_with(is_word)
    })
}

#[test]
fn every_relative_link_of_every_page_leads_somewhere() {
    let files = files();
    let (mut seen, mut wrong) = (0, Vec::new());
    for page in pages(&files) {
        for (label, target) in links(&read(page)) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            seen += 1;
            let (path, anchor) = match target.split_once('#') {
                Some((path, anchor)) => (path, Some(anchor)),
                None => (target.as_str(), None),
            };
            let path = if path.is_empty() {
                page.clone()
            } else {
                resolve(page, path)
            };
            let leads = exists(&files, &path)
                && anchor
                    .is_none_or(|anchor| is_page(&path) && anchors(&read(&path)).contains(anchor));
            if !leads {
                wrong.push(format!("{page}: [{label}]({target})"));
            }
        }
    }
    assert!(wrong.is_empty(), "lead nowhere:\n{}", wrong.join("\n"));
    assert!(seen >= 100, "{seen} links");
}

#[test]
fn what_a_link_to_code_is_called_stands_in_that_file() {
    let files = files();
    let (mut seen, mut wrong) = (0, Vec::new());
    for page in pages(&files) {
        for (label, target) in links(&read(page)) {
            let code = [".rs", ".ts", ".sql", ".mjs"];
            if target.contains("://") || !code.iter().any(|kind| target.ends_with(kind)) {
                continue;
            }
            let quoted = label.strip_prefix('`');
            let Some(name) = quoted.and_then(|rest| rest.strip_suffix('`')) else {
                continue;
            };
            seen += 1;
            let path = resolve(page, &target);
            let is_there = if name.contains('.') {
                // A path, or the end of one.
                path.ends_with(name)
            } else {
                let name = name.rsplit("::").next().expect("a name");
                files.contains(&path) && has_name(&read(&path), name)
            };
            if !is_there {
                wrong.push(format!("{page}: [{label}]({target})"));
            }
        }
    }
    assert!(wrong.is_empty(), "are not there:\n{}", wrong.join("\n"));
    assert!(seen >= 50, "{seen} names");
}

#[test]
fn every_path_that_a_page_names_exists() {
    let files = files();
    let mut wrong = Vec::new();
    for page in pages(&files) {
        // It tells of the past.
        if page == "CHANGELOG.md" {
            continue;
        }
        for quoted in quoted(&read(page)) {
            let path = quoted.split_whitespace().next().unwrap_or_default();
            let is_path = path.split_once('/').is_some_and(|(folder, inside)| {
                FOLDERS.contains(&folder) && inside.chars().all(|c| is_word(c) || "/.-".contains(c))
            });
            if is_path && !MADE_BY_RUNS.contains(&path) && !exists(&files, path) {
                wrong.push(format!("{page}: `{quoted}`"));
            }
        }
    }
    assert!(wrong.is_empty(), "do not exist:\n{}", wrong.join("\n"));
}

#[test]
fn the_readme_is_short_and_begins_with_its_contents() {
    let readme = read("README.md");
    let lines = readme.lines().count();
    assert!(lines <= README_LINES_MAX, "{lines} lines");
    let headings = readme.lines().filter_map(|line| line.strip_prefix("## "));
    let contents = readme.lines().filter_map(|line| line.strip_prefix("- ["));
    let contents = contents.map_while(|line| line.split_once("](#").map(|(name, _)| name));
    assert_eq!(
        headings.collect::<Vec<_>>(),
        contents.collect::<Vec<_>>(),
        "the list of contents"
    );
}

/// `scripts/newcomer` runs the blocks of shell; so a command that stands elsewhere would be run by nobody.
#[test]
fn every_command_of_the_readme_stands_in_a_block_that_is_run() {
    let readme = read("README.md");
    let blocks: Vec<&str> = readme
        .split("```sh\n")
        .skip(1)
        .map(|rest| rest.split("```").next().expect("a block"))
        .collect();
    assert!(blocks.len() >= 4, "{} blocks", blocks.len());
    for command in quoted(&readme) {
        let program = command.split_whitespace().next().unwrap_or_default();
        let is_command = program.starts_with("scripts/")
            || ["cargo", "docker", "fly", "npm", "supabase"].contains(&program)
            || (program == "mahspeccy-bridge" && command.contains(' '));
        if is_command && command != "cargo test" {
            let is_run = blocks.iter().any(|block| block.contains(&command));
            assert!(is_run, "nobody runs `{command}`");
        }
    }
    let other = ["```bash", "```console", "```shell"];
    assert!(!other.iter().any(|fence| readme.contains(fence)));
}

#[test]
fn the_architecture_begins_with_picture_glossary_and_entry_points() {
    let page = read("ARCHITECTURE.md");
    let headings: Vec<&str> = prose(&page)
        .filter_map(|line| line.strip_prefix("## "))
        .take(3)
        .collect();
    assert_eq!(headings, ["Picture", "Glossary", "Entry points"]);
}
