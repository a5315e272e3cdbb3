//! The two brokers that a world has by default. Their asset and symbol ids differ, and so do their
//! conversion chains.

use super::price::raw;
use super::spec::{BrokerSpec, Commission, SymbolSpec};

/// Title of the first default broker.
pub const ALPHA: &str = "Alpha";
/// Title of the second default broker; its asset and symbol ids differ from the first one's.
pub const BETA: &str = "Beta";
const XAU_COMMISSION: Commission = Commission::UsdPerLot(380_000_000);

/// Broker `Alpha`: no EURJPY, so JPY reaches EUR over two symbols, and TRY over three.
pub fn alpha() -> BrokerSpec {
    BrokerSpec::new(ALPHA)
        .asset(1, "EUR", 2)
        .asset(2, "USD", 2)
        .asset(3, "JPY", 0)
        .asset(4, "GBP", 2)
        .asset(5, "XAU", 3)
        .asset(6, "BTC", 8)
        .asset(7, "DE40", 2)
        .asset(8, "CHF", 2)
        .asset(9, "TRY", 2)
        .leverage(1, &[(100_000_000_000, 50)])
        .leverage(
            2,
            &[(100_000_000, 500), (500_000_000, 200), (1_000_000_000, 100)],
        )
        .leverage(3, &[(100_000_000_000, 10)])
        .symbol(
            SymbolSpec::new(1, "EURUSD", 1, 2)
                .quoted(raw("1.08500"), raw("1.08512"))
                .leverage(2),
        )
        .symbol(SymbolSpec::new(2, "GBPUSD", 4, 2).quoted(raw("1.26410"), raw("1.26425")))
        .symbol(
            SymbolSpec::new(4, "USDJPY", 2, 3)
                .digits(3, 2)
                .quoted(raw("151.250"), raw("151.262")),
        )
        .symbol(SymbolSpec::new(6, "USDCHF", 2, 8).quoted(raw("0.88120"), raw("0.88134")))
        .symbol(
            SymbolSpec::new(9, "GBPTRY", 4, 9)
                .quoted(raw("41.20150"), raw("41.23310"))
                .conversion_fee(50),
        )
        .symbol(
            SymbolSpec::new(41, "XAUUSD", 5, 2)
                .digits(2, 1)
                .lots(10_000, 100)
                .quoted(raw("2345.12"), raw("2345.47"))
                .commission(XAU_COMMISSION)
                .leverage(1)
                .category(2),
        )
        .symbol(
            SymbolSpec::new(50, "DE40", 7, 1)
                .digits(1, 0)
                .lots(100, 10)
                .quoted(raw("18120.5"), raw("18121.9"))
                .commission(Commission::Free)
                .category(3),
        )
        .symbol(
            SymbolSpec::new(60, "BTCUSD", 6, 2)
                .digits(2, 0)
                .lots(100, 1)
                .quoted(raw("67250.15"), raw("67272.40"))
                .commission(Commission::PercentageOfValue(5_000))
                .leverage(3)
                .category(4),
        )
}

/// Broker `Beta`: other ids, and an EURJPY of its own.
pub fn beta() -> BrokerSpec {
    BrokerSpec::new(BETA)
        .asset(10, "USD", 2)
        .asset(11, "EUR", 2)
        .asset(14, "JPY", 0)
        .asset(15, "GBP", 2)
        .asset(22, "XAU", 3)
        .asset(31, "BTC", 8)
        .asset(40, "US500", 2)
        .leverage(7, &[(100_000_000_000, 20)])
        .symbol(
            SymbolSpec::new(101, "EURUSD", 11, 10)
                .quoted(raw("1.08503"), raw("1.08509"))
                .commission(Commission::UsdPerMillionUsd(3_000_000_000)),
        )
        .symbol(SymbolSpec::new(102, "GBPUSD", 15, 10).quoted(raw("1.26412"), raw("1.26420")))
        .symbol(
            SymbolSpec::new(1, "USDJPY", 10, 14)
                .digits(3, 2)
                .quoted(raw("151.253"), raw("151.259")),
        )
        .symbol(
            SymbolSpec::new(2, "EURJPY", 11, 14)
                .digits(3, 2)
                .quoted(raw("164.112"), raw("164.131")),
        )
        .symbol(
            SymbolSpec::new(141, "XAUUSD", 22, 10)
                .digits(2, 1)
                .lots(10_000, 100)
                .quoted(raw("2345.10"), raw("2345.52"))
                .commission(Commission::QuotePerLot(700_000_000))
                .category(2),
        )
        .symbol(
            SymbolSpec::new(150, "US500", 40, 10)
                .digits(1, 0)
                .lots(100, 10)
                .quoted(raw("5210.3"), raw("5210.9"))
                .commission(Commission::Free)
                .category(3),
        )
        .symbol(
            SymbolSpec::new(160, "BTCUSD", 31, 10)
                .digits(2, 0)
                .lots(100, 1)
                .quoted(raw("67248.90"), raw("67275.10"))
                .commission(Commission::PercentageOfValue(5_000))
                .leverage(7)
                .category(4),
        )
}
