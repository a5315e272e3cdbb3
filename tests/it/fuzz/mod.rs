//! What the fuzzers run: each takes any bytes, and panics when something does not hold.
//!
//! The package in `fuzz/` includes this folder as it is, so it names nothing else of the tests.
//! `fuzz_corpus` runs every input that was ever worth keeping, without a fuzzer.

mod broker;
mod command;
mod events;
mod frame;
mod script;
mod session;

pub(crate) use command::command;
pub(crate) use frame::frame;
pub(crate) use session::session;
