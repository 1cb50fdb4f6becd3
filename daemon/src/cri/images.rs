//! Images as Kubernetes sees them: by id, with all their names.
//!
//! An image is one configuration; its digest is the id. Its names are image records of `k8s.io`: tags, names by digest, and the id itself,
//! all with the label that says they are ours to list. Records that other clients made count as well. What an image consists of
//! never changes, so it is read once a target ([`Facts`]).

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::error::{Classify, Kind};
use model::platform::Platform;
use model::reference::Reference;
use model::{Descriptor, Digest, Labels, Mount};
use proto::cri as wire;
use serde_json::{Value, json};
use tracing::{debug, info};

use super::{Cri, CriError, record};
use crate::api::Failure;
use crate::blocking;
use crate::images::{Unpack, Wanted, names};
use crate::meta::images::{Image, ImageError};
use crate::meta::snapshots::{Access, Prepare, SnapshotName, SnapshotsError};

mod pull;
mod usage;

/// The label of images that the CRI manages.
const MANAGED_LABEL: &str = "io.cri-containerd.image";
/// Its value.
const MANAGED: &str = "managed";
/// The label of images that must not be collected by kubelets.
const PINNED_LABEL: &str = "io.cri-containerd.pinned";
/// Its value.
const PINNED: &str = "pinned";

/// The most targets of which facts are kept; then all are forgotten, and found out again.
const MAX_FACTS: usize = 10_000;

/// What is known of targets: `None` for those that are no image for this machine.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    known: Mutex<HashMap<Digest, Option<Arc<Fact>>>>,
}

/// What never changes about an image.
#[derive(Debug)]
pub(crate) struct Fact {
    /// Its id.
    pub(crate) id: String,
    /// The name of its uppermost snapshot; `None` without layers.
    pub(crate) chain: Option<Digest>,
    /// What it takes, compressed.
    pub(crate) size: u64,
    /// Its configuration, JSON.
    pub(crate) config: Vec<u8>,
    /// `user[:group]` of the configuration.
    pub(crate) user: String,
}

/// An image with its names as they are now.
#[derive(Debug, Clone)]
pub(crate) struct KnownImage {
    /// What never changes about it.
    pub(crate) fact: Arc<Fact>,
    /// What its names stand for; of several, that of the first.
    pub(crate) target: Descriptor,
    /// Its names with a tag.
    pub(crate) tags: Vec<String>,
    /// Its names by digest.
    pub(crate) digests: Vec<String>,
    /// All names of its records.
    pub(crate) names: Vec<String>,
    /// Whether kubelets must leave it alone.
    pub(crate) pinned: bool,
}

impl KnownImage {
    /// Its id.
    pub(crate) fn id(&self) -> &str {
        &self.fact.id
    }

    /// How statuses of containers call it: by digest, or by id if it has no such name.
    pub(crate) fn reference(&self) -> &str {
        self.digests.first().map_or(self.id(), String::as_str)
    }

    /// As the wire has it.
    fn to_wire(&self) -> wire::Image {
        let user = self.fact.user.split(':').next().unwrap_or_default();
        let uid = user.parse::<i64>().ok();
        wire::Image {
            id: self.fact.id.clone(),
            repo_tags: self.tags.clone(),
            repo_digests: self.digests.clone(),
            size: self.fact.size,
            username: if uid.is_some() { String::new() } else { user.to_owned() },
            uid: uid.map(|value| wire::Int64Value { value }),
            spec: Some(wire::ImageSpec { image: self.fact.id.clone(), ..Default::default() }),
            pinned: self.pinned,
        }
    }
}

impl Cri {
    /// All images, by id.
    pub(crate) async fn known_images(&self) -> Result<Vec<KnownImage>, Failure> {
        let (meta, namespace) = (self.inner.meta.clone(), self.inner.namespace.clone());
        let records = blocking::run(move || meta.images(&namespace, &[])).await?;
        let mut all: BTreeMap<String, KnownImage> = BTreeMap::new();
        for Image { name, record } in records {
            let Some(fact) = self.fact(&name, &record.target).await else { continue };
            let image = all.entry(fact.id.clone()).or_insert_with(|| KnownImage {
                fact,
                target: record.target.clone(),
                tags: Vec::new(),
                digests: Vec::new(),
                names: Vec::new(),
                pinned: false,
            });
            match name.parse::<Reference>() {
                Ok(reference) if reference.digest().is_some() => image.digests.push(name.clone()),
                Ok(_) => image.tags.push(name.clone()),
                // Its id, or a name that only its maker understands.
                Err(_) => {}
            }
            image.pinned |= record.labels.get(PINNED_LABEL).is_some_and(|value| value == PINNED);
            image.names.push(name);
        }
        Ok(all.into_values().collect())
    }

    /// The image that `reference` means: its id or the beginning of it, or one of its names, familiar or whole.
    pub(crate) async fn find_image(&self, reference: &str) -> Result<Option<KnownImage>, Failure> {
        if reference.is_empty() {
            return Ok(None);
        }
        let images = self.known_images().await?;
        let whole = names::normalized(reference);
        if let Some(found) =
            images.iter().find(|image| image.names.iter().any(|name| *name == reference || *name == whole))
        {
            return Ok(Some(found.clone()));
        }
        let hex = reference.strip_prefix("sha256:").unwrap_or(reference);
        if !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(None);
        }
        let mut fitting =
            images.into_iter().filter(|image| image.id().strip_prefix("sha256:").is_some_and(|id| id.starts_with(hex)));
        match (fitting.next(), fitting.next()) {
            (Some(_), Some(_)) => Err(CriError::Ambiguous { what: "image", id: reference.to_owned() }.into()),
            (found, _) => Ok(found),
        }
    }

    /// What is known of a target; `None` if it is no image for this machine, or parts of it are missing.
    async fn fact(&self, name: &str, target: &Descriptor) -> Option<Arc<Fact>> {
        let lock = || self.inner.image_facts.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lock().get(&target.digest) {
            return known.clone();
        }
        let looked = self.inner.images.look(&self.inner.namespace, name, target).await;
        let (fact, keep) = match looked {
            Ok(here) => {
                let config: Value = serde_json::from_slice(&here.document).unwrap_or_default();
                let fact = Fact {
                    id: here.config.digest.to_string(),
                    chain: here.chain,
                    size: here.size,
                    user: config["config"]["User"].as_str().unwrap_or_default().to_owned(),
                    config: here.document,
                };
                (Some(Arc::new(fact)), true)
            }
            Err(error) => {
                debug!(image = name, %error, "not an image for this machine, or not here as a whole");
                // What is missing may come.
                (None, error.kind() != Kind::NotFound)
            }
        };
        if keep {
            let mut known = lock();
            if known.len() >= MAX_FACTS {
                known.clear();
            }
            known.insert(target.digest.clone(), fact.clone());
        }
        fact
    }

    /// Makes the root filesystem `key` from an image, which is unpacked first if need be; how to mount it.
    pub(crate) async fn prepare_rootfs(
        &self,
        key: &str,
        image: &KnownImage,
        snapshotter: &str,
        labels: Labels,
    ) -> Result<Vec<Mount>, Failure> {
        let parent = image.fact.chain.as_ref().map(Digest::to_string);
        let prepare = || {
            let name = SnapshotName {
                namespace: self.inner.namespace.clone(),
                snapshotter: snapshotter.to_owned(),
                key: key.to_owned(),
            };
            let request = Prepare { name, parent: parent.clone(), labels: labels.clone(), access: Access::Write };
            let (meta, scope) = (self.inner.meta.clone(), self.scope());
            blocking::run(move || meta.prepare_snapshot(scope, request))
        };
        match prepare().await {
            // The parent is not there, in this snapshotter.
            Err(error) if error.kind() == Kind::NotFound => {}
            outcome => return Ok(outcome?),
        }
        let name = image.names.first().map_or("", String::as_str);
        self.inner.images.unpack_here(self.scope(), name, &image.target, snapshotter).await?;
        Ok(prepare().await?)
    }

    /// Removes the root filesystem `key`; it is well if it is gone.
    pub(crate) async fn remove_rootfs(&self, key: &str, snapshotter: &str) -> Result<(), Failure> {
        let name = SnapshotName {
            namespace: self.inner.namespace.clone(),
            snapshotter: snapshotter.to_owned(),
            key: key.to_owned(),
        };
        let (meta, scope) = (self.inner.meta.clone(), self.scope());
        match blocking::run(move || meta.remove_snapshot(scope, name)).await {
            Err(SnapshotsError::NotFound { .. }) => Ok(()),
            outcome => Ok(outcome?),
        }
    }

    pub(super) async fn list_images(
        &self,
        request: wire::ListImagesRequest,
    ) -> Result<wire::ListImagesResponse, Failure> {
        let wanted = request.filter.and_then(|filter| filter.image).map(|image| image.image).unwrap_or_default();
        let images = if wanted.is_empty() {
            self.known_images().await?
        } else {
            self.find_image(&wanted).await?.into_iter().collect()
        };
        Ok(wire::ListImagesResponse { images: images.iter().map(KnownImage::to_wire).collect() })
    }

    pub(super) async fn image_status(
        &self,
        request: wire::ImageStatusRequest,
    ) -> Result<wire::ImageStatusResponse, Failure> {
        let wanted = request.image.unwrap_or_default().image;
        let Some(image) = self.find_image(&wanted).await? else { return Ok(wire::ImageStatusResponse::default()) };
        let mut info = BTreeMap::new();
        if request.verbose {
            let config: Value = serde_json::from_slice(&image.fact.config).unwrap_or_default();
            let chain = image.fact.chain.as_ref().map(Digest::to_string).unwrap_or_default();
            info.insert("info".to_owned(), json!({ "chainID": chain, "imageSpec": config }).to_string());
        }
        Ok(wire::ImageStatusResponse { image: Some(image.to_wire()), info })
    }

    pub(super) async fn remove_image(
        &self,
        request: wire::RemoveImageRequest,
    ) -> Result<wire::RemoveImageResponse, Failure> {
        let wanted = request.image.unwrap_or_default().image;
        if wanted.is_empty() {
            return Err(CriError::Invalid("an image must be named".into()).into());
        }
        let Some(image) = self.find_image(&wanted).await? else { return Ok(wire::RemoveImageResponse {}) };
        for name in &image.names {
            // One that stands for another image by now is not meant.
            let removed =
                self.inner.meta.delete_image(self.scope(), name.clone(), Some(image.target.digest.clone())).await;
            match removed {
                Ok(()) | Err(ImageError::NotFound { .. } | ImageError::OtherTarget { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        info!(image = image.id(), names = image.names.len(), "image removed");
        Ok(wire::RemoveImageResponse {})
    }
}

/// The labels of an image record of ours.
pub(super) fn labels(pinned: bool) -> Labels {
    let mut labels = Labels::from([(MANAGED_LABEL.to_owned(), MANAGED.to_owned())]);
    if pinned {
        labels.insert(PINNED_LABEL.to_owned(), PINNED.to_owned());
    }
    labels
}
