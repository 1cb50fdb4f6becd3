//! Deletions: names that begin with `.wh.` say what of the layers below is gone. What the layer itself brings is never meant,
//! whichever comes first in the archive.

use std::io;

use rustix::fs::{FileType, Mode, mknodat};
use rustix::io::Errno;

use super::Whiteouts;
use super::path::LayerPath;
use super::tree::Folder;
use super::unpack::{Doing, Failure, Unpacker, refused};
use crate::fs::{file_type, look, names, remove_except, xattrs};

const PREFIX: &[u8] = b".wh.";
/// In front of names that mean something else than a deletion; all but one only ever meant something to aufs.
const META_PREFIX: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What a name that begins as whiteouts do says of the layers below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whiteout<'p> {
    /// This name in the same folder is gone.
    Name(&'p [u8]),
    /// Everything in the same folder is gone.
    All,
    /// Nothing, to anybody but aufs.
    Meaningless,
}

impl<'p> Whiteout<'p> {
    /// Reads a path; none for one that is not about the layers below.
    pub(crate) fn of(path: &'p LayerPath) -> Result<Option<Self>, &'static str> {
        let name = path.name();
        if name == OPAQUE {
            return Ok(Some(Self::All));
        }
        if name.starts_with(META_PREFIX) {
            tracing::debug!(name = %String::from_utf8_lossy(path.bytes()), "metadata of aufs left out");
            return Ok(Some(Self::Meaningless));
        }
        if let Some(gone) = name.strip_prefix(PREFIX) {
            return match gone {
                b"" | b"." | b".." => Err("it is a whiteout of nothing"),
                gone => Ok(Some(Self::Name(gone))),
            };
        }
        let within = path.parent().split(|byte| *byte == b'/').any(|name| name.starts_with(META_PREFIX));
        Ok(within.then_some(Self::Meaningless))
    }
}

impl Unpacker {
    /// Does what a whiteout asks for; says whether `path` is one at all.
    pub(super) fn whiteout(&mut self, path: &LayerPath) -> Result<bool, Failure> {
        match Whiteout::of(path).map_err(refused)? {
            None => return Ok(false),
            Some(Whiteout::All) => self.hide_all(path.parent())?,
            Some(Whiteout::Name(gone)) => self.hide(path.parent(), gone)?,
            Some(Whiteout::Meaningless) => {}
        }
        Ok(true)
    }

    /// Makes a folder hide whatever the folders of the same name below hold.
    pub(super) fn mark_opaque(&self, folder: &Folder, name: &[u8]) -> io::Result<()> {
        match self.whiteouts {
            Whiteouts::Delete => Ok(()),
            whiteouts => xattrs::set(folder, name, &whiteouts.prefix().key("opaque"), b"y"),
        }
    }

    /// `name` in the folder at `parent` is gone.
    fn hide(&mut self, parent: &[u8], name: &[u8]) -> Result<(), Failure> {
        if self.whiteouts == Whiteouts::Delete {
            // Without the folder there is nothing to delete.
            let Some(folder) = self.tree.find(parent).doing("find the folder of")? else { return Ok(()) };
            return self.clear(&folder, name);
        }
        let folder = self.folder(parent)?;
        self.cover(&folder, name)
    }

    /// Everything in the folder at `parent` is gone.
    fn hide_all(&mut self, parent: &[u8]) -> Result<(), Failure> {
        if self.whiteouts == Whiteouts::Delete {
            let Some(folder) = self.tree.find(parent).doing("find the folder of")? else { return Ok(()) };
            for (name, _) in names(&*folder).doing("list")? {
                self.clear(&folder, &name)?;
            }
            return Ok(());
        }
        let folder = self.folder(parent)?;
        for (name, _) in names(&*folder).doing("list")? {
            self.clear(&folder, &name)?;
        }
        self.mark_opaque(&folder, b".").doing("make opaque")?;
        if parent.is_empty() {
            self.cover_lower_roots(&folder)?;
        }
        Ok(())
    }

    /// Overlayfs does not ask whether a root is opaque, so each name of the roots below is hidden on its own.
    fn cover_lower_roots(&mut self, root: &Folder) -> Result<(), Failure> {
        let mut below = Vec::new();
        for lower in self.lowers.roots() {
            below.extend(names(lower).doing("list")?.into_iter().map(|(name, _)| name));
        }
        for name in below {
            self.cover(root, &name)?;
        }
        Ok(())
    }

    /// Hides `name` in a folder of an overlay's upper layer.
    fn cover(&mut self, folder: &Folder, name: &[u8]) -> Result<(), Failure> {
        self.clear(folder, name)?;
        match look(folder, name).doing("look at")? {
            None => {
                let create = mknodat(folder, name, FileType::CharacterDevice, Mode::empty(), 0);
                match create {
                    Ok(()) => self.tree.mark(folder, name),
                    Err(Errno::EXIST) => {}
                    Err(error) => return Err(error).doing("create"),
                }
            }
            Some(stat) if file_type(&stat) == FileType::Directory => {
                self.mark_opaque(folder, name).doing("make opaque")?;
            }
            // A file of this layer hides as well as a whiteout does; so does a whiteout.
            Some(_) => {}
        }
        Ok(())
    }

    /// Removes what there is under `name` that this layer did not bring.
    fn clear(&mut self, folder: &Folder, name: &[u8]) -> Result<(), Failure> {
        let Some(stat) = look(folder, name).doing("look at")? else { return Ok(()) };
        let made = self.tree.is_made(folder.id, name);
        if made && file_type(&stat) != FileType::Directory {
            return Ok(());
        }
        self.tree.forget_open();
        let tree = &self.tree;
        remove_except(folder, name, made, &|folder, name| tree.is_made(folder, name)).doing("delete")?;
        Ok(())
    }
}
