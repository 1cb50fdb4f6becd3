//! Images that are here, for other parts of the daemon: what one consists of on this machine, unpacked where it is not yet, and
//! small ones made from nothing.

use model::platform::Platform;
use model::{Descriptor, Digest, Labels, Namespace};
use serde_json::{Value, json};

use super::arrivals::Arrivals;
use super::document::{Config, MAX_DOCUMENT_BYTES, chain_ids, media_type};
use super::progress::Reporter;
use super::{Images, TransferError, Unpack, Wanted, lease};
use crate::api::Scope;
use crate::meta::content::ContentError;

/// An image as this machine would run it.
#[derive(Debug, Clone, PartialEq)]
pub struct Here {
    /// Its configuration: the digest is what many call the id of the image.
    pub config: Descriptor,
    /// The configuration itself, JSON.
    pub document: Vec<u8>,
    /// The name of its uppermost snapshot; `None` without layers.
    pub chain: Option<Digest>,
    /// What its manifest, its configuration and its layers take, in bytes.
    pub size: u64,
}

impl Images {
    /// What an image consists of.
    ///
    /// # Errors
    /// A document is missing or malformed, or it is not for this machine.
    pub async fn look(&self, namespace: &Namespace, name: &str, root: &Descriptor) -> Result<Here, TransferError> {
        let scope = Scope { namespace: namespace.clone(), lease: None };
        let tree = self.local_tree(&scope, name, root, &[Platform::host()]).await?;
        let image = tree.images().next().ok_or(TransferError::NothingToImport)?;
        let config = image.manifest.config.clone();
        let read = self.open(namespace, &config.digest).await?.read_whole(MAX_DOCUMENT_BYTES);
        let document = read.map_err(ContentError::from)?;
        let parsed = Config::parse(&document, &config.digest)?;
        let documents: u64 = tree.nodes.iter().map(|node| node.descriptor.size).sum();
        let layers: u64 = image.manifest.layers.iter().map(|layer| layer.size).sum();
        let chain = chain_ids(&parsed.diff_ids).pop();
        Ok(Here { size: documents + config.size + layers, config, document, chain })
    }

    /// Unpacks an image that is here, with a snapshotter; nothing happens to what is unpacked already.
    ///
    /// # Errors
    /// A layer is missing, or cannot be unpacked.
    pub async fn unpack_here(
        &self,
        scope: Scope,
        name: &str,
        root: &Descriptor,
        snapshotter: &str,
    ) -> Result<(), TransferError> {
        let held = lease::Held::new(&self.meta, scope).await?;
        let platforms = [Platform::host()];
        let tree = self.local_tree(held.scope(), name, root, &platforms).await?;
        held.hold(tree.digests()).await?;
        let wanted = Wanted {
            name: name.to_owned(),
            platforms: platforms.to_vec(),
            unpacks: vec![Unpack { platform: Platform::host(), snapshotter: snapshotter.to_owned() }],
            ..Wanted::default()
        };
        let (mut arrivals, reporter) = (Arrivals::default(), Reporter::default());
        for (blob, parents) in tree.blobs() {
            arrivals.expect(&blob.digest, reporter.blob(&blob, &parents));
            arrivals.arrived(&blob.digest);
        }
        self.unpack_all(held.scope(), &tree, &wanted, &arrivals).await?;
        held.release().await?;
        Ok(())
    }

    /// Makes an image of one layer for this machine, and gives it names. `config` is the part of its configuration that says how it is run.
    ///
    /// # Errors
    /// The store failed.
    pub async fn make_image(
        &self,
        scope: Scope,
        names: &[&str],
        labels: &Labels,
        layer: Vec<u8>,
        config: &Value,
    ) -> Result<Descriptor, TransferError> {
        let held = lease::Held::new(&self.meta, scope).await?;
        let of = |media_type: &str, bytes: &[u8]| Descriptor {
            media_type: media_type.to_owned(),
            digest: Digest::sha256(bytes),
            size: bytes.len() as u64,
            annotations: Default::default(),
        };
        let host = Platform::host();
        let layer_descriptor = of("application/vnd.oci.image.layer.v1.tar", &layer);
        let config = json!({
            "architecture": host.architecture,
            "os": host.os,
            "config": config,
            "rootfs": { "type": "layers", "diff_ids": [layer_descriptor.digest.to_string()] },
            "history": [{ "created_by": "gantry" }],
        });
        let config = config.to_string().into_bytes();
        let config_descriptor = of(media_type::OCI_CONFIG, &config);
        let plain =
            |of: &Descriptor| json!({ "mediaType": of.media_type, "digest": of.digest.to_string(), "size": of.size });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_MANIFEST,
            "config": plain(&config_descriptor),
            "layers": [plain(&layer_descriptor)],
        });
        let manifest = manifest.to_string().into_bytes();
        let root = of(media_type::OCI_MANIFEST, &manifest);
        held.hold([&layer_descriptor.digest, &config_descriptor.digest, &root.digest].into_iter()).await?;
        for (descriptor, bytes) in [(&layer_descriptor, layer), (&config_descriptor, config), (&root, manifest)] {
            self.write(held.scope(), descriptor, bytes, Labels::new()).await?;
        }
        let tree = self.local_tree(held.scope(), names.first().unwrap_or(&""), &root, &[]).await?;
        self.keep(held.scope(), &tree).await?;
        for name in names {
            self.record(held.scope(), name, labels, &root).await?;
        }
        held.release().await?;
        Ok(root)
    }
}
