//! Applies commands: sets the desired state, and leaves the rest to the slot's owner.
//!
//! All commands stand in one order: by `issued_at`, then by id. The last one in that order decides about a session,
//! in whatever order they arrive and however often. A command without an account is stored by itself
//! (`bridge.user_commands`), since it also concerns accounts that have no row yet: an older command for one of those
//! has no effect.
//!
//! A start without an account, of a user whose primary account is not known yet, makes a placeholder row
//! (see `placeholders`).

use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::error::PgError;
use super::from_row::from_row;
use super::listen::SLOT_CHANNEL;
use super::sessions::desired;
use crate::domain::ids::{AccountId, SessionKey, UserId};
use crate::domain::status::Desired;

/// Class of the users' advisory locks, whose object is a hash of the user: "mahu".
const USER_LOCK_CLASS: i32 = 0x6D61_6875;

/// A command as it is applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandRow {
    /// Which command.
    pub id: Uuid,
    /// Whether it is a start, or else a stop.
    pub start: bool,
    /// Whose sessions.
    pub user: UserId,
    /// Which account; `None` is the primary account for start, and every account for stop.
    pub account: Option<AccountId>,
    /// When it was issued. Postgres keeps microseconds.
    pub issued_at: OffsetDateTime,
}

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// It is the latest for these sessions, and set their desired state. The list is empty for a stop of everything
    /// when nothing older was running.
    Now(Vec<SessionKey>),
    /// A later command decides.
    Stale,
    /// It was applied before.
    Duplicate,
}

/// By what commands are ordered. The later one decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CommandOrder {
    pub(super) issued_at: OffsetDateTime,
    pub(super) id: Uuid,
}

/// A session that has a row, as far as commands are concerned.
struct ExistingSession {
    account: AccountId,
    desired: Desired,
    order: CommandOrder,
}

/// What earlier commands set for a user.
struct UserState {
    sessions: Vec<ExistingSession>,
    /// The latest start without an account.
    start: Option<CommandOrder>,
    /// The latest stop without an account.
    stop: Option<CommandOrder>,
}

/// A row of `bridge.sessions`.
struct SessionRow {
    account_id: i64,
    desired: String,
    command_issued_at: OffsetDateTime,
    command_id: Uuid,
}

from_row!(SessionRow {
    account_id,
    desired,
    command_issued_at,
    command_id
});

/// A row of `bridge.user_commands`.
struct UserCommandRow {
    command: String,
    command_issued_at: OffsetDateTime,
    command_id: Uuid,
}

from_row!(UserCommandRow {
    command,
    command_issued_at,
    command_id
});

/// Applies a command in one transaction, and wakes the slot's owner.
///
/// # Errors
/// Nothing was applied then; the same command may be applied again.
///
/// # Cancel safety
/// Dropped before it returns, it may or may not have been applied. Applying it again is safe.
pub async fn apply(conn: &mut PgConnection, command: &CommandRow) -> Result<Applied, PgError> {
    let mut tx = conn.begin().await?;
    lock_user(&mut tx, &command.user).await?;
    let state = load_user_state(&mut tx, &command.user).await?;
    let applied = match (command.start, command.account) {
        (true, Some(account)) => start(&mut tx, command, &state, account).await?,
        (true, None) => start_primary(&mut tx, command, &state).await?,
        (false, Some(account)) => stop(&mut tx, command, &state, account).await?,
        (false, None) => stop_all(&mut tx, command, &state).await?,
    };
    if matches!(&applied, Applied::Now(sessions) if !sessions.is_empty()) {
        sqlx::query("-- commands.notify\nselect pg_notify($1, $2)")
            .bind(SLOT_CHANNEL)
            .bind(command.user.slot().to_string())
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await?;
    Ok(applied)
}

/// Lets the commands of one user pass one at a time.
pub(super) async fn lock_user(tx: &mut PgConnection, user: &UserId) -> Result<(), PgError> {
    sqlx::query("-- commands.lock_user\nselect pg_advisory_xact_lock($1, hashtext($2))")
        .bind(USER_LOCK_CLASS)
        .bind(user.as_str())
        .execute(tx)
        .await?;
    Ok(())
}

async fn load_user_state(tx: &mut PgConnection, user: &UserId) -> Result<UserState, PgError> {
    let sessions: Vec<SessionRow> = sqlx::query_as(
        "-- commands.sessions
        select account_id, desired, command_issued_at, command_id from bridge.sessions
        where user_id = $1",
    )
    .bind(user.as_str())
    .fetch_all(&mut *tx)
    .await?;
    let commands: Vec<UserCommandRow> = sqlx::query_as(
        "-- commands.user_commands
        select command, command_issued_at, command_id from bridge.user_commands where user_id = $1",
    )
    .bind(user.as_str())
    .fetch_all(tx)
    .await?;
    let mut state = UserState {
        sessions: sessions
            .into_iter()
            .map(ExistingSession::try_from)
            .collect::<Result<_, _>>()?,
        start: None,
        stop: None,
    };
    for row in commands {
        let order = Some(CommandOrder {
            issued_at: row.command_issued_at,
            id: row.command_id,
        });
        match row.command.as_str() {
            "start" => state.start = order,
            _ => state.stop = order,
        }
    }
    Ok(state)
}

impl TryFrom<SessionRow> for ExistingSession {
    type Error = PgError;

    fn try_from(row: SessionRow) -> Result<Self, PgError> {
        Ok(Self {
            account: AccountId(row.account_id),
            desired: desired(&row.desired)?,
            order: CommandOrder {
                issued_at: row.command_issued_at,
                id: row.command_id,
            },
        })
    }
}

impl CommandRow {
    /// Returns what it is ordered by, in the microseconds that Postgres keeps.
    fn order(&self) -> CommandOrder {
        let micros = self.issued_at.nanosecond() / 1000 * 1000;
        let issued_at = self.issued_at.replace_nanosecond(micros);
        CommandOrder {
            issued_at: issued_at.unwrap_or(self.issued_at),
            id: self.id,
        }
    }
}

impl UserState {
    fn session(&self, account: AccountId) -> Option<&ExistingSession> {
        self.sessions
            .iter()
            .find(|session| session.account == account)
    }

    /// Returns why a command of this order has no effect on an account: it comes too late, or was applied before.
    fn superseded(&self, account: AccountId, order: CommandOrder) -> Option<Applied> {
        let latest = self.session(account).map(|session| session.order);
        if latest == Some(order) {
            Some(Applied::Duplicate)
        } else if latest > Some(order) || self.stop > Some(order) {
            Some(Applied::Stale)
        } else {
            None
        }
    }
}

fn session(command: &CommandRow, account: AccountId) -> SessionKey {
    SessionKey {
        user: command.user.clone(),
        account,
    }
}

async fn start(
    tx: &mut PgConnection,
    command: &CommandRow,
    state: &UserState,
    account: AccountId,
) -> Result<Applied, PgError> {
    let order = command.order();
    if let Some(applied) = state.superseded(account, order) {
        return Ok(applied);
    }
    set_running(tx, &command.user, account, order).await?;
    Ok(Applied::Now(vec![session(command, account)]))
}

async fn start_primary(
    tx: &mut PgConnection,
    command: &CommandRow,
    state: &UserState,
) -> Result<Applied, PgError> {
    let order = command.order();
    // The command is a duplicate even if another account is the primary one now.
    if state.start == Some(order) {
        return Ok(Applied::Duplicate);
    }
    if state.start > Some(order) || state.stop > Some(order) {
        return Ok(Applied::Stale);
    }
    store_user_command(tx, command).await?;
    let account = primary_account(tx, &command.user)
        .await?
        .unwrap_or(SessionKey::PRIMARY);
    start(tx, command, state, account).await
}

async fn stop(
    tx: &mut PgConnection,
    command: &CommandRow,
    state: &UserState,
    account: AccountId,
) -> Result<Applied, PgError> {
    if let Some(applied) = state.superseded(account, command.order()) {
        return Ok(applied);
    }
    set_stopped(tx, command, &[account]).await?;
    Ok(Applied::Now(vec![session(command, account)]))
}

async fn stop_all(
    tx: &mut PgConnection,
    command: &CommandRow,
    state: &UserState,
) -> Result<Applied, PgError> {
    let order = command.order();
    if state.stop == Some(order) {
        return Ok(Applied::Duplicate);
    }
    if state.stop > Some(order) {
        return Ok(Applied::Stale);
    }
    store_user_command(tx, command).await?;
    let running: Vec<AccountId> = state
        .sessions
        .iter()
        .filter(|session| session.desired == Desired::Running && session.order < order)
        .map(|session| session.account)
        .collect();
    set_stopped(tx, command, &running).await?;
    Ok(Applied::Now(
        running
            .into_iter()
            .map(|account| session(command, account))
            .collect(),
    ))
}

/// Returns the user's primary account, or else their only one.
pub(super) async fn primary_account(
    tx: &mut PgConnection,
    user: &UserId,
) -> Result<Option<AccountId>, PgError> {
    let account: Option<i64> = sqlx::query_scalar(
        "-- commands.primary_account
        select coalesce(
            max(account_id) filter (where is_primary),
            case when count(*) = 1 then max(account_id) end
        )
        from bridge.credentials where user_id = $1",
    )
    .bind(user.as_str())
    .fetch_one(tx)
    .await?;
    Ok(account.map(AccountId))
}

async fn store_user_command(tx: &mut PgConnection, command: &CommandRow) -> Result<(), PgError> {
    sqlx::query(
        "-- commands.store_user_command
        insert into bridge.user_commands (user_id, command, command_id, command_issued_at)
        values ($1, $2, $3, $4)
        on conflict (user_id, command) do update set
            command_id = excluded.command_id, command_issued_at = excluded.command_issued_at",
    )
    .bind(command.user.as_str())
    .bind(if command.start { "start" } else { "stop" })
    .bind(command.id)
    .bind(command.order().issued_at)
    .execute(tx)
    .await?;
    Ok(())
}

/// Sets the desired state to running, unless a later command set it.
pub(super) async fn set_running(
    tx: &mut PgConnection,
    user: &UserId,
    account: AccountId,
    order: CommandOrder,
) -> Result<(), PgError> {
    sqlx::query(
        "-- commands.set_running
        insert into bridge.sessions as s
            (user_id, account_id, desired, command_id, command_issued_at, status)
        values ($1, $2, 'running', $3, $4, 'pending')
        on conflict (user_id, account_id) do update set
            desired = excluded.desired,
            command_id = excluded.command_id,
            command_issued_at = excluded.command_issued_at,
            status = case when s.status in ('stopped', 'failed') then 'pending' else s.status end,
            last_error = case when s.status in ('stopped', 'failed') then null else s.last_error end,
            attempts = case when s.status in ('stopped', 'failed') then 0 else s.attempts end,
            updated_at = clock_timestamp()
        where (s.command_issued_at, s.command_id) < (excluded.command_issued_at, excluded.command_id)",
    )
    .bind(user.as_str())
    .bind(account.0)
    .bind(order.id)
    .bind(order.issued_at)
    .execute(tx)
    .await?;
    Ok(())
}

/// Sets the desired state to stopped. A session without a row gets one too, so that a start that was issued before has
/// no effect.
async fn set_stopped(
    tx: &mut PgConnection,
    command: &CommandRow,
    accounts: &[AccountId],
) -> Result<(), PgError> {
    let accounts: Vec<i64> = accounts.iter().map(|account| account.0).collect();
    sqlx::query(
        "-- commands.set_stopped
        insert into bridge.sessions as s
            (user_id, account_id, desired, command_id, command_issued_at, status)
        select $1, account_id, 'stopped', $3, $4, 'stopped' from unnest($2::bigint[]) as account_id
        order by account_id
        on conflict (user_id, account_id) do update set
            desired = excluded.desired,
            command_id = excluded.command_id,
            command_issued_at = excluded.command_issued_at,
            updated_at = clock_timestamp()",
    )
    .bind(command.user.as_str())
    .bind(accounts)
    .bind(command.id)
    .bind(command.order().issued_at)
    .execute(tx)
    .await?;
    Ok(())
}
