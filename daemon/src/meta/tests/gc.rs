use proto::services::content::v1::DeleteContentRequest;
use proto::services::images::v1::{CreateImageRequest, DeleteImageRequest, Image};
use proto::services::leases::v1::{AddResourceRequest, CreateRequest, DeleteRequest, Resource};
use proto::services::snapshots::v1::{CommitSnapshotRequest, PrepareSnapshotRequest};
use proto::types::Descriptor;
use store::record::{ContainerRecord, IngestRecord};
use store::{Read, tables};

use super::*;

const PAST: &str = "2020-01-01T00:00:00Z";

impl Rig {
    async fn image(&self, name: &str, target: &Digest, pairs: &[(&str, &str)]) {
        let target = Descriptor { media_type: "m".into(), digest: target.to_string(), size: 1, ..Default::default() };
        let image = Image { name: name.into(), labels: labels(pairs), target: Some(target), ..Default::default() };
        let create = CreateImageRequest { image: Some(image), source_date_epoch: None };
        self.images().create(DEFAULT.request(create)).await.unwrap();
    }

    async fn delete_image(&self, name: &str) {
        let delete = DeleteImageRequest { name: name.into(), sync: true, target: None };
        self.images().delete(DEFAULT.request(delete)).await.unwrap();
    }

    async fn lease(&self, id: &str, pairs: &[(&str, &str)]) {
        self.leases().create(DEFAULT.request(CreateRequest { id: id.into(), labels: labels(pairs) })).await.unwrap();
    }

    async fn layer(&self, name: &str, parent: &str, pairs: &[(&str, &str)]) {
        let prepare = PrepareSnapshotRequest {
            snapshotter: NATIVE.into(),
            key: format!("{name}-active"),
            parent: parent.into(),
            labels: Labels::new(),
        };
        self.snapshots().prepare(DEFAULT.request(prepare)).await.unwrap();
        let commit = CommitSnapshotRequest {
            snapshotter: NATIVE.into(),
            name: name.into(),
            key: format!("{name}-active"),
            labels: labels(pairs),
            parent: String::new(),
        };
        self.snapshots().commit(DEFAULT.request(commit)).await.unwrap();
    }

    fn sees(&self, call: Call<'_>, digest: &Digest) -> bool {
        self.meta.content(&call.namespace(), digest.clone()).is_ok()
    }

    fn sees_snapshot(&self, key: &str) -> bool {
        let name = crate::meta::snapshots::SnapshotName {
            namespace: DEFAULT.namespace(),
            snapshotter: NATIVE.into(),
            key: key.into(),
        };
        self.meta.snapshot(&name).is_ok()
    }
}

#[tokio::test]
async fn an_image_holds_its_tree_until_it_is_deleted() {
    let rig = Rig::new();
    let layer = rig.put(DEFAULT, b"layer", &[]).await.unwrap();
    let config = rig.put(DEFAULT, b"config", &[("containerd.io/gc.ref.snapshot.native", "top")]).await.unwrap();
    let refs = [
        ("containerd.io/gc.ref.content.config", config.as_str()),
        ("containerd.io/gc.ref.content.l.0", layer.as_str()),
    ];
    let manifest = rig.put(DEFAULT, b"manifest", &refs).await.unwrap();
    let loose = rig.put(DEFAULT, b"loose", &[]).await.unwrap();
    rig.layer("base", "", &[]).await;
    rig.layer("top", "base", &[]).await;
    rig.layer("lost", "base", &[]).await;
    rig.image("i", &manifest, &[]).await;
    rig.collect().await;
    assert!(rig.sees(DEFAULT, &layer) && rig.sees(DEFAULT, &config) && rig.sees(DEFAULT, &manifest));
    assert!(!rig.sees(DEFAULT, &loose) && !rig.has_blob(&loose));
    assert!(rig.sees_snapshot("top") && rig.sees_snapshot("base") && !rig.sees_snapshot("lost"));
    let mut heard = rig.listen();
    rig.delete_image("i").await;
    // The answer to a sync delete comes when all is gone.
    for digest in [&layer, &config, &manifest] {
        assert!(!rig.sees(DEFAULT, digest) && !rig.has_blob(digest));
    }
    assert_eq!(rig.driver_snapshots(), 0);
    let mut topics = topics(&mut heard).await;
    assert_eq!(topics.remove(0), "/images/delete");
    topics.sort();
    // Of collected content nothing is said.
    assert_eq!(topics, ["/snapshot/remove"; 2]);
}

#[tokio::test]
async fn a_blob_goes_when_no_namespace_sees_it() {
    let rig = Rig::new();
    let root = [("containerd.io/gc.root", "1")];
    let digest = rig.put(DEFAULT, b"x", &root).await.unwrap();
    rig.put(OTHER, b"x", &root).await.unwrap();
    let delete = |call: Call<'_>| call.request(DeleteContentRequest { digest: digest.to_string() });
    rig.content().delete(delete(DEFAULT)).await.unwrap();
    rig.collect().await;
    assert!(rig.sees(OTHER, &digest) && rig.has_blob(&digest));
    rig.content().delete(delete(OTHER)).await.unwrap();
    rig.collect().await;
    assert!(!rig.has_blob(&digest));
}

#[tokio::test]
async fn leases_hold_until_they_expire_or_go() {
    let rig = Rig::new();
    rig.lease("whole", &[]).await;
    rig.lease("flat", &[("containerd.io/gc.flat", "true")]).await;
    rig.lease("expired", &[("containerd.io/gc.expire", PAST)]).await;
    let deep = rig.put(DEFAULT, b"deep", &[]).await.unwrap();
    let refs = [("containerd.io/gc.ref.content.0", deep.as_str())];
    let top = rig.put(Call::with_lease("expired"), b"top", &refs).await.unwrap();
    let add = |id: &str| AddResourceRequest {
        id: id.into(),
        resource: Some(Resource { id: top.to_string(), r#type: "content".into() }),
    };
    rig.leases().add_resource(DEFAULT.request(add("whole"))).await.unwrap();
    rig.leases().add_resource(DEFAULT.request(add("flat"))).await.unwrap();
    rig.collect().await;
    assert!(rig.sees(DEFAULT, &top) && rig.sees(DEFAULT, &deep));
    assert!(rig.meta.lease_resources(&DEFAULT.namespace(), "expired").is_err(), "an expired lease is removed");
    let delete = |id: &str| DEFAULT.request(DeleteRequest { id: id.into(), sync: true });
    rig.leases().delete(delete("whole")).await.unwrap();
    assert!(rig.sees(DEFAULT, &top) && !rig.sees(DEFAULT, &deep));
    rig.leases().delete(delete("flat")).await.unwrap();
    assert!(!rig.sees(DEFAULT, &top));
}

#[tokio::test]
async fn containers_hold_their_snapshot() {
    let rig = Rig::new();
    rig.layer("base", "", &[]).await;
    let record = ContainerRecord {
        labels: Labels::new(),
        image: String::new(),
        runtime: store::record::Runtime { name: "r".into(), options: None },
        spec: None,
        snapshotter: NATIVE.into(),
        snapshot_key: "base".into(),
        extensions: Default::default(),
        sandbox: String::new(),
        created_at: std::time::SystemTime::now(),
        updated_at: std::time::SystemTime::now(),
    };
    let key = store::key(&["default", "c"]).unwrap();
    let put = key.clone();
    rig.meta.inner.store.write(move |tx| tx.put(&tables::CONTAINERS, &put, &record)).unwrap();
    rig.collect().await;
    assert!(rig.sees_snapshot("base"));
    rig.meta.inner.store.write(move |tx| tx.delete(&tables::CONTAINERS, &key)).unwrap();
    rig.collect().await;
    assert_eq!(rig.driver_snapshots(), 0);
}

#[tokio::test]
async fn an_image_that_expires_is_collected_unless_leased() {
    let rig = Rig::new();
    let digest = rig.put(DEFAULT, b"x", &[]).await.unwrap();
    rig.lease("l", &[]).await;
    let target = Descriptor { media_type: "m".into(), digest: digest.to_string(), size: 1, ..Default::default() };
    let expiring = labels(&[("containerd.io/gc.expire", PAST)]);
    let image = Image { name: "i".into(), labels: expiring, target: Some(target), ..Default::default() };
    let create = CreateImageRequest { image: Some(image), source_date_epoch: None };
    rig.images().create(Call::with_lease("l").request(create)).await.unwrap();
    rig.collect().await;
    assert!(rig.sees(DEFAULT, &digest));
    rig.leases().delete(DEFAULT.request(DeleteRequest { id: "l".into(), sync: true })).await.unwrap();
    assert!(!rig.sees(DEFAULT, &digest));
    assert!(rig.meta.image(&DEFAULT.namespace(), "i").is_err());
}

#[tokio::test]
async fn uploads_expire_unless_leased_or_open() {
    let rig = Rig::new();
    rig.lease("l", &[]).await;
    let half = |reference: &str| WriteContentRequest {
        r#ref: reference.into(),
        action: WriteAction::Write.into(),
        data: b"half".as_slice().into(),
        ..Default::default()
    };
    rig.write(DEFAULT, vec![half("fresh")]).await.1.unwrap();
    rig.write(DEFAULT, vec![half("old")]).await.1.unwrap();
    rig.write(Call::with_lease("l"), vec![half("leased")]).await.1.unwrap();
    rig.meta
        .inner
        .store
        .write(|tx| {
            let key = store::key(&["default", "old"])?;
            let record = tx.get(&tables::INGESTS, &key)?.expect("it was begun");
            let expires_at = record.expires_at.map(|end| end - Duration::from_secs(25 * 60 * 60));
            tx.put(&tables::INGESTS, &key, &IngestRecord { expires_at, ..record })
        })
        .unwrap();
    let references = || {
        let statuses = rig.meta.ingest_statuses(&DEFAULT.namespace(), &[]).unwrap();
        statuses.into_iter().map(|status| status.reference).collect::<Vec<_>>()
    };
    rig.collect().await;
    assert_eq!(references(), ["fresh", "leased"]);
    rig.leases().delete(DEFAULT.request(DeleteRequest { id: "l".into(), sync: true })).await.unwrap();
    assert_eq!(references(), ["fresh"]);
    assert_eq!(rig.meta.inner.blobs.ingests().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn collection_beside_writers_takes_nothing_that_is_held() {
    let rig = Rig::new();
    let stop = CancellationToken::new();
    let collecting = {
        let (trigger, stop) = (rig.meta.trigger().clone(), stop.clone());
        tokio::task::spawn(async move {
            let mut runs = 0;
            while !stop.is_cancelled() {
                trigger.collect().await.map_err(|failure| failure.message().to_owned()).unwrap();
                runs += 1;
            }
            runs
        })
    };
    let workers = (0..4_u32).map(|worker| {
        let rig = &rig;
        async move {
            let lease = format!("lease-{worker}");
            let held = Call::with_lease(&lease);
            for round in 0..12_u32 {
                rig.lease(&lease, &[]).await;
                // All workers share one layer, so that it is deleted and made again under each other's hands.
                let put = async |bytes: &[u8], pairs: &[(&str, &str)]| match rig.put(held, bytes, pairs).await {
                    Ok(digest) => digest,
                    Err(status) if status.code() == Code::AlreadyExists => Digest::sha256(bytes),
                    Err(status) => panic!("{status:?}"),
                };
                let layer = put(b"the shared layer", &[]).await;
                let refs = [("containerd.io/gc.ref.content.0", layer.as_str())];
                let manifest = put(format!("manifest {worker} {round}").as_bytes(), &refs).await;
                let key = format!("k{worker}-{round}");
                let prepare =
                    PrepareSnapshotRequest { snapshotter: NATIVE.into(), key: key.clone(), ..Default::default() };
                rig.snapshots().prepare(held.request(prepare)).await.unwrap();
                let image = format!("image-{worker}");
                rig.image(&image, &manifest, &[]).await;
                assert!(rig.sees_snapshot(&key), "leased");
                rig.leases().delete(held.request(DeleteRequest { id: lease.clone(), sync: false })).await.unwrap();
                // From here on the image alone holds the content.
                tokio::time::sleep(Duration::from_millis(3)).await;
                for digest in [&layer, &manifest] {
                    assert!(rig.sees(DEFAULT, digest), "round {round}: {digest} is held by an image");
                    assert!(rig.has_blob(digest), "round {round}: the file of {digest} is gone");
                }
                rig.delete_image(&image).await;
                assert!(!rig.sees(DEFAULT, &manifest));
            }
        }
    });
    futures_util::future::join_all(workers).await;
    stop.cancel();
    assert!(collecting.await.unwrap() > 10);
    rig.collect().await;
    assert_eq!(rig.driver_snapshots(), 0);
    assert_eq!(rig.meta.inner.blobs.walk().unwrap().count(), 0);
}
