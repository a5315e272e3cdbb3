//! The JSON of positions and orders in a row of the cache. Five thousand rows a second are written this way: each value
//! goes straight into the statement's buffer, nothing is copied twice, and names are not checked for what to escape.

use std::io::Write as _;
use std::sync::Arc;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::text::storable_text;
use crate::domain::decimal::Decimal;
use crate::domain::ids::{OrderId, PositionId, SymbolId};
use crate::domain::row::{OrderRow, PositionRow};

/// A value of the row's JSON.
pub trait ToJson {
    /// Appends the value's JSON.
    fn to_json(&self, out: &mut Vec<u8>);

    /// Returns the value's JSON as a text of its own.
    fn to_json_string(&self) -> String {
        let mut out = Vec::new();
        self.to_json(&mut out);
        // Only UTF-8 texts and ASCII were appended.
        String::from_utf8(out).unwrap_or_default()
    }
}

impl<T: ToJson> ToJson for Option<T> {
    fn to_json(&self, out: &mut Vec<u8>) {
        match self {
            Some(value) => value.to_json(out),
            None => out.extend_from_slice(b"null"),
        }
    }
}

impl<T: ToJson> ToJson for [T] {
    fn to_json(&self, out: &mut Vec<u8>) {
        out.push(b'[');
        for (at, value) in self.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            value.to_json(out);
        }
        out.push(b']');
    }
}

/// A number with exactly these digits.
impl ToJson for Decimal {
    fn to_json(&self, out: &mut Vec<u8>) {
        self.write(out);
    }
}

/// As text: a JavaScript number does not hold all of them.
macro_rules! ids_to_json {
    ($($id:ty)+) => {$(
        impl ToJson for $id {
            fn to_json(&self, out: &mut Vec<u8>) {
                // Writing to a vector cannot fail.
                let _ = write!(out, "\"{}\"", self.0);
            }
        }
    )+};
}

ids_to_json! { PositionId OrderId SymbolId }

impl ToJson for OffsetDateTime {
    fn to_json(&self, out: &mut Vec<u8>) {
        let before = out.len();
        out.push(b'"');
        if self.format_into(out, &Rfc3339).is_ok() {
            out.push(b'"');
        } else {
            // The format has no room for this year.
            out.truncate(before);
            out.extend_from_slice(b"null");
        }
    }
}

impl ToJson for str {
    fn to_json(&self, out: &mut Vec<u8>) {
        let is_plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
        if self.bytes().all(is_plain) {
            out.push(b'"');
            out.extend_from_slice(self.as_bytes());
            out.push(b'"');
        } else {
            // Writing to a vector cannot fail.
            let _ = serde_json::to_writer(out, &storable_text(self));
        }
    }
}

impl ToJson for &str {
    fn to_json(&self, out: &mut Vec<u8>) {
        (**self).to_json(out);
    }
}

impl ToJson for Arc<str> {
    fn to_json(&self, out: &mut Vec<u8>) {
        (**self).to_json(out);
    }
}

/// Appends an object; names need no escaping.
macro_rules! object {
    ($out:expr, $first:literal: $head:expr, $($name:literal: $value:expr,)+) => {{
        let out: &mut Vec<u8> = $out;
        out.extend_from_slice(concat!("{\"", $first, "\":").as_bytes());
        $head.to_json(out);
        $(
            out.extend_from_slice(concat!(",\"", $name, "\":").as_bytes());
            $value.to_json(out);
        )+
        out.push(b'}');
    }};
}

impl ToJson for PositionRow {
    fn to_json(&self, out: &mut Vec<u8>) {
        object!(out,
            "positionId": self.position_id,
            "symbol": self.symbol,
            "symbolId": self.symbol_id,
            "side": self.side,
            "volume": self.volume,
            "lots": self.lots,
            "entryPrice": self.entry_price,
            "currentPrice": self.current_price,
            "stopLoss": self.stop_loss,
            "takeProfit": self.take_profit,
            "swap": self.swap,
            "commission": self.commission,
            "grossProfit": self.gross_profit,
            "netProfit": self.net_profit,
            "usedMargin": self.used_margin,
            "openedAt": self.opened_at,
            "label": self.label,
            "comment": self.comment,
        );
    }
}

impl ToJson for OrderRow {
    fn to_json(&self, out: &mut Vec<u8>) {
        object!(out,
            "orderId": self.order_id,
            "positionId": self.position_id,
            "symbol": self.symbol,
            "symbolId": self.symbol_id,
            "side": self.side,
            "type": self.order_type,
            "volume": self.volume,
            "lots": self.lots,
            "limitPrice": self.limit_price,
            "stopPrice": self.stop_price,
            "stopLoss": self.stop_loss,
            "takeProfit": self.take_profit,
            "expiresAt": self.expires_at,
            "createdAt": self.created_at,
            "label": self.label,
            "comment": self.comment,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json<T: ToJson + ?Sized>(value: &T) -> serde_json::Value {
        let mut out = Vec::new();
        value.to_json(&mut out);
        serde_json::from_slice(&out).expect("it is JSON")
    }

    #[test]
    fn whatever_a_text_has_is_read_back() {
        for text in [
            "",
            "plain",
            "ä€😀",
            "\"quoted\"",
            "a\\b",
            "line\nend\u{1f}",
            "\u{7f}",
        ] {
            assert_eq!(json(text), text);
        }
        assert_eq!(json("a\0b"), "a\u{fffd}b");
    }

    #[test]
    fn every_digit_of_an_id_and_of_a_decimal_is_written() {
        let mut out = Vec::new();
        PositionId(i64::MIN).to_json(&mut out);
        Some(Decimal::new(-1_017_150, 2)).to_json(&mut out);
        None::<Decimal>.to_json(&mut out);
        assert_eq!(out, b"\"-9223372036854775808\"-10171.50null");
    }

    #[test]
    fn a_list_has_a_comma_between_two() {
        let decimal = |units| Decimal::new(units, 1);
        assert_eq!(json(&[] as &[Decimal]), serde_json::json!([]));
        assert_eq!(
            json(&[decimal(5), decimal(-10)][..]),
            serde_json::json!([0.5, -1.0])
        );
    }

    #[test]
    fn a_time_without_a_place_in_the_format_is_absent() {
        assert_eq!(json(&OffsetDateTime::UNIX_EPOCH), "1970-01-01T00:00:00Z");
        let early = OffsetDateTime::new_utc(time::Date::MIN, time::Time::MIDNIGHT);
        assert!(json(&early).is_null());
    }
}
