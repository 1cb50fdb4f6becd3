//! What the driver knows of a container and of each of its processes. Data and small questions, no actions.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use executor::Settings;
use executor::cgroup::{Cgroup, OomWatch};
use model::task::{Exit, Pid, State};

use super::Caller;
use crate::command::{Command, Refusal, Status, Target};
use crate::io::{ProcessEnds, Stdio, Streams};
use crate::journal;
use crate::poll::{Key, TimerId};

/// The name of a process within the driver; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Number(pub u64);

/// A checkpoint to go on from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RestoreFrom {
    /// The folder with the images.
    pub images: PathBuf,
    /// Where the one who restores keeps its files; the bundle if empty.
    pub work: Option<PathBuf>,
}

/// One container.
#[derive(Debug)]
pub(super) struct Container {
    pub bundle: PathBuf,
    /// Whether something was mounted on the bundle's `rootfs`.
    pub is_mounted: bool,
    pub settings: Settings,
    pub io_owner: (u32, u32),
    /// What it goes on from at its start, if not from the beginning.
    pub restore: Option<RestoreFrom>,
    pub init: Number,
    pub execs: BTreeMap<String, Number>,
    /// False until the executor has made it: nobody but its creator sees it before.
    pub is_created: bool,
    /// Whether its processes die with its init by themselves.
    pub has_own_pids: bool,
    pub cgroup: Option<Cgroup>,
    pub oom: Option<(OomWatch, Key)>,
    /// A kill for memory during the start, to be told once that is.
    pub has_untold_oom: bool,
    pub journal: Option<journal::Writer>,
    /// A change is under way: others wait.
    pub is_changing: bool,
    pub queue: VecDeque<(Command, Caller)>,
    /// Its init has ended so, but other processes have not: it is told when they have.
    pub dying: Option<(Exit, TimerId)>,
}

impl Container {
    /// Whether a further change must wait.
    pub(super) fn is_busy(&self) -> bool {
        self.is_changing || self.dying.is_some()
    }
}

/// Where a process is in its life.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Phase {
    /// Added, and not started: the OCI `Process` to run.
    Added(Vec<u8>),
    /// An executor makes it. Its exit, if it comes now, is kept until that is done.
    Launching,
    /// Made, and perhaps running; the state says.
    Live(State),
    /// As above, while the executor freezes it.
    Pausing(Pid),
}

/// How far a delete has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deleting {
    /// Output is still coming, until this deadline.
    Draining(Caller, TimerId),
    /// The executor is at work.
    Removing(Caller),
    /// The executor is done, and the end of the process, which was only created, is awaited.
    Ending(Caller, TimerId),
}

/// What a launch needs once the logger is ready.
#[derive(Debug)]
pub(super) struct Launch {
    pub ends: ProcessEnds,
    pub process_spec: Vec<u8>,
    pub caller: Caller,
    pub timer: Option<TimerId>,
}

/// One process.
#[derive(Debug)]
pub(super) struct Process {
    pub target: Target,
    pub streams: Streams,
    pub stdio: Stdio,
    pub phase: Phase,
    /// 0 until it is known.
    pub pid: Pid,
    /// Open while the process is there.
    pub pidfd: Option<OwnedFd>,
    /// A start is under way.
    pub is_starting: bool,
    /// It has ended during that start.
    pub ended_early: Option<Exit>,
    /// Held until its logger is ready.
    pub launch: Option<Launch>,
    /// The logger, until it has ended.
    pub logger: Option<Pid>,
    pub deleting: Option<Deleting>,
    /// Pumps that wait for an attached client.
    pub held: BTreeSet<Key>,
    /// An attached client has ended the input before the process was there.
    pub closes_input: bool,
    pub waiters: Vec<Caller>,
}

impl Process {
    pub(super) fn new(target: Target, streams: Streams, phase: Phase) -> Self {
        Self {
            target,
            streams,
            stdio: Stdio::default(),
            phase,
            pid: 0,
            pidfd: None,
            is_starting: false,
            ended_early: None,
            launch: None,
            logger: None,
            deleting: None,
            held: BTreeSet::new(),
            closes_input: false,
            waiters: Vec::new(),
        }
    }

    pub(super) fn is_init(&self) -> bool {
        self.target.exec.is_none()
    }

    /// The id in events: the container's for the init.
    pub(super) fn event_id(&self) -> &str {
        self.target.exec.as_deref().unwrap_or(&self.target.id)
    }

    pub(super) fn status(&self) -> Status {
        match self.phase {
            Phase::Added(_) | Phase::Launching | Phase::Live(State::Created { .. }) => Status::Created,
            Phase::Live(State::Running { .. }) => Status::Running,
            Phase::Live(State::Paused { .. }) => Status::Paused,
            Phase::Live(State::Stopped(_)) => Status::Stopped,
            Phase::Pausing(_) => Status::Pausing,
        }
    }

    pub(super) fn exit(&self) -> Option<Exit> {
        match self.phase {
            Phase::Live(State::Stopped(exit)) => Some(exit),
            _ => None,
        }
    }

    /// Whether its end is still to come.
    pub(super) fn is_alive(&self) -> bool {
        match self.phase {
            Phase::Added(_) | Phase::Live(State::Stopped(_)) => false,
            Phase::Launching | Phase::Pausing(_) | Phase::Live(_) => true,
        }
    }

    /// The refusal of something that its state forbids.
    pub(super) fn forbids(&self, verb: &'static str) -> Refusal {
        let state = match self.status() {
            Status::Created => "created",
            Status::Running => "running",
            Status::Pausing => "pausing",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        };
        Refusal::State { verb, state }
    }
}
