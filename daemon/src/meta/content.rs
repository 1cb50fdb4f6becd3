//! Content: which namespace sees which blob, under which labels (containerd's contract).
//!
//! A blob is on disk before a record names it, and is removed after the last record is gone: collection asks [`super::busy`]
//! for the digest first, which everybody holds who is about to record one. Uploads are in [`write`](mod@write).

mod error;
mod ingests;
mod sharing;
pub mod write;

use std::time::SystemTime;

use model::filter::{Fields, Filters, label_field};
use model::{Digest, Labels, Namespace, labels};
use prost_types::FieldMask;
use proto::events as wire;
use store::blob::BlobReader;
use store::record::ContentRecord;
use store::{Read, tables};

use super::Meta;
use super::leases::{self, Resource};
use crate::api::{Scope, fields};
use crate::gc::node::{Node, Object};

pub use error::ContentError;
pub use ingests::Status;
pub use sharing::Sharing;
pub(crate) use write::Sessions;

/// A blob as a namespace sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Its digest.
    pub digest: Digest,
    /// The rest of it.
    pub record: ContentRecord,
}

impl Fields for Content {
    fn field(&self, path: &[String]) -> Option<String> {
        match path.split_first()? {
            (first, []) if first == "digest" => Some(self.digest.to_string()),
            (first, []) if first == "size" => Some(self.record.size.to_string()),
            (first, rest) if first == "labels" => label_field(&self.record.labels, rest),
            _ => None,
        }
    }
}

/// What a blob begins to refer to when its record is written.
pub(crate) fn touched(digest: &Digest, record: &ContentRecord) -> Vec<Node> {
    let object = Object::content(digest.to_string(), record.labels.clone());
    let mut nodes = object.holds();
    nodes.push(object.node);
    nodes
}

/// The name that [`super::busy`] knows a blob by.
pub(crate) fn blob_name(digest: &Digest) -> String {
    format!("blob\0{digest}")
}

impl Meta {
    /// One blob.
    ///
    /// # Errors
    /// The namespace does not see it.
    pub fn content(&self, namespace: &Namespace, digest: Digest) -> Result<Content, ContentError> {
        let key = store::key(&[namespace.as_str(), digest.as_str()])?;
        match self.inner.store.read().get(&tables::CONTENT, &key)? {
            Some(record) => Ok(Content { digest, record }),
            None => Err(ContentError::NotFound { digest }),
        }
    }

    /// One page of the blobs of a namespace: those that match, among the next `limit` after the key `after`, and the last key
    /// that was looked at, `None` at the end. It reads much; call it from [`crate::blocking::run`].
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn content_page(
        &self,
        namespace: &Namespace,
        filters: &Filters,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<(Vec<Content>, Option<Vec<u8>>), ContentError> {
        let prefix = store::prefix(&[namespace.as_str()])?;
        let records = self.inner.store.read().scan_from(&tables::CONTENT, &prefix, after, limit)?;
        let last = if records.len() < limit { None } else { records.last().map(|(key, _)| key.clone()) };
        let all = records.into_iter().filter_map(|(key, record)| {
            let digest = store::last_part(&key)?.parse().ok()?;
            Some(Content { digest, record })
        });
        Ok((all.filter(|content| filters.matches(content)).collect(), last))
    }

    /// Changes the labels of a blob.
    ///
    /// # Errors
    /// The namespace does not see it, or a rule would be broken.
    pub async fn update_content(
        &self,
        namespace: Namespace,
        digest: Digest,
        sent: Labels,
        mask: Option<FieldMask>,
    ) -> Result<Content, ContentError> {
        let barrier = self.inner.barrier.clone();
        let updated = self.inner.store.submit(move |tx| {
            let key = store::key(&[namespace.as_str(), digest.as_str()])?;
            let Some(mut record) = tx.get(&tables::CONTENT, &key)? else {
                return Err(ContentError::NotFound { digest });
            };
            fields::update_labels(digest.as_str(), &mut record.labels, &sent, mask.as_ref())?;
            labels::check(&record.labels)?;
            record.updated_at = SystemTime::now();
            tx.put(&tables::CONTENT, &key, &record)?;
            barrier.touch(&namespace, || touched(&digest, &record));
            Ok(Content { digest, record })
        });
        let content = updated.await?;
        self.inner.trigger.changed();
        Ok(content)
    }

    /// Takes a blob out of a namespace. Collection removes the file when no namespace sees it.
    ///
    /// # Errors
    /// The namespace does not see it.
    pub async fn delete_content(&self, scope: Scope, digest: Digest) -> Result<(), ContentError> {
        let namespace = scope.namespace.clone();
        let event = wire::ContentDelete { digest: digest.to_string() };
        let deleted = {
            let digest = digest.clone();
            self.inner.store.submit(move |tx| {
                let key = store::key(&[scope.namespace.as_str(), digest.as_str()])?;
                if !tx.contains(&tables::CONTENT, &key)? {
                    return Err(ContentError::NotFound { digest });
                }
                tx.delete(&tables::CONTENT, &key)?;
                tx.delete(&tables::BLOB_HOLDERS, &store::key(&[digest.as_str(), scope.namespace.as_str()])?)?;
                leases::detach(tx, &scope, &Resource::Content(digest))?;
                Ok(())
            })
        };
        deleted.await?;
        self.inner.bus.publish(&namespace, "/content/delete", &event);
        self.inner.trigger.unheld(digest);
        Ok(())
    }

    /// Opens a blob that the namespace sees. It stays readable if it is deleted meanwhile. Blocks.
    ///
    /// # Errors
    /// The namespace does not see it, or the file cannot be opened.
    pub fn content_reader(&self, namespace: &Namespace, digest: Digest) -> Result<BlobReader, ContentError> {
        let content = self.content(namespace, digest)?;
        Ok(self.inner.blobs.reader(&content.digest)?)
    }
}
