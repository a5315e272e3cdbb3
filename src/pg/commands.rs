//! Applies commands: sets the desired state, and leaves the rest to the slot's owner.
//!
//! Every command has a place in one order: by `issued_at`, then by id. Of those that concern a session
//! the last in that order decides, in whatever order they arrive and however often. A command without an
//! account is remembered by itself (`bridge.user_commands`), since it also concerns accounts that have
//! no row yet: an older command for one of those finds out that it comes too late.

use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Row as _};
use time::OffsetDateTime;
use uuid::Uuid;

use super::PgError;
use super::listen::CHANNEL;
use super::sessions::parse_desired;
use crate::domain::ids::{AccountId, SessionKey, UserId};
use crate::domain::status::Desired;

/// First half of the key of a user's lock, whose second half is a hash of the user: "mahu".
const USER_SPACE: i32 = 0x6D61_6875;

/// A command to start or stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandRow {
    /// Which command.
    pub id: Uuid,
    /// Start, or else stop.
    pub start: bool,
    /// Whose sessions.
    pub user: UserId,
    /// Which account; `None` is the primary account for start, and every account for stop.
    pub account: Option<AccountId>,
    /// Its place in time. Postgres keeps microseconds.
    pub issued_at: OffsetDateTime,
}

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// It is the latest for these sessions, and set their desired state. None, for a stop of everything
    /// when nothing older ran.
    Now(Vec<SessionKey>),
    /// A later command decides.
    Stale,
    /// It was applied before.
    Duplicate,
}

/// The place of a command in the order of commands.
pub(super) type Place = (OffsetDateTime, Uuid);

/// A row of a session, as far as commands are concerned.
struct Known {
    account: AccountId,
    desired: Desired,
    place: Place,
}

/// What commands left behind of a user.
struct History {
    sessions: Vec<Known>,
    /// The latest start without an account.
    start: Option<Place>,
    /// The latest stop without an account.
    stop: Option<Place>,
}

/// Applies a command in one transaction, and wakes the slot's owner.
///
/// # Errors
/// Nothing was applied then; the same command may be applied again.
///
/// # Cancel safety
/// Given up in the middle, it may or may not have been applied; to apply it again is right.
pub async fn apply(conn: &mut PgConnection, command: &CommandRow) -> Result<Applied, PgError> {
    let mut tx = conn.begin().await?;
    lock_user(&mut tx, &command.user).await?;
    let history = history(&mut tx, &command.user).await?;
    let applied = match (command.start, command.account) {
        (true, Some(account)) => start(&mut tx, command, &history, account).await?,
        (true, None) => start_primary(&mut tx, command, &history).await?,
        (false, Some(account)) => stop(&mut tx, command, &history, account).await?,
        (false, None) => stop_all(&mut tx, command, &history).await?,
    };
    if matches!(&applied, Applied::Now(sessions) if !sessions.is_empty()) {
        sqlx::query("-- commands.notify\nselect pg_notify($1, $2)")
            .bind(CHANNEL)
            .bind(command.user.slot().to_string())
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await?;
    Ok(applied)
}

/// Commands of one user pass one at a time.
pub(super) async fn lock_user(tx: &mut PgConnection, user: &UserId) -> Result<(), PgError> {
    sqlx::query("-- commands.lock_user\nselect pg_advisory_xact_lock($1, hashtext($2))")
        .bind(USER_SPACE)
        .bind(user.as_str())
        .execute(tx)
        .await?;
    Ok(())
}

async fn history(tx: &mut PgConnection, user: &UserId) -> Result<History, PgError> {
    let mut history = History {
        sessions: Vec::new(),
        start: None,
        stop: None,
    };
    for row in sqlx::query(
        "-- commands.sessions
        select account_id, desired, command_issued_at, command_id from bridge.sessions
        where user_id = $1",
    )
    .bind(user.as_str())
    .fetch_all(&mut *tx)
    .await?
    {
        history.sessions.push(Known {
            account: AccountId(row.try_get(0)?),
            desired: parse_desired(row.try_get(1)?)?,
            place: (row.try_get(2)?, row.try_get(3)?),
        });
    }
    for row in sqlx::query(
        "-- commands.user_commands
        select command, command_issued_at, command_id from bridge.user_commands where user_id = $1",
    )
    .bind(user.as_str())
    .fetch_all(tx)
    .await?
    {
        let place = Some((row.try_get(1)?, row.try_get(2)?));
        match row.try_get(0)? {
            "start" => history.start = place,
            _ => history.stop = place,
        }
    }
    Ok(history)
}

impl CommandRow {
    /// Its place in the order, in the microseconds that Postgres keeps.
    fn place(&self) -> Place {
        let micros = self.issued_at.nanosecond() / 1000 * 1000;
        let issued_at = self.issued_at.replace_nanosecond(micros);
        (issued_at.unwrap_or(self.issued_at), self.id)
    }
}

impl History {
    fn of(&self, account: AccountId) -> Option<&Known> {
        self.sessions.iter().find(|known| known.account == account)
    }

    /// Whether a command for one account at this place comes too late, or was here before.
    fn verdict(&self, account: AccountId, place: Place) -> Option<Applied> {
        let row = self.of(account).map(|known| known.place);
        if row == Some(place) {
            Some(Applied::Duplicate)
        } else if row > Some(place) || self.stop > Some(place) {
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
    history: &History,
    account: AccountId,
) -> Result<Applied, PgError> {
    let place = command.place();
    if let Some(verdict) = history.verdict(account, place) {
        return Ok(verdict);
    }
    set_running(tx, &command.user, account, place).await?;
    Ok(Applied::Now(vec![session(command, account)]))
}

async fn start_primary(
    tx: &mut PgConnection,
    command: &CommandRow,
    history: &History,
) -> Result<Applied, PgError> {
    let place = command.place();
    // Decided by what the command did then, whichever account is the primary one now.
    if history.start == Some(place) {
        return Ok(Applied::Duplicate);
    }
    if history.start > Some(place) || history.stop > Some(place) {
        return Ok(Applied::Stale);
    }
    remember(tx, command).await?;
    let account = primary_account(tx, &command.user)
        .await?
        .unwrap_or(SessionKey::PRIMARY);
    start(tx, command, history, account).await
}

async fn stop(
    tx: &mut PgConnection,
    command: &CommandRow,
    history: &History,
    account: AccountId,
) -> Result<Applied, PgError> {
    if let Some(verdict) = history.verdict(account, command.place()) {
        return Ok(verdict);
    }
    set_stopped(tx, command, &[account]).await?;
    Ok(Applied::Now(vec![session(command, account)]))
}

async fn stop_all(
    tx: &mut PgConnection,
    command: &CommandRow,
    history: &History,
) -> Result<Applied, PgError> {
    let place = command.place();
    if history.stop == Some(place) {
        return Ok(Applied::Duplicate);
    }
    if history.stop > Some(place) {
        return Ok(Applied::Stale);
    }
    remember(tx, command).await?;
    let older: Vec<AccountId> = history
        .sessions
        .iter()
        .filter(|known| known.desired == Desired::Running && known.place < place)
        .map(|known| known.account)
        .collect();
    set_stopped(tx, command, &older).await?;
    Ok(Applied::Now(
        older
            .into_iter()
            .map(|account| session(command, account))
            .collect(),
    ))
}

/// The user's primary account, or else their only one.
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

async fn remember(tx: &mut PgConnection, command: &CommandRow) -> Result<(), PgError> {
    sqlx::query(
        "-- commands.remember
        insert into bridge.user_commands (user_id, command, command_id, command_issued_at)
        values ($1, $2, $3, $4)
        on conflict (user_id, command) do update set
            command_id = excluded.command_id, command_issued_at = excluded.command_issued_at",
    )
    .bind(command.user.as_str())
    .bind(if command.start { "start" } else { "stop" })
    .bind(command.id)
    .bind(command.place().0)
    .execute(tx)
    .await?;
    Ok(())
}

/// Wants a session running, unless its row knows a later command.
pub(super) async fn set_running(
    tx: &mut PgConnection,
    user: &UserId,
    account: AccountId,
    (issued_at, id): Place,
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
    .bind(id)
    .bind(issued_at)
    .execute(tx)
    .await?;
    Ok(())
}

/// A session without a row gets one all the same: a start that was issued before has to lose.
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
    .bind(command.place().0)
    .execute(tx)
    .await?;
    Ok(())
}
