//! Decimals reach Postgres digit for digit, as `numeric` and inside `jsonb`.

use mahspeccy_bridge::domain::decimal::Decimal;
use mahspeccy_bridge::pg::numeric::Numeric;
use mahspeccy_bridge::pg::row_json::ToJson as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::support::postgres::TestDatabase;

/// All scales at the edges, and random ones of every length.
fn decimals() -> Vec<Decimal> {
    let mut rng = StdRng::seed_from_u64(0x6D61_6873);
    let mut decimals = Vec::new();
    for scale in 0..=Decimal::SCALE_MAX {
        for units in [
            0,
            1,
            -1,
            9,
            10,
            9999,
            10_000,
            10_001,
            -100_000_000,
            i128::MAX,
            i128::MIN,
        ] {
            decimals.push(Decimal::new(units, scale));
        }
        let ten = 10i128.pow(u32::from(scale));
        decimals.extend(
            [ten, -ten, ten - 1, ten.saturating_mul(9)].map(|units| Decimal::new(units, scale)),
        );
        for _ in 0..200 {
            let units = rng.random::<i128>() >> rng.random_range(0..127);
            decimals.push(Decimal::new(units, scale));
        }
    }
    decimals
}

#[tokio::test]
async fn a_decimal_is_the_same_number_in_postgres() {
    let database = TestDatabase::create().await;
    let decimals = decimals();
    let numerics: Vec<Option<Numeric>> = decimals.iter().copied().map(Numeric).map(Some).collect();
    let texts: Vec<String> = decimals.iter().map(ToString::to_string).collect();
    // The scale too: 1.0 is not 1.00. The detour over jsonb is that of positions and orders.
    let json = decimals.to_json_string();
    let back: Vec<(String, bool, String, i32)> = sqlx::query_as(
        "select n::text, n = t::numeric, j.value #>> '{}', scale(n)
        from unnest($1::numeric[], $2::text[]) with ordinality as i (n, t, ord)
        join jsonb_array_elements($3::jsonb) with ordinality as j (value, ord) using (ord)
        order by ord",
    )
    .bind(numerics)
    .bind(&texts)
    .bind(
        json.parse::<serde_json::Value>()
            .map(|_| {
                sqlx::types::Json(serde_json::value::RawValue::from_string(json).expect("raw"))
            })
            .expect("JSON"),
    )
    .fetch_all(database.pool())
    .await
    .expect("numbers");
    assert_eq!(back.len(), decimals.len());
    for ((decimal, text), (number, same, json, scale)) in decimals.iter().zip(&texts).zip(back) {
        assert_eq!((&number, same), (text, true), "{decimal:?}");
        assert_eq!(&json, text, "{decimal:?} in jsonb");
        assert_eq!(scale, i32::from(decimal.scale));
    }
}

#[tokio::test]
async fn null_stays_null_and_one_value_binds_too() {
    let database = TestDatabase::create().await;
    let (one, nulls): (String, i64) = sqlx::query_as(
        "select $1::text, (select count(*) from unnest($2::numeric[]) n where n is null)",
    )
    .bind("1")
    .bind(vec![None, Some(Numeric(Decimal::new(1, 0)))])
    .fetch_one(database.pool())
    .await
    .expect("values");
    assert_eq!((one.as_str(), nulls), ("1", 1));
    let scalar: String = sqlx::query_scalar("select $1::numeric::text")
        .bind(Numeric(Decimal::new(-12_345, 2)))
        .fetch_one(database.pool())
        .await
        .expect("a number");
    assert_eq!(scalar, "-123.45");
}
