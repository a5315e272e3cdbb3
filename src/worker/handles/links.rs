//! Which link carries which session.

use std::hash::{DefaultHasher, Hash, Hasher};

use tokio::sync::mpsc;

use crate::domain::secret::Secret;
use crate::worker::link::LinkCommand;

/// All links, by environment.
#[derive(Debug, Clone, Default)]
pub(in crate::worker) struct Links {
    pub(in crate::worker) demo: Vec<mpsc::Sender<LinkCommand>>,
    pub(in crate::worker) live: Vec<mpsc::Sender<LinkCommand>>,
}

impl Links {
    /// All of them, demo first: an index into this is a link's number.
    pub(in crate::worker) fn all(&self) -> Vec<mpsc::Sender<LinkCommand>> {
        self.demo.iter().chain(&self.live).cloned().collect()
    }

    /// The link of a token.
    pub(in crate::worker) fn of_token(
        &self,
        is_live: bool,
        token: &Secret,
    ) -> mpsc::Sender<LinkCommand> {
        let at = self.of(is_live, token);
        let links = self.demo.iter().chain(&self.live);
        links.clone().nth(at).cloned().unwrap_or_else(closed)
    }

    /// The number of a token's link: accounts of one grant stay together, since its events hit all of them.
    pub(in crate::worker) fn of(&self, is_live: bool, token: &Secret) -> usize {
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
