//! Update masks: which fields of an object an update touches (containerd's contract). Pure.
//!
//! A path is a field, or a field and a key into it: `labels`, `labels.<key>`. The key is everything after the first dot, since keys
//! contain dots themselves. What a path means for an object is decided where the object is known; here it is only read.

use std::collections::BTreeMap;

use model::error::{Classify, Kind};
use prost_types::FieldMask;

/// One path of a mask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// The field, in lower case without underscores: `labels`, `snapshotkey`.
    pub field: String,
    /// The key below the field, if the path goes deeper.
    pub key: Option<String>,
    /// The path as it was sent, for messages.
    pub sent: String,
}

/// A path that an object does not have, or that must not be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot update {path:?} field on {object:?}")]
pub struct UnknownPath {
    /// The path as it was sent.
    pub path: String,
    /// The name of the object.
    pub object: String,
}

impl Classify for UnknownPath {
    fn kind(&self) -> Kind {
        Kind::InvalidArgument
    }
}

impl Path {
    /// Reads one path.
    pub fn parse(sent: &str) -> Self {
        let (field, key) = match sent.split_once('.') {
            Some((field, key)) => (field, Some(key.to_owned())),
            None => (sent, None),
        };
        let field = field.chars().filter(|c| *c != '_').flat_map(char::to_lowercase).collect();
        Self { field, key, sent: sent.to_owned() }
    }

    /// The path in the form that a table of allowed paths matches: the field and the key.
    pub fn parts(&self) -> (&str, Option<&str>) {
        (&self.field, self.key.as_deref())
    }

    /// The error that says `object` has no such path.
    pub fn unknown(&self, object: impl Into<String>) -> UnknownPath {
        UnknownPath { path: self.sent.clone(), object: object.into() }
    }
}

/// The paths of a mask; `None` without a mask or with an empty one, which means "everything that may change".
pub fn paths(mask: Option<&FieldMask>) -> Option<Vec<Path>> {
    let mask = mask.filter(|mask| !mask.paths.is_empty())?;
    Some(mask.paths.iter().map(|path| Path::parse(path)).collect())
}

/// Changes `stored` as a path says: without a key it becomes `sent`; with a key only that entry does, and goes if `sent` has none.
pub fn replace<V: Clone>(stored: &mut BTreeMap<String, V>, sent: &BTreeMap<String, V>, key: Option<&str>) {
    match key {
        None => sent.clone_into(stored),
        Some(key) => match sent.get(key) {
            Some(value) => {
                stored.insert(key.to_owned(), value.clone());
            }
            None => {
                stored.remove(key);
            }
        },
    }
}

/// The labels after an update of an object that has nothing else to change (content, snapshots): without a mask the whole set
/// is replaced, `labels` and `labels.<key>` are the only paths, and an empty value removes its key.
///
/// # Errors
/// The mask names another field of `object`.
pub fn update_labels(
    object: &str,
    stored: &mut BTreeMap<String, String>,
    sent: &BTreeMap<String, String>,
    mask: Option<&FieldMask>,
) -> Result<(), UnknownPath> {
    match paths(mask) {
        None => sent.clone_into(stored),
        Some(paths) => {
            for path in paths {
                match path.parts() {
                    ("labels", key) => replace(stored, sent, key),
                    _ => return Err(path.unknown(object)),
                }
            }
        }
    }
    stored.retain(|_, value| !value.is_empty());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn paths_split_at_the_first_dot() {
        for (sent, parts) in [
            ("labels", ("labels", None)),
            ("labels.containerd.io/gc.root", ("labels", Some("containerd.io/gc.root"))),
            ("snapshot_key", ("snapshotkey", None)),
            ("snapshotkey", ("snapshotkey", None)),
            ("Labels.A_b", ("labels", Some("A_b"))),
            ("labels.", ("labels", Some(""))),
        ] {
            assert_eq!(Path::parse(sent).parts(), parts, "{sent}");
        }
    }

    #[test]
    fn an_empty_mask_is_no_mask() {
        assert_eq!(paths(None), None);
        assert_eq!(paths(Some(&FieldMask::default())), None);
    }

    #[test]
    fn label_updates_as_a_table() {
        let stored = map(&[("a", "1"), ("b.c", "2")]);
        let sent = map(&[("a", "9"), ("d", "")]);
        for (mask, answer) in [
            (&[][..], Some(map(&[("a", "9")]))),
            (&["labels"], Some(map(&[("a", "9")]))),
            (&["labels.a"], Some(map(&[("a", "9"), ("b.c", "2")]))),
            (&["labels.b.c"], Some(map(&[("a", "1")]))),
            (&["labels.d"], Some(map(&[("a", "1"), ("b.c", "2")]))),
            (&["labels.a", "size"], None),
            (&["digest"], None),
        ] {
            let mut got = stored.clone();
            let mask = FieldMask { paths: mask.iter().map(|path| (*path).to_owned()).collect() };
            let result = update_labels("x", &mut got, &sent, Some(&mask));
            match answer {
                Some(answer) => assert_eq!((result, got), (Ok(()), answer), "{mask:?}"),
                None => assert_eq!(result.unwrap_err().kind(), Kind::InvalidArgument, "{mask:?}"),
            }
        }
    }
}
