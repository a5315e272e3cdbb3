//! The row held against the simulator's truth, and against a third arithmetic: plain doubles.

use mahspeccy_bridge::domain::decimal::Decimal;
use mahspeccy_bridge::domain::row::{AccountRow, PositionRow};
use mahspeccy_bridge::sim::{AccountTruth, Broker, PositionTruth, Side};

use super::{Pair, WALL_START_MS};

/// Money and counts of an account as text: `Decimal`'s digits count too.
#[derive(Debug, PartialEq, Eq)]
struct Figures {
    balance: String,
    version: Option<i64>,
    bonus: Option<String>,
    gross: Option<String>,
    net: Option<String>,
    equity: Option<String>,
    used_margin: String,
    free_margin: Option<String>,
    margin_level: Option<String>,
    positions: Vec<Held>,
    orders: Vec<String>,
}

#[derive(Debug, PartialEq, Eq)]
struct Held {
    id: String,
    symbol: Option<String>,
    symbol_id: String,
    side: &'static str,
    volume: String,
    stop_loss: Option<String>,
    take_profit: Option<String>,
    swap: String,
    commission: String,
    gross: Option<String>,
    net: Option<String>,
    used_margin: String,
}

fn text(money: Option<Decimal>) -> Option<String> {
    money.map(|money| money.to_string())
}

/// A price without needless zeros.
fn price(price: Option<Decimal>) -> Option<String> {
    price.map(|price| price.trim(0).to_string())
}

fn of_row(row: &AccountRow) -> Figures {
    Figures {
        balance: row.balance.to_string(),
        version: row.balance_version,
        bonus: text(row.bonus),
        gross: text(row.unrealized_gross),
        net: text(row.unrealized_net),
        equity: text(row.equity),
        used_margin: row.used_margin.to_string(),
        free_margin: text(row.free_margin),
        margin_level: text(row.margin_level),
        positions: row.positions.iter().map(of_position_row).collect(),
        orders: row
            .orders
            .iter()
            .map(|order| order.order_id.to_string())
            .collect(),
    }
}

fn of_position_row(row: &PositionRow) -> Held {
    Held {
        id: row.position_id.to_string(),
        symbol: row.symbol.as_deref().map(ToOwned::to_owned),
        symbol_id: row.symbol_id.to_string(),
        side: row.side,
        volume: row.volume.to_string(),
        stop_loss: price(row.stop_loss),
        take_profit: price(row.take_profit),
        swap: row.swap.to_string(),
        commission: row.commission.to_string(),
        gross: text(row.gross_profit),
        net: text(row.net_profit),
        used_margin: row.used_margin.to_string(),
    }
}

fn of_truth(truth: &AccountTruth) -> Figures {
    let digits = u8::try_from(truth.money_digits).expect("few digits");
    let money = |units: i64| Decimal::new(units.into(), digits).to_string();
    Figures {
        balance: money(truth.balance),
        version: Some(truth.balance_version),
        bonus: Some(money(truth.active_bonus)),
        gross: Some(money(truth.gross)),
        net: Some(money(truth.net)),
        equity: Some(money(truth.equity)),
        used_margin: money(truth.used_margin),
        free_margin: Some(money(truth.free_margin)),
        margin_level: level(truth.equity, truth.used_margin),
        positions: truth
            .positions
            .iter()
            .map(|position| of_position_truth(position, &money))
            .collect(),
        orders: truth.pending.iter().map(ToString::to_string).collect(),
    }
}

fn of_position_truth(truth: &PositionTruth, money: &impl Fn(i64) -> String) -> Held {
    let raw = |raw: Option<i64>| price(raw.map(|raw| Decimal::new(raw.into(), 5)));
    Held {
        id: truth.id.to_string(),
        symbol: Some(truth.symbol.clone()),
        symbol_id: truth.symbol_id.to_string(),
        side: match truth.side {
            Side::Buy => "BUY",
            Side::Sell => "SELL",
        },
        volume: Decimal::new(truth.volume.into(), 2).trim(0).to_string(),
        stop_loss: raw(truth.stop_loss),
        take_profit: raw(truth.take_profit),
        swap: money(truth.swap),
        commission: money(truth.commission),
        gross: Some(money(truth.gross)),
        net: Some(money(truth.net)),
        used_margin: money(truth.used_margin),
    }
}

/// Equity over margin in percent, four digits, halves away from zero.
fn level(equity: i64, used_margin: i64) -> Option<String> {
    let used = i128::from(used_margin);
    let parts = (used > 0).then(|| i128::from(equity) * 1_000_000)?;
    let rounded = (parts + parts.signum() * used / 2) / used;
    Some(Decimal::new(rounded, 4).to_string())
}

/// A broker's symbols by name, with base and quote, for the third arithmetic.
const PAIRS: [(&str, &str, &str); 9] = [
    ("EURUSD", "EUR", "USD"),
    ("GBPUSD", "GBP", "USD"),
    ("USDJPY", "USD", "JPY"),
    ("EURJPY", "EUR", "JPY"),
    ("USDCHF", "USD", "CHF"),
    ("GBPTRY", "GBP", "TRY"),
    ("XAUUSD", "XAU", "USD"),
    ("DE40", "DE40", "EUR"),
    ("BTCUSD", "BTC", "USD"),
];

fn bid(broker: &Broker, title: &str, symbol: &str) -> Option<f64> {
    Some(real(broker.quote(title, symbol)?.0?))
}

#[expect(clippy::cast_precision_loss, reason = "prices are far below 2^52")]
fn real(units: i64) -> f64 {
    units as f64 / 100_000.0
}

/// `from` in `to` by the bids, over at most three symbols, the fewest that lead there.
fn rate(broker: &Broker, title: &str, from: &str, to: &str, most: usize) -> Option<f64> {
    if from == to {
        return Some(1.0);
    }
    (0..most).find_map(|fewer| {
        PAIRS.iter().find_map(|(name, base, quote)| {
            let (next, step) = match from {
                from if from == *base => (*quote, bid(broker, title, name)?),
                from if from == *quote => (*base, 1.0 / bid(broker, title, name)?),
                _ => return None,
            };
            Some(step * rate(broker, title, next, to, fewer)?)
        })
    })
}

impl Pair {
    /// The row equals what the simulator has, to the last digit.
    pub(crate) fn assert_truth(&mut self, account: i64) {
        let truth = self.broker.truth(account).expect("the account exists");
        let row = self.row(account).expect("the session is live");
        let at = self.elapsed();
        assert_eq!(
            of_row(&row),
            of_truth(&truth),
            "row against truth at {at:?}"
        );
        for (held, known) in row.positions.iter().zip(&truth.positions) {
            let entry = held.entry_price.expect("an open position has one");
            let known = Decimal::from_wire_double(known.price, 10).expect("a price");
            assert_eq!(
                entry,
                known.rescale(entry.scale),
                "entry of {}",
                held.position_id
            );
        }
    }

    /// Plain doubles over the simulator's quotes give the same profit, but for the rounding.
    pub(crate) fn assert_naive(&mut self, account: i64, title: &str, currency: &str) {
        let truth = self.broker.truth(account).expect("the account exists");
        let row = self.row(account).expect("the session is live");
        let scale = 10f64.powi(i32::try_from(truth.money_digits).expect("few digits"));
        for (held, known) in row.positions.iter().zip(&truth.positions) {
            let (bid, ask) = self.broker.quote(title, &known.symbol).expect("a quote");
            let quoted_in = PAIRS
                .iter()
                .find(|(name, ..)| *name == known.symbol)
                .map(|(_, _, quote)| *quote)
                .expect("a symbol of the table");
            let difference = match known.side {
                Side::Buy => real(bid.expect("a bid")) - known.price,
                Side::Sell => known.price - real(ask.expect("an ask")),
            };
            let units = real(known.volume * 1_000);
            let rate = rate(&self.broker, title, quoted_in, currency, 3).expect("a chain");
            let expected = difference * units * rate * scale;
            let gross = held.gross_profit.expect("known").to_string();
            let gross: f64 = gross.parse().expect("a number");
            let off = (gross * scale - expected).abs();
            assert!(off < 1.0 + expected.abs() * 1e-9, "{held:?}: {expected}");
        }
    }

    /// Every deal since the start came once, in order, and equals the simulator's.
    pub(crate) fn assert_deals(&self, account: i64) {
        let digits = self.broker.truth(account).expect("it exists").money_digits;
        let money = |units: i64, own: Option<u32>| {
            let scale = u8::try_from(own.unwrap_or(digits)).expect("few digits");
            Decimal::new(units.into(), scale).to_string()
        };
        let expected: Vec<String> = self
            .broker
            .deals(account)
            .iter()
            .filter(|deal| deal.execution_timestamp >= WALL_START_MS)
            .map(|deal| {
                let closing = deal.close_position_detail.as_ref().map(|close| {
                    let of = |units: i64| money(units, close.money_digits);
                    (of(close.gross_profit), of(close.swap), of(close.balance))
                });
                format!(
                    "{} order {} position {} symbol {} filled {} at {:?} commission {:?} closing {closing:?}",
                    deal.deal_id,
                    deal.order_id,
                    deal.position_id,
                    deal.symbol_id,
                    Decimal::new(deal.filled_volume.into(), 2),
                    deal.execution_price
                        .and_then(|price| Decimal::from_wire_double(price, 10))
                        .map(|price| price.trim(0).to_string()),
                    deal.commission.map(|units| money(units, deal.money_digits)),
                )
            })
            .collect();
        let got: Vec<String> = self
            .deals(account)
            .into_iter()
            .map(|deal| {
                let closing = deal.closing.as_ref().map(|close| {
                    (
                        close.gross_profit.to_string(),
                        close.swap.to_string(),
                        close.balance_after.to_string(),
                    )
                });
                format!(
                    "{} order {} position {} symbol {} filled {} at {:?} commission {:?} closing {closing:?}",
                    deal.deal_id,
                    deal.order_id,
                    deal.position_id,
                    deal.symbol_id,
                    deal.filled_volume,
                    price(deal.price),
                    text(deal.commission),
                )
            })
            .collect();
        assert_eq!(got, expected, "deals");
    }
}
