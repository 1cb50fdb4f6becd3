//! Containers: records of what to run. Whether one runs is the business of [`crate::tasks`], and not looked at here.
//!
//! A change is durable when its call returns, and told to the bus then. Specs, options and extensions are kept byte for byte; an
//! image or a snapshot that a container names need not exist.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::SystemTime;

use model::error::{Classify, Kind};
use model::filter::{Fields, Filters, label_field};
use model::id::IdError;
use model::labels::LabelError;
use model::{ContainerId, Namespace, labels};
use proto::events::{ContainerCreate, ContainerDelete, ContainerUpdate, container_create};
use proto::prost_types;
use store::record::ContainerRecord;
use store::tables::CONTAINERS;
use store::{Read, Store, StoreError, key, last_part, prefix};

use crate::api::fields::{self, Path, UnknownPath};
use crate::blocking;
use crate::events::Bus;
use crate::gc::node::{Node, Object};
use crate::gc::schedule::Trigger;
use crate::meta::Meta;
use crate::meta::barrier::Barrier;
use crate::namespaces;

/// How many records are read at once when all are looked through.
const PAGE: usize = 256;

/// Why a container could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// The id breaks the identifier rule.
    #[error("container.ID")]
    Id(#[from] IdError),
    /// A label breaks the size rule.
    #[error("containers.Labels")]
    Label(#[from] LabelError),
    /// Something that a container must have, or must not have, for one a spec.
    #[error("container.{what}")]
    Rule {
        /// Which field, and the rule.
        what: &'static str,
    },
    /// An update names no container.
    #[error("must specify a container id")]
    Nothing,
    /// An update names a field that there is not, or that never changes.
    #[error(transparent)]
    Field(#[from] UnknownPath),
    /// Created twice.
    #[error("container \"{id}\"")]
    Exists {
        /// The id.
        id: ContainerId,
    },
    /// No such container in the namespace.
    #[error("container {id:?} in namespace \"{namespace}\"")]
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

impl Classify for ContainerError {
    fn kind(&self) -> Kind {
        match self {
            Self::Id(error) => error.kind(),
            Self::Label(error) => error.kind(),
            Self::Field(error) => error.kind(),
            Self::Rule { .. } | Self::Nothing => Kind::InvalidArgument,
            Self::Exists { .. } => Kind::AlreadyExists,
            Self::Missing { .. } => Kind::NotFound,
            Self::Store(error) => error.kind(),
        }
    }
}

/// A container with its id.
#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Everything else about it.
    pub record: ContainerRecord,
}

impl Fields for Container {
    fn field(&self, path: &[String]) -> Option<String> {
        let text = match path.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["id"] => self.id.clone(),
            ["runtime", "name"] => self.record.runtime.name.clone(),
            ["image"] => self.record.image.clone(),
            ["labels", ..] => return label_field(&self.record.labels, &path[1..]),
            _ => return None,
        };
        Some(text).filter(|text| !text.is_empty())
    }
}

/// All containers.
#[derive(Debug, Clone)]
pub struct Containers {
    store: Store,
    bus: Bus,
    barrier: Arc<Barrier>,
    trigger: Trigger,
}

impl Containers {
    /// The containers kept in `store`; changes are told to `bus`, and to the collection of `meta`, since containers hold
    /// snapshots and whatever their labels refer to.
    pub fn new(store: Store, bus: Bus, meta: &Meta) -> Self {
        Self { store, bus, barrier: Arc::clone(meta.barrier()), trigger: meta.trigger().clone() }
    }

    /// One container.
    ///
    /// # Errors
    /// [`ContainerError::Missing`].
    pub async fn get(&self, namespace: &Namespace, id: &str) -> Result<Container, ContainerError> {
        let (reader, key) = (self.store.read(), key(&[namespace.as_str(), id])?);
        let record = blocking::run(move || reader.get(&CONTAINERS, &key)).await?;
        let record = record.ok_or_else(|| missing(namespace, id))?;
        Ok(Container { id: id.to_owned(), record })
    }

    /// Shows the containers of a namespace that match, ordered by id, until `each` breaks. Blocks: it is for the blocking pool.
    ///
    /// # Errors
    /// The store failed.
    pub fn walk(
        &self,
        namespace: &Namespace,
        filters: &Filters,
        mut each: impl FnMut(Container) -> ControlFlow<()>,
    ) -> Result<(), ContainerError> {
        let (reader, inside) = (self.store.read(), prefix(&[namespace.as_str()])?);
        let mut after = None;
        loop {
            let page = reader.scan_from(&CONTAINERS, &inside, after.as_deref(), PAGE)?;
            let more = page.len() == PAGE;
            for (key, record) in page {
                let container = Container { id: last_part(&key).unwrap_or_default().to_owned(), record };
                if filters.matches(&container) && each(container).is_break() {
                    return Ok(());
                }
                after = Some(key);
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Records a new container; its times are set here.
    ///
    /// # Errors
    /// It exists, or breaks a rule.
    pub async fn create(&self, namespace: &Namespace, new: Container) -> Result<Container, ContainerError> {
        let Container { id, mut record } = new;
        let id = ContainerId::new(id)?;
        record.created_at = SystemTime::now();
        record.updated_at = record.created_at;
        check(&record)?;
        record.labels = labels::without_empty(record.labels);
        let (scope, created, stored) = (namespace.clone(), id.clone(), record.clone());
        let barrier = Arc::clone(&self.barrier);
        let change = self.store.submit(move |tx| {
            let key = key(&[scope.as_str(), created.as_str()])?;
            if tx.contains(&CONTAINERS, &key)? {
                return Err(ContainerError::Exists { id: created });
            }
            namespaces::ensure(tx, &scope)?;
            tx.put(&CONTAINERS, &key, &stored)?;
            barrier.touch(&scope, || held(created.as_str(), &stored));
            Ok(())
        });
        change.await?;
        self.trigger.changed();
        let runtime = container_create::Runtime {
            name: record.runtime.name.clone(),
            options: record.runtime.options.clone().map(any_to_wire),
        };
        let event = ContainerCreate { id: id.to_string(), image: record.image.clone(), runtime: Some(runtime) };
        self.bus.publish(namespace, "/containers/create", &event);
        Ok(Container { id: id.into(), record })
    }

    /// Changes a container: with `paths` these fields, without all that may change. Answers with the container as it is then.
    ///
    /// # Errors
    /// It does not exist, a path is not one of a container's, a field never changes, or the result breaks a rule.
    pub async fn update(
        &self,
        namespace: &Namespace,
        sent: Container,
        paths: Option<Vec<Path>>,
    ) -> Result<Container, ContainerError> {
        if sent.id.is_empty() {
            return Err(ContainerError::Nothing);
        }
        let (scope, barrier) = (namespace.clone(), Arc::clone(&self.barrier));
        let change = self.store.submit(move |tx| {
            let key = key(&[scope.as_str(), &sent.id])?;
            let stored = tx.get(&CONTAINERS, &key)?.ok_or_else(|| missing(&scope, &sent.id))?;
            let record = updated(stored, &sent, paths.as_deref())?;
            tx.put(&CONTAINERS, &key, &record)?;
            barrier.touch(&scope, || held(&sent.id, &record));
            Ok::<_, ContainerError>(Container { id: sent.id, record })
        });
        let container = change.await?;
        self.trigger.changed();
        let event = ContainerUpdate {
            id: container.id.clone(),
            image: container.record.image.clone(),
            labels: container.record.labels.clone(),
            snapshot_key: container.record.snapshot_key.clone(),
        };
        self.bus.publish(namespace, "/containers/update", &event);
        Ok(container)
    }

    /// Replaces one extension of a container, for the part of the daemon that it belongs to. Nobody is told.
    ///
    /// # Errors
    /// The container does not exist.
    pub async fn set_extension(
        &self,
        namespace: Namespace,
        id: String,
        name: &'static str,
        extension: store::record::Any,
    ) -> Result<(), ContainerError> {
        let change = self.store.submit(move |tx| {
            let key = key(&[namespace.as_str(), &id])?;
            let mut record = tx.get(&CONTAINERS, &key)?.ok_or_else(|| missing(&namespace, &id))?;
            record.extensions.insert(name.to_owned(), extension);
            Ok::<_, ContainerError>(tx.put(&CONTAINERS, &key, &record)?)
        });
        change.await
    }

    /// Replaces the specification, the image's name and one extension of a container that is being made by a part of the daemon.
    /// Nobody is told.
    ///
    /// # Errors
    /// The container does not exist.
    pub async fn set_spec(
        &self,
        namespace: Namespace,
        id: String,
        spec: store::record::Any,
        image: String,
        extension: (&'static str, store::record::Any),
    ) -> Result<(), ContainerError> {
        let change = self.store.submit(move |tx| {
            let key = key(&[namespace.as_str(), &id])?;
            let mut record = tx.get(&CONTAINERS, &key)?.ok_or_else(|| missing(&namespace, &id))?;
            record.spec = Some(spec);
            record.image = image;
            record.extensions.insert(extension.0.to_owned(), extension.1);
            Ok::<_, ContainerError>(tx.put(&CONTAINERS, &key, &record)?)
        });
        change.await
    }

    /// Forgets a container. A task of it is not looked at; clients do that first.
    ///
    /// # Errors
    /// It does not exist.
    pub async fn delete(&self, namespace: &Namespace, id: String) -> Result<(), ContainerError> {
        let (scope, deleted) = (namespace.clone(), id.clone());
        let change = self.store.submit(move |tx| {
            let key = key(&[scope.as_str(), &deleted])?;
            if !tx.contains(&CONTAINERS, &key)? {
                return Err(missing(&scope, &deleted));
            }
            Ok(tx.delete(&CONTAINERS, &key)?)
        });
        change.await?;
        self.bus.publish(namespace, "/containers/delete", &ContainerDelete { id });
        self.trigger.deleted();
        Ok(())
    }
}

/// What a container holds against collection.
fn held(id: &str, record: &ContainerRecord) -> Vec<Node> {
    let snapshot = (!record.snapshot_key.is_empty())
        .then(|| Node::snapshot(record.snapshotter.as_str(), record.snapshot_key.as_str()));
    Object::container(id.to_owned(), snapshot, record.labels.clone()).holds()
}

fn missing(namespace: &Namespace, id: &str) -> ContainerError {
    ContainerError::Missing { id: id.to_owned(), namespace: namespace.clone() }
}

/// An opaque payload for the wire.
pub fn any_to_wire(any: store::record::Any) -> prost_types::Any {
    prost_types::Any { type_url: any.type_url, value: any.value }
}

/// An opaque payload from the wire.
pub fn any_from_wire(any: prost_types::Any) -> store::record::Any {
    store::record::Any { type_url: any.type_url, value: any.value }
}

/// What every container must have.
fn check(record: &ContainerRecord) -> Result<(), ContainerError> {
    let rules = [
        (record.extensions.keys().all(|key| !key.is_empty()), "Extension keys must not be zero-length"),
        (!record.runtime.name.is_empty(), "Runtime.Name must be set"),
        (record.spec.is_some(), "Spec must be set"),
        (
            record.snapshot_key.is_empty() || !record.snapshotter.is_empty(),
            "Snapshotter must be set if container.SnapshotKey is set",
        ),
    ];
    labels::check(&record.labels)?;
    match rules.into_iter().find(|(holds, _)| !holds) {
        Some((_, what)) => Err(ContainerError::Rule { what }),
        None => Ok(()),
    }
}

/// The record after an update.
fn updated(
    stored: ContainerRecord,
    sent: &Container,
    paths: Option<&[Path]>,
) -> Result<ContainerRecord, ContainerError> {
    let Container { id, record: new } = sent;
    let mut record = stored;
    match paths {
        None => {
            if new.snapshotter != record.snapshotter {
                return Err(ContainerError::Rule { what: "Snapshotter field is immutable" });
            }
            if new.runtime.name != record.runtime.name {
                return Err(ContainerError::Rule { what: "Runtime.Name field is immutable" });
            }
            record.labels.clone_from(&new.labels);
            record.extensions.clone_from(&new.extensions);
            record.spec.clone_from(&new.spec);
            record.image.clone_from(&new.image);
            record.snapshot_key.clone_from(&new.snapshot_key);
        }
        Some(paths) => {
            for path in paths {
                match path.parts() {
                    ("labels", key) => fields::replace(&mut record.labels, &new.labels, key),
                    ("extensions", key) => fields::replace(&mut record.extensions, &new.extensions, key),
                    ("spec", None) => record.spec.clone_from(&new.spec),
                    ("image", None) => record.image.clone_from(&new.image),
                    ("snapshotkey", None) => record.snapshot_key.clone_from(&new.snapshot_key),
                    _ => return Err(path.unknown(id.as_str()).into()),
                }
            }
        }
    }
    record.labels = labels::without_empty(record.labels);
    check(&record)?;
    record.updated_at = SystemTime::now();
    Ok(record)
}
