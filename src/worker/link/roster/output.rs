//! What a roster hands to its link: status updates, live sessions, deferred deals and requests for credentials.
//! Plain values.

use crate::domain::deal::{Deal, Source};
use crate::domain::fence::Fence;
use crate::domain::ids::{AccountId, SessionKey};
use crate::domain::row::SessionState;
use crate::domain::secret::Secret;

/// A live session, for the link's write rounds.
pub(in crate::worker) struct LiveSession<'a> {
    pub(in crate::worker) fence: &'a Fence,
    pub(in crate::worker) account: AccountId,
    /// Its row must be written whole.
    pub(in crate::worker) row_due: bool,
    pub(in crate::worker) state: SessionState,
}

/// A deal that came while its session stood by, with the fence under which it may be written now.
#[derive(Debug)]
pub(in crate::worker) struct DeferredDeal {
    pub(in crate::worker) fence: Fence,
    pub(in crate::worker) source: Source,
    pub(in crate::worker) deal: Deal,
}

/// A session needs other credentials than the ones that it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::worker) enum CredentialRequest {
    /// cTrader ended the session because of its token. The stored credentials may have changed: read them.
    Reload(SessionKey),
    /// cTrader refused this token. Refresh it, unless a newer one is stored.
    Refresh(SessionKey, Secret),
}
