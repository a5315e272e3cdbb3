//! Margin watch: margin calls and stop-outs.

use std::time::Duration;

use crate::ctrader::wire::{self, ProtoOaPayloadType as PayloadType};
use crate::sim::state::broker::Broker;

/// A margin call of one threshold comes at most this often.
const MARGIN_CALL_EVERY: Duration = Duration::from_mins(10);

impl Broker {
    /// Sends margin calls that are due and closes positions of accounts below their stop-out level.
    pub(super) fn check_margin_levels(&mut self) {
        let watched: Vec<i64> = self
            .accounts
            .values()
            .filter(|book| !book.positions.is_empty())
            .filter(|book| {
                book.stop_out_level.is_some()
                    || self
                        .conns
                        .values()
                        .any(|c| c.accounts.contains_key(&book.id))
            })
            .map(|book| book.id)
            .collect();
        for account in watched {
            let Some(level) = self.truth(account).and_then(|truth| truth.margin_level) else {
                continue;
            };
            self.margin_call(account, level);
            self.stop_out_below(account, level);
        }
    }

    fn margin_call(&mut self, account: i64, level: f64) {
        let now = self.now;
        let Some(book) = self.accounts.get_mut(&account) else {
            return;
        };
        let mut due = Vec::new();
        for call in &book.margin_calls {
            let recent = book
                .margin_called
                .get(&call.margin_call_type)
                .is_some_and(|at| now.saturating_duration_since(*at) < MARGIN_CALL_EVERY);
            if level <= call.margin_level_threshold && !recent {
                due.push(*call);
            }
        }
        for call in &due {
            book.margin_called.insert(call.margin_call_type, now);
        }
        for margin_call in due {
            let event = wire::ProtoOaMarginCallTriggerEvent {
                payload_type: None,
                ctid_trader_account_id: account,
                margin_call,
            };
            self.publish(
                account,
                PayloadType::ProtoOaMarginCallTriggerEvent,
                None,
                &event,
            );
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a level is a small percentage")]
    fn stop_out_below(&mut self, account: i64, level: f64) {
        let Some(book) = self.accounts.get(&account) else {
            return;
        };
        if !book
            .stop_out_level
            .is_some_and(|stop_out| level < stop_out as f64)
        {
            return;
        }
        let largest = book
            .positions
            .values()
            .max_by_key(|position| book.used_margin(position));
        let Some((id, symbol, volume)) = largest.map(|held| (held.id, held.symbol, held.volume))
        else {
            return;
        };
        let step = self
            .venues
            .get(book.venue)
            .and_then(|venue| venue.symbols.get(&symbol))
            .map_or(1, |symbol| symbol.spec.step_volume.max(1));
        let half = (volume / 2 / step * step).max(step);
        let in_parts = self.settings().partial_stop_out && !book.fair_stop_out;
        self.stop_out(account, id, in_parts.then_some(half));
    }
}
