//! The driver for overlayfs: a snapshot is a folder of its own changes, seen on top of its parents' folders.
//!
//! ```text
//! <root>/snapshots/<number>/fs      the changes: overlayfs's upper folder, a lower one for those that stand on it
//!                          /work    overlayfs's scratch folder, while the snapshot is active
//! ```
//!
//! An active snapshot's folder is not synced when it is made: it is empty, so [`Overlay::open`] makes it again if a crash took it.
//! A commit syncs the whole filesystem once, before the record says that the snapshot is committed.
//!
//! A layer that is unpacked as a whole, by [`Snapshotter::layer_image`], can be one image instead, which costs one sync and one mount:
//!
//! ```text
//! <root>/snapshots/<number>/layer.erofs   the changes
//!                          /fs            where the image is mounted once somebody stands on it
//! ```
//!
//! Clients cannot tell: the folder `fs` shows the same files either way.

mod dirs;
mod host;
mod image;
mod images;
mod mounts;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use model::snapshot::{SnapshotInfo, SnapshotKind, Usage};
use model::{Labels, Mount};
use store::record::BackendSnapshotRecord;
use store::{Store, failpoint};

use crate::folders::Folders;
use crate::fs::xattrs::{OverlayPrefix, is_opaque};
use crate::fs::{Lowers, dress_marked, usage};
use crate::layer::ImageSlot;
use crate::records::{self, Commit, New, Records};
use crate::{CAPABILITY_REBASE, SnapshotError, Snapshotter, Update};

pub use host::Host;
use images::Images;

/// The name that clients choose this driver by.
pub const NAME: &str = "overlayfs";

/// How the layers of images are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LayerFormat {
    /// As images where the kernel mounts such, as folders elsewhere.
    Auto,
    /// As images, or not at all.
    Erofs,
    /// As folders.
    #[default]
    Dir,
}

/// How to run the driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// More options for every overlay mount.
    pub mount_options: Vec<String>,
    /// What the machine's overlayfs is like.
    pub host: Host,
    /// How the layers of images are kept.
    pub layer_format: LayerFormat,
}

impl Default for Options {
    fn default() -> Self {
        Self { mount_options: Vec::new(), host: Host::probe(), layer_format: LayerFormat::default() }
    }
}

/// The driver `overlayfs`.
pub struct Overlay {
    root: PathBuf,
    records: Records,
    folders: Folders,
    images: Images,
    options: Options,
}

impl Overlay {
    /// Opens the driver on the folder `root`, made if it does not exist, and makes whole what a crash left undone.
    ///
    /// # Errors
    /// When the folder cannot be used, or the records cannot be read.
    pub fn open(root: &Path, store: Store, options: Options) -> Result<Self, SnapshotError> {
        let folders = Folders::open(root, store.clone(), NAME)?;
        // Attributes of overlayfs in an image are root's.
        let format = if options.host.in_user_namespace { LayerFormat::Dir } else { options.layer_format };
        let images = Images::new(root, format);
        let driver = Self { root: root.to_owned(), records: Records::new(store, NAME), folders, images, options };
        driver.restore()?;
        Ok(driver)
    }

    /// Makes the folders of active snapshots and views again where they are missing.
    fn restore(&self) -> Result<(), SnapshotError> {
        let mut outcome = Ok(());
        self.records.walk(&mut |key, record| {
            if record.kind != SnapshotKind::Committed {
                outcome = self.restore_one(key, &record);
            }
            if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        outcome
    }

    fn restore_one(&self, key: &str, record: &BackendSnapshotRecord) -> Result<(), SnapshotError> {
        // Somebody may still have the mounts that were handed out before.
        let chain = self.records.chain(record.parent.as_deref())?;
        if let Err(error) = self.images.show(&self.folders, &chain) {
            // The others are not to suffer for it; whoever asks for these mounts is told.
            tracing::error!(%key, error = &error as &dyn std::error::Error, "layer of a snapshot cannot be mounted");
            return Ok(());
        }
        if dirs::is_whole(&self.folders.path(record.id), record.kind, record.parent.is_some()) {
            return Ok(());
        }
        tracing::warn!(%key, snapshot = record.id, "folder of a snapshot was lost and is made again");
        let folder = self.folders.restore(record.id)?;
        self.make_dirs(&folder, record.id, record.kind, &chain)
    }

    fn make(
        &self,
        kind: SnapshotKind,
        key: &str,
        parent: Option<&str>,
        labels: &Labels,
    ) -> Result<Vec<Mount>, SnapshotError> {
        records::check_labels(NAME, labels)?;
        self.records.check_new(key)?;
        let chain = self.records.chain(parent)?;
        self.images.show(&self.folders, &chain)?;
        let claim = self.folders.claim()?;
        self.make_dirs(&claim.fd, claim.id, kind, &chain)?;
        failpoint("prepare-made");
        self.records.insert(New {
            key: key.to_owned(),
            id: claim.id,
            kind,
            parent: parent.map(str::to_owned),
            parent_id: chain.first().copied(),
            labels: labels.clone(),
        })?;
        failpoint("prepare-recorded");
        let id = claim.id;
        claim.keep();
        if kind == SnapshotKind::Active && image::is_extraction(key) {
            self.images.begin(id);
        }
        Ok(self.mounts_of(id, kind, &chain))
    }

    fn make_dirs(
        &self,
        folder: &std::os::fd::OwnedFd,
        id: u64,
        kind: SnapshotKind,
        chain: &[u64],
    ) -> Result<(), SnapshotError> {
        let parent = chain.first().map(|parent| dirs::fs(&self.folders.path(*parent)));
        dirs::make(folder, kind, parent.as_deref()).map_err(SnapshotError::io("make", self.folders.path(id)))
    }

    fn mounts_of(&self, id: u64, kind: SnapshotKind, chain: &[u64]) -> Vec<Mount> {
        let parents: Vec<PathBuf> = chain.iter().map(|parent| self.folders.path(*parent)).collect();
        mounts::mounts(kind, &self.folders.path(id), &parents, &self.options)
    }
}

impl Snapshotter for Overlay {
    fn name(&self) -> &str {
        NAME
    }

    fn root(&self) -> Option<&Path> {
        Some(&self.root)
    }

    fn capabilities(&self) -> Vec<String> {
        // Whiteouts of an extraction that does not know its parent yet need devices.
        if self.options.host.in_user_namespace { Vec::new() } else { vec![CAPABILITY_REBASE.to_owned()] }
    }

    fn prepare(&self, key: &str, parent: Option<&str>, labels: &Labels) -> Result<Vec<Mount>, SnapshotError> {
        self.make(SnapshotKind::Active, key, parent, labels)
    }

    fn view(&self, key: &str, parent: Option<&str>, labels: &Labels) -> Result<Vec<Mount>, SnapshotError> {
        self.make(SnapshotKind::View, key, parent, labels)
    }

    fn mounts(&self, key: &str) -> Result<Vec<Mount>, SnapshotError> {
        let record = self.records.get(key)?;
        if record.kind == SnapshotKind::Committed {
            return Err(SnapshotError::NotActive { key: key.to_owned() });
        }
        if record.kind == SnapshotKind::Active {
            // Whoever asks is going to look at the files, or to write some.
            self.unpack_image(record.id)?;
        }
        let chain = self.records.chain(record.parent.as_deref())?;
        self.images.show(&self.folders, &chain)?;
        Ok(self.mounts_of(record.id, record.kind, &chain))
    }

    fn commit(&self, name: &str, key: &str, labels: &Labels, parent: Option<&str>) -> Result<(), SnapshotError> {
        self.records.check_new(name)?;
        let record = records::active(self.records.get(key)?, key)?;
        if let Some(parent) = parent {
            records::check_rebase(key, &record, parent)?;
            if self.options.host.in_user_namespace {
                let why = "not in a user namespace";
                return Err(SnapshotError::CannotRebase { key: key.to_owned(), parent: parent.to_owned(), why });
            }
            let chain = self.records.chain(Some(parent))?;
            self.images.show(&self.folders, &chain)?;
            self.settle(key, parent, record.id, &chain)?;
        }
        failpoint("commit-before-sync");
        if self.has_image(record.id) {
            self.finish_image(record.id)?;
        } else {
            self.folders.sync()?;
        }
        failpoint("commit-synced");
        let usage = self.usage_of(&record)?;
        let (name, new_parent) = (name.to_owned(), parent.map(str::to_owned));
        self.records.commit(key, record.id, Commit { name, labels: labels.clone(), new_parent, usage })
    }

    fn remove(&self, key: &str) -> Result<(), SnapshotError> {
        let id = self.records.remove(key)?;
        failpoint("remove-recorded");
        self.images.hide(&self.folders.path(id), id);
        self.folders.remove(id);
        Ok(())
    }

    fn stat(&self, key: &str) -> Result<SnapshotInfo, SnapshotError> {
        Ok(records::info(key.to_owned(), self.records.get(key)?))
    }

    fn update(&self, update: &Update) -> Result<SnapshotInfo, SnapshotError> {
        self.records.update(update)
    }

    fn walk(&self, each: &mut dyn FnMut(SnapshotInfo) -> ControlFlow<()>) -> Result<(), SnapshotError> {
        self.records.walk(&mut |name, record| each(records::info(name.to_owned(), record)))
    }

    fn usage(&self, key: &str) -> Result<Usage, SnapshotError> {
        self.usage_of(&self.records.get(key)?)
    }

    fn cleanup(&self) -> Result<(), SnapshotError> {
        self.folders.sweep(|| self.records.ids(), |id| self.images.hide(&self.folders.path(id), id))
    }

    fn layer_image(&self, mounts: &[Mount]) -> Result<Option<ImageSlot>, SnapshotError> {
        self.slot(mounts)
    }

    fn settle_files(&self, mounts: &[Mount]) -> Result<(), SnapshotError> {
        match self.active_of(mounts) {
            Some((id, _)) => self.unpack_image(id),
            None => Ok(()),
        }
    }
}

impl Overlay {
    /// Does to the files of a snapshot what had to wait until it is known what they stand on.
    fn settle(&self, key: &str, parent: &str, id: u64, chain: &[u64]) -> Result<(), SnapshotError> {
        if self.has_image(id) {
            return self.settle_image(key, parent, id, chain);
        }
        let failed = |doing| SnapshotError::io(doing, self.folders.path(id));
        let fs = dirs::open_fs(&self.folders.folder(id)?).map_err(failed("open"))?;
        if is_opaque(&fs, OverlayPrefix::Trusted).map_err(failed("read"))? {
            // Overlayfs knows opaque folders, but no opaque roots.
            let why = "its root hides everything below";
            return Err(SnapshotError::CannotRebase { key: key.to_owned(), parent: parent.to_owned(), why });
        }
        let lowers: Vec<PathBuf> = chain.iter().map(|parent| dirs::fs(&self.folders.path(*parent))).collect();
        let below = Lowers::open(&lowers, OverlayPrefix::Trusted).map_err(failed("open the parents of"))?;
        dress_marked(fs, &below).map_err(failed("give the parent's looks to"))
    }

    fn usage_of(&self, record: &BackendSnapshotRecord) -> Result<Usage, SnapshotError> {
        match (record.usage, record.kind) {
            (Some(usage), _) => Ok(usage),
            // A view adds nothing to its parents.
            (None, SnapshotKind::View | SnapshotKind::Committed) => Ok(Usage::default()),
            (None, SnapshotKind::Active) if self.has_image(record.id) => self.image_usage(record.id),
            (None, SnapshotKind::Active) => {
                let folder = self.folders.folder(record.id)?;
                dirs::open_fs(&folder)
                    .and_then(usage)
                    .map_err(SnapshotError::io("measure", self.folders.path(record.id)))
            }
        }
    }
}
