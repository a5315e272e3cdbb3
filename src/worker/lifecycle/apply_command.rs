//! Applies a command: commits the desired state that it asks for.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;
use tracing::info;

use crate::amqp::ApplyError;
use crate::domain::command::{Command, CommandKind};
use crate::pg::PgError;
use crate::pg::commands::{self, Applied, CommandRow};
use crate::pg::connect::{Database, within};

/// Returns the consumer's handler, which commits each command's effect and notes when the last one came.
pub(super) fn handler(
    database: Database,
    last_command: Arc<watch::Sender<Instant>>,
) -> impl Fn(Command) -> std::pin::Pin<Box<dyn Future<Output = Result<(), ApplyError>> + Send>>
+ Send
+ Sync
+ 'static {
    move |command| {
        let database = database.clone();
        let began = Instant::now();
        last_command.send_replace(began);
        Box::pin(async move {
            let row = CommandRow {
                id: command.id,
                start: command.kind == CommandKind::Start,
                user: command.user,
                account: command.account,
                issued_at: command.issued_at,
            };
            let mut conn = database.acquire().await.map_err(later)?;
            let applied = within(database.reply_timeout(), commands::apply(&mut conn, &row)).await;
            match conn.release(applied) {
                Ok(applied) => {
                    let outcome = match applied {
                        Applied::Now(_) => "applied",
                        Applied::Stale => "stale",
                        Applied::Duplicate => "duplicate",
                    };
                    let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                    info!(id = %row.id, start = row.start, user = ?row.user, outcome, ms, "command");
                    Ok(())
                }
                // Whatever it is, it is the database's or ours, and the command is sound.
                Err(error) => Err(later(error)),
            }
        })
    }
}

fn later(error: PgError) -> ApplyError {
    ApplyError::Later(Box::new(error))
}
