//! Why a layer could not be unpacked.

use std::io;

use model::error::{Classify, Kind, io_kind};

/// Why an archive was refused or could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The bytes could not be had.
    #[error("cannot read the layer")]
    Read {
        /// What the reader said.
        source: io::Error,
    },
    /// The archive ends too early.
    #[error("layer is truncated: it ends {place} (entry {entry})")]
    Truncated {
        /// In the middle of what.
        place: &'static str,
        /// The number of the entry, from 1.
        entry: u64,
    },
    /// The bytes are no such archive.
    #[error("layer is damaged: {what} (entry {entry})")]
    Damaged {
        /// What is wrong.
        what: String,
        /// The number of the entry, from 1.
        entry: u64,
    },
    /// The archive asks for more than the limits allow.
    #[error("layer exceeds a limit: {what} is more than {limit}")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// An entry asks for what no layer may.
    #[error("entry {name:?} is refused: {why}")]
    Refused {
        /// The name of the entry, as in the archive.
        name: String,
        /// Why.
        why: String,
    },
    /// An entry could not be written.
    #[error("cannot {doing} {name:?}")]
    Write {
        /// What was being done, as a verb.
        doing: &'static str,
        /// The name of the entry, as in the archive.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// The layer cannot be kept as one image; unpacked into a folder it can.
    #[error("layer cannot be an image: {why}")]
    NotAsImage {
        /// What about it.
        why: &'static str,
    },
    /// The layer cannot be unpacked before what it stands on is known.
    #[error("layer cannot be unpacked before its parent is known: {why}")]
    ParentNeeded {
        /// What about it.
        why: &'static str,
    },
    /// The target itself cannot be used.
    #[error("cannot {doing} the target folder")]
    Target {
        /// What was being done, as a verb.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl Classify for LayerError {
    fn kind(&self) -> Kind {
        match self {
            Self::Truncated { .. } | Self::Damaged { .. } => Kind::DataLoss,
            Self::TooMuch { .. } => Kind::ResourceExhausted,
            Self::Refused { .. } | Self::ParentNeeded { .. } => Kind::InvalidArgument,
            Self::NotAsImage { .. } => Kind::Unimplemented,
            Self::Read { source } | Self::Write { source, .. } | Self::Target { source, .. } => match io_kind(source) {
                // A missing or present file of a layer is not a missing or present object of the caller's.
                Kind::NotFound | Kind::AlreadyExists => Kind::Internal,
                kind => kind,
            },
        }
    }
}
