//! The client's side of a transfer.

use std::sync::atomic::{AtomicUsize, Ordering};

use proto::prost::Name;
use proto::prost_types::Any;
use proto::services::content::v1::content_client::ContentClient;
use proto::services::content::v1::{Info, ListContentRequest, ListStatusesRequest, Status as IngestStatus};
use proto::services::images::v1::images_client::ImagesClient;
use proto::services::images::v1::{Image, ListImagesRequest};
use proto::services::leases::v1::ListRequest;
use proto::services::leases::v1::leases_client::LeasesClient;
use proto::services::snapshots::v1::snapshots_client::SnapshotsClient;
use proto::services::snapshots::v1::{
    Info as Snapshot, ListSnapshotsRequest, RemoveSnapshotRequest, ViewSnapshotRequest,
};
use proto::services::streaming::v1::StreamInit;
use proto::services::streaming::v1::streaming_client::StreamingClient;
use proto::services::transfer::v1::transfer_client::TransferClient;
use proto::services::transfer::v1::{TransferOptions, TransferRequest};
use proto::types::Platform;
use proto::types::transfer::{
    Data, ImageExportStream, ImageImportStream, ImageStore, OciRegistry, Progress, RegistryResolver,
    UnpackConfiguration, WindowUpdate,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::server::{Server, plain};

/// A stream beside a call.
pub struct Stream {
    pub send: mpsc::Sender<Any>,
    pub receive: Streaming<Any>,
}

impl Stream {
    pub async fn open(server: &Server, id: &str) -> Result<Self, Status> {
        let (send, queue) = mpsc::channel(4);
        send.send(proto::any::pack(&StreamInit { id: id.into() })).await.unwrap();
        let mut client = StreamingClient::new(server.channel.clone());
        let mut receive = client.stream(plain(ReceiverStream::new(queue))).await?.into_inner();
        let first = receive.message().await?.expect("an answer to the name");
        assert_eq!((first.type_url.as_str(), first.value.len()), ("google.protobuf.Empty", 0));
        Ok(Self { send, receive })
    }

    pub async fn next<M: Name + Default>(&mut self) -> Option<M> {
        let any = self.receive.message().await.ok()??;
        Some(proto::any::unpack(&any).unwrap().unwrap_or_else(|| panic!("{} came", any.type_url)))
    }

    pub async fn say<M: Name>(&self, message: &M) {
        // If the daemon has ended the stream, the call says why.
        let _ = self.send.send(proto::any::pack(message)).await;
    }

    /// Sends `bytes` as credit allows, then closes its end.
    pub async fn feed(mut self, bytes: Vec<u8>) {
        let (mut credit, mut at) = (0, 0);
        while at < bytes.len() {
            while credit == 0 {
                let Some(WindowUpdate { update }) = self.next().await else { return };
                credit += usize::try_from(update).unwrap();
            }
            let length = credit.min(32 * 1024).min(bytes.len() - at);
            self.say(&Data { data: bytes[at..at + length].to_vec().into() }).await;
            (credit, at) = (credit - length, at + length);
        }
        drop(self.send);
        while let Ok(Some(_)) = self.receive.message().await {}
    }

    /// Takes all bytes that come.
    pub async fn collect(mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let grant = async |stream: &Self, update: usize| {
            stream.say(&WindowUpdate { update: i32::try_from(update).unwrap() }).await;
        };
        grant(&self, 64 * 1024).await;
        while let Some(Data { data }) = self.next().await {
            assert!(data.len() <= 32 * 1024);
            bytes.extend_from_slice(&data);
            grant(&self, data.len()).await;
        }
        bytes
    }
}

/// A name that no stream has had: the daemon sees a moment later than its client that one is over.
pub fn fresh(what: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("{what}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

pub fn host() -> Platform {
    let host = model::platform::Platform::host();
    Platform { os: host.os, architecture: host.architecture, variant: host.variant, ..Default::default() }
}

/// The image store as a target that unpacks for this machine.
pub fn store(name: &str) -> ImageStore {
    ImageStore {
        name: name.into(),
        platforms: vec![host()],
        unpacks: vec![UnpackConfiguration { platform: Some(host()), snapshotter: String::new() }],
        ..Default::default()
    }
}

pub fn registry(reference: &str) -> OciRegistry {
    OciRegistry { reference: reference.into(), resolver: None }
}

pub async fn transfer(server: &Server, from: &impl Name, to: &impl Name) -> Result<(), Status> {
    let request = TransferRequest {
        source: Some(proto::any::pack(from)),
        destination: Some(proto::any::pack(to)),
        options: None,
    };
    TransferClient::new(server.channel.clone()).transfer(plain(request)).await.map(drop)
}

/// The same, with everything that was reported.
pub async fn reported(server: &Server, from: &impl Name, to: &impl Name) -> (Result<(), Status>, Vec<Progress>) {
    let id = fresh("progress");
    let mut stream = Stream::open(server, &id).await.unwrap();
    let request = TransferRequest {
        source: Some(proto::any::pack(from)),
        destination: Some(proto::any::pack(to)),
        options: Some(TransferOptions { progress_stream: id }),
    };
    let mut client = TransferClient::new(server.channel.clone());
    let collect = async {
        let mut all = Vec::new();
        while let Some(progress) = stream.next::<Progress>().await {
            all.push(progress);
        }
        all
    };
    let (outcome, all) = tokio::join!(client.transfer(plain(request)), collect);
    (outcome.map(drop), all)
}

pub async fn pull(server: &Server, reference: &str) -> Result<(), Status> {
    transfer(server, &registry(reference), &store(reference)).await
}

/// Pulls with credentials from `answer`, which hears for which host they are.
pub async fn pull_as(
    server: &Server,
    reference: &str,
    mut answer: impl FnMut(proto::types::transfer::AuthRequest) -> proto::types::transfer::AuthResponse,
) -> Result<(), Status> {
    let id = fresh("auth");
    let mut stream = Stream::open(server, &id).await.unwrap();
    let resolver = RegistryResolver { auth_stream: id, ..Default::default() };
    let from = OciRegistry { reference: reference.into(), resolver: Some(resolver) };
    let to = store(reference);
    let pulling = transfer(server, &from, &to);
    tokio::pin!(pulling);
    loop {
        tokio::select! {
            outcome = &mut pulling => return outcome,
            asked = stream.next() => if let Some(asked) = asked {
                stream.say(&answer(asked)).await;
            },
        }
    }
}

pub async fn import(server: &Server, archive: Vec<u8>, to: &ImageStore) -> Result<(), Status> {
    let id = fresh("import");
    let stream = Stream::open(server, &id).await.unwrap();
    let from = ImageImportStream { stream: id, ..Default::default() };
    let (outcome, ()) = tokio::join!(transfer(server, &from, to), stream.feed(archive));
    outcome
}

pub async fn export(server: &Server, from: &ImageStore, to: ImageExportStream) -> Result<Vec<u8>, Status> {
    let id = fresh("export");
    let stream = Stream::open(server, &id).await.unwrap();
    let to = ImageExportStream { stream: id, ..to };
    let (outcome, bytes) = tokio::join!(transfer(server, from, &to), stream.collect());
    outcome.map(|()| bytes)
}

pub async fn images(server: &Server) -> Vec<Image> {
    let mut client = ImagesClient::new(server.channel.clone());
    client.list(plain(ListImagesRequest::default())).await.unwrap().into_inner().images
}

pub async fn image_names(server: &Server) -> Vec<String> {
    images(server).await.into_iter().map(|image| image.name).collect()
}

pub async fn contents(server: &Server) -> Vec<Info> {
    let mut client = ContentClient::new(server.channel.clone());
    let mut stream = client.list(plain(ListContentRequest::default())).await.unwrap().into_inner();
    let mut all = Vec::new();
    while let Some(page) = stream.message().await.unwrap() {
        all.extend(page.info);
    }
    all
}

pub async fn content(server: &Server, digest: &str) -> Option<Info> {
    contents(server).await.into_iter().find(|info| info.digest == digest)
}

pub async fn ingests(server: &Server) -> Vec<IngestStatus> {
    let mut client = ContentClient::new(server.channel.clone());
    client.list_statuses(plain(ListStatusesRequest::default())).await.unwrap().into_inner().statuses
}

pub async fn leases(server: &Server) -> usize {
    lease_labels(server).await.len()
}

pub async fn lease_labels(server: &Server) -> Vec<std::collections::BTreeMap<String, String>> {
    let mut client = LeasesClient::new(server.channel.clone());
    let leases = client.list(plain(ListRequest::default())).await.unwrap().into_inner().leases;
    leases.into_iter().map(|lease| lease.labels).collect()
}

/// Waits for a whole collection.
pub async fn collect(server: &Server) {
    use proto::services::leases::v1::{CreateRequest, DeleteRequest};
    let mut client = LeasesClient::new(server.channel.clone());
    let lease = client.create(plain(CreateRequest::default())).await.unwrap().into_inner().lease.unwrap();
    client.delete(plain(DeleteRequest { id: lease.id, sync: true })).await.unwrap();
}

pub async fn snapshots(server: &Server) -> Vec<Snapshot> {
    let mut client = SnapshotsClient::new(server.channel.clone());
    let request = ListSnapshotsRequest { snapshotter: "overlayfs".into(), ..Default::default() };
    let mut stream = client.list(plain(request)).await.unwrap().into_inner();
    let mut all = Vec::new();
    while let Some(page) = stream.message().await.unwrap() {
        all.extend(page.info);
    }
    all
}

/// The folders of a chain of layers, the uppermost first.
pub async fn folders(server: &Server, chain: &str) -> Vec<std::path::PathBuf> {
    let mut client = SnapshotsClient::new(server.channel.clone());
    let (snapshotter, key) = ("overlayfs".to_owned(), format!("look {chain}"));
    let view = ViewSnapshotRequest {
        snapshotter: snapshotter.clone(),
        key: key.clone(),
        parent: chain.into(),
        ..Default::default()
    };
    let mounts = client.view(plain(view)).await.unwrap().into_inner().mounts;
    // Collection may have been faster: nothing holds it.
    let _ = client.remove(plain(RemoveSnapshotRequest { snapshotter, key })).await;
    let mount = &mounts[0];
    match mount.options.iter().find_map(|option| option.strip_prefix("lowerdir=")) {
        Some(folders) => folders.split(':').map(Into::into).collect(),
        None => vec![mount.source.clone().into()],
    }
}

/// Checks that nothing is under way and nothing but content is left, which collection takes.
#[track_caller]
pub fn nothing_left(left: Left) {
    assert_eq!(left, Left::default());
}

/// What a failed transfer might leave.
#[derive(Debug, Default, PartialEq)]
pub struct Left {
    pub images: Vec<String>,
    pub ingests: Vec<String>,
    pub snapshots: Vec<String>,
    pub leases: usize,
}

impl Left {
    /// Looks until leases and snapshots that were being filled are gone: they are let go beside the answer.
    pub async fn of(server: &Server) -> Self {
        let mut left = Self::default();
        for _ in 0..200 {
            left = Self {
                images: image_names(server).await,
                ingests: ingests(server).await.into_iter().map(|ingest| ingest.r#ref).collect(),
                snapshots: snapshots(server).await.into_iter().map(|snapshot| snapshot.name).collect(),
                leases: leases(server).await,
            };
            if left.leases == 0 && !left.snapshots.iter().any(|name| name.starts_with("extract-")) {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        left
    }
}
