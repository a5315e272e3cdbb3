//! Opens and seals stored tokens. A stored token is plain, or `enc:v1:` + base64(12-byte nonce ‖ AES-256-GCM ciphertext ‖ tag) with
//! the user's id as associated data, so that one user's token opens in no other user's row.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::domain::ids::UserId;
use crate::domain::secret::Secret;

/// What an encrypted token begins with.
const PREFIX: &str = "enc:v1:";

/// What every encrypted token begins with, whatever its version.
const ANY_PREFIX: &str = "enc:";

/// Length of the key, in bytes.
pub const KEY_BYTES: usize = 32;

/// Why a stored token cannot be used. The text is fit to show a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is encrypted, and this worker has no key.
    #[error("the stored authorisation is encrypted and this worker has no key")]
    NoKey,
    /// It was encrypted with another key, for another user, or is damaged.
    #[error("the stored authorisation cannot be decrypted: connect cTrader again")]
    Undecryptable,
    /// It could not be encrypted.
    #[error("the authorisation cannot be encrypted")]
    EncryptionFailed,
}

/// Encrypts and decrypts stored tokens. Its `Debug` shows no key.
#[derive(Clone, Default)]
pub struct TokenCipher(Option<Arc<LessSafeKey>>);

impl TokenCipher {
    /// A cipher with a key, or without: then only plain tokens can be opened, and tokens are stored plain.
    #[must_use]
    pub fn new(key: Option<&[u8; KEY_BYTES]>) -> Self {
        let key = key.and_then(|bytes| UnboundKey::new(&AES_256_GCM, bytes).ok());
        Self(key.map(|key| Arc::new(LessSafeKey::new(key))))
    }

    /// Returns the token itself.
    ///
    /// # Errors
    /// When it is encrypted and does not open.
    pub fn open(&self, user: &UserId, stored: &Secret) -> Result<Secret, TokenError> {
        self.open_for(user.as_str(), stored)
    }

    /// Returns the token itself, which was sealed with this associated data.
    ///
    /// # Errors
    /// When it is encrypted and does not open.
    pub fn open_for(&self, associated: &str, stored: &Secret) -> Result<Secret, TokenError> {
        let Some(sealed) = stored.expose().strip_prefix(PREFIX) else {
            return if stored.expose().starts_with(ANY_PREFIX) {
                Err(TokenError::Undecryptable)
            } else {
                Ok(stored.clone())
            };
        };
        let key = self.0.as_ref().ok_or(TokenError::NoKey)?;
        let sealed = STANDARD
            .decode(sealed)
            .map_err(|_| TokenError::Undecryptable)?;
        let (nonce, sealed) = sealed
            .split_first_chunk::<NONCE_LEN>()
            .ok_or(TokenError::Undecryptable)?;
        let mut token = sealed.to_vec();
        let opened = key
            .open_in_place(
                Nonce::assume_unique_for_key(*nonce),
                Aad::from(associated),
                &mut token,
            )
            .map_err(|_| TokenError::Undecryptable)?;
        let text = std::str::from_utf8(opened).map_err(|_| TokenError::Undecryptable)?;
        Ok(Secret::new(text))
    }

    /// Returns the token as it is stored for a user: sealed, if there is a key.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn seal(&self, user: &UserId, token: &Secret) -> Result<Secret, TokenError> {
        self.seal_for(user.as_str(), token)
    }

    /// Returns the token as it is stored with this associated data: sealed, if there is a key.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn seal_for(&self, associated: &str, token: &Secret) -> Result<Secret, TokenError> {
        let Some(key) = &self.0 else {
            return Ok(token.clone());
        };
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new()
            .fill(&mut nonce)
            .map_err(|_| TokenError::EncryptionFailed)?;
        let mut sealed = token.expose().as_bytes().to_vec();
        key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(associated),
            &mut sealed,
        )
        .map_err(|_| TokenError::EncryptionFailed)?;
        let text = STANDARD.encode([&nonce[..], &sealed].concat());
        Ok(Secret::new(format!("{PREFIX}{text}")))
    }
}

impl fmt::Debug for TokenCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "[redacted]"
        } else {
            "none"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with Python's `cryptography`: AESGCM(bytes(range(32))).encrypt(bytes(range(12)),
    /// b"access-1", b"lance@example.org").
    const SEALED: &str = "enc:v1:AAECAwQFBgcICQoLJmG1fraW7yp8q5GLPwraWXeKixRL4jMl";

    fn key() -> [u8; KEY_BYTES] {
        std::array::from_fn(|at| u8::try_from(at).expect("below 32"))
    }

    fn user(id: &str) -> UserId {
        UserId::new(id).expect("valid")
    }

    #[test]
    fn a_token_sealed_elsewhere_opens_for_its_user_alone() {
        let keyed = TokenCipher::new(Some(&key()));
        let sealed = Secret::new(SEALED);
        assert_eq!(
            keyed.open(&user("lance@example.org"), &sealed),
            Ok(Secret::new("access-1"))
        );
        assert_eq!(
            keyed.open(&user("other@example.org"), &sealed),
            Err(TokenError::Undecryptable)
        );
        let other = TokenCipher::new(Some(&[7; KEY_BYTES]));
        assert_eq!(
            other.open(&user("lance@example.org"), &sealed),
            Err(TokenError::Undecryptable)
        );
        assert_eq!(
            TokenCipher::new(None).open(&user("lance@example.org"), &sealed),
            Err(TokenError::NoKey)
        );
    }

    #[test]
    fn a_plain_token_is_what_it_is_and_a_damaged_one_is_an_error() {
        let keyed = TokenCipher::new(Some(&key()));
        let plain = Secret::new("plain");
        assert_eq!(keyed.open(&user("u"), &plain), Ok(plain));
        // Also one that a later release has encrypted: it must not reach cTrader as if it were a token.
        for damaged in [
            "enc:v1:",
            "enc:v1:%%%",
            "enc:v1:AAAA",
            "enc:v2:AAAA",
            "enc:v9:AAAA",
            "enc:",
        ] {
            assert_eq!(
                keyed.open(&user("u"), &Secret::new(damaged)),
                Err(TokenError::Undecryptable),
                "{damaged}"
            );
        }
    }

    #[test]
    fn what_is_sealed_opens_again_for_the_same_user_alone() {
        let keyed = TokenCipher::new(Some(&key()));
        let token = Secret::new("access-2");
        let first = keyed.seal(&user("u"), &token).expect("sealed");
        let second = keyed.seal(&user("u"), &token).expect("sealed");
        assert_ne!(first, second, "never the same nonce");
        assert!(!first.expose().contains("access"));
        assert_eq!(keyed.open(&user("u"), &first), Ok(token.clone()));
        assert_eq!(
            keyed.open(&user("v"), &first),
            Err(TokenError::Undecryptable)
        );
        let keyless = TokenCipher::new(None);
        assert_eq!(keyless.seal(&user("u"), &token), Ok(token));
    }
}
