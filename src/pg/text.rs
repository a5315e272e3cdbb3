//! Texts as Postgres can store them.

use std::borrow::Cow;

/// The text without U+0000, which neither `text` nor `jsonb` can store: U+FFFD replaces it.
#[must_use]
pub(super) fn storable_text(text: &str) -> Cow<'_, str> {
    if text.contains('\0') {
        Cow::Owned(text.replace('\0', "\u{fffd}"))
    } else {
        Cow::Borrowed(text)
    }
}
