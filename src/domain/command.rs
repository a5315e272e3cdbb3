//! A command: what the app asks for, and its JSON form on the queue.
//!
//! Parsing is strict, because what is understood wrongly here starts or stops the wrong session.
//! An error says which rule was broken and never repeats what the body contains: it becomes a
//! header of the dead-lettered message and a line in a log.

use std::fmt;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::error::Category;
use time::format_description::BorrowedFormatItem;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{OffsetDateTime, UtcOffset};
use uuid::Uuid;

use super::ids::{AccountId, UserId, UserIdError};

/// The longest body that is parsed, in bytes.
pub const BODY_BYTES_MAX: usize = 64 * 1024;

/// UTC with exactly six digits: what Postgres keeps of a time.
const ISSUED_AT: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

/// What shall happen to the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CommandKind {
    /// Stream it.
    Start,
    /// Leave it alone.
    Stop,
}

impl CommandKind {
    /// Its text in the field `command`, and the routing key.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
        }
    }
}

impl fmt::Display for CommandKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One message of the queue `bridge.commands`.
///
/// Among commands of one session the latest `issued_at` wins, and with equal times the greater
/// `id`; applying one twice changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Unique per command.
    pub id: Uuid,
    /// Start or stop.
    pub kind: CommandKind,
    /// Whose session.
    pub user: UserId,
    /// Which account; `None` means the primary one for a start, every running one for a stop.
    pub account: Option<AccountId>,
    /// When the app issued it: UTC, whole microseconds.
    pub issued_at: OffsetDateTime,
}

/// Why a body is no command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// It was not parsed.
    #[error("the body is longer than {BODY_BYTES_MAX} bytes")]
    TooLong,
    /// JSON is UTF-8.
    #[error("the body is not UTF-8")]
    NotUtf8,
    /// It ends early, has something after its end, or is no JSON at all.
    #[error("the body is not JSON")]
    NotJson,
    /// An array, a string, a number.
    #[error("the body is not a JSON object")]
    NotAnObject,
    /// Which of the two is meant cannot be known.
    #[error("{0} is given twice")]
    Duplicate(&'static str),
    /// A field that every command has is absent.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A field that is text has another type.
    #[error("{0} is not a string")]
    NotAString(&'static str),
    /// Not a command of this release.
    #[error("command is neither start nor stop")]
    UnknownCommand,
    /// The user's id breaks one of its rules.
    #[error(transparent)]
    User(#[from] UserIdError),
    /// Neither a number nor a string.
    #[error("accountId is neither a number nor a string of digits")]
    AccountType,
    /// A fraction or an exponent: 1.5, and 5150705.0 too, which no writer of integers writes.
    #[error("accountId is not a whole number")]
    AccountNotWhole,
    /// Zero or less.
    #[error("accountId is not positive")]
    AccountNotPositive,
    /// Above the largest signed 64-bit number.
    #[error("accountId does not fit 64 bits")]
    AccountTooLarge,
    /// It could be any of 40 moments.
    #[error("issuedAt has no offset from UTC")]
    TimeWithoutOffset,
    /// No such time, or not in the years 0 to 9999 of UTC.
    #[error("issuedAt is not an RFC 3339 time")]
    Time,
    /// Not 8-4-4-4-12 hexadecimal digits.
    #[error("id is not a UUID")]
    Id,
}

impl Command {
    /// Reads the body of a message.
    ///
    /// # Errors
    /// When it breaks a rule of the contract; the first one found is named.
    pub fn parse(body: &[u8]) -> Result<Self, CommandError> {
        if body.len() > BODY_BYTES_MAX {
            return Err(CommandError::TooLong);
        }
        let text = std::str::from_utf8(body).map_err(|_| CommandError::NotUtf8)?;
        let fields: Fields = serde_json::from_str(text).map_err(|err| match err.classify() {
            Category::Data => CommandError::NotAnObject,
            Category::Syntax | Category::Eof | Category::Io => CommandError::NotJson,
        })?;
        if let Some(name) = fields.duplicate {
            return Err(CommandError::Duplicate(name));
        }
        let id = string(fields.id, "id")?;
        let kind = string(fields.command, "command")?;
        let user = string(fields.user, "userId")?;
        let issued_at = string(fields.issued_at, "issuedAt")?;
        Ok(Self {
            id: parse_id(&id)?,
            kind: match kind.as_str() {
                "start" => CommandKind::Start,
                "stop" => CommandKind::Stop,
                _ => return Err(CommandError::UnknownCommand),
            },
            user: UserId::new(user)?,
            account: parse_account(fields.account)?,
            issued_at: parse_time(&issued_at)?,
        })
    }

    /// The body of a message, as the golden files have it.
    ///
    /// # Panics
    /// Never: `issued_at` is in the years that RFC 3339 can write, for every command that was
    /// parsed or issued by a clock.
    #[must_use]
    pub fn to_json(&self) -> String {
        let json = CommandJson {
            id: self.id,
            command: self.kind.as_str(),
            user_id: self.user.as_str(),
            account_id: self.account.map(|account| account.0),
            issued_at: self
                .issued_at
                .to_offset(UtcOffset::UTC)
                .format(ISSUED_AT)
                .expect("the format has only parts that a time with an offset has"),
        };
        serde_json::to_string(&json).expect("strings and numbers are JSON")
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CommandJson<'a> {
    id: Uuid,
    command: &'a str,
    user_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    account_id: Option<i64>,
    issued_at: String,
}

/// The known fields as they were written, and the first of them that was written twice.
#[derive(Default)]
struct Fields {
    id: Option<Value>,
    command: Option<Value>,
    user: Option<Value>,
    account: Option<Value>,
    issued_at: Option<Value>,
    duplicate: Option<&'static str>,
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let mut fields = Fields::default();
        while let Some(key) = map.next_key::<String>()? {
            let (name, field) = match key.as_str() {
                "id" => ("id", &mut fields.id),
                "command" => ("command", &mut fields.command),
                "userId" => ("userId", &mut fields.user),
                "accountId" => ("accountId", &mut fields.account),
                "issuedAt" => ("issuedAt", &mut fields.issued_at),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            if field.replace(map.next_value()?).is_some() {
                fields.duplicate.get_or_insert(name);
            }
        }
        Ok(fields)
    }
}

fn string(value: Option<Value>, name: &'static str) -> Result<String, CommandError> {
    match value {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(CommandError::NotAString(name)),
        None => Err(CommandError::Missing(name)),
    }
}

/// Only the hyphenated form: it is also the `message_id`, and one id has one spelling.
fn parse_id(text: &str) -> Result<Uuid, CommandError> {
    text.parse::<uuid::fmt::Hyphenated>()
        .map(uuid::fmt::Hyphenated::into_uuid)
        .map_err(|_| CommandError::Id)
}

fn parse_account(value: Option<Value>) -> Result<Option<AccountId>, CommandError> {
    let account = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Number(number)) => {
            if let Some(account) = number.as_i64() {
                account
            } else if number.is_u64() {
                return Err(CommandError::AccountTooLarge);
            } else {
                // A double: a fraction, an exponent, or digits beyond 64 bits. 2^63 is exact.
                let double = number.as_f64().unwrap_or(f64::NAN);
                return Err(if double.abs() >= 9_223_372_036_854_775_808.0 {
                    CommandError::AccountTooLarge
                } else {
                    CommandError::AccountNotWhole
                });
            }
        }
        Some(Value::String(text)) => {
            if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(CommandError::AccountType);
            }
            text.parse().map_err(|_| CommandError::AccountTooLarge)?
        }
        Some(Value::Bool(_) | Value::Array(_) | Value::Object(_)) => {
            return Err(CommandError::AccountType);
        }
    };
    if account > 0 {
        Ok(Some(AccountId(account)))
    } else {
        Err(CommandError::AccountNotPositive)
    }
}

fn parse_time(text: &str) -> Result<OffsetDateTime, CommandError> {
    let Ok(time) = OffsetDateTime::parse(text, &Rfc3339) else {
        let in_utc = OffsetDateTime::parse(&format!("{text}Z"), &Rfc3339);
        return Err(if in_utc.is_ok() {
            CommandError::TimeWithoutOffset
        } else {
            CommandError::Time
        });
    };
    time.checked_to_offset(UtcOffset::UTC)
        .filter(|time| (0..=9999).contains(&time.year()))
        .and_then(|time| time.replace_microsecond(time.microsecond()).ok())
        .ok_or(CommandError::Time)
}

#[cfg(test)]
mod tests;
