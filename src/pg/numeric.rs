//! [`Decimal`] as Postgres' `numeric`, digit for digit and with its own scale.

use sqlx::Postgres;
use sqlx::encode::{Encode, IsNull};
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo};

use crate::domain::decimal::{Decimal, pow10};

/// A decimal on its way into a `numeric` column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numeric(pub Decimal);

/// Decimal digits in one digit of the binary format, whose base is 10,000 (numeric.c, `DEC_DIGITS`).
const DIGITS_PER_GROUP: u8 = 4;
const NARROW_GROUP_BASE: u64 = 10_000;
const GROUP_BASE: u128 = NARROW_GROUP_BASE as u128;

/// Of the 39 digits of an `i128`, and a point within a group.
const GROUPS_MAX: usize = 11;

/// `numeric.c`: `NUMERIC_POS` and `NUMERIC_NEG`.
const POSITIVE: u16 = 0x0000;
const NEGATIVE: u16 = 0x4000;

/// `pg_type.dat`; by number, since sqlx asks the server for a type that it has by name.
const NUMERIC_OID: Oid = Oid(1700);
const NUMERIC_ARRAY_OID: Oid = Oid(1231);

/// What `numeric_recv` reads: a count, the weight of the first group, the sign, the scale, the groups.
#[derive(Debug, PartialEq, Eq)]
struct Binary {
    /// Groups before the point, less one; negative when the first group is behind the point.
    weight: i16,
    sign: u16,
    scale: u16,
    /// Most significant first; those that count are `from..to`, without leading or trailing zeros.
    groups: [u16; GROUPS_MAX],
    from: usize,
    to: usize,
}

impl Binary {
    fn groups(&self) -> &[u16] {
        self.groups.get(self.from..self.to).unwrap_or_default()
    }
}

impl From<Decimal> for Binary {
    fn from(decimal: Decimal) -> Self {
        let scale = u16::from(decimal.scale);
        let mut rest = decimal.units.unsigned_abs();
        if rest == 0 {
            return Self {
                weight: 0,
                sign: POSITIVE,
                scale,
                groups: [0; GROUPS_MAX],
                from: 0,
                to: 0,
            };
        }
        // Groups begin at the point: the last one behind it may be short, and is filled with zeros.
        let mut groups = [0; GROUPS_MAX];
        let mut from = GROUPS_MAX;
        let mut places = groups.iter_mut().rev();
        let mut put = |group: u16| {
            if let Some(place) = places.next() {
                *place = group;
                from -= 1;
            }
        };
        let mut fraction_groups = i16::from(decimal.scale / DIGITS_PER_GROUP);
        let short = decimal.scale % DIGITS_PER_GROUP;
        if short > 0 {
            let unit = pow10(short).unsigned_abs();
            let filler = pow10(DIGITS_PER_GROUP - short).unsigned_abs();
            put(group(rest % unit * filler));
            rest /= unit;
            fraction_groups += 1;
        }
        while u64::try_from(rest).is_err() {
            put(group(rest % GROUP_BASE));
            rest /= GROUP_BASE;
        }
        // 64 bits divide many times as fast.
        let mut narrow = u64::try_from(rest).unwrap_or_default();
        while narrow > 0 {
            put(group(u128::from(narrow % NARROW_GROUP_BASE)));
            narrow /= NARROW_GROUP_BASE;
        }
        let count = i16::try_from(GROUPS_MAX - from).expect("at most 11 groups");
        let weight = count - fraction_groups - 1;
        let zeros = groups.iter().rev().take_while(|group| **group == 0).count();
        let to = GROUPS_MAX - zeros;
        let sign = if decimal.units < 0 {
            NEGATIVE
        } else {
            POSITIVE
        };
        Self {
            weight,
            sign,
            scale,
            groups,
            from,
            to,
        }
    }
}

fn group(value: u128) -> u16 {
    u16::try_from(value).expect("a remainder of 10,000")
}

impl sqlx::Type<Postgres> for Numeric {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(NUMERIC_OID)
    }
}

impl PgHasArrayType for Numeric {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(NUMERIC_ARRAY_OID)
    }
}

impl Encode<'_, Postgres> for Numeric {
    fn encode_by_ref(&self, buf: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let binary = Binary::from(self.0);
        buf.extend(&u16::try_from(binary.groups().len())?.to_be_bytes());
        buf.extend(&binary.weight.to_be_bytes());
        buf.extend(&binary.sign.to_be_bytes());
        buf.extend(&binary.scale.to_be_bytes());
        for group in binary.groups() {
            buf.extend(&group.to_be_bytes());
        }
        Ok(IsNull::No)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary(units: i128, scale: u8) -> (i16, u16, u16, Vec<u16>) {
        let binary = Binary::from(Decimal::new(units, scale));
        (
            binary.weight,
            binary.sign,
            binary.scale,
            binary.groups().to_vec(),
        )
    }

    #[test]
    fn groups_begin_at_the_point() {
        assert_eq!(binary(1_000_000, 2), (1, POSITIVE, 2, vec![1])); // 10000.00
        assert_eq!(binary(1_234_567, 2), (1, POSITIVE, 2, vec![1, 2345, 6700])); // 12345.67
        assert_eq!(binary(-5, 2), (-1, NEGATIVE, 2, vec![500])); // -0.05
        assert_eq!(binary(5, 8), (-2, POSITIVE, 8, vec![5])); // 0.00000005
        assert_eq!(binary(5, 9), (-3, POSITIVE, 9, vec![5000])); // 0.000000005
        assert_eq!(binary(0, 5), (0, POSITIVE, 5, vec![]));
        assert_eq!(binary(7, 0), (0, POSITIVE, 0, vec![7]));
    }

    #[test]
    fn the_largest_numbers_have_all_their_digits() {
        let (weight, sign, scale, groups) = binary(i128::MIN, 38);
        assert_eq!((weight, sign, scale), (0, NEGATIVE, 38));
        assert_eq!(
            groups,
            [1, 7014, 1183, 4604, 6923, 1731, 6873, 371, 5884, 1057, 2800]
        );
    }
}
