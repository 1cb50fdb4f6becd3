//! The view through a stack of overlayfs lower folders, without a mount: which file a name shows.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, open};
use rustix::io::Errno;

use super::xattrs::OverlayPrefix;
use super::{FOLDER, file_type, look, open_folder, xattrs};

/// Lower folders, nearest first.
pub(crate) struct Lowers {
    roots: Vec<OwnedFd>,
    prefix: OverlayPrefix,
}

/// What a name shows: the folder of a layer that holds it, and what it is there.
pub(crate) struct Seen {
    /// The folder in which it is.
    pub(crate) folder: OwnedFd,
    /// What it is.
    pub(crate) stat: Stat,
}

/// Whether this is how overlayfs says that a name of a lower folder is gone.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    file_type(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

impl Lowers {
    pub(crate) fn open(folders: &[PathBuf], prefix: OverlayPrefix) -> io::Result<Self> {
        let roots = folders
            .iter()
            .map(|folder| Ok(open(folder, FOLDER.difference(OFlags::NOFOLLOW), Mode::empty())?))
            .collect::<io::Result<_>>()?;
        Ok(Self { roots, prefix })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    /// The roots, nearest first.
    pub(crate) fn roots(&self) -> &[OwnedFd] {
        &self.roots
    }

    /// What `path`, names joined by slashes, shows. A link on the way is not followed: it is no folder.
    pub(crate) fn find(&self, path: &[u8]) -> io::Result<Option<Seen>> {
        if path.split(|byte| *byte == b'/').any(|name| name == b"..") {
            return Ok(None);
        }
        for root in &self.roots {
            match find_in(root, path, self.prefix)? {
                Found::Here(seen) => return Ok(Some(seen)),
                Found::Hidden => return Ok(None),
                Found::Below => {}
            }
        }
        Ok(None)
    }
}

enum Found {
    Here(Seen),
    /// This layer says that there is nothing, whatever the layers below hold.
    Hidden,
    /// This layer says nothing.
    Below,
}

fn find_in(root: &OwnedFd, path: &[u8], prefix: OverlayPrefix) -> io::Result<Found> {
    let mut folder = root.try_clone()?;
    let mut opaque = false;
    let mut names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).peekable();
    while let Some(name) = names.next() {
        let Some(stat) = look(&folder, name)? else {
            return Ok(if opaque { Found::Hidden } else { Found::Below });
        };
        if is_whiteout(&stat) {
            return Ok(Found::Hidden);
        }
        if names.peek().is_none() {
            return Ok(Found::Here(Seen { folder, stat }));
        }
        folder = match open_folder(&folder, name) {
            Ok(folder) => folder,
            Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::NOTDIR | Errno::LOOP)) => {
                return Ok(Found::Hidden);
            }
            Err(error) => return Err(error),
        };
        opaque |= xattrs::is_opaque(&folder, prefix)?;
    }
    // The root itself.
    let stat = fstat(&folder)?;
    Ok(Found::Here(Seen { folder, stat }))
}
