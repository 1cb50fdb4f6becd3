//! What can be asked of the driver, what it answers, and why it refuses. No wire types: `api.rs` translates.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use executor::ExecutorError;
use executor::cgroup::CgroupError;
use model::error::{Classify, Kind};
use model::task::{Exit, Pid};
use model::{ContainerId, ExecId, Mount};

use crate::io::{StdioError, Streams};
use crate::rootfs::RootfsError;
use crate::runtime::RuntimeError;
use crate::spec::SpecError;
use crate::usage::Usage;

/// A process: the init of a container, or one that was added to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// The container.
    pub id: String,
    /// The added process; `None` is the init.
    pub exec: Option<String>,
}

/// A container to be made.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CreateTask {
    /// Its id.
    pub id: ContainerId,
    /// Its bundle.
    pub bundle: PathBuf,
    /// What to mount as its root.
    pub rootfs: Vec<Mount>,
    /// Its streams.
    pub streams: Streams,
    /// The runtime's options.
    pub options: proto::runc::v1::Options,
    /// The folder of a checkpoint to go on from, in place of a fresh start.
    pub checkpoint: Option<PathBuf>,
}

/// A container to be saved.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CheckpointTask {
    /// The container.
    pub id: String,
    /// The folder for the images.
    pub path: PathBuf,
    /// How.
    pub options: proto::runc::v1::CheckpointOptions,
}

/// A process to be added.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AddExec {
    /// The container.
    pub id: String,
    /// The name of the process.
    pub exec: ExecId,
    /// Its streams.
    pub streams: Streams,
    /// The OCI `Process`, as JSON.
    pub process: Vec<u8>,
}

/// One call.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Command {
    /// How is a process?
    State(Target),
    /// Make a container.
    Create(Box<CreateTask>),
    /// Run a process.
    Start(Target),
    /// Forget a process that has ended; with an init, the container.
    Delete(Target),
    /// Which processes are in the container?
    Pids(String),
    /// Freeze all of them.
    Pause(String),
    /// Thaw them.
    Resume(String),
    /// Save it.
    Checkpoint(Box<CheckpointTask>),
    /// Send a signal.
    Kill {
        /// To this process,
        target: Target,
        /// this signal,
        signal: u32,
        /// or to all of the container's.
        all: bool,
    },
    /// Add a process; it runs when it is started.
    Exec(Box<AddExec>),
    /// Change the size of a terminal.
    Resize {
        /// Whose.
        target: Target,
        /// Columns.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// No more will come.
    CloseInput {
        /// For this process,
        target: Target,
        /// on its standard input. Nothing else can be closed.
        stdin: bool,
    },
    /// Change limits: the OCI `LinuxResources`, as JSON.
    Update(String, Vec<u8>),
    /// Tell when a process has ended.
    Wait(Target),
    /// What does the container use?
    Stats(String),
    /// Who are you?
    Connect(String),
    /// End, if there is no container.
    Shutdown,
    /// Show and feed streams as they flow.
    Attach(Attach),
    /// Open the logs of a process again.
    Reopen(Target),
    /// Something about the sandbox.
    Sandbox(SandboxCommand),
}

/// A sandbox to be made: the place of a pod's containers, with or without a process of its own.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CreateSandbox {
    /// Its id.
    pub id: ContainerId,
    /// Its bundle. With a `config.json` that has a process, the sandbox is that process.
    pub bundle: PathBuf,
    /// What to mount as the root of that process.
    pub rootfs: Vec<Mount>,
    /// The runtime's options.
    pub options: proto::runc::v1::Options,
    /// The network namespace, for information.
    pub netns: String,
}

/// One call about the sandbox, the id of which comes first.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum SandboxCommand {
    /// Make it.
    Create(Box<CreateSandbox>),
    /// Run it.
    Start(String),
    /// What can it run?
    Platform(String),
    /// End its process, by force after this long.
    Stop(String, Duration),
    /// Tell when it has ended.
    Wait(String),
    /// How is it?
    Status {
        /// The sandbox.
        id: String,
        /// Whether to tell more.
        is_verbose: bool,
    },
    /// Is it there?
    Ping(String),
    /// End and forget it, and end this server if it has nothing else.
    Shutdown(String),
    /// What does it use?
    Metrics(String),
}

/// How a sandbox is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SandboxState {
    /// Its id.
    pub id: String,
    /// Its process; 0 without.
    pub pid: Pid,
    /// Whether containers can be in it.
    pub is_ready: bool,
    /// When it was made.
    pub created_at: SystemTime,
    /// How it ended.
    pub exit: Option<Exit>,
    /// More about it.
    pub info: BTreeMap<String, String>,
}

/// A client that wants to be attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attach {
    /// To this process,
    pub target: Target,
    /// to bring input,
    pub stdin: bool,
    /// to see its output,
    pub stdout: bool,
    /// and its errors.
    pub stderr: bool,
}

/// One answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Answer {
    /// Done.
    Done,
    /// A process was made or runs.
    Pid(Pid),
    /// How a process is.
    State(Box<ProcessState>),
    /// A process has ended.
    Exited {
        /// It had this pid; 0 if it never ran.
        pid: Pid,
        /// How it ended; `None` if it never ran.
        exit: Option<Exit>,
    },
    /// The processes of a container, those that were added with their names.
    Pids(Vec<(Pid, Option<String>)>),
    /// What it uses.
    Stats(Box<Usage>),
    /// Who we are.
    Connected {
        /// Our pid.
        shim: Pid,
        /// The init's pid.
        task: Pid,
    },
    /// How the sandbox is.
    Sandbox(Box<SandboxState>),
    /// What this machine can run.
    Platform,
    /// What the sandbox uses, if it has a process.
    SandboxMetrics(String, Option<Box<Usage>>),
}

/// How a process is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ProcessState {
    /// The process.
    pub target: Target,
    /// The bundle of its container.
    pub bundle: PathBuf,
    /// Its pid; 0 before it runs.
    pub pid: Pid,
    /// Where it is in its life.
    pub status: Status,
    /// Its streams.
    pub streams: Streams,
    /// How it ended.
    pub exit: Option<Exit>,
}

/// Where a process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// It does not run yet.
    Created,
    /// It runs.
    Running,
    /// It is being frozen.
    Pausing,
    /// It is frozen.
    Paused,
    /// It has ended.
    Stopped,
}

/// Why a command was not carried out. The texts are those that clients know.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// No such container here.
    #[error("container not created")]
    NoContainer,
    /// No such sandbox here.
    #[error("sandbox {0}")]
    NoSandbox(String),
    /// There is one already.
    #[error("sandbox {0}")]
    SandboxExists(String),
    /// It is not in the state for that.
    #[error("sandbox {id} is {state}")]
    SandboxState {
        /// The sandbox.
        id: String,
        /// What it is.
        state: &'static str,
    },
    /// No such process in the container.
    #[error("process {0} does not exist")]
    NoProcess(String),
    /// The id is taken.
    #[error("container {0}")]
    ContainerExists(String),
    /// The name is taken.
    #[error("id {0}")]
    ProcessExists(String),
    /// The process has ended.
    #[error("process already finished")]
    Finished,
    /// The process does not run yet.
    #[error("process not created")]
    NotStarted,
    /// The init has ended, or does not run yet.
    #[error("container {0} init process is not running")]
    InitNotRunning(String),
    /// The state forbids it.
    #[error("cannot {verb} a {state} process")]
    State {
        /// What was asked.
        verb: &'static str,
        /// What the process is.
        state: &'static str,
    },
    /// There is no such signal.
    #[error("no signal {0}")]
    Signal(u32),
    /// Too many commands wait for the same container.
    #[error("{0} commands wait for this container")]
    Queue(usize),
    /// We were told to end, and are about to.
    #[error("this shim is ending")]
    Ending,
    /// The streams of the process are not of the kind for this.
    #[error("cannot attach: {0}")]
    Attach(&'static str),
    /// The container could not be saved.
    #[error("{source}, log: {}", log.display())]
    Checkpoint {
        /// What was left by the program that tried.
        log: PathBuf,
        /// Why not.
        source: Box<Refusal>,
    },
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The executor said no.
    #[error(transparent)]
    Executor(#[from] ExecutorError),
    /// Streams.
    #[error(transparent)]
    Stdio(#[from] StdioError),
    /// Mounts.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    /// The executor cannot be chosen.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The spec cannot be read.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The cgroup cannot be read.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The container has no cgroup that we know of.
    #[error("cgroup does not exist")]
    NoCgroup,
    /// A refusal of before, told now that its traces are gone.
    #[error("{1}")]
    Told(Kind, String),
    /// Something of our own failed.
    #[error("cannot {what}")]
    Io {
        /// What.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl Classify for Refusal {
    fn kind(&self) -> Kind {
        match self {
            Self::NoContainer | Self::NoSandbox(_) | Self::NoProcess(_) | Self::Finished | Self::NoCgroup => {
                Kind::NotFound
            }
            Self::ContainerExists(_) | Self::SandboxExists(_) | Self::ProcessExists(_) => Kind::AlreadyExists,
            Self::NotStarted
            | Self::InitNotRunning(_)
            | Self::State { .. }
            | Self::SandboxState { .. }
            | Self::Attach(_) => Kind::FailedPrecondition,
            Self::Signal(_) | Self::Invalid(_) => Kind::InvalidArgument,
            Self::Queue(_) => Kind::ResourceExhausted,
            Self::Ending => Kind::Unavailable,
            Self::Checkpoint { source, .. } => source.kind(),
            Self::Executor(error) => error.kind(),
            Self::Stdio(error) => error.kind(),
            Self::Rootfs(error) => error.kind(),
            Self::Runtime(error) => error.kind(),
            Self::Spec(error) => error.kind(),
            Self::Cgroup(error) => error.kind(),
            Self::Told(kind, _) => *kind,
            Self::Io { source, .. } => model::error::io_kind(source),
        }
    }
}
