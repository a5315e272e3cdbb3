//! A request that passed the envelope, and what is remembered of it.

use std::time::Instant;

use bytes::Bytes;
use prost::Message;

use super::connection::ConnId;
use super::payload::named;
use super::refusal::Refusal;
use crate::ctrader::wire::ProtoOaPayloadType as PayloadType;

/// A request that passed the envelope.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) conn: ConnId,
    pub(crate) payload_type: u32,
    pub(crate) id: Option<String>,
    pub(crate) body: Bytes,
}

impl Request {
    pub(crate) fn parse<M: Message + Default>(&self) -> Result<M, Refusal> {
        M::decode(self.body.clone())
            .map_err(|_| Refusal::new("INVALID_REQUEST").description("Malformed message"))
    }

    /// The account that it names, if its field 2 is one.
    pub(crate) fn account(&self) -> Option<i64> {
        match named(self.payload_type) {
            Some(
                PayloadType::ProtoOaApplicationAuthReq
                | PayloadType::ProtoOaVersionReq
                | PayloadType::ProtoOaGetAccountsByAccessTokenReq
                | PayloadType::ProtoOaRefreshTokenReq,
            ) => None,
            _ => AccountField::decode(self.body.clone())
                .ok()
                .and_then(|field| field.account),
        }
    }
}

/// A request as seen on the wire.
#[derive(Clone, Copy, Debug)]
pub struct RequestRecord {
    /// The connection.
    pub conn: ConnId,
    /// Its payload type.
    pub payload_type: u32,
    /// The account it names; 0 if none.
    pub account: i64,
    /// When.
    pub at: Instant,
}

/// The account a request names (field 2 of nearly all of them), without knowing its type.
#[derive(Clone, PartialEq, Message)]
struct AccountField {
    #[prost(int64, optional, tag = "2")]
    account: Option<i64>,
}
