//! What a caller may do about an error, said without any wire in mind.

use std::error::Error;
use std::fmt::Write as _;

/// The class of an error. `proto::status` maps each to one gRPC code; nothing else does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request itself is wrong, whatever the state.
    InvalidArgument,
    /// The named object does not exist.
    NotFound,
    /// An object of that name exists.
    AlreadyExists,
    /// The object exists but its state forbids the call.
    FailedPrecondition,
    /// Busy, locked or stopping: the same call may succeed later.
    Unavailable,
    /// An offset beyond what is there.
    OutOfRange,
    /// Not served here.
    Unimplemented,
    /// The caller gave up.
    Canceled,
    /// The deadline passed.
    DeadlineExceeded,
    /// The caller may not do this.
    PermissionDenied,
    /// A bound was reached: space, quota, queue.
    ResourceExhausted,
    /// Stored or received bytes are not what they should be.
    DataLoss,
    /// A bug or a broken machine.
    Internal,
    /// Foreign text passed through, for one an OCI runtime's.
    Unknown,
}

impl Kind {
    /// The words that end a message of this kind on the wire, as Go clients expect them (containerd's contract).
    pub fn suffix(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid argument",
            Self::NotFound => "not found",
            Self::AlreadyExists => "already exists",
            Self::FailedPrecondition => "failed precondition",
            Self::Unavailable => "unavailable",
            Self::OutOfRange => "out of range",
            Self::Unimplemented => "not implemented",
            Self::Canceled => "context canceled",
            Self::DeadlineExceeded => "context deadline exceeded",
            Self::PermissionDenied => "permission denied",
            Self::ResourceExhausted => "resource exhausted",
            Self::DataLoss => "data loss",
            Self::Internal => "internal error",
            Self::Unknown => "unknown",
        }
    }
}

/// An error that knows its [`Kind`].
pub trait Classify: Error {
    /// What the caller may do about it.
    fn kind(&self) -> Kind;

    /// The whole message for the wire: this error, its causes joined by `: `, and the suffix of its kind
    /// unless the text already ends with it. `Unknown` and `Internal` add nothing, so foreign text stays as it was.
    fn wire_message(&self) -> String
    where
        Self: Sized,
    {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let _ = write!(text, ": {error}");
            cause = error.source();
        }
        let kind = self.kind();
        if !matches!(kind, Kind::Unknown | Kind::Internal) && !text.ends_with(kind.suffix()) {
            let _ = write!(text, ": {}", kind.suffix());
        }
        text
    }
}

/// The kind an I/O error most usefully has.
pub fn io_kind(error: &std::io::Error) -> Kind {
    use std::io::ErrorKind as E;
    match error.kind() {
        E::NotFound => Kind::NotFound,
        E::AlreadyExists => Kind::AlreadyExists,
        E::PermissionDenied => Kind::PermissionDenied,
        E::StorageFull | E::QuotaExceeded => Kind::ResourceExhausted,
        E::TimedOut => Kind::DeadlineExceeded,
        E::InvalidInput => Kind::InvalidArgument,
        _ => Kind::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Sample {
        #[error("image \"a\"")]
        Missing,
        #[error("image \"a\": not found")]
        SaidAlready,
        #[error("runc said no")]
        Foreign,
        #[error("outer")]
        Nested { source: std::num::ParseIntError },
    }

    impl Classify for Sample {
        fn kind(&self) -> Kind {
            match self {
                Self::Missing | Self::SaidAlready => Kind::NotFound,
                Self::Foreign => Kind::Unknown,
                Self::Nested { .. } => Kind::InvalidArgument,
            }
        }
    }

    #[test]
    fn messages_end_with_their_kind_once() {
        assert_eq!(Sample::Missing.wire_message(), "image \"a\": not found");
        assert_eq!(Sample::SaidAlready.wire_message(), "image \"a\": not found");
        assert_eq!(Sample::Foreign.wire_message(), "runc said no");
        let source = "x".parse::<u8>().unwrap_err();
        assert_eq!(Sample::Nested { source }.wire_message(), "outer: invalid digit found in string: invalid argument");
    }
}
