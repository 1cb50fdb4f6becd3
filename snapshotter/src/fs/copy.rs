//! Copies files with all that belongs to them: data with its holes, owner, mode, attributes, times.

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, SeekFrom, Stat, Uid, XattrFlags, chownat, copy_file_range,
    fchmod, fchown, fsetxattr, fstat, ftruncate, futimens, ioctl_ficlone, linkat, mkdirat, mknodat, openat, openat2,
    readlinkat, seek, symlinkat, utimensat,
};
use rustix::io::{Errno, pread, pwrite};

use super::lowers::Seen;
use super::{Descent, FOLDER, Id, both, chmod_unopened, file_type, look, mtime, names, xattrs};

const BUFFER_BYTES: usize = 128 * 1024;
const BLOCK_BYTES: u64 = 512;

/// Copies files, and remembers what the filesystems turned out to be able to do.
pub(crate) struct Copier {
    /// Whether files can share their blocks.
    can_share: Cell<bool>,
    /// Whether attributes that steer overlayfs are copied too.
    overlay_attributes: bool,
}

/// Copies the file that `seen` is, `name`, into an upper folder. False for a folder, which is left alone.
pub(crate) fn copy_up(seen: &Seen, name: &[u8], upper: impl AsFd) -> io::Result<bool> {
    if file_type(&seen.stat) == FileType::Directory {
        return Ok(false);
    }
    let copier = Copier { can_share: Cell::new(true), overlay_attributes: false };
    copier.file(seen.folder.as_fd(), name, &seen.stat, upper.as_fd())?;
    Ok(true)
}

impl Copier {
    /// One that copies everything as it is.
    pub(crate) fn exact() -> Self {
        Self { can_share: Cell::new(true), overlay_attributes: true }
    }

    /// Makes the empty folder `to` a copy of the folder `from`, with everything below.
    pub(crate) fn tree(&self, from: OwnedFd, to: OwnedFd) -> io::Result<()> {
        let root = to.try_clone()?;
        let (mut from, mut to) = (Descent::new(from)?, Descent::new(to)?);
        let mut linked: HashMap<Id, Vec<u8>> = HashMap::new();
        let mut levels = vec![names(&from)?];
        let mut path: Vec<Vec<u8>> = Vec::new();
        loop {
            let level = levels.last_mut().expect("the last level returns");
            let Some((name, _)) = level.pop() else {
                self.dress(from.as_fd(), b".", &fstat(&from)?, to.as_fd())?;
                levels.pop();
                if levels.is_empty() {
                    return Ok(());
                }
                from.leave()?;
                to.leave()?;
                path.pop();
                continue;
            };
            let Some(stat) = look(&from, &name)? else { continue };
            if file_type(&stat) == FileType::Directory {
                mkdirat(&to, &*name, Mode::RWXU)?;
                from.enter(&name)?;
                to.enter(&name)?;
                path.push(name);
                levels.push(names(&from)?);
                continue;
            }
            if stat.st_nlink > 1 {
                if let Some(first) = linked.get(&Id::of(&stat)) {
                    link(&root, first, to.as_fd(), &name)?;
                    continue;
                }
                path.push(name);
                linked.insert(Id::of(&stat), path.join(&b'/'));
                let name = path.pop().expect("it was just pushed");
                self.file(from.as_fd(), &name, &stat, to.as_fd())?;
                continue;
            }
            self.file(from.as_fd(), &name, &stat, to.as_fd())?;
        }
    }

    /// Copies what is no folder, under the same name.
    fn file(&self, from: BorrowedFd<'_>, name: &[u8], stat: &Stat, to: BorrowedFd<'_>) -> io::Result<()> {
        let mode = Mode::from_raw_mode(stat.st_mode & 0o777);
        match file_type(stat) {
            FileType::RegularFile => return self.regular(from, name, to),
            FileType::Symlink => symlinkat(readlinkat(from, name, Vec::new())?, to, name)?,
            FileType::Fifo | FileType::Socket | FileType::CharacterDevice | FileType::BlockDevice => {
                mknodat(to, name, file_type(stat), mode, stat.st_rdev)?;
            }
            FileType::Directory | FileType::Unknown => return Err(Errno::INVAL.into()),
        }
        self.dress(from, name, stat, to)
    }

    fn regular(&self, from: BorrowedFd<'_>, name: &[u8], to: BorrowedFd<'_>) -> io::Result<()> {
        let source = openat(from, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let stat = fstat(&source)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target = openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
        self.data(&source, &stat, &target)?;
        fchown(&target, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
        fchmod(&target, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
        for (key, value) in self.attributes(from, name)? {
            fsetxattr(&target, &*key, &value, XattrFlags::empty())?;
        }
        Ok(futimens(&target, &both(mtime(&stat)))?)
    }

    /// Owner, mode, attributes and times, for what is not open as a file. `.` means the folder itself.
    fn dress(&self, from: BorrowedFd<'_>, name: &[u8], stat: &Stat, to: BorrowedFd<'_>) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        match file_type(stat) {
            FileType::Symlink => {}
            FileType::Directory => fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?,
            _ => chmod_unopened(to, name, stat.st_mode & 0o7777)?,
        }
        for (key, value) in self.attributes(from, name)? {
            xattrs::set(to, name, &key, &value)?;
        }
        Ok(utimensat(to, name, &both(mtime(stat)), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn attributes(&self, from: BorrowedFd<'_>, name: &[u8]) -> io::Result<xattrs::Xattrs> {
        let mut attributes = xattrs::list(from, name)?;
        if !self.overlay_attributes {
            attributes.retain(|(key, _)| !key.starts_with(b"trusted.overlay.") && !key.starts_with(b"user.overlay."));
        }
        Ok(attributes)
    }

    fn data(&self, source: &OwnedFd, stat: &Stat, target: &OwnedFd) -> io::Result<()> {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if size == 0 {
            return Ok(());
        }
        if self.can_share.get() {
            if ioctl_ficlone(target, source).is_ok() {
                return Ok(());
            }
            self.can_share.set(false);
        }
        if u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK_BYTES >= size {
            copy_range(source, target, 0, size)?;
        } else {
            copy_data_between_holes(source, target, size)?;
        }
        Ok(ftruncate(target, size)?)
    }
}

fn copy_data_between_holes(source: &OwnedFd, target: &OwnedFd, size: u64) -> io::Result<()> {
    let mut offset = 0;
    while offset < size {
        let start = match seek(source, SeekFrom::Data(offset)) {
            Ok(start) => start,
            // There is nothing but a hole left.
            Err(Errno::NXIO) => return Ok(()),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => offset,
            Err(error) => return Err(error.into()),
        };
        let end = seek(source, SeekFrom::Hole(start)).unwrap_or(size).min(size);
        if end <= start {
            return Ok(());
        }
        copy_range(source, target, start, end)?;
        offset = end;
    }
    Ok(())
}

fn copy_range(source: &OwnedFd, target: &OwnedFd, start: u64, end: u64) -> io::Result<()> {
    let (mut from, mut to) = (start, start);
    while from < end {
        let length = usize::try_from(end - from).unwrap_or(usize::MAX).min(1 << 30);
        match copy_file_range(source, Some(&mut from), target, Some(&mut to), length) {
            // The file became shorter.
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM) => {
                return copy_by_hand(source, target, from, end);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn copy_by_hand(source: &OwnedFd, target: &OwnedFd, start: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut offset = start;
    while offset < end {
        let wanted = usize::try_from(end - offset).unwrap_or(usize::MAX).min(buffer.len());
        let length = match pread(source, &mut buffer[..wanted], offset) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let mut bytes = &buffer[..length];
        while !bytes.is_empty() {
            let written = pwrite(target, bytes, offset)?;
            offset += written as u64;
            bytes = &bytes[written..];
        }
    }
    Ok(())
}

fn link(root: &OwnedFd, first: &[u8], to: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    let slash = first.iter().rposition(|byte| *byte == b'/');
    let Some(slash) = slash else {
        return Ok(linkat(root, first, to, name, AtFlags::empty())?);
    };
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let folder = openat2(root, &first[..slash], FOLDER, Mode::empty(), within)?;
    Ok(linkat(&folder, &first[slash + 1..], to, name, AtFlags::empty())?)
}
