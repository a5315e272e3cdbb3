//! Who wants a symbol's prices.

use super::connection::ConnId;

/// One (socket, account) that wants a symbol's prices.
#[derive(Debug)]
pub(crate) struct SpotSubscriber {
    pub(crate) conn: ConnId,
    pub(crate) account: i64,
    pub(crate) timestamps: bool,
    pub(crate) prefix: Vec<u8>,
}
