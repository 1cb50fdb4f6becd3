//! The steps of unpacking one layer. All of this blocks.
//!
//! The layer goes where the snapshotter wants it, as one image or as files straight into the folder that its mounts stand for; nothing is
//! mounted here. An [`Extraction`] that is dropped before its end removes its snapshot.

use std::io::{self, Read};

use model::{Digest, Labels, Mount};
use snapshotter::layer::{self, Applied, Durability, Encoding, LayerError, Limits, Target, Whiteouts};
use tokio_util::sync::CancellationToken;

use super::{Layer, Parent, UnpackError};
use crate::api::Scope;
use crate::blocking;
use crate::images::Images;
use crate::images::arrivals::Follow;
use crate::images::progress::Item;
use crate::meta::leases::{nanoseconds, random_text};
use crate::meta::snapshots::{Access, Commit, LABEL_REF, Prepare, SnapshotName, SnapshotsError};

/// Where the bytes of a layer come from.
pub(super) enum Source {
    /// From the store.
    Stored,
    /// From the transfer that is still under way.
    Arriving(Follow),
}

/// One layer being unpacked.
pub(super) struct Extraction {
    images: Images,
    scope: Scope,
    layer: Layer,
    parent: Parent,
    /// The snapshot that it goes into, as long as that is to be removed when this is dropped.
    active: Option<SnapshotName>,
}

impl Extraction {
    pub(super) fn new(images: Images, scope: Scope, layer: Layer, parent: Parent) -> Self {
        Self { images, scope, layer, parent, active: None }
    }

    /// Unpacks into a new snapshot; `None` when the layer is there already.
    pub(super) fn begin(
        mut self,
        source: &Source,
        item: Option<Item>,
        given_up: CancellationToken,
    ) -> Result<Option<Self>, UnpackError> {
        let Some(mounts) = self.prepare()? else { return Ok(None) };
        if let Some(item) = &item {
            item.set("extracting", 0);
        }
        let applied = self.apply(&mounts, source, item.as_ref(), &given_up)?;
        if applied.diff_id != self.layer.diff_id {
            return Err(UnpackError::DiffId {
                digest: self.digest(),
                got: applied.diff_id,
                wanted: self.layer.diff_id.clone(),
            });
        }
        Ok(Some(self))
    }

    /// Commits the snapshot under the name of its chain.
    pub(super) fn end(mut self) -> Result<(), UnpackError> {
        let active = self.active.clone().expect("it was begun");
        let parent = match self.parent {
            Parent::First => None,
            Parent::Last => self.layer.parent.as_ref().map(Digest::to_string),
        };
        let commit = Commit { active, name: self.layer.chain.to_string(), labels: self.labels(), parent };
        match self.images.meta.commit_snapshot(self.scope.clone(), commit) {
            Ok(()) => {
                self.active = None;
                Ok(())
            }
            // Another client of the snapshotter was faster.
            Err(SnapshotsError::AlreadyExists { .. }) => Ok(()),
            Err(source) => Err(UnpackError::Snapshot { digest: self.digest(), source }),
        }
    }

    fn digest(&self) -> Digest {
        self.layer.blob.digest.clone()
    }

    fn labels(&self) -> Labels {
        Labels::from([(LABEL_REF.to_owned(), self.layer.chain.to_string())])
    }

    /// Makes the snapshot to unpack into; `None` when the layer is there, or its driver does not even need the blob for it.
    fn prepare(&mut self) -> Result<Option<Vec<Mount>>, UnpackError> {
        let name = SnapshotName {
            namespace: self.scope.namespace.clone(),
            snapshotter: self.layer.snapshotter.clone(),
            key: format!("extract-{}-{} {}", nanoseconds(), random_text(4), self.layer.chain),
        };
        let parent = self.layer.parent.as_ref().filter(|_| self.parent == Parent::First);
        let prepare = Prepare {
            name: name.clone(),
            parent: parent.map(Digest::to_string),
            labels: self.labels(),
            access: Access::Write,
        };
        match self.images.meta.prepare_snapshot(self.scope.clone(), prepare) {
            Ok(mounts) => {
                self.active = Some(name);
                Ok(Some(mounts))
            }
            Err(SnapshotsError::TargetExists { .. }) => Ok(None),
            Err(SnapshotsError::AlreadyExists { key }) if key == self.layer.chain.as_str() => Ok(None),
            Err(source) => Err(UnpackError::Snapshot { digest: self.digest(), source }),
        }
    }

    fn apply(
        &self,
        mounts: &[Mount],
        source: &Source,
        item: Option<&Item>,
        given_up: &CancellationToken,
    ) -> Result<Applied, UnpackError> {
        let media_type = &self.layer.blob.media_type;
        let encoding = Encoding::from_media_type(media_type)
            .ok_or_else(|| UnpackError::MediaType { digest: self.digest(), media_type: media_type.clone() })?;
        let failed = |source| UnpackError::Layer { digest: self.digest(), source };
        let late = self.parent == Parent::Last;
        let slot = self.images.meta.layer_image(mounts);
        let slot = slot.map_err(|source| UnpackError::Driver { digest: self.digest(), source })?;
        if let Some(slot) = slot {
            let slot = if late { slot.on_unknown() } else { slot };
            match slot.write(self.open(source, item, given_up)?, encoding, &Limits::default()) {
                Err(LayerError::NotAsImage { why }) => {
                    tracing::info!(digest = %self.layer.blob.digest, why, "layer is kept as files");
                }
                outcome => return outcome.map_err(failed),
            }
        }
        let mut target =
            Target::from_mounts(mounts).map_err(|source| UnpackError::Target { digest: self.digest(), source })?;
        if late {
            // It has no parent yet, so its mounts look as if there were nothing to hide.
            target.whiteouts = Whiteouts::OverlayTrusted;
        }
        let reader = self.open(source, item, given_up)?;
        layer::apply(reader, encoding, &target, &Limits::default(), Durability::Later).map_err(failed)
    }

    fn open<'s>(
        &'s self,
        source: &'s Source,
        item: Option<&Item>,
        given_up: &CancellationToken,
    ) -> Result<Watched<'s>, UnpackError> {
        let bytes: Box<dyn Read + 's> = match source {
            Source::Arriving(follow) => Box::new(follow.reader()),
            Source::Stored => {
                let blob = self.images.meta.content_reader(&self.scope.namespace, self.digest());
                Box::new(blob.map_err(|source| UnpackError::Content { digest: self.digest(), source })?)
            }
        };
        Ok(Watched { bytes, at: 0, item: item.cloned(), given_up: given_up.clone() })
    }
}

impl Drop for Extraction {
    fn drop(&mut self) {
        let Some(active) = self.active.take() else { return };
        let (meta, scope) = (self.images.meta.clone(), self.scope.clone());
        blocking::detach(move || {
            let key = active.key.clone();
            if let Err(error) = meta.remove_snapshot(scope, active) {
                tracing::warn!(snapshot = %key, %error, "snapshot of a failed extraction not removed");
            }
        });
    }
}

/// Bytes whose reading is seen, and ends when nobody waits for it.
struct Watched<'s> {
    bytes: Box<dyn Read + 's>,
    at: u64,
    item: Option<Item>,
    given_up: CancellationToken,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.given_up.is_cancelled() {
            return Err(io::Error::other("nobody waits for this any more"));
        }
        let got = self.bytes.read(buffer)?;
        self.at += got as u64;
        if let Some(item) = &self.item {
            item.at(self.at);
        }
        Ok(got)
    }
}
