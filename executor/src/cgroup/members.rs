//! The processes of a cgroup: list, kill, freeze, and removal of the folders once they are gone.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Cgroup, CgroupError, Mode, ROOT, files};

/// How deep sub-cgroups are followed; systemd in a container makes about five levels.
const MAX_DEPTH: usize = 32;
/// Rounds of listing and killing before the rest counts as undying.
const MAX_ROUNDS: usize = 100;
/// How long the kernel may take to let go of a cgroup whose last process has just died.
const REMOVE_DEADLINE: Duration = Duration::from_secs(5);
/// Between two tries to remove.
const REMOVE_PAUSE: Duration = Duration::from_millis(2);

impl Cgroup {
    /// The pids of the container, those in sub-cgroups too, sorted.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Gone`] when the cgroup was removed.
    pub fn pids(&self) -> Result<Vec<i32>, CgroupError> {
        self.must_exist()?;
        let mut pids = Vec::new();
        walk(self.members()?, 0, &mut |folder| {
            let text = files::text(folder, "cgroup.procs").unwrap_or_default();
            // 0 stands for a process of another pid namespace.
            pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
        });
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Kills every process in it (SIGKILL), frozen or not, those being forked too.
    ///
    /// # Errors
    ///
    /// [`CgroupError::NotOwn`], or when the kernel refuses. A removed cgroup is success.
    pub fn kill(&self) -> Result<(), CgroupError> {
        self.signal_all(Signal::SIGKILL as i32)
    }

    /// Sends `signal` to every process in it.
    ///
    /// # Errors
    ///
    /// See [`kill`](Self::kill).
    pub fn signal_all(&self, signal: i32) -> Result<(), CgroupError> {
        if self.must_exist().is_err() {
            return Ok(());
        }
        let folder = self.own()?;
        let is_kill = signal == libc::SIGKILL;
        if is_kill && self.mode == Mode::V2 && files::write(folder, "cgroup.kill", "1").is_ok() {
            return Ok(());
        }
        // A frozen process neither forks nor dies, so one list is complete; thawing lets the signals in.
        let was_frozen = self.is_frozen().unwrap_or(false);
        let froze = is_kill && self.freeze(true).is_ok();
        let mut result = Ok(());
        for _ in 0..MAX_ROUNDS {
            let pids = self.pids().unwrap_or_default();
            for pid in &pids {
                match nix_kill(*pid, signal) {
                    Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
                    Err(errno) => result = Err(CgroupError::Io { path: folder.to_owned(), source: errno.into() }),
                }
            }
            if froze || !is_kill || pids.is_empty() {
                break;
            }
        }
        if froze || (is_kill && was_frozen) {
            self.freeze(false)?;
        }
        result
    }

    /// Freezes or thaws. Returns once the kernel was asked, not when every process has stopped: see
    /// [`is_frozen`](Self::is_frozen).
    ///
    /// # Errors
    ///
    /// When there is no freezer or the kernel refuses.
    pub fn freeze(&self, frozen: bool) -> Result<(), CgroupError> {
        self.own()?;
        let folder = self.freezer()?;
        match self.mode {
            Mode::V2 => files::write(folder, "cgroup.freeze", if frozen { "1" } else { "0" }),
            Mode::V1 | Mode::Hybrid => files::write(folder, "freezer.state", if frozen { "FROZEN" } else { "THAWED" }),
        }
    }

    /// Whether all its processes are frozen.
    ///
    /// # Errors
    ///
    /// When there is no freezer or it cannot be read.
    pub fn is_frozen(&self) -> Result<bool, CgroupError> {
        let folder = self.freezer()?;
        let gone = || CgroupError::Gone { path: folder.to_owned() };
        Ok(match self.mode {
            Mode::V2 => files::text(folder, "cgroup.events").ok_or_else(gone)?.lines().any(|line| line == "frozen 1"),
            Mode::V1 | Mode::Hybrid => files::text(folder, "freezer.state").ok_or_else(gone)?.trim() == "FROZEN",
        })
    }

    /// Removes the folders with everything below. The processes must be dead or dying.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Busy`] when processes stay for seconds; [`CgroupError::NotOwn`]. A missing folder is success.
    pub fn remove(&self) -> Result<(), CgroupError> {
        let end = Instant::now() + REMOVE_DEADLINE;
        for folder in self.all() {
            if is_mount_point(folder) {
                return Err(CgroupError::NotOwn { path: folder.to_owned() });
            }
            while let Err(error) = remove_tree(folder) {
                if error.raw_os_error() != Some(libc::EBUSY) {
                    return Err(CgroupError::Io { path: folder.to_owned(), source: error });
                }
                if Instant::now() > end {
                    return Err(CgroupError::Busy { path: folder.to_owned() });
                }
                std::thread::sleep(REMOVE_PAUSE);
            }
        }
        Ok(())
    }

    fn freezer(&self) -> Result<&Path, CgroupError> {
        self.folder("freezer").ok_or(CgroupError::NoController { controller: "freezer" })
    }

    /// The members' folder, after making sure that it is not the root and does not hold the caller.
    fn own(&self) -> Result<&Path, CgroupError> {
        let folder = self.members()?;
        let me = i32::try_from(std::process::id()).expect("a pid is a positive i32");
        if is_mount_point(folder) || self.pids()?.contains(&me) {
            return Err(CgroupError::NotOwn { path: folder.to_owned() });
        }
        Ok(folder)
    }
}

fn nix_kill(pid: i32, signal: i32) -> nix::Result<()> {
    // Real-time signals have no name in nix.
    match Signal::try_from(signal) {
        Ok(signal) => kill(Pid::from_raw(pid), signal),
        Err(_) => crate::sys::kill(pid, signal),
    }
}

/// Whether this is the top of a hierarchy: `<root>` or `<root>/<controller>`.
fn is_mount_point(folder: &Path) -> bool {
    folder == Path::new(ROOT)
        || folder.parent() == Some(Path::new(ROOT))
            && !folder.parent().is_some_and(|root| root.join("cgroup.controllers").exists())
}

fn walk(folder: &Path, depth: usize, visit: &mut dyn FnMut(&Path)) {
    visit(folder);
    if depth < MAX_DEPTH {
        for child in children(folder) {
            walk(&child, depth + 1, visit);
        }
    }
}

fn remove_tree(folder: &Path) -> std::io::Result<()> {
    for child in children(folder) {
        remove_tree(&child)?;
    }
    match std::fs::remove_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn children(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}
