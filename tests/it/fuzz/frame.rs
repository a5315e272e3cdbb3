//! Any bytes as a frame.

use bytes::Bytes;
use mahspeccy_bridge::ctrader::frame::{decode, encode};

/// What was understood of a frame survives being written and read again.
pub(crate) fn frame(data: &[u8]) {
    let Ok(first) = decode(Bytes::copy_from_slice(data)) else {
        return;
    };
    let write = || {
        encode(
            first.payload_type,
            first.payload.clone(),
            first.client_msg_id.clone(),
        )
    };
    let second = decode(write()).expect("ours is well-formed");
    assert_eq!(first, second);
}
