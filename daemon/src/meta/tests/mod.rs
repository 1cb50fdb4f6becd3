//! The services over real stores and drivers, called by real clients in this process. Needs no root.

mod content;
mod gc;
mod images;
mod layers;
mod leases;
mod random;
mod recovery;
mod remote;
mod scale;
mod snapshots;
mod upload;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use model::filter::Filters;
use model::{Digest, Labels, Namespace};
use proto::services::content::v1::content_client::ContentClient;
use proto::services::content::v1::content_server::ContentServer;
use proto::services::content::v1::{WriteAction, WriteContentRequest, WriteContentResponse};
use proto::services::images::v1::images_client::ImagesClient;
use proto::services::images::v1::images_server::ImagesServer;
use proto::services::leases::v1::leases_client::LeasesClient;
use proto::services::leases::v1::leases_server::LeasesServer;
use proto::services::snapshots::v1::snapshots_client::SnapshotsClient;
use proto::services::snapshots::v1::snapshots_server::SnapshotsServer;
use snapshotter::Snapshotter;
use snapshotter::copy::{self, Native};
use store::Store;
use store::blob::BlobStore;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};

use super::content::Sharing;
use super::{Drivers, Meta, Parts};
use crate::api::{self, call};
use crate::config::Gc;
use crate::events::{Bus, Subscription};
use crate::gc::schedule;

/// The snapshotter of the tests.
const NATIVE: &str = copy::NAME;

/// A daemon's metadata in a folder, with collection running beside it.
struct Rig {
    meta: Meta,
    bus: Bus,
    stop: CancellationToken,
    dir: Arc<tempfile::TempDir>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Rig {
    fn new() -> Self {
        Self::open(Arc::new(tempfile::tempdir().unwrap()), Sharing::Shared)
    }

    fn isolated() -> Self {
        Self::open(Arc::new(tempfile::tempdir().unwrap()), Sharing::Isolated)
    }

    /// With one more driver.
    fn with_driver(driver: impl FnOnce(&Path) -> (String, Arc<dyn Snapshotter>)) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        Self::build(dir, Sharing::Shared, |dir| vec![driver(dir)]).collecting()
    }

    fn open(dir: Arc<tempfile::TempDir>, sharing: Sharing) -> Self {
        Self::without_collection(dir, sharing).collecting()
    }

    fn collecting(self) -> Self {
        let rig = self;
        // Collection runs when somebody waits for it, not by itself, so that tests see what they made.
        let settings = Gc {
            pause_threshold: 0.000_001,
            deletion_threshold: 0,
            mutation_threshold: 0,
            schedule_delay: Duration::ZERO,
            startup_delay: Duration::from_secs(3600),
        };
        drop(tokio::task::spawn(schedule::run(rig.meta.clone(), settings, rig.stop.clone())));
        rig
    }

    fn without_collection(dir: Arc<tempfile::TempDir>, sharing: Sharing) -> Self {
        Self::build(dir, sharing, |_| Vec::new())
    }

    fn build(
        dir: Arc<tempfile::TempDir>,
        sharing: Sharing,
        more: impl FnOnce(&Path) -> Vec<(String, Arc<dyn Snapshotter>)>,
    ) -> Self {
        let store = Store::open(&dir.path().join("meta"), store::Options::default()).unwrap();
        let blobs = BlobStore::open(&dir.path().join("content")).unwrap();
        let native = Native::open(&dir.path().join("native"), store.clone()).unwrap();
        let mut drivers = Drivers::from([(NATIVE.to_owned(), Arc::new(native) as Arc<dyn Snapshotter>)]);
        drivers.extend(more(dir.path()));
        let bus = Bus::new();
        let parts = Parts { store, blobs, sharing, drivers, bus: bus.clone(), trigger: schedule::Trigger::default() };
        let meta = Meta::new(parts);
        Self { meta, bus, stop: CancellationToken::new(), dir }
    }

    fn content(&self) -> ContentClient<ContentServer<api::content::Service>> {
        ContentClient::new(ContentServer::new(api::content::Service::new(self.meta.clone())))
    }

    fn images(&self) -> ImagesClient<ImagesServer<api::images::Service>> {
        ImagesClient::new(ImagesServer::new(api::images::Service::new(self.meta.clone())))
    }

    fn leases(&self) -> LeasesClient<LeasesServer<api::leases::Service>> {
        LeasesClient::new(LeasesServer::new(api::leases::Service::new(self.meta.clone())))
    }

    fn snapshots(&self) -> SnapshotsClient<SnapshotsServer<api::snapshots::Service>> {
        SnapshotsClient::new(SnapshotsServer::new(api::snapshots::Service::new(self.meta.clone())))
    }

    /// Everything that is published from now on.
    fn listen(&self) -> Subscription {
        self.bus.subscribe(Filters::parse::<&str>(&[]).unwrap())
    }

    async fn collect(&self) {
        self.meta.trigger().collect().await.map_err(|failure| failure.message().to_owned()).unwrap();
    }

    /// Uploads a blob with labels.
    async fn put(&self, scope: Call<'_>, bytes: &[u8], pairs: &[(&str, &str)]) -> Result<Digest, Status> {
        let digest = Digest::sha256(bytes);
        let message = WriteContentRequest {
            action: WriteAction::Commit.into(),
            r#ref: format!("put-{}-{digest}", scope.lease.unwrap_or_default()),
            expected: digest.to_string(),
            data: bytes.to_vec().into(),
            labels: labels(pairs),
            ..Default::default()
        };
        self.write(scope, vec![message]).await.1.map(|()| digest)
    }

    /// Sends all messages of an upload at once; the answers, and how it ended.
    async fn write(
        &self,
        scope: Call<'_>,
        messages: Vec<WriteContentRequest>,
    ) -> (Vec<WriteContentResponse>, Result<(), Status>) {
        let mut answers = match self.content().write(scope.request(stream::iter(messages))).await {
            Ok(answers) => answers.into_inner(),
            Err(status) => return (Vec::new(), Err(status)),
        };
        let mut got = Vec::new();
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(answer) => got.push(answer),
                Err(status) => return (got, Err(status)),
            }
        }
        (got, Ok(()))
    }

    /// Whether the file of a blob is there.
    fn has_blob(&self, digest: &Digest) -> bool {
        self.meta.inner.blobs.info(digest).unwrap().is_some()
    }

    /// How many snapshots the driver has.
    fn driver_snapshots(&self) -> usize {
        let mut count = 0;
        self.meta.inner.drivers[NATIVE]
            .walk(&mut |_| {
                count += 1;
                std::ops::ControlFlow::Continue(())
            })
            .unwrap();
        count
    }
}

/// Who calls: a namespace and perhaps a lease.
#[derive(Debug, Clone, Copy)]
struct Call<'a> {
    namespace: &'a str,
    lease: Option<&'a str>,
}

const DEFAULT: Call<'static> = Call { namespace: "default", lease: None };
const OTHER: Call<'static> = Call { namespace: "other", lease: None };

impl<'a> Call<'a> {
    fn with_lease(lease: &'a str) -> Self {
        Self { namespace: "default", lease: Some(lease) }
    }

    fn request<T>(self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert(call::NAMESPACE_KEY, self.namespace.parse().unwrap());
        if let Some(lease) = self.lease {
            request.metadata_mut().insert(call::LEASE_KEY, lease.parse().unwrap());
        }
        request
    }

    fn namespace(self) -> Namespace {
        Namespace::new(self.namespace).unwrap()
    }
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn mask(paths: &[&str]) -> Option<prost_types::FieldMask> {
    Some(prost_types::FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() })
}

/// The code and message of a call that must fail.
#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: Result<T, Status>, code: Code, text: &str) {
    let status = outcome.expect_err("the call must fail");
    assert_eq!(status.code(), code, "{}", status.message());
    assert!(status.message().contains(text), "{:?} does not say {text:?}", status.message());
}

/// The topics of everything published so far, in order.
async fn topics(subscription: &mut Subscription) -> Vec<String> {
    let mut topics = Vec::new();
    while let Ok(Ok(envelope)) = tokio::time::timeout(Duration::from_millis(20), subscription.next()).await {
        topics.push(envelope.topic.clone());
    }
    topics
}
