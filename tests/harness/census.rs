//! What a daemon has on the machine: mounts, processes, cgroups, files. Taken before and after a story, both must be the same.
//!
//! Other stories run at the same time, so a census is of one daemon's folder and of ids with one prefix only.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What there is of one daemon, in words.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Census {
    /// Mount points.
    pub mounts: BTreeSet<String>,
    /// Processes, by id and command line, without the daemon's own.
    pub processes: BTreeSet<String>,
    /// Folders of cgroups.
    pub cgroups: BTreeSet<String>,
    /// Files and folders below state, and the sockets of shims.
    pub files: BTreeSet<String>,
}

impl Census {
    /// Counts what the daemon with `folder` has, and every cgroup whose name begins with `prefix`.
    pub fn take(folder: &Path, prefix: &str, daemon: u32) -> Self {
        let text = folder.display().to_string();
        let own = |pid: &u32| *pid != daemon && *pid != std::process::id();
        Self {
            mounts: mount_points(&text)
                .into_iter()
                .map(|path| path.display().to_string())
                .filter(|point| !is_layer(point))
                .collect(),
            processes: processes(&text)
                .into_iter()
                .filter(|(pid, _)| own(pid))
                .map(|(pid, line)| format!("{pid} {line}"))
                .collect(),
            cgroups: cgroups(prefix),
            files: files(folder),
        }
    }

    /// What is here and was not in `before`, one thing a line; empty when nothing is.
    pub fn left_since(&self, before: &Self) -> String {
        let mut left = String::new();
        for (what, now, then) in [
            ("mount", &self.mounts, &before.mounts),
            ("process", &self.processes, &before.processes),
            ("cgroup", &self.cgroups, &before.cgroups),
            ("file", &self.files, &before.files),
        ] {
            for thing in now.difference(then) {
                left.push_str(&format!("{what} {thing}\n"));
            }
        }
        left
    }
}

/// Whether a mount point is that of a layer, which stays mounted as long as its image is there.
fn is_layer(point: &str) -> bool {
    point.contains("/snapshots/overlayfs/snapshots/") && point.ends_with("/fs")
}

/// Mount points at or below `text`, the deepest first.
fn mount_points(text: &str) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut points: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|point| point.starts_with(text))
        .map(PathBuf::from)
        .collect();
    points.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    points
}

/// Processes that name `text` in their command line or environment.
fn processes(text: &str) -> Vec<(u32, String)> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let described = pids.filter_map(|pid| {
        let read = |name: &str| {
            std::fs::read(format!("/proc/{pid}/{name}"))
                .map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " "))
                .ok()
        };
        let line = read("cmdline").filter(|line| !line.is_empty())?;
        (line.contains(text) || read("environ").is_some_and(|environment| environment.contains(text)))
            .then_some((pid, line))
    });
    described.collect()
}

/// Folders of cgroups whose name begins with `prefix`, in every hierarchy.
fn cgroups(prefix: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![(PathBuf::from("/sys/fs/cgroup"), 0)];
    while let Some((folder, depth)) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                found.insert(entry.path().display().to_string());
            }
            if depth < 3 {
                folders.push((entry.path(), depth + 1));
            }
        }
    }
    found
}

/// What is below the state folder, and every snapshot folder below root.
fn files(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.join("state")];
    folders.extend(["overlayfs", "native"].map(|name| folder.join(format!("root/snapshots/{name}/snapshots"))));
    let deep = folders[0].clone();
    while let Some(one) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&one) else { continue };
        for entry in entries.flatten() {
            found.insert(entry.path().display().to_string());
            if entry.path().starts_with(&deep) && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
        }
    }
    found
}

/// Ends and unmounts whatever names `folder`, so that a failed story leaves nothing on the machine.
pub(crate) fn sweep(folder: &Path) {
    let text = folder.display().to_string();
    for (pid, _) in processes(&text).into_iter().filter(|(pid, _)| *pid != std::process::id()) {
        // It was started below a folder that only this story has.
        let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
    }
    for point in mount_points(&text) {
        let _ = umount2(&point, MntFlags::MNT_DETACH);
    }
}
