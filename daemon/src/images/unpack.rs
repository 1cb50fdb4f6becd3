//! Layers into snapshots: several at a time, each while its bytes arrive.
//!
//! ```text
//!   known? done ──► prepare ──► unpack, hash ──► diff id right? ──► blob whole? layer below there? ──► commit under the chain's name
//!                      │                              │
//!                      └── failed, or nobody waits any more: the snapshot is removed
//! ```
//!
//! Where the snapshotter can give a snapshot its parent at the commit, no layer waits for the one below before that; the few layers
//! that have to, since they say something about files below, are unpacked again then. Other snapshotters get one layer after the other.
//! Two who unpack the same layer take turns, and the second finds it done. The steps are in [`extract`].

mod extract;

use model::error::{Classify, Kind};
use model::platform::Platform;
use model::{Descriptor, Digest, Labels};
use snapshotter::SnapshotError;
use snapshotter::layer::{LayerError, TargetError};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_util::sync::CancellationToken;

use super::arrivals::{Arrival, Arrivals};
use super::document::{Config, DocumentError, MAX_DOCUMENT_BYTES, chain_ids};
use super::local::{LABEL_SNAPSHOT, LABEL_UNCOMPRESSED};
use super::tree::{Image, is_image_config};
use super::{Images, TransferError};
use crate::api::Scope;
use crate::blocking;
use crate::meta::content::ContentError;
use crate::meta::snapshots::SnapshotsError;
use extract::{Extraction, Source};

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
    /// The snapshotter cannot say how it keeps the layer.
    #[error("cannot unpack layer {digest}")]
    Driver {
        /// The layer.
        digest: Digest,
        /// Why.
        source: SnapshotError,
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
            Self::Driver { source, .. } => source.kind(),
            Self::Content { source, .. } => source.kind(),
        }
    }
}

/// A layer on its way into a snapshot.
#[derive(Debug, Clone)]
struct Layer {
    blob: Descriptor,
    diff_id: Digest,
    /// The name of the snapshot below.
    parent: Option<Digest>,
    /// The name it gets.
    chain: Digest,
    snapshotter: String,
}

/// When a snapshot is told what it stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parent {
    /// When it is made, so the one below has to be there.
    First,
    /// When it is committed.
    Last,
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
        let layers = layers.iter().zip(diff_ids).zip(chain_ids(diff_ids)).map(|((blob, diff_id), chain)| Layer {
            blob: blob.clone(),
            diff_id: diff_id.clone(),
            parent: parent.replace(chain.clone()),
            chain,
            snapshotter: snapshotter.clone(),
        });
        let layers: Vec<Layer> = layers.collect();
        let top = layers.last().map(|layer| layer.chain.clone());
        self.unpack_layers(scope, layers, arrivals).await?;
        if let Some(top) = top {
            let label = Labels::from([(format!("{LABEL_SNAPSHOT}{snapshotter}"), top.to_string())]);
            self.label(&scope.namespace, &config.digest, label).await?;
        }
        Ok(true)
    }

    /// Unpacks all layers of an image, the lowest first in the list.
    async fn unpack_layers(&self, scope: &Scope, layers: Vec<Layer>, arrivals: &Arrivals) -> Result<(), TransferError> {
        let at_once = layers.first().is_some_and(|layer| self.meta.can_rebase(&layer.snapshotter));
        // Which of them are there.
        let there: Vec<_> = layers.iter().map(|_| watch::Sender::new(false)).collect();
        let below = |at: usize| at.checked_sub(1).map(|below| there[below].subscribe());
        let one = |(at, layer): (usize, Layer)| {
            let (mut below, done) = (below(at), &there[at]);
            async move {
                let parent = if at_once && at > 0 { Parent::Last } else { Parent::First };
                if parent == Parent::First {
                    is_there(&mut below).await;
                }
                let (blob, diff_id) = (layer.blob.digest.clone(), layer.diff_id.clone());
                self.unpack_layer(scope, layer, parent, below, arrivals).await?;
                done.send_replace(true);
                // A snapshotter that gets layers by itself has one without its blob.
                if self.has(&scope.namespace, &blob)? {
                    let label = Labels::from([(LABEL_UNCOMPRESSED.to_owned(), diff_id.to_string())]);
                    self.label(&scope.namespace, &blob, label).await?;
                }
                Ok::<_, TransferError>(())
            }
        };
        futures_util::future::try_join_all(layers.into_iter().enumerate().map(one)).await?;
        Ok(())
    }

    async fn unpack_layer(
        &self,
        scope: &Scope,
        layer: Layer,
        mut parent: Parent,
        mut below: Option<watch::Receiver<bool>>,
        arrivals: &Arrivals,
    ) -> Result<(), UnpackError> {
        let turn = format!("layer {} {} {}", scope.namespace, layer.snapshotter, layer.chain);
        // Whoever has a turn waits for the turns of layers below at most.
        let _turn = self.locks.take(turn).await;
        let given_up = CancellationToken::new();
        let _waiting = given_up.clone().drop_guard();
        let item = arrivals.item(&layer.blob.digest);
        let mut may_follow = true;
        loop {
            let (source, permit) = self.source(&layer.blob, arrivals, may_follow, &given_up).await;
            let follows = matches!(source, Source::Arriving(_));
            let extraction = Extraction::new(self.clone(), scope.clone(), layer.clone(), parent);
            let begun = {
                let (item, given_up) = (item.clone().filter(|_| !follows), given_up.clone());
                blocking::run(move || {
                    let begun = extraction.begin(&source, item, given_up);
                    drop(permit);
                    begun
                })
                .await
            };
            // What came over the wire is what it should be only once the blob is whole.
            arrivals.wait(&layer.blob.digest).await;
            let extraction = match begun {
                Ok(Some(extraction)) => extraction,
                Ok(None) => break,
                Err(_) if follows => {
                    may_follow = false;
                    continue;
                }
                Err(error) if parent == Parent::Last && error.needs_parent() => {
                    is_there(&mut below).await;
                    parent = Parent::First;
                    continue;
                }
                Err(error) => return Err(error),
            };
            is_there(&mut below).await;
            match blocking::run(move || extraction.end()).await {
                Err(error) if parent == Parent::Last && error.needs_parent() => parent = Parent::First,
                Err(error) => return Err(error),
                Ok(()) => break,
            }
        }
        if let Some(item) = &item {
            item.done("extracted");
        }
        Ok(())
    }

    /// Waits until there is something to unpack, and for leave to do so.
    async fn source(
        &self,
        blob: &Descriptor,
        arrivals: &Arrivals,
        may_follow: bool,
        given_up: &CancellationToken,
    ) -> (Source, OwnedSemaphorePermit) {
        const OPEN: &str = "it is never closed";
        if let Some(arriving) = arrivals.arriving(&blob.digest).filter(|_| may_follow) {
            let mut at = arriving.watch();
            // The sender lives as long as what was just used to get here.
            let grows = at
                .wait_for(|at| !matches!(at, Arrival::Expected))
                .await
                .is_ok_and(|at| matches!(*at, Arrival::Growing { .. }));
            if grows {
                let permit = tokio::select! {
                    biased;
                    permit = self.followers.clone().acquire_owned() => Some(permit.expect(OPEN)),
                    _ = at.wait_for(|at| matches!(at, Arrival::Whole)) => None,
                };
                if let Some(permit) = permit {
                    let follower = super::arrivals::Follow::new(arriving.watch(), blob.size, given_up.clone());
                    return (Source::Arriving(follower), permit);
                }
            }
        }
        arrivals.wait(&blob.digest).await;
        (Source::Stored, self.extractions.clone().acquire_owned().await.expect(OPEN))
    }
}

impl UnpackError {
    /// Whether it would have gone well with the layer below at hand.
    fn needs_parent(&self) -> bool {
        match self {
            Self::Layer { source: LayerError::ParentNeeded { .. }, .. } => true,
            Self::Snapshot { source, .. } => {
                matches!(source, SnapshotsError::Driver(SnapshotError::CannotRebase { .. }))
            }
            _ => false,
        }
    }
}

/// Waits until the layer below is there, if there is one.
async fn is_there(below: &mut Option<watch::Receiver<bool>>) {
    if let Some(below) = below {
        // The sender lives until all layers are there; when it fails, this future is dropped with it.
        let _ = below.wait_for(|there| *there).await;
    }
}

/// Whether an image that says it is for `image` is meant by `wanted`. Old ones say nothing.
pub(super) fn runs_on(wanted: &Platform, image: &Platform) -> bool {
    image.architecture.is_empty() || wanted.accepts(image).is_some()
}
