//! The names on disk, within the folder of one snapshot. No other module builds such a path.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use model::snapshot::SnapshotKind;
use rustix::fs::{Gid, Mode, Uid, fchmod, fchown, mkdirat, stat};
use rustix::io::Errno;

use crate::fs::open_folder;

const FS: &str = "fs";
const WORK: &str = "work";

/// The folder of the snapshot's own files.
pub(super) fn fs(snapshot: &Path) -> PathBuf {
    snapshot.join(FS)
}

/// The folder that overlayfs works in.
pub(super) fn work(snapshot: &Path) -> PathBuf {
    snapshot.join(WORK)
}

/// The layer of a snapshot, where it is one image.
pub(super) fn image(snapshot: &Path) -> PathBuf {
    snapshot.join(crate::layer::image::IMAGE)
}

/// Where an image is mounted to be copied.
pub(super) fn look(snapshot: &Path) -> PathBuf {
    snapshot.join("look")
}

/// Opens the folder of the snapshot's own files.
pub(super) fn open_fs(snapshot: &OwnedFd) -> io::Result<OwnedFd> {
    open_folder(snapshot, FS.as_bytes())
}

/// Makes what a new snapshot needs in its folder, where it is not there yet. The root of an active snapshot belongs to whom the
/// root of its parent, whose files are at `parent`, belongs: it is what a mount shows.
pub(super) fn make(snapshot: &OwnedFd, kind: SnapshotKind, parent: Option<&Path>) -> io::Result<()> {
    if has_fs(kind, parent.is_some()) {
        make_one(snapshot, FS, 0o755)?;
        if let Some(parent) = parent {
            let like = stat(parent)?;
            let itself = open_fs(snapshot)?;
            fchown(&itself, Some(Uid::from_raw(like.st_uid)), Some(Gid::from_raw(like.st_gid)))?;
            fchmod(&itself, Mode::from_raw_mode(like.st_mode & 0o7777))?;
        }
    }
    if has_work(kind) {
        make_one(snapshot, WORK, 0o711)?;
    }
    Ok(())
}

/// Whether everything is there that [`make`] makes.
pub(super) fn is_whole(snapshot: &Path, kind: SnapshotKind, has_parent: bool) -> bool {
    (!has_fs(kind, has_parent) || fs(snapshot).is_dir()) && (!has_work(kind) || work(snapshot).is_dir())
}

/// A view of a parent shows its parents' files alone.
fn has_fs(kind: SnapshotKind, has_parent: bool) -> bool {
    kind != SnapshotKind::View || !has_parent
}

fn has_work(kind: SnapshotKind) -> bool {
    kind == SnapshotKind::Active
}

fn make_one(snapshot: &OwnedFd, name: &str, mode: u32) -> io::Result<()> {
    match mkdirat(snapshot, name, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    // Whatever the process's mask takes away.
    Ok(fchmod(open_folder(snapshot, name.as_bytes())?, Mode::from_raw_mode(mode))?)
}
