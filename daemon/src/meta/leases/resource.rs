//! What a lease may hold, and how clients name it.

use model::{Digest, Namespace};
use store::StoreError;

use super::LeaseError;
use crate::gc::node::Node;

/// Something that a lease may hold. It need not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    /// A blob.
    Content(Digest),
    /// An unfinished blob, by its reference.
    Ingest(String),
    /// A snapshot.
    Snapshot {
        /// The snapshotter.
        snapshotter: String,
        /// The key or name.
        name: String,
    },
    /// An image, by its name.
    Image(String),
}

impl Resource {
    /// Reads a resource as clients name it.
    ///
    /// # Errors
    /// The type is none, or the id does not fit it.
    pub fn parse(kind: &str, id: &str) -> Result<Self, LeaseError> {
        let (first, rest) = match kind.split_once('/') {
            Some((first, rest)) => (first, Some(rest)),
            None => (kind, None),
        };
        let malformed = || LeaseError::Malformed { kind: kind.to_owned() };
        match (first, rest) {
            ("content", None) => {
                let digest = id.parse();
                digest.map(Self::Content).map_err(|source| LeaseError::ContentId { id: id.to_owned(), source })
            }
            ("ingests", None) => Ok(Self::Ingest(id.to_owned())),
            ("images", None) => Ok(Self::Image(id.to_owned())),
            ("snapshots", Some(snapshotter)) if !snapshotter.contains('/') => {
                Ok(Self::Snapshot { snapshotter: snapshotter.to_owned(), name: id.to_owned() })
            }
            ("content" | "ingests" | "images" | "snapshots", _) => Err(malformed()),
            _ => Err(LeaseError::Unsupported { kind: kind.to_owned() }),
        }
    }

    /// Its type, as clients name it.
    pub fn kind(&self) -> String {
        match self {
            Self::Content(_) => "content".to_owned(),
            Self::Ingest(_) => "ingests".to_owned(),
            Self::Snapshot { snapshotter, .. } => format!("snapshots/{snapshotter}"),
            Self::Image(_) => "images".to_owned(),
        }
    }

    /// Its id, as clients name it.
    pub fn id(&self) -> &str {
        match self {
            Self::Content(digest) => digest.as_str(),
            Self::Ingest(name) | Self::Image(name) | Self::Snapshot { name, .. } => name,
        }
    }

    /// The object that it names.
    pub fn node(&self) -> Node {
        match self {
            Self::Content(digest) => Node::Content(digest.as_str().to_owned()),
            Self::Ingest(reference) => Node::Ingest(reference.clone()),
            Self::Snapshot { snapshotter, name } => Node::snapshot(snapshotter, name),
            Self::Image(name) => Node::Image(name.clone()),
        }
    }

    pub(super) fn key(&self, namespace: &Namespace, lease: &str) -> Result<Vec<u8>, StoreError> {
        store::key(&[namespace.as_str(), lease, &self.kind(), self.id()])
    }
}

#[cfg(test)]
mod tests {
    use model::error::{Classify, Kind};

    use super::*;

    #[test]
    fn resources_are_read_as_clients_name_them() {
        let digest = Digest::sha256(b"x");
        for (kind, id, answer) in [
            ("content", digest.as_str(), Ok("content")),
            ("content", "x", Err(Kind::InvalidArgument)),
            ("content/x", digest.as_str(), Err(Kind::InvalidArgument)),
            ("ingests", "layer-sha256:1", Ok("ingests")),
            ("images", "docker.io/library/a:1", Ok("images")),
            ("snapshots/overlayfs", "extract-1 sha256:2", Ok("snapshots/overlayfs")),
            ("snapshots", "a", Err(Kind::InvalidArgument)),
            ("snapshots/a/b", "a", Err(Kind::InvalidArgument)),
            ("volumes", "a", Err(Kind::Unimplemented)),
            ("", "a", Err(Kind::Unimplemented)),
        ] {
            match (Resource::parse(kind, id), answer) {
                (Ok(resource), Ok(kind)) => assert_eq!((resource.kind().as_str(), resource.id()), (kind, id)),
                (got, answer) => assert_eq!(got.map_err(|e| e.kind()).err(), answer.err(), "{kind} {id}"),
            }
        }
    }
}
