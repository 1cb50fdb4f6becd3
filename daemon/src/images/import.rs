//! Archives into the store: what `docker save` writes, and OCI layouts, as tar.
//!
//! ```text
//!   client's stream ─► bounded channel ─► a thread: entries ─► blobs (hashed, kept by the lease) and a few small documents
//!                                                                  │
//!                       names ◄─ labels ◄─ unpack ◄─ walk each image from its manifest
//! ```
//!
//! The order of entries does not matter: every file that can be content becomes a blob, and what turns out to be no part of an image is
//! left to collection. A blob of an OCI layout must hash to its name. Documents have a bound, so do entries.

mod stage;

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::time::SystemTime;

use model::platform::Platform;
use model::{Descriptor, Digest, Labels};
use proto::bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tracing::info;

use super::archive::ArchiveError;
use super::arrivals::Arrivals;
use super::document::{Config, Document, DocumentKind, RawDescriptor, media_type};
use super::names::{self, ANNOTATION_NAME, ANNOTATION_REF};
use super::progress::Reporter;
use super::tree::{Choice, Tree, Walk};
use super::{Images, TransferError, Wanted, lease};
use crate::api::Scope;
use crate::blocking;
use crate::streaming::bytes::Receiver;
use stage::{Stage, Staged, compressed};

/// Pieces of the stream that wait to be read; then the client waits.
const PIECES_AHEAD: usize = 8;

/// What images are called that neither the archive nor the client names, before the day.
const FALLBACK_NAME: &str = "import";

/// `manifest.json` of `docker save`: one for each image.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// A manifest as it is written for what `docker save` wrote.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WrittenManifest {
    schema_version: u32,
    media_type: &'static str,
    config: RawDescriptor,
    layers: Vec<RawDescriptor>,
}

/// An index as it is written for that.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WrittenIndex {
    schema_version: u32,
    manifests: Vec<RawDescriptor>,
}

/// An image of an archive, with the annotations that name it.
struct Found {
    descriptor: Descriptor,
    annotations: BTreeMap<String, String>,
}

impl Images {
    /// Imports the archive that the client sends, and gives its images the wanted names.
    ///
    /// # Errors
    /// The archive is refused, or lacks something. No name is given then.
    pub async fn import(
        &self,
        scope: Scope,
        source: Receiver,
        wanted: &Wanted,
        reporter: &Reporter,
    ) -> Result<Vec<String>, TransferError> {
        let held = lease::Held::new(&self.meta, scope).await?;
        reporter.say("Importing");
        let staged = self.receive(held.scope(), source).await?;
        let (index, found) = self.contents(held.scope(), staged, wanted.compress).await?;
        let mut names = Vec::new();
        let fallback = format!("{FALLBACK_NAME}-{}", lease::day(SystemTime::now()));
        // One name for all: that of the index.
        for name in names::of_whole(&wanted.name, &index.digest, &wanted.references) {
            names.push((name, index.clone()));
        }
        let whole = !names.is_empty();
        for image in &found {
            let digest = &image.descriptor.digest;
            let own = match (whole, wanted.references.is_empty()) {
                (true, true) => Vec::new(),
                _ => names::of_entry(&image.annotations, digest, &wanted.references, &fallback),
            };
            names.extend(own.into_iter().map(|name| (name, image.descriptor.clone())));
        }
        if names.is_empty() {
            return Err(TransferError::NothingToImport);
        }
        for (name, target) in &names {
            let tree = self.local_tree(held.scope(), name, target, &wanted.platforms).await?;
            if tree.images().next().is_none() {
                return Err(TransferError::NothingToImport);
            }
            // Held first: what an earlier import left may be about to be collected.
            held.hold(tree.digests()).await?;
            self.check_complete(held.scope(), &tree)?;
            let mut arrivals = Arrivals::default();
            for (blob, parents) in tree.blobs() {
                arrivals.expect(&blob.digest, reporter.blob(&blob, &parents));
                arrivals.arrived(&blob.digest);
                if let Some(item) = arrivals.item(&blob.digest) {
                    item.done("complete");
                }
            }
            self.unpack_all(held.scope(), &tree, wanted, &arrivals).await?;
            self.keep(held.scope(), &tree).await?;
        }
        for (name, target) in &names {
            self.record(held.scope(), name, &wanted.labels, target).await?;
            reporter.about(name, "saved", Some(target));
        }
        let namespace = held.scope().namespace.clone();
        held.release().await?;
        for (name, target) in &names {
            info!(ns = %namespace, image = name, digest = %target.digest, "image imported");
        }
        Ok(names.into_iter().map(|(name, _)| name).collect())
    }

    /// Takes the stream in; every file becomes a blob or a document in memory.
    async fn receive(&self, scope: &Scope, mut source: Receiver) -> Result<Staged, TransferError> {
        let (pieces, queue) = mpsc::channel::<io::Result<Bytes>>(PIECES_AHEAD);
        let (meta, scope) = (self.meta.clone(), scope.clone());
        let staging = blocking::run(move || Stage::new(meta, scope).read(Queue { queue, piece: Bytes::new() }));
        let receiving = async {
            loop {
                let piece = match source.next().await {
                    Ok(Some(piece)) => Ok(piece),
                    Ok(None) => break,
                    Err(error) => Err(io::Error::other(error)),
                };
                let last = piece.is_err();
                if pieces.send(piece).await.is_err() || last {
                    break;
                }
            }
            drop(pieces);
        };
        let (staged, ()) = tokio::join!(staging, receiving);
        staged
    }

    /// Finds the images in what was staged, and the index that names all of them.
    async fn contents(
        &self,
        scope: &Scope,
        staged: Staged,
        compress: bool,
    ) -> Result<(Descriptor, Vec<Found>), TransferError> {
        if let (Some(layout), Some(index)) = (&staged.layout, &staged.index) {
            check_layout(layout)?;
            let digest = Digest::sha256(index);
            let (document, _) = Document::parse(index, &digest, media_type::OCI_INDEX)?;
            let Document::Index(entries) = document else { return Err(TransferError::NothingToImport) };
            let descriptor = Descriptor {
                media_type: media_type::OCI_INDEX.to_owned(),
                digest,
                size: index.len() as u64,
                annotations: BTreeMap::new(),
            };
            self.write(scope, &descriptor, index.clone(), Labels::new()).await?;
            let found = entries
                .into_iter()
                .map(|entry| Found { annotations: entry.descriptor.annotations.clone(), descriptor: entry.descriptor });
            return Ok((descriptor, found.collect()));
        }
        match &staged.saved {
            Some(saved) => self.saved(scope, &staged, saved, compress).await,
            None => Err(ArchiveError::NoImage.into()),
        }
    }

    /// Writes manifests for what `docker save` wrote.
    async fn saved(
        &self,
        scope: &Scope,
        staged: &Staged,
        saved: &[u8],
        compress: bool,
    ) -> Result<(Descriptor, Vec<Found>), TransferError> {
        let saved: Vec<Saved> =
            serde_json::from_slice(saved).map_err(|source| ArchiveError::Syntax { name: "manifest.json", source })?;
        let (mut found, mut manifests) = (Vec::new(), Vec::new());
        for image in saved {
            let config = staged.blob(&image.config)?;
            let layers = image.layers.unwrap_or_default();
            let mut layers: Vec<stage::Blob> =
                layers.iter().map(|path| staged.blob(path).cloned()).collect::<Result<_, _>>()?;
            if compress {
                for layer in layers.iter_mut().filter(|layer| !layer.compressed) {
                    let (meta, scope, plain) = (self.meta.clone(), scope.clone(), layer.clone());
                    *layer = blocking::run(move || compressed(&meta, &scope, &plain)).await?;
                }
            }
            let descriptor = |media_type: &str, blob: &stage::Blob| {
                RawDescriptor::from(Descriptor {
                    media_type: media_type.to_owned(),
                    digest: blob.digest.clone(),
                    size: blob.size,
                    annotations: BTreeMap::new(),
                })
            };
            let layer = |blob: &stage::Blob| match blob.compressed {
                true => descriptor(media_type::DOCKER_LAYER_GZIP, blob),
                false => descriptor(media_type::DOCKER_LAYER, blob),
            };
            let manifest = WrittenManifest {
                schema_version: 2,
                media_type: media_type::DOCKER_MANIFEST,
                config: descriptor(media_type::DOCKER_CONFIG, config),
                layers: layers.iter().map(layer).collect(),
            };
            let manifest = self.write_json(scope, media_type::DOCKER_MANIFEST, &manifest).await?;
            let platform = Config::parse(&self.read(&scope.namespace, &config.digest).await?, &config.digest)?.platform;
            let tags = image.repo_tags.unwrap_or_default();
            let named = tags.iter().map(|tag| {
                let name = names::normalized(tag);
                BTreeMap::from([
                    (ANNOTATION_REF.to_owned(), names::tag(&name).to_owned()),
                    (ANNOTATION_NAME.to_owned(), name),
                ])
            });
            let mut named: Vec<_> = named.collect();
            if named.is_empty() {
                named.push(BTreeMap::new());
            }
            for annotations in named {
                let mut raw = RawDescriptor::from(Descriptor { annotations: annotations.clone(), ..manifest.clone() });
                raw.platform = Some(platform.clone().into());
                manifests.push(raw);
                found.push(Found { descriptor: manifest.clone(), annotations });
            }
        }
        let index = WrittenIndex { schema_version: 2, manifests };
        Ok((self.write_json(scope, media_type::OCI_INDEX, &index).await?, found))
    }

    async fn write_json(
        &self,
        scope: &Scope,
        media_type: &str,
        document: &impl Serialize,
    ) -> Result<Descriptor, TransferError> {
        let bytes = serde_json::to_vec(document).expect("a document of strings and numbers is JSON");
        let descriptor = Descriptor {
            media_type: media_type.to_owned(),
            digest: Digest::sha256(&bytes),
            size: bytes.len() as u64,
            annotations: BTreeMap::new(),
        };
        self.write(scope, &descriptor, bytes, Labels::new()).await?;
        Ok(descriptor)
    }

    /// The documents of an image that are here. Those of other platforms may be missing.
    pub(super) async fn local_tree(
        &self,
        scope: &Scope,
        name: &str,
        root: &Descriptor,
        platforms: &[Platform],
    ) -> Result<Tree, TransferError> {
        let mut walk = Walk::new(name, root.clone(), Choice::of(platforms));
        while let Some((descriptor, _)) = walk.next()? {
            let is_document = DocumentKind::of(&descriptor.media_type).is_some() || descriptor.digest == root.digest;
            if is_document && self.has(&scope.namespace, &descriptor.digest)? {
                walk.found(&self.read(&scope.namespace, &descriptor.digest).await?)?;
            }
        }
        Ok(walk.finish())
    }

    fn check_complete(&self, scope: &Scope, tree: &Tree) -> Result<(), TransferError> {
        for (blob, _) in tree.blobs() {
            if !self.has(&scope.namespace, &blob.digest)? {
                return Err(ArchiveError::Missing { what: format!("blob {}", blob.digest) }.into());
            }
        }
        Ok(())
    }

    /// Gives an image another name, which loses what it had before.
    ///
    /// # Errors
    /// There is no such image.
    pub async fn tag(&self, scope: Scope, source: &str, wanted: &Wanted) -> Result<(), TransferError> {
        let image = self.meta.image(&scope.namespace, source)?;
        let labels: Labels = if wanted.labels.is_empty() { image.record.labels } else { wanted.labels.clone() };
        let names = names::of_whole(&wanted.name, &image.record.target.digest, &wanted.references);
        if names.is_empty() {
            return Err(TransferError::NothingNamed);
        }
        for name in names {
            self.record(&scope, &name, &labels, &image.record.target).await?;
        }
        Ok(())
    }
}

fn check_layout(layout: &[u8]) -> Result<(), ArchiveError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Layout {
        image_layout_version: String,
    }
    let layout: Layout =
        serde_json::from_slice(layout).map_err(|source| ArchiveError::Syntax { name: "oci-layout", source })?;
    match layout.image_layout_version.as_str() {
        "1.0.0" => Ok(()),
        version => Err(ArchiveError::Layout { version: version.to_owned() }),
    }
}

/// The stream of the client for blocking code.
struct Queue {
    queue: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

impl Read for Queue {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.queue.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.piece.len());
        buffer[..length].copy_from_slice(&self.piece.split_to(length));
        Ok(length)
    }
}
