//! cTrader: name, TCP, TLS, WebSocket, and whether it takes the application.

use std::time::{Duration, Instant};

use time::OffsetDateTime;
use url::Url;

use super::Line;
use crate::config::CtraderSettings;
use crate::ctrader::connection::{Connection, ConnectionConfig, ConnectionError, Event, Transmit};
use crate::ctrader::error::Refusal;
use crate::domain::clock::WallClock;
use crate::failure::{Diagnosis, with_causes};
use crate::ws::dial::Dialer;
use crate::ws::fault::diagnose;
use crate::ws::{Incoming, Socket, SocketError};

/// From the first packet to the answer.
const AUTHORISED_WITHIN: Duration = Duration::from_secs(20);

pub(super) async fn line(
    what: &'static str,
    variable: &'static str,
    url: &Url,
    settings: &CtraderSettings,
) -> Line {
    let place = place(url);
    match tokio::time::timeout(AUTHORISED_WITHIN, reach(variable, url, &place, settings)).await {
        Ok(Ok(took)) => Line::good(
            what,
            format!("{place}, application authorised in {} ms", took.as_millis()),
        ),
        Ok(Err(diagnosis)) => Line::bad(what, diagnosis),
        Err(_) => Line::bad(
            what,
            Diagnosis::new(
                format!("{place} takes the connection and answers nothing"),
                format!("wait and try again; if it stays so, correct {variable}"),
            ),
        ),
    }
}

async fn reach(
    variable: &'static str,
    url: &Url,
    place: &str,
    settings: &CtraderSettings,
) -> Result<Duration, Diagnosis> {
    let began = Instant::now();
    let dialer = Dialer::new(settings.extra_roots.clone()).map_err(|error| {
        Diagnosis::new(
            with_causes(&error),
            "correct the certificates in CTRADER_CA_FILE",
        )
    })?;
    let mut socket = dialer
        .dial(url.as_str())
        .await
        .map_err(|error| diagnose(&error, place, variable))?;
    let config = ConnectionConfig {
        client_id: settings.client_id.clone(),
        client_secret: settings.client_secret.clone(),
        request_rate: settings.request_rate,
        history_rate: settings.history_rate,
    };
    let clock = WallClock::new(began, OffsetDateTime::now_utc());
    let mut connection = Connection::new(&config, rand::random(), clock);
    let authorised = authorise(&mut connection, &mut socket).await;
    socket.close().await;
    match authorised {
        Ok(Ok(())) => Ok(began.elapsed()),
        Ok(Err(error)) => Err(refused(&error, place)),
        Err(error) => Err(Diagnosis::new(
            format!("{place}: {}", with_causes(&error)),
            format!("correct {variable}, or try again: cTrader may be under maintenance"),
        )),
    }
}

/// Until the application is authorised, or refused.
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
        let due = connection.poll_timeout().unwrap_or_else(Instant::now);
        tokio::select! {
            incoming = socket.receive() => match incoming? {
                Incoming::Message(bytes) => connection.handle_message(bytes, Instant::now()),
                Incoming::Pong => connection.handle_pong(Instant::now()),
                Incoming::Other => connection.handle_other(Instant::now()),
            },
            () = tokio::time::sleep_until(due.into()) => connection.handle_timeout(Instant::now()),
        }
    }
}

fn refused(error: &ConnectionError, place: &str) -> Diagnosis {
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
            Diagnosis::new(format!("{place} refuses the application: {code}"), fix)
        }
        ConnectionError::Disconnected { .. }
        | ConnectionError::Unanswered
        | ConnectionError::Silent
        | ConnectionError::Malformed => Diagnosis::new(
            format!("{place}: {error}"),
            "try again; if it stays so, correct the host's variable",
        ),
    }
}

fn place(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port_or_known_default() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}
