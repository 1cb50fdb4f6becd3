//! Leases: what clients hold while they work (containerd's contract).

mod resource;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{SystemTime, UNIX_EPOCH};

use model::digest::DigestError;
use model::error::{Classify, Kind};
use model::filter::{Fields, FilterError, Filters, label_field};
use model::labels::{self, LabelError};
use model::{Labels, Namespace};
use store::record::{LeaseRecord, LeaseResourceRecord};
use store::{Read, StoreError, Tx, tables};

use super::Meta;
use super::barrier::Barrier;
use crate::api::Scope;
use crate::namespaces;

pub use resource::Resource;

/// One lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Its id.
    pub id: String,
    /// Its labels.
    pub labels: Labels,
    /// When it was created.
    pub created_at: SystemTime,
}

/// Why a call about leases failed.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// No lease of that id.
    #[error("lease {id:?}")]
    NotFound {
        /// The id.
        id: String,
    },
    /// The lease that a request named in its metadata does not exist.
    #[error("lease does not exist")]
    NoSuchScope,
    /// A lease of that id exists.
    #[error("lease {id:?}")]
    AlreadyExists {
        /// The id.
        id: String,
    },
    /// A label is too long.
    #[error("lease labels")]
    Labels(#[from] LabelError),
    /// A filter cannot be read.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The id of a content resource is no digest.
    #[error("invalid content resource id {id}")]
    ContentId {
        /// The id.
        id: String,
        /// What is wrong with it.
        source: DigestError,
    },
    /// The type of a resource has too many or too few parts.
    #[error("invalid resource type {kind}")]
    Malformed {
        /// The type.
        kind: String,
    },
    /// No resource type that is known here.
    #[error("resource type {kind} not supported yet")]
    Unsupported {
        /// The type.
        kind: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Classify for LeaseError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound { .. } | Self::NoSuchScope => Kind::NotFound,
            Self::AlreadyExists { .. } => Kind::AlreadyExists,
            Self::Labels(_) | Self::Filter(_) | Self::ContentId { .. } | Self::Malformed { .. } => {
                Kind::InvalidArgument
            }
            Self::Unsupported { .. } => Kind::Unimplemented,
            Self::Store(error) => error.kind(),
        }
    }
}

impl Fields for Lease {
    fn field(&self, path: &[String]) -> Option<String> {
        match path.split_first()? {
            (first, []) if first == "id" => Some(self.id.clone()),
            (first, rest) if first == "labels" => label_field(&self.labels, rest),
            _ => None,
        }
    }
}

/// The longest time to look for an id that is free; more than one try is never seen.
const ID_TRIES: usize = 16;

impl Meta {
    /// Makes a lease. Without an id it gets one.
    ///
    /// # Errors
    /// The id is taken, or a label is too long.
    pub async fn create_lease(&self, namespace: Namespace, id: String, labels: Labels) -> Result<Lease, LeaseError> {
        labels::check(&labels)?;
        let labels = labels::without_empty(labels);
        let created = self.inner.store.submit(move |tx| {
            let at = |id: &str| store::key(&[namespace.as_str(), id]);
            let id = if id.is_empty() {
                let mut free = None;
                for _ in 0..ID_TRIES {
                    let id = new_id();
                    if !tx.contains(&tables::LEASES, &at(&id)?)? {
                        free = Some(id);
                        break;
                    }
                }
                free.unwrap_or_else(new_id)
            } else {
                id
            };
            let key = at(&id)?;
            if tx.contains(&tables::LEASES, &key)? {
                return Err(LeaseError::AlreadyExists { id });
            }
            namespaces::ensure(tx, &namespace)?;
            let created_at = SystemTime::now();
            tx.put(&tables::LEASES, &key, &LeaseRecord { labels: labels.clone(), created_at })?;
            Ok(Lease { id, labels, created_at })
        });
        let lease = created.await?;
        self.inner.trigger.changed();
        Ok(lease)
    }

    /// Removes a lease; what only it held may be collected.
    ///
    /// # Errors
    /// There is no such lease.
    pub async fn delete_lease(&self, namespace: Namespace, id: String) -> Result<(), LeaseError> {
        loop {
            let (namespace, id) = (namespace.clone(), id.clone());
            let deleted = self.inner.store.submit(move |tx| {
                let key = existing(tx, &namespace, &id)?;
                let resources = remove_resources(tx, &namespace, &id, RESOURCES_AT_A_TIME)?;
                if !resources.more {
                    tx.delete(&tables::LEASES, &key)?;
                }
                Ok::<_, LeaseError>(!resources.more)
            });
            if deleted.await? {
                break;
            }
        }
        self.inner.trigger.deleted();
        Ok(())
    }

    /// The leases of a namespace.
    ///
    /// # Errors
    /// A filter cannot be read.
    pub fn leases(&self, namespace: &Namespace, filters: &[String]) -> Result<Vec<Lease>, LeaseError> {
        let filters = Filters::parse(filters)?;
        let records = self.inner.store.read().scan(&tables::LEASES, &store::prefix(&[namespace.as_str()])?)?;
        let leases = records.into_iter().filter_map(|(key, record)| {
            let id = store::last_part(&key)?.to_owned();
            Some(Lease { id, labels: record.labels, created_at: record.created_at })
        });
        Ok(leases.filter(|lease| filters.matches(lease)).collect())
    }

    /// Lets a lease hold something, whether or not that exists.
    ///
    /// # Errors
    /// There is no such lease.
    pub async fn add_lease_resource(
        &self,
        namespace: Namespace,
        id: String,
        resource: Resource,
    ) -> Result<(), LeaseError> {
        let barrier = self.inner.barrier.clone();
        let added = self.inner.store.submit(move |tx| {
            existing(tx, &namespace, &id)?;
            hold(tx, &barrier, &namespace, &id, &resource)?;
            Ok::<_, LeaseError>(())
        });
        added.await?;
        self.inner.trigger.changed();
        Ok(())
    }

    /// Ends the hold of a lease on something; that there was none is no error.
    ///
    /// # Errors
    /// There is no such lease.
    pub async fn delete_lease_resource(
        &self,
        namespace: Namespace,
        id: String,
        resource: Resource,
    ) -> Result<(), LeaseError> {
        let deleted = self.inner.store.submit(move |tx| {
            existing(tx, &namespace, &id)?;
            tx.delete(&tables::LEASE_RESOURCES, &resource.key(&namespace, &id)?)?;
            Ok::<_, LeaseError>(())
        });
        deleted.await?;
        self.inner.trigger.deleted();
        Ok(())
    }

    /// What a lease holds: content, images, ingests, then snapshots.
    ///
    /// # Errors
    /// There is no such lease.
    pub fn lease_resources(&self, namespace: &Namespace, id: &str) -> Result<Vec<Resource>, LeaseError> {
        let read = self.inner.store.read();
        existing(&read, namespace, id)?;
        resources(&read, namespace, id)
    }
}

/// How many resources one transaction takes from a lease.
const RESOURCES_AT_A_TIME: usize = 4096;

/// How far the resources of a lease are removed.
pub(crate) struct RemovedResources {
    /// How many were.
    pub(crate) removed: usize,
    /// Whether there are more.
    pub(crate) more: bool,
}

/// Removes at most `limit` of what a lease holds. The lease goes last, so that a new one of that id does not begin with the rest.
pub(crate) fn remove_resources(
    tx: &mut Tx<'_>,
    namespace: &Namespace,
    id: &str,
    limit: usize,
) -> Result<RemovedResources, StoreError> {
    let held = store::prefix(&[namespace.as_str(), id])?;
    let keys = tx.keys_from(&tables::LEASE_RESOURCES, &held, None, limit)?;
    for key in &keys {
        tx.delete(&tables::LEASE_RESOURCES, key)?;
    }
    Ok(RemovedResources { removed: keys.len(), more: tx.any(&tables::LEASE_RESOURCES, &held)? })
}

/// What a lease holds.
pub(crate) fn resources(read: &impl Read, namespace: &Namespace, id: &str) -> Result<Vec<Resource>, LeaseError> {
    let keys = read.keys(&tables::LEASE_RESOURCES, &store::prefix(&[namespace.as_str(), id])?)?;
    let parts = keys.iter().filter_map(|key| store::key_parts(key));
    parts.filter_map(|parts| parts.get(2..4).map(|both| Resource::parse(both[0], both[1]))).collect()
}

/// Lets the lease of the caller, if there is one, hold something. Whether there is one.
pub(crate) fn attach(
    tx: &mut Tx<'_>,
    barrier: &Barrier,
    scope: &Scope,
    resource: &Resource,
) -> Result<bool, LeaseError> {
    let Some(lease) = &scope.lease else { return Ok(false) };
    existing(tx, &scope.namespace, lease).map_err(|error| match error {
        LeaseError::NotFound { .. } => LeaseError::NoSuchScope,
        error => error,
    })?;
    hold(tx, barrier, &scope.namespace, lease, resource)?;
    Ok(true)
}

/// Ends the hold of the caller's lease on something, if there is any.
pub(crate) fn detach(tx: &mut Tx<'_>, scope: &Scope, resource: &Resource) -> Result<(), StoreError> {
    let Some(lease) = &scope.lease else { return Ok(()) };
    tx.delete(&tables::LEASE_RESOURCES, &resource.key(&scope.namespace, lease)?)
}

fn hold(
    tx: &mut Tx<'_>,
    barrier: &Barrier,
    namespace: &Namespace,
    lease: &str,
    resource: &Resource,
) -> Result<(), StoreError> {
    let key = resource.key(namespace, lease)?;
    if !tx.contains(&tables::LEASE_RESOURCES, &key)? {
        tx.put(&tables::LEASE_RESOURCES, &key, &LeaseResourceRecord { added_at: SystemTime::now() })?;
    }
    barrier.touch(namespace, || [resource.node()]);
    Ok(())
}

/// The key of a lease that exists.
fn existing(read: &impl Read, namespace: &Namespace, id: &str) -> Result<Vec<u8>, LeaseError> {
    let key = store::key(&[namespace.as_str(), id])?;
    if read.contains(&tables::LEASES, &key)? { Ok(key) } else { Err(LeaseError::NotFound { id: id.to_owned() }) }
}

/// A fresh id: the nanoseconds of now and four random characters.
fn new_id() -> String {
    format!("{}-{}", nanoseconds(), random_text(4))
}

/// The nanoseconds of the current second.
pub(crate) fn nanoseconds() -> u32 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos()
}

/// Random letters, digits and dashes, at most ten. Good for names, not for secrets.
pub(crate) fn random_text(length: usize) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789--";
    // Every `RandomState` has keys of its own.
    let random = RandomState::new().build_hasher().finish();
    (0..length).map(|at| char::from(ALPHABET[(random >> (6 * at)) as usize & 63])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_ids_have_the_usual_form() {
        let id = new_id();
        let (nanoseconds, random) = id.split_once('-').unwrap();
        assert!(nanoseconds.parse::<u32>().unwrap() < 1_000_000_000);
        assert_eq!(random.len(), 4);
        assert_ne!(random_text(10), random_text(10));
    }
}
