//! Which link carries which session.

use std::hash::{DefaultHasher, Hash, Hasher};

use tokio::sync::mpsc;

use super::link::LinkCommand;
use crate::domain::secret::Secret;

/// All links, by environment.
#[derive(Debug, Clone, Default)]
pub(super) struct Links {
    pub(super) demo: Vec<mpsc::Sender<LinkCommand>>,
    pub(super) live: Vec<mpsc::Sender<LinkCommand>>,
}

impl Links {
    /// All of them, demo first: an index into this is a link's number.
    pub(super) fn all(&self) -> Vec<mpsc::Sender<LinkCommand>> {
        self.demo.iter().chain(&self.live).cloned().collect()
    }

    /// The link of a token.
    pub(super) fn of_token(&self, is_live: bool, token: &Secret) -> mpsc::Sender<LinkCommand> {
        let at = self.of(is_live, token);
        let links = self.demo.iter().chain(&self.live);
        links.clone().nth(at).cloned().unwrap_or_else(closed)
    }

    /// The number of a token's link: accounts of one grant stay together, since its events hit all of them.
    pub(super) fn of(&self, is_live: bool, token: &Secret) -> usize {
        let (before, links) = if is_live {
            (self.demo.len(), &self.live)
        } else {
            (0, &self.demo)
        };
        let mut hasher = DefaultHasher::new();
        token.expose().hash(&mut hasher);
        let spread = usize::try_from(hasher.finish() % links.len().max(1) as u64).unwrap_or(0);
        before + spread
    }
}

/// A link that takes nothing.
fn closed() -> mpsc::Sender<LinkCommand> {
    mpsc::channel(1).0
}
