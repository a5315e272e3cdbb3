//! Fractions of integers, as plain as they can be: never reduced, and rounded once.

use ethnum::I256;

/// One number over another, the lower one above zero.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fraction {
    upper: I256,
    lower: I256,
}

/// Ten to that power.
pub(super) fn ten(power: u8) -> i128 {
    10_i128.pow(u32::from(power))
}

impl Fraction {
    pub(super) fn whole(number: i128) -> Self {
        Self {
            upper: I256::new(number),
            lower: I256::ONE,
        }
    }

    pub(super) fn times(self, number: i128) -> Self {
        Self {
            upper: product(self.upper, I256::new(number)),
            ..self
        }
    }

    pub(super) fn over(self, number: i128) -> Self {
        assert!(number > 0, "nothing is divided by {number}");
        Self {
            lower: product(self.lower, I256::new(number)),
            ..self
        }
    }

    pub(super) fn by(self, other: Self) -> Self {
        Self {
            upper: product(self.upper, other.upper),
            lower: product(self.lower, other.lower),
        }
    }

    /// The nearest integer, halves away from zero.
    pub(super) fn nearest(self) -> i128 {
        let below = self.upper < I256::ZERO;
        let size = if below { -self.upper } else { self.upper };
        let nearest = (size + size + self.lower) / (self.lower + self.lower);
        let nearest = nearest.as_i128();
        if below { -nearest } else { nearest }
    }
}

fn product(one: I256, other: I256) -> I256 {
    one.checked_mul(other).expect("far below 2^255")
}

#[test]
fn halves_go_away_from_zero() {
    let half = |upper: i128| Fraction::whole(upper).over(2).nearest();
    assert_eq!([half(3), half(-3), half(4), half(-1)], [2, -2, 2, -1]);
    let third = |upper: i128| Fraction::whole(upper).over(3).nearest();
    assert_eq!([third(4), third(5), third(-4), third(-5)], [1, 2, -1, -2]);
}
