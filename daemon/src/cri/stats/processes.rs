//! What can only be said of processes one by one: their open files and limits. Costly, so it is read for metrics alone.

use std::path::Path;

/// Processes of a container that are looked at; of more, only the number is told.
const LOOKED_AT: usize = 256;
/// Open files of one process that are told apart.
const MAX_FILES: usize = 4096;

/// What the processes of a cgroup have open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Processes {
    /// How many there are.
    pub count: u64,
    /// Their open files.
    pub files: u64,
    /// Those that are sockets.
    pub sockets: u64,
    /// The soft limit of open files of the first of them.
    pub files_soft_limit: Option<u64>,
}

/// Looks at the processes of the cgroup in `folder`, not at those of its children. All zero if it is gone.
pub fn processes(proc: &Path, folder: &Path) -> Processes {
    let text = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    let pids: Vec<&str> = text.lines().collect();
    let mut all = Processes { count: pids.len() as u64, ..Processes::default() };
    for pid in pids.iter().take(LOOKED_AT) {
        let entries = std::fs::read_dir(proc.join(pid).join("fd")).into_iter().flatten().flatten();
        for entry in entries.take(MAX_FILES) {
            all.files += 1;
            let socket = |target: std::path::PathBuf| target.as_os_str().as_encoded_bytes().starts_with(b"socket:");
            all.sockets += u64::from(std::fs::read_link(entry.path()).is_ok_and(socket));
        }
    }
    all.files_soft_limit = pids.first().and_then(|pid| {
        let limits = std::fs::read_to_string(proc.join(pid).join("limits")).ok()?;
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
        line.split_whitespace().next()?.parse().ok()
    });
    all
}
