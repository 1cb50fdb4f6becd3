//! Why no runtime specification could be made.

use std::io;
use std::path::PathBuf;

use model::error::{Classify, Kind, io_kind};

/// Why a request gives no specification. Each says which field of the request is meant.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// A field that makes no sense, whatever the machine.
    #[error("{0}")]
    Invalid(String),
    /// Something that this machine, or this handler, cannot do.
    #[error("{0}")]
    Unsupported(String),
    /// Something on this machine that is named but is not there.
    #[error("{0}")]
    Missing(String),
    /// A file of the host cannot be used.
    #[error("cannot {step} {}", path.display())]
    Host {
        /// What was to be done.
        step: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl SpecError {
    /// For `map_err` after a step with a file of the host.
    pub fn host(step: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Host { step, path, source }
    }

    /// A field that makes no sense.
    pub fn invalid(what: impl Into<String>) -> Self {
        Self::Invalid(what.into())
    }

    /// Something that cannot be done here.
    pub fn unsupported(what: impl Into<String>) -> Self {
        Self::Unsupported(what.into())
    }
}

impl Classify for SpecError {
    fn kind(&self) -> Kind {
        match self {
            Self::Invalid(_) => Kind::InvalidArgument,
            Self::Unsupported(_) => Kind::FailedPrecondition,
            Self::Missing(_) => Kind::NotFound,
            Self::Host { source, .. } => io_kind(source),
        }
    }
}
