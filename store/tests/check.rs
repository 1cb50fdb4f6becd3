//! The check says nothing of a store that is as it should be, and names each thing that is not.
#![expect(clippy::unwrap_used, reason = "a test ends where it is surprised")]

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use model::snapshot::SnapshotKind;
use model::{Digest, Namespace};
use store::blob::{BlobStore, IngestKey};
use store::check::{Finding, check};
use store::record::{
    BackendSnapshotRecord, ContentRecord, LeaseRecord, LeaseResourceRecord, NamespaceRecord, Present, SnapshotRecord,
};
use store::{Options, Record, Store, StoreError, Table, Tx, key, tables};

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

struct Sound {
    store: Store,
    blobs: BlobStore,
    digest: Digest,
}

fn snapshot(backend_key: &str, parent: Option<&str>) -> SnapshotRecord {
    SnapshotRecord {
        backend_key: backend_key.to_owned(),
        kind: SnapshotKind::Committed,
        parent: parent.map(str::to_owned),
        labels: Default::default(),
        created_at: NOW,
        updated_at: NOW,
    }
}

fn backend(id: u64, parent: Option<&str>) -> BackendSnapshotRecord {
    BackendSnapshotRecord {
        id,
        kind: SnapshotKind::Committed,
        parent: parent.map(str::to_owned),
        labels: Default::default(),
        usage: None,
        created_at: NOW,
        updated_at: NOW,
    }
}

/// One of everything, as it should be.
fn sound(dir: &Path) -> Sound {
    let store = Store::open(&dir.join("meta"), Options::default()).unwrap();
    let blobs = BlobStore::open(&dir.join("content")).unwrap();
    let key_of = IngestKey { namespace: Namespace::new("ns").unwrap(), reference: "r".to_owned() };
    let mut ingest = blobs.ingest(&key_of, 0, None).unwrap();
    ingest.write(b"content").unwrap();
    let digest = ingest.commit(None, None).unwrap().digest;
    let name = digest.to_string();
    store
        .write(move |tx| {
            let labels = Default::default;
            tx.put(&tables::NAMESPACES, &key(&["ns"])?, &NamespaceRecord { labels: labels(), created_at: NOW })?;
            let content = ContentRecord { size: 7, labels: labels(), created_at: NOW, updated_at: NOW };
            tx.put(&tables::CONTENT, &key(&["ns", &name])?, &content)?;
            tx.put(&tables::BLOB_HOLDERS, &key(&[&name, "ns"])?, &Present)?;
            for (own, parent) in [("base", None), ("top", Some("base"))] {
                tx.put(&tables::SNAPSHOTS, &key(&["ns", "overlayfs", own])?, &snapshot(own, parent))?;
                tx.put(&tables::SNAPSHOT_HOLDERS, &key(&["overlayfs", own, "ns", own])?, &Present)?;
                let id = tx.next_id("overlayfs")?;
                tx.put(&tables::BACKEND_SNAPSHOTS, &key(&["overlayfs", own])?, &backend(id, parent))?;
            }
            tx.put(&tables::SNAPSHOT_CHILDREN, &key(&["ns", "overlayfs", "base", "top"])?, &Present)?;
            tx.put(&tables::BACKEND_CHILDREN, &key(&["overlayfs", "base", "top"])?, &Present)?;
            tx.put(&tables::LEASES, &key(&["ns", "l"])?, &LeaseRecord { labels: labels(), created_at: NOW })?;
            let resource = key(&["ns", "l", "snapshots/overlayfs", "not there, and need not be"])?;
            tx.put(&tables::LEASE_RESOURCES, &resource, &LeaseResourceRecord { added_at: NOW })
        })
        .unwrap();
    Sound { store, blobs, digest }
}

/// What is found after `harm` was done to a sound store.
#[track_caller]
fn found_after(harm: impl FnOnce(&mut Tx<'_>) -> Result<(), StoreError> + Send + 'static) -> Vec<Finding> {
    let dir = tempfile::tempdir().unwrap();
    let sound = sound(dir.path());
    sound.store.write(harm).unwrap();
    check(&sound.store.read(), &sound.blobs).unwrap()
}

#[test]
fn a_sound_store_has_no_findings() {
    assert_eq!(found_after(|_| Ok(())), []);
}

#[test]
fn files_without_records_and_records_without_files_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let Sound { store, blobs, digest } = sound(dir.path());
    let stray = dir.path().join("content/blobs/sha256/stray");
    fs::write(&stray, "x").unwrap();
    let other = Digest::sha256(b"other");
    fs::write(blobs.path(&other), "other").unwrap();
    let found = check(&store.read(), &blobs).unwrap();
    assert_eq!(
        found,
        [Finding::UnownedBlob { digest: other.clone(), size: 5 }, Finding::Stray { path: stray.clone() }]
    );
    assert!(found.iter().all(|finding| !finding.is_damage()));

    fs::remove_file(stray).unwrap();
    blobs.delete(&other).unwrap();
    blobs.delete(&digest).unwrap();
    let found = check(&store.read(), &blobs).unwrap();
    let missing =
        |found| Finding::MissingBlob { namespace: "ns".into(), digest: digest.to_string(), recorded: 7, found };
    assert_eq!(found, [missing(None)]);
    fs::write(blobs.path(&digest), "short").unwrap();
    let found = check(&store.read(), &blobs).unwrap();
    assert_eq!(found, [missing(Some(5))]);
    assert!(found[0].is_damage() && found[0].to_string().contains("has 5 bytes, not 7"), "{}", found[0]);
}

#[test]
fn broken_references_are_found() {
    let dangling = |table, key: &str, names: &str| Finding::Dangling { table, key: key.into(), names: names.into() };
    let index = |table, key: &str| Finding::Index { table, key: key.into() };
    let found = found_after(|tx| tx.delete(&tables::LEASES, &key(&["ns", "l"])?));
    let resource = "ns|l|snapshots/overlayfs|not there, and need not be";
    assert_eq!(found, [dangling("lease-resources", resource, "lease l")]);

    let found = found_after(|tx| tx.delete(&tables::SNAPSHOTS, &key(&["ns", "overlayfs", "base"])?));
    assert_eq!(
        found,
        [dangling("snapshots", "ns|overlayfs|top", "parent base"), index("snapshot-holders", "overlayfs|base|ns|base")]
    );

    let found = found_after(|tx| tx.delete(&tables::BACKEND_CHILDREN, &key(&["overlayfs", "base", "top"])?));
    assert_eq!(found, [index("backend-snapshots", "overlayfs|top")]);

    let found = found_after(|tx| tx.put(&tables::BACKEND_SNAPSHOTS, &key(&["overlayfs", "twin"])?, &backend(1, None)));
    assert_eq!(found, [dangling("backend-snapshots", "overlayfs|twin", "folder 1, which another has")]);

    let found = found_after(|tx| tx.put(&tables::BLOB_HOLDERS, &key(&["sha256:x", "ns"])?, &Present));
    assert_eq!(found, [index("blob-holders", "sha256:x|ns")]);

    let found = found_after(|tx| tx.delete(&tables::NAMESPACES, &key(&["ns"])?));
    assert_eq!(found.len(), 5, "{found:?}");
}

#[test]
fn a_record_that_cannot_be_read_is_found_and_the_rest_is_checked() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Other(u8);
    impl Record for Other {
        const VERSION: u8 = 1;
    }
    const DAMAGED: Table<Other> = Table::new("images");
    let found = found_after(|tx| {
        tx.put(&DAMAGED, &key(&["ns", "a"])?, &Other(200))?;
        tx.delete(&tables::BACKEND_CHILDREN, &key(&["overlayfs", "base", "top"])?)
    });
    assert!(matches!(&found[..], [Finding::Unreadable { .. }, Finding::Index { .. }]), "{found:?}");
}
