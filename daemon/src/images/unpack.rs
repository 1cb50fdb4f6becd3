//! Layers into snapshots: each one once its blob is whole, the lowest first.
//!
//! ```text
//!   known? done ──► prepare on the layer below ──► apply, hash ──► diff id right? ──► commit under the chain's name
//!                            │                                         │
//!                            └── failed, or nobody waits any more: the snapshot is removed
//! ```
//!
//! The files go straight into the snapshot's folder, through [`snapshotter::layer`]; nothing is mounted. Two who unpack the same layer
//! take turns, and the second finds it done.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use model::error::{Classify, Kind};
use model::platform::Platform;
use model::{Descriptor, Digest, Labels};
use snapshotter::layer::{self, Durability, Encoding, LayerError, Limits, Target, TargetError};
use store::blob::BlobReader;

use super::arrivals::Arrivals;
use super::document::{Config, DocumentError, MAX_DOCUMENT_BYTES, chain_ids};
use super::local::{LABEL_SNAPSHOT, LABEL_UNCOMPRESSED};
use super::progress::Item;
use super::tree::{Image, is_image_config};
use super::{Images, TransferError};
use crate::api::Scope;
use crate::blocking;
use crate::meta::content::ContentError;
use crate::meta::leases::{nanoseconds, random_text};
use crate::meta::snapshots::{Access, Commit, LABEL_REF, Prepare, SnapshotName, SnapshotsError};

/// What to unpack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpack {
    /// Images for this platform.
    pub platform: Platform,
    /// With which snapshotter; empty is the default one.
    pub snapshotter: String,
}

/// Why a layer could not be unpacked. Its snapshot is removed.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The layer is of a kind that cannot be unpacked.
    #[error("cannot unpack layer {digest} of type {media_type:?}")]
    MediaType {
        /// The layer.
        digest: Digest,
        /// Its type.
        media_type: String,
    },
    /// The archive is wrong, or its files cannot be written.
    #[error("cannot unpack layer {digest}")]
    Layer {
        /// The layer.
        digest: Digest,
        /// What is wrong.
        source: LayerError,
    },
    /// The layer is not what the config says.
    #[error("layer {digest} unpacks to {got}, but its config says {wanted}")]
    DiffId {
        /// The layer.
        digest: Digest,
        /// What came out.
        got: Digest,
        /// What should have.
        wanted: Digest,
    },
    /// The snapshotter's mounts cannot be unpacked into.
    #[error("cannot unpack layer {digest}")]
    Target {
        /// The layer.
        digest: Digest,
        /// Why.
        source: TargetError,
    },
    /// The snapshot cannot be made.
    #[error("cannot unpack layer {digest}")]
    Snapshot {
        /// The layer.
        digest: Digest,
        /// Why.
        source: SnapshotsError,
    },
    /// The blob cannot be read.
    #[error("cannot read layer {digest}")]
    Content {
        /// The layer.
        digest: Digest,
        /// Why.
        source: ContentError,
    },
}

impl Classify for UnpackError {
    fn kind(&self) -> Kind {
        match self {
            Self::MediaType { .. } => Kind::Unimplemented,
            Self::Layer { source, .. } => source.kind(),
            Self::DiffId { .. } => Kind::DataLoss,
            Self::Target { source, .. } => source.kind(),
            Self::Snapshot { source, .. } => source.kind(),
            Self::Content { source, .. } => source.kind(),
        }
    }
}

/// Tells blocking work that nobody waits for it any more.
#[derive(Debug, Clone, Default)]
struct Abandoned(Arc<AtomicBool>);

/// Sets it when the one who waits is dropped.
struct Waiting(Abandoned);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// A layer on its way into a snapshot.
struct Layer {
    blob: Descriptor,
    diff_id: Digest,
    /// The name of the snapshot below.
    parent: Option<Digest>,
    /// The name it gets.
    chain: Digest,
    snapshotter: String,
}

impl Images {
    /// Unpacks an image if that is asked for and it is for the right platform; whether it was. Waits for each blob to arrive.
    pub(super) async fn unpack(
        &self,
        scope: &Scope,
        image: &Image,
        unpack: &Unpack,
        arrivals: &Arrivals,
    ) -> Result<bool, TransferError> {
        let config = &image.manifest.config;
        if !is_image_config(config) {
            return Ok(false);
        }
        arrivals.wait(&config.digest).await;
        let bytes = self.open(&scope.namespace, &config.digest).await?.read_whole(MAX_DOCUMENT_BYTES);
        let parsed = Config::parse(&bytes.map_err(ContentError::from)?, &config.digest)?;
        if !runs_on(&unpack.platform, &parsed.platform) {
            return Ok(false);
        }
        let (layers, diff_ids) = (&image.manifest.layers, &parsed.diff_ids);
        if layers.len() != diff_ids.len() {
            return Err(DocumentError::Mismatch {
                digest: config.digest.clone(),
                diff_ids: diff_ids.len(),
                layers: layers.len(),
            }
            .into());
        }
        let snapshotter = match unpack.snapshotter.as_str() {
            "" => self.settings.snapshotter.clone(),
            name => name.to_owned(),
        };
        let mut parent = None;
        for ((blob, diff_id), chain) in layers.iter().zip(diff_ids).zip(chain_ids(diff_ids)) {
            arrivals.wait(&blob.digest).await;
            let layer = Layer {
                blob: blob.clone(),
                diff_id: diff_id.clone(),
                parent: parent.replace(chain.clone()),
                chain,
                snapshotter: snapshotter.clone(),
            };
            self.unpack_layer(scope, layer, arrivals.item(&blob.digest)).await?;
            let label = Labels::from([(LABEL_UNCOMPRESSED.to_owned(), diff_id.to_string())]);
            self.label(&scope.namespace, &blob.digest, label).await?;
        }
        if let Some(top) = parent {
            let label = Labels::from([(format!("{LABEL_SNAPSHOT}{snapshotter}"), top.to_string())]);
            self.label(&scope.namespace, &config.digest, label).await?;
        }
        Ok(true)
    }

    async fn unpack_layer(&self, scope: &Scope, layer: Layer, item: Option<Item>) -> Result<(), UnpackError> {
        let turn = format!("layer {} {} {}", scope.namespace, layer.snapshotter, layer.chain);
        let _turn = self.locks.take(turn).await;
        let _permit = self.extractions.acquire().await.expect("it is never closed");
        let abandoned = Abandoned::default();
        let _waiting = Waiting(abandoned.clone());
        let (images, scope) = (self.clone(), scope.clone());
        blocking::run(move || images.extract(scope, &layer, item.as_ref(), abandoned)).await
    }

    /// Unpacks one layer. Blocks.
    fn extract(
        &self,
        scope: Scope,
        layer: &Layer,
        item: Option<&Item>,
        abandoned: Abandoned,
    ) -> Result<(), UnpackError> {
        let digest = || layer.blob.digest.clone();
        let failed = |source: SnapshotsError| UnpackError::Snapshot { digest: digest(), source };
        let done = || {
            if let Some(item) = item {
                item.done("extracted");
            }
        };
        let name = |key: String| SnapshotName {
            namespace: scope.namespace.clone(),
            snapshotter: layer.snapshotter.clone(),
            key,
        };
        let key = format!("extract-{}-{} {}", nanoseconds(), random_text(4), layer.chain);
        let labels = Labels::from([(LABEL_REF.to_owned(), layer.chain.to_string())]);
        let active = name(key);
        let prepare = Prepare {
            name: active.clone(),
            parent: layer.parent.as_ref().map(Digest::to_string),
            labels: labels.clone(),
            access: Access::Write,
        };
        let mounts = match self.meta.prepare_snapshot(scope.clone(), prepare) {
            Ok(mounts) => mounts,
            // Here, or in the driver, which may not even need the blob for it.
            Err(SnapshotsError::TargetExists { .. }) => {
                done();
                return Ok(());
            }
            Err(SnapshotsError::AlreadyExists { key }) if key == layer.chain.as_str() => {
                done();
                return Ok(());
            }
            Err(error) => return Err(failed(error)),
        };
        let outcome = self.apply(&scope, layer, &mounts, item, abandoned).and_then(|()| {
            let commit = Commit { active: active.clone(), name: layer.chain.to_string(), labels, parent: None };
            self.meta.commit_snapshot(scope.clone(), commit).map_err(failed)
        });
        match outcome {
            Ok(()) => {
                done();
                return Ok(());
            }
            // Another client of the snapshotter was faster.
            Err(UnpackError::Snapshot { source: SnapshotsError::AlreadyExists { .. }, .. }) => done(),
            Err(ref _error) => {}
        }
        if let Err(error) = self.meta.remove_snapshot(scope, active.clone()) {
            tracing::warn!(snapshot = %active.key, %error, "snapshot of a failed extraction not removed");
        }
        match outcome {
            Err(UnpackError::Snapshot { source: SnapshotsError::AlreadyExists { .. }, .. }) => Ok(()),
            outcome => outcome,
        }
    }

    /// Unpacks the archive into the folder that the mounts stand for, and checks what came out.
    fn apply(
        &self,
        scope: &Scope,
        layer: &Layer,
        mounts: &[model::Mount],
        item: Option<&Item>,
        abandoned: Abandoned,
    ) -> Result<(), UnpackError> {
        let digest = || layer.blob.digest.clone();
        let encoding = Encoding::from_media_type(&layer.blob.media_type)
            .ok_or_else(|| UnpackError::MediaType { digest: digest(), media_type: layer.blob.media_type.clone() })?;
        let target = Target::from_mounts(mounts).map_err(|source| UnpackError::Target { digest: digest(), source })?;
        let blob = self.meta.content_reader(&scope.namespace, digest());
        let blob = blob.map_err(|source| UnpackError::Content { digest: digest(), source })?;
        if let Some(item) = item {
            item.set("extracting", 0);
        }
        let reader = Watched { blob, at: 0, item: item.cloned(), abandoned };
        let applied = layer::apply(reader, encoding, &target, &Limits::default(), Durability::Later);
        let applied = applied.map_err(|source| UnpackError::Layer { digest: digest(), source })?;
        if applied.diff_id != layer.diff_id {
            return Err(UnpackError::DiffId { digest: digest(), got: applied.diff_id, wanted: layer.diff_id.clone() });
        }
        Ok(())
    }
}

/// Whether an image that says it is for `image` is meant by `wanted`. Old ones say nothing.
fn runs_on(wanted: &Platform, image: &Platform) -> bool {
    image.architecture.is_empty() || wanted.accepts(image).is_some()
}

/// A blob whose reading is seen, and ends when nobody waits for it.
struct Watched {
    blob: BlobReader,
    at: u64,
    item: Option<Item>,
    abandoned: Abandoned,
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.abandoned.0.load(Ordering::Relaxed) {
            return Err(io::Error::other("nobody waits for this any more"));
        }
        let got = self.blob.read(buffer)?;
        self.at += got as u64;
        if let Some(item) = &self.item {
            item.at(self.at);
        }
        Ok(got)
    }
}
