//! Identifiers. cTrader's numbers are signed 64-bit and unique in a scope each names;
//! a user is the app's own string and never appears in a public table, a metric or a health response.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

macro_rules! numeric_id {
    ($($(#[$doc:meta])* $name:ident)+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub i64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )+};
}

numeric_id! {
    /// `ctidTraderAccountId`: a trading account, unique over all of cTrader.
    AccountId
    /// `positionId`: unique per broker server only.
    PositionId
    /// `orderId`: unique per broker server only.
    OrderId
    /// `dealId`: unique per broker server only.
    DealId
    /// `symbolId`: differs between broker servers.
    SymbolId
    /// `assetId`: differs between broker servers.
    AssetId
}

/// How many slots users are hashed to; `bridge.slots` has a row for each.
pub const SLOT_COUNT: u32 = 1024;

/// The unit of claiming: every session of a user belongs to the slot of that user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub i32);

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The app's id of a user: a mail address or a UUID, 1 to 320 characters, none of them NUL.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
// Shared: every row, fence and map of a session has it.
pub struct UserId(Arc<str>);

/// The longest user id, in characters (a mail address has at most 64 + 1 + 255).
pub const USER_ID_CHARS_MAX: usize = 320;

/// Why a string is no user id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UserIdError {
    /// It has no characters.
    #[error("userId is empty")]
    Empty,
    /// It is longer than [`USER_ID_CHARS_MAX`].
    #[error("userId has more than {USER_ID_CHARS_MAX} characters")]
    TooLong,
    /// Postgres text cannot hold U+0000.
    #[error("userId contains a NUL character")]
    Nul,
}

impl UserId {
    /// Checks and takes over an id.
    ///
    /// # Errors
    /// When the id is empty, too long, or has a character that Postgres cannot store.
    pub fn new(id: impl Into<String>) -> Result<Self, UserIdError> {
        let id = id.into();
        if id.is_empty() {
            Err(UserIdError::Empty)
        } else if id.contains('\0') {
            Err(UserIdError::Nul)
        } else if id.chars().nth(USER_ID_CHARS_MAX).is_some() {
            Err(UserIdError::TooLong)
        } else {
            Ok(Self(id.into()))
        }
    }

    /// The id as the app knows it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What public tables have instead of the id: lower-case hex SHA-256 of it.
    #[must_use]
    pub fn key(&self) -> String {
        hex::encode(self.digest())
    }

    /// The slot of this user: the first four bytes of the same digest, big-endian, modulo
    /// [`SLOT_COUNT`]. `bridge.slot_of` in the migrations computes the same.
    #[must_use]
    pub fn slot(&self) -> Slot {
        let [a, b, c, d, ..] = self.digest();
        let slot = u32::from_be_bytes([a, b, c, d]) % SLOT_COUNT;
        Slot(i32::try_from(slot).expect("below 1024"))
    }

    fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }
}

impl TryFrom<String> for UserId {
    type Error = UserIdError;

    fn try_from(id: String) -> Result<Self, Self::Error> {
        Self::new(id)
    }
}

impl From<UserId> for String {
    fn from(id: UserId) -> Self {
        id.0.as_ref().to_owned()
    }
}

/// Logs show who a line is about without naming them: the first characters of [`UserId::key`].
impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key();
        f.write_str(key.get(..12).unwrap_or(&key))
    }
}

/// One user's use of one account: what is started, streamed and stopped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey {
    /// Whose session.
    pub user: UserId,
    /// Which account; [`SessionKey::PRIMARY`] while the user's primary account is not known.
    pub account: AccountId,
}

impl SessionKey {
    /// Stands for "the user's primary account" until credentials tell which one that is.
    pub const PRIMARY: AccountId = AccountId(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_key_is_the_hex_sha256_of_the_id() {
        let user = UserId::new("abc").expect("valid");
        assert_eq!(
            user.key(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(
            user.slot(),
            Slot(0xba78_16bf_u32.cast_signed().rem_euclid(1024))
        );
    }

    #[test]
    fn ids_that_postgres_or_the_contract_refuse_are_errors() {
        assert_eq!(UserId::new(""), Err(UserIdError::Empty));
        assert_eq!(UserId::new("a\0b"), Err(UserIdError::Nul));
        assert_eq!(UserId::new("ä".repeat(321)), Err(UserIdError::TooLong));
        assert!(UserId::new("ä".repeat(320)).is_ok());
    }
}
