//! The driver for every filesystem: an active snapshot is a full copy of its parent, and is mounted by a bind.
//!
//! ```text
//! <root>/snapshots/<number>    the whole tree
//! ```
//!
//! Copies share their blocks where the filesystem can do that; elsewhere they are slow and large. A copy is synced before its
//! record is written, so a crash never shows half of one.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use model::snapshot::{SnapshotInfo, SnapshotKind, Usage};
use model::{Labels, Mount};
use rustix::fs::{Mode, fchmod};
use store::Store;
use store::record::BackendSnapshotRecord;

use crate::folders::Folders;
use crate::fs::{Copier, usage};
use crate::records::{self, Commit, New, Records};
use crate::{SnapshotError, Snapshotter, Update};

/// The name that clients choose this driver by.
pub const NAME: &str = "native";

/// The driver `native`.
pub struct Native {
    root: PathBuf,
    records: Records,
    folders: Folders,
}

impl Native {
    /// Opens the driver on the folder `root`, made if it does not exist.
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub fn open(root: &Path, store: Store) -> Result<Self, SnapshotError> {
        let folders = Folders::open(root, store.clone(), NAME)?;
        Ok(Self { root: root.to_owned(), records: Records::new(store, NAME), folders })
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
        let claim = self.folders.claim()?;
        let failed = |doing| SnapshotError::io(doing, self.folders.path(claim.id));
        match chain.first() {
            Some(parent) if kind == SnapshotKind::Active => {
                let from = self.folders.folder(*parent)?;
                let to = claim.fd.try_clone().map_err(failed("open"))?;
                Copier::exact()
                    .tree(from, to)
                    .map_err(|source: std::io::Error| failed("copy the parent to")(source))?;
            }
            _ => fchmod(&claim.fd, Mode::from_raw_mode(0o755))
                .map_err(|error| failed("set the mode of")(std::io::Error::from(error)))?,
        }
        self.folders.sync()?;
        self.records.insert(New {
            key: key.to_owned(),
            id: claim.id,
            kind,
            parent: parent.map(str::to_owned),
            parent_id: chain.first().copied(),
            labels: labels.clone(),
        })?;
        let id = claim.id;
        claim.keep();
        Ok(self.mounts_of(id, kind, chain.first().copied()))
    }

    fn mounts_of(&self, id: u64, kind: SnapshotKind, parent: Option<u64>) -> Vec<Mount> {
        let (source, access) = match (kind, parent) {
            (SnapshotKind::Active, _) => (id, "rw"),
            (_, Some(parent)) => (parent, "ro"),
            (_, None) => (id, "ro"),
        };
        vec![Mount {
            kind: "bind".to_owned(),
            source: self.folders.path(source).to_string_lossy().into_owned(),
            target: String::new(),
            options: vec!["rbind".to_owned(), access.to_owned()],
        }]
    }

    fn usage_of(&self, record: &BackendSnapshotRecord) -> Result<Usage, SnapshotError> {
        match (record.usage, record.kind) {
            (Some(usage), _) => Ok(usage),
            (None, SnapshotKind::View | SnapshotKind::Committed) => Ok(Usage::default()),
            (None, SnapshotKind::Active) => usage(self.folders.folder(record.id)?)
                .map_err(SnapshotError::io("measure", self.folders.path(record.id))),
        }
    }
}

impl Snapshotter for Native {
    fn name(&self) -> &str {
        NAME
    }

    fn root(&self) -> Option<&Path> {
        Some(&self.root)
    }

    fn capabilities(&self) -> Vec<String> {
        Vec::new()
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
        let chain = self.records.chain(record.parent.as_deref())?;
        Ok(self.mounts_of(record.id, record.kind, chain.first().copied()))
    }

    fn commit(&self, name: &str, key: &str, labels: &Labels, parent: Option<&str>) -> Result<(), SnapshotError> {
        self.records.check_new(name)?;
        let record = records::active(self.records.get(key)?, key)?;
        if let Some(parent) = parent {
            let (key, parent) = (key.to_owned(), parent.to_owned());
            // The files of the parent would be missing from the copy.
            return Err(SnapshotError::CannotRebase { key, parent, why: "this snapshotter copies parents" });
        }
        let usage = self.usage_of(&record)?;
        self.folders.sync()?;
        let (name, labels) = (name.to_owned(), labels.clone());
        self.records.commit(key, record.id, Commit { name, labels, new_parent: None, usage })
    }

    fn remove(&self, key: &str) -> Result<(), SnapshotError> {
        let id = self.records.remove(key)?;
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
        self.folders.sweep(|| self.records.ids(), |_| {})
    }
}
