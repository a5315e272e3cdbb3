//! What an account's figures are computed from beside the account itself: symbols, quotes and
//! the chains of symbols that convert a quote asset into the deposit asset.

use std::collections::BTreeSet;
use std::sync::Arc;

use litemap::LiteMap;

use super::ids::{AssetId, SymbolId};

/// Digits behind the point of every raw spot price, whatever the symbol's own digits.
pub const SPOT_SCALE: u8 = 5;

/// 10^[`SPOT_SCALE`].
const SPOT_UNIT: i128 = 100_000;

/// The most digits a symbol may have; more is a malformed symbol.
pub const DIGITS_MAX: u8 = 10;

/// What a symbol is, as far as an account's figures need it. The same for all accounts of a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symbol {
    /// Its id at this broker.
    pub id: SymbolId,
    /// Its name at this broker.
    pub name: Option<Arc<str>>,
    /// What is bought and sold.
    pub base: AssetId,
    /// What it is priced in.
    pub quote: AssetId,
    /// Digits behind the point of a displayed price.
    pub digits: u8,
    /// Volume of one lot, 1/100 unit (ProtoOASymbol.lotSize).
    pub lot_size: Option<i64>,
}

/// The last known bid and ask, raw: 1/100000 of a price unit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quote {
    /// What a BUY position closes at.
    pub bid: Option<i64>,
    /// What a SELL position closes at.
    pub ask: Option<i64>,
}

impl Quote {
    /// Takes over the sides that a spot event has; an absent side is unchanged, not zero.
    /// Returns whether anything is different now.
    pub fn merge(&mut self, bid: Option<i64>, ask: Option<i64>) -> bool {
        let before = *self;
        self.bid = bid.or(self.bid);
        self.ask = ask.or(self.ask);
        *self != before
    }

    /// Whether both sides are known.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.bid.is_some() && self.ask.is_some()
    }
}

/// A step of a conversion: multiply by the symbol's price, or divide by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Step {
    symbol: SymbolId,
    multiply: bool,
}

/// The symbols that lead from one asset to another, walked with the bid of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    steps: Vec<Step>,
}

/// Symbols that do not lead from one asset to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the conversion symbols lead from asset {from} to {reached}, not to {to}")]
pub struct BrokenChain {
    from: AssetId,
    to: AssetId,
    reached: AssetId,
}

/// A conversion rate as the fraction it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Above zero.
    pub numerator: i128,
    /// Above zero.
    pub denominator: i128,
}

impl Rate {
    /// Same asset.
    pub const ONE: Self = Self {
        numerator: 1,
        denominator: 1,
    };
}

impl Chain {
    /// Orders the directions of `symbols` (id, base, quote), given from `from` to `to`.
    ///
    /// # Errors
    /// When a symbol touches the asset reached so far on neither side, or the end is not `to`.
    pub fn new(
        from: AssetId,
        to: AssetId,
        symbols: impl IntoIterator<Item = (SymbolId, AssetId, AssetId)>,
    ) -> Result<Self, BrokenChain> {
        let mut reached = from;
        let mut steps = Vec::new();
        for (symbol, base, quote) in symbols {
            let multiply = if reached == base {
                reached = quote;
                true
            } else if reached == quote {
                reached = base;
                false
            } else {
                return Err(BrokenChain { from, to, reached });
            };
            steps.push(Step { symbol, multiply });
        }
        if reached == to {
            Ok(Self { steps })
        } else {
            Err(BrokenChain { from, to, reached })
        }
    }

    /// The symbols whose quotes the chain needs.
    pub fn symbols(&self) -> impl Iterator<Item = SymbolId> + '_ {
        self.steps.iter().map(|step| step.symbol)
    }

    /// The rate by the bids that are known; `None` while one is missing, or when the fraction does
    /// not fit 128 bits (three symbols of ten-million prices do).
    #[must_use]
    pub fn rate(&self, quotes: &Quotes) -> Option<Rate> {
        let mut rate = Rate::ONE;
        for step in &self.steps {
            let bid = i128::from(quotes.get(&step.symbol)?.bid?);
            let (up, down) = if step.multiply {
                (bid, SPOT_UNIT)
            } else {
                (SPOT_UNIT, bid)
            };
            rate.numerator = rate.numerator.checked_mul(up)?;
            rate.denominator = rate.denominator.checked_mul(down)?;
        }
        Some(rate)
    }
}

/// The last quotes of what an account's figures need. They are few, and one search finds each.
pub type Quotes = LiteMap<SymbolId, Quote>;

/// Everything an account knows of its market on one connection. Quotes die with the connection.
#[derive(Debug, Clone, Default)]
pub struct Market {
    /// Symbols of its positions and orders.
    pub symbols: LiteMap<SymbolId, Arc<Symbol>>,
    /// Chains from quote assets to the deposit asset; same asset needs none.
    pub chains: LiteMap<AssetId, Arc<Chain>>,
    /// Last quotes of everything subscribed.
    pub quotes: Quotes,
}

impl Market {
    /// What converts the quote asset of `symbol` into `deposit`, by the quotes known now.
    #[must_use]
    pub fn rate(&self, symbol: &Symbol, deposit: AssetId) -> Option<Rate> {
        if symbol.quote == deposit {
            return Some(Rate::ONE);
        }
        self.chains.get(&symbol.quote)?.rate(&self.quotes)
    }

    /// The symbols that must be quoted to value a position in `symbol`; `None` while the symbol
    /// or its chain is not known.
    #[must_use]
    pub fn quoted_by(&self, symbol: SymbolId, deposit: AssetId) -> Option<BTreeSet<SymbolId>> {
        let known = self.symbols.get(&symbol)?;
        let mut needed = BTreeSet::from([symbol]);
        if known.quote != deposit {
            needed.extend(self.chains.get(&known.quote)?.symbols());
        }
        Some(needed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EUR: AssetId = AssetId(1);
    const USD: AssetId = AssetId(2);
    const JPY: AssetId = AssetId(3);

    #[test]
    fn a_chain_multiplies_forwards_and_divides_backwards() {
        let chain = Chain::new(JPY, EUR, [(SymbolId(4), USD, JPY), (SymbolId(1), EUR, USD)])
            .expect("leads to EUR");
        let mut quotes = Quotes::new();
        assert_eq!(chain.rate(&quotes), None);
        quotes.insert(
            SymbolId(4),
            Quote {
                bid: Some(15_125_000),
                ask: None,
            },
        );
        quotes.insert(
            SymbolId(1),
            Quote {
                bid: Some(108_500),
                ask: None,
            },
        );
        let rate = chain.rate(&quotes).expect("both bids are there");
        // 1/151.250/1.08500 = 0.0060936131
        assert_eq!(
            rate.numerator * 10_000_000_000 / rate.denominator,
            60_936_131
        );
    }

    #[test]
    fn a_chain_that_ends_elsewhere_is_refused() {
        assert!(Chain::new(JPY, EUR, [(SymbolId(4), USD, JPY)]).is_err());
        assert!(Chain::new(JPY, EUR, [(SymbolId(1), EUR, USD)]).is_err());
        assert!(Chain::new(EUR, EUR, []).is_ok());
    }

    #[test]
    fn an_absent_side_is_unchanged() {
        let mut quote = Quote::default();
        assert!(quote.merge(Some(1), Some(2)));
        assert!(quote.merge(Some(3), None));
        assert_eq!(
            quote,
            Quote {
                bid: Some(3),
                ask: Some(2)
            }
        );
        assert!(!quote.merge(None, Some(2)));
    }
}
