//! cTrader: name resolution, TCP, TLS, WebSocket, and the authorisation of the application.

use std::time::{Duration, Instant};

use time::OffsetDateTime;
use url::Url;

use super::report::CheckResult;
use crate::config::CtraderSettings;
use crate::ctrader::connection::{Connection, ConnectionConfig, ConnectionError, Event, Transmit};
use crate::ctrader::error::Refusal;
use crate::domain::clock::WallClock;
use crate::failure::{Diagnosis, with_causes};
use crate::ws::diagnose::diagnose;
use crate::ws::dial::Dialer;
use crate::ws::{Incoming, Socket, SocketError};

/// From the first packet to the authorisation.
const AUTHORISED_WITHIN: Duration = Duration::from_secs(20);

pub(super) async fn check(
    name: &'static str,
    variable: &'static str,
    url: &Url,
    settings: &CtraderSettings,
) -> CheckResult {
    let endpoint = endpoint(url);
    match tokio::time::timeout(
        AUTHORISED_WITHIN,
        connect(variable, url, &endpoint, settings),
    )
    .await
    {
        Ok(Ok(took)) => CheckResult::passed(
            name,
            format!(
                "{endpoint}, application authorised in {} ms",
                took.as_millis()
            ),
        ),
        Ok(Err(diagnosis)) => CheckResult::failed(name, diagnosis),
        Err(_) => CheckResult::failed(
            name,
            Diagnosis::new(
                format!("{endpoint} accepts the connection and does not reply"),
                format!("wait and try again; if it stays so, correct {variable}"),
            ),
        ),
    }
}

async fn connect(
    variable: &'static str,
    url: &Url,
    endpoint: &str,
    settings: &CtraderSettings,
) -> Result<Duration, Diagnosis> {
    let started = Instant::now();
    let dialer = Dialer::new(settings.extra_roots.clone()).map_err(|error| {
        Diagnosis::new(
            with_causes(&error),
            "correct the certificates in CTRADER_CA_FILE",
        )
    })?;
    let mut socket = dialer
        .dial(url.as_str())
        .await
        .map_err(|error| diagnose(&error, endpoint, variable))?;
    let config = ConnectionConfig {
        client_id: settings.client_id.clone(),
        client_secret: settings.client_secret.clone(),
        request_rate: settings.request_rate,
        history_rate: settings.history_rate,
    };
    let clock = WallClock::new(started, OffsetDateTime::now_utc());
    let mut connection = Connection::new(&config, rand::random(), clock);
    let authorised = authorise(&mut connection, &mut socket).await;
    socket.close().await;
    match authorised {
        Ok(Ok(())) => Ok(started.elapsed()),
        Ok(Err(error)) => Err(diagnose_refusal(&error, endpoint)),
        Err(error) => Err(Diagnosis::new(
            format!("{endpoint}: {}", with_causes(&error)),
            format!("correct {variable}, or try again: cTrader may be under maintenance"),
        )),
    }
}

/// Drives the connection until the application is authorised or refused.
async fn authorise(
    connection: &mut Connection,
    socket: &mut Socket,
) -> Result<Result<(), ConnectionError>, SocketError> {
    loop {
        while let Some(transmit) = connection.poll_transmit() {
            match transmit {
                Transmit::Message(bytes) => socket.feed(bytes).await?,
                Transmit::Ping => socket.feed_ping().await?,
            }
        }
        socket.flush().await?;
        while let Some(event) = connection.poll_event() {
            if event == Event::Ready {
                return Ok(Ok(()));
            }
            if let Event::Failed(error) = event {
                return Ok(Err(error));
            }
        }
        let deadline = connection.poll_timeout().unwrap_or_else(Instant::now);
        tokio::select! {
            incoming = socket.receive() => match incoming? {
                Incoming::Message(bytes) => connection.handle_message(bytes, Instant::now()),
                Incoming::Pong => connection.handle_pong(Instant::now()),
                Incoming::Other => connection.handle_other(Instant::now()),
            },
            () = tokio::time::sleep_until(deadline.into()) => connection.handle_timeout(Instant::now()),
        }
    }
}

fn diagnose_refusal(error: &ConnectionError, endpoint: &str) -> Diagnosis {
    match error {
        ConnectionError::ApplicationRefused(Refusal { code, .. }) => {
            let fix = match code.as_str() {
                "CH_CLIENT_AUTH_FAILURE" | "CH_OA_CLIENT_NOT_FOUND" => {
                    "set CTRADER_CLIENT_ID and CTRADER_CLIENT_SECRET to those of one active application of the Open API portal"
                }
                "SERVER_IS_UNDER_MAINTENANCE" => "wait until its maintenance is over",
                "CONNECTIONS_LIMIT_EXCEEDED" => {
                    "lower CTRADER_CONNECTION_LIMIT, or end what else uses the application"
                }
                _ => "look the code up in the Open API's documentation",
            };
            Diagnosis::new(format!("{endpoint} refuses the application: {code}"), fix)
        }
        ConnectionError::Disconnected { .. }
        | ConnectionError::Unanswered
        | ConnectionError::Silent
        | ConnectionError::Malformed => Diagnosis::new(
            format!("{endpoint}: {error}"),
            "try again; if it stays so, correct the host's variable",
        ),
    }
}

fn endpoint(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port_or_known_default() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}
