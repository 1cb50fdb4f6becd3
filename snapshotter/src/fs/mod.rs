//! Trees of files by descriptor: nothing here resolves a path of foreign origin by its text.

mod copy;
mod descent;
mod inherit;
mod lowers;
mod remove;
mod usage;
pub(crate) mod xattrs;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, Timespec, Timestamps, chmod, openat, statat};

pub(crate) use copy::{Copier, copy_up};
pub(crate) use descent::{Descent, Id};
pub(crate) use inherit::{DEFAULT_ACL, dress_marked, inherit, is_private, mark_implied, unmark_implied};
pub(crate) use lowers::{Lowers, is_whiteout};
pub(crate) use remove::{remove_all, remove_except};
pub(crate) use usage::usage;

/// A folder opened to work in: never through a link, never kept over an exec.
pub(crate) const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens the folder `name` of `parent`.
pub(crate) fn open_folder(parent: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    Ok(openat(parent, name, FOLDER, Mode::empty())?)
}

/// What `name` in `parent` is, itself and not what it links to; none if there is nothing.
pub(crate) fn look(parent: impl AsFd, name: &[u8]) -> io::Result<Option<Stat>> {
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The type that a mode tells of.
pub(crate) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Changes the mode of what cannot be opened without effect, a pipe or a device. A link is refused, not followed.
pub(crate) fn chmod_unopened(folder: impl AsFd, name: &[u8], mode: u32) -> io::Result<()> {
    let itself = openat(folder, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    Ok(chmod(format!("/proc/self/fd/{}", itself.as_raw_fd()), Mode::from_raw_mode(mode))?)
}

/// When a file was last changed.
pub(crate) fn mtime(stat: &Stat) -> Timespec {
    Timespec { tv_sec: stat.st_mtime, tv_nsec: i64::try_from(stat.st_mtime_nsec).expect("less than a second") }
}

/// Both times of a file, set to one.
pub(crate) fn both(time: Timespec) -> Timestamps {
    Timestamps { last_access: time, last_modification: time }
}

/// The names in a folder with their types, as far as the filesystem tells, unordered, without `.` and `..`.
pub(crate) fn names(folder: impl AsFd) -> io::Result<Vec<(Vec<u8>, FileType)>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push((name.to_vec(), entry.file_type()));
        }
    }
    Ok(names)
}
