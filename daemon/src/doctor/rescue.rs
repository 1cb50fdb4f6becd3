//! A metadata store that does not open: converted when it is of the other engine, and when it is damaged moved aside and
//! begun anew from what the files say.
//!
//! ```text
//!   meta/ ─► meta.aside-…/           snapshots/<driver>/ ─► snapshots/<driver>.aside-…/     nothing is deleted
//!   content/blobs ─► records in the namespace `recovered`, held as roots, until a person has decided
//! ```
//!
//! Shims and their containers go on: they are found by the state folder. Their records are made again from their bundles.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use model::{Labels, Namespace};
use store::blob::BlobStore;
use store::record::{Any, ContainerRecord, ContentRecord, NamespaceRecord, Present, Runtime};
use store::{OpenCause, OpenError, Options, Store, StoreError, key, tables};
use tracing::{error, info, warn};

use crate::config::Config;

/// Where blobs go whose namespace is not known any more.
pub const RECOVERED: &str = "recovered";

/// How many records one change makes.
const AT_A_TIME: usize = 200;

/// The type of a container's specification.
const SPEC: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

/// The largest specification that is read, in bytes.
const MAX_SPEC_BYTES: u64 = 4 << 20;

/// Opens the store in `dir`, whatever it takes short of deleting something.
///
/// # Errors
/// It is in use, newer, or cannot be moved; or the new one does not open either.
pub fn open(dir: &Path, options: Options, config: &Config) -> Result<Store, OpenError> {
    match Store::open(dir, options) {
        Err(OpenError { cause: OpenCause::OtherEngine { found, wanted }, .. }) => {
            warn!(%found, %wanted, "metadata is of the other engine and is converted");
            store::convert(dir, options)?;
            info!(%wanted, "metadata converted; the old data is beside it");
            Store::open(dir, options)
        }
        Err(failed) if failed.may_move_aside() => {
            error!(
                error = &failed as &dyn std::error::Error,
                "METADATA CANNOT BE OPENED, it is moved aside and begun anew"
            );
            let moved = move_all_aside(dir, &config.root);
            match moved {
                Ok(moved) => {
                    for (from, to) in moved {
                        error!(from = %from.display(), to = %to.display(), "moved aside, nothing was deleted");
                    }
                }
                Err(error) => {
                    error!(%error, "cannot move the damaged metadata aside");
                    return Err(failed);
                }
            }
            let store = Store::open(dir, options)?;
            match rebuild(&store, config) {
                Ok(rebuilt) => error!(
                    blobs = rebuilt.blobs,
                    containers = rebuilt.containers,
                    namespace = RECOVERED,
                    "metadata begun anew: names of images, leases and snapshots are lost; blobs are kept in the namespace, and \
                     the containers that run in theirs"
                ),
                Err(error) => error!(%error, "not all could be rebuilt"),
            }
            Ok(store)
        }
        opened => opened,
    }
}

/// Moves the metadata aside, and the folders of snapshots, which no record names any more and collection would remove.
fn move_all_aside(dir: &Path, root: &Path) -> io::Result<Vec<(PathBuf, PathBuf)>> {
    let mut moved = Vec::new();
    for entry in fs::read_dir(root.join("snapshots")).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if !name.to_string_lossy().contains(".aside-") && entry.path().is_dir() {
            let to = store::move_aside(&entry.path())?;
            moved.push((entry.path(), to));
        }
    }
    let to = store::move_aside(dir)?;
    moved.push((dir.to_owned(), to));
    Ok(moved)
}

/// What was rebuilt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// Records of blobs.
    pub blobs: usize,
    /// Records of containers.
    pub containers: usize,
}

fn rebuild(store: &Store, config: &Config) -> Result<Rebuilt, StoreError> {
    let mut rebuilt = Rebuilt::default();
    let now = SystemTime::now();
    let Ok(blobs) = BlobStore::open(&crate::home::content(&config.root)) else { return Ok(rebuilt) };
    let mut found: Vec<_> = blobs.walk().into_iter().flatten().flatten().collect();
    while !found.is_empty() {
        let batch = found.split_off(found.len().saturating_sub(AT_A_TIME));
        rebuilt.blobs += batch.len();
        store.write(move |tx| {
            tx.put(
                &tables::NAMESPACES,
                &key(&[RECOVERED])?,
                &NamespaceRecord { labels: Labels::new(), created_at: now },
            )?;
            for blob in batch {
                let labels = Labels::from([("containerd.io/gc.root".to_owned(), "recovered".to_owned())]);
                let record = ContentRecord { size: blob.size, labels, created_at: now, updated_at: now };
                tx.put(&tables::CONTENT, &key(&[RECOVERED, blob.digest.as_str()])?, &record)?;
                tx.put(&tables::BLOB_HOLDERS, &key(&[blob.digest.as_str(), RECOVERED])?, &Present)?;
            }
            Ok::<_, StoreError>(())
        })?;
    }
    let top = config.state.join("io.containerd.runtime.v2.task");
    for namespace in fs::read_dir(&top).into_iter().flatten().flatten() {
        let name = namespace.file_name().to_string_lossy().into_owned();
        if Namespace::new(name.as_str()).is_err() {
            continue;
        }
        for bundle in fs::read_dir(namespace.path()).into_iter().flatten().flatten() {
            let id = bundle.file_name().to_string_lossy().into_owned();
            if model::id::check(&id).is_err() {
                continue;
            }
            let Some(record) = container(&bundle.path(), now) else { continue };
            let namespace = name.clone();
            store.write(move |tx| {
                let labels = Labels::new();
                tx.put(&tables::NAMESPACES, &key(&[&namespace])?, &NamespaceRecord { labels, created_at: now })?;
                tx.put(&tables::CONTAINERS, &key(&[&namespace, &id])?, &record)
            })?;
            rebuilt.containers += 1;
        }
    }
    Ok(rebuilt)
}

/// The record of a container, as far as its bundle tells.
fn container(bundle: &Path, now: SystemTime) -> Option<ContainerRecord> {
    let spec = bundle.join("config.json");
    if fs::metadata(&spec).ok()?.len() > MAX_SPEC_BYTES {
        return None;
    }
    Some(ContainerRecord {
        labels: Labels::new(),
        image: String::new(),
        runtime: Runtime { name: "io.containerd.runc.v2".to_owned(), options: None },
        spec: Some(Any { type_url: SPEC.to_owned(), value: fs::read(&spec).ok()? }),
        snapshotter: String::new(),
        snapshot_key: String::new(),
        extensions: BTreeMap::new(),
        sandbox: String::new(),
        created_at: now,
        updated_at: now,
    })
}

#[cfg(test)]
mod tests {
    use model::Digest;
    use store::Read as _;
    use store::blob::IngestKey;

    use super::*;

    fn config(folder: &Path) -> Config {
        Config { root: folder.join("root"), state: folder.join("state"), ..Config::default() }
    }

    #[test]
    fn damaged_metadata_is_moved_aside_and_nothing_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        let meta = config.root.join("meta");
        let redb = Options { engine: store::Engine::Redb, ..Options::default() };
        drop(Store::open(&meta, redb).unwrap());
        let blobs = BlobStore::open(&crate::home::content(&config.root)).unwrap();
        let of = IngestKey { namespace: Namespace::new("a").unwrap(), reference: "r".into() };
        let mut ingest = blobs.ingest(&of, 0, None).unwrap();
        ingest.write(b"bytes").unwrap();
        ingest.commit(None, None).unwrap();
        let layer = config.root.join("snapshots/overlayfs/snapshots/1/fs");
        fs::create_dir_all(&layer).unwrap();
        let bundle = config.state.join("io.containerd.runtime.v2.task/ns/c");
        fs::create_dir_all(&bundle).unwrap();
        fs::write(bundle.join("config.json"), b"{}").unwrap();
        fs::write(meta.join("redb/meta.redb"), vec![7; 9000]).unwrap();

        let store = open(&meta, redb, &config).unwrap();
        let digest = Digest::sha256(b"bytes");
        let read = store.read();
        assert!(read.contains(&tables::CONTENT, &key(&[RECOVERED, digest.as_str()]).unwrap()).unwrap());
        assert!(read.contains(&tables::CONTAINERS, &key(&["ns", "c"]).unwrap()).unwrap());
        assert!(!layer.exists());
        let names = |folder: &Path| -> Vec<String> {
            let entries = fs::read_dir(folder).unwrap().flatten();
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        };
        assert!(names(&config.root).iter().any(|name| name.starts_with("meta.aside-")));
        assert!(names(&config.root.join("snapshots")).iter().any(|name| name.starts_with("overlayfs.aside-")));
    }

    #[test]
    fn metadata_of_the_other_engine_is_converted() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        let meta = config.root.join("meta");
        let with = |engine| Options { engine, ..Options::default() };
        let store = Store::open(&meta, with(store::Engine::Sled)).unwrap();
        let record = NamespaceRecord { labels: Labels::new(), created_at: SystemTime::now() };
        store.write(move |tx| tx.put(&tables::NAMESPACES, &key(&["n"])?, &record)).map_err(|e: StoreError| e).unwrap();
        drop(store);
        let store = open(&meta, with(store::Engine::Redb), &config).unwrap();
        assert!(store.read().contains(&tables::NAMESPACES, &key(&["n"]).unwrap()).unwrap());
    }
}
