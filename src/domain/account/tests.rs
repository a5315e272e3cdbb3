use super::super::deal::Side;
use super::super::position::OrderType;
use super::*;

fn trader(version: i64) -> Trader {
    Trader {
        money_digits: 2,
        balance: Decimal::new(1_000, 2),
        balance_version: Some(version),
        bonus: Bonus {
            manager: Decimal::new(0, 2),
            introducing: Decimal::new(0, 2),
        },
        deposit_asset: AssetId(1),
        margin_rule: MarginRule::Max,
        login: None,
        broker: None,
    }
}

fn position(id: i64, volume: i64, updated_at_ms: i64) -> Position {
    let zero = Decimal::new(0, 2);
    Position {
        id: PositionId(id),
        symbol: SymbolId(1),
        side: Side::Buy,
        volume,
        entry: None,
        stop_loss: None,
        take_profit: None,
        swap: zero,
        commission: zero,
        used_margin: zero,
        opened_at_ms: None,
        label: None,
        comment: None,
        updated_at_ms: Some(updated_at_ms),
        trailed_at_ms: None,
    }
}

fn order(id: i64, status: OrderStatus, updated_at_ms: i64) -> Order {
    Order {
        id: OrderId(id),
        position: None,
        symbol: SymbolId(1),
        side: Side::Buy,
        order_type: OrderType::Limit,
        status,
        volume: 100,
        limit_price: None,
        stop_price: None,
        stop_loss: None,
        take_profit: None,
        expires_at_ms: None,
        created_at_ms: None,
        label: None,
        comment: None,
        updated_at_ms: Some(updated_at_ms),
    }
}

fn update(status: PositionStatus, position: Position) -> AccountEvent {
    AccountEvent::Execution(Box::new(Execution {
        position: Some((status, position)),
        ..Execution::default()
    }))
}

fn orders(order: Order) -> AccountEvent {
    AccountEvent::Execution(Box::new(Execution {
        order: Some(order),
        ..Execution::default()
    }))
}

fn balance(units: i128, version: Option<i64>) -> AccountEvent {
    let balance = Balance {
        amount: Decimal::new(units, 2),
        version,
    };
    AccountEvent::Execution(Box::new(Execution {
        balance: Some(balance),
        ..Execution::default()
    }))
}

#[test]
fn a_late_duplicate_cannot_bring_a_closed_position_back() {
    let mut account = Account::new(
        trader(1),
        [(PositionStatus::Open, position(7, 100, 10))],
        [],
    );
    assert!(account.apply(update(PositionStatus::Closed, position(7, 0, 20))));
    assert!(!account.apply(update(PositionStatus::Open, position(7, 100, 10))));
    assert!(!account.apply(update(PositionStatus::Open, position(7, 100, 30))));
    assert_eq!(account.positions().len(), 0);
}

#[test]
fn an_older_version_of_a_position_changes_nothing() {
    let mut account = Account::new(trader(1), [(PositionStatus::Open, position(7, 50, 20))], []);
    assert!(!account.apply(update(PositionStatus::Open, position(7, 100, 10))));
    assert_eq!(account.positions().next().map(|p| p.volume), Some(50));
    assert!(
        account.apply(update(PositionStatus::Open, position(7, 40, 20))),
        "equal times: the later message"
    );
}

#[test]
fn a_created_position_holds_nothing_yet() {
    let mut account = Account::new(trader(1), [], []);
    assert!(!account.apply(update(PositionStatus::Created, position(7, 0, 1))));
    assert!(account.apply(update(PositionStatus::Open, position(7, 100, 2))));
    assert_eq!(account.positions().len(), 1);
}

#[test]
fn balances_are_ordered_by_their_version() {
    let mut account = Account::new(trader(40), [], []);
    assert!(account.apply(balance(2_000, Some(42))));
    assert!(!account.apply(balance(1_500, Some(41))), "older");
    assert!(!account.apply(balance(2_000, Some(42))), "the same again");
    assert_eq!(account.trader().balance, Decimal::new(2_000, 2));
    assert!(
        account.apply(balance(2_100, None)),
        "no version: it can't be ordered and counts"
    );
    assert_eq!(account.trader().balance_version, Some(42));
}

#[test]
fn a_trader_update_brings_its_settings_but_no_older_balance() {
    let mut account = Account::new(trader(40), [], []);
    let mut update = trader(39);
    update.balance = Decimal::new(1, 2);
    update.margin_rule = MarginRule::Net;
    assert!(account.apply(AccountEvent::Trader(Box::new(update))));
    assert_eq!(account.trader().margin_rule, MarginRule::Net);
    assert_eq!(account.trader().balance, Decimal::new(1_000, 2));
}

#[test]
fn only_orders_that_can_wait_are_pending() {
    let mut account = Account::new(trader(1), [], []);
    assert!(account.apply(orders(order(5, OrderStatus::Accepted, 1))));
    let mut protective = order(6, OrderStatus::Accepted, 1);
    protective.order_type = OrderType::StopLossTakeProfit;
    assert!(!account.apply(orders(protective)));
    assert_eq!(account.orders().len(), 1);
    assert!(account.apply(orders(order(5, OrderStatus::Filled, 2))));
    assert!(
        !account.apply(orders(order(5, OrderStatus::Accepted, 1))),
        "a duplicate of its acceptance"
    );
    assert_eq!(account.orders().len(), 0);
}

#[test]
fn trailing_and_margin_events_touch_one_position() {
    let mut account = Account::new(
        trader(1),
        [(PositionStatus::Open, position(7, 100, 10))],
        [],
    );
    let stop = Decimal::new(12, 1);
    assert!(account.apply(AccountEvent::TrailingStop(PositionId(7), stop, 15)));
    assert!(account.apply(AccountEvent::Margin(PositionId(7), Decimal::new(55, 2))));
    assert!(
        !account.apply(AccountEvent::Margin(PositionId(8), Decimal::new(55, 2))),
        "unknown position"
    );
    let position = account.positions().next().expect("there");
    assert_eq!(
        (position.stop_loss, position.used_margin),
        (Some(stop), Decimal::new(55, 2))
    );
}

#[test]
fn what_is_remembered_of_the_ended_is_bounded() {
    let mut account = Account::new(trader(1), [], []);
    for id in 0..2_000 {
        account.apply(update(PositionStatus::Closed, position(id, 0, 1)));
    }
    assert_eq!(account.ended_positions.len(), ENDED_MAX);
}

#[test]
fn a_trailed_stop_outlives_an_older_update_of_its_position() {
    let mut account = Account::new(
        trader(1),
        [(PositionStatus::Open, position(7, 100, 10))],
        [],
    );
    let (first, second) = (Decimal::new(12, 1), Decimal::new(13, 1));
    assert!(account.apply(AccountEvent::TrailingStop(PositionId(7), second, 30)));
    assert!(
        !account.apply(AccountEvent::TrailingStop(PositionId(7), first, 20)),
        "overtaken"
    );
    let mut swapped = position(7, 90, 25);
    swapped.stop_loss = Some(first);
    assert!(account.apply(update(PositionStatus::Open, swapped)));
    let held = account.positions().next().expect("there");
    assert_eq!((held.volume, held.stop_loss), (90, Some(second)));
    // The later update counts: the stop was removed.
    assert!(account.apply(update(PositionStatus::Open, position(7, 90, 40))));
    assert_eq!(account.positions().next().and_then(|p| p.stop_loss), None);
    assert!(
        !account.apply(AccountEvent::TrailingStop(PositionId(7), second, 30)),
        "a duplicate"
    );
}

#[test]
fn bonus_operations_count_in_their_order() {
    let change = |units: i128, sequence| {
        let bonus = Bonus {
            manager: Decimal::new(units, 2),
            introducing: Decimal::new(0, 2),
        };
        AccountEvent::Execution(Box::new(Execution {
            bonus: Some(BonusChange { bonus, sequence }),
            ..Execution::default()
        }))
    };
    let mut account = Account::new(trader(1), [], []);
    assert!(account.apply(change(500, (20, 2))));
    assert!(!account.apply(change(300, (10, 1))), "an earlier one");
    assert!(!account.apply(change(500, (20, 2))), "the same again");
    assert!(account.apply(change(0, (20, 3))));
    assert_eq!(account.trader().bonus.manager, Decimal::new(0, 2));
}

#[test]
fn a_snapshot_that_lags_brings_nothing_back() {
    let mut account = Account::new(
        trader(40),
        [(PositionStatus::Open, position(7, 100, 10))],
        [order(5, OrderStatus::Accepted, 1)],
    );
    account.apply(update(PositionStatus::Closed, position(7, 0, 20)));
    account.apply(orders(order(5, OrderStatus::Cancelled, 2)));
    account.apply(balance(2_000, Some(41)));
    let lagging = account.renewed(
        trader(40),
        [
            (PositionStatus::Open, position(7, 100, 10)),
            (PositionStatus::Open, position(8, 100, 10)),
        ],
        [order(5, OrderStatus::Accepted, 1)],
    );
    assert_eq!(lagging.trader().balance, Decimal::new(2_000, 2));
    let held: Vec<i64> = lagging.positions().map(|position| position.id.0).collect();
    assert_eq!((held, lagging.orders().len()), (vec![8], 0));
}
