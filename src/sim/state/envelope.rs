//! Bytes of the envelope: `ProtoMessage` around a body.
//!
//! Bodies are built with `payload_type: None`; the inner number is written here, so that it can be
//! left out on demand. The envelope's own is always there.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{encode_varint, encoded_len_varint};

use crate::ctrader::wire::{self, ProtoOaPayloadType as PayloadType};

use super::payload::{named, number};

/// Frames longer than this are refused with `FRAME_TOO_LONG`.
pub const MAX_FRAME: usize = 1024 * 1024;

/// Payload type of `ProtoOASpotEvent`.
const SPOT_EVENT: u32 = number(PayloadType::ProtoOaSpotEvent);
/// Key byte of field 1 as a varint.
const FIELD_1_VARINT: u8 = 0x08;
/// Key byte of field 2 as bytes.
const FIELD_2_BYTES: u8 = 0x12;
/// Key byte of field 3 as bytes.
const FIELD_3_BYTES: u8 = 0x1a;

/// How an outgoing message is dressed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FrameOptions {
    /// The inner `payloadType` is left out.
    pub(crate) omit_inner: bool,
    /// Fields that no published schema has are added.
    pub(crate) unknown_fields: bool,
}

/// A serialised `ProtoMessage` of this kind.
pub(crate) fn frame(
    kind: u32,
    id: Option<&str>,
    body: &impl Message,
    options: FrameOptions,
) -> Bytes {
    let mut payload = Vec::with_capacity(body.encoded_len() + 16);
    if !options.omit_inner {
        payload.push(FIELD_1_VARINT);
        encode_varint(u64::from(kind), &mut payload);
    }
    payload.extend_from_slice(&body.encode_to_vec());
    if options.unknown_fields {
        payload.extend_from_slice(unknown_tail(kind));
    }
    let mut out = BytesMut::with_capacity(payload.len() + 24 + id.map_or(0, str::len));
    out.put_u8(FIELD_1_VARINT);
    encode_varint(u64::from(kind), &mut out);
    out.put_u8(FIELD_2_BYTES);
    encode_varint(payload.len() as u64, &mut out);
    out.put_slice(&payload);
    if let Some(id) = id {
        out.put_u8(FIELD_3_BYTES);
        encode_varint(id.len() as u64, &mut out);
        out.put_slice(id.as_bytes());
    }
    out.freeze()
}

/// Fields seen on the live server that no schema has: 23 of the trader; elsewhere a field 99.
fn unknown_tail(kind: u32) -> &'static [u8] {
    match named(kind) {
        // A second occurrence of the trader merges into the first.
        Some(PayloadType::ProtoOaTraderRes | PayloadType::ProtoOaTraderUpdateEvent) => {
            &[0x1a, 0x03, 0xb8, 0x01, 0x01]
        }
        _ => &[0x98, 0x06, 0x01],
    }
}

/// The fixed front of a spot event: account and symbol, without bid, ask and timestamp.
pub(crate) fn spot_prefix(account: i64, symbol: i64, omit_inner: bool) -> Vec<u8> {
    let body = wire::ProtoOaSpotEvent {
        ctid_trader_account_id: account,
        symbol_id: symbol,
        ..Default::default()
    };
    let mut prefix = Vec::with_capacity(24);
    if !omit_inner {
        prefix.push(FIELD_1_VARINT);
        encode_varint(u64::from(SPOT_EVENT), &mut prefix);
    }
    prefix.extend_from_slice(&body.encode_to_vec());
    prefix
}

/// The moving back of a spot event: bid, ask and timestamp.
pub(crate) fn spot_suffix(
    bid: Option<i64>,
    ask: Option<i64>,
    timestamp: Option<i64>,
    suffix: &mut Vec<u8>,
) {
    suffix.clear();
    for (key, value) in [(0x20_u8, bid), (0x28, ask), (0x40, timestamp)] {
        if let Some(value) = value {
            suffix.push(key);
            encode_varint(value.cast_unsigned(), suffix);
        }
    }
}

/// Joins front and back of a spot event in an envelope, cut from a shared buffer.
pub(crate) fn spot_frame(prefix: &[u8], suffix: &[u8], scratch: &mut BytesMut) -> Bytes {
    let inner = prefix.len() + suffix.len();
    scratch.reserve(inner + 8 + encoded_len_varint(inner as u64));
    scratch.put_u8(FIELD_1_VARINT);
    encode_varint(u64::from(SPOT_EVENT), scratch);
    scratch.put_u8(FIELD_2_BYTES);
    encode_varint(inner as u64, scratch);
    scratch.put_slice(prefix);
    scratch.put_slice(suffix);
    scratch.split().freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spot_cut_by_hand_is_what_prost_would_write() {
        let mut suffix = Vec::new();
        spot_suffix(Some(108_400), None, Some(1_700_000_000_000), &mut suffix);
        let bytes = spot_frame(
            &spot_prefix(5_150_705, 1, false),
            &suffix,
            &mut BytesMut::new(),
        );
        let message = wire::ProtoMessage::decode(bytes).expect("an envelope");
        assert_eq!(message.payload_type, SPOT_EVENT);
        let spot =
            wire::ProtoOaSpotEvent::decode(message.payload.expect("a payload")).expect("a spot");
        assert_eq!(
            (spot.ctid_trader_account_id, spot.symbol_id),
            (5_150_705, 1)
        );
        assert_eq!(
            (spot.bid, spot.ask, spot.timestamp),
            (Some(108_400), None, Some(1_700_000_000_000))
        );
        assert_eq!(
            spot.payload_type,
            Some(i32::from(PayloadType::ProtoOaSpotEvent))
        );
    }

    #[test]
    fn unknown_fields_do_not_disturb_the_known_ones() {
        let sent = wire::ProtoOaTraderRes {
            ctid_trader_account_id: 7,
            trader: wire::ProtoOaTrader {
                ctid_trader_account_id: 7,
                balance: 12,
                ..Default::default()
            },
            ..Default::default()
        };
        let bytes = frame(
            number(PayloadType::ProtoOaTraderRes),
            Some("id"),
            &sent,
            FrameOptions {
                unknown_fields: true,
                omit_inner: true,
            },
        );
        let message = wire::ProtoMessage::decode(bytes).expect("an envelope");
        assert_eq!(message.client_msg_id.as_deref(), Some("id"));
        let body =
            wire::ProtoOaTraderRes::decode(message.payload.expect("a payload")).expect("a body");
        assert_eq!((body.payload_type, body.trader.balance), (None, 12));
    }
}
