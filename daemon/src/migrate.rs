//! Taking over what a containerd had: images, content, snapshots, containers, leases, labels and namespaces, from its folders.
//!
//! ```text
//! bolt    its databases, page by page, read only
//! source  what is in them, as records of ours
//! files   blobs and layers: shared blocks or hard links where the file system can, else copies
//! take    one after the other: blobs, snapshots, records of each namespace, a note of what was brought
//! ```
//!
//! The source is only read; it must not be in use. What is there already stays as it is. The note makes it reversible: [`undo`]
//! removes what was brought and is still as it came. Files come before the records that name them.

mod bolt;
mod files;
mod note;
mod source;
mod take;

use std::io;
use std::path::PathBuf;

pub use note::undo;
pub use take::{Plan, migrate};

/// Why a migration did not go on. What it had brought until then is in the note, and harmless.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// A containerd uses the folder.
    #[error("{} is in use by another process: stop containerd first", path.display())]
    InUse {
        /// Its database.
        path: PathBuf,
    },
    /// A database is none, or damaged.
    #[error("{}: {reason}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file operation failed.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Our own store refused.
    #[error("cannot write records")]
    Store(#[from] store::StoreError),
    /// There is nothing to undo.
    #[error("there is no migration to take back: {} does not exist", path.display())]
    NoNote {
        /// Where the note would be.
        path: PathBuf,
    },
}

impl MigrateError {
    fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { doing, path, source }
    }
}

#[cfg(test)]
mod tests;
