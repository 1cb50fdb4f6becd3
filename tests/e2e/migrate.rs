//! What Debian's containerd had, gantryd has afterwards: the same lists, and the same container, which runs.

use anyhow::{Context as _, ensure};
use harness::image::BUSYBOX_NAME;
use harness::{Containerd, Gantryd, busybox_archive};

/// The names that a list of `ctr` shows, in order.
fn names(listed: &str) -> Vec<String> {
    let mut names: Vec<_> =
        listed.lines().skip(1).filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect();
    names.sort();
    names
}

const LISTS: [&[&str]; 6] = [
    &["images", "ls"],
    &["content", "ls"],
    &["snapshots", "ls"],
    &["containers", "ls"],
    &["leases", "ls"],
    &["namespaces", "ls"],
];

#[test]
fn a_containerd_is_taken_over_and_that_can_be_taken_back() -> anyhow::Result<()> {
    let mut peer = Containerd::start()?;
    let archive = busybox_archive()?.display().to_string();
    peer.ctr(&["images", "import", &archive])?.ok()?;
    peer.ctr(&["images", "label", BUSYBOX_NAME, "kept=yes"])?.ok()?;
    peer.ctr(&["namespaces", "create", "other", "colour=blue"])?.ok()?;
    peer.ctr(&["-n", "other", "images", "import", &archive])?.ok()?;
    peer.ctr(&["leases", "create", "--id", "held"])?.ok()?;
    let write =
        ["run", "--null-io", "--label", "a=b", BUSYBOX_NAME, "mig-c1", "sh", "-c", "echo mine > /note; cat /note"];
    peer.ctr(&write)?.ok()?;
    peer.ctr(&["tasks", "delete", "mig-c1"])?;
    let mut before = Vec::new();
    for list in LISTS {
        before.push(names(&peer.ctr(list)?.ok()?));
    }
    let labels = peer.ctr(&["content", "ls"])?.ok()?;

    let mut daemon = Gantryd::start()?;
    daemon.terminate()?;
    let from = peer.folder().join("root").display().to_string();
    let refused = daemon.gantryd(&["migrate", "--from", &from])?.failed()?;
    ensure!(refused.contains("in use"), "a containerd that runs is left alone: {refused}");
    peer.kill9()?;
    let source = tree(&peer.folder().join("root"))?;
    let dry = daemon.gantryd(&["migrate", "--from", &from, "--dry-run"])?.ok()?;
    ensure!(dry.contains("1 containers"), "{dry}");
    daemon.launch()?;
    ensure!(names(&daemon.ctr(&["images", "ls"])?.ok()?).is_empty(), "a dry run does nothing");
    daemon.terminate()?;

    let done = daemon.gantryd(&["migrate", "--from", &from])?.ok()?;
    ensure!(!done.contains("left out"), "{done}");
    ensure!(tree(&peer.folder().join("root"))? == source, "the source was changed");
    daemon.launch()?;
    for (list, before) in LISTS.into_iter().zip(&before) {
        let after = names(&daemon.ctr(list)?.ok()?);
        ensure!(after == *before, "{list:?}: {before:?} became {after:?}");
    }
    let shown = |listed: &str| {
        let mut lines: Vec<String> = listed.lines().map(sorted_labels).collect();
        lines.sort();
        lines
    };
    let after = daemon.ctr(&["content", "ls"])?.ok()?;
    ensure!(shown(&after) == shown(&labels), "{labels}\nbecame\n{after}");
    let info = daemon.ctr(&["containers", "info", "mig-c1"])?.ok()?;
    ensure!(info.contains("\"a\": \"b\""), "{info}");
    ensure!(daemon.ctr(&["images", "ls"])?.ok()?.contains("kept=yes"), "labels of images are kept");
    daemon.ctr(&["tasks", "start", "mig-c1"])?.ok()?;
    let usage = daemon.ctr(&["snapshots", "usage", "mig-c1"])?.ok()?;
    ensure!(usage.contains("mig-c1"), "{usage}");
    let doctor = daemon.gantry(&["--json", "doctor", "--verify"])?;
    let report: serde_json::Value = serde_json::from_str(&doctor.stdout).context("the doctor reports")?;
    ensure!(report["findings"].as_array().is_some_and(Vec::is_empty), "{report:#}");
    daemon.ctr(&["run", "--rm", "--null-io", BUSYBOX_NAME, "mig-c2", "true"])?.ok()?;
    daemon.ctr(&["containers", "delete", "--keep-snapshot", "mig-c1"])?.ok()?;
    daemon.terminate()?;

    let undone = daemon.gantryd(&["migrate", "--undo"])?.ok()?;
    ensure!(undone.contains("taken back"), "{undone}");
    daemon.launch()?;
    ensure!(names(&daemon.ctr(&["images", "ls"])?.ok()?).is_empty(), "images are gone: {undone}");
    ensure!(names(&daemon.ctr(&["content", "ls"])?.ok()?).is_empty(), "content is gone: {undone}");
    ensure!(tree(&peer.folder().join("root"))? == source, "the source was changed");
    peer.spawn()?;
    Ok(())
}

/// A line with its labels in order.
fn sorted_labels(line: &str) -> String {
    let words = line.split_whitespace().filter(|word| !word.ends_with("ago"));
    let mut words: Vec<String> = words
        .map(|word| {
            let mut parts: Vec<_> = word.split(',').collect();
            parts.sort_unstable();
            parts.join(",")
        })
        .collect();
    // How long ago it was is not a matter of what is there.
    words.retain(|word| {
        !["Less", "seconds", "minutes", "minute", "second", "less", "than", "a", "About"].contains(&word.as_str())
    });
    words.retain(|word| word.parse::<u32>().is_err());
    words.join(" ")
}

/// Every path of a tree with size, mode and time of its last change.
fn tree(top: &std::path::Path) -> anyhow::Result<Vec<(std::path::PathBuf, u64, u32, i64)>> {
    use std::os::unix::fs::MetadataExt;
    let mut found = Vec::new();
    let mut open = vec![top.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            let metadata = std::fs::symlink_metadata(&path)?;
            if metadata.is_dir() {
                open.push(path.clone());
            }
            found.push((path, metadata.len(), metadata.mode(), metadata.mtime()));
        }
    }
    found.sort();
    Ok(found)
}
