//! What the tests stand on: a database and a vhost for each test, and waiting for a condition.
//!
//! But for `fleet` and `crowd`, which run the bridge itself, `pair`, which drives the protocol's two ends, and
//! `postgres`, which applies the migrations, it knows the servers and nothing of the library under test.

pub(crate) mod cable;
pub(crate) mod crowd;
pub(crate) mod fleet;
pub(crate) mod gate;
pub(crate) mod namespace;
pub(crate) mod own_postgres;
pub(crate) mod pair;
pub(crate) mod pgbouncer;
pub(crate) mod postgres;
pub(crate) mod rabbitmq;
pub(crate) mod services;
pub(crate) mod wait;
pub(crate) mod worker;

use std::future::Future;

/// Runs a future to its end from a `Drop`, which cannot await and may itself run inside a runtime:
/// on a thread and a runtime of its own.
///
/// # Errors
///
/// Returns what the future returns, or why it could not run.
fn finish<F>(future: F) -> Result<(), String>
where
    F: Future<Output = Result<(), String>> + Send + 'static,
{
    std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|err| err.to_string())?
            .block_on(future)
    })
    .join()
    .unwrap_or_else(|_| Err("the clean-up panicked".to_owned()))
}

/// Reports a failed clean-up: fails the test, unless it is failing already.
fn report_leftover(what: &str, result: Result<(), String>) {
    if let Err(err) = result {
        assert!(std::thread::panicking(), "{what} is left behind: {err}");
        eprintln!("{what} is left behind: {err}");
    }
}
