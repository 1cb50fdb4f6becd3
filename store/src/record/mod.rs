//! What is kept, one file per noun. These types are ours: nothing of the wire is written to disk.

mod any;
mod container;
mod content;
mod event;
mod identity;
mod image;
mod lease;
mod namespace;
mod sandbox;
mod snapshot;

pub use any::{Any, Runtime};
pub use container::ContainerRecord;
pub use content::{ContentRecord, IngestRecord};
pub use event::{EventRecord, JournalEntry, JournalRecord, event_key};
pub use identity::IdentityRecord;
pub use image::ImageRecord;
pub use lease::{LeaseRecord, LeaseResourceRecord};
pub use namespace::NamespaceRecord;
pub use sandbox::SandboxRecord;
pub use snapshot::{BackendSnapshotRecord, SnapshotRecord};

use crate::table::Record;

/// A record that says all it has to say by being there: the entry of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Present;

impl Record for Present {
    const VERSION: u8 = 1;
}
