//! One container's cgroup, v1 and v2: statistics, members, kill, freeze, out-of-memory notices.
//!
//! A [`Cgroup`] is found from a pid while the container lives and stays valid after; nothing is cached but paths.
//! It only reads, except [`kill`](Cgroup::kill) and [`freeze`](Cgroup::freeze); making and removing cgroups is the
//! runtime's work.

mod oom;
pub mod v1;
pub mod v2;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use oom::OomWatch;

/// Where cgroups are mounted on every known system.
pub const ROOT: &str = "/sys/fs/cgroup";

/// How the host mounts its cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Only v1 hierarchies.
    V1,
    /// v1 hierarchies carry the controllers, a v2 one beside them (`unified`) carries none.
    Hybrid,
    /// One v2 hierarchy.
    V2,
}

/// What a container used, in the shape of the host's cgroup version.
#[derive(Debug, Clone, PartialEq)]
pub enum Metrics {
    /// `io.containerd.cgroups.v1.Metrics`
    V1(Box<v1::Metrics>),
    /// `io.containerd.cgroups.v2.Metrics`
    V2(Box<v2::Metrics>),
}

/// Why a cgroup could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The container's cgroup is gone, or the pid is.
    #[error("cgroup {} does not exist", path.display())]
    Gone {
        /// The folder or file looked for.
        path: PathBuf,
    },
    /// The kernel refused.
    #[error("cgroup file {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// The folders of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    mode: Mode,
    /// v1: controller (or `name=systemd`) → folder; v2: the empty name → folder.
    folders: BTreeMap<String, PathBuf>,
}

/// How cgroups are mounted under `root`.
pub fn probe(root: &Path) -> Mode {
    let _ = root;
    todo!()
}

impl Cgroup {
    /// The cgroup that `pid` is in now.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Gone`] when there is no such process.
    pub fn of_pid(pid: i32) -> Result<Self, CgroupError> {
        Self::of_pid_under(Path::new(ROOT), Path::new("/proc"), pid)
    }

    /// [`of_pid`](Self::of_pid) with other mount points.
    ///
    /// # Errors
    ///
    /// See [`of_pid`](Self::of_pid).
    pub fn of_pid_under(root: &Path, proc: &Path, pid: i32) -> Result<Self, CgroupError> {
        let _ = (root, proc, pid);
        todo!()
    }

    /// How the host mounts its cgroups.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The folder of one controller (`memory`, `freezer`, …); with v2 the one folder there is.
    pub fn folder(&self, controller: &str) -> Option<&Path> {
        let name = if self.mode == Mode::V2 { "" } else { controller };
        self.folders.get(name).map(PathBuf::as_path)
    }

    /// Statistics of the container and all below it.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Gone`] when the cgroup was removed.
    pub fn metrics(&self) -> Result<Metrics, CgroupError> {
        todo!()
    }

    /// The pids of the container, those in sub-cgroups too, sorted.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Gone`] when the cgroup was removed.
    pub fn pids(&self) -> Result<Vec<i32>, CgroupError> {
        todo!()
    }

    /// Kills every process in it (SIGKILL), frozen or not, those being forked too.
    ///
    /// # Errors
    ///
    /// When the kernel refuses; a removed cgroup is success.
    pub fn kill(&self) -> Result<(), CgroupError> {
        todo!()
    }

    /// Freezes or thaws. Returns once the kernel was asked, not when every process has stopped: see [`is_frozen`](Self::is_frozen).
    ///
    /// # Errors
    ///
    /// When there is no freezer or the kernel refuses.
    pub fn freeze(&self, frozen: bool) -> Result<(), CgroupError> {
        let _ = frozen;
        todo!()
    }

    /// Whether all its processes are frozen.
    ///
    /// # Errors
    ///
    /// When there is no freezer or it cannot be read.
    pub fn is_frozen(&self) -> Result<bool, CgroupError> {
        todo!()
    }

    /// A descriptor to poll that wakes on out-of-memory kills.
    ///
    /// # Errors
    ///
    /// When there is no memory controller or the kernel refuses.
    pub fn watch_oom(&self) -> Result<OomWatch, CgroupError> {
        todo!()
    }
}
