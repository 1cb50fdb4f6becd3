//! Why something could not be done with a task.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use model::error::{Classify, Kind, io_kind};
use model::id::IdError;
use model::{ContainerId, Namespace};

use crate::ttrpc::CallError;

/// Why a request about a task failed. Texts of shims and runtimes are passed on as they are: clients search them for words.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// The container has no record.
    #[error("container {:?} in namespace {:?}", .id.as_str(), .namespace.as_str())]
    NoContainer {
        /// Its namespace.
        namespace: Namespace,
        /// Its id.
        id: ContainerId,
    },
    /// The record of the container cannot be read.
    #[error("cannot read container {id}")]
    Record {
        /// Its id.
        id: ContainerId,
        /// Why.
        source: store::StoreError,
    },
    /// The container has no task.
    #[error("task {id} not found")]
    NoTask {
        /// The container.
        id: ContainerId,
    },
    /// The container has a task already, or somebody is making one.
    #[error("task {id}")]
    Exists {
        /// The container.
        id: ContainerId,
    },
    /// The id of the container breaks the rule.
    #[error("container id")]
    ContainerId(#[source] IdError),
    /// The container has no spec to run.
    #[error("container {id} has no spec")]
    NoSpec {
        /// The container.
        id: ContainerId,
    },
    /// An exec needs an id.
    #[error("exec id cannot be empty")]
    NoExecId,
    /// The id of an exec breaks the rule.
    #[error("invalid exec id {id}")]
    ExecId {
        /// The id.
        id: String,
        /// The rule.
        source: IdError,
    },
    /// No shim could be started.
    #[error("failed to start shim")]
    Launch(#[from] LaunchError),
    /// The shim started, but refused to make the task.
    #[error("failed to create shim task")]
    Create(#[source] CallError),
    /// The shim ended while it made the task.
    #[error("failed to create shim task: the shim ended: {output}")]
    CreateLost {
        /// The last it had to say.
        output: String,
    },
    /// The shim refused, or cannot be asked.
    #[error(transparent)]
    Shim(#[from] CallError),
    /// What runs the task cannot be found.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// A part of the API that is not served yet.
    #[error("{what} not implemented")]
    Unserved {
        /// The part.
        what: &'static str,
    },
    /// The client went away while its task was being made.
    #[error("the client went away")]
    Gone,
    /// The daemon is about to end.
    #[error("daemon is stopping")]
    Stopping,
}

impl Classify for TaskError {
    fn kind(&self) -> Kind {
        match self {
            Self::NoContainer { .. } | Self::NoTask { .. } => Kind::NotFound,
            Self::Record { source, .. } => source.kind(),
            Self::Exists { .. } => Kind::AlreadyExists,
            Self::ContainerId(_) | Self::NoSpec { .. } | Self::NoExecId | Self::ExecId { .. } => Kind::InvalidArgument,
            Self::Launch(error) => error.kind(),
            Self::Create(error) | Self::Shim(error) => error.kind(),
            Self::CreateLost { .. } => Kind::Unknown,
            Self::Runtime(error) => error.kind(),
            Self::Unserved { .. } => Kind::Unimplemented,
            Self::Gone => Kind::Canceled,
            Self::Stopping => Kind::Unavailable,
        }
    }
}

/// Why no shim listens for a task. What it left behind is removed by whoever asked for it.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The folder of the task cannot be made.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Which shim to start is not known.
    #[error("failed to resolve runtime path")]
    Runtime(#[from] RuntimeError),
    /// The binary cannot be run.
    #[error("cannot run {}", .binary.display())]
    Spawn {
        /// The binary.
        binary: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `start` failed.
    #[error("{} start failed ({how}): {output}", .binary.display())]
    Failed {
        /// The binary.
        binary: PathBuf,
        /// How it ended.
        how: String,
        /// What it printed.
        output: String,
    },
    /// `start` did not end in time.
    #[error("{} start did not end within {limit:?}: {output}", .binary.display())]
    Slow {
        /// The binary.
        binary: PathBuf,
        /// The limit.
        limit: Duration,
        /// What it printed.
        output: String,
    },
    /// `start` printed what is no address.
    #[error("{} start printed no address: {output:?}", .binary.display())]
    Nonsense {
        /// The binary.
        binary: PathBuf,
        /// What it printed, cut.
        output: String,
    },
    /// The shim speaks something that is not spoken here.
    #[error("shim speaks version {version} over {protocol:?}, this daemon speaks versions 2 and 3 over \"ttrpc\"")]
    Foreign {
        /// The version.
        version: i32,
        /// The protocol.
        protocol: String,
    },
    /// The socket for the shim cannot be made.
    #[error("cannot make the socket {}", .path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A shim of that name is still there.
    #[error("another shim still listens on {}", .path.display())]
    StillThere {
        /// The socket.
        path: PathBuf,
    },
    /// Nobody answers at the address that the shim gave.
    #[error("cannot connect to the shim at {}", .path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Classify for LaunchError {
    fn kind(&self) -> Kind {
        match self {
            Self::Bundle(error) => error.kind(),
            Self::Runtime(error) => error.kind(),
            Self::Slow { .. } => Kind::DeadlineExceeded,
            Self::StillThere { .. } => Kind::AlreadyExists,
            Self::Foreign { .. } => Kind::Unimplemented,
            Self::Spawn { .. }
            | Self::Failed { .. }
            | Self::Nonsense { .. }
            | Self::Socket { .. }
            | Self::Connect { .. } => Kind::Unknown,
        }
    }
}

/// Why a runtime name means no binary.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// No name.
    #[error("runtime name must not be empty")]
    Empty,
    /// Neither a name nor an absolute path.
    #[error(
        "invalid runtime name {name}, correct runtime name should be either format like `io.containerd.runc.v2` or a full path to the binary"
    )]
    Malformed {
        /// The name.
        name: String,
    },
    /// One of the runtimes that had no shims of this kind.
    #[error("runtime {name} is deprecated and was removed, use io.containerd.runc.v2")]
    Deprecated {
        /// The name.
        name: String,
    },
    /// There is no such binary.
    #[error("runtime {name:?} binary not installed {binary:?}: file does not exist")]
    Missing {
        /// The name.
        name: String,
        /// The binary that was looked for.
        binary: String,
    },
    /// `-info` failed.
    #[error("cannot ask {} for what it can do: {output}", .binary.display())]
    Info {
        /// The binary.
        binary: PathBuf,
        /// What it printed, or why it could not be run.
        output: String,
    },
}

impl Classify for RuntimeError {
    fn kind(&self) -> Kind {
        match self {
            Self::Empty | Self::Malformed { .. } => Kind::InvalidArgument,
            Self::Deprecated { .. } => Kind::NotFound,
            Self::Missing { .. } | Self::Info { .. } => Kind::Unknown,
        }
    }
}

/// Why the folder of a task could not be made, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A step failed.
    #[error("cannot {step} {}", .path.display())]
    Step {
        /// What was done.
        step: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// There is such a folder.
    #[error("bundle {}", .path.display())]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// Something is still mounted below, so that nothing may be deleted.
    #[error("{} is still mounted, nothing is deleted", .path.display())]
    Mounted {
        /// Where.
        path: PathBuf,
    },
    /// A file of the folder is not what it should be.
    #[error("{} is no record of this program: {reason}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl Classify for BundleError {
    fn kind(&self) -> Kind {
        match self {
            Self::Step { source, .. } => io_kind(source),
            Self::Exists { .. } => Kind::AlreadyExists,
            Self::Mounted { .. } => Kind::FailedPrecondition,
            Self::Malformed { .. } => Kind::DataLoss,
        }
    }
}

impl BundleError {
    /// For `map_err` on a step.
    pub(super) fn at(step: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Step { step, path, source }
    }
}
