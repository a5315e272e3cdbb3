//! `dead`: commands that could not be applied.

use serde_json::json;
use time::format_description::well_known::Rfc3339;

use super::screen::{Cell, Tone, colours, print, printable, table};
use super::{CallError, DeadAction};
use crate::amqp::dead_letters::{
    DeadLetter, DeadLetterList, Selection, SelectionReport, discard, list, requeue,
};
use crate::amqp::probe::diagnose;
use crate::amqp::{AmqpError, AmqpSettings};
use crate::domain::command::CommandKind;

/// Does what is asked.
///
/// # Errors
/// When the broker cannot be used, or there is no such letter.
pub async fn run(settings: &AmqpSettings, action: Option<DeadAction>) -> Result<(), CallError> {
    let unavailable =
        |error: AmqpError| CallError::unavailable("RabbitMQ", &diagnose(&error, settings));
    match action.unwrap_or(DeadAction::List { json: false }) {
        DeadAction::List { json } => {
            let letters = list(settings).await.map_err(unavailable)?;
            print(&if json {
                as_json(&letters)
            } else {
                as_table(&letters)
            });
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

fn report(outcome: &SelectionReport, selection: &Selection, what: &str) -> Result<(), CallError> {
    print(&format!("{} {what}\n", outcome.done));
    if let Some((id, why)) = outcome.kept.first_key_value() {
        let others = outcome.kept.len() - 1;
        return Err(CallError::Usage(format!(
            "{id} stays: {why} ({others} others likewise)"
        )));
    }
    match selection {
        Selection::Id(id) if outcome.done == 0 => {
            let id = printable(id, 64);
            Err(CallError::Usage(format!(
                "there is no dead letter {id}: `dead list` shows those there are"
            )))
        }
        Selection::Id(_) | Selection::All => Ok(()),
    }
}

fn as_table(letters: &DeadLetterList) -> String {
    if letters.letters.is_empty() {
        return "no dead letters\n".to_owned();
    }
    let rows: Vec<Vec<Cell>> = letters.letters.iter().map(row).collect();
    let mut text = table(
        &["ID", "COMMAND", "USER", "ACCOUNT", "ISSUED", "REASON"],
        &rows,
        colours(),
    );
    if letters.more > 0 {
        text = format!("{text}and {} more\n", letters.more);
    }
    text
}

fn row(letter: &DeadLetter) -> Vec<Cell> {
    let dash = || "-".to_owned();
    let command = letter.command.as_ref();
    vec![
        Cell::new(letter.id.as_str()),
        Cell::new(letter.kind.map_or("?", CommandKind::as_str)),
        Cell::new(command.map_or_else(
            || format!("({} bytes)", letter.bytes),
            |command| command.user.as_str().to_owned(),
        )),
        Cell::right(
            command
                .and_then(|command| command.account)
                .map_or_else(dash, |account| account.to_string()),
        ),
        Cell::new(issued_at(letter).unwrap_or_else(dash)),
        Cell::new(letter.reason.as_str()).tone(Tone::Uneasy),
    ]
}

fn issued_at(letter: &DeadLetter) -> Option<String> {
    letter.command.as_ref()?.issued_at.format(&Rfc3339).ok()
}

fn as_json(letters: &DeadLetterList) -> String {
    let letters: Vec<_> = letters
        .letters
        .iter()
        .map(|letter| {
            let command = letter.command.as_ref();
            json!({
                "id": letter.id,
                "command": letter.kind.map(CommandKind::as_str),
                "userId": command.map(|command| command.user.as_str()),
                "accountId": command.and_then(|command| command.account).map(|id| id.to_string()),
                "issuedAt": issued_at(letter),
                "reason": letter.reason,
                "bytes": letter.bytes,
            })
        })
        .collect();
    serde_json::Value::Array(letters).to_string() + "\n"
}
