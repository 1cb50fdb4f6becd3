//! Who set which part of a container: two plugins that want the same part are in conflict.

use std::collections::BTreeMap;

use proto::nri::{CompoundFieldOwners, Field, FieldOwners};

/// Two plugins set the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("plugins {first:?} and {second:?} both tried to set {what}")]
pub(super) struct Conflict {
    /// Who set it first.
    pub(super) first: String,
    /// Who wanted to.
    pub(super) second: String,
    /// What it is.
    pub(super) what: String,
}

/// The owners of the parts of one container.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Owners(FieldOwners);

impl Owners {
    /// As the wire has them.
    pub(super) fn wire(&self) -> FieldOwners {
        self.0.clone()
    }

    /// `plugin` sets a part that has one value.
    pub(super) fn claim(&mut self, field: Field, plugin: &str) -> Result<(), Conflict> {
        claim(&mut self.0.simple, field as i32, plugin, || format!("{field:?}"))
    }

    /// `plugin` sets one entry of a part that has many.
    pub(super) fn claim_entry(&mut self, field: Field, key: &str, plugin: &str) -> Result<(), Conflict> {
        let CompoundFieldOwners { owners } = self.0.compound.entry(field as i32).or_default();
        claim(owners, key.to_owned(), plugin, || format!("{field:?} {key:?}"))
    }

    /// An entry was removed: whoever sets it next has it.
    pub(super) fn release_entry(&mut self, field: Field, key: &str) {
        if let Some(entries) = self.0.compound.get_mut(&(field as i32)) {
            entries.owners.remove(key);
        }
    }

    /// `plugin` adds to a part to which all may add.
    pub(super) fn share(&mut self, field: Field, plugin: &str) {
        let owners = self.0.simple.entry(field as i32).or_default();
        if !owners.is_empty() {
            owners.push(',');
        }
        owners.push_str(plugin);
    }
}

fn claim<K: Ord>(
    owners: &mut BTreeMap<K, String>,
    key: K,
    plugin: &str,
    what: impl Fn() -> String,
) -> Result<(), Conflict> {
    match owners.get(&key) {
        Some(first) if first != plugin => {
            Err(Conflict { first: first.clone(), second: plugin.to_owned(), what: what() })
        }
        Some(_) => Ok(()),
        None => {
            owners.insert(key, plugin.to_owned());
            Ok(())
        }
    }
}
