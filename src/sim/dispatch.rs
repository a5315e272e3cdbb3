//! Which handler serves which payload type.

use prost::Message;

use super::broker::{Broker, Request};
use super::envelope::Refusal;

/// The account a request names (field 2 of nearly all of them), without knowing its type.
#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(int64, optional, tag = "2")]
    account: Option<i64>,
}

/// The account a request names, if its field 2 is one.
pub(super) fn named_account(request: &Request) -> Option<i64> {
    match request.kind {
        2100 | 2104 | 2149 | 2173 => None,
        _ => Named::decode(request.body.clone())
            .ok()
            .and_then(|named| named.account),
    }
}

impl Broker {
    pub(super) fn dispatch(&mut self, request: &Request) -> Result<(), Refusal> {
        match request.kind {
            2100 => self.on_application_auth(request),
            2102 => self.on_account_auth(request),
            2104 => self.on_version(request),
            2106 => self.on_new_order(request),
            2108 => self.on_cancel_order(request),
            2111 => self.on_close_position(request),
            2121 => self.on_trader(request),
            2124 => self.on_reconcile(request),
            2127 => self.on_subscribe_spots(request),
            2129 => self.on_unsubscribe_spots(request),
            2149 => self.on_account_list(request),
            2162 => self.on_logout(request),
            2173 => self.on_refresh(request),
            2187 => self.on_unrealized_pnl(request),
            2112 | 2114 | 2116 | 2118 => self.dispatch_static(request),
            2133 | 2143 => self.dispatch_history(request),
            _ => {
                self.need_app(request)?;
                Err(Refusal::new("UNSUPPORTED_MESSAGE").description("Unsupported message"))
            }
        }
    }
}
