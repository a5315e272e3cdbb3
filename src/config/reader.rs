//! Turns the text of variables into types, and collects what is wrong with it.

use std::fmt::Display;
use std::fs;
use std::ops::RangeInclusive;
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tracing_subscriber::EnvFilter;
use url::{Host, Url};

use super::env::{Env, Problem, Problems};
use crate::amqp;
use crate::domain::secret::Secret;
use crate::telemetry::{DEFAULT_FILTER, LogFormat, LogSettings};

/// A worker's id is shown in rows, logs and the broker's list of connections.
const WORKER_ID_CHARS_MAX: usize = 128;

/// A URL's scheme.
pub(super) struct Scheme(pub(super) &'static str);

/// Reads variables one after the other and collects the problems. A getter that returns `None` has added a
/// problem.
pub(super) struct Reader<'a> {
    env: &'a Env,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(env: &'a Env) -> Self {
        Self {
            env,
            problems: Vec::new(),
        }
    }

    /// Returns the value, or all problems if there are any.
    pub(super) fn finish<T>(self, value: impl FnOnce() -> Option<T>) -> Result<T, Problems> {
        if self.problems.is_empty() {
            Ok(value().expect("a getter that returned `None` has added a problem"))
        } else {
            Err(Problems(self.problems))
        }
    }

    pub(super) fn problem(&mut self, variable: &'static str, what: impl Into<String>) {
        self.problems.push(Problem {
            variable,
            what: what.into(),
        });
    }

    fn refuse<T>(&mut self, variable: &'static str, what: impl Into<String>) -> Option<T> {
        self.problem(variable, what);
        None
    }

    pub(super) fn required(&mut self, name: &'static str) -> Option<&'a str> {
        let value = self.env.get(name);
        if value.is_none() {
            self.problem(name, "is not set");
        }
        value
    }

    /// Reads a whole number in a range, or returns the default.
    pub(super) fn number<T>(
        &mut self,
        name: &'static str,
        default: T,
        range: RangeInclusive<T>,
    ) -> Option<T>
    where
        T: FromStr + PartialOrd + Display + Copy,
    {
        self.optional_number(name, range)
            .map(|number| number.unwrap_or(default))
    }

    /// Reads a whole number in a range, if it is set.
    #[expect(
        clippy::option_option,
        reason = "the outer `None` is a problem, the inner one is a variable that is not set"
    )]
    pub(super) fn optional_number<T>(
        &mut self,
        name: &'static str,
        range: RangeInclusive<T>,
    ) -> Option<Option<T>>
    where
        T: FromStr + PartialOrd + Display,
    {
        let Some(text) = self.env.get(name) else {
            return Some(None);
        };
        match text.parse() {
            Ok(number) if range.contains(&number) => Some(Some(number)),
            _ => {
                let (least, most) = range.into_inner();
                self.refuse(
                    name,
                    format!("is not a whole number from {least} to {most}"),
                )
            }
        }
    }

    /// Reads a URL that may have a password, of one of two schemes.
    pub(super) fn secret_url(
        &mut self,
        name: &'static str,
        [plain, other]: [Scheme; 2],
    ) -> Option<Secret> {
        let text = self.required(name)?;
        let Ok(url) = Url::parse(text) else {
            return self.refuse(
                name,
                "is not a URL (characters like # / ? @ in a password must be percent-encoded)",
            );
        };
        if url.scheme() != plain.0 && url.scheme() != other.0 {
            let what = format!("begins with neither {}:// nor {}://", plain.0, other.0);
            return self.refuse(name, what);
        }
        if url.host_str().is_none_or(str::is_empty) {
            return self.refuse(name, "names no host");
        }
        Some(Secret::new(text))
    }

    /// Reads the broker's URL, with parameters that the client understands.
    pub(super) fn broker_url(&mut self, name: &'static str) -> Option<Secret> {
        let url = self.secret_url(name, [Scheme("amqp"), Scheme("amqps")])?;
        if amqp::is_url(&url) {
            Some(url)
        } else {
            self.refuse(name, "has a parameter that cannot be read")
        }
    }

    /// Reads a WebSocket URL; an unencrypted one only for this machine.
    pub(super) fn socket_url(&mut self, name: &'static str, default: &str) -> Option<Url> {
        let text = self.env.get(name).unwrap_or(default);
        let Ok(url) = Url::parse(text) else {
            return self.refuse(name, "is not a URL");
        };
        if url.host_str().is_none_or(str::is_empty) {
            return self.refuse(name, "names no host");
        }
        match url.scheme() {
            "wss" => Some(url),
            "ws" if is_loopback(&url) => Some(url),
            "ws" => self.refuse(name, "is unencrypted (ws://), and not on this machine"),
            _ => self.refuse(name, "begins with neither wss:// nor ws://"),
        }
    }

    /// Reads the certificates of a PEM file; none if no file is named.
    pub(super) fn certificates(
        &mut self,
        name: &'static str,
    ) -> Option<Vec<CertificateDer<'static>>> {
        let Some(path) = self.env.get(name) else {
            return Some(Vec::new());
        };
        let pem = match fs::read(path) {
            Ok(pem) => pem,
            Err(err) => {
                let what = format!("names a file that cannot be read: {}", err.kind());
                return self.refuse(name, what);
            }
        };
        match CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>() {
            Ok(certificates) if !certificates.is_empty() => Some(certificates),
            _ => self.refuse(name, "names a file that is not one of PEM certificates"),
        }
    }

    /// Reads 32 bytes in base64, if they are set.
    #[expect(
        clippy::option_option,
        reason = "the outer `None` is a problem, the inner one is a variable that is not set"
    )]
    pub(super) fn key(&mut self, name: &'static str) -> Option<Option<[u8; 32]>> {
        let Some(text) = self.env.get(name) else {
            return Some(None);
        };
        let bytes = BASE64_STANDARD.decode(text).unwrap_or_default();
        match <[u8; 32]>::try_from(bytes) {
            Ok(key) => Some(Some(key)),
            Err(_) => self.refuse(
                name,
                "is not the base64 of 32 bytes (openssl rand -base64 32)",
            ),
        }
    }

    /// Returns `WORKER_ID`, else Fly's name of the machine, else the host's name with a random suffix, since two
    /// workers may run on one host.
    pub(super) fn worker_id(&mut self) -> Option<String> {
        for name in ["WORKER_ID", "FLY_MACHINE_ID"] {
            if let Some(id) = self.env.get(name) {
                let fits = id.chars().count() <= WORKER_ID_CHARS_MAX
                    && !id
                        .chars()
                        .any(|char| char.is_control() || char.is_whitespace());
                if fits {
                    return Some(id.to_owned());
                }
                let what =
                    format!("has white space in it, or more than {WORKER_ID_CHARS_MAX} characters");
                return self.refuse(name, what);
            }
        }
        let host = host_name().unwrap_or_else(|| "worker".to_owned());
        Some(format!("{host}-{:08x}", rand::random::<u32>()))
    }

    pub(super) fn log(&mut self) -> Option<LogSettings> {
        let format = match self.env.get("LOG_FORMAT") {
            None => None,
            Some("json") => Some(LogFormat::Json),
            Some("pretty") => Some(LogFormat::Pretty),
            Some(_) => return self.refuse("LOG_FORMAT", "is neither json nor pretty"),
        };
        let filter = self.env.get("RUST_LOG").unwrap_or(DEFAULT_FILTER);
        if EnvFilter::builder().parse(filter).is_err() {
            return self.refuse(
                "RUST_LOG",
                "is not a filter like info,mahspeccy_bridge=debug",
            );
        }
        Some(LogSettings {
            format,
            filter: filter.to_owned(),
        })
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Returns the machine's name without characters that an id may not have.
fn host_name() -> Option<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let name: String = name
        .trim()
        .chars()
        .filter(|char| char.is_ascii_alphanumeric() || "-_.".contains(*char))
        .take(64)
        .collect();
    (!name.is_empty()).then_some(name)
}
