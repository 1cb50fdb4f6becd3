//! Labels: small key-value pairs on nearly every object, with one rule for all (containerd's contract).

use std::collections::BTreeMap;

use crate::error::{Classify, Kind};

/// Labels of an object, ordered by key.
pub type Labels = BTreeMap<String, String>;

/// The largest sum of the lengths of a label's key and value, in bytes.
pub const MAX_LABEL_BYTES: usize = 4096;

/// A label longer than [`MAX_LABEL_BYTES`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("label key and value length ({length} bytes) greater than maximum size ({MAX_LABEL_BYTES} bytes), key: {key}")]
pub struct LabelError {
    /// The first bytes of the key.
    pub key: String,
    /// The length of key and value together.
    pub length: usize,
}

impl Classify for LabelError {
    fn kind(&self) -> Kind {
        Kind::InvalidArgument
    }
}

/// Checks the size rule for every label.
///
/// # Errors
/// Names the first label that is too long.
pub fn check(labels: &Labels) -> Result<(), LabelError> {
    for (key, value) in labels {
        let length = key.len() + value.len();
        if length > MAX_LABEL_BYTES {
            return Err(LabelError { key: key.chars().take(64).collect(), length });
        }
    }
    Ok(())
}

/// `labels` without those whose value is empty: an empty value on write removes the key.
pub fn without_empty(mut labels: Labels) -> Labels {
    labels.retain(|_, value| !value.is_empty());
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_on_the_sum() {
        let label = |k: usize, v: usize| Labels::from([("k".repeat(k), "v".repeat(v))]);
        assert!(check(&label(96, 4000)).is_ok());
        assert_eq!(check(&label(97, 4000)).unwrap_err().length, 4097);
    }
}
