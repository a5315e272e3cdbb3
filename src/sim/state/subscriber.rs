//! Who gets the spot events of a symbol.

use super::connection::ConnId;

/// An account on a connection that subscribed to a symbol.
#[derive(Debug)]
pub(crate) struct SpotSubscriber {
    pub(crate) conn: ConnId,
    pub(crate) account: i64,
    pub(crate) timestamps: bool,
    pub(crate) prefix: Vec<u8>,
}
