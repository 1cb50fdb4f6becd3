//! Metadata: content, images, leases and snapshots, as each namespace sees them.
//!
//! One file per noun, each with the rules of its service; the bytes are in [`store::blob`], the folders with the snapshot drivers.
//! What is answered is on disk. Nothing is locked across a flush or a call into a driver: a change reads and decides again
//! in its own transaction. Files come before the records that name them, so that a crash leaves garbage, which [`crate::gc`]
//! removes, never a record of nothing.
//!
//! Every change names to the [`barrier`] what it creates or begins to refer to, and every operation pins in it what it is
//! working on: that is all that collection needs to run beside everybody else.

pub mod barrier;
pub mod busy;
pub mod content;
pub mod images;
pub mod layers;
pub mod leases;
pub mod snapshots;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use snapshotter::Snapshotter;
use store::Store;
use store::blob::BlobStore;

use crate::events::Bus;
use crate::gc::schedule::Trigger;
use barrier::Barrier;
use busy::Busy;
use content::{Sessions, Sharing};
use snapshots::{Interrupted, Numbers};

/// The snapshot drivers, by name.
pub type Drivers = BTreeMap<String, Arc<dyn Snapshotter>>;

/// The parts that metadata stands on.
pub struct Parts {
    /// Where records are kept.
    pub store: Store,
    /// Where bytes are kept.
    pub blobs: BlobStore,
    /// Whether a namespace gets content that another one has without sending it.
    pub sharing: Sharing,
    /// The snapshot drivers.
    pub drivers: Drivers,
    /// Where changes are announced.
    pub bus: Bus,
    /// Asks for collection.
    pub trigger: Trigger,
}

/// The metadata of all namespaces. Clones share it.
#[derive(Clone)]
pub struct Meta {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) blobs: BlobStore,
    pub(crate) sharing: Sharing,
    pub(crate) drivers: Drivers,
    pub(crate) bus: Bus,
    pub(crate) trigger: Trigger,
    pub(crate) barrier: Arc<Barrier>,
    pub(crate) busy: Arc<Busy>,
    pub(crate) numbers: Numbers,
    pub(crate) sessions: Sessions,
    pub(crate) interrupted: Interrupted,
}

impl Meta {
    /// Puts the parts together, before anything is served: what an earlier process left undone is told from what is under way
    /// by being there now. The first collection settles it.
    pub fn new(parts: Parts) -> Self {
        let Parts { store, blobs, sharing, drivers, bus, trigger } = parts;
        let interrupted = Interrupted::find(&store);
        let inner = Inner {
            interrupted,
            store,
            blobs,
            sharing,
            drivers,
            bus,
            trigger,
            barrier: Arc::default(),
            busy: Arc::default(),
            numbers: Numbers::default(),
            sessions: Sessions::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The snapshot drivers.
    pub fn drivers(&self) -> &Drivers {
        &self.inner.drivers
    }

    /// What tells collection of changes; for those who keep records that refer to content or snapshots.
    pub fn barrier(&self) -> &Arc<Barrier> {
        &self.inner.barrier
    }

    /// Asks for collection.
    pub fn trigger(&self) -> &Trigger {
        &self.inner.trigger
    }
}

impl fmt::Debug for Meta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meta").field("drivers", &self.inner.drivers.keys()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
