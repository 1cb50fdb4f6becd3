//! One container's cgroup, v1 and v2: statistics, members, kill, freeze, out-of-memory notices.
//!
//! A [`Cgroup`] is found from a pid while the container lives and stays valid after; nothing is cached but paths.
//! It only reads, except [`kill`](Cgroup::kill), [`freeze`](Cgroup::freeze) and [`remove`](Cgroup::remove). It never
//! acts on a cgroup that holds the calling process: a runtime that made none would leave the container in ours.

mod devices;
mod files;
mod find;
mod members;
mod oom;
pub mod v1;
pub mod v2;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub(crate) use devices::Instruction as DeviceInstruction;
pub(crate) use devices::program as device_program;
pub(crate) use find::below;
pub use find::probe;
pub use oom::OomWatch;

/// Where cgroups are mounted on every known system.
pub const ROOT: &str = "/sys/fs/cgroup";

/// How the host mounts its cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
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
    /// It is the cgroup of the calling process, or the root: not one container's.
    #[error("cgroup {} is not a container's own", path.display())]
    NotOwn {
        /// The folder.
        path: PathBuf,
    },
    /// The controller needed is not mounted or not enabled.
    #[error("cgroup has no {controller} controller")]
    NoController {
        /// Its name.
        controller: &'static str,
    },
    /// Processes kept appearing, or did not die.
    #[error("cgroup {} still has processes", path.display())]
    Busy {
        /// The folder.
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

impl model::error::Classify for CgroupError {
    fn kind(&self) -> model::error::Kind {
        use model::error::Kind;
        match self {
            Self::Gone { .. } => Kind::NotFound,
            Self::NotOwn { .. } | Self::NoController { .. } => Kind::FailedPrecondition,
            Self::Busy { .. } => Kind::Unavailable,
            Self::Io { source, .. } => model::error::io_kind(source),
        }
    }
}

/// The folders of one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    mode: Mode,
    /// v1: controller (or `name=systemd`, `unified`) to folder; v2: the empty name to the one folder.
    folders: BTreeMap<String, PathBuf>,
}

impl Cgroup {
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
        self.must_exist()?;
        Ok(match self.mode {
            Mode::V2 => Metrics::V2(Box::new(v2::read(self.members()?))),
            Mode::V1 | Mode::Hybrid => Metrics::V1(Box::new(v1::read(self))),
        })
    }

    /// A descriptor to poll that wakes on out-of-memory kills.
    ///
    /// # Errors
    ///
    /// When there is no memory controller or the kernel refuses.
    pub fn watch_oom(&self) -> Result<OomWatch, CgroupError> {
        let folder = self.folder("memory").ok_or(CgroupError::NoController { controller: "memory" })?;
        match self.mode {
            Mode::V2 => OomWatch::v2(folder),
            Mode::V1 | Mode::Hybrid => OomWatch::v1(folder),
        }
    }

    /// Makes `program` the rules about devices. Only on v2: elsewhere they are files of the `devices` controller.
    pub(crate) fn set_device_rules(&self, program: &[DeviceInstruction]) -> Result<(), CgroupError> {
        match self.mode {
            Mode::V2 => devices::attach(self.members()?, program),
            Mode::V1 | Mode::Hybrid => Ok(()),
        }
    }

    /// The files by which a process that writes `0` to each becomes a member. Opened where cgroups can be seen, used anywhere.
    pub(crate) fn open_members(&self) -> Result<Vec<std::fs::File>, CgroupError> {
        let open = |folder: &Path| {
            // On v1 a process of one thread moves by `tasks` without the lock that the other file takes, whose wait for a
            // grace period costs 5 to 20 ms.
            let tasks = folder.join("tasks");
            let path = if tasks.exists() { tasks } else { folder.join("cgroup.procs") };
            std::fs::OpenOptions::new().write(true).open(&path).map_err(|source| match source.kind() {
                std::io::ErrorKind::NotFound => CgroupError::Gone { path: path.clone() },
                _ => CgroupError::Io { path: path.clone(), source },
            })
        };
        let mut folders: Vec<&Path> = self.all().collect();
        // Controllers that are mounted together have one folder.
        folders.sort_unstable();
        folders.dedup();
        folders.into_iter().map(open).collect()
    }

    /// Every distinct folder.
    fn all(&self) -> impl Iterator<Item = &Path> {
        self.folders.values().map(PathBuf::as_path)
    }

    /// The folder whose processes are the container's.
    fn members(&self) -> Result<&Path, CgroupError> {
        // Every runtime joins these; the order only matters when a hierarchy is missing.
        const PREFERRED: [&str; 6] = ["freezer", "devices", "pids", "memory", "cpu", "name=systemd"];
        PREFERRED
            .iter()
            .find_map(|controller| self.folder(controller))
            .ok_or(CgroupError::NoController { controller: "freezer" })
    }

    fn must_exist(&self) -> Result<(), CgroupError> {
        let path = self.members()?;
        if path.is_dir() { Ok(()) } else { Err(CgroupError::Gone { path: path.to_owned() }) }
    }
}
