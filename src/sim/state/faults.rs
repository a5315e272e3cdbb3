//! Scripted faults as data: what the simulator does wrong, and for how long. All of it FIFO and counted.
//!
//! `script::faults` sets them; whoever sends, receives or authorises looks at them.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use super::connection::ConnId;
use super::refusal::{Refusal, RefusalMessage};

/// A scripted refusal of requests of one payload type.
#[derive(Clone, Debug)]
pub(crate) struct ScriptedRefusal {
    /// `None` = any request.
    pub(crate) kind: Option<u32>,
    pub(crate) account: Option<i64>,
    pub(crate) left: usize,
    pub(crate) refusal: Refusal,
}

/// How a request for an account that is not authorised here is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnauthorisedReply {
    /// `ACCOUNT_NOT_AUTHORIZED`.
    #[default]
    Code,
    /// `INVALID_REQUEST` with "Trading account is not authorized" as its description.
    Text,
}

/// What happens to open sessions when their token is refreshed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenRefreshEffect {
    /// 2147 and 2164 are sent and the sessions end.
    #[default]
    EndsSessions,
    /// Nothing happens; a new account auth answers `ALREADY_LOGGED_IN`.
    KeepsSessions,
}

/// Everything that can go wrong on purpose.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent switches a test turns one at a time"
)]
pub(crate) struct Faults {
    pub(crate) refusals: VecDeque<ScriptedRefusal>,
    pub(crate) swallow: VecDeque<Option<u32>>,
    pub(crate) hold: usize,
    pub(crate) held: Vec<(ConnId, Bytes)>,
    pub(crate) reply_delay: Duration,
    pub(crate) late: VecDeque<(u32, Duration)>,
    pub(crate) duplicate_events: usize,
    pub(crate) drop_events: usize,
    pub(crate) maintenance_end_ms: Option<i64>,
    pub(crate) maintenance_message: RefusalMessage,
    pub(crate) unknown_fields: bool,
    pub(crate) unknown_types_every: Option<u64>,
    pub(crate) omit_inner: bool,
    pub(crate) unknown_enums: usize,
    pub(crate) foreign_ids: bool,
    pub(crate) zero_ids: bool,
    pub(crate) unauthorised_reply: UnauthorisedReply,
    pub(crate) token_refresh_effect: TokenRefreshEffect,
    pub(crate) expired_as_invalid: bool,
    pub(crate) reconcile_lag: Duration,
    pub(crate) history_lag: Duration,
    pub(crate) stray_spots: bool,
}

impl Faults {
    /// The refusal scripted for this request, if any; uses one of its turns up.
    pub(crate) fn refuse(&mut self, kind: u32, account: Option<i64>) -> Option<Refusal> {
        let index = self.refusals.iter().position(|script| {
            script.kind.is_none_or(|wanted| wanted == kind)
                && script.account.is_none_or(|wanted| Some(wanted) == account)
        })?;
        let script = self.refusals.get_mut(index)?;
        script.left -= 1;
        let refusal = script.refusal.clone();
        if script.left == 0 {
            self.refusals.remove(index);
        }
        Some(refusal)
    }

    /// Whether the reply to this request is swallowed.
    pub(crate) fn swallows(&mut self, kind: u32) -> bool {
        let Some(index) = self
            .swallow
            .iter()
            .position(|wanted| wanted.is_none_or(|wanted| wanted == kind))
        else {
            return false;
        };
        self.swallow.remove(index);
        true
    }

    /// How late the reply to this request is.
    pub(crate) fn lateness(&mut self, kind: u32) -> Duration {
        let index = self.late.iter().position(|(wanted, _)| *wanted == kind);
        let late = index.and_then(|index| self.late.remove(index));
        late.map_or(self.reply_delay, |(_, delay)| delay)
    }
}
