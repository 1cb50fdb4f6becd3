//! Registries: what a pull and a push need of one, and the errors it may answer with.
//!
//! [`Registry`] is the seam to the network; [`client`] is the one that speaks HTTP. What comes back is not verified here except
//! that it is bounded: `resolve` checks documents, `fetch` hashes blobs. Nothing here knows the store.

pub mod auth;
mod challenge;
pub mod client;
mod endpoint;
mod error;
pub mod hosts;
pub mod scheme;
pub mod trace;
mod upload;

use std::future::Future;
use std::io;

use futures_util::stream::BoxStream;
use model::reference::Reference;
use model::{Descriptor, Digest};
use proto::bytes::Bytes;

pub use error::RegistryError;
pub(super) use error::clean;

/// Which document of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Version {
    /// The one that a tag names now.
    Tag(String),
    /// This very one.
    Digest(Digest),
}

impl Version {
    /// The version that a reference asks for: its digest, else its tag.
    pub fn of(reference: &Reference) -> Option<Self> {
        let digest = reference.digest().cloned().map(Self::Digest);
        digest.or_else(|| reference.tag().map(|tag| Self::Tag(tag.to_owned())))
    }

    /// As it stands in the path of a request.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Tag(tag) => tag,
            Self::Digest(digest) => digest.as_str(),
        }
    }
}

/// A document as a registry sent it, not yet verified.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// All of it.
    pub bytes: Bytes,
    /// What the registry says it is, empty if it says nothing.
    pub media_type: String,
    /// What the registry says its digest is.
    pub claimed: Option<Digest>,
}

/// A blob as it comes in, not yet verified.
pub struct Incoming {
    /// Who sends it.
    pub host: String,
    /// Where in the blob the first piece belongs: where it was asked for, or 0.
    pub offset: u64,
    /// Whether it is the part that was asked for; else it is all from `offset` on.
    pub is_part: bool,
    /// Which of several hosts sends it, for [`Registry::distrust`].
    pub source: usize,
    /// The pieces.
    pub pieces: BoxStream<'static, io::Result<Bytes>>,
}

/// One repository of a registry, as one user sees it.
pub trait Registry: Send + Sync + 'static {
    /// The registry as references name it, `docker.io` for one.
    fn host(&self) -> &str;

    /// The path of the repository.
    fn repository(&self) -> &str;

    /// Gets a manifest or an index.
    fn document(&self, version: &Version) -> impl Future<Output = Result<Fetched, RegistryError>> + Send;

    /// How long it is waited for.
    fn patience(&self) -> client::Patience;

    /// Gets a blob, `length` bytes from `offset` on if the registry can do that. One that it does not have may be at `urls`.
    fn blob(
        &self,
        blob: &Descriptor,
        urls: &[String],
        offset: u64,
        length: Option<u64>,
    ) -> impl Future<Output = Result<Incoming, RegistryError>> + Send;

    /// What came from one of several hosts was wrong: it is not asked again. Whether there is another one to ask.
    fn distrust(&self, source: usize) -> bool;

    /// Whether the repository has a blob.
    fn has_blob(&self, digest: &Digest) -> impl Future<Output = Result<bool, RegistryError>> + Send;

    /// Asks the registry to take a blob over from another of its repositories; whether it did.
    fn mount_blob(&self, digest: &Digest, from: &str) -> impl Future<Output = Result<bool, RegistryError>> + Send;

    /// Sends a blob; `pieces` makes its bytes, again if it has to be sent again.
    fn push_blob(
        &self,
        blob: &Descriptor,
        pieces: &(dyn Fn() -> BoxStream<'static, io::Result<Bytes>> + Send + Sync),
    ) -> impl Future<Output = Result<(), RegistryError>> + Send;

    /// Sends a manifest or an index; the registry knows it by `version` then.
    fn push_document(
        &self,
        version: &Version,
        media_type: &str,
        bytes: Bytes,
    ) -> impl Future<Output = Result<(), RegistryError>> + Send;
}
