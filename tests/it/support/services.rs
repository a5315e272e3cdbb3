//! Where the servers are. A test that needs one and is not told where it is fails with the command
//! to run.

use url::Url;

/// The management plugin's port when only `AMQP_URL` is known.
const MANAGEMENT_PORT: u16 = 15672;

/// An administrator's URL of the Postgres server; each test makes a database of its own on it.
pub(crate) fn database_url() -> Url {
    required("DATABASE_URL", variable("DATABASE_URL"))
}

/// An administrator's URL of the broker; each test makes a vhost of its own on it.
pub(crate) fn amqp_url() -> Url {
    required("AMQP_URL", variable("AMQP_URL"))
}

/// The broker's management API: `AMQP_MANAGEMENT_URL`, or the same host and user on the usual port.
pub(crate) fn management_url() -> Url {
    match variable("AMQP_MANAGEMENT_URL") {
        Some(url) => required("AMQP_MANAGEMENT_URL", Some(url)),
        None => management_beside(&amqp_url()),
    }
}

/// The URL of the management API that belongs to an AMQP URL.
pub(crate) fn management_beside(amqp: &Url) -> Url {
    let host = amqp.host_str().expect("AMQP_URL names a host");
    let mut url = Url::parse(&format!("http://{host}:{MANAGEMENT_PORT}"))
        .expect("a host of one URL fits another");
    url.set_username(amqp.username())
        .and_then(|()| url.set_password(amqp.password()))
        .expect("an http URL takes a user");
    url
}

/// The URL in a variable's value.
///
/// # Panics
///
/// If there is none, or it is not a URL.
pub(crate) fn required(name: &str, value: Option<String>) -> Url {
    let Some(value) = value else {
        panic!("{name} is not set: run scripts/test, or set DATABASE_URL and AMQP_URL");
    };
    // The value may hold a password: the message does not repeat it.
    Url::parse(&value).unwrap_or_else(|err| panic!("{name} is not a URL: {err}"))
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
