//! A typed client for gantryd, and for anything else that serves containerd's API.
//!
//! A [`Client`] is one connection and one namespace. What takes several calls (running a container, pulling an image,
//! unpacking it) is a function here, so that the command line and other programs do the same thing the same way. Nothing in
//! this library prints, and nothing reads the environment.

pub mod container;
pub mod content;
pub mod credentials;
pub mod error;
pub mod image;
pub mod io;
pub mod rootfs;
pub mod spec;
pub mod task;
pub mod transfer;
pub mod user;

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use model::Namespace;
use proto::services;
use tokio::net::UnixStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

pub use error::ClientError;

/// Where gantryd listens unless it is told otherwise.
pub const DEFAULT_ADDRESS: &str = "/run/gantry/gantry.sock";

/// The snapshotter that is used unless another is named.
pub const DEFAULT_SNAPSHOTTER: &str = "overlayfs";

/// The runtime that is used unless another is named.
pub const DEFAULT_RUNTIME: &str = "io.containerd.runc.v2";

/// The largest message either side may send, in bytes (containerd's contract).
const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// How long to wait for the daemon's socket.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Adds the namespace and the lease to every call.
#[derive(Clone, Debug)]
pub struct Headers {
    namespace: MetadataValue<Ascii>,
    lease: Option<MetadataValue<Ascii>>,
}

impl tonic::service::Interceptor for Headers {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
        request.metadata_mut().insert("containerd-namespace", self.namespace.clone());
        if let Some(lease) = &self.lease {
            request.metadata_mut().insert("containerd-lease", lease.clone());
        }
        Ok(request)
    }
}

/// The transport of every service client.
pub type Connection = InterceptedService<Channel, Headers>;

/// One connection to a daemon, and the namespace all calls are about. Clones share the connection.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
    headers: Headers,
    namespace: Namespace,
}

use proto::cri::image_service_client::ImageServiceClient;
use proto::cri::runtime_service_client::RuntimeServiceClient;
use proto::gantry::v1::doctor_client::DoctorClient;
use proto::gantry::v1::events_client::EventsClient as JournalClient;
use proto::gantry::v1::operations_client::OperationsClient;
use services::containers::v1::containers_client::ContainersClient;
use services::content::v1::content_client::ContentClient;
use services::diff::v1::diff_client::DiffClient;
use services::events::v1::events_client::EventsClient;
use services::images::v1::images_client::ImagesClient;
use services::introspection::v1::introspection_client::IntrospectionClient;
use services::leases::v1::leases_client::LeasesClient;
use services::namespaces::v1::namespaces_client::NamespacesClient;
use services::snapshots::v1::snapshots_client::SnapshotsClient;
use services::streaming::v1::streaming_client::StreamingClient;
use services::tasks::v1::tasks_client::TasksClient;
use services::transfer::v1::transfer_client::TransferClient;
use services::version::v1::version_client::VersionClient;

macro_rules! services {
    ($($(#[$doc:meta])* $method:ident: $client:ident,)*) => {
        $(
            $(#[$doc])*
            pub fn $method(&self) -> $client<Connection> {
                $client::new(self.connection())
                    .max_decoding_message_size(MAX_MESSAGE_BYTES)
                    .max_encoding_message_size(MAX_MESSAGE_BYTES)
            }
        )*
    };
}

impl Client {
    /// Connects to the daemon at `address`, for calls about `namespace`.
    ///
    /// # Errors
    /// [`ClientError::Connect`] when nobody answers at the socket.
    pub async fn connect(address: &Path, namespace: Namespace) -> Result<Self, ClientError> {
        let socket: PathBuf = address.to_owned();
        let failed = |source| ClientError::Connect { address: address.to_owned(), source };
        // The URI is never looked at: the connector knows the socket.
        let channel = Endpoint::from_static("http://localhost")
            .connect_timeout(CONNECT_TIMEOUT)
            .connect_with_connector(tower::service_fn(move |_| {
                let socket = socket.clone();
                async move { UnixStream::connect(socket).await.map(TokioIo::new) }
            }))
            .await
            .map_err(failed)?;
        let value = namespace.as_str().parse().expect("an identifier is ASCII without control characters");
        Ok(Self { channel, headers: Headers { namespace: value, lease: None }, namespace })
    }

    /// The namespace of the calls.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The same connection, with everything that is made put under `lease`.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] when the id cannot be sent in a header.
    pub fn with_lease(&self, lease: &str) -> Result<Self, ClientError> {
        let value =
            lease.parse().map_err(|_| ClientError::Invalid(format!("lease id {lease:?} is not printable ASCII")))?;
        let mut client = self.clone();
        client.headers.lease = Some(value);
        Ok(client)
    }

    fn connection(&self) -> Connection {
        InterceptedService::new(self.channel.clone(), self.headers.clone())
    }

    services! {
        /// Pods and their containers, as Kubernetes has them: always in its own namespace.
        pods: RuntimeServiceClient,
        /// Images, as Kubernetes has them.
        pod_images: ImageServiceClient,
        /// Containers, as records.
        containers: ContainersClient,
        /// Blobs.
        content: ContentClient,
        /// Layers, applied and made.
        diff: DiffClient,
        /// What happens.
        events: EventsClient,
        /// Images, as records.
        images: ImagesClient,
        /// What the daemon can do.
        introspection: IntrospectionClient,
        /// An examination of everything the daemon has on the machine.
        doctor: DoctorClient,
        /// What happened, kept.
        journal: JournalClient,
        /// What keeps things from being collected.
        leases: LeasesClient,
        /// Namespaces.
        namespaces: NamespacesClient,
        /// What is under way with images.
        operations: OperationsClient,
        /// Root filesystems.
        snapshots: SnapshotsClient,
        /// Streams beside other calls.
        streaming: StreamingClient,
        /// Running containers.
        tasks: TasksClient,
        /// Images, moved by the daemon.
        transfer: TransferClient,
        /// The daemon's version.
        version: VersionClient,
    }
}
