//! Why a call of the client failed.

use std::path::PathBuf;

use model::error::{Classify, Kind, io_kind};

/// Why a call of the client failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers at the socket.
    #[error("cannot reach the daemon at {}: is gantryd running?", address.display())]
    Connect {
        /// The socket.
        address: PathBuf,
        /// What the transport says.
        source: tonic::transport::Error,
    },
    /// The daemon refused.
    #[error("{}", .0.message())]
    Refused(Box<tonic::Status>),
    /// Something here, not at the daemon: a fifo, a file, a mount.
    #[error("cannot {what}")]
    Io {
        /// What was being done, to which thing.
        what: String,
        /// What the kernel says.
        source: std::io::Error,
    },
    /// What was asked for makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// A document in the image cannot be read.
    #[error("cannot read {what}")]
    Document {
        /// Which document.
        what: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The daemon's answer lacks something it must have.
    #[error("the daemon's answer has no {0}")]
    Incomplete(&'static str),
}

impl ClientError {
    /// An I/O error, with what was being done.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// Whether the thing that was named does not exist.
    pub fn is_not_found(&self) -> bool {
        self.kind() == Kind::NotFound
    }
}

impl From<tonic::Status> for ClientError {
    fn from(status: tonic::Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

impl Classify for ClientError {
    fn kind(&self) -> Kind {
        match self {
            Self::Connect { .. } => Kind::Unavailable,
            Self::Refused(status) => proto::status::kind(status.code() as i32),
            Self::Io { source, .. } => io_kind(source),
            Self::Invalid(_) | Self::Document { .. } => Kind::InvalidArgument,
            Self::Incomplete(_) => Kind::Internal,
        }
    }
}
