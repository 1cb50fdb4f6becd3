//! A chain of folders → mounts. Pure. Clients mount these themselves and read the options, so they are a contract.

use std::path::{Path, PathBuf};

use model::Mount;
use model::snapshot::SnapshotKind;

use super::{Options, dirs};

/// The mounts of a snapshot in the folder `own`, whose parents are in `parents`, nearest first.
pub(super) fn mounts(kind: SnapshotKind, own: &Path, parents: &[PathBuf], options: &Options) -> Vec<Mount> {
    match (kind, parents) {
        (SnapshotKind::Active, []) => vec![bind(&dirs::fs(own), "rw")],
        (_, []) => vec![bind(&dirs::fs(own), "ro")],
        // Overlayfs does not mount a single lower folder alone.
        (SnapshotKind::View | SnapshotKind::Committed, [parent]) => vec![bind(&dirs::fs(parent), "ro")],
        (SnapshotKind::Active, parents) => {
            let upper = [format!("workdir={}", text(&dirs::work(own))), format!("upperdir={}", text(&dirs::fs(own)))];
            vec![overlay(upper.into(), parents, options)]
        }
        (SnapshotKind::View | SnapshotKind::Committed, parents) => vec![overlay(Vec::new(), parents, options)],
    }
}

fn bind(source: &Path, access: &str) -> Mount {
    Mount {
        kind: "bind".to_owned(),
        source: text(source),
        target: String::new(),
        options: vec![access.to_owned(), "rbind".to_owned()],
    }
}

fn overlay(mut mount_options: Vec<String>, parents: &[PathBuf], options: &Options) -> Mount {
    if options.host.has_index {
        mount_options.insert(0, "index=off".to_owned());
    }
    if options.host.needs_user_xattr {
        mount_options.push("userxattr".to_owned());
    }
    mount_options.extend(options.mount_options.iter().cloned());
    let lowers: Vec<String> = parents.iter().map(|parent| text(&dirs::fs(parent))).collect();
    mount_options.push(format!("lowerdir={}", lowers.join(":")));
    Mount { kind: "overlay".to_owned(), source: "overlay".to_owned(), target: String::new(), options: mount_options }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overlay::Host;

    const PLAIN: Host = Host { has_index: false, needs_user_xattr: false, in_user_namespace: false };

    fn of(kind: SnapshotKind, parents: &[&str], host: Host) -> (String, String, String) {
        let parents: Vec<_> = parents.iter().map(PathBuf::from).collect();
        let options = Options { mount_options: Vec::new(), host, layer_format: super::super::LayerFormat::Dir };
        let [mount] = &mounts(kind, Path::new("/r/snapshots/9"), &parents, &options)[..] else { panic!("one mount") };
        (mount.kind.clone(), mount.source.clone(), mount.options.join(" "))
    }

    #[test]
    fn every_kind_of_snapshot_has_its_mount() {
        let (own, one, two) = ("/r/snapshots/9/fs", "/r/snapshots/1", "/r/snapshots/2");
        let lower = "lowerdir=/r/snapshots/2/fs:/r/snapshots/1/fs";
        let upper = "workdir=/r/snapshots/9/work upperdir=/r/snapshots/9/fs";
        for (kind, parents, expected) in [
            (SnapshotKind::Active, &[][..], ("bind", own, "rw rbind".to_owned())),
            (SnapshotKind::View, &[], ("bind", own, "ro rbind".to_owned())),
            (SnapshotKind::View, &[one], ("bind", "/r/snapshots/1/fs", "ro rbind".to_owned())),
            (SnapshotKind::Active, &[one], ("overlay", "overlay", format!("{upper} lowerdir=/r/snapshots/1/fs"))),
            (SnapshotKind::Active, &[two, one], ("overlay", "overlay", format!("{upper} {lower}"))),
            (SnapshotKind::View, &[two, one], ("overlay", "overlay", lower.to_owned())),
        ] {
            let (kind, source, options) = of(kind, parents, PLAIN);
            assert_eq!((&*kind, &*source, options), expected);
        }
    }

    #[test]
    fn the_machine_adds_options() {
        let host = Host { has_index: true, needs_user_xattr: true, in_user_namespace: true };
        let (_, _, options) = of(SnapshotKind::View, &["/b", "/a"], host);
        assert_eq!(options, "index=off userxattr lowerdir=/b/fs:/a/fs");
    }
}
