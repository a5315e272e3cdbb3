//! Writes the journal, if a test asked for one.

use crate::sim::state::broker::Broker;
use crate::sim::state::journal::{JournalEntry, JournalEvent};

impl Broker {
    pub(crate) fn record(&mut self, account: i64, event: impl FnOnce() -> JournalEvent) {
        if let Some(journal) = &mut self.journal {
            journal.push(JournalEntry {
                account,
                event: event(),
            });
        }
    }

    /// Writes down what margin a position ties up, and nothing of a closed one.
    pub(crate) fn record_margin(&mut self, account: i64, position: i64) {
        if self.journal.is_none() {
            return;
        }
        let margin = self.accounts.get(&account).and_then(|book| {
            let held = book.positions.get(&position)?;
            Some(book.used_margin(held))
        });
        if let Some(margin) = margin {
            self.record(account, || JournalEvent::Margin(position, margin));
        }
    }
}
