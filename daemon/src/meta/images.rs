//! Images: names for content (containerd's contract).

use std::time::SystemTime;

use model::error::{Classify, Kind};
use model::filter::{Fields, FilterError, Filters, label_field};
use model::labels::{self, LabelError};
use model::{Descriptor, Labels, Namespace};
use proto::services::images::v1 as wire;
use store::record::ImageRecord;
use store::{Read, StoreError, tables};

use super::Meta;
use super::leases::{self, LeaseError, Resource};
use crate::api::Scope;
use crate::gc::labels::EXPIRE;
use crate::gc::node::Node;
use crate::namespaces;

/// One image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its name. Not an identifier: real ones hold anything.
    pub name: String,
    /// The rest of it.
    pub record: ImageRecord,
}

/// What is to be changed about an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImagePath {
    /// All labels.
    Labels,
    /// One label.
    Label(String),
    /// What it names, annotations included.
    Target,
    /// All annotations of the target.
    Annotations,
    /// One annotation of the target.
    Annotation(String),
}

/// A change to an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUpdate {
    /// The image.
    pub name: String,
    /// The new labels, as far as they are meant.
    pub labels: Labels,
    /// The new target, as far as it is meant.
    pub target: Option<Descriptor>,
    /// The new annotations of the target, as far as they are meant.
    pub annotations: Labels,
    /// What is meant; `None` is labels and target.
    pub paths: Option<Vec<ImagePath>>,
    /// The time to put into the record in place of now.
    pub time: Option<SystemTime>,
}

/// Why a call about images failed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// No image of that name.
    #[error("image {name:?}")]
    NotFound {
        /// The name.
        name: String,
    },
    /// The image names something else than the caller thinks.
    #[error("image {name:?} has another target, {found}")]
    OtherTarget {
        /// The name.
        name: String,
        /// What it names.
        found: model::Digest,
    },
    /// An image of that name exists.
    #[error("image {name:?}")]
    AlreadyExists {
        /// The name.
        name: String,
    },
    /// No name.
    #[error("image name must not be empty")]
    NoName,
    /// The target names no content.
    #[error("invalid target: {why}")]
    Target {
        /// What is wrong with it.
        why: &'static str,
    },
    /// A label is too long.
    #[error("image labels")]
    Labels(#[from] LabelError),
    /// A filter cannot be read.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The lease of the caller cannot hold it.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Classify for ImageError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound { .. } | Self::OtherTarget { .. } => Kind::NotFound,
            Self::AlreadyExists { .. } => Kind::AlreadyExists,
            Self::NoName | Self::Target { .. } | Self::Labels(_) | Self::Filter(_) => Kind::InvalidArgument,
            Self::Lease(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }
}

impl Fields for Image {
    fn field(&self, path: &[String]) -> Option<String> {
        let (first, rest) = path.split_first()?;
        let text = match (first.as_str(), rest) {
            ("name", []) => self.name.clone(),
            ("target", [field]) if field == "digest" => self.record.target.digest.to_string(),
            ("target", [field]) if field == "mediatype" => self.record.target.media_type.clone(),
            ("labels", key) => return label_field(&self.record.labels, key),
            ("annotations", key) => return label_field(&self.record.target.annotations, key),
            _ => return None,
        };
        Some(text).filter(|text| !text.is_empty())
    }
}

impl ImageUpdate {
    /// Puts what is meant into the record.
    fn apply(&self, record: &mut ImageRecord) -> Result<(), ImageError> {
        let one = |stored: &mut Labels, sent: &Labels, key: &str| match sent.get(key) {
            Some(value) => drop(stored.insert(key.to_owned(), value.clone())),
            None => drop(stored.remove(key)),
        };
        let target = || self.target.clone().ok_or(ImageError::Target { why: "it is missing" });
        match &self.paths {
            None => {
                record.labels.clone_from(&self.labels);
                record.target = target()?;
            }
            Some(paths) => {
                for path in paths {
                    match path {
                        ImagePath::Labels => record.labels.clone_from(&self.labels),
                        ImagePath::Label(key) => one(&mut record.labels, &self.labels, key),
                        ImagePath::Target => record.target = target()?,
                        ImagePath::Annotations => record.target.annotations.clone_from(&self.annotations),
                        ImagePath::Annotation(key) => one(&mut record.target.annotations, &self.annotations, key),
                    }
                }
            }
        }
        Ok(())
    }
}

/// Checks what every stored image must be, and takes out labels without a value.
fn valid(name: &str, record: &mut ImageRecord) -> Result<(), ImageError> {
    if name.is_empty() {
        return Err(ImageError::NoName);
    }
    labels::check(&record.labels)?;
    record.labels.retain(|_, value| !value.is_empty());
    if record.target.size == 0 {
        return Err(ImageError::Target { why: "its size must be greater than zero" });
    }
    if record.target.media_type.is_empty() {
        return Err(ImageError::Target { why: "its media type must be set" });
    }
    Ok(())
}

/// What an image begins to refer to when it is written.
fn touched(name: &str, record: &ImageRecord) -> Vec<Node> {
    let target = record.target.digest.as_str().to_owned();
    let object = crate::gc::node::Object::image(name.to_owned(), target, record.labels.clone(), SystemTime::UNIX_EPOCH);
    let mut nodes = object.holds();
    nodes.push(object.node);
    nodes
}

impl Meta {
    /// One image.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn image(&self, namespace: &Namespace, name: &str) -> Result<Image, ImageError> {
        let record = self.inner.store.read().get(&tables::IMAGES, &store::key(&[namespace.as_str(), name])?)?;
        let record = record.ok_or_else(|| ImageError::NotFound { name: name.to_owned() })?;
        Ok(Image { name: name.to_owned(), record })
    }

    /// The images of a namespace.
    ///
    /// # Errors
    /// A filter cannot be read.
    pub fn images(&self, namespace: &Namespace, filters: &[String]) -> Result<Vec<Image>, ImageError> {
        let filters = Filters::parse(filters)?;
        let records = self.inner.store.read().scan(&tables::IMAGES, &store::prefix(&[namespace.as_str()])?)?;
        let images = records.into_iter().filter_map(|(key, record)| {
            let name = store::last_part(&key)?.to_owned();
            Some(Image { name, record })
        });
        Ok(images.filter(|image| filters.matches(image)).collect())
    }

    /// Gives content a name. The content need not exist.
    ///
    /// # Errors
    /// The name is taken, or a rule is broken.
    pub async fn create_image(
        &self,
        scope: Scope,
        name: String,
        labels: Labels,
        target: Descriptor,
        time: Option<SystemTime>,
    ) -> Result<Image, ImageError> {
        let now = time.unwrap_or_else(SystemTime::now);
        let mut record = ImageRecord { labels, target, created_at: now, updated_at: now };
        valid(&name, &mut record)?;
        let namespace = scope.namespace.clone();
        let barrier = self.inner.barrier.clone();
        let created = self.inner.store.submit(move |tx| {
            let key = store::key(&[scope.namespace.as_str(), &name])?;
            lease_if_it_expires(tx, &barrier, &scope, &name, &record)?;
            if tx.contains(&tables::IMAGES, &key)? {
                return Err(ImageError::AlreadyExists { name });
            }
            namespaces::ensure(tx, &scope.namespace)?;
            tx.put(&tables::IMAGES, &key, &record)?;
            barrier.touch(&scope.namespace, || touched(&name, &record));
            Ok(Image { name, record })
        });
        let image = created.await?;
        let event = wire::ImageCreate { name: image.name.clone(), labels: image.record.labels.clone() };
        self.inner.bus.publish(&namespace, "/images/create", &event);
        self.inner.trigger.changed();
        Ok(image)
    }

    /// Changes an image.
    ///
    /// # Errors
    /// There is no such image, or a rule would be broken.
    pub async fn update_image(&self, scope: Scope, update: ImageUpdate) -> Result<Image, ImageError> {
        if update.name.is_empty() {
            return Err(ImageError::NoName);
        }
        let namespace = scope.namespace.clone();
        let barrier = self.inner.barrier.clone();
        let updated = self.inner.store.submit(move |tx| {
            let key = store::key(&[scope.namespace.as_str(), &update.name])?;
            let stored = tx.get(&tables::IMAGES, &key)?;
            let mut record = stored.ok_or_else(|| ImageError::NotFound { name: update.name.clone() })?;
            update.apply(&mut record)?;
            valid(&update.name, &mut record)?;
            record.updated_at = update.time.unwrap_or_else(SystemTime::now);
            lease_if_it_expires(tx, &barrier, &scope, &update.name, &record)?;
            tx.put(&tables::IMAGES, &key, &record)?;
            barrier.touch(&scope.namespace, || touched(&update.name, &record));
            Ok::<_, ImageError>(Image { name: update.name, record })
        });
        let image: Image = updated.await?;
        let event = wire::ImageUpdate { name: image.name.clone(), labels: image.record.labels.clone() };
        self.inner.bus.publish(&namespace, "/images/update", &event);
        self.inner.trigger.changed();
        Ok(image)
    }

    /// Removes a name; what only it held may be collected. With `target`, only while it names this.
    ///
    /// # Errors
    /// There is no such image.
    pub async fn delete_image(
        &self,
        scope: Scope,
        name: String,
        target: Option<model::Digest>,
    ) -> Result<(), ImageError> {
        let namespace = scope.namespace.clone();
        let event = wire::ImageDelete { name: name.clone() };
        let deleted = self.inner.store.submit(move |tx| {
            let key = store::key(&[scope.namespace.as_str(), &name])?;
            let record = tx.get(&tables::IMAGES, &key)?.ok_or_else(|| ImageError::NotFound { name: name.clone() })?;
            if target.is_some_and(|target| target != record.target.digest) {
                return Err(ImageError::OtherTarget { name, found: record.target.digest });
            }
            leases::detach(tx, &scope, &Resource::Image(name))?;
            tx.delete(&tables::IMAGES, &key)?;
            Ok(())
        });
        deleted.await?;
        self.inner.bus.publish(&namespace, "/images/delete", &event);
        self.inner.trigger.deleted();
        Ok(())
    }
}

/// An image that does not expire holds itself; one that does needs the lease of whoever makes it.
fn lease_if_it_expires(
    tx: &mut store::Tx<'_>,
    barrier: &super::barrier::Barrier,
    scope: &Scope,
    name: &str,
    record: &ImageRecord,
) -> Result<(), LeaseError> {
    if record.labels.contains_key(EXPIRE) {
        leases::attach(tx, barrier, scope, &Resource::Image(name.to_owned()))?;
    }
    Ok(())
}
