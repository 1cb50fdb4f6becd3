//! Files: every entry of the root and the state folder, what it is for, and how large it is.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use proto::gantry::v1::finding::Kind;
use store::{Read, tables};

use super::{Doctor, Flow, Found, Report};

/// What is in the root folder, by name.
const ROOT: &[(&str, &str)] = &[
    ("daemon.lock", "the lock of the daemon"),
    ("meta", "metadata"),
    ("content", "blobs and uploads"),
    ("snapshots", "snapshots"),
    ("io.containerd.grpc.v1.introspection", "the identity of the daemon"),
    ("io.containerd.runtime.v2.task", "what shims keep across reboots"),
    ("io.containerd.sandbox.controller.v1.shim", "what shims of sandboxes keep across reboots"),
    ("io.containerd.grpc.v1.cri", "pods and containers of Kubernetes"),
    ("cri", "pods and containers of Kubernetes"),
    ("verifiers", "programs that judge images"),
    ("migrated", "what a migration from containerd noted"),
];

/// What is in the state folder, by name.
const STATE: &[(&str, &str)] = &[
    ("daemon.lock", "the lock of the daemon"),
    ("s", "sockets of shims"),
    ("mounts", "mounts of the daemon itself"),
    ("fifo", "streams of clients"),
    ("io.containerd.runtime.v2.task", "bundles of tasks"),
    ("io.containerd.sandbox.controller.v1.shim", "bundles of sandboxes"),
    ("io.containerd.grpc.v1.cri", "pods and containers of Kubernetes"),
    ("cri", "pods and containers of Kubernetes"),
    ("gantry.untold", "events of shims that were not told yet"),
    ("netns", "network namespaces of pods"),
];

/// The deepest folder that is counted.
const MAX_DEPTH: usize = 256;

/// What something takes on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Size {
    /// Bytes, as allocated.
    pub(super) bytes: u64,
    /// Files and folders.
    pub(super) files: u64,
}

pub(super) fn look(doctor: &Doctor, report: &mut Report<'_>) -> Flow {
    let config = &doctor.config;
    folder(&config.root, ROOT, report, aside)?;
    folder(&config.state, STATE, report, |name| {
        let path = config.state.join(name);
        let sockets = [&config.grpc.socket.address, &config.ttrpc.address];
        sockets.iter().any(|socket| **socket == path).then_some("the daemon's socket")
    })?;
    snapshots(doctor, report)?;
    bundles(doctor, report)
}

/// What was moved out of the way is nobody's any more, but known.
fn aside(name: &str) -> Option<&'static str> {
    (name.contains(".aside-") || name == "aside")
        .then_some("moved aside by the daemon or the doctor; to be looked at and removed by a person")
}

/// Each entry of a folder.
fn folder(
    path: &Path,
    known: &[(&str, &'static str)],
    report: &mut Report<'_>,
    other: impl Fn(&str) -> Option<&'static str>,
) -> Flow {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Flow::Continue(()),
        Err(error) => {
            let sentence = format!("The folder cannot be read ({error}), so nothing can be said about it.");
            return report.finding(Found::new(Kind::Unreadable, path.display(), sentence));
        }
    };
    let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    for name in names {
        let (path, text) = (path.join(&name), name.to_string_lossy());
        let owner = known.iter().find(|(known, _)| *known == text).map(|(_, owner)| *owner).or_else(|| other(&text));
        report.account(path.clone(), owner.unwrap_or_default(), size_of(&path))?;
        if owner.is_none() {
            let sentence = "No part of the daemon would have made this; it is left alone.";
            report.finding(Found::new(Kind::Orphaned, path.display(), sentence))?;
        }
    }
    Flow::Continue(())
}

/// The folders of snapshots, and the records they belong to.
fn snapshots(doctor: &Doctor, report: &mut Report<'_>) -> Flow {
    for (name, driver) in &doctor.drivers {
        let Some(folder) = driver.root().map(|root| root.join("snapshots")) else { continue };
        let unowned = |numbers: &std::collections::HashSet<u64>| -> Vec<std::path::PathBuf> {
            let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
            let foreign = entries.filter(|entry| {
                let number = entry.file_name().to_str().and_then(|text| text.parse::<u64>().ok());
                !number.is_some_and(|number| numbers.contains(&number))
            });
            foreign.map(|entry| entry.path()).collect()
        };
        let Ok(records) = records(doctor, name) else {
            let sentence = "The records of this snapshotter cannot be read, so its folders cannot be accounted for.";
            report.finding(Found::new(Kind::Unreadable, folder.display(), sentence))?;
            continue;
        };
        for (key, number) in &records {
            if folder.join(number.to_string()).symlink_metadata().is_err()
                && self::records(doctor, name).is_ok_and(|now| now.contains(&(key.clone(), *number)))
            {
                let sentence = format!(
                    "The files of snapshot {key} are gone; containers on it cannot start, and its image has to be removed and \
                     pulled again."
                );
                report.finding(Found::new(Kind::Missing, folder.join(number.to_string()).display(), sentence))?;
            }
        }
        let numbers = records.iter().map(|(_, number)| *number).collect();
        let first = unowned(&numbers);
        if first.is_empty() {
            continue;
        }
        // A snapshot that is being made has its folder before its record, and one being removed after.
        let Ok(again) = self::records(doctor, name) else { continue };
        let numbers = again.iter().map(|(_, number)| *number).collect();
        let second = unowned(&numbers);
        for path in first.into_iter().filter(|path| second.contains(path)) {
            let sentence = "The folder belongs to no snapshot: a crash or an interrupted removal left it.";
            let mend = || match driver.cleanup() {
                Ok(()) if !path.exists() => Ok("the snapshotter removed it".to_owned()),
                Ok(()) => Err("the snapshotter holds it as being in use".to_owned()),
                Err(error) => Err(error.to_string()),
            };
            let found = Found::new(Kind::Orphaned, path.display(), sentence);
            report.finding(found.mended_by("the snapshotter removes it unless somebody is making it", mend))?;
        }
    }
    Flow::Continue(())
}

/// The keys of a driver's snapshots and the numbers of their folders.
fn records(doctor: &Doctor, driver: &str) -> Result<Vec<(String, u64)>, store::StoreError> {
    let all = doctor.store.read().scan(&tables::BACKEND_SNAPSHOTS, &store::prefix(&[driver])?)?;
    Ok(all.into_iter().filter_map(|(key, record)| Some((store::last_part(&key)?.to_owned(), record.id))).collect())
}

/// The bundles, and the tasks they belong to.
fn bundles(doctor: &Doctor, report: &mut Report<'_>) -> Flow {
    let Some(tasks) = doctor.tasks() else { return Flow::Continue(()) };
    let top = doctor.config.state.join("io.containerd.runtime.v2.task");
    for namespace in fs::read_dir(&top).into_iter().flatten().flatten() {
        for bundle in fs::read_dir(namespace.path()).into_iter().flatten().flatten() {
            let name = format!("{}/{}", namespace.file_name().display(), bundle.file_name().display());
            let is_there = doctor.tasks().is_some_and(|tasks| tasks.contains(&name));
            if !tasks.contains(&name) && !is_there && bundle.path().exists() {
                let sentence = format!(
                    "The folder of task {name} is there, but the task is not: it is being made or taken apart, or that was \
                     interrupted; the next start of the daemon looks after it."
                );
                report.finding(Found::new(Kind::Orphaned, bundle.path().display(), sentence))?;
            }
        }
    }
    Flow::Continue(())
}

/// What is at a path and below it, without following links and without leaving the file system.
pub(super) fn size_of(path: &Path) -> Size {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Size::default() };
    let mut size = Size::default();
    let mut seen = std::collections::HashSet::new();
    add(path, metadata.dev(), 0, &mut size, &mut seen);
    size
}

fn add(path: &Path, device: u64, depth: usize, size: &mut Size, seen: &mut std::collections::HashSet<u64>) {
    let Ok(metadata) = fs::symlink_metadata(path) else { return };
    if metadata.dev() != device || depth > MAX_DEPTH {
        return;
    }
    size.files += 1;
    // Files with several names count once.
    if metadata.is_dir() || metadata.nlink() == 1 || seen.insert(metadata.ino()) {
        size.bytes += metadata.blocks() * 512;
    }
    if metadata.is_dir() && !metadata.file_type().is_socket() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            add(&entry.path(), device, depth + 1, size, seen);
        }
    }
}
