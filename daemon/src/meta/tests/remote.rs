//! A driver that has layers by itself, as those do that mount them lazily from a registry.

use std::ops::ControlFlow;
use std::path::Path;

use model::Mount;
use model::snapshot::{SnapshotInfo, Usage};
use proto::services::leases::v1::CreateRequest;
use proto::services::snapshots::v1::{PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest};
use snapshotter::{SnapshotError, Update};

use super::*;
use crate::meta::snapshots::LABEL_REF;

const REMOTE: &str = "remote";

/// Commits what is asked for by label at once, under its bare name, and says that it is there.
struct Remote {
    native: Native,
    /// Whether it forgets to make it.
    forgetful: bool,
}

impl Snapshotter for Remote {
    fn name(&self) -> &str {
        REMOTE
    }
    fn root(&self) -> Option<&Path> {
        None
    }
    fn capabilities(&self) -> Vec<String> {
        Vec::new()
    }
    fn prepare(&self, key: &str, parent: Option<&str>, labels: &Labels) -> Result<Vec<Mount>, SnapshotError> {
        let Some(target) = labels.get(LABEL_REF) else { return self.native.prepare(key, parent, labels) };
        if !self.forgetful && matches!(self.native.stat(target), Err(SnapshotError::NotFound { .. })) {
            self.native.prepare(key, parent, labels)?;
            self.native.commit(target, key, labels, None)?;
        }
        Err(SnapshotError::AlreadyExists { key: target.clone() })
    }
    fn view(&self, key: &str, parent: Option<&str>, labels: &Labels) -> Result<Vec<Mount>, SnapshotError> {
        self.native.view(key, parent, labels)
    }
    fn mounts(&self, key: &str) -> Result<Vec<Mount>, SnapshotError> {
        self.native.mounts(key)
    }
    fn commit(&self, name: &str, key: &str, labels: &Labels, parent: Option<&str>) -> Result<(), SnapshotError> {
        self.native.commit(name, key, labels, parent)
    }
    fn remove(&self, key: &str) -> Result<(), SnapshotError> {
        self.native.remove(key)
    }
    fn stat(&self, key: &str) -> Result<SnapshotInfo, SnapshotError> {
        self.native.stat(key)
    }
    fn update(&self, update: &Update) -> Result<SnapshotInfo, SnapshotError> {
        self.native.update(update)
    }
    fn walk(&self, each: &mut dyn FnMut(SnapshotInfo) -> ControlFlow<()>) -> Result<(), SnapshotError> {
        self.native.walk(each)
    }
    fn usage(&self, key: &str) -> Result<Usage, SnapshotError> {
        self.native.usage(key)
    }
    fn cleanup(&self) -> Result<(), SnapshotError> {
        self.native.cleanup()
    }
}

fn rig(forgetful: bool) -> Rig {
    Rig::with_driver(move |dir| {
        // It keeps its records by itself, like any plugin.
        let store = Store::open(&dir.join("remote-meta"), store::Options::default()).unwrap();
        let native = Native::open(&dir.join("remote"), store).unwrap();
        (REMOTE.to_owned(), Arc::new(Remote { native, forgetful }) as Arc<dyn Snapshotter>)
    })
}

fn prepare(target: &str, parent: &str) -> PrepareSnapshotRequest {
    PrepareSnapshotRequest {
        snapshotter: REMOTE.into(),
        key: format!("extract-1 {target}"),
        parent: parent.into(),
        labels: labels(&[(LABEL_REF, target), ("containerd.io/snapshot/cri.layer-digest", "d"), ("own", "1")]),
    }
}

impl Rig {
    fn remote_keys(&self) -> Vec<String> {
        let mut keys = Vec::new();
        let driver = &self.meta.inner.drivers[REMOTE];
        driver
            .walk(&mut |info| {
                keys.push(info.name);
                ControlFlow::Continue(())
            })
            .unwrap();
        keys.sort();
        keys
    }
}

#[tokio::test]
async fn what_the_driver_has_gets_a_name_and_a_lease() {
    let rig = rig(false);
    let stat =
        |call: Call<'_>, key: &str| call.request(StatSnapshotRequest { snapshotter: REMOTE.into(), key: key.into() });
    for namespace in ["default", "other"] {
        let call = Call { namespace, lease: Some("l") };
        rig.leases().create(call.request(CreateRequest { id: "l".into(), ..Default::default() })).await.unwrap();
        for (target, parent) in [("sha256:base", ""), ("sha256:top", "sha256:base"), ("sha256:top", "sha256:base")] {
            let prepared = rig.snapshots().prepare(call.request(prepare(target, parent))).await;
            refused(prepared, Code::AlreadyExists, target);
            let info = rig.snapshots().stat(stat(call, target)).await.unwrap().into_inner().info.unwrap();
            assert_eq!((info.parent.as_str(), info.labels.get("own").map(String::as_str)), (parent, Some("1")));
        }
        refused(rig.snapshots().stat(stat(call, "extract-1 sha256:top")).await, Code::NotFound, "does not exist");
    }
    assert_eq!(rig.remote_keys(), ["sha256:base", "sha256:top"], "both namespaces share them");
    rig.collect().await;
    assert_eq!(rig.remote_keys().len(), 2, "the leases hold them");
    // Without its leases a namespace loses its names; the driver's snapshots stay while the other one has them.
    for (namespace, left) in [("default", 2), ("other", 0)] {
        let call = Call { namespace, lease: None };
        for key in ["sha256:top", "sha256:base"] {
            let remove = RemoveSnapshotRequest { snapshotter: REMOTE.into(), key: key.into() };
            rig.snapshots().remove(call.request(remove)).await.unwrap();
        }
        rig.collect().await;
        assert_eq!(rig.remote_keys().len(), left, "{namespace}");
    }
}

#[tokio::test]
async fn a_target_on_another_parent_or_nowhere_is_refused() {
    let forgetful = rig(true);
    let prepared = forgetful.snapshots().prepare(DEFAULT.request(prepare("sha256:x", ""))).await;
    refused(prepared, Code::NotFound, "target snapshot \"sha256:x\" in backend: not found");

    let rig = rig(false);
    for target in ["sha256:a", "sha256:b"] {
        let prepared = rig.snapshots().prepare(DEFAULT.request(prepare(target, ""))).await;
        refused(prepared, Code::AlreadyExists, target);
    }
    let remove = RemoveSnapshotRequest { snapshotter: REMOTE.into(), key: "sha256:b".into() };
    rig.snapshots().remove(DEFAULT.request(remove)).await.unwrap();
    // The driver still has `b`, without a parent.
    let prepared = rig.snapshots().prepare(DEFAULT.request(prepare("sha256:b", "sha256:a"))).await;
    refused(prepared, Code::NotFound, "in backend");
}
