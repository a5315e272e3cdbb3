//! The writer beside a bare loop that runs the same statement with columns that are made already.

use std::time::{Duration, Instant};

use mahspeccy_bridge::domain::decimal::Decimal;
use mahspeccy_bridge::domain::fence::Fence;
use mahspeccy_bridge::domain::ids::{AccountId, PositionId, SessionKey, Slot, SymbolId, UserId};
use mahspeccy_bridge::domain::row::{AccountRow, PositionRow, RowContent, RowWrite, SessionState};
use mahspeccy_bridge::domain::secret::Secret;
use mahspeccy_bridge::domain::status::Status;
use mahspeccy_bridge::pg::cache::{self, CHUNK_ROWS};
use mahspeccy_bridge::pg::connect::{Database as Connections, PgConfig};
use mahspeccy_bridge::pg::numeric::Numeric;
use mahspeccy_bridge::pg::row_json::ToJson as _;
use sqlx::{Connection as _, PgConnection};
use time::OffsetDateTime;

use crate::services::{Database, Services, migrated, wal};
use crate::{Arguments, Failure, world};

/// Rows of a round.
const ROWS: u32 = 1_000;

/// Rounds of each kind that count, after as many that do not.
const ROUNDS: u32 = 25;

const WORKER: &str = "load";
const EPOCH: i64 = 1;

const STATEMENT: &str = concat!(
    include_str!("../../src/pg/cache/write_full.sql"),
    include_str!("../../src/pg/cache/update_sessions.sql"),
    include_str!("../../src/pg/cache/refused_upserts.sql"),
);

/// What writing costs.
pub(crate) struct Writer {
    /// Rows a second of the writer, and of the bare loop.
    pub(crate) ours: f64,
    pub(crate) bare: f64,
    /// Bytes of WAL of a changed row, and of one that is only refreshed.
    pub(crate) wal_changed: f64,
    pub(crate) wal_fresh: f64,
    /// `wal_level`, on which that depends.
    pub(crate) wal_level: String,
}

pub(crate) async fn run(services: &Services, arguments: &Arguments) -> Result<Writer, Failure> {
    let database = migrated(services, arguments, "writer").await?;
    let mut pg = PgConnection::connect(&database.url).await?;
    let writer = measure(&database, &mut pg).await?;
    pg.close().await?;
    database.drop().await?;
    Ok(writer)
}

async fn measure(database: &Database, pg: &mut PgConnection) -> Result<Writer, Failure> {
    let mut writes: Vec<RowWrite> = (0..ROWS).map(write).collect::<Result<_, _>>()?;
    // The order of keys, as the writer sorts them too.
    writes.sort_by(|a, b| a.fence.key.cmp(&b.fence.key));
    let users: Vec<&str> = writes
        .iter()
        .map(|write| write.fence.key.user.as_str())
        .collect();
    let accounts: Vec<i64> = writes
        .iter()
        .map(|write| write.fence.key.account.0)
        .collect();
    sqlx::raw_sql("update bridge.slots set epoch = 1")
        .execute(&mut *pg)
        .await?;
    sqlx::query(
        "insert into bridge.sessions (user_id, account_id, desired, command_id, command_issued_at, status)
         select user_id, account_id, 'running', gen_random_uuid(), clock_timestamp(), 'pending'
         from unnest($1::text[], $2::bigint[]) as given (user_id, account_id)",
    )
    .bind(users)
    .bind(accounts)
    .execute(&mut *pg)
    .await?;
    let connections = Connections::new(&PgConfig::new(Secret::new(&database.url), WORKER), 1)?;
    let mut conn = connections.acquire().await?;
    let mut seq = 0;
    let (mut ours, mut bare) = (Duration::ZERO, Duration::ZERO);
    let (mut wal_changed, mut wal_fresh) = (0.0, 0.0);
    for round in 0..2 * ROUNDS {
        let counts = round >= ROUNDS;
        seq += 1;
        advance(&mut writes, seq);
        let before = wal(pg).await?;
        let began = Instant::now();
        let report = cache::write(&mut conn, &writes, WORKER).await;
        let took = began.elapsed();
        if report.changed != u64::from(ROWS) {
            return Err(format!("the writer wrote {} of {ROWS} rows", report.changed).into());
        }
        let changed = wal(pg).await? - before;

        seq += 1;
        advance(&mut writes, seq);
        let columns = writes
            .chunks(CHUNK_ROWS)
            .map(Columns::of)
            .collect::<Vec<_>>();
        let began = Instant::now();
        for columns in &columns {
            columns.write(&mut conn).await?;
        }
        let bare_took = began.elapsed();

        seq += 1;
        let fresh: Vec<RowWrite> = writes
            .iter()
            .map(|write| RowWrite {
                seq,
                content: RowContent::Heartbeat,
                ..write.clone()
            })
            .collect();
        let before = wal(pg).await?;
        let report = cache::write(&mut conn, &fresh, WORKER).await;
        if report.heartbeat != u64::from(ROWS) {
            return Err(
                format!("{} of {ROWS} rows were said to be fresh", report.heartbeat).into(),
            );
        }
        if counts {
            ours += took;
            bare += bare_took;
            wal_changed += changed;
            wal_fresh += wal(pg).await? - before;
        }
    }
    drop(conn);
    connections.close().await;
    let rows = f64::from(ROWS * ROUNDS);
    Ok(Writer {
        ours: rows / ours.as_secs_f64(),
        bare: rows / bare.as_secs_f64(),
        wal_changed: wal_changed / rows,
        wal_fresh: wal_fresh / rows,
        wal_level: sqlx::query_scalar("show wal_level").fetch_one(pg).await?,
    })
}

fn write(n: u32) -> Result<RowWrite, Failure> {
    let key = SessionKey {
        user: UserId::new(world::user(n))?,
        account: AccountId(world::account(n)),
    };
    let cents = |units: i128| Decimal::new(units, 2);
    let position = |id: u32| PositionRow {
        position_id: PositionId(i64::from(n * 3 + id)),
        symbol: Some("EURUSD".into()),
        symbol_id: SymbolId(1),
        side: "BUY",
        volume: Decimal::new(10_000, 0),
        lots: Some(cents(10)),
        entry_price: Some(Decimal::new(108_450, 5)),
        current_price: Some(Decimal::new(108_500, 5)),
        stop_loss: None,
        take_profit: None,
        swap: cents(-12),
        commission: cents(-35),
        gross_profit: Some(cents(461)),
        net_profit: Some(cents(414)),
        used_margin: cents(3_333),
        opened_at: Some(OffsetDateTime::UNIX_EPOCH),
        label: None,
        comment: None,
    };
    let account = AccountRow {
        trader_login: Some(i64::from(n)),
        currency: Some("EUR".into()),
        balance: cents(10_000_000),
        equity: None,
        unrealized_gross: Some(cents(1_383)),
        unrealized_net: Some(cents(1_242)),
        used_margin: cents(9_999),
        free_margin: Some(cents(9_991_243)),
        bonus: Some(cents(0)),
        margin_level: Some(Decimal::new(1_000_224_300, 4)),
        positions: (0..3).map(position).collect(),
        orders: Vec::new(),
        balance_version: Some(1),
        event_at: OffsetDateTime::UNIX_EPOCH,
    };
    Ok(RowWrite {
        fence: Fence::new(&key, EPOCH),
        seq: 0,
        content: RowContent::Full {
            state: SessionState::of(Status::Live).in_environment(true),
            connected: true,
            account: Box::new(account),
        },
    })
}

/// Another round: newer, and with another equity.
fn advance(writes: &mut [RowWrite], seq: i64) {
    for write in writes {
        write.seq = seq;
        if let RowContent::Full { account, .. } = &mut write.content {
            account.equity = Some(Decimal::new(10_001_242 + i128::from(seq), 2));
        }
    }
}

/// The statement's parameters, made.
struct Columns {
    ords: Vec<i32>,
    user_keys: Vec<String>,
    accounts: Vec<i64>,
    slots: Vec<i32>,
    seqs: Vec<i64>,
    users: Vec<String>,
    /// Columns of money, `$16` to `$23`.
    money: [Vec<Option<Numeric>>; 8],
    logins: Vec<Option<i64>>,
    counts: Vec<i32>,
    positions: Vec<String>,
}

impl Columns {
    fn of(chunk: &[RowWrite]) -> Self {
        let accounts: Vec<&AccountRow> = chunk
            .iter()
            .filter_map(|write| match &write.content {
                RowContent::Full { account, .. } => Some(account.as_ref()),
                RowContent::State(_) | RowContent::Heartbeat => None,
            })
            .collect();
        let money = |of: fn(&AccountRow) -> Option<Decimal>| {
            accounts
                .iter()
                .map(|account| of(account).map(Numeric))
                .collect()
        };
        let slot = |write: &RowWrite| {
            let Slot(slot) = write.fence.slot;
            slot
        };
        Self {
            ords: (0..).take(chunk.len()).collect(),
            user_keys: chunk
                .iter()
                .map(|write| write.fence.key.user.key())
                .collect(),
            accounts: chunk
                .iter()
                .map(|write| write.fence.key.account.0)
                .collect(),
            slots: chunk.iter().map(slot).collect(),
            seqs: chunk.iter().map(|write| write.seq).collect(),
            users: chunk
                .iter()
                .map(|write| write.fence.key.user.as_str().to_owned())
                .collect(),
            money: [
                money(|account| Some(account.balance)),
                money(|account| account.equity),
                money(|account| account.unrealized_gross),
                money(|account| account.unrealized_net),
                money(|account| Some(account.used_margin)),
                money(|account| account.free_margin),
                money(|account| account.bonus),
                money(|account| account.margin_level),
            ],
            logins: accounts
                .iter()
                .map(|account| account.trader_login)
                .collect(),
            counts: accounts.iter().map(|_| 3).collect(),
            positions: accounts
                .iter()
                .map(|account| account.positions.to_json_string())
                .collect(),
        }
    }

    async fn write(&self, pg: &mut PgConnection) -> Result<(), Failure> {
        let rows = self.ords.len();
        let mut query = sqlx::query(STATEMENT)
            .bind(&self.ords)
            .bind(&self.user_keys)
            .bind(&self.accounts)
            .bind(&self.slots)
            .bind(vec![EPOCH; rows])
            .bind(&self.seqs)
            .bind(WORKER)
            .bind(&self.users)
            .bind(vec!["live"; rows])
            .bind(vec![None::<&str>; rows])
            .bind(vec![0_i32; rows])
            .bind(vec![true; rows])
            .bind(vec![true; rows])
            .bind(&self.logins)
            .bind(vec!["EUR"; rows]);
        for money in &self.money {
            query = query.bind(money);
        }
        let refused = query
            .bind(&self.counts)
            .bind(vec![0_i32; rows])
            .bind(&self.positions)
            .bind(vec!["[]"; rows])
            .bind(vec![Some(1_i64); rows])
            .bind(vec![OffsetDateTime::UNIX_EPOCH; rows])
            .fetch_all(pg)
            .await?;
        if refused.is_empty() {
            Ok(())
        } else {
            Err(format!("{} rows of the bare loop were refused", refused.len()).into())
        }
    }
}
