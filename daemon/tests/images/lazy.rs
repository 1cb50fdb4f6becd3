//! A snapshotter that is a plugin and gets layers by itself: what it has is not fetched.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use daemon::proxy;
use futures_util::{Stream, stream};
use proto::services::snapshots::v1::snapshots_server::{Snapshots, SnapshotsServer};
use proto::services::snapshots::v1::*;
use proto::types::Mount;
use proto::types::transfer::UnpackConfiguration;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

use crate::client::{content, host, registry, store, transfer};
use crate::fake::Fake;
use crate::fixtures::{Compress, Made, layer, two_layers};
use crate::server::{Server, config};

const LABEL_REF: &str = "containerd.io/snapshot.ref";
const LABEL_LAYER: &str = "containerd.io/snapshot/cri.layer-digest";

/// A plugin that has some layers: those whose blob it is told of.
#[derive(Clone, Default)]
struct Plugin {
    /// The blobs of the layers it can get.
    has: Vec<String>,
    folder: std::path::PathBuf,
    state: Arc<Mutex<BTreeMap<String, Info>>>,
    asked: Arc<Mutex<Vec<BTreeMap<String, String>>>>,
}

impl Plugin {
    fn add(&self, name: &str, kind: Kind, parent: String, labels: BTreeMap<String, String>) {
        let info = Info { name: name.into(), kind: kind.into(), parent, labels, ..Default::default() };
        self.state.lock().unwrap().insert(name.into(), info);
    }

    fn mounts(&self, key: &str) -> Vec<Mount> {
        let folder = self.folder.join(key.replace('/', "_"));
        std::fs::create_dir_all(&folder).unwrap();
        let source = folder.display().to_string();
        vec![Mount { r#type: "bind".into(), source, options: vec!["rbind".into(), "rw".into()], ..Default::default() }]
    }
}

#[tonic::async_trait]
impl Snapshots for Plugin {
    async fn prepare(
        &self,
        request: Request<PrepareSnapshotRequest>,
    ) -> Result<Response<PrepareSnapshotResponse>, Status> {
        let PrepareSnapshotRequest { snapshotter, key, parent, labels } = request.into_inner();
        assert_eq!(snapshotter, "lazy");
        self.asked.lock().unwrap().push(labels.clone());
        if let (Some(target), Some(blob)) = (labels.get(LABEL_REF), labels.get(LABEL_LAYER))
            && self.has.contains(blob)
        {
            self.add(target, Kind::Committed, parent, labels.clone());
            return Err(Status::already_exists(format!("target snapshot {target:?}")));
        }
        self.add(&key, Kind::Active, parent, labels);
        Ok(Response::new(PrepareSnapshotResponse { mounts: self.mounts(&key) }))
    }
    async fn view(&self, _: Request<ViewSnapshotRequest>) -> Result<Response<ViewSnapshotResponse>, Status> {
        Err(Status::unimplemented("no views"))
    }
    async fn mounts(&self, request: Request<MountsRequest>) -> Result<Response<MountsResponse>, Status> {
        Ok(Response::new(MountsResponse { mounts: self.mounts(&request.into_inner().key) }))
    }
    async fn commit(&self, request: Request<CommitSnapshotRequest>) -> Result<Response<()>, Status> {
        let CommitSnapshotRequest { name, key, labels, .. } = request.into_inner();
        let active = self.state.lock().unwrap().remove(&key).ok_or_else(|| Status::not_found(key))?;
        self.add(&name, Kind::Committed, active.parent, labels);
        Ok(Response::new(()))
    }
    async fn remove(&self, request: Request<RemoveSnapshotRequest>) -> Result<Response<()>, Status> {
        let key = request.into_inner().key;
        self.state.lock().unwrap().remove(&key).ok_or_else(|| Status::not_found(key))?;
        Ok(Response::new(()))
    }
    async fn stat(&self, request: Request<StatSnapshotRequest>) -> Result<Response<StatSnapshotResponse>, Status> {
        let key = request.into_inner().key;
        let info = self.state.lock().unwrap().get(&key).cloned().ok_or_else(|| Status::not_found(key))?;
        Ok(Response::new(StatSnapshotResponse { info: Some(info) }))
    }
    async fn update(&self, _: Request<UpdateSnapshotRequest>) -> Result<Response<UpdateSnapshotResponse>, Status> {
        Err(Status::unimplemented("no updates"))
    }
    type ListStream = Pin<Box<dyn Stream<Item = Result<ListSnapshotsResponse, Status>> + Send>>;
    async fn list(&self, _: Request<ListSnapshotsRequest>) -> Result<Response<Self::ListStream>, Status> {
        let info = self.state.lock().unwrap().values().cloned().collect();
        Ok(Response::new(Box::pin(stream::iter([Ok(ListSnapshotsResponse { info })]))))
    }
    async fn usage(&self, _: Request<UsageRequest>) -> Result<Response<UsageResponse>, Status> {
        Ok(Response::new(UsageResponse::default()))
    }
    async fn cleanup(&self, _: Request<CleanupRequest>) -> Result<Response<()>, Status> {
        Err(Status::unimplemented("nothing to clean up"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_a_plugin_has_are_not_fetched() {
    let mut made = Made::default();
    let [below, above] = two_layers();
    let top = layer(&[("top", b"top")]);
    let image = made.image("amd64", &[below, above, top], Compress::Gzip);
    let fake = Fake::of(&made, &image.manifest).await;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("plugin.sock");
    let has = image.layers[..2].to_vec();
    let plugin = Plugin { has, folder: folder.path().join("trees"), ..Plugin::default() };
    let listener = UnixListenerStream::new(UnixListener::bind(&socket).unwrap());
    let service = SnapshotsServer::new(plugin.clone());
    let serving = tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(listener));
    let mut config = config(folder.path());
    let lazy = proxy::Plugin {
        kind: proxy::Kind::Snapshot,
        address: socket,
        platform: None,
        exports: BTreeMap::new(),
        capabilities: Vec::new(),
    };
    config.proxies.insert("lazy".into(), lazy);
    let server = Server::start_with(config, folder).await;
    let name = fake.name("a/b:t");
    let mut to = store(&name);
    to.unpacks = vec![UnpackConfiguration { platform: Some(host()), snapshotter: "lazy".into() }];
    transfer(&server, &registry(&name), &to).await.unwrap();

    for (at, blob) in image.layers.iter().enumerate() {
        let fetched = !fake.blob_requests(blob).is_empty();
        assert_eq!((fetched, content(&server, blob).await.is_some()), (at == 2, at == 2), "layer {at}");
    }
    let first = plugin.asked.lock().unwrap()[0].clone();
    assert_eq!(first["containerd.io/snapshot/cri.image-ref"], name);
    assert_eq!(first[LABEL_REF], image.chain[0]);
    assert_eq!(first["containerd.io/snapshot/cri.image-layers"], image.layers.join(","));
    // What was made only to ask goes with the next collection.
    let there: Vec<Info> = plugin.state.lock().unwrap().values().cloned().collect();
    let committed = there.iter().filter(|info| info.kind() == Kind::Committed).count();
    assert_eq!(committed, 3, "{there:#?}");
    server.stop().await;
    serving.abort();
}
