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
pub mod import;
mod lease;
mod local;
mod locks;
pub mod names;
pub mod progress;
pub mod pull;
pub mod push;
pub mod registry;
mod resolve;
mod tree;
mod unpack;

use std::num::NonZero;
use std::sync::Arc;

use model::Namespace;
use model::platform::Platform;
use tokio::sync::Semaphore;
use tracing::{info, warn};

use crate::meta::Meta;
use crate::namespaces::Namespaces;
use locks::Locks;

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
}

impl Default for Settings {
    fn default() -> Self {
        Self { downloads: 3, uploads: 3, snapshotter: "overlayfs".to_owned() }
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
    /// How many layers may still be unpacked, of all images: more than there are processors are no faster.
    extractions: Arc<Semaphore>,
}

/// The most blobs that are fetched at a time, whoever wants them.
const MAX_DOWNLOADS: usize = 64;

/// The least number of layers that may be unpacked at a time, on however few processors.
const MIN_EXTRACTIONS: usize = 2;

impl Images {
    /// Moves the images of `meta`.
    pub fn new(meta: Meta, settings: Settings) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self {
            meta,
            settings,
            locks: Locks::default(),
            downloads: Arc::new(Semaphore::new(MAX_DOWNLOADS)),
            extractions: Arc::new(Semaphore::new(processors.max(MIN_EXTRACTIONS))),
        }
    }
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
}
