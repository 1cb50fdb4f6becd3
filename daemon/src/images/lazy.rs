//! Layers that a snapshotter gets by itself: asked for before anything is fetched, so that what it has is not.
//!
//! ```text
//!   lowest layer ─► prepare with its name, its image and its digest ─► AlreadyExists: it is there, on to the next
//!                                                                  └► mounts: it is not; this and all above are fetched
//! ```
//!
//! Only snapshotters that say they are remote are asked ([`snapshotter::Snapshotter::is_remote`]).

use std::collections::HashSet;

use model::{Descriptor, Digest, Labels};
use tracing::{info, warn};

use super::document::{Config, chain_ids};
use super::fetch::Fetch;
use super::progress::Reporter;
use super::registry::Registry;
use super::tree::{Tree, is_image_config};
use super::unpack::{Unpack, UnpackError, runs_on};
use super::{Images, TransferError};
use crate::api::Scope;
use crate::blocking;
use crate::meta::leases::{nanoseconds, random_text};
use crate::meta::snapshots::{Access, LABEL_REF, Prepare, SnapshotName, SnapshotsError};

/// Which image a layer belongs to.
const LABEL_IMAGE: &str = "containerd.io/snapshot/cri.image-ref";

/// Which blob it is.
const LABEL_LAYER: &str = "containerd.io/snapshot/cri.layer-digest";

/// It and the layers above it.
const LABEL_LAYERS: &str = "containerd.io/snapshot/cri.image-layers";

/// What a label may have, key and value together, in bytes.
const MAX_LABEL_BYTES: usize = 4096;

impl Images {
    /// The layers that need not be fetched, because the snapshotters they are wanted in have them.
    pub(super) async fn layers_elsewhere(
        &self,
        scope: &Scope,
        registry: &impl Registry,
        image: &str,
        tree: &Tree,
        unpacks: &[Unpack],
    ) -> Result<HashSet<Digest>, TransferError> {
        let mut elsewhere = HashSet::new();
        let remote: Vec<&Unpack> = unpacks.iter().filter(|one| self.meta.is_remote(self.snapshotter_of(one))).collect();
        if remote.is_empty() || remote.len() < unpacks.len() {
            // Where one snapshotter needs all blobs anyway there is nothing to spare.
            return Ok(elsewhere);
        }
        let mut needed = HashSet::new();
        for one in tree.images() {
            let config = &one.manifest.config;
            if !is_image_config(config) {
                needed.extend(one.manifest.layers.iter().map(|layer| layer.digest.clone()));
                continue;
            }
            // A blob, not a document: registries have it elsewhere.
            let item = Reporter::default().blob(config, &[]);
            self.fetch(scope, registry, Fetch { blob: config, urls: &[], item: &item, follower: None }).await?;
            let bytes = self.read(&scope.namespace, &config.digest).await?;
            let parsed = Config::parse(&bytes, &config.digest)?;
            let mut known = one.manifest.layers.len();
            let mut wanted = false;
            for unpack in remote.iter().filter(|unpack| runs_on(&unpack.platform, &parsed.platform)) {
                wanted = true;
                let (images, scope, layers) = (self.clone(), scope.clone(), one.manifest.layers.clone());
                let (snapshotter, image) = (self.snapshotter_of(unpack).to_owned(), image.to_owned());
                let diff_ids = parsed.diff_ids.clone();
                let there =
                    blocking::run(move || images.known_to(&scope, &snapshotter, &image, &layers, &diff_ids)).await;
                let there = there.map_err(|source| UnpackError::Snapshot { digest: config.digest.clone(), source })?;
                known = known.min(there);
            }
            let (there, missing) = one.manifest.layers.split_at(if wanted { known } else { 0 });
            elsewhere.extend(there.iter().map(|layer| layer.digest.clone()));
            needed.extend(missing.iter().map(|layer| layer.digest.clone()));
        }
        elsewhere.retain(|digest| !needed.contains(digest));
        if !elsewhere.is_empty() {
            info!(image, layers = elsewhere.len(), "layers are left to the snapshotter");
        }
        Ok(elsewhere)
    }

    fn snapshotter_of<'a>(&'a self, unpack: &'a Unpack) -> &'a str {
        if unpack.snapshotter.is_empty() { &self.settings.snapshotter } else { &unpack.snapshotter }
    }

    /// How many of the layers, from the lowest on, a snapshotter has or can get. Blocks.
    fn known_to(
        &self,
        scope: &Scope,
        snapshotter: &str,
        image: &str,
        layers: &[Descriptor],
        diff_ids: &[Digest],
    ) -> Result<usize, SnapshotsError> {
        if layers.len() != diff_ids.len() {
            return Ok(0);
        }
        let mut parent: Option<Digest> = None;
        for (at, chain) in chain_ids(diff_ids).into_iter().enumerate() {
            let name = SnapshotName {
                namespace: scope.namespace.clone(),
                snapshotter: snapshotter.to_owned(),
                key: format!("extract-{}-{} {chain}", nanoseconds(), random_text(4)),
            };
            let request = Prepare {
                name: name.clone(),
                parent: parent.map(|parent| parent.to_string()),
                labels: labels(&chain, image, &layers[at..]),
                access: Access::Write,
            };
            match self.meta.prepare_snapshot(scope.clone(), request) {
                Err(SnapshotsError::TargetExists { .. }) => {}
                Err(SnapshotsError::AlreadyExists { key }) if key == chain.as_str() => {}
                Ok(_) => {
                    if let Err(error) = self.meta.remove_snapshot(scope.clone(), name) {
                        warn!(%error, "a snapshot that was made to ask for a layer stays until collection");
                    }
                    return Ok(at);
                }
                Err(error) => return Err(error),
            }
            parent = Some(chain);
        }
        Ok(layers.len())
    }
}

/// What a remote snapshotter must know of a layer: its name, its image, its blob, and those above it as far as they fit.
fn labels(chain: &Digest, image: &str, layers: &[Descriptor]) -> Labels {
    let room = MAX_LABEL_BYTES - LABEL_LAYERS.len();
    let mut above = String::new();
    for layer in layers {
        let more = layer.digest.as_str();
        if above.len() + 1 + more.len() > room {
            break;
        }
        if !above.is_empty() {
            above.push(',');
        }
        above.push_str(more);
    }
    let layer = layers.first().map(|layer| layer.digest.to_string()).unwrap_or_default();
    Labels::from([
        (LABEL_REF.to_owned(), chain.to_string()),
        (LABEL_IMAGE.to_owned(), image.to_owned()),
        (LABEL_LAYER.to_owned(), layer),
        (LABEL_LAYERS.to_owned(), above),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_name_the_layer_and_those_above_as_far_as_they_fit() {
        let layers: Vec<Descriptor> = (0..100u8)
            .map(|n| Descriptor {
                media_type: "x".into(),
                digest: Digest::sha256(&[n]),
                size: 1,
                annotations: Default::default(),
            })
            .collect();
        let labels = labels(&Digest::sha256(b"chain"), "example/image:1", &layers);
        assert_eq!(labels[LABEL_LAYER], layers[0].digest.as_str());
        let above = &labels[LABEL_LAYERS];
        assert!(above.starts_with(layers[0].digest.as_str()) && !above.ends_with(','));
        assert!(above.len() + LABEL_LAYERS.len() <= MAX_LABEL_BYTES && above.len() > 3900);
        model::labels::check(&labels).unwrap();
    }
}
