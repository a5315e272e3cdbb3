//! Ready-made worlds: the default brokers, and the worked example, whose every cent is computed by hand.

use super::account_spec::{AccountSpec, PositionSpec};
use super::builder::Builder;
use super::price::raw;
use super::spec::Side;

pub use super::brokers::{ALPHA, BETA, alpha, beta};

/// The account of [`worked_example`].
pub const WORKED_ACCOUNT: i64 = 5_150_705;
/// The access token of [`worked_example`].
pub const WORKED_TOKEN: &str = "worked-token";

/// The worked example's account as it stands at T0.
pub fn worked_account() -> AccountSpec {
    AccountSpec::new(WORKED_ACCOUNT)
        .token(WORKED_TOKEN)
        .broker(ALPHA)
        .login(3_150_705)
        .balance(1_000_000)
        .balance_version(40)
        .position(
            PositionSpec::new(701, "USDJPY", Side::Buy, 5_000_000, raw("150.800"))
                .swap(-123)
                .commission(-150)
                .margin_rate_e8(92_081_031),
        )
        .position(
            PositionSpec::new(702, "GBPUSD", Side::Sell, 2_000_000, raw("1.27000"))
                .swap(36)
                .commission(-60)
                .margin_rate_e8(116_942_910),
        )
        .position(
            PositionSpec::new(703, "XAUUSD", Side::Buy, 1_000, raw("2352.30"))
                .swap(-210)
                .commission(-35)
                .margin_rate_e8(216_602_210_000),
        )
}

/// The worked example at T0: a quiet market, one EUR account with positions 701, 702 and 703.
///
/// Equity 10,171.50; used margin 1,127.50; free margin 9,044.00; margin level 902.1286 %.
pub fn worked_example() -> Builder {
    Builder::new().market_paused().account(worked_account())
}
