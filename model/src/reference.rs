//! Image names: `host/path[:tag][@digest]`, parsed and printed. No registry is chosen silently: a name without a host is refused.

use std::fmt;
use std::str::FromStr;

use crate::digest::{Digest, DigestError};
use crate::error::{Classify, Kind};

/// The longest reference, in bytes.
pub const MAX_REFERENCE_BYTES: usize = 4096;

/// Why a string is not a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Empty or longer than [`MAX_REFERENCE_BYTES`].
    #[error("invalid reference: {length} bytes long, must be 1 to {MAX_REFERENCE_BYTES}")]
    Length {
        /// The length in bytes.
        length: usize,
    },
    /// No host part.
    #[error("invalid reference {value:?}: name a registry host first, as in docker.io/library/busybox:latest")]
    NoHost {
        /// The string.
        value: String,
    },
    /// A part that breaks the grammar of the distribution spec.
    #[error("invalid reference {value:?}: the {part} is malformed")]
    Malformed {
        /// The string.
        value: String,
        /// Which part.
        part: &'static str,
    },
    /// The digest after `@` is not one.
    #[error("invalid reference {value:?}")]
    Digest {
        /// The string.
        value: String,
        /// What is wrong with it.
        source: DigestError,
    },
}

impl Classify for ReferenceError {
    fn kind(&self) -> Kind {
        Kind::InvalidArgument
    }
}

/// The name of an image at a registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    host: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry's host, with its port if one was given.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The repository's path at the host.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Host and path.
    pub fn locator(&self) -> String {
        format!("{}/{}", self.host, self.path)
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(value: &str) -> Result<Self, ReferenceError> {
        if value.is_empty() || value.len() > MAX_REFERENCE_BYTES {
            return Err(ReferenceError::Length { length: value.len() });
        }
        let whole = || value.to_owned();
        let malformed = |part| ReferenceError::Malformed { value: whole(), part };
        let (name, digest) = match value.split_once('@') {
            Some((name, digest)) => {
                let digest = digest.parse().map_err(|source| ReferenceError::Digest { value: whole(), source })?;
                (name, Some(digest))
            }
            None => (value, None),
        };
        let (host, rest) = name.split_once('/').ok_or_else(|| ReferenceError::NoHost { value: whole() })?;
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        if !is_host(host) {
            return Err(malformed("host"));
        }
        if path.is_empty() || !path.split('/').all(is_path_component) {
            return Err(malformed("path"));
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(malformed("tag"));
        }
        Ok(Self { host: host.to_owned(), path: path.to_owned(), tag: tag.map(str::to_owned), digest })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

fn is_host(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !name.ends_with(':') && !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    let address = name.strip_prefix('[').and_then(|n| n.strip_suffix(']'));
    let name_fits = match address {
        Some(address) => !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':'),
        None => {
            !name.is_empty()
                && name
                    .split('.')
                    .all(|label| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
        }
    };
    name_fits && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

/// Lower-case runs joined by `.`, `_`, `__` or dashes (distribution spec, "Pulling manifests").
fn is_path_component(part: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let edges = part.bytes().next().is_some_and(fits) && part.bytes().next_back().is_some_and(fits);
    edges
        && part.bytes().all(|b| fits(b) || matches!(b, b'.' | b'_' | b'-'))
        && !part.contains("..")
        && !part.contains("___")
}

fn is_tag(tag: &str) -> bool {
    let first = tag.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    first && tag.len() <= 128 && tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_references_print_as_they_were_read() {
        let digest = Digest::sha256(b"x");
        for good in [
            "docker.io/library/busybox:latest".to_owned(),
            "localhost:5000/a".to_owned(),
            "127.0.0.1:5000/a/b-c_d:v1.0".to_owned(),
            format!("[::1]:5000/a@{digest}"),
            format!("r.example/a:t@{digest}"),
        ] {
            assert_eq!(good.parse::<Reference>().unwrap().to_string(), good);
        }
        let parsed: Reference = "localhost:5000/a/b:t".parse().unwrap();
        assert_eq!((parsed.host(), parsed.path(), parsed.tag()), ("localhost:5000", "a/b", Some("t")));
    }

    #[test]
    fn bad_references_are_refused() {
        let long = format!("a/{}", "b".repeat(MAX_REFERENCE_BYTES));
        for bad in [
            "",
            "busybox",
            "a/",
            "/a",
            "h/UPPER",
            "h/a:",
            "h/a:b c",
            "h/../a",
            "h/a@sha256:1",
            "h:x/a",
            "h/a//b",
            &long,
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
    }
}
