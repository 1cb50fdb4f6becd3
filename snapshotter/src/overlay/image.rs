//! The life of a layer that is one image: from an extraction to a committed snapshot, or into files if somebody wants those first.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use model::Mount;
use model::snapshot::Usage;
use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};

use super::{Overlay, dirs};
use crate::SnapshotError;
use crate::erofs::dress;
use crate::fs::xattrs::OverlayPrefix;
use crate::fs::{Copier, FOLDER, Lowers, look, mark_implied, names, remove_all};
use crate::layer::image::{IMAGE, IMPLIED, implied, sync};
use crate::layer::{ImageSlot, StandsOn, Target, Whiteouts};

/// How the keys of snapshots begin that clients unpack a layer into, and do nothing else with before they commit them.
const EXTRACTION: &str = "extract-";

/// Whether a snapshot of this key is made for an extraction. The key may have the namespace and a number in front.
pub(super) fn is_extraction(key: &str) -> bool {
    key.starts_with(EXTRACTION) || key.splitn(3, '/').nth(2).is_some_and(|key| key.starts_with(EXTRACTION))
}

impl Overlay {
    /// The active snapshot of ours that these mounts are of, and how a layer goes into it.
    pub(super) fn active_of(&self, mounts: &[Mount]) -> Option<(u64, Target)> {
        let target = Target::from_mounts(mounts).ok()?;
        let snapshot = target.dir.parent()?;
        let id = snapshot.file_name()?.to_str()?.parse().ok()?;
        (self.folders.path(id) == snapshot && dirs::fs(snapshot) == target.dir).then_some((id, target))
    }

    /// Where the layer of an extraction goes as an image.
    pub(super) fn slot(&self, mounts: &[Mount]) -> Result<Option<ImageSlot>, SnapshotError> {
        let Some((id, target)) = self.active_of(mounts) else { return Ok(None) };
        if self.has_image(id) {
            // Another layer on top of the first one.
            self.unpack_image(id)?;
            return Ok(None);
        }
        if !self.images.is_extraction(id) || !self.images.wanted()? {
            return Ok(None);
        }
        let folder = self.folders.folder(id)?;
        if !self.is_empty(id)? {
            return Ok(None);
        }
        let stands_on = match (target.whiteouts, target.parents) {
            (Whiteouts::Delete, _) => StandsOn::Nothing,
            (Whiteouts::OverlayUser, _) => return Ok(None),
            (Whiteouts::OverlayTrusted, parents) if parents.is_empty() => StandsOn::Unknown,
            (Whiteouts::OverlayTrusted, parents) => StandsOn::Folders(parents),
        };
        Ok(Some(ImageSlot::new(folder, stands_on)))
    }

    pub(super) fn has_image(&self, id: u64) -> bool {
        dirs::image(&self.folders.path(id)).exists()
    }

    /// Whether nobody wrote files into a snapshot.
    fn is_empty(&self, id: u64) -> Result<bool, SnapshotError> {
        let folder = self.folders.folder(id)?;
        let failed = SnapshotError::io("list", self.folders.path(id));
        dirs::open_fs(&folder).and_then(names).map(|names| names.is_empty()).map_err(failed)
    }

    /// Makes files of the image of an active snapshot, if it has one; it is not for an extraction alone from now on.
    pub(super) fn unpack_image(&self, id: u64) -> Result<(), SnapshotError> {
        self.images.end(id);
        if !self.has_image(id) {
            return Ok(());
        }
        tracing::debug!(snapshot = id, "the layer of an active snapshot becomes files");
        self.image_to_files(id).map_err(SnapshotError::io("unpack the image of", self.folders.path(id)))
    }

    fn image_to_files(&self, id: u64) -> io::Result<()> {
        let path = self.folders.path(id);
        let folder = rustix::fs::open(&path, FOLDER, Mode::empty())?;
        let to = dirs::open_fs(&folder)?;
        // What an earlier attempt left.
        for (name, _) in names(&to)? {
            remove_all(&to, &name)?;
        }
        self.images.with(&path, |place| {
            let from = rustix::fs::open(place, FOLDER, Mode::empty())?;
            Copier::exact().tree(from, to.try_clone()?)
        })?;
        for one in implied(&folder)? {
            let name = std::ffi::OsStr::from_bytes(&one.path);
            let place = rustix::fs::open(dirs::fs(&path).join(name), FOLDER, Mode::empty())?;
            mark_implied(&place)?;
        }
        rustix::fs::syncfs(&folder)?;
        for name in [IMAGE, IMPLIED] {
            match unlinkat(&folder, name, AtFlags::empty()) {
                Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Does to an image what had to wait until it is known what it stands on.
    pub(super) fn settle_image(&self, key: &str, parent: &str, id: u64, chain: &[u64]) -> Result<(), SnapshotError> {
        let failed = |doing| SnapshotError::io(doing, self.folders.path(id));
        let folder = self.folders.folder(id)?;
        let waiting = implied(&folder).map_err(failed("read beside the image of"))?;
        if waiting.is_empty() {
            return Ok(());
        }
        let lowers: Vec<PathBuf> = chain.iter().map(|parent| dirs::fs(&self.folders.path(*parent))).collect();
        let below = Lowers::open(&lowers, OverlayPrefix::Trusted).map_err(failed("open the parents of"))?;
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let image = openat(&folder, IMAGE, flags, Mode::empty()).map_err(|error| failed("open")(error.into()))?;
        let image = File::from(image);
        for one in waiting {
            if !dress(&image, &one, &below).map_err(failed("give the parent's looks to"))? {
                let why = "a folder below has attributes that it has to get";
                return Err(SnapshotError::CannotRebase { key: key.to_owned(), parent: parent.to_owned(), why });
            }
        }
        Ok(())
    }

    /// Writes the image of a snapshot to disk that is about to be committed.
    pub(super) fn finish_image(&self, id: u64) -> Result<(), SnapshotError> {
        let failed = |doing| SnapshotError::io(doing, self.folders.path(id));
        if !self.is_empty(id)? {
            let source = io::Error::other("files were written beside the layer that was unpacked");
            return Err(failed("commit")(source));
        }
        let folder = self.folders.folder(id)?;
        sync(&folder).map_err(failed("sync"))?;
        match unlinkat(&folder, IMPLIED, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(failed("clean up")(error.into())),
        }
        self.folders.sync_names()?;
        self.images.end(id);
        Ok(())
    }

    /// What an image takes, with the folder that it is mounted on.
    pub(super) fn image_usage(&self, id: u64) -> Result<Usage, SnapshotError> {
        const BLOCK_BYTES: u64 = 512;
        let failed = SnapshotError::io("measure", self.folders.path(id));
        let measure = || -> io::Result<Usage> {
            let path = self.folders.path(id);
            let folder = rustix::fs::open(&path, FOLDER, Mode::empty())?;
            let mut all = Usage::default();
            for name in [&b"fs"[..], IMAGE.as_bytes()] {
                if let Some(stat) = look(&folder, name)? {
                    all.inodes += 1;
                    all.size_bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK_BYTES;
                }
            }
            Ok(all)
        };
        measure().map_err(failed)
    }
}
