//! Every input that a fuzzer found worth keeping, and as many of our own making, without a fuzzer:
//! `tests/fixtures/fuzz` has a folder a target, with seeds and with what once went wrong.

use std::path::PathBuf;

use crate::fuzz;

/// Inputs made of chance, a target.
const MADE: u64 = 3_000;

/// The longest of them.
const MADE_BYTES_MAX: u64 = 400;

/// `SplitMix64`: the same inputs in every run.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[7]
    }

    fn index(&mut self, len: usize) -> usize {
        let len = u64::try_from(len).expect("a length");
        usize::try_from(self.below(len)).expect("below a length")
    }
}

fn saved(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/fuzz")
        .join(target);
    let mut inputs: Vec<(String, Vec<u8>)> = std::fs::read_dir(&folder)
        .expect("a folder")
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let name = path.display().to_string();
            (name, std::fs::read(path).expect("an input"))
        })
        .collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{} is empty", folder.display());
    inputs
}

/// Prints which input it was, should it go wrong.
struct Named<'a>(&'a str);

impl Drop for Named<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the input was {}", self.0);
        }
    }
}

fn run_all(target: &str, body: fn(&[u8])) {
    let saved = saved(target);
    for (name, input) in &saved {
        let _named = Named(name);
        body(input);
    }
    let mut chance = Chance(1);
    for n in 0..MADE {
        let input = made(&mut chance, &saved);
        let name = format!("number {n} of {target}: {}", hex::encode(&input));
        let _named = Named(&name);
        body(&input);
    }
}

/// Noise, or a saved input with a few bytes changed and a bit of another at its end.
fn made(chance: &mut Chance, saved: &[(String, Vec<u8>)]) -> Vec<u8> {
    if chance.below(3) == 0 {
        return (0..chance.below(MADE_BYTES_MAX))
            .map(|_| chance.byte())
            .collect();
    }
    let mut input = saved[chance.index(saved.len())].1.clone();
    let other = &saved[chance.index(saved.len())].1;
    input.extend(&other[chance.index(other.len())..]);
    input.truncate(input.len().min(1 + chance.index(input.len())));
    for _ in 0..chance.below(6) {
        let at = chance.index(input.len());
        if let Some(byte) = input.get_mut(at) {
            *byte = chance.byte();
        }
    }
    input
}

#[test]
fn frames_survive() {
    run_all("frame", fuzz::frame);
}

#[test]
fn commands_survive() {
    run_all("command", fuzz::command);
}

#[test]
fn sessions_survive() {
    run_all("session", fuzz::session);
}
