//! Folders that a layer has files in but says nothing about: they look as in the layers below.
//!
//! A layer that is unpacked before it is known what it stands on cannot say how. Its folders of that kind are marked, and are
//! dressed once the parent is known.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Gid, Mode, Uid, fchmod, fchown, futimens};
use rustix::io::Errno;

use super::lowers::Seen;
use super::{Descent, Lowers, both, file_type, look, mtime, names, open_folder, xattrs};

/// The mark of a folder that is still to be dressed. An attribute that only root sees.
const MARK: &[u8] = b"trusted.gantry.implied";
/// What every new file in a folder gets by itself, so it has to wait until they are all there.
pub(crate) const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

/// Attributes that steer overlayfs or that only root may see: they belong to this machine, not to a layer.
pub(crate) fn is_private(key: &[u8]) -> bool {
    key.starts_with(b"trusted.") || key.starts_with(b"user.overlay.")
}

/// Gives `folder` the owner, mode and attributes of the folder `name` below. Its default access list, which has to wait, is the
/// result.
pub(crate) fn inherit(folder: impl AsFd, below: &Seen, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let (uid, gid) = (Uid::from_raw(below.stat.st_uid), Gid::from_raw(below.stat.st_gid));
    fchown(&folder, Some(uid), Some(gid))?;
    fchmod(&folder, Mode::from_raw_mode(below.stat.st_mode & 0o7777))?;
    let mut default_acl = None;
    for (key, value) in xattrs::list(&below.folder, if name.is_empty() { b"." } else { name })? {
        if key == DEFAULT_ACL {
            default_acl = Some(value);
        } else if !is_private(&key) {
            xattrs::set(&folder, b".", &key, &value)?;
        }
    }
    Ok(default_acl)
}

/// Marks a folder as one that is to be dressed later.
pub(crate) fn mark_implied(folder: impl AsFd) -> io::Result<()> {
    match xattrs::set(folder, b".", MARK, b"y") {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::OPNOTSUPP) => Ok(()),
        result => result,
    }
}

/// Takes the mark off: the layer has something to say about the folder after all.
pub(crate) fn unmark_implied(folder: impl AsFd) -> io::Result<()> {
    xattrs::remove(folder, b".", MARK)
}

/// Dresses every marked folder of the layer at `root` as it is in `below`.
pub(crate) fn dress_marked(root: OwnedFd, below: &Lowers) -> io::Result<()> {
    let mut tree = Descent::new(root)?;
    let mut path: Vec<Vec<u8>> = Vec::new();
    let mut levels = vec![folders(&tree)?];
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.pop() {
            tree.enter(&name)?;
            path.push(name);
            levels.push(folders(&tree)?);
            continue;
        }
        // On the way up, since the time of a folder changes with what is done in it.
        if xattrs::get(&tree, b".", MARK)?.is_some() {
            dress(&tree, &path, below)?;
            unmark_implied(&tree)?;
        }
        levels.pop();
        if path.pop().is_some() {
            tree.leave()?;
        }
    }
    Ok(())
}

fn dress(folder: &Descent, path: &[Vec<u8>], below: &Lowers) -> io::Result<()> {
    let Some(seen) = below.find(&path.join(&b'/'))? else { return Ok(()) };
    if file_type(&seen.stat) != FileType::Directory {
        return Ok(());
    }
    let name = path.last().map_or(&b""[..], Vec::as_slice);
    if let Some(acl) = inherit(folder, &seen, name)? {
        xattrs::set(folder, b".", DEFAULT_ACL, &acl)?;
    }
    let itself = open_folder(folder, b".")?;
    Ok(futimens(&itself, &both(mtime(&seen.stat)))?)
}

fn folders(folder: &Descent) -> io::Result<Vec<Vec<u8>>> {
    let mut folders = Vec::new();
    for (name, kind) in names(folder)? {
        let is_folder = match kind {
            FileType::Unknown => look(folder, &name)?.is_some_and(|stat| file_type(&stat) == FileType::Directory),
            kind => kind == FileType::Directory,
        };
        if is_folder {
            folders.push(name);
        }
    }
    Ok(folders)
}
