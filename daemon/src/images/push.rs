//! A push: blobs first, then the documents that name them, the root last.
//!
//! A blob that the repository has is not sent; one that another repository of the registry has, as labels say, is taken over from there.

use std::io;
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use model::reference::Reference;
use model::{Descriptor, Digest};
use proto::bytes::Bytes;
use store::blob::BlobReader;
use tokio::sync::mpsc;
use tracing::info;

use super::document::is_non_distributable;
use super::local::LABEL_SOURCE;
use super::progress::{Item, Reporter};
use super::registry::{Registry, Version};
use super::{Images, TransferError, Wanted, lease};
use crate::api::Scope;
use crate::blocking;
use crate::meta::content::ContentError;

/// How much of a blob is read at once, in bytes.
const READ_BYTES: usize = 128 * 1024;

/// Pieces that wait for the registry.
const PIECES_AHEAD: usize = 4;

impl Images {
    /// Pushes an image to its registry under `reference`.
    ///
    /// # Errors
    /// The image is not here as a whole, or the registry refuses it.
    pub async fn push(
        &self,
        scope: Scope,
        wanted: &Wanted,
        registry: &impl Registry,
        reference: &Reference,
        reporter: &Reporter,
    ) -> Result<(), TransferError> {
        let held = lease::Held::new(&self.meta, scope).await?;
        let version =
            Version::of(reference).ok_or_else(|| TransferError::NoVersion { reference: reference.to_string() })?;
        let image = self.meta.image(&held.scope().namespace, &wanted.name)?.record.target;
        reporter.say(format!("Pushing to OCI Registry ({reference})"));
        reporter.about(&wanted.name, "pushing content", Some(&image));
        let tree = self.local_tree(held.scope(), &wanted.name, &image, &wanted.platforms).await?;
        let mut blobs = tree.blobs();
        // What may not be passed on need not be here, nor there: the manifest says where it is.
        blobs.retain(|(blob, _)| {
            !is_non_distributable(&blob.media_type) || self.has(&held.scope().namespace, &blob.digest).unwrap_or(true)
        });
        if tree.nodes.is_empty() || blobs.is_empty() {
            return Err(ContentError::NotFound { digest: image.digest }.into());
        }
        let items: Vec<_> = blobs.iter().map(|(blob, parents)| reporter.blob(blob, parents)).collect();
        let one = |((blob, _), item): ((Descriptor, Vec<String>), Item)| {
            let held = &held;
            async move { self.push_blob(held.scope(), registry, &blob, &item).await }
        };
        let all = blobs.into_iter().zip(items);
        let mut all = stream::iter(all).map(one).buffer_unordered(self.settings.uploads.max(1));
        while let Some(pushed) = all.next().await {
            pushed?;
        }
        drop(all);
        // Children before those who name them.
        for node in tree.nodes.iter().rev() {
            let descriptor = &node.descriptor;
            let item = reporter.blob(descriptor, &node.parents);
            let bytes = Bytes::from(self.read(&held.scope().namespace, &descriptor.digest).await?);
            let version = match descriptor.digest == image.digest {
                true => version.clone(),
                false => Version::Digest(descriptor.digest.clone()),
            };
            registry.push_document(&version, &descriptor.media_type, bytes).await?;
            item.done("complete");
        }
        reporter.about(&wanted.name, "pushed content", Some(&image));
        info!(ns = %held.scope().namespace, image = wanted.name, %reference, digest = %image.digest, "image pushed");
        held.release().await?;
        Ok(())
    }

    async fn push_blob(
        &self,
        scope: &Scope,
        registry: &impl Registry,
        blob: &Descriptor,
        item: &Item,
    ) -> Result<(), TransferError> {
        if registry.has_blob(&blob.digest).await? {
            item.done("already exists");
            return Ok(());
        }
        for repository in self.sources(scope, registry, &blob.digest)? {
            if registry.mount_blob(&blob.digest, &repository).await? {
                item.done("mounted");
                return Ok(());
            }
        }
        let reader = Arc::new(self.open(&scope.namespace, &blob.digest).await?);
        let pieces = move || {
            item.set("uploading", 0);
            pieces(Arc::clone(&reader), item.clone())
        };
        registry.push_blob(blob, &pieces).await?;
        self.note_source(scope, &blob.digest, registry).await?;
        item.done("complete");
        Ok(())
    }

    /// Other repositories of the registry that have a blob.
    fn sources(&self, scope: &Scope, registry: &impl Registry, digest: &Digest) -> Result<Vec<String>, TransferError> {
        let labels = self.meta.content(&scope.namespace, digest.clone())?.record.labels;
        let known = labels.get(&format!("{LABEL_SOURCE}{}", registry.host()));
        let all = known.into_iter().flat_map(|known| known.split(','));
        Ok(all.filter(|one| !one.is_empty() && *one != registry.repository()).map(str::to_owned).collect())
    }
}

/// The bytes of a blob as a stream; `item` hears how far it was read.
fn pieces(reader: Arc<BlobReader>, item: Item) -> stream::BoxStream<'static, io::Result<Bytes>> {
    let (pieces, queue) = mpsc::channel(PIECES_AHEAD);
    let reading = blocking::run(move || {
        let mut at = 0;
        loop {
            let mut buffer = vec![0; READ_BYTES];
            let piece = match reader.read_at(&mut buffer, at) {
                Ok(0) => return,
                Ok(got) => {
                    buffer.truncate(got);
                    at += got as u64;
                    Ok(Bytes::from(buffer))
                }
                Err(error) => Err(io::Error::other(error)),
            };
            let last = piece.is_err();
            if pieces.blocking_send(piece).is_err() || last {
                return;
            }
            item.at(at);
        }
    });
    // The reader ends when the stream is dropped; its future drives the stream on.
    let reading = stream::once(reading).filter_map(async |()| None);
    stream::select(tokio_stream::wrappers::ReceiverStream::new(queue), reading).boxed()
}
