//! An account and its open positions, as a world begins with them.
//!
//! Prices are raw (1/100000), volumes 1/100 unit, money in the account's smallest unit.

use std::time::Duration;

use super::spec::{AccountKind, Environment, MarginType, Side};

/// An open position of an account.
#[derive(Clone, Debug)]
pub struct PositionSpec {
    pub(crate) id: i64,
    pub(crate) symbol: String,
    pub(crate) side: Side,
    pub(crate) volume: i64,
    pub(crate) price: i64,
    pub(crate) swap: i64,
    pub(crate) commission: Option<i64>,
    pub(crate) margin_rate_e8: Option<i64>,
    pub(crate) stop_loss: Option<i64>,
    pub(crate) take_profit: Option<i64>,
}

impl PositionSpec {
    /// A position at a raw entry price; commission and margin rate follow from the quotes unless given.
    pub fn new(id: i64, symbol: &str, side: Side, volume: i64, price: i64) -> Self {
        Self {
            id,
            symbol: symbol.to_owned(),
            side,
            volume,
            price,
            swap: 0,
            commission: None,
            margin_rate_e8: None,
            stop_loss: None,
            take_profit: None,
        }
    }

    /// Swap so far, in the account's smallest unit.
    #[must_use]
    pub fn swap(mut self, swap: i64) -> Self {
        self.swap = swap;
        self
    }

    /// Commission so far, in the account's smallest unit, costs negative.
    #[must_use]
    pub fn commission(mut self, commission: i64) -> Self {
        self.commission = Some(commission);
        self
    }

    /// Value of one base unit in the deposit currency at opening, ×10^8.
    #[must_use]
    pub fn margin_rate_e8(mut self, rate: i64) -> Self {
        self.margin_rate_e8 = Some(rate);
        self
    }

    /// Protection levels, raw; creates the protective order.
    #[must_use]
    pub fn levels(mut self, stop_loss: Option<i64>, take_profit: Option<i64>) -> Self {
        self.stop_loss = stop_loss;
        self.take_profit = take_profit;
        self
    }
}

/// An account and the tokens that cover it.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent switches a test turns one at a time"
)]
pub struct AccountSpec {
    pub(crate) id: i64,
    pub(crate) broker: Option<String>,
    pub(crate) environment: Environment,
    pub(crate) tokens: Vec<String>,
    pub(crate) login: i64,
    pub(crate) balance: i64,
    pub(crate) balance_version: i64,
    pub(crate) currency: String,
    pub(crate) digits: u32,
    pub(crate) send_digits: bool,
    pub(crate) send_object_digits: bool,
    pub(crate) position_digits: Option<u32>,
    pub(crate) kind: AccountKind,
    pub(crate) margin_type: MarginType,
    pub(crate) leverage: u32,
    pub(crate) manager_bonus: i64,
    pub(crate) ib_bonus: i64,
    pub(crate) stop_out_level: Option<i64>,
    pub(crate) fair_stop_out: bool,
    pub(crate) disabled: bool,
    pub(crate) access_rights: i32,
    pub(crate) activity: Option<Duration>,
    pub(crate) positions: Vec<PositionSpec>,
}

impl AccountSpec {
    /// A hedged demo account of 10,000.00 EUR at 1:100 with the first broker, covered by no token yet.
    pub fn new(id: i64) -> Self {
        Self {
            id,
            broker: None,
            environment: Environment::Demo,
            tokens: Vec::new(),
            login: 3_000_000 + id % 1_000_000,
            balance: 1_000_000,
            balance_version: 1,
            currency: "EUR".to_owned(),
            digits: 2,
            send_digits: true,
            send_object_digits: true,
            position_digits: None,
            kind: AccountKind::Hedged,
            margin_type: MarginType::Max,
            leverage: 100,
            manager_bonus: 0,
            ib_bonus: 0,
            stop_out_level: None,
            fair_stop_out: false,
            disabled: false,
            access_rights: 0,
            activity: None,
            positions: Vec::new(),
        }
    }

    /// An access token that covers it; its refresh token is `refresh-` + the token. Accounts that name
    /// the same token share one grant.
    #[must_use]
    pub fn token(mut self, token: &str) -> Self {
        self.tokens.push(token.to_owned());
        self
    }

    /// The broker, by title.
    #[must_use]
    pub fn broker(mut self, title: &str) -> Self {
        self.broker = Some(title.to_owned());
        self
    }

    /// A live account.
    #[must_use]
    pub fn live(mut self) -> Self {
        self.environment = Environment::Live;
        self
    }

    /// The trader login shown to people.
    #[must_use]
    pub fn login(mut self, login: i64) -> Self {
        self.login = login;
        self
    }

    /// Balance in the account's smallest unit.
    #[must_use]
    pub fn balance(mut self, balance: i64) -> Self {
        self.balance = balance;
        self
    }

    /// Version of the balance.
    #[must_use]
    pub fn balance_version(mut self, version: i64) -> Self {
        self.balance_version = version;
        self
    }

    /// Deposit currency by asset name.
    #[must_use]
    pub fn currency(mut self, name: &str) -> Self {
        name.clone_into(&mut self.currency);
        self
    }

    /// Decimals of its money; sent with every object.
    #[must_use]
    pub fn money_digits(mut self, digits: u32) -> Self {
        self.digits = digits;
        self
    }

    /// `moneyDigits` is sent with no object at all (its money has the digits set before, 2 by default).
    #[must_use]
    pub fn money_digits_absent(mut self) -> Self {
        self.send_digits = false;
        self.send_object_digits = false;
        self
    }

    /// `moneyDigits` is sent with the trader only, not with positions, deals and the rest.
    #[must_use]
    pub fn money_digits_on_trader_only(mut self) -> Self {
        self.send_object_digits = false;
        self
    }

    /// Positions are sent with more digits than the trader, their money scaled accordingly.
    #[must_use]
    pub fn position_money_digits(mut self, digits: u32) -> Self {
        self.position_digits = Some(digits.max(self.digits));
        self
    }

    /// One position per symbol.
    #[must_use]
    pub fn netted(mut self) -> Self {
        self.kind = AccountKind::Netted;
        self
    }

    /// How positions add up to the used margin.
    #[must_use]
    pub fn margin_type(mut self, margin_type: MarginType) -> Self {
        self.margin_type = margin_type;
        self
    }

    /// Leverage, 100 = 1:100.
    #[must_use]
    pub fn leverage(mut self, leverage: u32) -> Self {
        self.leverage = leverage;
        self
    }

    /// Bonus granted by the broker and by an introducing broker.
    #[must_use]
    pub fn bonus(mut self, manager: i64, ib: i64) -> Self {
        self.manager_bonus = manager;
        self.ib_bonus = ib;
        self
    }

    /// The broker closes positions by itself below this margin level, per cent.
    #[must_use]
    pub fn stop_out_level(mut self, percent: i64) -> Self {
        self.stop_out_level = Some(percent);
        self
    }

    /// `fairStopOut`: whole positions are stopped out, whatever the settings are.
    #[must_use]
    pub fn fair_stop_out(mut self) -> Self {
        self.fair_stop_out = true;
        self
    }

    /// Account auth is refused with `RET_ACCOUNT_DISABLED`.
    #[must_use]
    pub fn disabled(mut self) -> Self {
        self.disabled = true;
        self
    }

    /// `ProtoOAAccessRights` by number: 2 = no trading.
    #[must_use]
    pub fn access_rights(mut self, rights: i32) -> Self {
        self.access_rights = rights;
        self
    }

    /// A seeded trader opens and closes positions about this often while the market runs.
    #[must_use]
    pub fn activity(mut self, mean: Duration) -> Self {
        self.activity = Some(mean);
        self
    }

    /// Adds an open position.
    #[must_use]
    pub fn position(mut self, position: PositionSpec) -> Self {
        self.positions.push(position);
        self
    }
}
