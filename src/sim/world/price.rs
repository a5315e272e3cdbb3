//! Prices as a test writes them, in raw units: 1/100000 of a price unit, as quotes are on the wire.

/// Raw units in a price unit (`ProtoOASpotEvent.bid`).
pub const RAW_PER_UNIT: i64 = 100_000;

/// A decimal price as a raw price: `raw("150.800")` is 15080000.
///
/// # Panics
/// If the text is no decimal number with at most five decimals: the callers are tests and presets.
pub fn raw(text: &str) -> i64 {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    assert!(part.len() <= 5, "{text} has more than five decimals");
    let digits = format!("{whole}{part:0<5}");
    digits
        .parse()
        .expect("a price is written in decimal digits")
}
