//! Sandboxes: records of them. What runs one is the business of [`crate::tasks`], and not looked at here.
//!
//! A change is durable when its call returns. Specs, options and extensions are kept byte for byte.

use std::sync::Arc;
use std::time::SystemTime;

use model::error::{Classify, Kind};
use model::filter::{Fields, Filters, label_field};
use model::id::IdError;
use model::labels::LabelError;
use model::{ContainerId, Namespace, labels};
use store::record::SandboxRecord;
use store::tables::SANDBOXES;
use store::{Read, Store, StoreError, key, last_part, prefix};

use crate::api::fields::{self, Path, UnknownPath};
use crate::blocking;
use crate::gc::node::{Node, Object};
use crate::gc::schedule::Trigger;
use crate::meta::Meta;
use crate::meta::barrier::Barrier;
use crate::namespaces;

/// Why a sandbox could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The id breaks the identifier rule.
    #[error("sandbox.ID")]
    Id(#[from] IdError),
    /// A label breaks the size rule.
    #[error("sandbox.Labels")]
    Label(#[from] LabelError),
    /// Something that never changes was to.
    #[error("sandbox.{what} field is immutable")]
    Immutable {
        /// Which field.
        what: &'static str,
    },
    /// An update names a field that there is not.
    #[error(transparent)]
    Field(#[from] UnknownPath),
    /// Created twice.
    #[error("sandbox {id:?}")]
    Exists {
        /// The id.
        id: String,
    },
    /// No such sandbox in the namespace.
    #[error("sandbox {id:?} in namespace \"{namespace}\"")]
    Missing {
        /// The id.
        id: String,
        /// The namespace.
        namespace: Namespace,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Classify for SandboxError {
    fn kind(&self) -> Kind {
        match self {
            Self::Id(error) => error.kind(),
            Self::Label(error) => error.kind(),
            Self::Immutable { .. } => Kind::InvalidArgument,
            Self::Field(error) => error.kind(),
            Self::Exists { .. } => Kind::AlreadyExists,
            Self::Missing { .. } => Kind::NotFound,
            Self::Store(error) => error.kind(),
        }
    }
}

/// A sandbox with its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// Its id.
    pub id: String,
    /// Everything else about it.
    pub record: SandboxRecord,
}

impl Fields for Sandbox {
    fn field(&self, path: &[String]) -> Option<String> {
        let text = match path.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["id"] => self.id.clone(),
            ["runtime", "name"] => self.record.runtime.name.clone(),
            ["labels", ..] => return label_field(&self.record.labels, &path[1..]),
            _ => return None,
        };
        Some(text).filter(|text| !text.is_empty())
    }
}

/// All sandboxes.
#[derive(Debug, Clone)]
pub struct Sandboxes {
    store: Store,
    barrier: Arc<Barrier>,
    trigger: Trigger,
}

impl Sandboxes {
    /// The sandboxes kept in `store`; changes are told to the collection of `meta`, since their labels hold what they refer to.
    pub fn new(store: Store, meta: &Meta) -> Self {
        Self { store, barrier: Arc::clone(meta.barrier()), trigger: meta.trigger().clone() }
    }

    /// One sandbox.
    ///
    /// # Errors
    /// [`SandboxError::Missing`].
    pub async fn get(&self, namespace: &Namespace, id: &str) -> Result<Sandbox, SandboxError> {
        let (reader, key) = (self.store.read(), key(&[namespace.as_str(), id])?);
        let record = blocking::run(move || reader.get(&SANDBOXES, &key)).await?;
        let record = record.ok_or_else(|| missing(namespace, id))?;
        Ok(Sandbox { id: id.to_owned(), record })
    }

    /// The sandboxes of a namespace that match, ordered by id.
    ///
    /// # Errors
    /// The store failed.
    pub async fn list(&self, namespace: &Namespace, filters: Filters) -> Result<Vec<Sandbox>, SandboxError> {
        let (reader, inside) = (self.store.read(), prefix(&[namespace.as_str()])?);
        blocking::run(move || {
            let all = reader.scan(&SANDBOXES, &inside)?.into_iter().map(|(key, record)| {
                let id = last_part(&key).unwrap_or_default().to_owned();
                Sandbox { id, record }
            });
            Ok(all.filter(|sandbox| filters.matches(sandbox)).collect())
        })
        .await
    }

    /// Records a new sandbox; its times are set here.
    ///
    /// # Errors
    /// It exists, or breaks a rule.
    pub async fn create(&self, namespace: &Namespace, new: Sandbox) -> Result<Sandbox, SandboxError> {
        let Sandbox { id, mut record } = new;
        let id = ContainerId::new(id)?.to_string();
        record.created_at = SystemTime::now();
        record.updated_at = record.created_at;
        labels::check(&record.labels)?;
        record.labels = labels::without_empty(record.labels);
        let (scope, barrier) = (namespace.clone(), Arc::clone(&self.barrier));
        let change = self.store.submit(move |tx| {
            let key = key(&[scope.as_str(), &id])?;
            if tx.contains(&SANDBOXES, &key)? {
                return Err(SandboxError::Exists { id });
            }
            namespaces::ensure(tx, &scope)?;
            tx.put(&SANDBOXES, &key, &record)?;
            barrier.touch(&scope, || held(&id, &record));
            Ok(Sandbox { id, record })
        });
        let created = change.await?;
        self.trigger.changed();
        Ok(created)
    }

    /// Changes a sandbox: with `paths` these fields, without all that may change. Answers with the sandbox as it is then.
    ///
    /// # Errors
    /// It does not exist, a path is not one of a sandbox's, a field never changes, or the result breaks a rule.
    pub async fn update(
        &self,
        namespace: &Namespace,
        sent: Sandbox,
        paths: Vec<Path>,
    ) -> Result<Sandbox, SandboxError> {
        let (scope, barrier) = (namespace.clone(), Arc::clone(&self.barrier));
        let change = self.store.submit(move |tx| {
            let key = key(&[scope.as_str(), &sent.id])?;
            let stored = tx.get(&SANDBOXES, &key)?.ok_or_else(|| missing(&scope, &sent.id))?;
            let record = updated(stored, &sent, &paths)?;
            tx.put(&SANDBOXES, &key, &record)?;
            barrier.touch(&scope, || held(&sent.id, &record));
            Ok::<_, SandboxError>(Sandbox { id: sent.id, record })
        });
        let updated = change.await?;
        self.trigger.changed();
        Ok(updated)
    }

    /// Forgets a sandbox. Whether it runs is not looked at; clients end it first.
    ///
    /// # Errors
    /// It does not exist.
    pub async fn delete(&self, namespace: &Namespace, id: String) -> Result<(), SandboxError> {
        let scope = namespace.clone();
        let change = self.store.submit(move |tx| {
            let key = key(&[scope.as_str(), &id])?;
            if !tx.contains(&SANDBOXES, &key)? {
                return Err(missing(&scope, &id));
            }
            Ok(tx.delete(&SANDBOXES, &key)?)
        });
        change.await?;
        self.trigger.deleted();
        Ok(())
    }
}

/// What a sandbox holds against collection.
fn held(id: &str, record: &SandboxRecord) -> Vec<Node> {
    Object::sandbox(id.to_owned(), record.labels.clone()).holds()
}

fn missing(namespace: &Namespace, id: &str) -> SandboxError {
    SandboxError::Missing { id: id.to_owned(), namespace: namespace.clone() }
}

/// The record after an update.
fn updated(stored: SandboxRecord, sent: &Sandbox, paths: &[Path]) -> Result<SandboxRecord, SandboxError> {
    let Sandbox { id, record: new } = sent;
    let mut record = stored;
    if paths.is_empty() {
        if new.runtime.name != record.runtime.name {
            return Err(SandboxError::Immutable { what: "Runtime.Name" });
        }
        record.labels.clone_from(&new.labels);
        record.extensions.clone_from(&new.extensions);
        record.spec.clone_from(&new.spec);
        record.runtime.clone_from(&new.runtime);
    }
    for path in paths {
        match path.parts() {
            ("labels", key) => fields::replace(&mut record.labels, &new.labels, key),
            ("extensions", key) => fields::replace(&mut record.extensions, &new.extensions, key),
            ("spec", None) => record.spec.clone_from(&new.spec),
            ("runtime", None) => record.runtime.clone_from(&new.runtime),
            _ => return Err(path.unknown(id.as_str()).into()),
        }
    }
    labels::check(&record.labels)?;
    record.labels = labels::without_empty(record.labels);
    record.updated_at = SystemTime::now();
    Ok(record)
}

#[cfg(test)]
mod tests {
    use store::record::Runtime;

    use super::*;

    fn record(runtime: &str, labels: &[(&str, &str)]) -> SandboxRecord {
        SandboxRecord {
            labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            runtime: Runtime { name: runtime.into(), options: None },
            spec: None,
            extensions: Default::default(),
            sandboxer: "shim".into(),
            created_at: SystemTime::UNIX_EPOCH,
            updated_at: SystemTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn updates_as_a_table() {
        let stored = record("a", &[("one", "1"), ("two", "2")]);
        for (sent, paths, answer) in [
            (record("a", &[("one", "9")]), &[][..], Some(("a", vec![("one", "9")]))),
            (record("b", &[]), &[], None),
            (record("b", &[("one", "9")]), &["labels.one"], Some(("a", vec![("one", "9"), ("two", "2")]))),
            (record("b", &[]), &["labels.one", "runtime"], Some(("b", vec![("two", "2")]))),
            (record("a", &[]), &["sandboxer"], None),
        ] {
            let paths: Vec<Path> = paths.iter().map(|path| Path::parse(path)).collect();
            let result = updated(stored.clone(), &Sandbox { id: "s".into(), record: sent }, &paths);
            match answer {
                Some((runtime, labels)) => {
                    let updated = result.unwrap();
                    assert_eq!(updated.runtime.name, runtime, "{paths:?}");
                    assert_eq!(updated.labels, record("", &labels).labels, "{paths:?}");
                    assert!(updated.updated_at > updated.created_at);
                }
                None => assert_eq!(result.unwrap_err().kind(), Kind::InvalidArgument, "{paths:?}"),
            }
        }
    }

    #[test]
    fn filters_see_what_clients_ask_for() {
        let sandbox = Sandbox { id: "s1".into(), record: record("r", &[("k", "v")]) };
        for (filter, answer) in
            [("id==s1", true), ("runtime.name==r", true), ("labels.k==v", true), ("id==s2", false), ("other", false)]
        {
            assert_eq!(Filters::parse(&[filter]).unwrap().matches(&sandbox), answer, "{filter}");
        }
    }
}
