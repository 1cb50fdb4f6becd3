//! One cgroup in all hierarchies.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::{
    AnyManagerError, CgroupConfig, CgroupManager, CgroupSetup, ControllerOpt, CreateCgroupSetupError, FreezerState,
};
use crate::file::{self, Error};
use crate::places::{DEFAULT_CGROUP_ROOT, Hierarchy, get_cgroup_setup, hierarchies};
use crate::{join, limits_v1, limits_v2, stats};

/// How often a cgroup that is not empty yet is tried to be removed, and how long to wait the first time; then twice as long.
const REMOVALS: u32 = 8;
const PAUSE: Duration = Duration::from_millis(1);

/// The manager of one cgroup.
#[derive(Debug)]
pub struct Manager {
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// The hierarchies, and the path below each.
    V1 { hierarchies: Vec<Hierarchy>, path: PathBuf },
    /// The folder.
    V2 { path: PathBuf },
}

/// The manager of the cgroup at a path.
///
/// # Errors
/// There are no cgroups here, or the path leads elsewhere.
pub fn create_cgroup_manager(config: CgroupConfig) -> Result<Manager, CreateCgroupSetupError> {
    // `systemd_cgroup` is not looked at: libcontainer sets it for every container with a user namespace, and a caller that
    // really wants systemd was refused before anything came here.
    let path = join::checked(&config.cgroup_path)?.to_owned();
    let setup = get_cgroup_setup().map_err(|error| Error::Step {
        what: format!("find the cgroups: {error}"),
        path: DEFAULT_CGROUP_ROOT.into(),
        source: std::io::ErrorKind::NotFound.into(),
    })?;
    let place = match setup {
        CgroupSetup::Legacy | CgroupSetup::Hybrid => Place::V1 { hierarchies: hierarchies()?, path },
        CgroupSetup::Unified => Place::V2 { path },
    };
    Ok(Manager { place })
}

impl Manager {
    /// Nothing differs for users without privileges: what the kernel refuses is an error.
    #[must_use]
    pub fn with_rootless(self, _rootless: bool) -> Self {
        self
    }

    fn folders(&self) -> Vec<PathBuf> {
        match &self.place {
            Place::V1 { hierarchies, path } => hierarchies.iter().map(|one| one.point.join(path)).collect(),
            Place::V2 { path } => vec![Path::new(DEFAULT_CGROUP_ROOT).join(path)],
        }
    }
}

impl CgroupManager for Manager {
    type Error = AnyManagerError;

    fn add_task(&self, pid: Pid) -> Result<(), AnyManagerError> {
        match &self.place {
            Place::V1 { hierarchies, path } => {
                for hierarchy in hierarchies {
                    join::enter_v1(hierarchy, path, pid)?;
                }
            }
            Place::V2 { path } => join::enter_v2(Path::new(DEFAULT_CGROUP_ROOT), path, pid)?,
        }
        Ok(())
    }

    fn apply(&self, controller_opt: &ControllerOpt<'_>) -> Result<(), AnyManagerError> {
        match &self.place {
            Place::V1 { hierarchies, path } => limits_v1::apply(hierarchies, path, controller_opt)?,
            Place::V2 { path } => {
                limits_v2::apply(&Path::new(DEFAULT_CGROUP_ROOT).join(path), controller_opt.resources)?;
            }
        }
        match controller_opt.freezer_state {
            Some(state) => self.freeze(state),
            None => Ok(()),
        }
    }

    fn remove(&self) -> Result<(), AnyManagerError> {
        for folder in self.folders() {
            remove(&folder)?;
        }
        Ok(())
    }

    fn freeze(&self, state: FreezerState) -> Result<(), AnyManagerError> {
        let is_frozen = match state {
            FreezerState::Undefined => return Ok(()),
            FreezerState::Frozen => true,
            FreezerState::Thawed => false,
        };
        match &self.place {
            Place::V1 { hierarchies, path } => {
                let folder = limits_v1::folder(hierarchies, path, "freezer")?;
                file::write(&folder, "freezer.state", if is_frozen { "FROZEN" } else { "THAWED" })?;
            }
            Place::V2 { path } => {
                file::write(&Path::new(DEFAULT_CGROUP_ROOT).join(path), "cgroup.freeze", u8::from(is_frozen))?;
            }
        }
        Ok(())
    }

    fn stats(&self) -> Result<stats::Stats, AnyManagerError> {
        Err(Error::Unsupported { what: "reading statistics here" }.into())
    }

    fn get_all_pids(&self) -> Result<Vec<Pid>, AnyManagerError> {
        // All hierarchies have the same ones.
        match self.folders().first() {
            Some(folder) => Ok(pids(folder)?),
            None => Ok(Vec::new()),
        }
    }
}

/// The processes in a cgroup and below; none if it is gone.
fn pids(folder: &Path) -> Result<Vec<Pid>, Error> {
    let own = match file::read(folder, "cgroup.procs") {
        Err(error) if error.is_missing() => return Ok(Vec::new()),
        own => own?,
    };
    let mut all: Vec<Pid> = own.lines().filter_map(|line| line.parse().ok()).map(Pid::from_raw).collect();
    for child in children(folder) {
        all.extend(pids(&child)?);
    }
    Ok(all)
}

fn children(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

fn remove(folder: &Path) -> Result<(), Error> {
    let mut pause = PAUSE;
    for attempt in 1.. {
        for pid in pids(folder)?.into_iter().filter(|pid| pid.as_raw() > 0) {
            let _ = kill(pid, Signal::SIGKILL);
        }
        for child in children(folder) {
            remove(&child)?;
        }
        match fs::remove_dir(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                if attempt == REMOVALS {
                    return Err(Error::at("remove", folder)(error));
                }
            }
            _ => break,
        }
        std::thread::sleep(pause);
        pause *= 2;
    }
    Ok(())
}
