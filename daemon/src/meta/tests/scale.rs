//! Many records: lists stream, marking is quick. The times are printed, and only what does not depend on the machine is asserted.

use std::time::Instant;

use futures_util::StreamExt as _;
use proto::services::content::v1::ListContentRequest;
use proto::services::snapshots::v1::ListSnapshotsRequest;
use store::record::{BackendSnapshotRecord, ContentRecord, NamespaceRecord, Present, SnapshotRecord};
use store::{StoreError, key, tables};

use super::*;

const BLOBS: u32 = 100_000;
const SNAPSHOTS: u32 = 10_000;

/// Fills the store with records alone; the files are not looked at here.
fn fill(store: &Store, blobs: u32, snapshots: u32) {
    let now = std::time::SystemTime::now();
    let write = |from: u32, to: u32, snapshots: bool| {
        let written: Result<(), StoreError> = store.write(move |tx| {
            tx.put(
                &tables::NAMESPACES,
                &key(&["default"])?,
                &NamespaceRecord { labels: Labels::new(), created_at: now },
            )?;
            for number in from..to {
                let labels = labels(&[("containerd.io/gc.root", "1")]);
                if snapshots {
                    let (name, backend_key) = (format!("layer-{number}"), format!("default/{number}/layer-{number}"));
                    let parent = (number % 10 > 0).then(|| format!("layer-{}", number - 1));
                    let record = SnapshotRecord {
                        backend_key: backend_key.clone(),
                        kind: model::snapshot::SnapshotKind::Committed,
                        parent: parent.clone(),
                        labels,
                        created_at: now,
                        updated_at: now,
                    };
                    tx.put(&tables::SNAPSHOTS, &key(&["default", NATIVE, &name])?, &record)?;
                    tx.put(&tables::SNAPSHOT_HOLDERS, &key(&[NATIVE, &backend_key, "default", &name])?, &Present)?;
                    if let Some(parent) = &parent {
                        tx.put(&tables::SNAPSHOT_CHILDREN, &key(&["default", NATIVE, parent, &name])?, &Present)?;
                    }
                    let backend = BackendSnapshotRecord {
                        id: number.into(),
                        kind: record.kind,
                        parent: None,
                        labels: Labels::new(),
                        usage: None,
                        created_at: now,
                        updated_at: now,
                    };
                    tx.put(&tables::BACKEND_SNAPSHOTS, &key(&[NATIVE, &backend_key])?, &backend)?;
                } else {
                    let digest = Digest::sha256(&number.to_be_bytes()).to_string();
                    let record = ContentRecord { size: 1, labels, created_at: now, updated_at: now };
                    tx.put(&tables::CONTENT, &key(&["default", &digest])?, &record)?;
                    tx.put(&tables::BLOB_HOLDERS, &key(&[&digest, "default"])?, &Present)?;
                }
            }
            Ok(())
        });
        written.unwrap();
    };
    for from in (0..blobs).step_by(1000) {
        write(from, (from + 1000).min(blobs), false);
    }
    for from in (0..snapshots).step_by(1000) {
        write(from, (from + 1000).min(snapshots), true);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_records_are_opened_listed_and_marked() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    fill(&Store::open(&dir.path().join("meta"), store::Options::default()).unwrap(), BLOBS, SNAPSHOTS);
    let began = Instant::now();
    let rig = Rig::without_collection(Arc::clone(&dir), Sharing::Shared);
    println!("opened in {:?}", began.elapsed());

    let began = Instant::now();
    let list = rig.content().list(DEFAULT.request(ListContentRequest::default())).await;
    let mut list = list.unwrap().into_inner();
    let (mut count, mut largest, mut first) = (0, 0, None);
    while let Some(message) = list.next().await {
        let message = message.unwrap();
        first.get_or_insert_with(|| began.elapsed());
        largest = largest.max(message.info.len());
        count += message.info.len();
    }
    println!("first of {count} blobs listed after {first:?}, the last after {:?}", began.elapsed());
    assert_eq!(count, BLOBS as usize);
    assert!(largest <= 100, "a list comes in pieces, not as one of {largest}");

    let began = Instant::now();
    let request = ListSnapshotsRequest { snapshotter: NATIVE.into(), filters: Vec::new() };
    let mut list = rig.snapshots().list(DEFAULT.request(request)).await.unwrap().into_inner();
    let (mut count, mut largest) = (0, 0);
    while let Some(message) = list.next().await {
        let message = message.unwrap();
        largest = largest.max(message.info.len());
        count += message.info.len();
    }
    println!("{count} snapshots listed after {:?}", began.elapsed());
    assert_eq!(count, SNAPSHOTS as usize);
    assert!(largest <= 100, "a list comes in pieces, not as one of {largest}");

    let began = Instant::now();
    let meta = rig.meta.clone();
    let report = crate::blocking::run(move || {
        crate::gc::sweep::collect(&meta, crate::gc::schedule::Loose::default(), crate::gc::sweep::Found::Told)
    })
    .await;
    println!("marked in {:?}", began.elapsed());
    assert_eq!(report.unwrap().removed, 0, "all of them are roots");
}
