//! Content that is here: small blobs read and written whole, labels set. Thin over [`crate::meta`].

use model::{Descriptor, Digest, Labels, Namespace};
use prost_types::FieldMask;
use proto::bytes::Bytes;
use store::blob::BlobReader;

use super::document::{MAX_DOCUMENT_BYTES, upload_name};
use super::fetch::{FIRST_PAUSE, LAST_PAUSE};
use super::{Images, TransferError};
use crate::api::Scope;
use crate::blocking;
use crate::meta::content::ContentError;
use crate::meta::content::write::{Commit, Open};

/// Which blobs of other repositories a registry may be asked for instead of sending one again.
pub(super) const LABEL_SOURCE: &str = "containerd.io/distribution.source.";

/// The digest of a layer when it is not compressed.
pub(super) const LABEL_UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// Which snapshot a config keeps.
pub(super) const LABEL_SNAPSHOT: &str = "containerd.io/gc.ref.snapshot.";

/// Which content a document keeps.
pub(super) const LABEL_CONTENT: &str = "containerd.io/gc.ref.content.";

impl Images {
    /// Whether the namespace sees a blob.
    pub(super) fn has(&self, namespace: &Namespace, digest: &Digest) -> Result<bool, ContentError> {
        match self.meta.content(namespace, digest.clone()) {
            Ok(_) => Ok(true),
            Err(ContentError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Opens a blob that the namespace sees.
    pub(super) async fn open(&self, namespace: &Namespace, digest: &Digest) -> Result<BlobReader, ContentError> {
        let (meta, namespace, digest) = (self.meta.clone(), namespace.clone(), digest.clone());
        blocking::run(move || meta.content_reader(&namespace, digest)).await
    }

    /// Reads a document that the namespace sees.
    pub(super) async fn read(&self, namespace: &Namespace, digest: &Digest) -> Result<Vec<u8>, TransferError> {
        let (meta, namespace, digest) = (self.meta.clone(), namespace.clone(), digest.clone());
        blocking::run(move || {
            let reader = meta.content_reader(&namespace, digest)?;
            Ok(reader.read_whole(MAX_DOCUMENT_BYTES).map_err(ContentError::from)?)
        })
        .await
    }

    /// Stores a document, verified, with labels; that it is there already is fine, whatever labels it has.
    pub(super) async fn write(
        &self,
        scope: &Scope,
        descriptor: &Descriptor,
        bytes: impl Into<Bytes>,
        labels: Labels,
    ) -> Result<(), ContentError> {
        let bytes = bytes.into();
        let _turn = self.locks.take(blob_turn(&descriptor.digest)).await;
        let (mut pause, mut cleared) = (FIRST_PAUSE, false);
        loop {
            let (meta, owner, document) = (self.meta.clone(), scope.clone(), descriptor.clone());
            let (bytes, labels) = (bytes.clone(), labels.clone());
            let stored = blocking::run(move || {
                let reference = upload_name(&document);
                let (total, expected) = (document.size, Some(document.digest));
                let mut writer = meta.open_writer(owner, Open { reference, total, expected })?;
                // What another namespace has needs no writing.
                if writer.status().offset != document.size || document.size == 0 {
                    writer.seek(0)?;
                    writer.append(&bytes)?;
                }
                writer.commit(Commit { labels }).map(drop)
            });
            match stored.await {
                Err(ContentError::AlreadyExists { .. }) => return Ok(()),
                // An earlier upload left as many bytes, but other ones.
                Err(ContentError::Digest { .. }) if !cleared => {
                    let (meta, scope, reference) = (self.meta.clone(), scope.clone(), upload_name(descriptor));
                    blocking::run(move || meta.abort_ingest(scope, &reference)).await?;
                    cleared = true;
                    continue;
                }
                // A client is sending the same; it may be done in a moment.
                Err(ContentError::Locked { .. }) => {}
                outcome => return outcome,
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    /// Sets labels of a blob; others stay.
    pub(super) async fn label(
        &self,
        namespace: &Namespace,
        digest: &Digest,
        labels: Labels,
    ) -> Result<(), ContentError> {
        if labels.is_empty() {
            return Ok(());
        }
        let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
        self.meta.update_content(namespace.clone(), digest.clone(), labels, Some(FieldMask { paths })).await?;
        Ok(())
    }
}

/// The turn of whoever makes a blob.
pub(super) fn blob_turn(digest: &Digest) -> String {
    format!("blob {digest}")
}
