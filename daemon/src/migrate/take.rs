//! Taking over, step by step.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use model::snapshot::{SnapshotKind, Usage};
use model::{Digest, Namespace};
use store::blob::BlobStore;
use store::record::{
    BackendSnapshotRecord, ContainerRecord, ContentRecord, ImageRecord, LeaseRecord, LeaseResourceRecord,
    NamespaceRecord, Present, SnapshotRecord,
};
use store::{Read, Store, StoreError, key, tables};

use super::MigrateError;
use super::files::{self, Way};
use super::note::{Brought, Note, like};
use super::source::{Backend, NamespaceOf, SnapshotOf, Source};

/// What there is to take over, or what was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Namespaces.
    pub namespaces: usize,
    /// Images.
    pub images: usize,
    /// Blobs, each once.
    pub blobs: usize,
    /// Bytes of them.
    pub bytes: u64,
    /// Snapshots.
    pub snapshots: usize,
    /// Containers.
    pub containers: usize,
    /// Leases.
    pub leases: usize,
    /// What was or would be left out, and why; one sentence each.
    pub left_out: Vec<String>,
    /// How files came.
    pub shared: usize,
    /// See `shared`.
    pub linked: usize,
    /// See `shared`.
    pub copied: usize,
}

/// Takes over the containerd whose root is `from` into the root folder `root` with its open store; with `dry_run` it only says
/// what it would do.
///
/// # Errors
/// The source is in use or cannot be read; a file or a record cannot be written. What was brought until then is in the note.
pub fn migrate(from: &Path, root: &Path, store: &Store, dry_run: bool) -> Result<Plan, MigrateError> {
    let source = Source::read(from)?;
    let mut plan = Plan::default();
    if dry_run {
        look(from, &source, &mut plan);
        return Ok(plan);
    }
    let note = Note::open(root)?;
    let mut taking = Taking { from, root, store, note, plan, keys: BTreeMap::new(), blobs: BTreeSet::new() };
    taking.blobs(&source)?;
    for (driver, snapshots) in &source.drivers {
        taking.driver(driver, snapshots)?;
    }
    taking.note.sync()?;
    for namespace in &source.namespaces {
        taking.namespace(namespace, &source)?;
    }
    taking.note.sync()?;
    Ok(taking.plan)
}

/// Counts.
fn look(from: &Path, source: &Source, plan: &mut Plan) {
    let mut blobs = BTreeMap::new();
    plan.namespaces = source.namespaces.len();
    for namespace in &source.namespaces {
        plan.images += namespace.images.len();
        plan.containers += namespace.containers.len();
        plan.leases += namespace.leases.len();
        for (digest, content) in &namespace.content {
            if !blob_path(from, digest).exists() {
                plan.left_out.push(format!("Content {digest} has no file."));
            }
            blobs.insert(digest.clone(), content.size);
        }
        for snapshot in &namespace.snapshots {
            match backend(source, snapshot) {
                Some(_) => plan.snapshots += 1,
                None => plan.left_out.push(unknown(namespace, snapshot)),
            }
        }
        plan.left_out.extend(namespace.left_out.iter().map(|kind| not_known(namespace, kind)));
    }
    plan.blobs = blobs.len();
    plan.bytes = blobs.values().sum();
}

fn not_known(namespace: &NamespaceOf, kind: &str) -> String {
    format!("Entries of kind {kind} in namespace {} are not taken over.", namespace.name)
}

fn unknown(namespace: &NamespaceOf, snapshot: &SnapshotOf) -> String {
    format!(
        "Snapshot {} in namespace {} is of the snapshotter {}, whose folders cannot be taken over, or its record is missing there.",
        snapshot.name, namespace.name, snapshot.snapshotter
    )
}

fn backend<'s>(source: &'s Source, snapshot: &SnapshotOf) -> Option<&'s Backend> {
    source.drivers.get(&snapshot.snapshotter)?.get(&snapshot.backend_key)
}

fn blob_path(root: &Path, digest: &Digest) -> std::path::PathBuf {
    let blobs = root.join("io.containerd.content.v1.content/blobs");
    blobs.join(digest.algorithm().name()).join(digest.hex())
}

struct Taking<'a> {
    from: &'a Path,
    root: &'a Path,
    store: &'a Store,
    note: Note,
    plan: Plan,
    /// Our keys of the drivers' snapshots, by driver and by the key they had.
    keys: BTreeMap<(String, String), String>,
    /// Blobs that are here.
    blobs: BTreeSet<Digest>,
}

impl Taking<'_> {
    /// Files of blobs.
    fn blobs(&mut self, source: &Source) -> Result<(), MigrateError> {
        let content = crate::home::content(self.root);
        let blobs = BlobStore::open(&content)
            .map_err(|error| MigrateError::io("open", &content)(std::io::Error::other(error)))?;
        let wanted: BTreeSet<_> =
            source.namespaces.iter().flat_map(|namespace| namespace.content.iter().map(|(digest, _)| digest)).collect();
        for digest in wanted {
            let to = blobs.path(digest);
            if to.exists() {
                self.blobs.insert(digest.clone());
                continue;
            }
            self.note.add(&Brought::Blob { digest: digest.to_string() })?;
            match files::blob(&blob_path(self.from, digest), &to, digest) {
                Ok(Some(way)) => {
                    self.plan.blobs += 1;
                    self.plan.bytes += fs::metadata(&to).map_or(0, |metadata| metadata.len());
                    self.came(way);
                    self.blobs.insert(digest.clone());
                }
                Ok(None) => {
                    self.plan.left_out.push(format!("The bytes of content {digest} are not what its name says."))
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    self.plan.left_out.push(format!("Content {digest} has no file."));
                }
                Err(error) => return Err(MigrateError::io("take over", to)(error)),
            }
        }
        sync_folder(&content.join("blobs/sha256"))
    }

    fn came(&mut self, way: Way) {
        match way {
            Way::Shared => self.plan.shared += 1,
            Way::Linked => self.plan.linked += 1,
            Way::Copied => self.plan.copied += 1,
        }
    }

    /// Folders and records of a driver, parents first.
    fn driver(&mut self, driver: &str, snapshots: &BTreeMap<String, Backend>) -> Result<(), MigrateError> {
        let top = self.root.join("snapshots").join(driver).join("snapshots");
        DirBuilder::new().recursive(true).mode(0o700).create(&top).map_err(MigrateError::io("make", &top))?;
        let mut open: Vec<&String> = snapshots.keys().collect();
        while !open.is_empty() {
            let before = open.len();
            let mut later = Vec::new();
            for key in open {
                let backend = &snapshots[key];
                let parent = backend.parent.as_ref();
                let parent_key = parent.and_then(|parent| self.keys.get(&(driver.to_owned(), parent.clone())).cloned());
                if parent.is_some() && parent_key.is_none() {
                    later.push(key);
                    continue;
                }
                self.backend(driver, key, backend, parent_key, &top)?;
            }
            if later.len() == before {
                let why =
                    later.into_iter().map(|key| format!("Snapshot {key} of {driver} stands on one that is missing."));
                self.plan.left_out.extend(why);
                break;
            }
            open = later;
        }
        sync_folder(&top)
    }

    fn backend(
        &mut self,
        driver: &str,
        old_key: &str,
        backend: &Backend,
        parent: Option<String>,
        top: &Path,
    ) -> Result<(), MigrateError> {
        let counter = format!("snapshots/{driver}");
        let number = self.store.write(move |tx| tx.next_id(&counter)).map_err(|error: StoreError| error)?;
        let block = self.store.write(|tx| tx.next_id("snapshot-key-blocks")).map_err(|error: StoreError| error)?;
        // A key of ours, with a number that nobody else is given.
        let mut parts = old_key.splitn(3, '/');
        let namespace = parts.next().unwrap_or_default();
        let name = parts.nth(1).unwrap_or(old_key);
        let own = format!("{namespace}/{}/{name}", (block - 1) * 1024 + 1);
        let folder = top.join(number.to_string());
        self.note.add(&Brought::Backend {
            driver: driver.to_owned(),
            key: own.clone(),
            parent: parent.clone(),
            folder: folder.clone(),
        })?;
        let made = DirBuilder::new().mode(0o700).create(&folder);
        made.and_then(|()| self.tree(driver, backend, &folder))
            .map_err(MigrateError::io("take over", &backend.folder))?;
        let usage = (backend.kind == SnapshotKind::Committed)
            .then_some(Usage { size_bytes: backend.size, inodes: backend.inodes });
        let record = BackendSnapshotRecord {
            id: number,
            kind: backend.kind,
            parent: parent.clone(),
            labels: backend.labels.clone(),
            usage,
            created_at: backend.created_at,
            updated_at: backend.updated_at,
        };
        let (driver, new) = (driver.to_owned(), own.clone());
        self.keys.insert((driver.clone(), old_key.to_owned()), own);
        // The folder is on disk before its record is.
        fs::File::open(&folder)
            .and_then(|folder| Ok(rustix::fs::syncfs(folder)?))
            .map_err(MigrateError::io("sync", &folder))?;
        self.store.write(move |tx| {
            tx.put(&tables::BACKEND_SNAPSHOTS, &key(&[&driver, &new])?, &record)?;
            if let Some(parent) = &parent {
                tx.put(&tables::BACKEND_CHILDREN, &key(&[&driver, parent, &new])?, &Present)?;
            }
            Ok::<_, StoreError>(())
        })?;
        Ok(())
    }

    /// The files of a snapshot.
    fn tree(&mut self, driver: &str, backend: &Backend, folder: &Path) -> std::io::Result<()> {
        let pairs = if driver == "native" {
            vec![(backend.folder.clone(), folder.to_owned())]
        } else {
            vec![(backend.folder.join("fs"), folder.join("fs"))]
        };
        for (from, to) in pairs {
            if !from.exists() {
                continue;
            }
            if to != folder {
                fs::create_dir(&to)?;
            }
            // Who writes to a file must not write to the source's: only what is never changed again is linked.
            let is_final = backend.kind == SnapshotKind::Committed && driver != "native";
            if is_final && files::link_tree(&from, &to).is_ok() {
                self.came(Way::Linked);
                continue;
            }
            if is_final {
                // Begun, perhaps, and not possible on this file system.
                fs::remove_dir_all(&to)?;
                fs::create_dir(&to)?;
            }
            files::copy_tree(&from, &to)?;
            self.came(Way::Copied);
        }
        if backend.kind == SnapshotKind::Active && driver != "native" {
            DirBuilder::new().mode(0o711).create(folder.join("work"))?;
        }
        Ok(())
    }

    /// The records of a namespace.
    fn namespace(&mut self, of: &NamespaceOf, source: &Source) -> Result<(), MigrateError> {
        if Namespace::new(of.name.as_str()).is_err() {
            self.plan.left_out.push(format!("Namespace {:?} has a name that none can have.", of.name));
            return Ok(());
        }
        self.plan.namespaces += 1;
        self.plan.left_out.extend(of.left_out.iter().map(|kind| not_known(of, kind)));
        let (name, labels) = (of.name.clone(), of.labels.clone());
        self.store.write(move |tx| {
            let at = key(&[&name])?;
            if !tx.contains(&tables::NAMESPACES, &at)? {
                let created_at = std::time::SystemTime::now();
                tx.put(&tables::NAMESPACES, &at, &NamespaceRecord { labels, created_at })?;
            }
            Ok::<_, StoreError>(())
        })?;
        self.content(of)?;
        self.snapshots(of, source)?;
        self.leases(of)?;
        self.containers(of)?;
        self.images(of)
    }

    fn content(&mut self, of: &NamespaceOf) -> Result<(), MigrateError> {
        for (digest, content) in of.content.iter().filter(|(digest, _)| self.blobs.contains(digest)) {
            let record = ContentRecord {
                size: content.size,
                labels: content.labels.clone(),
                created_at: content.times.created_at,
                updated_at: content.times.updated_at,
            };
            let (namespace, digest) = (of.name.clone(), digest.to_string());
            let like = like(&record);
            self.note.add(&Brought::Content { namespace: namespace.clone(), digest: digest.clone(), like })?;
            self.store.write(move |tx| {
                let at = key(&[&namespace, &digest])?;
                if !tx.contains(&tables::CONTENT, &at)? {
                    tx.put(&tables::CONTENT, &at, &record)?;
                    tx.put(&tables::BLOB_HOLDERS, &key(&[&digest, &namespace])?, &Present)?;
                }
                Ok::<_, StoreError>(())
            })?;
        }
        Ok(())
    }

    fn snapshots(&mut self, of: &NamespaceOf, source: &Source) -> Result<(), MigrateError> {
        // Parents first, so that taking back meets children first.
        let mut ordered: Vec<&SnapshotOf> = of.snapshots.iter().collect();
        let depth = |snapshot: &SnapshotOf| {
            let (mut depth, mut at) = (0, snapshot.parent.as_ref());
            while let Some(parent) = at.filter(|_| depth <= of.snapshots.len()) {
                depth += 1;
                let above =
                    of.snapshots.iter().find(|one| one.name == *parent && one.snapshotter == snapshot.snapshotter);
                at = above.and_then(|above| above.parent.as_ref());
            }
            depth
        };
        ordered.sort_by_key(|snapshot| depth(snapshot));
        for snapshot in ordered {
            let at = (snapshot.snapshotter.clone(), snapshot.backend_key.clone());
            let (Some(backend), Some(backend_key)) = (backend(source, snapshot), self.keys.get(&at).cloned()) else {
                self.plan.left_out.push(unknown(of, snapshot));
                continue;
            };
            let record = SnapshotRecord {
                backend_key: backend_key.clone(),
                kind: backend.kind,
                parent: snapshot.parent.clone(),
                labels: snapshot.labels.clone(),
                created_at: snapshot.times.created_at,
                updated_at: snapshot.times.updated_at,
            };
            let (namespace, snapshotter, name) = (of.name.clone(), snapshot.snapshotter.clone(), snapshot.name.clone());
            self.note.add(&Brought::Snapshot {
                namespace: namespace.clone(),
                snapshotter: snapshotter.clone(),
                name: name.clone(),
                backend_key: backend_key.clone(),
                parent: record.parent.clone(),
                like: like(&record),
            })?;
            let brought = self.store.write(move |tx| {
                let at = key(&[&namespace, &snapshotter, &name])?;
                if tx.contains(&tables::SNAPSHOTS, &at)? {
                    return Ok::<_, StoreError>(false);
                }
                tx.put(&tables::SNAPSHOTS, &at, &record)?;
                tx.put(&tables::SNAPSHOT_HOLDERS, &key(&[&snapshotter, &backend_key, &namespace, &name])?, &Present)?;
                if let Some(parent) = &record.parent {
                    tx.put(&tables::SNAPSHOT_CHILDREN, &key(&[&namespace, &snapshotter, parent, &name])?, &Present)?;
                }
                Ok(true)
            })?;
            self.plan.snapshots += usize::from(brought);
            if !brought {
                self.there(of, "snapshot", &snapshot.name);
            }
        }
        Ok(())
    }

    fn leases(&mut self, of: &NamespaceOf) -> Result<(), MigrateError> {
        for (id, lease) in &of.leases {
            let record = LeaseRecord { labels: lease.labels.clone(), created_at: lease.created_at };
            let (namespace, name, resources) = (of.name.clone(), id.clone(), lease.resources.clone());
            if self.store.read().contains(&tables::LEASES, &key(&[&namespace, &name])?)? {
                self.there(of, "lease", id);
                continue;
            }
            self.note.add(&Brought::Lease { namespace: namespace.clone(), id: name.clone() })?;
            self.store.write(move |tx| {
                tx.put(&tables::LEASES, &key(&[&namespace, &name])?, &record)?;
                for (kind, of) in resources {
                    let added = LeaseResourceRecord { added_at: record.created_at };
                    tx.put(&tables::LEASE_RESOURCES, &key(&[&namespace, &name, &kind, &of])?, &added)?;
                }
                Ok::<_, StoreError>(())
            })?;
            self.plan.leases += 1;
        }
        Ok(())
    }

    fn containers(&mut self, of: &NamespaceOf) -> Result<(), MigrateError> {
        for (id, container) in &of.containers {
            let record = ContainerRecord {
                labels: container.labels.clone(),
                image: container.image.clone(),
                runtime: container.runtime.clone(),
                spec: container.spec.clone(),
                snapshotter: container.snapshotter.clone(),
                snapshot_key: container.snapshot_key.clone(),
                extensions: container.extensions.clone(),
                sandbox: container.sandbox.clone(),
                created_at: container.times.created_at,
                updated_at: container.times.updated_at,
            };
            let at = key(&[&of.name, id])?;
            if self.store.read().contains(&tables::CONTAINERS, &at)? {
                self.there(of, "container", id);
                continue;
            }
            let like = like(&record);
            self.note.add(&Brought::Container { namespace: of.name.clone(), id: id.clone(), like })?;
            self.store.write(move |tx| tx.put(&tables::CONTAINERS, &at, &record)).map_err(|error: StoreError| error)?;
            self.plan.containers += 1;
        }
        Ok(())
    }

    fn images(&mut self, of: &NamespaceOf) -> Result<(), MigrateError> {
        for (name, image) in &of.images {
            let record = ImageRecord {
                labels: image.labels.clone(),
                target: image.target.clone(),
                created_at: image.times.created_at,
                updated_at: image.times.updated_at,
            };
            let at = key(&[&of.name, name])?;
            if self.store.read().contains(&tables::IMAGES, &at)? {
                self.there(of, "image", name);
                continue;
            }
            let like = like(&record);
            self.note.add(&Brought::Image { namespace: of.name.clone(), name: name.clone(), like })?;
            self.store.write(move |tx| tx.put(&tables::IMAGES, &at, &record)).map_err(|error: StoreError| error)?;
            self.plan.images += 1;
        }
        Ok(())
    }

    fn there(&mut self, of: &NamespaceOf, kind: &str, name: &str) {
        self.plan
            .left_out
            .push(format!("There is a {kind} {name} in namespace {} already; it stays as it is.", of.name));
    }
}

fn sync_folder(path: &Path) -> Result<(), MigrateError> {
    fs::File::open(path).and_then(|folder| folder.sync_all()).map_err(MigrateError::io("sync", path))
}
