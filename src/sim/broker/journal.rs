//! Writes the journal, if a test asked for one.

use crate::sim::state::broker::Broker;
use crate::sim::state::journal::{Entry, What};

impl Broker {
    pub(crate) fn write(&mut self, account: i64, what: impl FnOnce() -> What) {
        if let Some(ledger) = &mut self.ledger {
            ledger.push(Entry {
                account,
                what: what(),
            });
        }
    }

    /// Writes down what margin a position ties up, and nothing of a closed one.
    pub(crate) fn write_margin(&mut self, account: i64, position: i64) {
        if self.ledger.is_none() {
            return;
        }
        let margin = self.accounts.get(&account).and_then(|book| {
            let held = book.positions.get(&position)?;
            Some(book.used_margin(held))
        });
        if let Some(margin) = margin {
            self.write(account, || What::Margin(position, margin));
        }
    }
}
