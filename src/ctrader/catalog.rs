//! What is the same for all accounts of one broker on one connection: assets, symbols and
//! conversion chains. Asked once, through whichever account needs it first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::ask::Need;
use super::convert;
use super::wire::{ProtoOaAsset, ProtoOaLightSymbol, ProtoOaSymbol};
use crate::domain::ids::{AssetId, SymbolId};
use crate::domain::market::{Chain, Symbol};

/// What a catalog has of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lookup<T> {
    /// The broker was not asked, or has not answered yet.
    Pending,
    /// The broker was asked, and has no such thing.
    Absent,
    /// The broker has this.
    Found(T),
}

impl<T> Lookup<T> {
    #[expect(
        clippy::option_option,
        reason = "this is where the two meanings get their names"
    )]
    fn of(entry: Option<Option<T>>) -> Self {
        match entry {
            None => Self::Pending,
            Some(None) => Self::Absent,
            Some(Some(value)) => Self::Found(value),
        }
    }
}

/// One broker's static data.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    assets: Option<BTreeMap<AssetId, Arc<str>>>,
    list: Option<BTreeMap<SymbolId, ProtoOaLightSymbol>>,
    /// `None`: the broker was asked and does not tell.
    symbols: BTreeMap<SymbolId, Option<Arc<Symbol>>>,
    /// `None`: no chain leads there.
    chains: BTreeMap<(AssetId, AssetId), Option<Arc<Chain>>>,
    asked: BTreeSet<Need>,
    /// Symbols for which the list was asked again.
    relisted: BTreeSet<SymbolId>,
}

impl Catalog {
    /// Name of an asset.
    pub(super) fn asset(&self, id: AssetId) -> Lookup<&Arc<str>> {
        Lookup::of(self.assets.as_ref().map(|assets| assets.get(&id)))
    }

    /// A symbol.
    pub(super) fn symbol(&self, id: SymbolId) -> Lookup<&Arc<Symbol>> {
        Lookup::of(self.symbols.get(&id).map(Option::as_ref))
    }

    /// A chain.
    pub(super) fn chain(&self, from: AssetId, to: AssetId) -> Lookup<&Arc<Chain>> {
        Lookup::of(self.chains.get(&(from, to)).map(Option::as_ref))
    }

    /// Returns what must be asked for these symbols in an account kept in `deposit`, beyond what is known
    /// and what is on its way. It counts as on its way from then on.
    pub(super) fn ask_for(&mut self, wanted: &BTreeSet<SymbolId>, deposit: AssetId) -> Vec<Need> {
        let mut needs = Vec::new();
        if self.assets.is_none() {
            needs.push(Need::Assets);
        }
        if self.list.is_none() && !wanted.is_empty() {
            needs.push(Need::SymbolList);
        }
        let pending: BTreeSet<SymbolId> = self
            .asked
            .iter()
            .filter_map(|need| {
                if let Need::Symbols(ids) = need {
                    Some(ids)
                } else {
                    None
                }
            })
            .flatten()
            .copied()
            .collect();
        let unknown: BTreeSet<SymbolId> = wanted
            .iter()
            .filter(|id| !self.symbols.contains_key(id) && !pending.contains(id))
            .copied()
            .collect();
        // Details are useless without the list: names and assets are there.
        if !unknown.is_empty() && self.list.is_some() {
            needs.push(Need::Symbols(unknown));
        }
        for quote in self.quote_assets(wanted) {
            if quote != deposit && !self.chains.contains_key(&(quote, deposit)) {
                needs.push(Need::Chain(quote, deposit));
            }
        }
        needs.retain(|need| self.asked.insert(need.clone()));
        needs
    }

    fn quote_assets(&self, wanted: &BTreeSet<SymbolId>) -> BTreeSet<AssetId> {
        let known = wanted
            .iter()
            .filter_map(|id| self.symbols.get(id)?.as_ref());
        known.map(|symbol| symbol.quote).collect()
    }

    /// Forgets a request that failed, or whose account left: another account may ask again.
    pub(super) fn forget(&mut self, need: &Need) {
        self.asked.remove(need);
    }

    /// Cuts a request for several symbols that was refused into one for each: one id may be the reason.
    pub(super) fn split(&mut self, asked: &BTreeSet<SymbolId>) -> Vec<Need> {
        self.forget(&Need::Symbols(asked.clone()));
        let singles: Vec<Need> = asked
            .iter()
            .map(|id| Need::Symbols(BTreeSet::from([*id])))
            .collect();
        self.asked.extend(singles.iter().cloned());
        singles
    }

    /// Forgets all requests that are on their way: an account left, and others ask again for what they need.
    /// At worst something is asked twice.
    pub(super) fn forget_all(&mut self) {
        self.asked.clear();
    }

    pub(super) fn set_assets(&mut self, assets: Vec<ProtoOaAsset>) {
        self.forget(&Need::Assets);
        self.assets = Some(
            assets
                .into_iter()
                .map(|asset| (AssetId(asset.asset_id), asset.name.into()))
                .collect(),
        );
    }

    pub(super) fn set_list(&mut self, symbols: Vec<ProtoOaLightSymbol>) {
        self.forget(&Need::SymbolList);
        self.list = Some(
            symbols
                .into_iter()
                .map(|symbol| (SymbolId(symbol.symbol_id), symbol))
                .collect(),
        );
    }

    pub(super) fn set_symbols(&mut self, asked: &BTreeSet<SymbolId>, details: &[ProtoOaSymbol]) {
        self.forget(&Need::Symbols(asked.clone()));
        let mut relist = false;
        for id in asked {
            let full = details.iter().find(|full| full.symbol_id == id.0);
            let light = self.list.as_ref().and_then(|list| list.get(id));
            // Newer than the list, or hidden from the account that asked for it: the list is asked for again, once.
            if full.is_some() && light.is_none() && self.relisted.insert(*id) {
                relist = true;
                continue;
            }
            let symbol = light
                .zip(full)
                .and_then(|(light, full)| convert::symbol(light, full).ok());
            self.symbols.insert(*id, symbol.map(Arc::new));
        }
        if relist {
            self.list = None;
        }
    }

    pub(super) fn set_chain(&mut self, from: AssetId, to: AssetId, symbols: &[ProtoOaLightSymbol]) {
        self.forget(&Need::Chain(from, to));
        let steps = symbols.iter().map(|symbol| {
            let (base, quote) = (symbol.base_asset_id(), symbol.quote_asset_id());
            (SymbolId(symbol.symbol_id), AssetId(base), AssetId(quote))
        });
        self.chains
            .insert((from, to), Chain::new(from, to, steps).ok().map(Arc::new));
    }

    /// Forgets a symbol that the broker changed, and the chains that convert by it: they are asked for again.
    pub(super) fn forget_symbol(&mut self, id: SymbolId) {
        self.symbols.remove(&id);
        self.chains.retain(|_, chain| {
            chain
                .as_ref()
                .is_some_and(|chain| chain.symbols().all(|symbol| symbol != id))
        });
    }
}
