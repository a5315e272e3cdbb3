//! The shell over real sockets: WebSocket, TLS, prefixes, the plug, a slow reader.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use prost::Message as _;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::Handle;
use crate::ctrader::wire::{self, ProtoOaPayloadType as PayloadType};
use crate::sim::presets::{WORKED_ACCOUNT, WORKED_TOKEN, worked_example};
use crate::sim::state::payload::number;
use crate::sim::{Broker, CLIENT_ID, CLIENT_SECRET, Close, raw};

const PATIENCE: Duration = Duration::from_secs(20);

type Ws = WebSocketStream<MaybeTlsStream<TcpStream>>;

fn envelope(kind: u32, body: &impl prost::Message) -> Vec<u8> {
    let payload = Some(body.encode_to_vec().into());
    wire::ProtoMessage {
        payload_type: kind,
        payload,
        client_msg_id: Some("id".to_owned()),
    }
    .encode_to_vec()
}

fn logins() -> [Vec<u8>; 2] {
    let app = wire::ProtoOaApplicationAuthReq {
        payload_type: None,
        client_id: CLIENT_ID.to_owned(),
        client_secret: CLIENT_SECRET.to_owned(),
    };
    let account = wire::ProtoOaAccountAuthReq {
        payload_type: None,
        ctid_trader_account_id: WORKED_ACCOUNT,
        access_token: WORKED_TOKEN.to_owned(),
    };
    [
        envelope(number(PayloadType::ProtoOaApplicationAuthReq), &app),
        envelope(number(PayloadType::ProtoOaAccountAuthReq), &account),
    ]
}

fn subscription() -> Vec<u8> {
    let body = wire::ProtoOaSubscribeSpotsReq {
        ctid_trader_account_id: WORKED_ACCOUNT,
        symbol_id: vec![1],
        ..Default::default()
    };
    envelope(number(PayloadType::ProtoOaSubscribeSpotsReq), &body)
}

/// The payload type of the next message; 0 at the end of the stream.
async fn kind(ws: &mut Ws) -> u32 {
    match timeout(PATIENCE, ws.next()).await.expect("within patience") {
        Some(Ok(Message::Binary(bytes))) => {
            wire::ProtoMessage::decode(bytes)
                .expect("an envelope")
                .payload_type
        }
        _ => 0,
    }
}

async fn session(sim: &Handle) -> Ws {
    let (mut ws, _) = tokio_tungstenite::connect_async(sim.demo_url())
        .await
        .expect("connected");
    for login in logins() {
        ws.send(Message::binary(login)).await.expect("sent");
    }
    assert_eq!(
        (kind(&mut ws).await, kind(&mut ws).await),
        (
            number(PayloadType::ProtoOaApplicationAuthRes),
            number(PayloadType::ProtoOaAccountAuthRes)
        )
    );
    ws
}

#[tokio::test]
async fn a_websocket_logs_in_gets_spots_and_ends_with_the_plug() {
    let sim = worked_example().start().await.expect("started");
    let mut ws = session(&sim).await;
    ws.send(Message::binary(subscription()))
        .await
        .expect("sent");
    assert_eq!(
        (kind(&mut ws).await, kind(&mut ws).await),
        (
            number(PayloadType::ProtoOaSubscribeSpotsRes),
            number(PayloadType::ProtoOaSpotEvent)
        )
    );
    sim.with(|broker| broker.set_quote("EURUSD", raw("1.084"), None));
    assert_eq!(kind(&mut ws).await, number(PayloadType::ProtoOaSpotEvent));
    sim.unplug().await;
    assert_eq!(kind(&mut ws).await, 0);
    TcpStream::connect(sim.demo_addr())
        .await
        .expect_err("nobody listens");
    assert_eq!(sim.with(|broker| broker.open_connections().len()), 0);
    sim.plug_in().await.expect("the same ports");
    session(&sim).await;
}

#[tokio::test]
async fn a_weekend_says_bye() {
    let sim = worked_example().start().await.expect("started");
    let mut ws = session(&sim).await;
    sim.close_sockets(Close::Bye);
    let close = timeout(PATIENCE, ws.next()).await.expect("within patience");
    let Some(Ok(Message::Close(Some(frame)))) = close else {
        panic!("{close:?}")
    };
    assert_eq!(
        (u16::from(frame.code), frame.reason.as_str()),
        (1000, "Bye")
    );
}

#[tokio::test]
async fn length_prefixes_over_tls_carry_the_same_messages() {
    let sim = worked_example().start().await.expect("started");
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(sim.ca_pem().as_bytes()).expect("a certificate"))
        .expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(sim.demo_addr())
        .await
        .expect("connected");
    let name = ServerName::try_from("localhost").expect("a name");
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut tls = connector.connect(name, tcp).await.expect("trusted");
    for login in logins() {
        let length = u32::try_from(login.len()).expect("short").to_be_bytes();
        // In two parts, as TCP may.
        tls.write_all(&length[..2]).await.expect("sent");
        tls.flush().await.expect("sent");
        tls.write_all(&[&length[2..], &login].concat())
            .await
            .expect("sent");
    }
    for expected in [
        number(PayloadType::ProtoOaApplicationAuthRes),
        number(PayloadType::ProtoOaAccountAuthRes),
    ] {
        let length = timeout(PATIENCE, tls.read_u32())
            .await
            .expect("in time")
            .expect("a prefix");
        let mut frame = vec![0; usize::try_from(length).expect("short")];
        tls.read_exact(&mut frame).await.expect("a frame");
        let message = wire::ProtoMessage::decode(frame.as_slice()).expect("an envelope");
        assert_eq!(message.payload_type, expected);
    }
}

#[tokio::test]
async fn a_half_open_socket_neither_answers_nor_ends() {
    let sim = worked_example().start().await.expect("started");
    let mut ws = session(&sim).await;
    sim.with(Broker::half_open_all);
    ws.send(Message::binary(subscription()))
        .await
        .expect("the write succeeds");
    let silence = timeout(Duration::from_millis(300), ws.next()).await;
    assert!(silence.is_err(), "{silence:?}");
    sim.kill_sockets();
    assert_eq!(kind(&mut ws).await, 0);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_reset_and_counted() {
    let sim = worked_example().start().await.expect("started");
    let mut ws = session(&sim).await;
    ws.send(Message::binary(subscription()))
        .await
        .expect("sent");
    assert_eq!(
        kind(&mut ws).await,
        number(PayloadType::ProtoOaSubscribeSpotsRes)
    );
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while sim.with(|broker| broker.stats().slow_readers) == 0 {
        assert!(tokio::time::Instant::now() < deadline, "never counted");
        sim.with(|broker| {
            for step in 0..50_000 {
                broker.set_quote("EURUSD", 108_000 + step % 100, None);
            }
        });
        tokio::task::yield_now().await;
    }
    while kind(&mut ws).await != 0 {}
}

#[tokio::test]
async fn a_tls_handshake_that_stalls_is_accepted_and_never_answered() {
    let sim = worked_example().start().await.expect("it starts");
    sim.stall_tls(true);
    let mut socket = TcpStream::connect(sim.demo_addr()).await.expect("open");
    // The first bytes of a handshake are enough for the server to know it for TLS.
    socket.write_all(&[0x16, 3, 1, 0, 4]).await.expect("sent");
    let mut byte = [0_u8; 1];
    let answer = timeout(Duration::from_millis(200), socket.read(&mut byte)).await;
    assert!(answer.is_err(), "neither bytes nor an end");
}

#[tokio::test]
async fn frames_are_put_together_from_pieces_and_a_bad_length_ends_the_socket() {
    let sim = worked_example().start().await.expect("it starts");
    let mut socket = TcpStream::connect(sim.demo_addr()).await.expect("open");
    let mut bytes = Vec::new();
    for message in logins() {
        let length = u32::try_from(message.len()).expect("short");
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&message);
    }
    // Two frames, in pieces that end in the middle of a length and of a body.
    for piece in bytes.chunks(7) {
        socket.write_all(piece).await.expect("sent");
        tokio::task::yield_now().await;
    }
    for kind in [
        number(PayloadType::ProtoOaApplicationAuthRes),
        number(PayloadType::ProtoOaAccountAuthRes),
    ] {
        let length = socket.read_u32().await.expect("a length");
        let mut body = vec![0; usize::try_from(length).expect("short")];
        socket.read_exact(&mut body).await.expect("a body");
        let message = wire::ProtoMessage::decode(body.as_slice()).expect("an envelope");
        assert_eq!(message.payload_type, kind);
    }
    for length in [0, u32::MAX] {
        let mut socket = TcpStream::connect(sim.demo_addr()).await.expect("open");
        socket.write_u32(length).await.expect("sent");
        let end = timeout(PATIENCE, socket.read_u8()).await;
        assert!(end.expect("in time").is_err(), "{length} ends it");
    }
}
