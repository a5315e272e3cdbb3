//! What a run stands on: its own database, its users' credentials, and their commands at the broker.

use std::process::Stdio;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use mahspeccy_bridge::amqp::topology::{COMMANDS_EXCHANGE, COMMANDS_QUEUE};
use mahspeccy_bridge::domain::command::{Command, CommandKind};
use mahspeccy_bridge::domain::ids::UserId;
use sqlx::{Connection as _, PgConnection};
use time::OffsetDateTime;
use tokio::process::Command as Process;
use uuid::Uuid;

use crate::{Arguments, Failure, world};

/// Where Postgres and RabbitMQ are.
pub(crate) struct Services {
    pub(crate) database_url: String,
    pub(crate) amqp_url: String,
}

impl Services {
    pub(crate) fn from_env() -> Result<Self, Failure> {
        let of = |name: &str| std::env::var(name).map_err(|_| format!("{name} is not set"));
        Ok(Self {
            database_url: of("DATABASE_URL")?,
            amqp_url: of("AMQP_URL")?,
        })
    }
}

/// A database of one run.
pub(crate) struct Database {
    server_url: String,
    name: String,
    pub(crate) url: String,
}

impl Database {
    pub(crate) async fn create(services: &Services, purpose: &str) -> Result<Self, Failure> {
        let name = format!("load_{purpose}_{}", std::process::id());
        let mut server = PgConnection::connect(&services.database_url).await?;
        for statement in [
            format!("drop database if exists {name} with (force)"),
            format!("create database {name}"),
        ] {
            sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
                .execute(&mut server)
                .await?;
        }
        let mut url = url::Url::parse(&services.database_url)?;
        url.set_path(&name);
        Ok(Self {
            server_url: services.database_url.clone(),
            name,
            url: url.into(),
        })
    }

    pub(crate) async fn drop(self) -> Result<(), Failure> {
        let mut server = PgConnection::connect(&self.server_url).await?;
        let statement = format!("drop database {} with (force)", self.name);
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
            .execute(&mut server)
            .await?;
        Ok(())
    }
}

/// WAL written so far, bytes.
pub(crate) async fn wal(pg: &mut PgConnection) -> Result<f64, Failure> {
    Ok(
        sqlx::query_scalar("select (pg_current_wal_lsn() - '0/0')::float8")
            .fetch_one(pg)
            .await?,
    )
}

pub(crate) async fn migrated(
    services: &Services,
    arguments: &Arguments,
    purpose: &str,
) -> Result<Database, Failure> {
    let database = Database::create(services, purpose).await?;
    let migrated = Process::new(&arguments.worker)
        .arg("migrate")
        .env("DATABASE_URL", &database.url)
        .stdout(Stdio::null())
        .status()
        .await?;
    if migrated.success() {
        Ok(database)
    } else {
        Err("the migrations failed".into())
    }
}

pub(crate) async fn credentials(pg: &mut PgConnection, sessions: u32) -> Result<(), Failure> {
    let (mut users, mut accounts, mut tokens) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..sessions {
        users.push(world::user(n));
        accounts.push(world::account(n));
        tokens.push(world::token(n));
    }
    sqlx::query(
        "insert into bridge.credentials (user_id, account_id, is_live, is_primary, access_token, refresh_token)
         select user_id, account_id, false, true, token, 'unused'
         from unnest($1::text[], $2::bigint[], $3::text[]) as given (user_id, account_id, token)",
    )
    .bind(users)
    .bind(accounts)
    .bind(tokens)
    .execute(pg)
    .await?;
    Ok(())
}

/// All commands over one channel, confirmed by the broker.
pub(crate) async fn publish_starts(services: &Services, sessions: u32) -> Result<(), Failure> {
    let connection =
        Connection::connect(&services.amqp_url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    let mut confirms = Vec::new();
    for n in 0..sessions {
        let command = Command {
            id: Uuid::new_v4(),
            kind: CommandKind::Start,
            user: UserId::new(world::user(n))?,
            account: None,
            issued_at: OffsetDateTime::now_utc(),
        };
        let confirm = channel
            .basic_publish(
                COMMANDS_EXCHANGE.into(),
                command.kind.as_str().into(),
                BasicPublishOptions {
                    mandatory: true,
                    ..BasicPublishOptions::default()
                },
                command.to_json().as_bytes(),
                BasicProperties::default().with_delivery_mode(2),
            )
            .await?;
        confirms.push(confirm);
    }
    for confirm in confirms {
        let confirmation = confirm.await?;
        if !confirmation.is_ack() || confirmation.take_message().is_some() {
            return Err(format!("the broker has no queue {COMMANDS_QUEUE} for a command").into());
        }
    }
    connection.close(200, "done".into()).await?;
    Ok(())
}
