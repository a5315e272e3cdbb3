//! The refusal of a request: its error code, its other fields, and the message that has it.

use bytes::Bytes;

use crate::ctrader::wire::{self, ProtoOaPayloadType as PayloadType};

use super::envelope::{FrameOptions, frame};
use super::payload::{ERROR_RES, number};

/// The type of message that a refusal is sent as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RefusalMessage {
    /// `ProtoOAErrorRes` (2142).
    #[default]
    OaError,
    /// `ProtoErrorRes` (50).
    CommonError,
    /// `ProtoOAOrderErrorEvent` (2132), for trading requests.
    OrderError,
    /// `ProtoOAExecutionEvent` (2126) with ORDER_REJECTED, for trading requests.
    Rejected,
}

/// A refusal of a request.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", .0.code)]
pub struct Refusal(Box<RefusalDetails>);

/// The fields of a refusal.
#[derive(Clone, Debug)]
pub(crate) struct RefusalDetails {
    pub(crate) code: String,
    pub(crate) description: Option<String>,
    pub(crate) retry_after: Option<u64>,
    pub(crate) maintenance_end_ms: Option<i64>,
    pub(crate) message: RefusalMessage,
    pub(crate) account: Option<i64>,
    pub(crate) order: Option<i64>,
    pub(crate) position: Option<i64>,
}

impl Refusal {
    /// Makes a refusal by `ProtoOAErrorRes` with this error code.
    pub fn new(code: &str) -> Self {
        Self(Box::new(RefusalDetails {
            code: code.to_owned(),
            description: None,
            retry_after: None,
            maintenance_end_ms: None,
            message: RefusalMessage::OaError,
            account: None,
            order: None,
            position: None,
        }))
    }

    /// Returns its error code.
    pub fn code(&self) -> &str {
        &self.0.code
    }

    pub(crate) fn details(&mut self) -> &mut RefusalDetails {
        &mut self.0
    }

    /// Sets its free text.
    #[must_use]
    pub fn description(mut self, text: &str) -> Self {
        self.0.description = Some(text.to_owned());
        self
    }

    /// Sets the seconds until the payload type is served again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.0.retry_after = Some(seconds);
        self
    }

    /// Sets the type of message that it is sent as.
    #[must_use]
    pub fn sent_as(mut self, message: RefusalMessage) -> Self {
        self.0.message = message;
        self
    }

    pub(crate) fn account(mut self, id: i64) -> Self {
        self.0.account = Some(id);
        self
    }

    pub(crate) fn order_error(code: &str, order: Option<i64>, position: Option<i64>) -> Self {
        let mut refusal = Self::new(code).sent_as(RefusalMessage::OrderError);
        refusal.0.order = order;
        refusal.0.position = position;
        refusal
    }

    /// Returns it as a serialised message.
    pub(crate) fn frame(
        &self,
        id: Option<&str>,
        account: Option<i64>,
        options: FrameOptions,
    ) -> Bytes {
        let account = self.0.account.or(account);
        match self.0.message {
            RefusalMessage::CommonError => {
                let body = wire::ProtoErrorRes {
                    payload_type: None,
                    error_code: self.0.code.clone(),
                    description: self.0.description.clone(),
                    maintenance_end_timestamp: self.0.maintenance_end_ms.map(i64::cast_unsigned),
                };
                frame(ERROR_RES, id, &body, options)
            }
            RefusalMessage::OaError => {
                let body = wire::ProtoOaErrorRes {
                    payload_type: None,
                    ctid_trader_account_id: account,
                    error_code: self.0.code.clone(),
                    description: self.0.description.clone(),
                    maintenance_end_timestamp: self.0.maintenance_end_ms.map(|ms| ms / 1000),
                    retry_after: self.0.retry_after,
                };
                frame(number(PayloadType::ProtoOaErrorRes), id, &body, options)
            }
            RefusalMessage::OrderError => {
                let body = wire::ProtoOaOrderErrorEvent {
                    payload_type: None,
                    error_code: self.0.code.clone(),
                    order_id: self.0.order,
                    ctid_trader_account_id: account.unwrap_or_default(),
                    position_id: self.0.position,
                    description: self.0.description.clone(),
                };
                frame(
                    number(PayloadType::ProtoOaOrderErrorEvent),
                    id,
                    &body,
                    options,
                )
            }
            RefusalMessage::Rejected => {
                let body = wire::ProtoOaExecutionEvent {
                    ctid_trader_account_id: account.unwrap_or_default(),
                    execution_type: wire::ProtoOaExecutionType::OrderRejected.into(),
                    error_code: Some(self.0.code.clone()),
                    order: self.0.order.map(|order_id| wire::ProtoOaOrder {
                        order_id,
                        order_type: wire::ProtoOaOrderType::Market.into(),
                        order_status: wire::ProtoOaOrderStatus::OrderStatusRejected.into(),
                        ..Default::default()
                    }),
                    is_server_event: Some(false),
                    ..Default::default()
                };
                frame(
                    number(PayloadType::ProtoOaExecutionEvent),
                    id,
                    &body,
                    options,
                )
            }
        }
    }
}
