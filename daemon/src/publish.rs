//! `gantryd publish`: sends one event to a running daemon, for shims that start a program for that.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use proto::prost::Message;
use proto::prost_types::Any;
use proto::services::events::v1::PublishRequest;
use proto::services::events::v1::events_client::EventsClient;
use tokio::net::UnixStream;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

use crate::api::call::NAMESPACE_KEY;

/// How long all of it may take; the shim waits.
const TIME: Duration = Duration::from_secs(5);

/// The largest event, in bytes.
const MAX_EVENT_BYTES: u64 = 4 << 20;

/// Why the event was not sent.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Standard input cannot be read.
    #[error("cannot read the event from standard input")]
    Read(#[source] std::io::Error),
    /// Standard input holds something else.
    #[error("standard input holds no event")]
    Decode(#[source] proto::prost::DecodeError),
    /// The namespace cannot be sent.
    #[error("namespace {namespace:?} cannot be sent")]
    Namespace {
        /// The namespace.
        namespace: String,
    },
    /// Nobody answers.
    #[error("cannot reach the daemon on {}", address.display())]
    Connect {
        /// The socket.
        address: PathBuf,
        /// Why.
        source: tonic::transport::Error,
    },
    /// The daemon said no.
    #[error("the daemon refused the event: {}", .0.message())]
    Refused(tonic::Status),
    /// The daemon said nothing.
    #[error("the daemon did not answer within {TIME:?}")]
    Time,
}

/// Connects to a daemon.
///
/// # Errors
/// Nobody listens there.
pub async fn connect(address: &Path) -> Result<Channel, tonic::transport::Error> {
    let path = address.to_owned();
    // The name is never looked up: the connector dials the socket.
    Endpoint::from_static("http://daemon.invalid")
        .connect_with_connector(tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        }))
        .await
}

/// Reads an `Any` from standard input and publishes it.
///
/// # Errors
/// It was not published.
pub async fn run(address: &Path, namespace: String, topic: String) -> Result<(), PublishError> {
    let mut bytes = Vec::new();
    std::io::stdin().lock().take(MAX_EVENT_BYTES).read_to_end(&mut bytes).map_err(PublishError::Read)?;
    let event = Any::decode(bytes.as_slice()).map_err(PublishError::Decode)?;
    let mut request = Request::new(PublishRequest { topic, event: Some(event) });
    let value = namespace.parse().map_err(|_| PublishError::Namespace { namespace })?;
    request.metadata_mut().insert(NAMESPACE_KEY, value);
    let publish = async {
        let channel =
            connect(address).await.map_err(|source| PublishError::Connect { address: address.to_owned(), source })?;
        EventsClient::new(channel).publish(request).await.map_err(PublishError::Refused)?;
        Ok(())
    };
    tokio::time::timeout(TIME, publish).await.unwrap_or(Err(PublishError::Time))
}
