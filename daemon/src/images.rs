//! Images moved and unpacked by the daemon: pull, push, import, export.
//!
//! [`pull`] tells the story; the steps are in files of their own. Everything durable goes through [`crate::meta`], under a lease;
//! nothing of an image is on record before all that it refers to is. What comes from outside (documents, archives, registries) is
//! bounded and verified before it is believed. It must not know tasks.

pub mod archive;
mod arrivals;
pub mod document;
mod error;
pub mod export;
mod fetch;
pub mod here;
pub mod import;
mod lazy;
mod lease;
mod local;
mod locks;
pub mod names;
pub mod operations;
pub mod progress;
pub mod pull;
pub mod push;
pub mod registry;
mod resolve;
mod tree;
mod unpack;
pub mod verifier;

use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use model::Namespace;
use model::platform::Platform;
use model::reference::Reference;
use tokio::sync::Semaphore;
use tracing::{info, warn};

use crate::meta::Meta;
use crate::namespaces::Namespaces;
use locks::Locks;
use operations::Operations;
use registry::auth::Asker;
use registry::client::{Options, Patience, Purpose, Remote};
use registry::hosts::Sources;
use registry::scheme::Scheme;
use registry::trace::Trace;
use verifier::Verifiers;

pub use error::TransferError;
pub use unpack::Unpack;

/// How images are moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Blobs that one pull fetches at a time.
    pub downloads: usize,
    /// Blobs that one push sends at a time.
    pub uploads: usize,
    /// The snapshotter that is meant where a client names none.
    pub snapshotter: String,
    /// How large blobs are fetched.
    pub chunks: Chunks,
    /// Where registries are found by clients of the transfer service.
    pub hosts: Sources,
    /// Where they are found by the Kubernetes interface.
    pub cri_hosts: Sources,
    /// How long registries are waited for.
    pub patience: Patience,
    /// Who has a say in which images are taken.
    pub verifiers: Verifiers,
}

/// How a large blob is cut into parts that are fetched at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunks {
    /// The size of a part, in bytes; not 0.
    pub bytes: u64,
    /// How many of one blob are fetched at a time; 1 is one stream.
    pub parallel: usize,
}

impl Default for Chunks {
    fn default() -> Self {
        Self { bytes: 2 << 20, parallel: 4 }
    }
}

impl Chunks {
    /// The length of the part at `at` of a blob of `size` bytes, if it is to be fetched in parts.
    fn part(self, wanted: bool, at: u64, size: u64) -> Option<u64> {
        let worth = size.saturating_sub(at) >= self.bytes.saturating_mul(2);
        (wanted && worth && self.parallel > 1).then_some(self.bytes)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            downloads: 3,
            uploads: 3,
            snapshotter: "overlayfs".to_owned(),
            chunks: Chunks::default(),
            hosts: Sources::default(),
            cri_hosts: Sources::default(),
            patience: Patience::default(),
            verifiers: Verifiers::default(),
        }
    }
}

/// Moves images. Clones share what is under way, so that two who want the same wait for one.
#[derive(Debug, Clone)]
pub struct Images {
    meta: Meta,
    settings: Settings,
    /// Blobs and layers that somebody is working on.
    locks: Locks,
    /// How many blobs may still be fetched, of all pulls: each takes a thread that writes.
    downloads: Arc<Semaphore>,
    /// How much of parts of blobs may still wait for its turn, in KiB.
    chunk_kib: Arc<Semaphore>,
    /// How many layers may still be unpacked, of all images: more than there are processors are no faster.
    extractions: Arc<Semaphore>,
    /// How many more may be while they arrive, which mostly wait.
    followers: Arc<Semaphore>,
    operations: Operations,
    pulls: Arc<PullCounts>,
}

/// Counts pulls.
#[derive(Debug, Default)]
struct PullCounts {
    begun: AtomicU64,
    failed: AtomicU64,
}

/// How many pulls there were since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pulls {
    /// That have begun.
    pub begun: u64,
    /// That have failed.
    pub failed: u64,
}

/// How much of parts of blobs may wait for its turn, in KiB, for all transfers together.
const MAX_CHUNK_KIB: u32 = 24 << 10;

/// The most blobs that are fetched at a time, whoever wants them.
const MAX_DOWNLOADS: usize = 64;

/// The least number of layers that may be unpacked at a time, on however few processors.
const MIN_EXTRACTIONS: usize = 2;

/// The most layers that are unpacked while they arrive.
const MAX_FOLLOWERS: usize = 3;

impl Images {
    /// How many pulls there were.
    pub fn pulls(&self) -> Pulls {
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        Pulls { begun: count(&self.pulls.begun), failed: count(&self.pulls.failed) }
    }

    /// Moves the images of `meta`.
    pub fn new(meta: Meta, settings: Settings) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self {
            meta,
            settings,
            locks: Locks::default(),
            pulls: Arc::default(),
            downloads: Arc::new(Semaphore::new(MAX_DOWNLOADS)),
            chunk_kib: Arc::new(Semaphore::new(MAX_CHUNK_KIB as usize)),
            extractions: Arc::new(Semaphore::new(processors.max(MIN_EXTRACTIONS))),
            followers: Arc::new(Semaphore::new(MAX_FOLLOWERS)),
            operations: Operations::default(),
        }
    }

    /// What is under way.
    pub fn operations(&self) -> &Operations {
        &self.operations
    }

    /// The repository of `reference`, found and spoken to as configuration and caller say.
    ///
    /// # Errors
    /// What is configured for its registry cannot be used.
    pub async fn remote(
        &self,
        reference: Reference,
        purpose: Purpose,
        access: RegistryAccess,
    ) -> Result<Remote, TransferError> {
        let RegistryAccess { scheme, asker, host_dir, headers, trace, door } = access;
        let mut sources = match (host_dir.is_empty(), door) {
            (false, _) => Sources::of_paths(&host_dir),
            (true, Door::Transfer) => self.settings.hosts.clone(),
            (true, Door::Cri) => self.settings.cri_hosts.clone(),
        };
        sources.headers.extend(headers);
        let options = Options { scheme, purpose, asker, sources, patience: self.settings.patience, trace };
        Ok(Remote::new(reference, options).await?)
    }

    /// Asks the verifiers of this machine whether an image may be used; one that is not here is nobody's business.
    ///
    /// # Errors
    /// One of them refuses it, or cannot be asked.
    pub async fn judge(&self, namespace: &Namespace, name: &str) -> Result<(), verifier::VerifierError> {
        match self.meta.image(namespace, name) {
            Ok(image) => self.settings.verifiers.judge(name, &image.record.target).await,
            Err(_) => Ok(()),
        }
    }
}

/// Who wants to speak to a registry: what is configured for registries depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Door {
    /// A client of the transfer service.
    #[default]
    Transfer,
    /// The Kubernetes interface.
    Cri,
}

/// What a caller says of how a registry is spoken to. The default is as anybody, as configured.
#[derive(Debug, Default)]
pub struct RegistryAccess {
    /// With or without encryption, where nothing else says it.
    pub scheme: Option<Scheme>,
    /// Who we are.
    pub asker: Asker,
    /// Folders of hosts instead of the configured ones, with `:` between them; empty for those.
    pub host_dir: String,
    /// Headers to send along.
    pub headers: Vec<(String, String)>,
    /// Who wants to see what is said.
    pub trace: Trace,
    /// By whom.
    pub door: Door,
}

impl Images {
    /// Lets go of what transfers held that a crash interrupted. To be called once, before requests are served; what was fetched
    /// of a blob stays, for who wants it next.
    pub async fn settle(&self, namespaces: &Namespaces) {
        let all = match namespaces.list().await {
            Ok(all) => all,
            Err(error) => {
                warn!(%error, "leases of interrupted transfers not removed; they expire");
                return;
            }
        };
        for namespace in all.into_iter().filter_map(|(name, _)| Namespace::new(name).ok()) {
            match lease::settle(&self.meta, &namespace).await {
                Ok(0) => {}
                Ok(leases) => info!(ns = %namespace, leases, "let go of what interrupted transfers held"),
                Err(error) => {
                    warn!(ns = %namespace, %error, "leases of interrupted transfers not removed; they expire")
                }
            }
        }
    }
}

/// The image that a transfer makes or reads.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// Labels to give it.
    pub labels: model::Labels,
    /// Of several platforms only these; none is all.
    pub platforms: Vec<Platform>,
    /// More names.
    pub references: Vec<names::Naming>,
    /// What to unpack.
    pub unpacks: Vec<Unpack>,
    /// Whether to take also the documents of other platforms.
    pub all_metadata: bool,
    /// How many manifests of an index at most; `None` is all.
    pub manifest_limit: Option<usize>,
    /// Whether to compress layers of an archive that are not.
    pub compress: bool,
}
