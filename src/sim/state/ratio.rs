//! The simulator's own exact arithmetic: rationals over 256-bit integers, rounded half away from zero.
//!
//! It shares nothing with the bridge's money code on purpose: a mistake in one of them shows up as a
//! difference between the two ends.
//!
//! Two price scales: **raw** = 1/100000 of a price unit (quotes on the wire), **fine** = 10^-10
//! (entry and execution prices, which may be averages).

use ethnum::I256;

use crate::sim::world::price::RAW_PER_UNIT;

/// Fine units in a raw unit.
pub(crate) const FINE_PER_RAW: i64 = 100_000;
/// Fine units in a price unit.
const FINE_PER_UNIT: i128 = 10_000_000_000;

/// An exact fraction; the denominator is positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ratio {
    num: I256,
    den: I256,
}

impl Ratio {
    pub(crate) const ONE: Self = Self {
        num: I256::ONE,
        den: I256::ONE,
    };
    pub(crate) const ZERO: Self = Self {
        num: I256::ZERO,
        den: I256::ONE,
    };

    pub(crate) fn new(num: i128, den: i128) -> Self {
        assert!(den != 0, "a ratio's denominator is never zero");
        let sign = if den < 0 { I256::MINUS_ONE } else { I256::ONE };
        Self {
            num: I256::from(num) * sign,
            den: I256::from(den) * sign,
        }
        .small()
    }

    pub(crate) fn int(value: i64) -> Self {
        Self::new(i128::from(value), 1)
    }

    /// A raw price as a fraction of a price unit.
    pub(crate) fn raw(price: i64) -> Self {
        Self::new(i128::from(price), i128::from(RAW_PER_UNIT))
    }

    /// A fine price as a fraction of a price unit.
    pub(crate) fn fine(price: i64) -> Self {
        Self::new(i128::from(price), FINE_PER_UNIT)
    }

    /// Reduces once the parts grow past 100 bits, so that a chain of products stays inside 256.
    fn small(self) -> Self {
        let limit = I256::ONE << 100u32;
        if self.num.abs() < limit && self.den < limit {
            return self;
        }
        let (mut a, mut b) = (self.num.abs(), self.den);
        while b != I256::ZERO {
            (a, b) = (b, a % b);
        }
        if a <= I256::ONE {
            self
        } else {
            Self {
                num: self.num / a,
                den: self.den / a,
            }
        }
    }

    pub(crate) fn times(self, other: Self) -> Self {
        let num = self
            .num
            .checked_mul(other.num)
            .expect("prices, volumes and rates stay far below 2^255");
        let den = self
            .den
            .checked_mul(other.den)
            .expect("prices, volumes and rates stay far below 2^255");
        Self { num, den }.small()
    }

    pub(crate) fn over(self, other: Self) -> Self {
        assert!(
            other.num != I256::ZERO,
            "nothing is divided by a price of zero"
        );
        let sign = if other.num < I256::ZERO {
            I256::MINUS_ONE
        } else {
            I256::ONE
        };
        self.times(Self {
            num: other.den * sign,
            den: other.num * sign,
        })
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        if self.den == other.den {
            return Self {
                num: self.num + other.num,
                den: self.den,
            }
            .small();
        }
        let left = self
            .num
            .checked_mul(other.den)
            .expect("sums stay far below 2^255");
        let right = other
            .num
            .checked_mul(self.den)
            .expect("sums stay far below 2^255");
        let den = self
            .den
            .checked_mul(other.den)
            .expect("sums stay far below 2^255");
        Self {
            num: left + right,
            den,
        }
        .small()
    }

    pub(crate) fn minus(self, other: Self) -> Self {
        self.plus(Self {
            num: -other.num,
            den: other.den,
        })
    }

    pub(crate) fn less_than(self, other: Self) -> bool {
        self.minus(other).num < I256::ZERO
    }

    pub(crate) fn min(self, other: Self) -> Self {
        if other.less_than(self) { other } else { self }
    }

    /// Times 10^`digits`.
    pub(crate) fn scaled(self, digits: u32) -> Self {
        self.times(Self::new(10_i128.pow(digits), 1))
    }

    /// The nearest integer, halves away from zero.
    pub(crate) fn round(self) -> i64 {
        let two = I256::new(2);
        let half = if self.num < I256::ZERO {
            -self.den
        } else {
            self.den
        };
        let rounded = (self.num * two + half) / (self.den * two);
        i64::try_from(rounded).expect("amounts of a simulated account fit 63 bits")
    }

    /// The nearest double, for the wire fields that are doubles.
    pub(crate) fn to_f64(self) -> f64 {
        self.num.as_f64() / self.den.as_f64()
    }
}

/// `value × part / whole`, halves away from zero.
pub(crate) fn share(value: i64, part: i64, whole: i64) -> i64 {
    Ratio::int(value)
        .times(Ratio::new(i128::from(part), i128::from(whole)))
        .round()
}

/// A fine price as the nearest double.
pub(crate) fn fine_f64(fine: i64) -> f64 {
    Ratio::fine(fine).to_f64()
}

/// A raw price as the nearest double.
pub(crate) fn raw_f64(raw: i64) -> f64 {
    Ratio::raw(raw).to_f64()
}

/// A double from a request as a raw price.
#[expect(
    clippy::cast_possible_truncation,
    reason = "as saturates, and a price outside i64 is refused later"
)]
pub(crate) fn f64_raw(price: f64) -> i64 {
    (price * 100_000.0).round() as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::world::price::raw;

    #[test]
    fn halves_round_away_from_zero() {
        assert_eq!(Ratio::new(5, 2).round(), 3);
        assert_eq!(Ratio::new(-5, 2).round(), -3);
        assert_eq!(Ratio::new(-7, 3).round(), -2);
        assert_eq!(Ratio::new(7, -2).round(), -4);
    }

    #[test]
    fn a_price_is_parsed_to_raw_units() {
        assert_eq!(raw("1.08500"), 108_500);
        assert_eq!(raw("150.8"), 15_080_000);
        assert_eq!(raw("24000"), 2_400_000_000);
        assert!((raw_f64(108_512) - 1.08512).abs() < f64::EPSILON);
        assert_eq!(f64_raw(1.08512), 108_512);
    }

    #[test]
    fn a_long_chain_does_not_overflow() {
        let mut rate = Ratio::ONE;
        for _ in 0..12 {
            rate = rate
                .times(Ratio::raw(15_125_000))
                .over(Ratio::raw(15_126_200));
        }
        assert!((rate.to_f64() - (151.25_f64 / 151.262).powi(12)).abs() < 1e-12);
    }
}
