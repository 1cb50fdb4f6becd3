//! What a daemon and its shims take, from the kernel's own account.

use std::path::Path;

use anyhow::Context as _;

/// Memory of one process, in KiB.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    /// In memory, shared pages included.
    pub(crate) resident: f64,
    /// Its alone.
    pub(crate) private: f64,
}

/// Memory of a daemon and the mean of its shims.
pub(crate) struct Support {
    /// The daemon.
    pub(crate) daemon: Memory,
    /// One shim, in the mean.
    pub(crate) shim: Memory,
}

/// Finds the daemon and the shims by the daemon's folder in their command line.
pub(crate) fn support(folder: &Path) -> anyhow::Result<Support> {
    let text = folder.display().to_string();
    let (mut daemon, mut shims) = (None, Vec::new());
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(line) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line).into_owned();
        let program = line.split('\0').next().unwrap_or_default().rsplit('/').next().unwrap_or_default().to_owned();
        if !line.contains(&text) || pid == std::process::id() {
            continue;
        }
        if program.contains("shim") {
            shims.push(of(pid)?);
        } else if matches!(program.as_str(), "gantryd" | "containerd") {
            daemon = Some(of(pid)?);
        }
    }
    anyhow::ensure!(!shims.is_empty(), "no shim names {text} in its command line");
    let mean = |pick: fn(&Memory) -> f64| shims.iter().map(pick).sum::<f64>() / shims.len() as f64;
    let shim = Memory { resident: mean(|memory| memory.resident), private: mean(|memory| memory.private) };
    Ok(Support { daemon: daemon.context("the daemon is not found")?, shim })
}

fn of(pid: u32) -> anyhow::Result<Memory> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let field = |name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0.0)
    };
    Ok(Memory { resident: field("Rss:"), private: field("Private_Clean:") + field("Private_Dirty:") })
}
