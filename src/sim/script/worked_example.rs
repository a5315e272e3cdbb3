//! The steps of the worked example, to be made in this order.

use crate::sim::state::broker::Broker;
use crate::sim::world::presets::WORKED_ACCOUNT;
use crate::sim::world::price::raw;

impl Broker {
    /// T1a: EURUSD with only `bid=108400`. Equity becomes 1017166.
    pub fn worked_t1a(&mut self) {
        self.set_quote("EURUSD", raw("1.08400"), None);
    }

    /// T1b: GBPUSD with only `ask=126440`. Equity becomes 1016889.
    pub fn worked_t1b(&mut self) {
        self.set_quote("GBPUSD", None, raw("1.26440"));
    }

    /// Prices back at T0.
    pub fn worked_t0_prices(&mut self) {
        self.set_quote("EURUSD", raw("1.08500"), raw("1.08512"));
        self.set_quote("GBPUSD", raw("1.26410"), raw("1.26425"));
    }

    /// T2: prices back at T0, then half of 702 is closed by hand. Balance 1005258, equity 1017121.
    ///
    /// # Panics
    /// If 702 is not open: the steps were made out of order.
    pub fn worked_t2(&mut self) {
        self.worked_t0_prices();
        self.close_position(WORKED_ACCOUNT, 702, Some(1_000_000))
            .expect("position 702 is open at T2");
    }

    /// T3: 500.00 are deposited. Balance 1055258, equity 1067121.
    pub fn worked_t3(&mut self) {
        self.deposit(WORKED_ACCOUNT, 50_000);
    }
}
