//! Errors on the wire: the only table between [`Kind`] and the codes that gRPC and ttrpc share.
//!
//! It translates and decides nothing. Texts pass through unchanged, since clients search them for words.

use model::error::{Classify, Kind};

use crate::google::rpc::Status;

/// The code of success.
pub const OK: i32 = 0;

/// The code of a kind.
#[must_use]
pub fn code(kind: Kind) -> i32 {
    match kind {
        Kind::Canceled => 1,
        Kind::Unknown => 2,
        Kind::InvalidArgument => 3,
        Kind::DeadlineExceeded => 4,
        Kind::NotFound => 5,
        Kind::AlreadyExists => 6,
        Kind::PermissionDenied => 7,
        Kind::ResourceExhausted => 8,
        Kind::FailedPrecondition => 9,
        Kind::OutOfRange => 11,
        Kind::Unimplemented => 12,
        Kind::Internal => 13,
        Kind::Unavailable => 14,
        Kind::DataLoss => 15,
    }
}

/// The kind of a code. What has no kind of its own gets the one that asks the same of the caller.
#[must_use]
pub fn kind(code: i32) -> Kind {
    match code {
        1 => Kind::Canceled,
        3 => Kind::InvalidArgument,
        4 => Kind::DeadlineExceeded,
        5 => Kind::NotFound,
        6 => Kind::AlreadyExists,
        7 => Kind::PermissionDenied,
        8 => Kind::ResourceExhausted,
        9 => Kind::FailedPrecondition,
        // Aborted: lost a race, try again.
        10 => Kind::Unavailable,
        11 => Kind::OutOfRange,
        12 => Kind::Unimplemented,
        13 => Kind::Internal,
        14 => Kind::Unavailable,
        15 => Kind::DataLoss,
        // Unauthenticated.
        16 => Kind::PermissionDenied,
        _ => Kind::Unknown,
    }
}

/// A status of that kind with that text.
#[must_use]
pub fn new(kind: Kind, message: impl Into<String>) -> Status {
    Status { code: code(kind), message: message.into(), details: Vec::new() }
}

/// The status that says what `error` says, causes included.
#[must_use]
pub fn of<E: Classify>(error: &E) -> Status {
    new(error.kind(), error.wire_message())
}

/// An error that came over the wire, ready to be passed on with its kind and its words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What the caller may do about it.
    pub kind: Kind,
    /// The text, as the other side gave it.
    pub message: String,
}

impl Classify for Failure {
    fn kind(&self) -> Kind {
        self.kind
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self { kind: kind(status.code), message: status.message }
    }
}

/// The same table for gRPC.
#[cfg(feature = "grpc")]
mod grpc {
    use super::{Classify, Failure, Kind, Status, code, kind};

    /// The gRPC code of a kind.
    #[must_use]
    pub fn grpc_code(kind: Kind) -> tonic::Code {
        tonic::Code::from_i32(code(kind))
    }

    /// The gRPC status that says what `error` says, causes included.
    #[must_use]
    pub fn grpc<E: Classify>(error: &E) -> tonic::Status {
        tonic::Status::new(grpc_code(error.kind()), error.wire_message())
    }

    impl From<Status> for tonic::Status {
        fn from(status: Status) -> Self {
            Self::new(tonic::Code::from_i32(status.code), status.message)
        }
    }

    impl From<tonic::Status> for Failure {
        fn from(status: tonic::Status) -> Self {
            Self { kind: kind(i32::from(status.code())), message: status.message().to_owned() }
        }
    }
}

#[cfg(feature = "grpc")]
pub use grpc::{grpc, grpc_code};

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Kind; 14] = [
        Kind::InvalidArgument,
        Kind::NotFound,
        Kind::AlreadyExists,
        Kind::FailedPrecondition,
        Kind::Unavailable,
        Kind::OutOfRange,
        Kind::Unimplemented,
        Kind::Canceled,
        Kind::DeadlineExceeded,
        Kind::PermissionDenied,
        Kind::ResourceExhausted,
        Kind::DataLoss,
        Kind::Internal,
        Kind::Unknown,
    ];

    #[test]
    fn every_kind_comes_back_from_its_code() {
        for each in ALL {
            assert_eq!(kind(code(each)), each, "{each:?}");
            assert_ne!(code(each), OK, "{each:?}");
        }
    }

    #[test]
    fn codes_without_a_kind_keep_their_meaning_for_the_caller() {
        assert_eq!(
            [0, 10, 16, 17, -1].map(kind),
            [Kind::Unknown, Kind::Unavailable, Kind::PermissionDenied, Kind::Unknown, Kind::Unknown]
        );
    }

    #[test]
    fn a_failure_is_passed_on_word_for_word() {
        let text = "OCI runtime create failed: exec: \"nope\": executable file not found in $PATH";
        let sent = new(Kind::Unknown, text);
        assert_eq!(of(&Failure::from(sent.clone())), sent);
    }

    #[cfg(feature = "grpc")]
    #[test]
    fn grpc_codes_are_the_names_we_mean() {
        use tonic::Code;
        for (kind, code) in [
            (Kind::InvalidArgument, Code::InvalidArgument),
            (Kind::NotFound, Code::NotFound),
            (Kind::AlreadyExists, Code::AlreadyExists),
            (Kind::FailedPrecondition, Code::FailedPrecondition),
            (Kind::Unavailable, Code::Unavailable),
            (Kind::OutOfRange, Code::OutOfRange),
            (Kind::Unimplemented, Code::Unimplemented),
            (Kind::Canceled, Code::Cancelled),
            (Kind::DeadlineExceeded, Code::DeadlineExceeded),
            (Kind::PermissionDenied, Code::PermissionDenied),
            (Kind::ResourceExhausted, Code::ResourceExhausted),
            (Kind::DataLoss, Code::DataLoss),
            (Kind::Internal, Code::Internal),
            (Kind::Unknown, Code::Unknown),
        ] {
            assert_eq!(grpc_code(kind), code);
        }
    }
}
