//! Whether two files are the same, as far as a layer can tell them apart.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, Stat, openat, readlinkat};
use rustix::io::{Errno, read};

use crate::fs::xattrs::{self, Xattrs};
use crate::fs::{Id, file_type};

const CHUNK: usize = 64 * 1024;

/// A file in a folder.
#[derive(Clone, Copy)]
pub(super) struct File<'f> {
    pub(super) folder: BorrowedFd<'f>,
    pub(super) name: &'f [u8],
    pub(super) stat: &'f Stat,
}

/// The attributes that belong into an archive.
pub(super) fn attributes(folder: BorrowedFd<'_>, name: &[u8]) -> io::Result<Xattrs> {
    let mut attributes = xattrs::list(folder, name)?;
    attributes.retain(|(key, _)| xattrs::is_portable(key));
    Ok(attributes)
}

/// Whether owner, mode and attributes are the same.
pub(super) fn same_looks(a: File<'_>, b: File<'_>) -> io::Result<bool> {
    let looks = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid);
    Ok(looks(a.stat) == looks(b.stat) && attributes(a.folder, a.name)? == attributes(b.folder, b.name)?)
}

/// Whether both were changed at the same time.
pub(super) fn same_time(a: &Stat, b: &Stat) -> bool {
    (a.st_mtime, a.st_mtime_nsec) == (b.st_mtime, b.st_mtime_nsec)
}

/// Whether two files, which are no folders, are the same.
pub(super) fn same_file(a: File<'_>, b: File<'_>) -> io::Result<bool> {
    if Id::of(a.stat) == Id::of(b.stat) {
        return Ok(true);
    }
    let facts = |stat: &Stat| (stat.st_size, stat.st_nlink, stat.st_rdev);
    if facts(a.stat) != facts(b.stat) || !same_time(a.stat, b.stat) || !same_looks(a, b)? {
        return Ok(false);
    }
    match file_type(a.stat) {
        FileType::Symlink => Ok(readlinkat(a.folder, a.name, Vec::new())? == readlinkat(b.folder, b.name, Vec::new())?),
        // One file seen by way of two overlays has two device numbers. Its time of change cannot be set by anybody.
        FileType::RegularFile if same_inode(a.stat, b.stat) => Ok(true),
        // A time without a fraction comes from an archive, and then it says little: edits within a second, rebuilds.
        FileType::RegularFile if a.stat.st_mtime_nsec == 0 => same_content(a, b),
        _ => Ok(true),
    }
}

fn same_inode(a: &Stat, b: &Stat) -> bool {
    let facts = |stat: &Stat| (stat.st_ino, stat.st_ctime, stat.st_ctime_nsec);
    facts(a) == facts(b)
}

fn same_content(a: File<'_>, b: File<'_>) -> io::Result<bool> {
    let (a, b) = (open(a)?, open(b)?);
    let (mut left, mut right) = (vec![0; CHUNK], vec![0; CHUNK]);
    loop {
        let length = fill(&a, &mut left)?;
        if length != fill(&b, &mut right)? || left[..length] != right[..length] {
            return Ok(false);
        }
        if length == 0 {
            return Ok(true);
        }
    }
}

fn open(file: File<'_>) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(openat(file.folder, file.name, flags, Mode::empty())?)
}

fn fill(file: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match read(file, &mut buffer[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(filled)
}
