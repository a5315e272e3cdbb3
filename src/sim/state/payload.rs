//! Payload types by the names of the generated enums, and their numbers on the wire.

use crate::ctrader::wire::{ProtoOaPayloadType, ProtoPayloadType};

/// Payload type of `ProtoErrorRes`.
pub(crate) const ERROR_RES: u32 = ProtoPayloadType::ErrorRes as u32;
/// Payload type of `ProtoHeartbeatEvent`.
pub(crate) const HEARTBEAT_EVENT: u32 = ProtoPayloadType::HeartbeatEvent as u32;
/// A payload type that no published schema has.
pub(crate) const UNKNOWN: u32 = 2_999;

/// The number of an Open API payload type in the envelope.
pub(crate) const fn number(payload_type: ProtoOaPayloadType) -> u32 {
    (payload_type as i32).cast_unsigned()
}

/// The Open API payload type of a number, if the schema has it.
pub(crate) fn named(number: u32) -> Option<ProtoOaPayloadType> {
    ProtoOaPayloadType::try_from(number.cast_signed()).ok()
}
