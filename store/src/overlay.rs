//! Changes that lie over a state: those a request made, those of its group, or, while a group is being written, what
//! was there before it. Pure.

use std::collections::BTreeMap;

use crate::engine::{Pair, Span};

/// Per table and key a value, or that there is none.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    tables: BTreeMap<&'static str, BTreeMap<Vec<u8>, Option<Vec<u8>>>>,
    bytes: usize,
}

/// What one change costs besides its key and value, when a group is measured.
const ENTRY_BYTES: usize = 32;

impl Overlay {
    /// What this overlay says of `key`: nothing, that it is absent, or its value.
    pub(crate) fn get(&self, table: &'static str, key: &[u8]) -> Option<Option<&[u8]>> {
        self.tables.get(table)?.get(key).map(Option::as_deref)
    }

    /// Says that `key` has `value`, or is absent.
    pub(crate) fn set(&mut self, table: &'static str, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.bytes += entry_bytes(&key, value.as_ref());
        self.tables.entry(table).or_default().insert(key, value);
    }

    /// Lays `newer` over this one.
    pub(crate) fn absorb(&mut self, newer: Self) {
        self.bytes += newer.bytes;
        for (table, entries) in newer.tables {
            self.tables.entry(table).or_default().extend(entries);
        }
    }

    /// Whether it says nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// The size of everything that was set.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What it says, in order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'static str, &[u8], Option<&[u8]>)> {
        self.tables
            .iter()
            .flat_map(|(table, entries)| entries.iter().map(|(key, value)| (*table, key.as_slice(), value.as_deref())))
    }
}

/// What a change of this size counts in [`Overlay::bytes`].
pub(crate) fn entry_bytes(key: &[u8], value: Option<&Vec<u8>>) -> usize {
    key.len() + value.map_or(0, Vec::len) + ENTRY_BYTES
}

/// The first `limit` pairs of `span` in the state that `overlays`, the oldest first, make of what `below` reads.
pub(crate) fn scan_over<E>(
    overlays: &[&Overlay],
    table: &'static str,
    span: &Span,
    limit: usize,
    mut below: impl FnMut(&Span, usize) -> Result<Vec<Pair>, E>,
) -> Result<Vec<Pair>, E> {
    if limit == 0 || span.is_empty() {
        return Ok(Vec::new());
    }
    let mut changes = BTreeMap::new();
    for entries in overlays.iter().filter_map(|overlay| overlay.tables.get(table)) {
        changes.extend(entries.range::<[u8], _>(span.bounds()));
    }
    let mut changes = changes.into_iter().peekable();
    let mut found: Vec<Pair> = Vec::new();
    let mut rest = span.clone();
    loop {
        let wanted = limit - found.len();
        let page = below(&rest, wanted)?;
        // A full page may have more behind it; changes that lie there must wait for it.
        let last = if page.len() < wanted { None } else { page.last().map(|(key, _)| key.clone()) };
        for (key, value) in page {
            while let Some((changed, new)) = changes.next_if(|(changed, _)| **changed < key) {
                found.extend(new.clone().map(|new| (changed.clone(), new)));
            }
            match changes.next_if(|(changed, _)| **changed == key) {
                Some((_, new)) => found.extend(new.clone().map(|new| (key, new))),
                None => found.push((key, value)),
            }
            if found.len() >= limit {
                found.truncate(limit);
                return Ok(found);
            }
        }
        match last {
            Some(key) => rest = rest.behind(&key),
            None => break,
        }
    }
    for (key, new) in changes {
        if found.len() == limit {
            break;
        }
        found.extend(new.clone().map(|new| (key.clone(), new)));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::ops::Bound;

    use proptest::collection::{btree_map, vec};
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    fn key() -> impl Strategy<Value = Vec<u8>> {
        vec(prop_oneof![Just(0), Just(1), Just(255)], 0..4)
    }

    fn value() -> impl Strategy<Value = Vec<u8>> {
        vec(any::<u8>(), 0..3)
    }

    proptest! {
        /// However many overlays there are and wherever the pages end: what is read is what a map would hold.
        #[test]
        fn overlays_read_like_one_map(
            base in btree_map(key(), value(), 0..30),
            changes in vec(btree_map(key(), option::of(value()), 0..12), 0..4),
            prefix in vec(prop_oneof![Just(0), Just(255)], 0..2),
            after in option::of(key()),
            limit in prop_oneof![0_usize..8, Just(usize::MAX)],
            page in 1_usize..5,
        ) {
            let mut whole = base.clone();
            let mut overlays = Vec::new();
            for changes in changes {
                let mut overlay = Overlay::default();
                for (key, value) in changes {
                    match &value {
                        Some(value) => drop(whole.insert(key.clone(), value.clone())),
                        None => drop(whole.remove(&key)),
                    }
                    overlay.set("t", key, value);
                }
                overlays.push(overlay);
            }
            let mut span = Span::prefix(&prefix);
            if let Some(after) = &after {
                span = span.behind(after);
            }
            let inside = |key: &Vec<u8>| key.starts_with(&prefix) && after.as_ref().is_none_or(|after| key > after);
            let expected: Vec<Pair> = whole.iter().filter(|(key, _)| inside(key)).take(limit).map(|(k, v)| (k.clone(), v.clone())).collect();

            let below = |span: &Span, limit: usize| -> Result<Vec<Pair>, Infallible> {
                if span.is_empty() {
                    return Ok(Vec::new());
                }
                Ok(base.range::<[u8], _>(span.bounds()).take(limit).map(|(k, v)| (k.clone(), v.clone())).collect())
            };
            let layers: Vec<_> = overlays.iter().collect();
            let found = scan_over(&layers, "t", &span, limit, below).unwrap();
            prop_assert_eq!(&found, &expected);

            // The same again page by page.
            let (mut paged, mut rest) = (Vec::new(), span);
            while paged.len() < expected.len() {
                let part = scan_over(&layers, "t", &rest, page, below).unwrap();
                let Some((last, _)) = part.last() else { break };
                rest = rest.behind(last);
                paged.extend(part);
            }
            paged.truncate(expected.len());
            prop_assert_eq!(paged, expected);

            // One overlay that absorbed all says the same as their pile.
            let mut one = Overlay::default();
            for overlay in overlays {
                one.absorb(overlay);
            }
            let all = Span { from: Bound::Unbounded, to: Bound::Unbounded };
            let found = scan_over(&[&one], "t", &all, usize::MAX, below).unwrap();
            prop_assert_eq!(found, whole.into_iter().collect::<Vec<_>>());
        }
    }
}
