//! Writes the difference between two trees as a layer archive.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::SystemTime;

use model::error::{Classify, Kind};
use model::{Digest, Mount};

use crate::layer::{Compression, Whiteouts};

/// What to write down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changes {
    /// What makes `upper` out of `lower`, two plain trees. Without `lower`, everything in `upper`.
    Trees {
        /// The tree as it was.
        lower: Option<PathBuf>,
        /// The tree as it is.
        upper: PathBuf,
    },
    /// What the upper folder of an overlay says about the folders below it.
    Overlay {
        /// The upper folder.
        upper: PathBuf,
        /// How it expresses deletions.
        whiteouts: Whiteouts,
        /// The lower folders, nearest first: what is unchanged in them is left out.
        lowers: Vec<PathBuf>,
    },
}

/// How to write an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The compression.
    pub compression: Compression,
    /// No time in the archive is later than this.
    pub source_date_epoch: Option<SystemTime>,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diff {
    /// The digest of the uncompressed archive.
    pub diff_id: Digest,
    /// The size of the uncompressed archive, in bytes.
    pub size_bytes: u64,
    /// The number of entries.
    pub entries: u64,
}

/// Why a difference could not be written.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    /// A file or folder could not be read.
    #[error("cannot {doing} {}", path.display())]
    Read {
        /// What was being done, as a verb.
        doing: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file changed while it was written down.
    #[error("{} changed while it was read", path.display())]
    Changed {
        /// Which file.
        path: PathBuf,
    },
    /// A file that no archive can hold.
    #[error("cannot write down {}: {why}", path.display())]
    Unsupported {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: &'static str,
    },
    /// The archive could not be written.
    #[error("cannot write the layer")]
    Write {
        /// What the writer said.
        source: io::Error,
    },
}

impl Classify for DiffError {
    fn kind(&self) -> Kind {
        match self {
            Self::Changed { .. } => Kind::FailedPrecondition,
            Self::Unsupported { .. } => Kind::Unimplemented,
            Self::Read { source, .. } | Self::Write { source } => match model::error::io_kind(source) {
                Kind::NotFound | Kind::AlreadyExists => Kind::Internal,
                kind => kind,
            },
        }
    }
}

impl Changes {
    /// The changes between two lists of mounts, when they can be read off without mounting: `upper` is an overlay on exactly
    /// what `lower` shows.
    pub fn from_mounts(lower: &[Mount], upper: &[Mount]) -> Option<Self> {
        let _ = (lower, upper);
        todo!()
    }
}

/// Writes `changes` to `out`, in an order that depends on the trees alone.
///
/// # Errors
/// At the first file that cannot be read; what was written until then is useless.
pub fn write(changes: &Changes, out: impl Write, options: &Options) -> Result<Diff, DiffError> {
    let _ = (changes, out, options);
    todo!()
}
