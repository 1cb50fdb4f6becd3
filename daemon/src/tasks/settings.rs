//! What the tasks are told by the configuration.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Where things are and what runs what.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The persistent root of the daemon.
    pub root: PathBuf,
    /// The volatile state of the daemon.
    pub state: PathBuf,
    /// The path of the gRPC socket, told to shims.
    pub grpc_address: PathBuf,
    /// The path of the ttrpc socket, where shims send events.
    pub ttrpc_address: PathBuf,
    /// The daemon's own binary, told to shims.
    pub daemon_binary: PathBuf,
    /// gantry-shim. Runtimes without an entry of their own in `runtimes` that mean it are `io.containerd.runc.v2` and
    /// `io.containerd.gantry.v1`.
    pub gantry_shim: PathBuf,
    /// Which binary a runtime name means, where it is not what the rule of names says.
    pub runtimes: BTreeMap<String, PathBuf>,
    /// The folder of the sockets that we make for shims; 0700.
    pub socket_dir: PathBuf,
    /// Added to the environment of shims.
    pub shim_env: Vec<(String, String)>,
    /// Whether shims shall log for debugging.
    pub debug: bool,
    /// How long to wait for what.
    pub timeouts: Timeouts,
}

/// How long to wait for a shim. The names of the configuration are those of containerd, where it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// `io.containerd.timeout.shim.load`: finding a running shim after a restart.
    pub load: Duration,
    /// `io.containerd.timeout.shim.cleanup`: the `delete` command of a shim.
    pub cleanup: Duration,
    /// `io.containerd.timeout.shim.shutdown`: the end of a shim after its task was deleted.
    pub shutdown: Duration,
    /// `io.containerd.timeout.task.state`: asking for a state.
    pub state: Duration,
    /// `io.containerd.timeout.metrics.shimstats`: asking for figures.
    pub stats: Duration,
    /// Starting a shim until it listens.
    pub start: Duration,
    /// Calls that do no more than one thing: kill, resize, pause, list.
    pub call: Duration,
    /// Calls that run the container's own programs, hooks for one: create, start, exec, delete.
    pub slow_call: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            load: Duration::from_secs(5),
            cleanup: Duration::from_secs(5),
            shutdown: Duration::from_secs(3),
            state: Duration::from_secs(2),
            stats: Duration::from_secs(2),
            start: Duration::from_secs(30),
            call: Duration::from_secs(60),
            slow_call: Duration::from_secs(600),
        }
    }
}

impl Settings {
    /// The folder below `state` that has a folder for each namespace, with a folder for each task.
    pub(super) fn bundles(&self) -> PathBuf {
        self.state.join(TASKS_FOLDER)
    }

    /// The folder below `state` for what is to become a part of a task.
    pub(super) fn scratch(&self) -> PathBuf {
        self.state.join("gantry.scratch")
    }

    /// The folder below `state` where ends of tasks are kept until clients were told.
    pub(super) fn untold(&self) -> PathBuf {
        self.state.join("gantry.untold")
    }

    /// The folder below `state` that has a folder for each namespace, with a folder for the shim of each sandbox.
    pub(super) fn sandboxes(&self) -> PathBuf {
        self.state.join(SANDBOXES_FOLDER)
    }

    /// The same below `root`.
    pub(super) fn sandbox_works(&self) -> PathBuf {
        self.root.join(SANDBOXES_FOLDER)
    }

    /// The same below `root`, for what a shim keeps across reboots.
    pub(super) fn works(&self) -> PathBuf {
        self.root.join(TASKS_FOLDER)
    }
}

/// The folder of the sandboxes, named as containerd's plugin.
const SANDBOXES_FOLDER: &str = "io.containerd.sandbox.controller.v1.shim";

/// The folder of the tasks, named as containerd's plugin.
const TASKS_FOLDER: &str = "io.containerd.runtime.v2.task";
