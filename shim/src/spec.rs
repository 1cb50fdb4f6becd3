//! The few things that the shim itself must know from a container's `config.json`; all else is the executor's business.

use std::io;
use std::path::{Path, PathBuf};

use model::error::{Classify, Kind};
use serde_json::Value;

/// The spec's file in the bundle.
pub(crate) const FILE_NAME: &str = "config.json";

/// The largest spec that is read.
const MAX_SPEC_BYTES: u64 = 16 << 20;

/// Annotations that name the group of a container, the first one found counts.
const GROUP_ANNOTATIONS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];

/// A spec, parsed but not interpreted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Spec(Value);

/// Why there is no spec.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpecError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no JSON.
    #[error("{} is no OCI spec", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where it is wrong.
        source: serde_json::Error,
    },
}

impl Classify for SpecError {
    fn kind(&self) -> Kind {
        match self {
            Self::Read { source, .. } => model::error::io_kind(source),
            Self::Malformed { .. } => Kind::InvalidArgument,
        }
    }
}

impl Spec {
    /// Reads the spec in a bundle.
    ///
    /// # Errors
    /// It is missing, too large or no JSON.
    pub(crate) fn read(bundle: &Path) -> Result<Self, SpecError> {
        use std::io::Read as _;
        let path = bundle.join(FILE_NAME);
        let mut bytes = Vec::new();
        std::fs::File::open(&path)
            .and_then(|file| file.take(MAX_SPEC_BYTES).read_to_end(&mut bytes))
            .map_err(|source| SpecError::Read { path: path.clone(), source })?;
        let document = serde_json::from_slice(&bytes).map_err(|source| SpecError::Malformed { path, source })?;
        Ok(Self(document))
    }

    /// The whole document.
    pub(crate) fn document(&self) -> &Value {
        &self.0
    }

    /// The group whose containers share one shim; `None` when it stands alone.
    pub(crate) fn group(&self) -> Option<&str> {
        let annotations = &self.0["annotations"];
        GROUP_ANNOTATIONS.iter().find_map(|name| annotations[*name].as_str()).filter(|group| !group.is_empty())
    }

    /// Whether it says what to run.
    pub(crate) fn has_process(&self) -> bool {
        self.0["process"]["args"].as_array().is_some_and(|args| !args.is_empty())
    }

    /// Whether the container's processes die with its init: it has a pid namespace of its own, not one that it joins.
    pub(crate) fn has_own_pids(&self) -> bool {
        let namespaces = self.0["linux"]["namespaces"].as_array();
        namespaces.is_some_and(|namespaces| {
            namespaces
                .iter()
                .any(|namespace| namespace["type"] == "pid" && namespace["path"].as_str().is_none_or(str::is_empty))
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_group_comes_from_the_annotations_in_order() {
        assert_eq!(Spec(json!({})).group(), None);
        let cri = json!({"annotations": {"io.kubernetes.cri.sandbox-id": "pod"}});
        assert_eq!(Spec(cri).group(), Some("pod"));
        let both = json!({"annotations": {
            "io.kubernetes.cri.sandbox-id": "pod", "io.containerd.runc.v2.group": "group"
        }});
        assert_eq!(Spec(both).group(), Some("group"));
    }

    #[test]
    fn pids_are_shared_without_a_namespace_or_with_a_joined_one() {
        let with = |namespaces: Value| Spec(json!({"linux": {"namespaces": namespaces}})).has_own_pids();
        assert!(with(json!([{"type": "mount"}, {"type": "pid"}])));
        assert!(!with(json!([{"type": "mount"}])));
        assert!(!with(json!([{"type": "pid", "path": "/proc/1/ns/pid"}])));
        assert!(!Spec(json!({})).has_own_pids());
    }
}
