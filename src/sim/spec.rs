//! What a simulated world is made of: brokers, their assets and symbols, accounts and positions.
//!
//! Plain data with builder methods. Prices are raw (1/100000), volumes 1/100 unit, money in the
//! account's smallest unit, as on the wire.

use std::time::Duration;

/// Which of cTrader's two worlds an account lives in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Environment {
    /// Demo accounts.
    Demo,
    /// Live accounts.
    Live,
}

/// Direction of a trade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Long.
    Buy,
    /// Short.
    Sell,
}

impl Side {
    /// The other side.
    #[must_use]
    pub fn opposite(self) -> Self {
        match self {
            Self::Buy => Self::Sell,
            Self::Sell => Self::Buy,
        }
    }

    pub(super) fn wire(self) -> i32 {
        match self {
            Self::Buy => 1,
            Self::Sell => 2,
        }
    }

    pub(super) fn from_wire(side: i32) -> Option<Self> {
        match side {
            1 => Some(Self::Buy),
            2 => Some(Self::Sell),
            _ => None,
        }
    }
}

/// `ProtoOAAccountType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountKind {
    /// Every order opens its own position.
    Hedged,
    /// One position per symbol.
    Netted,
}

/// `ProtoOATotalMarginCalculationType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarginType {
    /// Per symbol, the larger of the two sides.
    Max,
    /// All positions.
    Sum,
    /// Per symbol, the difference of the two sides.
    Net,
}

/// How a symbol charges commission, per side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commission {
    /// None.
    Free,
    /// USD per million USD of base volume, ×10^8.
    UsdPerMillionUsd(i64),
    /// USD per lot, ×10^8.
    UsdPerLot(i64),
    /// Per cent of value, ×10^5.
    PercentageOfValue(i64),
    /// Quote currency per lot, ×10^8.
    QuotePerLot(i64),
}

/// An asset of a broker.
#[derive(Clone, Debug)]
pub struct AssetSpec {
    /// Its id at this broker.
    pub id: i64,
    /// Its name, such as `EUR`.
    pub name: String,
    /// Decimals of an amount of it.
    pub digits: i32,
}

/// A symbol of a broker.
#[derive(Clone, Debug)]
pub struct SymbolSpec {
    /// Its id at this broker.
    pub id: i64,
    /// Its name, such as `EURUSD`.
    pub name: String,
    /// Base asset id.
    pub base: i64,
    /// Quote asset id.
    pub quote: i64,
    /// Decimals of a price.
    pub digits: i32,
    /// Position of the pip.
    pub pip_position: i32,
    /// Size of a lot, 1/100 unit.
    pub lot_size: i64,
    /// Smallest volume, 1/100 unit.
    pub min_volume: i64,
    /// Largest volume, 1/100 unit.
    pub max_volume: i64,
    /// Volume step, 1/100 unit.
    pub step_volume: i64,
    /// First bid, raw; 0 = none yet.
    pub bid: i64,
    /// First ask, raw; 0 = none yet.
    pub ask: i64,
    /// Ticks a second when the market runs.
    pub ticks_per_second: f64,
    /// Commission per side.
    pub commission: Commission,
    /// Dynamic leverage table.
    pub leverage_id: Option<i64>,
    /// Swap of a long position, pips.
    pub swap_long: f64,
    /// Swap of a short position, pips.
    pub swap_short: f64,
    /// `pnlConversionFeeRate`: 1 = 0.01 % of realised gross profit.
    pub pnl_conversion_fee_rate: i32,
    /// Category id.
    pub category: i64,
}

impl SymbolSpec {
    /// A forex-like symbol: 5 digits, lots of 100,000 units, one tick a second.
    pub fn new(id: i64, name: &str, base: i64, quote: i64) -> Self {
        Self {
            id,
            name: name.to_owned(),
            base,
            quote,
            digits: 5,
            pip_position: 4,
            lot_size: 10_000_000,
            min_volume: 100_000,
            max_volume: 10_000_000_000,
            step_volume: 100_000,
            bid: 0,
            ask: 0,
            ticks_per_second: 1.0,
            commission: Commission::UsdPerLot(325_500_000),
            leverage_id: None,
            swap_long: -0.65,
            swap_short: 0.21,
            pnl_conversion_fee_rate: 0,
            category: 1,
        }
    }

    /// Decimals of a price and position of the pip.
    #[must_use]
    pub fn digits(mut self, digits: i32, pip_position: i32) -> Self {
        self.digits = digits;
        self.pip_position = pip_position;
        self
    }

    /// Lot size and volume step (also the smallest volume), 1/100 unit.
    #[must_use]
    pub fn lots(mut self, lot_size: i64, step: i64) -> Self {
        self.lot_size = lot_size;
        self.step_volume = step;
        self.min_volume = step;
        self
    }

    /// First bid and ask, raw.
    #[must_use]
    pub fn quoted(mut self, bid: i64, ask: i64) -> Self {
        self.bid = bid;
        self.ask = ask;
        self
    }

    /// Ticks a second when the market runs.
    #[must_use]
    pub fn ticks_per_second(mut self, rate: f64) -> Self {
        self.ticks_per_second = rate;
        self
    }

    /// Commission per side.
    #[must_use]
    pub fn commission(mut self, commission: Commission) -> Self {
        self.commission = commission;
        self
    }

    /// Dynamic leverage table by its id.
    #[must_use]
    pub fn leverage(mut self, id: i64) -> Self {
        self.leverage_id = Some(id);
        self
    }

    /// `pnlConversionFeeRate`: 1 = 0.01 % of realised gross profit.
    #[must_use]
    pub fn conversion_fee(mut self, rate: i32) -> Self {
        self.pnl_conversion_fee_rate = rate;
        self
    }

    /// Category id.
    #[must_use]
    pub fn category(mut self, id: i64) -> Self {
        self.category = id;
        self
    }
}

/// A dynamic leverage table: `(USD cents of open volume per side, leverage)`; the last tier covers the rest.
#[derive(Clone, Debug)]
pub struct LeverageSpec {
    /// Its id at this broker.
    pub id: i64,
    /// Tiers, sorted by volume.
    pub tiers: Vec<(i64, i32)>,
}

/// A broker: its names, ids and price feed.
#[derive(Clone, Debug)]
pub struct BrokerSpec {
    /// Its name.
    pub title: String,
    /// Its assets.
    pub assets: Vec<AssetSpec>,
    /// Its symbols.
    pub symbols: Vec<SymbolSpec>,
    /// Its dynamic leverage tables.
    pub leverages: Vec<LeverageSpec>,
}

impl BrokerSpec {
    /// A broker with nothing yet.
    pub fn new(title: &str) -> Self {
        Self {
            title: title.to_owned(),
            assets: Vec::new(),
            symbols: Vec::new(),
            leverages: Vec::new(),
        }
    }

    /// Adds an asset.
    #[must_use]
    pub fn asset(mut self, id: i64, name: &str, digits: i32) -> Self {
        self.assets.push(AssetSpec {
            id,
            name: name.to_owned(),
            digits,
        });
        self
    }

    /// Adds a symbol.
    #[must_use]
    pub fn symbol(mut self, symbol: SymbolSpec) -> Self {
        self.symbols.push(symbol);
        self
    }

    /// Adds a dynamic leverage table.
    #[must_use]
    pub fn leverage(mut self, id: i64, tiers: &[(i64, i32)]) -> Self {
        self.leverages.push(LeverageSpec {
            id,
            tiers: tiers.to_vec(),
        });
        self
    }

    /// All symbols tick at this rate when the market runs.
    #[must_use]
    pub fn ticks_per_second(mut self, rate: f64) -> Self {
        for symbol in &mut self.symbols {
            symbol.ticks_per_second = rate;
        }
        self
    }
}

/// An open position of an account.
#[derive(Clone, Debug)]
pub struct PositionSpec {
    pub(super) id: i64,
    pub(super) symbol: String,
    pub(super) side: Side,
    pub(super) volume: i64,
    pub(super) price: i64,
    pub(super) swap: i64,
    pub(super) commission: Option<i64>,
    pub(super) margin_rate_e8: Option<i64>,
    pub(super) stop_loss: Option<i64>,
    pub(super) take_profit: Option<i64>,
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

/// An account and the token that opens it.
#[derive(Clone, Debug)]
pub struct AccountSpec {
    pub(super) id: i64,
    pub(super) broker: Option<String>,
    pub(super) environment: Environment,
    pub(super) tokens: Vec<String>,
    pub(super) login: i64,
    pub(super) balance: i64,
    pub(super) balance_version: i64,
    pub(super) currency: String,
    pub(super) digits: u32,
    pub(super) send_digits: bool,
    pub(super) send_object_digits: bool,
    pub(super) position_digits: Option<u32>,
    pub(super) kind: AccountKind,
    pub(super) margin_type: MarginType,
    pub(super) leverage: u32,
    pub(super) manager_bonus: i64,
    pub(super) ib_bonus: i64,
    pub(super) stop_out_level: Option<i64>,
    pub(super) disabled: bool,
    pub(super) access_rights: i32,
    pub(super) activity: Option<Duration>,
    pub(super) positions: Vec<PositionSpec>,
}

impl AccountSpec {
    /// A hedged demo account of 10,000.00 EUR at 1:100 with the first broker, opened by no token yet.
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
