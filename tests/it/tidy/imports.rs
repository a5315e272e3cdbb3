//! Which file of `src` imports which, read from its `use` statements and its inline paths.
//!
//! A path counts as an import of the file that defines the last module on it: `crate::a::b::Item` is an
//! import of module `a::b`, whether that defines `Item` or re-exports it. `pub use child::Item` is an
//! import of the child. `mod child;` alone is none. Left out are tests, attributes, comments, and types
//! that reach a file without a path, such as the receivers of method calls.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};

/// A module by its path from the root of the crate, which is the empty path.
type Module = Vec<String>;

/// A path as it is written in a file.
struct Written {
    /// The module that it is written in.
    module: Module,
    segments: Vec<String>,
    /// The name that it has from then on, if it is imported.
    alias: Option<String>,
    line: usize,
}

/// Which file imports which, with the lines that do it.
#[derive(Default)]
pub(super) struct Imports(BTreeMap<(String, String), BTreeSet<usize>>);

impl Imports {
    /// Reads files, given by their paths inside the crate (`src/a/b.rs`) and their texts.
    pub(super) fn of(files: &BTreeMap<String, String>) -> Self {
        let mut modules: BTreeMap<Module, &str> = BTreeMap::new();
        let mut written: BTreeMap<&str, Vec<Written>> = BTreeMap::new();
        for (file, text) in files {
            let tokens: TokenStream = text
                .parse()
                .unwrap_or_else(|error| panic!("{file}: {error}"));
            let mut reader = Reader::default();
            let module = module_of(file);
            reader.read(tokens, &module);
            modules.insert(module, file);
            modules.extend(reader.inline.into_iter().map(|inline| (inline, &**file)));
            written.insert(file, reader.written);
        }
        let mut imports = Self::default();
        for (from, paths) in written {
            let mut aliases: BTreeMap<&str, Module> = BTreeMap::new();
            for path in &paths {
                let Some((module, whole)) = resolve(path, &modules, &aliases) else {
                    continue;
                };
                let to = modules[&module];
                if whole && let Some(alias) = &path.alias {
                    aliases.insert(alias, module);
                }
                if to != from {
                    let edge = (from.to_owned(), to.to_owned());
                    imports.0.entry(edge).or_default().insert(path.line);
                }
            }
        }
        imports
    }

    /// Every import: from, to, and the first line of it.
    pub(super) fn edges(&self) -> impl Iterator<Item = (&str, &str, usize)> {
        self.0.iter().map(|((from, to), lines)| {
            let line = lines.first().copied().unwrap_or_default();
            (from.as_str(), to.as_str(), line)
        })
    }

    /// The circles: sets of files each of which reaches all the others by imports.
    pub(super) fn circles(&self) -> Vec<Vec<&str>> {
        let mut next: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (from, to, _) in self.edges() {
            next.entry(from).or_default().push(to);
        }
        let reached: BTreeMap<&str, BTreeSet<&str>> = next
            .keys()
            .map(|start| {
                let mut seen = BTreeSet::new();
                let mut open = vec![*start];
                while let Some(file) = open.pop() {
                    for to in next.get(file).into_iter().flatten() {
                        if seen.insert(*to) {
                            open.push(to);
                        }
                    }
                }
                (*start, seen)
            })
            .collect();
        let mut circles = BTreeSet::new();
        for (file, seen) in &reached {
            let back = |other: &&&str| reached.get(**other).is_some_and(|seen| seen.contains(file));
            let circle: Vec<&str> = seen.iter().filter(back).copied().collect();
            if !circle.is_empty() {
                circles.insert(circle);
            }
        }
        circles.into_iter().collect()
    }

    /// A circle for people: each import in it with its lines.
    pub(super) fn describe(&self, circle: &[&str]) -> String {
        let inside = |file: &String| circle.contains(&file.as_str());
        let edges = self
            .0
            .iter()
            .filter(|((from, to), _)| inside(from) && inside(to));
        let lines = edges.map(|((from, to), lines)| {
            let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
            format!("  {from}:{} imports {to}", lines.join(","))
        });
        let lines: Vec<String> = lines.collect();
        format!(
            "a circle of {} files:\n{}\n",
            circle.len(),
            lines.join("\n")
        )
    }
}

/// The module that a file defines: `src/a/mod.rs` and `src/a.rs` are both `a`.
fn module_of(file: &str) -> Module {
    let inside = file.strip_prefix("src/").unwrap_or(file);
    let name = inside.strip_suffix(".rs").unwrap_or(inside);
    let mut module: Module = name.split('/').map(str::to_owned).collect();
    if matches!(
        module.last().map(String::as_str),
        Some("mod" | "lib" | "main")
    ) {
        module.pop();
    }
    module
}

/// The last module on a path, and whether the whole path is that module. `None` if it is not of this crate.
fn resolve(
    path: &Written,
    modules: &BTreeMap<Module, &str>,
    aliases: &BTreeMap<&str, Module>,
) -> Option<(Module, bool)> {
    let mut rest = path.segments.iter().map(String::as_str).peekable();
    let mut module = match rest.next()? {
        "crate" => Module::new(),
        "self" => path.module.clone(),
        "super" => parent(&path.module),
        name => {
            let mut child = path.module.clone();
            child.push(name.to_owned());
            if modules.contains_key(&child) {
                child
            } else {
                aliases.get(name)?.clone()
            }
        }
    };
    while rest.next_if_eq(&"super").is_some() {
        module = parent(&module);
    }
    while let Some(segment) = rest.peek() {
        module.push((*segment).to_owned());
        if !modules.contains_key(&module) {
            module.pop();
            return Some((module, false));
        }
        rest.next();
    }
    Some((module, true))
}

fn parent(module: &Module) -> Module {
    let mut parent = module.clone();
    parent.pop();
    parent
}

/// Collects what a file writes.
#[derive(Default)]
struct Reader {
    written: Vec<Written>,
    /// Modules inside the file.
    inline: Vec<Module>,
}

impl Reader {
    fn read(&mut self, tokens: TokenStream, module: &Module) {
        let trees: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < trees.len() {
            at = match &trees[at] {
                TokenTree::Punct(punct) if punct.as_char() == '#' => after_attribute(&trees, at),
                TokenTree::Ident(word) if word == "use" => self.read_use(&trees, at + 1, module),
                TokenTree::Ident(word) if word == "pub" => {
                    at + 1 + usize::from(group(&trees, at + 1, Delimiter::Parenthesis).is_some())
                }
                TokenTree::Ident(word) if word == "mod" => self.read_mod(&trees, at + 1, module),
                TokenTree::Ident(_) => self.read_path(&trees, at, module),
                TokenTree::Group(inner) => {
                    self.read(inner.stream(), module);
                    at + 1
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => at + 1,
            };
        }
    }

    /// `mod name { … }`; of `mod name;` there is nothing to read.
    fn read_mod(&mut self, trees: &[TokenTree], at: usize, module: &Module) -> usize {
        let name = trees.get(at).map(ToString::to_string);
        if let (Some(name), Some(body)) = (name, group(trees, at + 1, Delimiter::Brace)) {
            let mut inner = module.clone();
            inner.push(name);
            self.read(body, &inner);
            self.inline.push(inner);
            return at + 2;
        }
        at
    }

    fn read_use(&mut self, trees: &[TokenTree], at: usize, module: &Module) -> usize {
        let end = (at..trees.len())
            .find(|at| is_punct(trees, *at, ';'))
            .unwrap_or(trees.len());
        // A path that begins with `::` is another crate's.
        if !is_separator(trees, at) {
            self.read_tree(&trees[at..end], &[], module);
        }
        end + 1
    }

    /// What stands between `use` and `;`, or between the commas of a group of it.
    fn read_tree(&mut self, trees: &[TokenTree], before: &[String], module: &Module) {
        let mut segments = before.to_vec();
        let mut alias = None;
        let mut at = 0;
        while let Some(tree) = trees.get(at) {
            match tree {
                TokenTree::Ident(word) if word == "as" => {
                    alias = trees.get(at + 1).map(ToString::to_string);
                    break;
                }
                TokenTree::Ident(word) if word == "self" && !segments.is_empty() => {}
                TokenTree::Ident(word) => segments.push(word.to_string()),
                TokenTree::Group(inner) => {
                    let inner: Vec<TokenTree> = inner.stream().into_iter().collect();
                    for part in inner
                        .split(|tree| matches!(tree, TokenTree::Punct(p) if p.as_char() == ','))
                    {
                        self.read_tree(part, &segments, module);
                    }
                    return;
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
            at += 1;
        }
        let Some(line) = trees.first().map(|tree| tree.span().start().line) else {
            return;
        };
        let glob = is_punct(trees, trees.len() - 1, '*');
        let last = segments.last().filter(|_| !glob).cloned();
        self.written.push(Written {
            module: module.clone(),
            segments,
            alias: alias.or(last),
            line,
        });
    }

    /// `a::b::c`, if there is one here.
    fn read_path(&mut self, trees: &[TokenTree], at: usize, module: &Module) -> usize {
        let begins =
            at == 0 || !(is_punct(trees, at - 1, '.') || (at > 1 && is_separator(trees, at - 2)));
        let mut segments = vec![trees[at].to_string()];
        let mut next = at + 1;
        while is_separator(trees, next)
            && let Some(TokenTree::Ident(word)) = trees.get(next + 2)
        {
            segments.push(word.to_string());
            next += 3;
        }
        if begins && segments.len() > 1 {
            self.written.push(Written {
                module: module.clone(),
                segments,
                alias: None,
                line: trees[at].span().start().line,
            });
        }
        next
    }
}

/// Past an attribute, and past the item too if it is there for tests only.
fn after_attribute(trees: &[TokenTree], at: usize) -> usize {
    let at = at + 1 + usize::from(is_punct(trees, at + 1, '!'));
    let Some(attribute) = group(trees, at, Delimiter::Bracket) else {
        return at;
    };
    if attribute.to_string().replace(' ', "") != "cfg(test)" {
        return at + 1;
    }
    let is_use = |tree: &TokenTree| matches!(tree, TokenTree::Ident(word) if word == "use");
    let mut imports = false;
    for (at, tree) in trees.iter().enumerate().skip(at + 1) {
        imports |= is_use(tree);
        let body = matches!(tree, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace);
        if is_punct(trees, at, ';') || (body && !imports) {
            return at + 1;
        }
    }
    trees.len()
}

fn group(trees: &[TokenTree], at: usize, delimiter: Delimiter) -> Option<TokenStream> {
    match trees.get(at) {
        Some(TokenTree::Group(group)) if group.delimiter() == delimiter => Some(group.stream()),
        _ => None,
    }
}

fn is_punct(trees: &[TokenTree], at: usize, char: char) -> bool {
    matches!(trees.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == char)
}

/// Whether `::` stands here.
fn is_separator(trees: &[TokenTree], at: usize) -> bool {
    let joint =
        matches!(trees.get(at), Some(TokenTree::Punct(punct)) if punct.spacing() == Spacing::Joint);
    joint && is_punct(trees, at, ':') && is_punct(trees, at + 1, ':')
}

fn of(files: &[(&str, &str)]) -> Imports {
    let files = files
        .iter()
        .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))
        .collect();
    Imports::of(&files)
}

#[test]
fn a_child_that_imports_from_its_parent_makes_a_circle() {
    let imports = of(&[
        ("src/lib.rs", "pub mod a;"),
        (
            "src/a/mod.rs",
            "mod b;\npub use b::{One, two};\nstruct Three;",
        ),
        ("src/a/b.rs", "use std::fmt;\nuse super::Three;"),
    ]);
    assert_eq!(imports.circles(), [["src/a/b.rs", "src/a/mod.rs"]]);
    let text = imports.describe(&imports.circles()[0]);
    assert!(text.contains("src/a/b.rs:2 imports src/a/mod.rs"), "{text}");
    assert!(text.contains("src/a/mod.rs:2 imports src/a/b.rs"), "{text}");
}

#[test]
fn paths_lead_to_the_file_that_defines_the_module() {
    let imports = of(&[
        ("src/lib.rs", "mod a;\nmod d;"),
        (
            "src/a/mod.rs",
            "mod b;\nmod c;\nfn f() -> b::B { select! { _ = crate::d::run() => {} } }",
        ),
        (
            "src/a/b.rs",
            "use crate::{\n  a::c::{self as see, C},\n  d,\n};\nfn f(d: see::C) { d::g(); x.d::<u8>(); }",
        ),
        ("src/a/c.rs", "pub(in crate::d) struct C;"),
        (
            "src/d.rs",
            "mod inner { fn f() { super::super::a::c::g() } }",
        ),
    ]);
    let edges: Vec<_> = imports.edges().collect();
    assert_eq!(
        edges,
        [
            ("src/a/b.rs", "src/a/c.rs", 2),
            ("src/a/b.rs", "src/d.rs", 3),
            ("src/a/mod.rs", "src/a/b.rs", 3),
            ("src/a/mod.rs", "src/d.rs", 3),
            ("src/d.rs", "src/a/c.rs", 1),
        ]
    );
    assert!(imports.circles().is_empty());
}

#[test]
fn tests_comments_texts_and_attributes_are_no_imports() {
    let imports = of(&[
        ("src/lib.rs", "mod a;\nmod b;"),
        (
            "src/a.rs",
            "//! See [`crate::b::B`].\n#[cfg(test)]\nuse crate::b::{B};\nconst T: &str = \"crate::b::B\"; // crate::b\n\
             #[derive(crate::b::Derive)]\nstruct A;\n#[cfg(test)]\nmod tests {\n use crate::b::B;\n}",
        ),
        ("src/b.rs", "use crate::a::A;"),
    ]);
    assert_eq!(
        imports.edges().collect::<Vec<_>>(),
        [("src/b.rs", "src/a.rs", 1)]
    );
}
