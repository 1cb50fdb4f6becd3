use proto::services::diff::v1::diff_client::DiffClient;
use proto::services::diff::v1::diff_server::DiffServer;
use proto::services::diff::v1::{ApplyRequest, DiffRequest};
use proto::services::snapshots::v1::{CommitSnapshotRequest, PrepareSnapshotRequest, ViewSnapshotRequest};
use proto::types::{Descriptor, Mount};

use super::*;
use crate::mounts::MountDir;

const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

impl Rig {
    fn diff(&self) -> DiffClient<DiffServer<api::diff::Service>> {
        let mounts = MountDir::new(self.dir.path().join("mounts"));
        DiffClient::new(DiffServer::new(api::diff::Service::new(self.meta.clone(), mounts, Default::default())))
    }

    async fn mounts(&self, key: &str, parent: &str) -> Vec<Mount> {
        let prepare = PrepareSnapshotRequest {
            snapshotter: NATIVE.into(),
            key: key.into(),
            parent: parent.into(),
            labels: labels(&[("containerd.io/gc.root", "1")]),
        };
        self.snapshots().prepare(DEFAULT.request(prepare)).await.unwrap().into_inner().mounts
    }

    /// A committed snapshot with one file, and its view.
    async fn base(&self) -> Vec<Mount> {
        let mounts = self.mounts("base-key", "").await;
        std::fs::write(format!("{}/old", mounts[0].source), "old").unwrap();
        let commit = CommitSnapshotRequest {
            snapshotter: NATIVE.into(),
            name: "base".into(),
            key: "base-key".into(),
            labels: labels(&[("containerd.io/gc.root", "1")]),
            parent: String::new(),
        };
        self.snapshots().commit(DEFAULT.request(commit)).await.unwrap();
        let view = ViewSnapshotRequest {
            snapshotter: NATIVE.into(),
            key: "view".into(),
            parent: "base".into(),
            labels: labels(&[("containerd.io/gc.root", "1")]),
        };
        self.snapshots().view(DEFAULT.request(view)).await.unwrap().into_inner().mounts
    }

    async fn make(&self, request: DiffRequest) -> Result<Descriptor, Status> {
        self.diff().diff(DEFAULT.request(request)).await.map(|answer| answer.into_inner().diff.unwrap())
    }

    async fn apply(&self, diff: &Descriptor, mounts: Vec<Mount>) -> Result<Descriptor, Status> {
        let request = ApplyRequest { diff: Some(diff.clone()), mounts, ..Default::default() };
        self.diff().apply(DEFAULT.request(request)).await.map(|answer| answer.into_inner().applied.unwrap())
    }
}

#[tokio::test]
async fn a_difference_becomes_a_layer_and_a_layer_the_difference() {
    let rig = Rig::new();
    let left = rig.base().await;
    let right = rig.mounts("rw", "base").await;
    std::fs::remove_file(format!("{}/old", right[0].source)).unwrap();
    std::fs::write(format!("{}/new", right[0].source), "new").unwrap();
    let request = |media_type: &str| DiffRequest {
        left: left.clone(),
        right: right.clone(),
        media_type: media_type.into(),
        labels: labels(&[("mine", "1"), ("containerd.io/gc.root", "1")]),
        ..Default::default()
    };
    let mut diff_ids = Vec::new();
    for (asked, given) in [("", GZIP), (GZIP, GZIP), (TAR, TAR), ("application/vnd.oci.image.layer.v1.tar+zstd", "")] {
        let layer = rig.make(request(asked)).await.unwrap();
        let given = if given.is_empty() { asked } else { given };
        assert_eq!(layer.media_type, given);
        let digest: Digest = layer.digest.parse().unwrap();
        let stored = rig.meta.content(&DEFAULT.namespace(), digest).unwrap().record;
        assert_eq!((stored.size as i64, stored.labels.get("mine").map(String::as_str)), (layer.size, Some("1")));

        let onto = rig.mounts(&format!("onto {asked} {}", diff_ids.len()), "base").await;
        let applied = rig.apply(&layer, onto.clone()).await.unwrap();
        assert_eq!(applied.media_type, TAR);
        if asked != TAR {
            assert_eq!(stored.labels.get("containerd.io/uncompressed"), Some(&applied.digest), "{asked}");
        }
        let folder = &onto[0].source;
        assert!(!std::path::Path::new(&format!("{folder}/old")).exists());
        assert_eq!(std::fs::read_to_string(format!("{folder}/new")).unwrap(), "new");
        diff_ids.push(applied.digest);
    }
    assert!(diff_ids.iter().all(|diff_id| *diff_id == diff_ids[0]), "{diff_ids:?}");
    assert_eq!(rig.meta.ingest_statuses(&DEFAULT.namespace(), &[]).unwrap(), []);
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_by_name() {
    let rig = Rig::new();
    let right = rig.mounts("rw", "").await;
    let blob = rig.put(DEFAULT, b"no tar", &[]).await.unwrap();
    let descriptor = |media_type: &str, digest: &Digest| Descriptor {
        media_type: media_type.into(),
        digest: digest.to_string(),
        size: 6,
        ..Default::default()
    };
    for (diff, code, text) in [
        (descriptor("application/x+encrypted", &blob), Code::Unimplemented, "application/x+encrypted"),
        (descriptor(TAR, &Digest::sha256(b"missing")), Code::NotFound, "content digest"),
        (descriptor(TAR, &blob), Code::DataLoss, "failed to extract layer"),
        (Descriptor { digest: "x".into(), ..descriptor(TAR, &blob) }, Code::InvalidArgument, "descriptor"),
    ] {
        refused(rig.apply(&diff, right.clone()).await, code, text);
    }
    let nothing = ApplyRequest { mounts: right.clone(), ..Default::default() };
    refused(rig.diff().apply(DEFAULT.request(nothing)).await, Code::InvalidArgument, "diff must be set");
    let read_only = vec![Mount { options: vec!["ro".into(), "rbind".into()], ..right[0].clone() }];
    refused(rig.apply(&descriptor(TAR, &blob), read_only).await, Code::FailedPrecondition, "read-only");
    refused(rig.apply(&descriptor(TAR, &blob), Vec::new()).await, Code::InvalidArgument, "nothing to mount");

    let make = DiffRequest { right: right.clone(), media_type: "application/x".into(), ..Default::default() };
    refused(rig.make(make).await, Code::Unimplemented, "application/x");
    let missing = vec![Mount { source: "/does/not/exist".into(), ..right[0].clone() }];
    let make = DiffRequest { right: missing, ..Default::default() };
    assert!(rig.make(make).await.is_err());
    assert_eq!(rig.meta.ingest_statuses(&DEFAULT.namespace(), &[]).unwrap(), [], "a failed layer leaves no upload");
}

#[tokio::test]
async fn a_layer_that_is_there_gets_the_labels_it_lacks() {
    let rig = Rig::new();
    let right = rig.mounts("rw", "").await;
    let make =
        |pairs: &[(&str, &str)]| DiffRequest { right: right.clone(), labels: labels(pairs), ..Default::default() };
    let first = rig.make(make(&[("a", "1")])).await.unwrap();
    let second = rig.make(make(&[("a", "2"), ("containerd.io/gc.root", "1")])).await.unwrap();
    assert_eq!(first.digest, second.digest);
    rig.collect().await;
    let stored = rig.meta.content(&DEFAULT.namespace(), first.digest.parse().unwrap()).unwrap().record;
    assert_eq!((stored.labels["a"].as_str(), stored.labels["containerd.io/gc.root"].as_str()), ("1", "1"));
}
