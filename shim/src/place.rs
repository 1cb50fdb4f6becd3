//! Where a server belongs on its machine: its out-of-memory score, its cgroup.

use std::io;
use std::path::{Path, PathBuf};

/// The highest out-of-memory score.
const MAX_SCORE: i32 = 1000;
/// Where cgroups are mounted.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// Sets the out-of-memory score of `process` one above that of `daemon`: in need, shims go before their daemon.
///
/// # Errors
/// The kernel does not allow a lower score than the process has.
pub(crate) fn score_like(process: &str, daemon: i32) -> io::Result<()> {
    let file = |process: &str| format!("/proc/{process}/oom_score_adj");
    let read = |process: &str| -> io::Result<i32> {
        let text = std::fs::read_to_string(file(process))?;
        text.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into())
    };
    let wanted = (read(&daemon.to_string())? + 1).min(MAX_SCORE);
    if read(process)? == wanted {
        return Ok(());
    }
    std::fs::write(file(process), wanted.to_string())
}

/// Moves a process into a cgroup, in each hierarchy that has one of that name.
///
/// # Errors
/// There is none of that name, or the kernel refuses.
pub(crate) fn join_cgroup(pid: u32, path: &str) -> io::Result<()> {
    let inside = Path::new(path.trim_start_matches('/'));
    let mut folders: Vec<PathBuf> = vec![CGROUP_ROOT.into()];
    folders.extend(std::fs::read_dir(CGROUP_ROOT)?.filter_map(|entry| Some(entry.ok()?.path())));
    let mut joined = false;
    for folder in folders {
        let procs = folder.join(inside).join("cgroup.procs");
        if procs.exists() {
            std::fs::write(procs, pid.to_string())?;
            joined = true;
        }
    }
    if joined { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
}
