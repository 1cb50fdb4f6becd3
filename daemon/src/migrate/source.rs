//! What containerd's databases say, as values. Its schema is version 1 of `v1/<namespace>/<kind>/…`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use model::snapshot::SnapshotKind;
use model::{Descriptor, Digest, Labels};
use proto::prost::Message as _;
use store::record::{Any, Runtime};

use super::MigrateError;
use super::bolt::{Bucket, Database, Item};

/// Seconds from the year 1, where Go's time begins, to 1970.
const GO_EPOCH: i64 = 62_135_596_800;

/// A whole containerd.
#[derive(Debug, Default)]
pub(super) struct Source {
    pub(super) namespaces: Vec<NamespaceOf>,
    /// Its snapshotters whose folders can be taken over: their snapshots by key.
    pub(super) drivers: BTreeMap<String, BTreeMap<String, Backend>>,
}

/// One namespace.
#[derive(Debug, Default)]
pub(super) struct NamespaceOf {
    pub(super) name: String,
    pub(super) labels: Labels,
    pub(super) images: Vec<(String, ImageOf)>,
    pub(super) content: Vec<(Digest, ContentOf)>,
    pub(super) containers: Vec<(String, ContainerOf)>,
    pub(super) snapshots: Vec<SnapshotOf>,
    pub(super) leases: Vec<(String, LeaseOf)>,
    /// Kinds of things that are not taken over.
    pub(super) left_out: Vec<String>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) created_at: SystemTime,
    pub(super) updated_at: SystemTime,
}

#[derive(Debug)]
pub(super) struct ImageOf {
    pub(super) labels: Labels,
    pub(super) target: Descriptor,
    pub(super) times: Times,
}

#[derive(Debug)]
pub(super) struct ContentOf {
    pub(super) labels: Labels,
    pub(super) size: u64,
    pub(super) times: Times,
}

#[derive(Debug)]
pub(super) struct ContainerOf {
    pub(super) labels: Labels,
    pub(super) image: String,
    pub(super) runtime: Runtime,
    pub(super) spec: Option<Any>,
    pub(super) snapshotter: String,
    pub(super) snapshot_key: String,
    pub(super) extensions: BTreeMap<String, Any>,
    pub(super) sandbox: String,
    pub(super) times: Times,
}

#[derive(Debug)]
pub(super) struct SnapshotOf {
    pub(super) snapshotter: String,
    pub(super) name: String,
    pub(super) backend_key: String,
    pub(super) parent: Option<String>,
    pub(super) labels: Labels,
    pub(super) times: Times,
}

#[derive(Debug)]
pub(super) struct LeaseOf {
    pub(super) labels: Labels,
    pub(super) created_at: SystemTime,
    /// Kind and id of what it holds.
    pub(super) resources: Vec<(String, String)>,
}

/// A snapshot as its driver keeps it.
#[derive(Debug, Clone)]
pub(super) struct Backend {
    pub(super) folder: PathBuf,
    pub(super) kind: SnapshotKind,
    pub(super) parent: Option<String>,
    pub(super) labels: Labels,
    pub(super) size: u64,
    pub(super) inodes: u64,
    pub(super) created_at: SystemTime,
    pub(super) updated_at: SystemTime,
}

impl Source {
    /// Reads everything below containerd's root.
    pub(super) fn read(root: &Path) -> Result<Self, MigrateError> {
        let mut source = Self::default();
        let database = Database::open(&root.join("io.containerd.metadata.v1.bolt/meta.db"))?;
        if let Some(all) = database.root().bucket("v1")? {
            for (name, bucket) in all.buckets()? {
                source.namespaces.push(namespace(name, &bucket)?);
            }
        }
        for name in ["overlayfs", "native"] {
            let folder = root.join(format!("io.containerd.snapshotter.v1.{name}"));
            if folder.join("metadata.db").exists() {
                source.drivers.insert(name.to_owned(), driver(&folder)?);
            }
        }
        Ok(source)
    }
}

/// The values of a bucket, by name.
struct Fields(BTreeMap<Vec<u8>, Vec<u8>>);

impl Fields {
    fn of(bucket: &Bucket<'_>) -> Result<Self, MigrateError> {
        let values = bucket.items()?.into_iter().filter_map(|(key, item)| match item {
            Item::Value(value) => Some((key, value)),
            Item::Bucket(_) => None,
        });
        Ok(Self(values.collect()))
    }

    fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name.as_bytes()).map(Vec::as_slice)
    }

    fn text(&self, name: &str) -> String {
        self.bytes(name).map(|bytes| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default()
    }

    fn some_text(&self, name: &str) -> Option<String> {
        Some(self.text(name)).filter(|text| !text.is_empty())
    }

    /// A number as Go writes signed ones.
    fn signed(&self, name: &str) -> u64 {
        let raw = self.bytes(name).map_or(0, varint);
        if raw & 1 == 0 { raw >> 1 } else { 0 }
    }

    fn time(&self, name: &str) -> SystemTime {
        self.bytes(name).and_then(go_time).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    fn times(&self) -> Times {
        Times { created_at: self.time("createdat"), updated_at: self.time("updatedat") }
    }

    fn any(&self, name: &str) -> Option<Any> {
        any(self.bytes(name)?)
    }
}

fn any(bytes: &[u8]) -> Option<Any> {
    let any = proto::prost_types::Any::decode(bytes).ok()?;
    Some(Any { type_url: any.type_url, value: any.value })
}

/// A number in groups of seven bits, the lowest first.
fn varint(bytes: &[u8]) -> u64 {
    let mut number = 0;
    for (at, byte) in bytes.iter().enumerate().take(10) {
        number |= u64::from(byte & 0x7f).checked_shl(7 * at as u32).unwrap_or(0);
        if byte & 0x80 == 0 {
            break;
        }
    }
    number
}

/// A time as Go writes it: version, seconds since the year 1, nanoseconds, zone.
fn go_time(bytes: &[u8]) -> Option<SystemTime> {
    if !matches!(bytes.first(), Some(1 | 2)) {
        return None;
    }
    let seconds = i64::from_be_bytes(bytes.get(1..9)?.try_into().ok()?).checked_sub(GO_EPOCH)?;
    let nanos = u32::from_be_bytes(bytes.get(9..13)?.try_into().ok()?);
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(u64::try_from(seconds).ok()?, nanos.min(999_999_999)))
}

fn labels(bucket: &Bucket<'_>, name: &str) -> Result<Labels, MigrateError> {
    let Some(bucket) = bucket.bucket(name)? else { return Ok(Labels::new()) };
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Fields::of(&bucket)?.0.into_iter().map(|(key, value)| (text(key), text(value))).collect())
}

fn namespace(name: String, bucket: &Bucket<'_>) -> Result<NamespaceOf, MigrateError> {
    let mut all = NamespaceOf { name, labels: labels(bucket, "labels")?, ..NamespaceOf::default() };
    for (kind, bucket) in bucket.buckets()? {
        match kind.as_str() {
            "labels" => {}
            "images" => {
                for (name, bucket) in bucket.buckets()? {
                    let Some(image) = image(&bucket)? else { continue };
                    all.images.push((name, image));
                }
            }
            "content" => {
                let Some(blobs) = bucket.bucket("blob")? else { continue };
                for (digest, bucket) in blobs.buckets()? {
                    let Ok(digest) = digest.parse() else { continue };
                    let fields = Fields::of(&bucket)?;
                    let (size, times) = (fields.signed("size"), fields.times());
                    all.content.push((digest, ContentOf { labels: labels(&bucket, "labels")?, size, times }));
                }
            }
            "containers" => {
                for (id, bucket) in bucket.buckets()? {
                    all.containers.push((id, container(&bucket)?));
                }
            }
            "snapshots" => {
                for (snapshotter, bucket) in bucket.buckets()? {
                    for (name, bucket) in bucket.buckets()? {
                        let fields = Fields::of(&bucket)?;
                        all.snapshots.push(SnapshotOf {
                            snapshotter: snapshotter.clone(),
                            name,
                            backend_key: fields.text("name"),
                            parent: fields.some_text("parent"),
                            labels: labels(&bucket, "labels")?,
                            times: fields.times(),
                        });
                    }
                }
            }
            "leases" => {
                for (id, bucket) in bucket.buckets()? {
                    all.leases.push((id, lease(&bucket)?));
                }
            }
            _ => {
                if !bucket.items()?.is_empty() {
                    all.left_out.push(kind);
                }
            }
        }
    }
    Ok(all)
}

fn image(bucket: &Bucket<'_>) -> Result<Option<ImageOf>, MigrateError> {
    let Some(target) = bucket.bucket("target")? else { return Ok(None) };
    let fields = Fields::of(&target)?;
    let Ok(digest) = fields.text("digest").parse() else { return Ok(None) };
    let target = Descriptor {
        media_type: fields.text("mediatype"),
        digest,
        size: fields.signed("size"),
        annotations: labels(&target, "annotations")?,
    };
    Ok(Some(ImageOf { labels: labels(bucket, "labels")?, target, times: Fields::of(bucket)?.times() }))
}

fn container(bucket: &Bucket<'_>) -> Result<ContainerOf, MigrateError> {
    let fields = Fields::of(bucket)?;
    let runtime = match bucket.bucket("runtime")? {
        Some(bucket) => {
            let fields = Fields::of(&bucket)?;
            Runtime { name: fields.text("name"), options: fields.any("options") }
        }
        None => Runtime::default(),
    };
    let extensions = match bucket.bucket("extensions")? {
        Some(bucket) => Fields::of(&bucket)?
            .0
            .into_iter()
            .filter_map(|(key, value)| Some((String::from_utf8(key).ok()?, any(&value)?)))
            .collect(),
        None => BTreeMap::new(),
    };
    Ok(ContainerOf {
        labels: labels(bucket, "labels")?,
        image: fields.text("image"),
        runtime,
        spec: fields.any("spec"),
        snapshotter: fields.text("snapshotter"),
        snapshot_key: fields.text("snapshotKey"),
        extensions,
        sandbox: fields.text("sandboxid"),
        times: fields.times(),
    })
}

fn lease(bucket: &Bucket<'_>) -> Result<LeaseOf, MigrateError> {
    let mut resources = Vec::new();
    for (kind, bucket) in bucket.buckets()? {
        match kind.as_str() {
            "labels" => {}
            "snapshots" => {
                for (snapshotter, bucket) in bucket.buckets()? {
                    let keys = bucket.items()?.into_iter().map(|(key, _)| key);
                    let kind = format!("snapshots/{snapshotter}");
                    resources.extend(keys.filter_map(|key| Some((kind.clone(), String::from_utf8(key).ok()?))));
                }
            }
            _ => {
                let keys = bucket.items()?.into_iter().map(|(key, _)| key);
                resources.extend(keys.filter_map(|key| Some((kind.clone(), String::from_utf8(key).ok()?))));
            }
        }
    }
    Ok(LeaseOf { labels: labels(bucket, "labels")?, created_at: Fields::of(bucket)?.time("createdat"), resources })
}

/// The snapshots of a driver.
fn driver(folder: &Path) -> Result<BTreeMap<String, Backend>, MigrateError> {
    let database = Database::open(&folder.join("metadata.db"))?;
    let mut found = BTreeMap::new();
    let Some(all) = database.root().bucket("v1")? else { return Ok(found) };
    let Some(all) = all.bucket("snapshots")? else { return Ok(found) };
    for (key, bucket) in all.buckets()? {
        let fields = Fields::of(&bucket)?;
        let kind = match fields.bytes("kind").and_then(|kind| kind.first()) {
            Some(1) => SnapshotKind::View,
            Some(2) => SnapshotKind::Active,
            Some(3) => SnapshotKind::Committed,
            _ => continue,
        };
        let backend = Backend {
            folder: folder.join("snapshots").join(fields.bytes("id").map_or(0, varint).to_string()),
            kind,
            parent: fields.some_text("parent"),
            labels: labels(&bucket, "labels")?,
            size: fields.signed("size"),
            inodes: fields.signed("inodes"),
            created_at: fields.time("createdat"),
            updated_at: fields.time("updatedat"),
        };
        found.insert(key, backend);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_as_go_writes_them() {
        assert_eq!(varint(&[0xac, 0x02]), 300);
        let fields = Fields([(b"n".to_vec(), vec![0xd8, 0x04])].into());
        assert_eq!((fields.signed("n"), fields.signed("none")), (300, 0));
        let mut bytes = vec![1];
        bytes.extend((GO_EPOCH + 5).to_be_bytes());
        bytes.extend(7u32.to_be_bytes());
        bytes.extend([0xff, 0xff]);
        assert_eq!(go_time(&bytes), Some(SystemTime::UNIX_EPOCH + Duration::new(5, 7)));
        assert_eq!(go_time(&[9, 0]), None);
    }
}
