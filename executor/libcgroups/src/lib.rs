//! Control groups for libcontainer: made, entered, given limits, removed. v1 and hybrid machines, and v2 alone.
//!
//! It has the interface of the crate of the same name that libcontainer was written for, and differs in one thing that matters: a process
//! enters a cgroup by itself. Writing a process id into `cgroup.procs` moves a whole thread group, for which the kernel takes a lock
//! that begins with a grace period of RCU: 5 to 20 ms when nobody has taken it a moment ago. A thread that writes `0` into `tasks` moves only
//! itself and takes no such lock. The process that libcontainer moves is the one that asks, and it has one thread, so both are the
//! same. v2 has no such file; there a process that is in its place already is left there.
//!
//! Not here: statistics (the executor has its own), device rules on v2, systemd.

mod file;
mod join;
mod limits_v1;
mod limits_v2;
mod manager;
mod places;

pub use file::Error;

/// What both versions share.
pub mod common {
    pub use crate::manager::{Manager, create_cgroup_manager};
    pub use crate::places::{DEFAULT_CGROUP_ROOT, get_cgroup_setup};

    use std::path::PathBuf;

    use nix::unistd::Pid;
    use oci_spec::runtime::LinuxResources;

    /// Which hierarchies a machine has.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum CgroupSetup {
        /// v1 for the controllers, v2 beside it.
        Hybrid,
        /// v1 alone.
        Legacy,
        /// v2 alone.
        Unified,
    }

    /// Whether processes run.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum FreezerState {
        /// As it is.
        Undefined,
        /// They do not.
        Frozen,
        /// They do.
        Thawed,
    }

    /// What to apply.
    #[derive(Debug, Clone, Copy)]
    pub struct ControllerOpt<'a> {
        /// The limits.
        pub resources: &'a LinuxResources,
        /// Whether the kernel pauses instead of killing when memory runs out, v1 only.
        pub disable_oom_killer: bool,
        /// Not a matter of cgroups; ignored here as in the crate whose interface this is.
        pub oom_score_adj: Option<i32>,
        /// Whether processes are to run.
        pub freezer_state: Option<FreezerState>,
    }

    /// Which cgroup.
    #[derive(Debug, Clone)]
    pub struct CgroupConfig {
        /// Its path below the root of each hierarchy.
        pub cgroup_path: PathBuf,
        /// Whether systemd is to make it, which is refused.
        pub systemd_cgroup: bool,
        /// The container.
        pub container_name: String,
    }

    /// What can be done with a cgroup.
    pub trait CgroupManager {
        /// Why it cannot be done.
        type Error;

        /// Puts a process in it; it is made if it is not there.
        ///
        /// # Errors
        /// The kernel refuses.
        fn add_task(&self, pid: Pid) -> Result<(), Self::Error>;

        /// Sets limits.
        ///
        /// # Errors
        /// The kernel refuses, or a controller is not there.
        fn apply(&self, controller_opt: &ControllerOpt<'_>) -> Result<(), Self::Error>;

        /// Kills what is in it and removes it.
        ///
        /// # Errors
        /// Something does not die, or the kernel refuses.
        fn remove(&self) -> Result<(), Self::Error>;

        /// Stops all processes, or lets them run.
        ///
        /// # Errors
        /// The kernel refuses.
        fn freeze(&self, state: FreezerState) -> Result<(), Self::Error>;

        /// Not served.
        ///
        /// # Errors
        /// Always.
        fn stats(&self) -> Result<crate::stats::Stats, Self::Error>;

        /// All processes in it and below.
        ///
        /// # Errors
        /// It cannot be read.
        fn get_all_pids(&self) -> Result<Vec<Pid>, Self::Error>;
    }

    /// Why a cgroup could not be used.
    #[derive(Debug, thiserror::Error)]
    #[error(transparent)]
    pub struct AnyManagerError(#[from] crate::Error);

    /// Why there is no manager.
    #[derive(Debug, thiserror::Error)]
    #[error(transparent)]
    pub struct CreateCgroupSetupError(#[from] crate::Error);

    /// Why it is not known which hierarchies there are.
    #[derive(Debug, thiserror::Error)]
    #[error(transparent)]
    pub struct GetCgroupSetupError(#[from] crate::Error);
}

/// Statistics.
pub mod stats {
    /// None.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
    pub struct Stats {}
}

/// v1.
pub mod v1 {
    /// Where it is mounted.
    pub mod util {
        use std::path::PathBuf;

        /// The mount points of all hierarchies, named ones included.
        ///
        /// # Errors
        /// The table of mounts cannot be read.
        pub fn list_subsystem_mount_points() -> Result<Vec<PathBuf>, crate::Error> {
            Ok(crate::places::mounts("cgroup")?.into_iter().map(|mount| mount.point).collect())
        }
    }
}

/// v2.
pub mod v2 {
    /// Where it is mounted.
    pub mod util {
        use std::path::PathBuf;

        /// The mount point of the one hierarchy.
        ///
        /// # Errors
        /// It is mounted nowhere, or the table of mounts cannot be read.
        pub fn get_unified_mount_point() -> Result<PathBuf, crate::Error> {
            let found = crate::places::mounts("cgroup2")?.into_iter().next();
            found.map(|mount| mount.point).ok_or(crate::Error::Missing { controller: "cgroup2" })
        }
    }
}
