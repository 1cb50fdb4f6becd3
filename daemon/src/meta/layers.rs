//! Layers: content unpacked into the mounts of a snapshot, and the difference of two lists of mounts as content
//! (containerd's contract).
//!
//! Nearly always the folders can be read off the mounts; only otherwise something is mounted. Everything here blocks; call it
//! from [`crate::blocking::run`].

mod processors;

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use model::error::{Classify, Kind};
use model::{Descriptor, Labels, Mount};
use snapshotter::SnapshotError;
use snapshotter::diff::{self, Changes, DiffError};
use snapshotter::layer::{
    self, Applied, Compression, Durability, ImageSlot, LayerError, Limits, Target, TargetError, Whiteouts,
};
use store::{Read, tables};

use super::Meta;
use super::content::ContentError;
use super::content::write::{Commit, Open, Writer};
use crate::api::Scope;
use crate::mounts::{MountDir, MountError};

pub use processors::{Processor, Processors};

/// The label of a compressed layer that names the digest of what is in it.
pub const LABEL_UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// How much of a new layer is collected before it is hashed and written.
const WRITE_BYTES: usize = 256 * 1024;

/// Why a layer could not be unpacked or made.
#[derive(Debug, thiserror::Error)]
pub enum LayersError {
    /// Nobody here can read a layer of this type.
    #[error("no stream processor is configured for media type {media_type:?}")]
    Processor {
        /// The type.
        media_type: String,
    },
    /// A stream processor cannot be started.
    #[error("cannot start a stream processor")]
    Start {
        /// What the system said.
        source: io::Error,
    },
    /// Nobody here can write a layer of this type.
    #[error("unsupported diff media type {media_type:?}")]
    MediaType {
        /// The type.
        media_type: String,
    },
    /// The mounts cannot be written to.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The mounts cannot be mounted.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The layer cannot be read or stored.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The layer cannot be unpacked.
    #[error("failed to extract layer {digest}")]
    Unpack {
        /// Its digest.
        digest: model::Digest,
        /// Why.
        source: LayerError,
    },
    /// The difference cannot be written down.
    #[error("failed to write the difference")]
    Write(#[from] DiffError),
    /// The snapshotter cannot say or do what is needed.
    #[error(transparent)]
    Driver(#[from] SnapshotError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::StoreError),
}

impl Classify for LayersError {
    fn kind(&self) -> Kind {
        match self {
            Self::Processor { .. } | Self::MediaType { .. } => Kind::Unimplemented,
            Self::Start { .. } => Kind::Internal,
            Self::Target(error) => error.kind(),
            Self::Mount(error) => error.kind(),
            Self::Content(error) => error.kind(),
            Self::Unpack { source, .. } => source.kind(),
            Self::Write(error) => error.kind(),
            Self::Driver(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }
}

/// A layer without compression.
fn uncompressed(applied: Applied) -> Descriptor {
    Descriptor {
        media_type: Compression::None.media_type().to_owned(),
        digest: applied.diff_id,
        size: applied.size_bytes,
        annotations: Labels::new(),
    }
}

/// How a layer is made readable that is not.
#[derive(Debug, Clone, Default)]
pub struct Processing {
    /// The programs that there are.
    pub processors: Arc<Processors>,
    /// What the client sent for some of them, by their names.
    pub payloads: BTreeMap<String, prost_types::Any>,
}

/// A difference to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MakeDiff {
    /// What was there; empty for nothing.
    pub left: Vec<Mount>,
    /// What is there.
    pub right: Vec<Mount>,
    /// The type of the layer; empty for the usual one.
    pub media_type: String,
    /// The reference to upload it under; empty for one that nobody else has.
    pub reference: String,
    /// The labels of the layer.
    pub labels: Labels,
    /// No time in the layer is later than this.
    pub source_date_epoch: Option<SystemTime>,
}

impl Meta {
    /// Unpacks a layer into what the mounts show. Answers with what is in it: its type, digest and size without compression.
    ///
    /// # Errors
    /// The layer or the mounts cannot be used. What was unpacked until then stays, so the snapshot is to be thrown away.
    pub fn apply_layer(
        &self,
        scope: &Scope,
        layer: &Descriptor,
        mounts: &[Mount],
        durability: Durability,
        place: &MountDir,
        processing: &Processing,
    ) -> Result<Descriptor, LayersError> {
        let chain = processing.processors.chain(&layer.media_type);
        let chain = chain.ok_or_else(|| LayersError::Processor { media_type: layer.media_type.clone() })?;
        let encoding = chain.encoding;
        let blob = || {
            let blob = self.content_reader(&scope.namespace, layer.digest.clone())?;
            if chain.is_empty() {
                return Ok::<Box<dyn io::Read>, LayersError>(Box::new(blob));
            }
            let started = chain.start(blob.into_file(), &processing.payloads);
            Ok(Box::new(started.map_err(|source| LayersError::Start { source })?))
        };
        let failed = |source| LayersError::Unpack { digest: layer.digest.clone(), source };
        let unpack =
            |target: &Target| layer::apply(blob()?, encoding, target, &Limits::default(), durability).map_err(failed);
        if let Some(slot) = self.layer_image(mounts)? {
            match slot.write(blob()?, encoding, &Limits::default()) {
                Err(LayerError::NotAsImage { why }) => {
                    tracing::info!(digest = %layer.digest, why, "layer is kept as files");
                }
                Err(source) => return Err(failed(source)),
                Ok(applied) => {
                    if durability == Durability::Synced {
                        let synced = slot.sync();
                        synced.map_err(|source| failed(LayerError::Target { doing: "sync", source }))?;
                    }
                    return Ok(uncompressed(applied));
                }
            }
        }
        let applied = match Target::from_mounts(mounts) {
            Ok(target) => unpack(&target)?,
            Err(TargetError::NotDirect { .. }) => {
                let mounted = place.mount(mounts)?;
                let dir = mounted.path().to_owned();
                unpack(&Target { dir, whiteouts: Whiteouts::Delete, parents: Vec::new() })?
            }
            Err(error) => return Err(error.into()),
        };
        Ok(uncompressed(applied))
    }

    /// Where the layer of the snapshot that these mounts are of goes as one image, if its driver wants that.
    ///
    /// # Errors
    /// A driver cannot tell.
    pub(crate) fn layer_image(&self, mounts: &[Mount]) -> Result<Option<ImageSlot>, SnapshotError> {
        for driver in self.inner.drivers.values() {
            if let Some(slot) = driver.layer_image(mounts)? {
                return Ok(Some(slot));
            }
        }
        Ok(None)
    }

    /// Whether a snapshotter may get layers by itself.
    pub(crate) fn is_remote(&self, snapshotter: &str) -> bool {
        self.inner.drivers.get(snapshotter).is_some_and(|driver| driver.is_remote())
    }

    /// Whether a snapshotter can be told what a snapshot stands on when it is committed.
    pub(crate) fn can_rebase(&self, snapshotter: &str) -> bool {
        let driver = self.inner.drivers.get(snapshotter);
        driver.is_some_and(|driver| driver.capabilities().iter().any(|one| one == snapshotter::CAPABILITY_REBASE))
    }

    /// Writes what makes the right of the left as a layer into content.
    ///
    /// # Errors
    /// The mounts cannot be read, or the layer cannot be stored.
    pub fn make_diff(&self, scope: Scope, request: MakeDiff, place: &MountDir) -> Result<Descriptor, LayersError> {
        let MakeDiff { left, right, mut media_type, reference, labels, source_date_epoch } = request;
        if media_type.is_empty() {
            Compression::Gzip.media_type().clone_into(&mut media_type);
        }
        let compression = Compression::for_media_type(&media_type)
            .ok_or_else(|| LayersError::MediaType { media_type: media_type.clone() })?;
        for mounts in [&left, &right] {
            self.inner.drivers.values().try_for_each(|driver| driver.settle_files(mounts))?;
        }
        let (changes, _mounted) = changes(&left, &right, place)?;
        let own_reference = reference.is_empty();
        let reference = if own_reference { fresh_reference() } else { reference };
        let open = Open { reference: reference.clone(), total: 0, expected: None };
        let mut writer = self.open_writer(scope.clone(), open)?;
        let options = diff::Options { compression, source_date_epoch };
        let written = write_layer(&mut writer, &changes, &options, labels);
        let (digest, labels) = match written {
            Ok(done) => done,
            Err(error) => {
                drop(writer);
                if own_reference {
                    // Nobody else knows the reference, so nobody could resume.
                    let _ = self.abort_ingest(scope, &reference);
                }
                return Err(error);
            }
        };
        drop(writer);
        let content = self.content(&scope.namespace, digest.clone())?;
        self.complete_labels(&scope, &content, labels)?;
        Ok(Descriptor { media_type, digest, size: content.record.size, annotations: Labels::new() })
    }

    /// A layer that was there already may lack labels that this one was to get, for one that it is to be kept.
    fn complete_labels(
        &self,
        scope: &Scope,
        content: &super::content::Content,
        labels: Labels,
    ) -> Result<(), LayersError> {
        let missing: Labels = labels
            .into_iter()
            .filter(|(key, value)| !value.is_empty() && !content.record.labels.contains_key(key))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let (namespace, digest, barrier) =
            (scope.namespace.clone(), content.digest.clone(), self.inner.barrier.clone());
        self.inner.store.write(move |tx| {
            let key = store::key(&[namespace.as_str(), digest.as_str()])?;
            if let Some(mut record) = tx.get(&tables::CONTENT, &key)? {
                record.labels.extend(missing);
                record.updated_at = SystemTime::now();
                tx.put(&tables::CONTENT, &key, &record)?;
                barrier.touch(&namespace, || super::content::touched(&digest, &record));
            }
            Ok::<_, store::StoreError>(())
        })?;
        Ok(())
    }
}

/// Writes and commits the layer; its digest, and the labels it was to get.
fn write_layer(
    writer: &mut Writer,
    changes: &Changes,
    options: &diff::Options,
    mut labels: Labels,
) -> Result<(model::Digest, Labels), LayersError> {
    // What an earlier attempt wrote under the reference is of no use.
    writer.seek(0)?;
    let mut out = BufWriter::with_capacity(WRITE_BYTES, &mut *writer);
    let written = diff::write(changes, &mut out, options)?;
    out.flush().map_err(|source| DiffError::Write { source })?;
    drop(out);
    if options.compression != Compression::None {
        labels.insert(LABEL_UNCOMPRESSED.to_owned(), written.diff_id.to_string());
    }
    match writer.commit(Commit { labels: labels.clone() }) {
        Ok(digest) | Err(ContentError::AlreadyExists { digest }) => Ok((digest, labels)),
        Err(error) => Err(error.into()),
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.append(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What to write down, with what had to be mounted for it.
fn changes(
    left: &[Mount],
    right: &[Mount],
    place: &MountDir,
) -> Result<(Changes, Vec<crate::mounts::Mounted>), LayersError> {
    if let Some(changes) = Changes::from_mounts(left, right) {
        return Ok((changes, Vec::new()));
    }
    let lower = if left.is_empty() { None } else { Some(place.mount(left)?) };
    let upper = place.mount(right)?;
    let changes = Changes::Trees {
        lower: lower.as_ref().map(|mounted| mounted.path().to_owned()),
        upper: upper.path().to_owned(),
    };
    Ok((changes, lower.into_iter().chain([upper]).collect()))
}

fn fresh_reference() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    format!("diff-{now}-{}", super::leases::random_text(4))
}
