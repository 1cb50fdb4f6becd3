//! Uploads that are under way, seen from outside: how far they are, and their end without a blob.

use std::time::SystemTime;

use model::filter::{Fields, Filters};
use model::{Digest, Namespace};
use store::blob::{BlobError, IngestKey};
use store::record::IngestRecord;
use store::{Read, tables};

use super::ContentError;
use super::write::{forget_ingest, ingest_name};
use crate::api::Scope;
use crate::meta::Meta;

/// How far an upload is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// What the client calls it.
    pub reference: String,
    /// Bytes that are there.
    pub offset: u64,
    /// Bytes that were promised, 0 if none were.
    pub total: u64,
    /// The digest that was promised, if that is on record.
    pub expected: Option<Digest>,
    /// When it was begun.
    pub started_at: SystemTime,
    /// When it last grew.
    pub updated_at: SystemTime,
}

impl Fields for Status {
    fn field(&self, path: &[String]) -> Option<String> {
        (path == ["ref"]).then(|| self.reference.clone())
    }
}

impl Meta {
    /// How far an upload is.
    ///
    /// # Errors
    /// There is none of that reference.
    pub fn ingest_status(&self, namespace: &Namespace, reference: &str) -> Result<Status, ContentError> {
        let missing = || ContentError::NoIngest { reference: reference.to_owned() };
        let key = store::key(&[namespace.as_str(), reference])?;
        let record = self.inner.store.read().get(&tables::INGESTS, &key)?.ok_or_else(missing)?;
        self.status_of(namespace, reference, record)?.ok_or_else(missing)
    }

    /// The uploads of a namespace that are under way.
    ///
    /// # Errors
    /// A filter cannot be read.
    pub fn ingest_statuses(&self, namespace: &Namespace, filters: &[String]) -> Result<Vec<Status>, ContentError> {
        let filters = Filters::parse(filters)?;
        let records = self.inner.store.read().scan(&tables::INGESTS, &store::prefix(&[namespace.as_str()])?)?;
        let mut statuses = Vec::new();
        for (key, record) in records {
            let Some(reference) = store::last_part(&key) else { continue };
            statuses.extend(self.status_of(namespace, reference, record)?.filter(|status| filters.matches(status)));
        }
        Ok(statuses)
    }

    /// `None` when it was only just recorded, or is over since.
    fn status_of(
        &self,
        namespace: &Namespace,
        reference: &str,
        record: IngestRecord,
    ) -> Result<Option<Status>, ContentError> {
        if record.shared {
            return Ok(Some(Status {
                reference: reference.to_owned(),
                offset: record.total,
                total: record.total,
                expected: record.expected,
                started_at: record.started_at,
                updated_at: record.updated_at,
            }));
        }
        let key = IngestKey { namespace: namespace.clone(), reference: reference.to_owned() };
        match self.inner.blobs.status(&key) {
            Ok(status) => Ok(Some(Status {
                reference: status.reference,
                offset: status.offset,
                total: status.total,
                expected: None,
                started_at: status.started_at,
                updated_at: status.updated_at,
            })),
            Err(BlobError::NoIngest { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends an upload and removes what was written. A session that has it open is told, and waited for.
    ///
    /// # Errors
    /// There is none of that reference.
    pub fn abort_ingest(&self, scope: Scope, reference: &str) -> Result<(), ContentError> {
        let key = store::key(&[scope.namespace.as_str(), reference])?;
        if !self.inner.store.read().contains(&tables::INGESTS, &key)? {
            return Err(ContentError::NoIngest { reference: reference.to_owned() });
        }
        let name = ingest_name(&scope.namespace, reference);
        self.inner.sessions.abort(&name);
        let _alone = self.inner.busy.claim_waiting(name);
        let ingest = IngestKey { namespace: scope.namespace.clone(), reference: reference.to_owned() };
        let aborted = ingest.reference.clone();
        self.inner.store.write(move |tx| {
            if !tx.contains(&tables::INGESTS, &key)? {
                return Err(ContentError::NoIngest { reference: aborted });
            }
            Ok(forget_ingest(tx, &scope, &aborted)?)
        })?;
        self.remove_ingest(&ingest)
    }

    /// Removes the files of an ingest that is not on record any more.
    pub(crate) fn remove_ingest(&self, key: &IngestKey) -> Result<(), ContentError> {
        match self.inner.blobs.abort(key) {
            Ok(()) | Err(BlobError::NoIngest { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
