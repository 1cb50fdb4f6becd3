//! What a crash leaves, made by hand, and what the next start makes of it.

use store::blob::IngestKey;
use store::record::SnapshotRecord;
use store::{Read, tables};

use super::*;
use crate::meta::snapshots::{CommitIntent, SnapshotName, SnapshotsError};

fn name(key: &str) -> SnapshotName {
    SnapshotName { namespace: DEFAULT.namespace(), snapshotter: NATIVE.into(), key: key.into() }
}

/// Leaves an intent as a crash in the middle of a commit does; the driver got as far as `driver_committed` says.
async fn crash_in_commit(driver_committed: bool) -> Rig {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    {
        let rig = Rig::without_collection(Arc::clone(&dir), Sharing::Shared);
        let prepare = proto::services::snapshots::v1::PrepareSnapshotRequest {
            snapshotter: NATIVE.into(),
            key: "active".into(),
            labels: labels(&[("containerd.io/gc.root", "1")]),
            ..Default::default()
        };
        rig.snapshots().prepare(DEFAULT.request(prepare)).await.unwrap();
        let key = name("active").record_key().unwrap();
        let record: SnapshotRecord = rig.meta.inner.store.read().get(&tables::SNAPSHOTS, &key).unwrap().unwrap();
        let intent = CommitIntent {
            name: "layer".into(),
            backend_key: "default/999/layer".into(),
            parent: None,
            labels: labels(&[("l", "1"), ("containerd.io/gc.root", "1")]),
        };
        if driver_committed {
            let driver = &rig.meta.inner.drivers[NATIVE];
            driver.commit(&intent.backend_key, &record.backend_key, &Labels::new(), None).unwrap();
        }
        rig.meta.inner.store.write(move |tx| tx.put(&crate::meta::snapshots::INTENTS, &key, &intent)).unwrap();
    }
    Rig::open(dir, Sharing::Shared)
}

#[tokio::test]
async fn a_commit_that_the_driver_made_is_finished() {
    let rig = crash_in_commit(true).await;
    // Until it is settled nobody can take it away.
    let scope = || api::Scope { namespace: DEFAULT.namespace(), lease: None };
    let removed = rig.meta.remove_snapshot(scope(), name("active"));
    assert!(matches!(removed, Err(SnapshotsError::Committing { .. })), "{removed:?}");
    rig.collect().await;
    let layer = rig.meta.snapshot(&name("layer")).unwrap();
    assert_eq!(
        (layer.kind, layer.labels),
        (model::snapshot::SnapshotKind::Committed, labels(&[("l", "1"), ("containerd.io/gc.root", "1")]))
    );
    assert!(rig.meta.snapshot(&name("active")).is_err());
    assert_eq!(rig.meta.inner.store.read().count(&crate::meta::snapshots::INTENTS, b"").unwrap(), 0);
}

#[tokio::test]
async fn a_commit_that_the_driver_did_not_make_is_forgotten() {
    let rig = crash_in_commit(false).await;
    rig.collect().await;
    assert!(rig.meta.snapshot(&name("layer")).is_err());
    assert_eq!(rig.meta.snapshot(&name("active")).unwrap().kind, model::snapshot::SnapshotKind::Active);
    rig.meta.remove_snapshot(api::Scope { namespace: DEFAULT.namespace(), lease: None }, name("active")).unwrap();
}

#[tokio::test]
async fn files_without_records_are_collected_at_the_start() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let digest = Digest::sha256(b"renamed, not recorded");
    {
        let rig = Rig::without_collection(Arc::clone(&dir), Sharing::Shared);
        let key = IngestKey { namespace: DEFAULT.namespace(), reference: "r".into() };
        let mut ingest = rig.meta.inner.blobs.ingest(&key, 0, None).unwrap();
        ingest.write(b"renamed, not recorded").unwrap();
        ingest.commit(None, None).unwrap();
        let key = IngestKey { namespace: DEFAULT.namespace(), reference: "begun, not recorded".into() };
        drop(rig.meta.inner.blobs.ingest(&key, 0, None).unwrap());
        let driver = &rig.meta.inner.drivers[NATIVE];
        driver.prepare("default/1/a", None, &Labels::new()).unwrap();
        driver.commit("default/2/b", "default/1/a", &Labels::new(), None).unwrap();
        driver.prepare("default/3/c", Some("default/2/b"), &Labels::new()).unwrap();
    }
    let rig = Rig::open(dir, Sharing::Shared);
    rig.collect().await;
    assert!(!rig.has_blob(&digest));
    assert_eq!(rig.meta.inner.blobs.ingests().unwrap().len(), 0);
    assert_eq!(rig.driver_snapshots(), 0);
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let digest = {
        let rig = Rig::without_collection(Arc::clone(&dir), Sharing::Shared);
        let half = WriteContentRequest {
            r#ref: "half".into(),
            action: WriteAction::Write.into(),
            data: b"half".as_slice().into(),
            ..Default::default()
        };
        rig.write(DEFAULT, vec![half]).await.1.unwrap();
        rig.put(DEFAULT, b"x", &[("containerd.io/gc.root", "1")]).await.unwrap()
    };
    let rig = Rig::open(dir, Sharing::Shared);
    rig.collect().await;
    assert!(rig.has_blob(&digest));
    let statuses = rig.meta.ingest_statuses(&DEFAULT.namespace(), &[]).unwrap();
    assert_eq!(
        statuses.iter().map(|status| (status.reference.as_str(), status.offset)).collect::<Vec<_>>(),
        [("half", 4)]
    );
    assert!(rig.dir.path().exists());
}
