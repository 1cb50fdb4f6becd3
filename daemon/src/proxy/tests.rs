//! A plugin is a real server on a real socket: our own snapshots service over a plain driver.

use std::ops::ControlFlow;
use std::sync::Arc;

use model::Labels;
use model::error::Classify as _;
use model::snapshot::SnapshotKind;
use proto::services::snapshots::v1::snapshots_server::SnapshotsServer;
use snapshotter::copy::{self, Native};
use snapshotter::{LabelMask, SnapshotError, Snapshotter, Update};
use store::Store;
use store::blob::BlobStore;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;

use super::*;
use crate::events::Bus;
use crate::gc::schedule::Trigger;
use crate::meta::content::Sharing;
use crate::meta::{self, Drivers, Meta};

fn plugin(address: &Path) -> Plugin {
    let capabilities = vec!["rebase".to_owned()];
    Plugin { kind: Kind::Snapshot, address: address.to_owned(), platform: None, exports: BTreeMap::new(), capabilities }
}

fn meta(dir: &Path) -> Meta {
    let store = Store::open(&dir.join("meta"), store::Options::default()).unwrap();
    let blobs = BlobStore::open(&dir.join("content")).unwrap();
    let native = Native::open(&dir.join("native"), store.clone()).unwrap();
    let drivers = Drivers::from([(copy::NAME.to_owned(), Arc::new(native) as Arc<dyn Snapshotter>)]);
    Meta::new(meta::Parts {
        store,
        blobs,
        sharing: Sharing::Shared,
        drivers,
        bus: Bus::new(),
        trigger: Trigger::default(),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_reaches_the_plugin_and_it_may_come_late() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("p.sock");
    let proxy = Arc::new(Snapshots::new(copy::NAME, &plugin(&socket)));
    let early = Arc::clone(&proxy);
    let refused = tokio::task::spawn_blocking(move || early.stat("ns/1/a")).await.unwrap().unwrap_err();
    assert_eq!(refused.kind(), model::error::Kind::Unavailable, "{refused}");

    let service = SnapshotsServer::new(crate::api::snapshots::Service::new(meta(dir.path())));
    let listener = UnixListenerStream::new(UnixListener::bind(&socket).unwrap());
    let server = tonic::transport::Server::builder().add_service(service).serve_with_incoming(listener);
    let server = tokio::spawn(server);

    tokio::task::spawn_blocking(move || life(&*proxy)).await.unwrap();
    server.abort();
}

fn life(proxy: &dyn Snapshotter) {
    let labels = Labels::from([("containerd.io/snapshot/x".to_owned(), "y".to_owned())]);
    let mounts = proxy.prepare("ns/1/a", None, &labels).unwrap();
    assert!(!mounts.is_empty());
    assert_eq!(proxy.mounts("ns/1/a").unwrap(), mounts);
    assert!(matches!(proxy.prepare("ns/1/a", None, &labels), Err(SnapshotError::AlreadyExists { .. })));
    assert!(matches!(proxy.stat("ns/1/b"), Err(SnapshotError::NotFound { .. })));
    proxy.commit("ns/2/base", "ns/1/a", &labels, None).unwrap();
    let info = proxy.stat("ns/2/base").unwrap();
    assert_eq!(
        (info.kind, info.labels.get("containerd.io/snapshot/x").map(String::as_str)),
        (SnapshotKind::Committed, Some("y"))
    );
    proxy.view("ns/3/look", Some("ns/2/base"), &Labels::new()).unwrap();
    let mask = LabelMask::Keys(["k".to_owned()].into());
    let update = Update { name: "ns/3/look".into(), labels: Labels::from([("k".into(), "v".into())]), mask };
    assert_eq!(proxy.update(&update).unwrap().labels.get("k").map(String::as_str), Some("v"));
    proxy.usage("ns/2/base").unwrap();
    proxy.cleanup().unwrap();
    proxy.remove("ns/3/look").unwrap();
    assert!(matches!(proxy.stat("ns/3/look"), Err(SnapshotError::NotFound { .. })));
    assert!(proxy.is_remote());
    let walked = proxy.walk(&mut |_| ControlFlow::Continue(()));
    // The list is of the namespace that a call about everything names; this one has nothing.
    walked.unwrap();
}
