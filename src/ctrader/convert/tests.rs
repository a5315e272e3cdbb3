use super::*;
use crate::ctrader::wire::ProtoOaTradeData;

fn wire_position() -> ProtoOaPosition {
    ProtoOaPosition {
        position_id: 701,
        trade_data: ProtoOaTradeData {
            symbol_id: 4,
            volume: 5_000_000,
            trade_side: 1,
            ..Default::default()
        },
        position_status: 1,
        swap: -123,
        price: Some(150.8),
        ..Default::default()
    }
}

#[test]
fn money_digits_come_from_the_object_then_from_the_account() {
    let mut wire = wire_position();
    let (_, held) = position(wire.clone(), 2).expect("sound");
    assert_eq!(held.swap, Decimal::new(-123, 2));
    wire.money_digits = Some(8);
    let (_, held) = position(wire.clone(), 2).expect("sound");
    assert_eq!(held.swap, Decimal::new(-123, 8));
    wire.money_digits = Some(0);
    let (_, held) = position(wire.clone(), 2).expect("sound");
    assert_eq!(
        held.swap,
        Decimal::new(-123, 0),
        "zero is a value, not an absence"
    );
    wire.money_digits = Some(200);
    assert_eq!(position(wire, 2), Err(Malformed::OutOfRange("moneyDigits")));
}

#[test]
fn what_prost_reads_as_zero_is_missing() {
    let mut wire = wire_position();
    wire.position_id = 0;
    assert_eq!(position(wire, 2), Err(Malformed::MissingId("positionId")));
    let mut wire = wire_position();
    wire.position_status = 99;
    assert_eq!(
        position(wire, 2),
        Err(Malformed::UnknownEnum("positionStatus"))
    );
}

#[test]
fn only_an_executed_closing_deal_moves_the_balance() {
    let close = ProtoOaClosePositionDetail {
        balance: 1_005_258,
        balance_version: Some(41),
        ..Default::default()
    };
    let mut deal = ProtoOaDeal {
        deal_status: 2,
        ..Default::default()
    };
    assert_eq!(deal_balance(&deal, 2), Ok(None), "an opening deal");
    deal.close_position_detail = Some(close);
    let moved = Balance {
        amount: Decimal::new(1_005_258, 2),
        version: Some(41),
    };
    assert_eq!(deal_balance(&deal, 2), Ok(Some(moved)));
    deal.deal_status = 4;
    assert_eq!(deal_balance(&deal, 2), Ok(None), "a rejected one");
}

#[test]
fn lots_are_volume_over_lot_size_both_in_hundredths() {
    let symbol = Symbol {
        id: SymbolId(1),
        name: None,
        base: AssetId(1),
        quote: AssetId(2),
        digits: 5,
        lot_size: Some(10_000_000),
    };
    assert_eq!(lots(5_000_000, Some(&symbol)), Some(Decimal::new(50, 2)));
    assert_eq!(lots(100_000, Some(&symbol)), Some(Decimal::new(1, 2)));
    assert_eq!(
        lots(12_345, Some(&symbol)),
        Some(Decimal::new(1_235, 6)),
        "half away"
    );
    assert_eq!(lots(1, None), None);
}

#[test]
fn a_spot_of_zero_is_no_price() {
    assert_eq!(
        [
            spot(None),
            spot(Some(0)),
            spot(Some(u64::MAX)),
            spot(Some(5))
        ],
        [None, None, None, Some(5)]
    );
}
