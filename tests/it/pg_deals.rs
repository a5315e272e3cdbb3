//! Deals are appended once, exactly, and by the slot's owner.

use mahspeccy_bridge::domain::deal::{Closing, Deal, Side, Source};
use mahspeccy_bridge::domain::decimal::Decimal;
use mahspeccy_bridge::domain::fence::Fence;
use mahspeccy_bridge::domain::ids::{DealId, OrderId, PositionId, SymbolId};
use mahspeccy_bridge::pg::deals::{DealReport, DealWrite, insert};
use time::macros::datetime;

use crate::pg_support::{claim, key, migrated, user};

const USER: &str = "lance@lwk.space";

fn deal(id: i64, closing: Option<Closing>) -> DealWrite {
    DealWrite {
        source: Source::Event,
        fence: Fence::new(&key(USER, 5_150_705), 1),
        deal: Deal {
            deal_id: DealId(id),
            order_id: OrderId(20),
            position_id: PositionId(30),
            symbol: Some("EURUSD".to_owned()),
            symbol_id: SymbolId(1),
            side: Side::Sell,
            status: "FILLED",
            volume: Decimal::new(100_000, 0),
            filled_volume: Decimal::new(5_000_050, 2),
            price: Some(Decimal::new(108_300, 5)),
            executed_at: datetime!(2026-11-23 05:42:00.123 UTC),
            commission: Some(Decimal::new(-350, 2)),
            closing,
        },
    }
}

fn closing() -> Closing {
    Closing {
        gross_profit: Decimal::new(1210, 2),
        swap: Decimal::new(-5, 2),
        closed_volume: Some(Decimal::new(100_000, 0)),
        entry_price: None,
        balance_after: Decimal::new(1_000_855, 2),
    }
}

#[tokio::test]
async fn a_deal_is_appended_once_with_every_column() {
    let database = migrated().await;
    let _lock = claim(&database, "a", &[USER]).await;
    let mut conn = database.pool().acquire().await.expect("a connection");
    let first = [
        deal(1, None),
        deal(2, Some(closing())),
        deal(2, Some(closing())),
    ];
    let report = insert(&mut conn, &first).await.expect("deals");
    assert_eq!(
        report,
        DealReport {
            inserted: 2,
            from_gaps: 0,
            already_stored: 1,
            fenced: 0
        }
    );
    let report = insert(&mut conn, &first[..2]).await.expect("deals");
    assert_eq!(
        report,
        DealReport {
            inserted: 0,
            from_gaps: 0,
            already_stored: 2,
            fenced: 0
        }
    );
    let rows: Vec<String> =
        sqlx::query_scalar("select to_jsonb(d)::text from ctrader_deals d order by deal_id")
            .fetch_all(&mut *conn)
            .await
            .expect("rows");
    let row = |id, closing: [&str; 5]| {
        let [swap, closed, entry, gross, balance] = closing;
        format!(
            r#"{{"side": "SELL", "swap": {swap}, "price": 1.08300, "status": "FILLED", "symbol": "EURUSD", "volume": 100000, "deal_id": {id}, "order_id": 20, "user_key": "{}", "symbol_id": 1, "account_id": 5150705, "commission": -3.50, "entry_price": {entry}, "executed_at": "2026-11-23T05:42:00.123+00:00", "position_id": 30, "gross_profit": {gross}, "balance_after": {balance}, "closed_volume": {closed}, "filled_volume": 50000.50}}"#,
            user(USER).key()
        )
    };
    assert_eq!(
        rows,
        [
            row(1, ["null"; 5]),
            row(2, ["-0.05", "100000", "null", "12.10", "10008.55"])
        ]
    );
}

#[tokio::test]
async fn a_deal_of_a_lost_slot_is_left_to_the_new_owner() {
    let database = migrated().await;
    let _lock = claim(&database, "a", &[USER]).await;
    let mut conn = database.pool().acquire().await.expect("a connection");
    insert(&mut conn, &[deal(1, None)]).await.expect("deals");
    sqlx::raw_sql("update bridge.slots set epoch = epoch + 1")
        .execute(&mut *conn)
        .await
        .expect("epochs");
    let newer = DealWrite {
        fence: Fence::new(&key(USER, 5_150_705), 2),
        ..deal(3, None)
    };
    let report = insert(&mut conn, &[deal(1, None), deal(2, None), newer])
        .await
        .expect("deals");
    assert_eq!(
        report,
        DealReport {
            inserted: 1,
            from_gaps: 0,
            already_stored: 0,
            fenced: 2
        }
    );
}

#[tokio::test]
async fn a_long_history_goes_in_chunks() {
    let database = migrated().await;
    let _lock = claim(&database, "a", &[USER]).await;
    let mut conn = database.pool().acquire().await.expect("a connection");
    let deals: Vec<DealWrite> = (0..1001).map(|id| deal(id, Some(closing()))).collect();
    let report = insert(&mut conn, &deals).await.expect("deals");
    assert_eq!(
        report,
        DealReport {
            inserted: 1001,
            from_gaps: 0,
            already_stored: 0,
            fenced: 0
        }
    );
}

#[tokio::test]
async fn a_deal_that_an_event_told_of_is_not_counted_as_a_find_of_the_history() {
    let database = migrated().await;
    let _lock = claim(&database, "a", &[USER]).await;
    let mut conn = database.pool().acquire().await.expect("a connection");
    let found = |id| DealWrite {
        source: Source::Gap,
        ..deal(id, None)
    };
    let report = insert(
        &mut conn,
        &[found(1), deal(1, None), found(2), deal(3, None)],
    )
    .await
    .expect("deals");
    assert_eq!(
        report,
        DealReport {
            inserted: 3,
            from_gaps: 1,
            already_stored: 1,
            fenced: 0
        }
    );
}

#[tokio::test]
async fn a_deal_that_was_stored_without_its_symbols_name_is_given_it_later() {
    let database = migrated().await;
    let _lock = claim(&database, "a", &[USER]).await;
    let mut conn = database.pool().acquire().await.expect("a connection");
    let nameless = |id| {
        let mut write = deal(id, None);
        write.deal.symbol = None;
        write
    };
    let names = async |conn: &mut sqlx::PgConnection| -> Vec<Option<String>> {
        sqlx::query_scalar("select symbol from ctrader_deals order by deal_id")
            .fetch_all(conn)
            .await
            .expect("rows")
    };
    let told = || Some("EURUSD".to_owned());
    // With one that is named beside it, that one counts.
    let batch = [nameless(1), nameless(2), deal(2, None)];
    insert(&mut conn, &batch).await.expect("deals");
    assert_eq!(names(&mut conn).await, [None, told()]);
    let report = insert(&mut conn, &[deal(1, None), nameless(2)])
        .await
        .expect("deals");
    assert_eq!((report.inserted, report.already_stored), (0, 2));
    assert_eq!(names(&mut conn).await, [told(), told()]);
}
