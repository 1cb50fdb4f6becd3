//! Extended attributes, of whatever kind of file, links themselves included.
//!
//! The calls take a path or an open file only. A descriptor of the folder, named by way of `/proc/self/fd`, with one name behind
//! it, is as good as both: nothing of foreign origin is resolved but that name, and the `l` calls do not follow it.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::buffer::spare_capacity;
use rustix::fs::{XattrFlags, lgetxattr, llistxattr, lremovexattr, lsetxattr};
use rustix::io::Errno;

/// The bounds of the kernel (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const MAX_BYTES: usize = 65_536;

/// Where overlayfs keeps its attributes: out of reach for all but root, or with the mount option `userxattr`. The other one is
/// then nothing but an attribute of somebody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OverlayPrefix {
    Trusted,
    User,
}

impl OverlayPrefix {
    /// The full name of one of overlayfs's attributes.
    pub(crate) fn key(self, name: &str) -> Vec<u8> {
        let prefix = match self {
            Self::Trusted => "trusted.overlay.",
            Self::User => "user.overlay.",
        };
        format!("{prefix}{name}").into_bytes()
    }
}

/// Whether an attribute belongs into a layer: what a user or a package set, not what this machine did.
pub(crate) fn is_portable(key: &[u8]) -> bool {
    let user = key.starts_with(b"user.") && !key.starts_with(b"user.overlay.");
    user || key == b"security.capability" || key.starts_with(b"system.posix_acl_")
}

/// All attributes, ordered by name.
pub(crate) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// The attributes of `name` in `folder`. None, where the filesystem has none.
pub(crate) fn list(folder: impl AsFd, name: &[u8]) -> io::Result<Xattrs> {
    let path = path(&folder, name);
    let mut listed = Vec::with_capacity(1024);
    loop {
        match llistxattr(&*path, spare_capacity(&mut listed)) {
            Ok(_) => break,
            Err(Errno::RANGE) if listed.capacity() < MAX_BYTES => listed.reserve(MAX_BYTES),
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
    }
    let mut xattrs = Vec::new();
    for key in listed.split(|byte| *byte == 0).filter(|key| !key.is_empty()) {
        if let Some(value) = get_at(&path, key)? {
            xattrs.push((key.to_vec(), value));
        }
    }
    xattrs.sort();
    Ok(xattrs)
}

/// One attribute of `name` in `folder`, if it has it.
pub(crate) fn get(folder: impl AsFd, name: &[u8], key: &[u8]) -> io::Result<Option<Vec<u8>>> {
    get_at(&path(&folder, name), key)
}

/// Sets an attribute of `name` in `folder`.
pub(crate) fn set(folder: impl AsFd, name: &[u8], key: &[u8], value: &[u8]) -> io::Result<()> {
    Ok(lsetxattr(&*path(&folder, name), key, value, XattrFlags::empty())?)
}

/// Takes an attribute away from `name` in `folder`, if it is there.
pub(crate) fn remove(folder: impl AsFd, name: &[u8], key: &[u8]) -> io::Result<()> {
    match lremovexattr(&*path(&folder, name), key) {
        Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether the open folder hides what is below it.
pub(crate) fn is_opaque(folder: impl AsFd, prefix: OverlayPrefix) -> io::Result<bool> {
    Ok(get(&folder, b".", &prefix.key("opaque"))?.as_deref() == Some(b"y"))
}

fn get_at(path: &[u8], key: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut value = Vec::with_capacity(256);
    loop {
        match lgetxattr(path, key, spare_capacity(&mut value)) {
            Ok(_) => return Ok(Some(value)),
            Err(Errno::RANGE) if value.capacity() < MAX_BYTES => value.reserve(MAX_BYTES),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

fn path(folder: &impl AsFd, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", folder.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path
}
