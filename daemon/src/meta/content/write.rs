//! Uploads: an ingest under a reference, written by one session at a time, at the end a blob (containerd's contract).
//!
//! ```text
//!   open ──► Own: bytes are sent, hashed, kept under the reference ──────────────► commit ──► record
//!     │        ▲                                                                    │
//!     │        │ data is sent all the same: the blob is copied first                │ wrong size or digest: stays
//!     └──► Shared: another namespace has the blob; nothing to send ─────────────────┘
//! ```
//!
//! Dropping a [`Writer`] ends the session and keeps what was written. Everything here blocks; call it from
//! [`crate::blocking::run`].

use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use model::{Digest, Labels, Namespace, labels};
use proto::events as wire;
use store::blob::{BlobError, Ingest, IngestKey};
use store::record::{ContentRecord, IngestRecord, Present};
use store::{Read, StoreError, Tx, tables};
use tokio_util::sync::CancellationToken;

use super::ingests::Status;
use super::{ContentError, blob_name, touched};
use crate::api::Scope;
use crate::gc::node::Node;
use crate::meta::Meta;
use crate::meta::barrier::Pin;
use crate::meta::busy::Claim;
use crate::meta::leases::{self, Resource};
use crate::namespaces;

/// How long an upload that no lease holds is kept after it was last opened.
pub const INGEST_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// The sessions that are open, so that they can be told of an abort.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    open: Mutex<HashMap<String, CancellationToken>>,
}

impl Sessions {
    /// Tells the session of that name, if there is one, that its upload is aborted.
    pub(super) fn abort(&self, name: &str) {
        if let Some(session) = self.lock().get(name) {
            session.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, CancellationToken>> {
        // Every change under the lock is a single insertion or removal.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The session of a writer: nobody else has the reference until it is dropped.
#[derive(Debug)]
struct Session {
    meta: Meta,
    name: String,
    aborted: CancellationToken,
    /// Last, so that the next session finds the list without this one.
    _claim: Claim,
}

impl Session {
    fn open(meta: &Meta, namespace: &Namespace, reference: &str) -> Result<Self, ContentError> {
        let name = ingest_name(namespace, reference);
        let claim = meta.inner.busy.claim(name.clone());
        let claim = claim.ok_or_else(|| ContentError::Locked { reference: reference.to_owned() })?;
        let aborted = CancellationToken::new();
        meta.inner.sessions.lock().insert(name.clone(), aborted.clone());
        Ok(Self { meta: meta.clone(), name, aborted, _claim: claim })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.meta.inner.sessions.lock().remove(&self.name);
    }
}

/// The name that [`crate::meta::busy`] knows an upload by.
pub(crate) fn ingest_name(namespace: &Namespace, reference: &str) -> String {
    format!("ingest\0{namespace}\0{reference}")
}

/// What an upload is opened with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// What the client calls it.
    pub reference: String,
    /// The promised size, 0 for any.
    pub total: u64,
    /// The promised digest.
    pub expected: Option<Digest>,
}

/// Where the bytes of an upload are.
#[derive(Debug)]
enum Source {
    /// In its own ingest.
    Own(Box<Ingest>),
    /// In a blob that another namespace has.
    Shared(Digest),
    /// In a blob, or nowhere: the session is over.
    Over,
}

/// An open upload.
#[derive(Debug)]
pub struct Writer {
    meta: Meta,
    scope: Scope,
    reference: String,
    total: u64,
    expected: Option<Digest>,
    source: Source,
    /// The size of the shared blob.
    shared_size: u64,
    started_at: SystemTime,
    updated_at: SystemTime,
    // Let go of in this order, after the ingest.
    _pin: Pin,
    session: Session,
}

/// How opening went in the records.
enum Opened {
    /// The namespace sees the expected blob; the lease of the caller holds it.
    AlreadyExists(Digest),
    Recorded(IngestRecord),
}

impl Meta {
    /// Opens an upload, or resumes the one of that reference.
    ///
    /// # Errors
    /// The expected blob is there, the reference is open elsewhere, or the lease of the caller does not exist.
    pub fn open_writer(&self, scope: Scope, open: Open) -> Result<Writer, ContentError> {
        let Open { reference, total, expected } = open;
        if reference.is_empty() {
            return Err(ContentError::NoReference);
        }
        let pin = {
            let expected = expected.iter().map(|digest| Node::Content(digest.to_string()));
            let nodes = expected.chain([Node::Ingest(reference.clone())]).collect();
            self.inner.barrier.pin(&scope.namespace, nodes)
        };
        if let Some(digest) = &expected
            && self.lease_existing(&scope, digest)?
        {
            // Also when the reference is open elsewhere: the client needs to know that it is done.
            return Err(ContentError::AlreadyExists { digest: digest.clone() });
        }
        let session = Session::open(self, &scope.namespace, &reference)?;
        // Nobody may remove the blob between looking and recording that this upload counts on it.
        let _hold = expected.as_ref().map(|digest| self.inner.busy.hold(blob_name(digest)));
        let there = match &expected {
            Some(digest) => self.inner.blobs.info(digest)?,
            None => None,
        };
        let sharable = there.filter(|size| total == 0 || total == *size);
        let opened = {
            let (scope, reference, expected) = (scope.clone(), reference.clone(), expected.clone());
            let (barrier, sharing) = (self.inner.barrier.clone(), self.inner.sharing);
            self.inner.store.write(move |tx| {
                if let Some(digest) = &expected
                    && tx.contains(&tables::CONTENT, &content_key(&scope.namespace, digest)?)?
                {
                    leases::attach(tx, &barrier, &scope, &Resource::Content(digest.clone()))?;
                    return Ok(Opened::AlreadyExists(digest.clone()));
                }
                let key = store::key(&[scope.namespace.as_str(), &reference])?;
                let known = tx.get(&tables::INGESTS, &key)?;
                // What was offered once is not taken back while the upload lasts.
                let was_offered = known.as_ref().is_some_and(|known| known.shared && known.expected == expected);
                let shared_size = match (&expected, sharable) {
                    (Some(digest), Some(size)) if was_offered || sharing.offers(tx, digest)? => Some(size),
                    _ => None,
                };
                namespaces::ensure(tx, &scope.namespace)?;
                let leased = leases::attach(tx, &barrier, &scope, &Resource::Ingest(reference.clone()))?;
                let now = SystemTime::now();
                let started_at = known.map_or(now, |known| known.started_at);
                let record = IngestRecord {
                    expected: expected.filter(|_| shared_size.is_some()),
                    total: shared_size.unwrap_or(total),
                    shared: shared_size.is_some(),
                    started_at,
                    updated_at: now,
                    expires_at: (!leased).then(|| now + INGEST_LIFE),
                };
                tx.put(&tables::INGESTS, &key, &record)?;
                Ok::<_, ContentError>(Opened::Recorded(record))
            })?
        };
        let record = match opened {
            Opened::AlreadyExists(digest) => return Err(ContentError::AlreadyExists { digest }),
            Opened::Recorded(record) => record,
        };
        let source = match &record.expected {
            Some(digest) => Source::Shared(digest.clone()),
            None => Source::Own(Box::new(self.open_ingest(&scope.namespace, &reference, total, expected.as_ref())?)),
        };
        let (started_at, updated_at) = match &source {
            Source::Own(ingest) => (ingest.status().started_at, ingest.status().updated_at),
            Source::Shared(_) | Source::Over => (record.started_at, record.updated_at),
        };
        Ok(Writer {
            meta: self.clone(),
            scope,
            reference,
            total,
            expected,
            source,
            shared_size: record.total,
            started_at,
            updated_at,
            _pin: pin,
            session,
        })
    }

    fn open_ingest(
        &self,
        namespace: &Namespace,
        reference: &str,
        total: u64,
        expected: Option<&Digest>,
    ) -> Result<Ingest, ContentError> {
        let key = IngestKey { namespace: namespace.clone(), reference: reference.to_owned() };
        Ok(self.inner.blobs.ingest(&key, total, expected)?)
    }

    /// Whether the namespace sees a blob; the lease of the caller holds it then.
    fn lease_existing(&self, scope: &Scope, digest: &Digest) -> Result<bool, ContentError> {
        let key = content_key(&scope.namespace, digest)?;
        if !self.inner.store.read().contains(&tables::CONTENT, &key)? {
            return Ok(false);
        }
        if scope.lease.is_none() {
            return Ok(true);
        }
        // Collection may have removed the record in a change that is not on disk yet: only a change of our own can tell.
        let (scope, barrier, resource) = (scope.clone(), self.inner.barrier.clone(), Resource::Content(digest.clone()));
        self.inner.store.write(move |tx| {
            let there = tx.contains(&tables::CONTENT, &key)?;
            if there {
                leases::attach(tx, &barrier, &scope, &resource)?;
            }
            Ok(there)
        })
    }
}

/// What to commit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Commit {
    /// The labels of the blob.
    pub labels: Labels,
}

impl Writer {
    /// What the client calls it.
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// Is cancelled when the upload is aborted: the session has to end then.
    pub fn aborted(&self) -> &CancellationToken {
        &self.session.aborted
    }

    /// How far it is, with the size promised last.
    pub fn status(&self) -> Status {
        let (offset, updated_at) = match &self.source {
            Source::Own(ingest) => (ingest.offset(), ingest.status().updated_at),
            Source::Shared(_) | Source::Over => (self.shared_size, self.updated_at),
        };
        Status {
            reference: self.reference.clone(),
            offset,
            total: self.total,
            expected: self.expected.clone(),
            started_at: self.started_at,
            updated_at,
        }
    }

    /// The file that the bytes go into, for reading them by position while more come; none for an upload of what another
    /// namespace has.
    ///
    /// # Errors
    /// What the system said.
    pub fn file(&self) -> Result<Option<std::fs::File>, ContentError> {
        match &self.source {
            Source::Own(ingest) => Ok(Some(ingest.file()?)),
            Source::Shared(_) | Source::Over => Ok(None),
        }
    }

    /// The digest of what is there so far.
    ///
    /// # Errors
    /// What was written cannot be read again.
    pub fn digest(&mut self) -> Result<Option<Digest>, ContentError> {
        match &mut self.source {
            Source::Own(ingest) => Ok(Some(ingest.digest()?)),
            Source::Shared(digest) => Ok(Some(digest.clone())),
            Source::Over => Ok(None),
        }
    }

    /// Notes what the client promises now. Nothing promised leaves what was promised before.
    ///
    /// # Errors
    /// The namespace sees the blob by now: the upload is removed.
    pub fn expect(&mut self, total: u64, expected: Option<Digest>) -> Result<(), ContentError> {
        if let Some(digest) = expected {
            if self.meta.lease_existing(&self.scope, &digest)? {
                self.give_up()?;
                return Err(ContentError::ExpectedExists { digest });
            }
            self.expected = Some(digest);
        }
        if total > 0 {
            self.total = total;
        }
        Ok(())
    }

    /// Goes to where a message wants to write: 0 is the beginning or, of an empty upload, the end.
    ///
    /// # Errors
    /// The upload does not stand there.
    pub fn seek(&mut self, asked: u64) -> Result<(), ContentError> {
        let offset = self.status().offset;
        match asked {
            0 if offset > 0 => self.own(0)?.truncate(0)?,
            0 => {}
            asked if asked == offset => {}
            asked => return Err(ContentError::Offset { asked, offset }),
        }
        Ok(())
    }

    /// Adds bytes at the end.
    ///
    /// # Errors
    /// They cannot be written; none of them is in then.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), ContentError> {
        if !bytes.is_empty() {
            let keep = self.shared_size;
            self.own(keep)?.write(bytes)?;
        }
        Ok(())
    }

    /// The ingest; if the bytes are another namespace's so far, with a copy of the first `keep` of them.
    fn own(&mut self, keep: u64) -> Result<&mut Ingest, ContentError> {
        if let Source::Shared(digest) = &self.source {
            let mut ingest =
                self.meta.open_ingest(&self.scope.namespace, &self.reference, self.total, self.expected.as_ref())?;
            ingest.truncate(0)?;
            if keep > 0 {
                let blob = self.meta.inner.blobs.reader(digest)?;
                ingest.copy_from(&mut io::Read::take(blob, keep))?;
            }
            let key = store::key(&[self.scope.namespace.as_str(), &self.reference])?;
            self.meta.inner.store.write(move |tx| {
                if let Some(record) = tx.get(&tables::INGESTS, &key)? {
                    tx.put(&tables::INGESTS, &key, &IngestRecord { expected: None, shared: false, ..record })?;
                }
                Ok::<_, StoreError>(())
            })?;
            self.source = Source::Own(Box::new(ingest));
        }
        match &mut self.source {
            Source::Own(ingest) => Ok(ingest),
            Source::Shared(_) | Source::Over => Err(ContentError::NoIngest { reference: self.reference.clone() }),
        }
    }

    /// Makes it a blob of the namespace, and ends the session. The lease of the caller holds the blob in place of the upload.
    ///
    /// # Errors
    /// Not the promised size or digest: the upload stays. The namespace sees the blob already: the upload is removed.
    pub fn commit(&mut self, commit: Commit) -> Result<Digest, ContentError> {
        let Commit { labels: wanted } = commit;
        labels::check(&wanted)?;
        let size = self.status().offset;
        if self.total != 0 && self.total != size {
            return Err(ContentError::Size { reference: self.reference.clone(), got: size, wanted: self.total });
        }
        if let Some(lease) = &self.scope.lease {
            // Known before the bytes are named, so that a failure leaves no garbage.
            let key = store::key(&[self.scope.namespace.as_str(), lease])?;
            if !self.meta.inner.store.read().contains(&tables::LEASES, &key)? {
                return Err(leases::LeaseError::NoSuchScope.into());
            }
        }
        let promised = self.expected.clone();
        let digest = match &promised {
            // Its hash may be another one than the ingest computes so far.
            Some(digest) => digest.clone(),
            None => self.digest()?.ok_or_else(|| ContentError::NoIngest { reference: self.reference.clone() })?,
        };
        // From here until the record is there nobody removes the blob.
        let _hold = self.meta.inner.busy.hold(blob_name(&digest));
        match std::mem::replace(&mut self.source, Source::Over) {
            Source::Own(ingest) => match ingest.commit(None, promised.as_ref()) {
                Ok(_) => {}
                Err(BlobError::Digest { got, wanted }) => return Err(ContentError::Digest { got, wanted }),
                Err(error) => return Err(error.into()),
            },
            Source::Shared(shared) if shared == digest => {
                if self.meta.inner.blobs.info(&digest)?.is_none() {
                    return Err(BlobError::NotFound { digest }.into());
                }
            }
            Source::Shared(shared) => {
                self.source = Source::Shared(shared.clone());
                return Err(ContentError::Digest { got: shared, wanted: digest });
            }
            Source::Over => return Err(ContentError::NoIngest { reference: self.reference.clone() }),
        }
        self.shared_size = size;
        let created = self.record(&digest, size, labels::without_empty(wanted));
        match created {
            Ok(true) => {}
            Ok(false) => return Err(ContentError::AlreadyExists { digest }),
            Err(error) => {
                self.meta.inner.trigger.unheld(digest);
                return Err(error);
            }
        }
        // Clients from before containerd 2.1 do not know this event; they warn and go on.
        let event = wire::ContentCreate {
            digest: digest.to_string(),
            size: i64::try_from(size).unwrap_or(i64::MAX),
            ..Default::default()
        };
        self.meta.inner.bus.publish(&self.scope.namespace, "/content/create", &event);
        self.meta.inner.trigger.changed();
        Ok(digest)
    }

    /// Puts the blob on record and takes the upload off; whether the blob is new to the namespace.
    fn record(&self, digest: &Digest, size: u64, labels: Labels) -> Result<bool, ContentError> {
        let (scope, reference, digest) = (self.scope.clone(), self.reference.clone(), digest.clone());
        let barrier = self.meta.inner.barrier.clone();
        self.meta.inner.store.write(move |tx| {
            forget_ingest(tx, &scope, &reference)?;
            leases::attach(tx, &barrier, &scope, &Resource::Content(digest.clone()))?;
            let key = content_key(&scope.namespace, &digest)?;
            if tx.contains(&tables::CONTENT, &key)? {
                return Ok(false);
            }
            namespaces::ensure(tx, &scope.namespace)?;
            let now = SystemTime::now();
            let record = ContentRecord { size, labels, created_at: now, updated_at: now };
            tx.put(&tables::CONTENT, &key, &record)?;
            tx.put(&tables::BLOB_HOLDERS, &store::key(&[digest.as_str(), scope.namespace.as_str()])?, &Present)?;
            barrier.touch(&scope.namespace, || touched(&digest, &record));
            Ok(true)
        })
    }

    /// Removes the upload, and ends the session.
    fn give_up(&mut self) -> Result<(), ContentError> {
        let (scope, reference) = (self.scope.clone(), self.reference.clone());
        self.meta.inner.store.write(move |tx| forget_ingest(tx, &scope, &reference))?;
        match std::mem::replace(&mut self.source, Source::Over) {
            Source::Own(ingest) => Ok(ingest.abort()?),
            Source::Shared(_) | Source::Over => Ok(()),
        }
    }
}

/// Takes an upload off the records and the caller's lease.
pub(super) fn forget_ingest(tx: &mut Tx<'_>, scope: &Scope, reference: &str) -> Result<(), StoreError> {
    tx.delete(&tables::INGESTS, &store::key(&[scope.namespace.as_str(), reference])?)?;
    leases::detach(tx, scope, &Resource::Ingest(reference.to_owned()))
}

fn content_key(namespace: &Namespace, digest: &Digest) -> Result<Vec<u8>, StoreError> {
    store::key(&[namespace.as_str(), digest.as_str()])
}
