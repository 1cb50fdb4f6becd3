//! Files: blobs and trees, without copying bytes where the file system can share them.

use std::fs::{self, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use model::Digest;
use model::digest::Hasher;
use rustix::fs::{AtFlags, CWD, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};

/// How much is read at a time, in bytes.
const PIECE: usize = 1 << 20;

/// The longest list of names of attributes, in bytes; the kernel's own bound.
const MAX_LIST_BYTES: usize = 64 << 10;

/// How a file came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Its blocks are shared.
    Shared,
    /// It is another name of the same file.
    Linked,
    /// Its bytes were copied.
    Copied,
}

/// Brings a blob to `to`, if its bytes are what its name says; `None` if they are not.
pub(super) fn blob(from: &Path, to: &Path, digest: &Digest) -> io::Result<Option<Way>> {
    let mut source = File::open(from)?;
    let (mut hasher, mut piece) = (Hasher::new(digest.algorithm()), vec![0; PIECE]);
    loop {
        match source.read(&mut piece)? {
            0 => break,
            count => hasher.update(&piece[..count]),
        }
    }
    if hasher.finish() != *digest {
        return Ok(None);
    }
    let unfinished = to.with_extension("unfinished");
    let _ = fs::remove_file(&unfinished);
    let mut way = Way::Shared;
    let target = File::options().write(true).create_new(true).open(&unfinished)?;
    if rustix::fs::ioctl_ficlone(&target, &source).is_err() {
        fs::remove_file(&unfinished)?;
        // A link shares the mode, too, so it is one only where nothing about the file would have to change.
        let is_ours = source.metadata()?.mode() & 0o7777 == 0o444;
        if is_ours && fs::hard_link(from, &unfinished).is_ok() {
            way = Way::Linked;
        } else {
            way = Way::Copied;
            let mut target = File::options().write(true).create_new(true).open(&unfinished)?;
            let mut source = File::open(from)?;
            loop {
                match source.read(&mut piece)? {
                    0 => break,
                    count => target.write_all(&piece[..count])?,
                }
            }
        }
    }
    if way != Way::Linked {
        fs::set_permissions(&unfinished, Permissions::from_mode(0o444))?;
    }
    File::open(&unfinished)?.sync_all()?;
    fs::rename(&unfinished, to)?;
    Ok(Some(way))
}

/// Brings a tree that nobody writes to any more: its files become further names of the same files, its folders are made anew.
/// `to` is there and empty.
pub(super) fn link_tree(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir(&target)?;
            link_tree(&entry.path(), &target)?;
        } else {
            fs::hard_link(entry.path(), &target)?;
        }
    }
    like(from, to)
}

/// Brings a tree that is written to: all bytes are copied, or their blocks shared. `to` is there and empty.
pub(super) fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    let open = |path: &Path| File::open(path).map(std::os::fd::OwnedFd::from);
    snapshotter::copy_tree(open(from)?, open(to)?)?;
    like(from, to)
}

/// Gives a folder owner, mode, times and attributes of another.
fn like(from: &Path, to: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(from)?;
    let mut names = vec![0; MAX_LIST_BYTES];
    let size = rustix::fs::llistxattr(from, &mut names[..]).unwrap_or(0);
    for name in names[..size].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; MAX_LIST_BYTES];
        let size = rustix::fs::lgetxattr(from, name, &mut value[..])?;
        rustix::fs::lsetxattr(to, name, &value[..size], XattrFlags::empty())?;
    }
    rustix::fs::chown(to, Some(Uid::from_raw(metadata.uid())), Some(Gid::from_raw(metadata.gid())))?;
    rustix::fs::chmod(to, Mode::from_raw_mode(metadata.mode() & 0o7777))?;
    let times = Timestamps {
        last_access: Timespec { tv_sec: metadata.atime(), tv_nsec: metadata.atime_nsec() },
        last_modification: Timespec { tv_sec: metadata.mtime(), tv_nsec: metadata.mtime_nsec() },
    };
    rustix::fs::utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}
