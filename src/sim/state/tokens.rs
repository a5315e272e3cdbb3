//! Access and refresh tokens: the accounts they cover, when they expire, and that a refresh token works once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Lifetime of an access token after a refresh: thirty days.
pub const ACCESS_TOKEN_LIFETIME: Duration = Duration::from_hours(30 * 24);

/// What one cTID has granted: a pair of tokens and the accounts that it covers.
#[derive(Clone, Debug)]
pub(crate) struct TokenGrant {
    pub(crate) access: String,
    pub(crate) refresh: String,
    pub(crate) accounts: BTreeSet<i64>,
    pub(crate) expires: Option<Instant>,
    pub(crate) trade: bool,
    pub(crate) revoked: bool,
    generation: u64,
}

/// Whether an access token is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenStatus {
    /// Valid, by the grant of this number.
    Valid(usize),
    Expired,
    Unknown,
}

/// All grants.
#[derive(Debug, Default)]
pub(crate) struct TokenGrants {
    all: Vec<TokenGrant>,
    access: BTreeMap<String, usize>,
    refresh: BTreeMap<String, usize>,
}

impl TokenGrants {
    /// Returns the grant of an access token, and makes it if it is new. Its refresh token is `refresh-` + the
    /// token.
    pub(crate) fn ensure(&mut self, token: &str) -> &mut TokenGrant {
        let fresh = self.all.len();
        let index = *self.access.entry(token.to_owned()).or_insert(fresh);
        if index == fresh {
            let refresh = format!("refresh-{token}");
            self.refresh.insert(refresh.clone(), index);
            self.all.push(TokenGrant {
                access: token.to_owned(),
                refresh,
                accounts: BTreeSet::new(),
                expires: None,
                trade: true,
                revoked: false,
                generation: 0,
            });
        }
        self.all
            .get_mut(index)
            .expect("the index of an access token is that of its grant")
    }

    pub(crate) fn get(&self, index: usize) -> Option<&TokenGrant> {
        self.all.get(index)
    }

    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut TokenGrant> {
        self.all.get_mut(index)
    }

    pub(crate) fn by_access(&self, token: &str) -> Option<usize> {
        self.access.get(token).copied()
    }

    pub(crate) fn status(&self, token: &str, now: Instant) -> TokenStatus {
        let Some((index, grant)) = self
            .by_access(token)
            .and_then(|index| Some((index, self.get(index)?)))
        else {
            return TokenStatus::Unknown;
        };
        if grant.revoked {
            TokenStatus::Unknown
        } else if grant.expires.is_some_and(|end| now >= end) {
            TokenStatus::Expired
        } else {
            TokenStatus::Valid(index)
        }
    }

    /// Spends a refresh token: a new pair replaces the old one. Returns the grant's number, or `None` if the
    /// token was not valid.
    pub(crate) fn rotate(&mut self, refresh: &str, now: Instant) -> Option<usize> {
        let index = *self.refresh.get(refresh)?;
        let grant = self.all.get_mut(index)?;
        if grant.revoked {
            return None;
        }
        self.refresh.remove(refresh);
        self.access.remove(&grant.access);
        grant.generation += 1;
        let stem = grant
            .access
            .split('~')
            .next()
            .unwrap_or_default()
            .to_owned();
        grant.access = format!("{stem}~{}", grant.generation);
        grant.refresh = format!("refresh-{}", grant.access);
        grant.expires = Some(now + ACCESS_TOKEN_LIFETIME);
        self.access.insert(grant.access.clone(), index);
        self.refresh.insert(grant.refresh.clone(), index);
        Some(index)
    }

    pub(crate) fn of_account(&self, account: i64) -> Vec<usize> {
        self.all
            .iter()
            .enumerate()
            .filter(|(_, grant)| grant.accounts.contains(&account))
            .map(|(i, _)| i)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refresh_token_works_once_and_kills_the_old_pair() {
        let now = Instant::now();
        let mut grants = TokenGrants::default();
        grants.ensure("t").accounts.insert(7);
        assert_eq!(grants.status("t", now), TokenStatus::Valid(0));
        assert_eq!(grants.rotate("refresh-t", now), Some(0));
        assert_eq!(grants.rotate("refresh-t", now), None);
        assert_eq!(grants.status("t", now), TokenStatus::Unknown);
        let next = grants
            .get(0)
            .map(|grant| grant.access.clone())
            .expect("a grant");
        assert_eq!(grants.status(&next, now), TokenStatus::Valid(0));
        assert_eq!(
            grants.status(&next, now + ACCESS_TOKEN_LIFETIME),
            TokenStatus::Expired
        );
    }
}
