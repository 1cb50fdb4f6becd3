use proto::services::snapshots::v1::{
    CleanupRequest, CommitSnapshotRequest, Info, Kind, ListSnapshotsRequest, MountsRequest, PrepareSnapshotRequest,
    RemoveSnapshotRequest, StatSnapshotRequest, UpdateSnapshotRequest, UsageRequest, ViewSnapshotRequest,
};

use super::*;

fn prepare(key: &str, parent: &str, pairs: &[(&str, &str)]) -> PrepareSnapshotRequest {
    PrepareSnapshotRequest { snapshotter: NATIVE.into(), key: key.into(), parent: parent.into(), labels: labels(pairs) }
}

fn commit(name: &str, key: &str, pairs: &[(&str, &str)]) -> CommitSnapshotRequest {
    CommitSnapshotRequest {
        snapshotter: NATIVE.into(),
        name: name.into(),
        key: key.into(),
        labels: labels(pairs),
        parent: String::new(),
    }
}

impl Rig {
    async fn prepare(&self, key: &str, parent: &str) -> Result<String, Status> {
        self.prepare_with(DEFAULT, prepare(key, parent, &[])).await
    }

    /// Prepares; the folder to write to.
    async fn prepare_with(&self, call: Call<'_>, request: PrepareSnapshotRequest) -> Result<String, Status> {
        let answer = self.snapshots().prepare(call.request(request)).await?.into_inner();
        Ok(answer.mounts[0].source.clone())
    }

    async fn view(&self, key: &str, parent: &str) -> Result<(), Status> {
        let request = ViewSnapshotRequest {
            snapshotter: NATIVE.into(),
            key: key.into(),
            parent: parent.into(),
            labels: Labels::new(),
        };
        self.snapshots().view(DEFAULT.request(request)).await.map(drop)
    }

    async fn commit(&self, name: &str, key: &str) -> Result<(), Status> {
        self.snapshots().commit(DEFAULT.request(commit(name, key, &[]))).await.map(drop)
    }

    async fn remove(&self, key: &str) -> Result<(), Status> {
        let request = RemoveSnapshotRequest { snapshotter: NATIVE.into(), key: key.into() };
        self.snapshots().remove(DEFAULT.request(request)).await.map(drop)
    }

    async fn stat(&self, key: &str) -> Result<Info, Status> {
        let request = StatSnapshotRequest { snapshotter: NATIVE.into(), key: key.into() };
        self.snapshots().stat(DEFAULT.request(request)).await.map(|answer| answer.into_inner().info.unwrap())
    }

    async fn names(&self, filter: &str) -> Vec<String> {
        let request = ListSnapshotsRequest { snapshotter: NATIVE.into(), filters: vec![filter.into()] };
        let batches: Vec<_> =
            self.snapshots().list(DEFAULT.request(request)).await.unwrap().into_inner().collect().await;
        batches.into_iter().flat_map(|batch| batch.unwrap().info).map(|info| info.name).collect()
    }
}

#[tokio::test]
async fn a_snapshot_lives_through_all_its_states() {
    let rig = Rig::new();
    let mut heard = rig.listen();
    let folder = rig.prepare("base key", "").await.unwrap();
    std::fs::write(format!("{folder}/file"), "x").unwrap();
    let again = MountsRequest { snapshotter: NATIVE.into(), key: "base key".into() };
    let mounts = rig.snapshots().mounts(DEFAULT.request(again.clone())).await.unwrap().into_inner().mounts;
    assert_eq!(mounts[0].source, folder);
    assert_eq!(rig.stat("base key").await.unwrap().kind(), Kind::Active);
    rig.commit("sha256:base", "base key").await.unwrap();
    refused(rig.stat("base key").await, Code::NotFound, "snapshot base key does not exist: not found");
    refused(rig.snapshots().mounts(DEFAULT.request(again)).await, Code::NotFound, "does not exist");
    let committed = MountsRequest { snapshotter: NATIVE.into(), key: "sha256:base".into() };
    refused(rig.snapshots().mounts(DEFAULT.request(committed)).await, Code::FailedPrecondition, "");
    let base = rig.stat("sha256:base").await.unwrap();
    assert_eq!((base.kind(), base.parent.as_str()), (Kind::Committed, ""));

    let folder = rig.prepare("child", "sha256:base").await.unwrap();
    assert_eq!(std::fs::read_to_string(format!("{folder}/file")).unwrap(), "x");
    rig.view("look", "sha256:base").await.unwrap();
    assert_eq!(rig.stat("look").await.unwrap().kind(), Kind::View);
    refused(rig.remove("sha256:base").await, Code::FailedPrecondition, "cannot remove snapshot with child");
    rig.remove("look").await.unwrap();
    rig.remove("child").await.unwrap();
    rig.remove("sha256:base").await.unwrap();
    refused(rig.remove("sha256:base").await, Code::NotFound, "does not exist");
    let expected = ["prepare", "commit", "prepare", "remove", "remove", "remove"];
    assert_eq!(topics(&mut heard).await, expected.map(|what| format!("/snapshot/{what}")));
    assert_eq!(rig.driver_snapshots(), 3);
    rig.collect().await;
    assert_eq!(rig.driver_snapshots(), 0);
}

#[tokio::test]
async fn refusals_have_their_codes() {
    let rig = Rig::new();
    rig.prepare("active", "").await.unwrap();
    rig.prepare("other", "").await.unwrap();
    rig.prepare("tmp", "").await.unwrap();
    rig.commit("base", "tmp").await.unwrap();
    rig.view("view", "base").await.unwrap();
    refused(rig.prepare("active", "").await, Code::AlreadyExists, "snapshot \"active\": already exists");
    refused(rig.view("view", "base").await, Code::AlreadyExists, "snapshot \"view\"");
    refused(rig.prepare("x", "missing").await, Code::NotFound, "parent snapshot missing does not exist: not found");
    refused(rig.prepare("x", "active").await, Code::InvalidArgument, "not a committed snapshot");
    refused(rig.prepare("x", "view").await, Code::InvalidArgument, "not a committed snapshot");
    refused(rig.prepare("", "").await, Code::InvalidArgument, "must not be empty");
    refused(rig.commit("base", "active").await, Code::AlreadyExists, "snapshot \"base\": already exists");
    refused(rig.commit("new", "missing").await, Code::NotFound, "snapshot missing does not exist");
    refused(rig.commit("new", "view").await, Code::FailedPrecondition, "not active");
    refused(rig.commit("new", "base").await, Code::FailedPrecondition, "not active");
    let long = "v".repeat(4096);
    let too_long = rig.prepare_with(DEFAULT, prepare("x", "", &[("k", &long)])).await;
    refused(too_long, Code::InvalidArgument, "maximum size");
    // A refused commit leaves the active snapshot as it was.
    rig.commit("after all", "active").await.unwrap();

    for (name, text) in [("", "snapshotter not loaded"), ("zfs", "snapshotter not loaded: zfs")] {
        let mut snapshots = rig.snapshots();
        let sn = || name.to_owned();
        let prepare = PrepareSnapshotRequest { snapshotter: sn(), ..prepare("k", "", &[]) };
        refused(snapshots.prepare(DEFAULT.request(prepare)).await, Code::InvalidArgument, text);
        let stat = StatSnapshotRequest { snapshotter: sn(), key: "k".into() };
        refused(snapshots.stat(DEFAULT.request(stat)).await, Code::InvalidArgument, text);
        let list = ListSnapshotsRequest { snapshotter: sn(), filters: Vec::new() };
        refused(snapshots.list(DEFAULT.request(list)).await.map(drop), Code::InvalidArgument, text);
        let remove = RemoveSnapshotRequest { snapshotter: sn(), key: "k".into() };
        refused(snapshots.remove(DEFAULT.request(remove)).await, Code::InvalidArgument, text);
        let cleanup = CleanupRequest { snapshotter: sn() };
        refused(snapshots.cleanup(DEFAULT.request(cleanup)).await, Code::InvalidArgument, text);
    }
    rig.snapshots().cleanup(DEFAULT.request(CleanupRequest { snapshotter: NATIVE.into() })).await.unwrap();
}

#[tokio::test]
async fn namespaces_do_not_see_each_others_keys() {
    let rig = Rig::new();
    rig.prepare("k", "").await.unwrap();
    rig.prepare_with(OTHER, prepare("k", "", &[])).await.unwrap();
    rig.commit("base", "k").await.unwrap();
    let there = rig.prepare_with(OTHER, prepare("x", "base", &[])).await;
    refused(there, Code::NotFound, "parent snapshot base does not exist");
    let mut keys = Vec::new();
    rig.meta.inner.drivers[NATIVE]
        .walk(&mut |info| {
            keys.push(info.name);
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    keys.sort();
    let shape: Vec<_> = keys.iter().map(|key| key.splitn(3, '/').collect::<Vec<_>>()).collect();
    assert_eq!((shape[0][0], shape[0][2], shape[1][0], shape[1][2]), ("default", "base", "other", "k"));
}

#[tokio::test]
async fn a_target_that_is_there_is_a_success_path() {
    let rig = Rig::new();
    rig.prepare("k", "").await.unwrap();
    rig.commit("sha256:1", "k").await.unwrap();
    let request = || prepare("extract-1 sha256:1", "", &[("containerd.io/snapshot.ref", "sha256:1")]);
    refused(rig.prepare_with(DEFAULT, request()).await, Code::AlreadyExists, "sha256:1");
    refused(rig.stat("extract-1 sha256:1").await, Code::NotFound, "");
    // The lease holds what was found.
    let lease = proto::services::leases::v1::CreateRequest { id: "l".into(), ..Default::default() };
    rig.leases().create(DEFAULT.request(lease)).await.unwrap();
    refused(rig.prepare_with(Call::with_lease("l"), request()).await, Code::AlreadyExists, "sha256:1");
    rig.collect().await;
    rig.stat("sha256:1").await.unwrap();
}

#[tokio::test]
async fn labels_are_split_merged_and_changed() {
    let rig = Rig::new();
    let pairs = [("plain", "1"), ("containerd.io/snapshot/x", "2"), ("containerd.io/snapshot.ref", "t"), ("none", "")];
    rig.prepare_with(DEFAULT, prepare("k", "", &pairs)).await.unwrap();
    assert_eq!(rig.stat("k").await.unwrap().labels, labels(&pairs[..3]));
    let backend = |rig: &Rig| {
        let mut found = Labels::new();
        rig.meta.inner.drivers[NATIVE]
            .walk(&mut |info| {
                found = info.labels;
                std::ops::ControlFlow::Continue(())
            })
            .unwrap();
        found
    };
    assert_eq!(backend(&rig), labels(&pairs[1..3]));
    let update = |pairs: &[(&str, &str)], paths: &[&str]| {
        let info = Info { name: "k".into(), labels: labels(pairs), ..Default::default() };
        let update_mask = (!paths.is_empty()).then(|| mask(paths)).flatten();
        DEFAULT.request(UpdateSnapshotRequest { snapshotter: NATIVE.into(), info: Some(info), update_mask })
    };
    let key = "containerd.io/snapshot/x";
    for (pairs, paths, all, below) in [
        (&[(key, "9"), ("p", "0")][..], &["labels.containerd.io/snapshot/x"][..], 3, &[(key, "9"), pairs[2]][..]),
        (&[], &["labels.containerd.io/snapshot/x"], 2, &[pairs[2]]),
        (&[("p", "0"), (key, "7")], &["labels"], 2, &[(key, "7")]),
        (&[("q", "0")], &[], 1, &[]),
    ] {
        let got = rig.snapshots().update(update(pairs, paths)).await.unwrap().into_inner().info.unwrap();
        assert_eq!(got.labels.len(), all, "{paths:?} {:?}", got.labels);
        assert_eq!(backend(&rig), labels(below), "{paths:?}");
    }
    refused(rig.snapshots().update(update(&[], &["parent"])).await, Code::InvalidArgument, "cannot update \"parent\"");
    let missing = Info { name: "no".into(), ..Default::default() };
    let missing = UpdateSnapshotRequest { snapshotter: NATIVE.into(), info: Some(missing), update_mask: None };
    refused(rig.snapshots().update(DEFAULT.request(missing)).await, Code::NotFound, "snapshot no does not exist");
    // A commit has the labels of its own request.
    rig.snapshots().commit(DEFAULT.request(commit("base", "k", &[("own", "1")]))).await.unwrap();
    assert_eq!(rig.stat("base").await.unwrap().labels, labels(&[("own", "1")]));
}

#[tokio::test]
async fn lists_filter_and_come_in_batches() {
    let rig = Rig::new();
    for number in 0..103 {
        rig.prepare(&format!("k{number:03}"), "").await.unwrap();
    }
    rig.commit("base", "k000").await.unwrap();
    rig.prepare_with(DEFAULT, prepare("child", "base", &[("a.b", "1")])).await.unwrap();
    rig.view("view", "base").await.unwrap();
    let request = ListSnapshotsRequest { snapshotter: NATIVE.into(), filters: Vec::new() };
    let batches: Vec<_> = rig.snapshots().list(DEFAULT.request(request)).await.unwrap().into_inner().collect().await;
    assert_eq!(batches.into_iter().map(|batch| batch.unwrap().info.len()).collect::<Vec<_>>(), [100, 5]);
    for (filter, names) in [
        ("kind==committed", &["base"][..]),
        ("kind==view", &["view"]),
        ("parent==base", &["child", "view"]),
        ("name==k001", &["k001"]),
        ("labels.a.b==1", &["child"]),
        ("kind==active,labels.\"a.b\"", &["child"]),
    ] {
        assert_eq!(rig.names(filter).await, names, "{filter}");
    }
}

#[tokio::test]
async fn usage_is_that_of_the_snapshot() {
    let rig = Rig::new();
    let folder = rig.prepare("k", "").await.unwrap();
    std::fs::write(format!("{folder}/file"), vec![1; 100_000]).unwrap();
    let usage = |key: &str| DEFAULT.request(UsageRequest { snapshotter: NATIVE.into(), key: key.into() });
    let active = rig.snapshots().usage(usage("k")).await.unwrap().into_inner();
    assert!(active.size >= 100_000 && active.inodes >= 2, "{active:?}");
    rig.commit("base", "k").await.unwrap();
    assert_eq!(rig.snapshots().usage(usage("base")).await.unwrap().into_inner(), active);
    refused(rig.snapshots().usage(usage("k")).await, Code::NotFound, "does not exist");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_that_make_the_same_snapshot_one_wins() {
    let rig = Rig::new();
    let prepared = futures_util::future::join_all((0..12).map(|_| rig.prepare("same", ""))).await;
    assert_eq!(prepared.iter().filter(|one| one.is_ok()).count(), 1);
    for one in prepared.into_iter().filter(Result::is_err) {
        refused(one, Code::AlreadyExists, "same");
    }
    for number in 0..6 {
        rig.prepare(&format!("k{number}"), "").await.unwrap();
    }
    let keys: Vec<String> = (0..6).map(|number| format!("k{number}")).collect();
    let committed = futures_util::future::join_all(keys.iter().map(|key| rig.commit("layer", key))).await;
    assert_eq!(committed.iter().filter(|one| one.is_ok()).count(), 1);
    for one in committed.into_iter().filter(Result::is_err) {
        refused(one, Code::AlreadyExists, "layer");
    }
    assert_eq!(rig.names("kind==active").await.len(), 6);
    for key in keys {
        // The losers are still there to be removed.
        let _ = rig.remove(&key).await;
    }
    rig.remove("same").await.unwrap();
    rig.remove("layer").await.unwrap();
    rig.collect().await;
    assert_eq!(rig.driver_snapshots(), 0);
}
