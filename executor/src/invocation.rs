//! An OCI-runtime command line as a value. Pure data: nothing here starts a process.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// What an [`Invocation`] does; decides error prefixes and whether output is captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Set up a container.
    Create,
    /// Run its program.
    Start,
    /// Send a signal.
    Kill,
    /// Remove it.
    Delete,
    /// One more process.
    Exec,
    /// Freeze.
    Pause,
    /// Thaw.
    Resume,
    /// New limits.
    Update,
    /// List pids.
    Ps,
    /// OCI state.
    State,
    /// OCI features.
    Features,
    /// Save to files.
    Checkpoint,
    /// Go on from files.
    Restore,
}

impl Verb {
    /// The word on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Start => "start",
            Self::Kill => "kill",
            Self::Delete => "delete",
            Self::Exec => "exec",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Update => "update",
            Self::Ps => "ps",
            Self::State => "state",
            Self::Features => "features",
            Self::Checkpoint => "checkpoint",
            Self::Restore => "restore",
        }
    }

    /// Whether the runtime's own stdout and stderr are kept in the [`Outcome`](crate::Outcome). `create`,
    /// `restore` and `exec` hand theirs on to the container's process, so they are never captured.
    pub fn captures(self) -> bool {
        !matches!(self, Self::Create | Self::Restore | Self::Exec)
    }

    /// How long a healthy runtime may take; after that the shim kills it and reports [`Ended::TimedOut`](crate::Ended).
    pub fn deadline(self) -> Duration {
        match self {
            // Hooks run inside; the longest ones seen (GPU set-up, remote volumes) take tens of seconds.
            Self::Create | Self::Start => Duration::from_secs(120),
            // All memory of the container goes to or comes from a disk.
            Self::Checkpoint | Self::Restore => Duration::from_secs(600),
            Self::Exec | Self::Delete => Duration::from_secs(60),
            Self::Kill | Self::Pause | Self::Resume | Self::Update => Duration::from_secs(30),
            Self::Ps | Self::State | Self::Features => Duration::from_secs(10),
        }
    }
}

/// Arguments of [`Executor::create`](crate::Executor::create).
#[derive(Debug, Clone)]
pub struct Create {
    /// The container.
    pub id: String,
    /// The folder with `config.json`.
    pub bundle: PathBuf,
    /// Where the pid of the init is written.
    pub pid_file: PathBuf,
    /// Unix socket that receives the terminal's master (spec `process.terminal`).
    pub console_socket: Option<PathBuf>,
}

/// Arguments of [`Executor::exec`](crate::Executor::exec). Always detached: the process outlives the runtime's.
#[derive(Debug, Clone)]
pub struct Exec {
    /// The container.
    pub id: String,
    /// A file with the OCI `Process` as JSON.
    pub process_json: PathBuf,
    /// Where the pid is written.
    pub pid_file: PathBuf,
    /// Unix socket that receives the terminal's master (`terminal` in the process).
    pub console_socket: Option<PathBuf>,
}

/// One command line, ready for [`spawn`](crate::spawn()).
#[derive(Debug, Clone)]
pub struct Invocation {
    /// What it does.
    pub verb: Verb,
    /// A path, or a bare name to be found in `$PATH`.
    pub program: PathBuf,
    /// Everything after the program's name.
    pub args: Vec<OsString>,
    /// Variables set on top of the caller's environment.
    pub env: Vec<(OsString, OsString)>,
    /// Working folder, if another than the caller's.
    pub cwd: Option<PathBuf>,
    /// Bytes for its standard input.
    pub stdin: Option<Vec<u8>>,
    /// The JSON log it appends to.
    pub log: PathBuf,
    /// When to give up on it.
    pub deadline: Duration,
}
