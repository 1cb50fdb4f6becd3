//! Keys: parts joined by NUL, so that (namespace, name) sorts per namespace. Memory only.

use crate::error::StoreError;

const SEPARATOR: u8 = 0;

/// The key that consists of `parts`.
///
/// # Errors
/// [`StoreError::Key`] when a part holds a NUL.
pub fn key(parts: &[&str]) -> Result<Vec<u8>, StoreError> {
    let mut key = Vec::with_capacity(parts.iter().map(|part| part.len() + 1).sum());
    for (at, part) in parts.iter().enumerate() {
        if part.as_bytes().contains(&SEPARATOR) {
            return Err(StoreError::Key { part: (*part).to_owned() });
        }
        if at > 0 {
            key.push(SEPARATOR);
        }
        key.extend_from_slice(part.as_bytes());
    }
    Ok(key)
}

/// The prefix of every key that begins with `parts` and has at least one part more. Without parts: of every key.
///
/// # Errors
/// [`StoreError::Key`] when a part holds a NUL.
pub fn prefix(parts: &[&str]) -> Result<Vec<u8>, StoreError> {
    let mut prefix = key(parts)?;
    if !parts.is_empty() {
        prefix.push(SEPARATOR);
    }
    Ok(prefix)
}

/// The parts of a key that [`key`] made, `None` if it is not one.
pub fn key_parts(key: &[u8]) -> Option<Vec<&str>> {
    key.split(|byte| *byte == SEPARATOR).map(|part| std::str::from_utf8(part).ok()).collect()
}

/// The last part of a key: the name of the object in its namespace.
pub fn last_part(key: &[u8]) -> Option<&str> {
    key.rsplit(|byte| *byte == SEPARATOR).next().and_then(|part| std::str::from_utf8(part).ok())
}

/// A key for people: parts joined by `|`, cut where it gets long.
pub(crate) fn printable(key: &[u8]) -> String {
    const LONGEST: usize = 200;
    let cut = &key[..key.len().min(LONGEST)];
    String::from_utf8_lossy(cut).replace('\0', "|")
}

/// The smallest key that is larger than every key with this prefix, `None` if there is no such key.
pub(crate) fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_per_namespace_and_come_apart_again() {
        let ordered = [["a", "z"], ["a-b", "a"], ["a.b", "a"], ["aa", ""], ["b", "a"]];
        let keys: Vec<_> = ordered.iter().map(|parts| key(parts).unwrap()).collect();
        assert!(keys.is_sorted());
        for (key, parts) in keys.iter().zip(ordered) {
            assert_eq!(key_parts(key).unwrap(), parts);
            assert_eq!(last_part(key), Some(parts[1]));
            assert!(key.starts_with(&prefix(&parts[..1]).unwrap()));
        }
        assert!(!key(&["aa", ""]).unwrap().starts_with(&prefix(&["a"]).unwrap()));
        assert!(matches!(key(&["a", "b\0c"]), Err(StoreError::Key { .. })));
        assert!(prefix(&[]).unwrap().is_empty());
    }

    #[test]
    fn the_end_of_a_prefix_is_behind_all_its_keys() {
        assert_eq!(after_prefix(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(after_prefix(b"a\xff\xff"), Some(b"b".to_vec()));
        assert_eq!(after_prefix(b"\xff"), None);
        assert_eq!(after_prefix(b""), None);
    }
}
