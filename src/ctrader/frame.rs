//! The envelope: what every frame of cTrader has, and the tag that makes a response ours.
//!
//! A WebSocket message is exactly one serialised `ProtoMessage`, with no length before it. The
//! inner message may or may not repeat its payload type; only the envelope's counts.

use bytes::Bytes;
use prost::Message;

use super::wire::{ProtoMessage, ProtoOaPayloadType, ProtoPayloadType};

/// The largest message taken in. cTrader publishes no limit; its own client drops above 15 MB.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Payload type of `ProtoErrorRes`.
pub const ERROR_RES: u32 = ProtoPayloadType::ErrorRes as u32;
/// Payload type of `ProtoHeartbeatEvent`.
pub const HEARTBEAT_EVENT: u32 = ProtoPayloadType::HeartbeatEvent as u32;

/// Payload type of `ProtoOASpotEvent`.
pub const SPOT_EVENT: u32 = number(ProtoOaPayloadType::ProtoOaSpotEvent);

/// The number of an Open API payload type in the envelope.
#[must_use]
pub const fn number(payload_type: ProtoOaPayloadType) -> u32 {
    (payload_type as i32).cast_unsigned()
}

/// A frame, out of its envelope.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// What the payload is.
    pub payload_type: u32,
    /// The serialised inner message.
    pub payload: Bytes,
    /// The response's tag, or another client's on an event.
    pub client_msg_id: Option<String>,
}

/// Serialises a message in its envelope.
#[must_use]
pub fn encode(payload_type: u32, payload: Bytes, client_msg_id: Option<String>) -> Bytes {
    let envelope = ProtoMessage {
        payload_type,
        payload: Some(payload),
        client_msg_id,
    };
    envelope.encode_to_vec().into()
}

/// Opens an envelope.
///
/// # Errors
/// When the bytes are no `ProtoMessage`.
pub fn decode(bytes: Bytes) -> Result<Frame, prost::DecodeError> {
    let envelope = ProtoMessage::decode(bytes)?;
    Ok(Frame {
        payload_type: envelope.payload_type,
        payload: envelope.payload.unwrap_or_default(),
        client_msg_id: envelope.client_msg_id,
    })
}

/// Makes the ids of one connection's requests, and knows them again.
///
/// Events that another client of an account caused may have that client's id, so ours begin with
/// a random part that lasts as long as the connection.
#[derive(Debug)]
pub struct RequestIds {
    prefix: String,
    next: u64,
}

impl RequestIds {
    /// Ids that begin with `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            prefix: format!("{seed:016x}-"),
            next: 1,
        }
    }

    /// The next request's number.
    pub fn allocate(&mut self) -> u64 {
        let id = self.next;
        self.next += 1;
        id
    }

    /// What the number is on the wire.
    #[must_use]
    pub fn tag(&self, id: u64) -> String {
        format!("{}{id}", self.prefix)
    }

    /// The number of one of our own tags.
    #[must_use]
    pub fn number(&self, tag: &str) -> Option<u64> {
        tag.strip_prefix(&self.prefix)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_clients_id_is_not_ours() {
        let mut ids = RequestIds::new(7);
        let id = ids.allocate();
        assert_eq!(ids.number(&ids.tag(id)), Some(id));
        assert_eq!(ids.number("1"), None);
        assert_eq!(ids.number(&RequestIds::new(8).tag(id)), None);
    }

    #[test]
    fn a_frame_survives_its_envelope() {
        let bytes = encode(2131, Bytes::from_static(b"\x10\x01"), Some("x".to_owned()));
        let frame = decode(bytes).expect("it is a frame");
        assert_eq!(
            (frame.payload_type, &frame.payload[..]),
            (2131, &b"\x10\x01"[..])
        );
        assert!(decode(Bytes::from_static(b"\xff\xff")).is_err());
    }
}
