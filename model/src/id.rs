//! Identifiers, checked once. A raw string past this point is a bug.

use std::fmt;
use std::str::FromStr;

use crate::error::{Classify, Kind};

/// The longest identifier, in bytes (containerd's contract).
pub const MAX_ID_BYTES: usize = 76;

/// Why a string is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The string is empty.
    #[error("identifier must not be empty")]
    Empty,
    /// The string is longer than [`MAX_ID_BYTES`].
    #[error("identifier {value:?} greater than maximum length ({MAX_ID_BYTES} characters)")]
    TooLong {
        /// The string.
        value: String,
    },
    /// The string has a character, or two separators in a row, that the rule does not allow.
    #[error("identifier {value:?} must match ^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$")]
    Malformed {
        /// The string.
        value: String,
    },
}

impl Classify for IdError {
    fn kind(&self) -> Kind {
        Kind::InvalidArgument
    }
}

/// Checks the identifier rule: runs of letters and digits, joined by single `.`, `_` or `-`.
///
/// # Errors
/// Says which part of the rule is broken.
pub fn check(value: &str) -> Result<(), IdError> {
    if value.is_empty() {
        return Err(IdError::Empty);
    }
    if value.len() > MAX_ID_BYTES {
        return Err(IdError::TooLong { value: value.to_owned() });
    }
    let malformed =
        value.split(['.', '_', '-']).any(|run| run.is_empty() || !run.bytes().all(|b| b.is_ascii_alphanumeric()));
    if malformed { Err(IdError::Malformed { value: value.to_owned() }) } else { Ok(()) }
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks `value` against the identifier rule.
            ///
            /// # Errors
            /// [`IdError`] says which part of the rule is broken.
            pub fn new(value: impl Into<String>) -> Result<Self, IdError> {
                let value = value.into();
                check(&value)?;
                Ok(Self(value))
            }

            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(value: &str) -> Result<Self, IdError> {
                Self::new(value)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(value: String) -> Result<Self, IdError> {
                Self::new(value)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    };
}

identifier!(
    /// The id of a container and of its task.
    ContainerId
);
identifier!(
    /// The id of a process that was added to a container.
    ExecId
);
identifier!(
    /// A namespace: the first part of every name.
    Namespace
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_as_a_table() {
        for good in ["a", "default", "k8s.io", "a-b_c.d", "0", &"x".repeat(76)] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in ["", "-a", "a-", "a--b", "a._b", "a/b", "a b", "é", "a:b", &"x".repeat(77)] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
