//! Exact decimal numbers: an integer and how many of its digits stand behind the point.
//! Everything that is money or a price is one of these between the wire and the row.

use std::fmt;

/// `units` × 10^-`scale`.
///
/// Two decimals are equal only if they are written with the same digits: 1.0 is not 1.00 here, since a row
/// that changes its precision has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
// Accounts and rows are made of these: 24 bytes instead of the 32 that `i128` would align it to.
#[repr(Rust, packed(8))]
pub struct Decimal {
    /// The number without its point.
    pub units: i128,
    /// Digits behind the point, at most [`Decimal::SCALE_MAX`].
    pub scale: u8,
}

impl Decimal {
    /// The most digits behind the point: the largest power of ten that an `i128` holds is 10^38.
    pub const SCALE_MAX: u8 = 38;

    /// `units` × 10^-`scale`.
    #[must_use]
    pub const fn new(units: i128, scale: u8) -> Self {
        assert!(
            scale <= Self::SCALE_MAX,
            "scale is checked where it is read"
        );
        Self { units, scale }
    }

    /// The nearest decimal of that scale to a double from the wire, halves away from zero; `None`
    /// when it is not finite or beyond any price.
    #[must_use]
    pub fn from_wire_double(value: f64, scale: u8) -> Option<Self> {
        let scaled = (value * 10f64.powi(i32::from(scale))).round();

        #[expect(clippy::cast_possible_truncation, reason = "the range was checked")]
        (scaled.abs() < 1e30).then(|| Self::new(scaled as i128, scale))
    }

    /// The same number, or the nearest (halves away from zero), with `scale` digits.
    #[must_use]
    pub fn rescale(self, scale: u8) -> Self {
        let units = if scale >= self.scale {
            self.units.saturating_mul(pow10(scale - self.scale))
        } else {
            div_half_away(self.units, pow10(self.scale - scale))
        };
        Self::new(units, scale)
    }

    /// The nearest double, for a metric; no money is computed with it.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a metric needs no more")]
    pub fn to_f64(self) -> f64 {
        self.units as f64 / 10f64.powi(i32::from(self.scale))
    }

    /// Appends its digits.
    pub(crate) fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(Text::of(self).as_str().as_bytes());
    }

    /// The same number with no needless zero behind the point, down to `scale_min` digits.
    #[must_use]
    pub fn trim(self, scale_min: u8) -> Self {
        let mut trimmed = self;
        while trimmed.scale > scale_min {
            let (tenth, digit) = div_rem(trimmed.units, 10);
            if digit != 0 {
                break;
            }
            trimmed = Self::new(tenth, trimmed.scale - 1);
        }
        trimmed
    }
}

/// Powers of ten, by exponent.
const POWERS: [i128; Decimal::SCALE_MAX as usize + 1] = {
    let mut powers = [1; Decimal::SCALE_MAX as usize + 1];
    let mut rest: &mut [i128] = &mut powers;
    let mut power: i128 = 1;
    while let [first, more @ ..] = rest {
        *first = power;
        power = power.wrapping_mul(10);
        rest = more;
    }
    powers
};

/// 10^`exponent`, for an exponent up to 38.
///
/// # Panics
/// Above that.
#[must_use]
pub fn pow10(exponent: u8) -> i128 {
    *POWERS
        .get(usize::from(exponent))
        .expect("a scale is 38 at most")
}

/// Quotient and remainder. 64 bits hold almost every figure, and divide many times as fast.
fn div_rem(numerator: i128, denominator: i128) -> (i128, i128) {
    match (i64::try_from(numerator), i64::try_from(denominator)) {
        (Ok(numerator), Ok(denominator)) if denominator > 0 => (
            i128::from(numerator / denominator),
            i128::from(numerator % denominator),
        ),
        _ => (numerator / denominator, numerator % denominator),
    }
}

/// `numerator` / `denominator` to the nearest integer, halves away from zero.
///
/// # Panics
/// When the denominator is not positive.
#[must_use]
pub fn div_half_away(numerator: i128, denominator: i128) -> i128 {
    assert!(
        denominator > 0,
        "callers divide by powers of ten and by prices"
    );
    let (quotient, rest) = div_rem(numerator, denominator);
    let rest = rest.unsigned_abs();
    if rest >= denominator.unsigned_abs() - rest {
        if numerator < 0 {
            quotient - 1
        } else {
            quotient + 1
        }
    } else {
        quotient
    }
}

/// A decimal's text on the stack: rows have many.
struct Text {
    /// Filled from its end.
    digits: [u8; Text::BYTES_MAX],
    from: usize,
}

impl Text {
    /// 39 digits, a point, a zero before it and a sign, with some to spare.
    const BYTES_MAX: usize = 48;

    fn of(decimal: Decimal) -> Self {
        let scale = usize::from(decimal.scale);
        let mut digits = [0; Self::BYTES_MAX];
        let mut from = Self::BYTES_MAX;
        let mut places = digits.iter_mut().rev();
        let mut put = |byte: u8| {
            if let Some(place) = places.next() {
                *place = byte;
                from -= 1;
            }
        };
        let mut rest = decimal.units.unsigned_abs();
        let mut place = 0;
        while rest > 0 || place <= scale {
            if place == scale && scale > 0 {
                put(b'.');
            }
            // 64 bits hold almost every figure, and divide many times as fast.
            let digit = if let Ok(narrow) = u64::try_from(rest) {
                rest = u128::from(narrow / 10);
                (narrow % 10).to_le_bytes()[0]
            } else {
                let digit = (rest % 10).to_le_bytes()[0];
                rest /= 10;
                digit
            };
            put(b'0' + digit);
            place += 1;
        }
        if decimal.units < 0 {
            put(b'-');
        }
        Self { digits, from }
    }

    fn as_str(&self) -> &str {
        let written = self.digits.get(self.from..).unwrap_or_default();
        // Only digits, a point and a sign were put.
        std::str::from_utf8(written).unwrap_or_default()
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Text::of(*self).as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decimal_prints_every_digit_of_its_scale() {
        for (units, scale, text) in [
            (1_000_000, 2, "10000.00"),
            (-5, 2, "-0.05"),
            (0, 2, "0.00"),
            (7, 0, "7"),
            (10_053_099_944, 8, "100.53099944"),
            (-12, 12, "-0.000000000012"),
            (i128::MAX, 0, "170141183460469231731687303715884105727"),
            (i128::MIN, 38, "-1.70141183460469231731687303715884105728"),
        ] {
            assert_eq!(Decimal::new(units, scale).to_string(), text);
        }
    }

    #[test]
    fn halves_go_away_from_zero() {
        for (n, d, q) in [
            (5, 10, 1),
            (-5, 10, -1),
            (4, 10, 0),
            (-4, 10, 0),
            (15, 10, 2),
            (14, 10, 1),
            (1, 3, 0),
            (2, 3, 1),
            (-2, 3, -1),
        ] {
            assert_eq!(div_half_away(n, d), q, "{n}/{d}");
        }
    }

    #[test]
    fn doubles_are_rounded_to_the_digits_once() {
        assert_eq!(
            Decimal::from_wire_double(1.27, 5),
            Some(Decimal::new(127_000, 5))
        );
        assert_eq!(
            Decimal::from_wire_double(150.8, 3),
            Some(Decimal::new(150_800, 3))
        );
        assert_eq!(Decimal::from_wire_double(f64::NAN, 3), None);
        assert_eq!(Decimal::from_wire_double(1e300, 3), None);
    }

    #[test]
    fn rescaling_rounds_down_the_scale_and_is_exact_up() {
        assert_eq!(Decimal::new(12_345, 4).rescale(2), Decimal::new(123, 2));
        assert_eq!(Decimal::new(12_350, 4).rescale(2), Decimal::new(124, 2));
        assert_eq!(Decimal::new(-12_350, 4).rescale(2), Decimal::new(-124, 2));
        assert_eq!(Decimal::new(5, 0).rescale(8), Decimal::new(500_000_000, 8));
        assert_eq!(Decimal::new(1_500, 3).trim(1), Decimal::new(15, 1));
    }
}
