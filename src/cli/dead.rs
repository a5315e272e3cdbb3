//! `dead`: lists, requeues and drops commands that could not be applied.

use comfy_table::Cell;
use serde_json::json;
use time::format_description::well_known::Rfc3339;

use super::arguments::DeadAction;
use super::error::CliError;
use super::screen::{Column, Style, cell, print, print_styled, printable, styled_cell, table};
use crate::amqp::dead_letters::{
    DeadLetter, DeadLetterList, Selection, SelectionReport, discard, list, requeue,
};
use crate::amqp::probe::diagnose;
use crate::amqp::{AmqpError, AmqpSettings};
use crate::domain::command::CommandKind;

/// Runs the action; `list` by default.
///
/// # Errors
/// When the broker cannot be used, or there is no such dead letter.
pub(super) async fn run(
    settings: &AmqpSettings,
    action: Option<DeadAction>,
) -> Result<(), CliError> {
    let unavailable =
        |error: AmqpError| CliError::unavailable("RabbitMQ", &diagnose(&error, settings));
    match action.unwrap_or(DeadAction::List { json: false }) {
        DeadAction::List { json } => {
            let messages = list(settings).await.map_err(unavailable)?;
            if json {
                print(&as_json(&messages));
            } else {
                print_styled(&as_table(&messages));
            }
            Ok(())
        }
        DeadAction::Requeue { id, all: _ } => {
            let selection = id.map_or(Selection::All, Selection::Id);
            let outcome = requeue(settings, &selection).await.map_err(unavailable)?;
            report(&outcome, &selection, "requeued")
        }
        DeadAction::Drop { id } => {
            let selection = Selection::Id(id);
            let outcome = discard(settings, &selection).await.map_err(unavailable)?;
            report(&outcome, &selection, "dropped")
        }
    }
}

fn report(outcome: &SelectionReport, selection: &Selection, what: &str) -> Result<(), CliError> {
    print(&format!("{} {what}\n", outcome.done));
    if let Some((id, why)) = outcome.kept.first_key_value() {
        let others = outcome.kept.len() - 1;
        return Err(CliError::Usage(format!(
            "{id} stays: {why} ({others} others likewise)"
        )));
    }
    match selection {
        Selection::Id(id) if outcome.done == 0 => {
            let id = printable(id, 64);
            Err(CliError::Usage(format!(
                "there is no dead letter {id}: `dead list` shows those there are"
            )))
        }
        Selection::Id(_) | Selection::All => Ok(()),
    }
}

/// An id is never cut: `requeue` and `drop` take it.
const COLUMNS: [Column; 6] = [
    Column::text("ID"),
    Column::text("COMMAND").hide(2),
    Column::text("USER").cut_to(12).hide(1),
    Column::number("ACCOUNT").hide(3),
    Column::text("ISSUED").hide(4),
    Column::text("REASON").cut_to(16),
];

fn as_table(list: &DeadLetterList) -> String {
    if list.messages.is_empty() {
        return "no dead letters\n".to_owned();
    }
    let mut text = table(&COLUMNS, list.messages.iter().map(row).collect());
    if list.more > 0 {
        text = format!("{text}and {} more\n", list.more);
    }
    text
}

fn row(message: &DeadLetter) -> Vec<Cell> {
    let dash = || "-".to_owned();
    let command = message.command.as_ref();
    vec![
        cell(message.id.as_str()),
        cell(message.kind.map_or("?", CommandKind::as_str)),
        cell(command.map_or_else(
            || format!("({} bytes)", message.bytes),
            |command| command.user.as_str().to_owned(),
        )),
        cell(
            command
                .and_then(|command| command.account)
                .map_or_else(dash, |account| account.to_string()),
        ),
        cell(issued_at(message).unwrap_or_else(dash)),
        styled_cell(message.reason.as_str(), Style::Warning),
    ]
}

fn issued_at(message: &DeadLetter) -> Option<String> {
    message.command.as_ref()?.issued_at.format(&Rfc3339).ok()
}

fn as_json(list: &DeadLetterList) -> String {
    let messages: Vec<_> = list
        .messages
        .iter()
        .map(|message| {
            let command = message.command.as_ref();
            json!({
                "id": message.id,
                "command": message.kind.map(CommandKind::as_str),
                "userId": command.map(|command| command.user.as_str()),
                "accountId": command.and_then(|command| command.account).map(|id| id.to_string()),
                "issuedAt": issued_at(message),
                "reason": message.reason,
                "bytes": message.bytes,
            })
        })
        .collect();
    serde_json::Value::Array(messages).to_string() + "\n"
}
