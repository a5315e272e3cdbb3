//! What a simulated world is made of: brokers, their assets and symbols.
//!
//! Plain data with builder methods. Prices are raw (1/100000), volumes 1/100 unit, money in the
//! account's smallest unit, as on the wire.

use crate::ctrader::wire::ProtoOaTradeSide;

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

    pub(crate) fn wire(self) -> i32 {
        match self {
            Self::Buy => ProtoOaTradeSide::Buy.into(),
            Self::Sell => ProtoOaTradeSide::Sell.into(),
        }
    }

    pub(crate) fn from_wire(side: i32) -> Option<Self> {
        match ProtoOaTradeSide::try_from(side).ok()? {
            ProtoOaTradeSide::Buy => Some(Self::Buy),
            ProtoOaTradeSide::Sell => Some(Self::Sell),
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
