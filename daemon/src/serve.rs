//! The gRPC server on its socket, from the first connection to the end of the drain.
//!
//! When told to stop it takes no more connections and no more requests, and waits for those in flight; what is not done within
//! [`DRAIN_TIME`] is left to the end of the process.

use std::io;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use tracing::{info, warn};

use crate::api::layers::Traffic;

/// How long requests in flight may take when the daemon stops.
pub const DRAIN_TIME: Duration = Duration::from_secs(10);

/// Requests at one time on one connection. Clients keep one connection and wait for every container on it.
const MAX_STREAMS: u32 = 100_000;

/// Requests that a client gave up and that were not yet looked at. Go clients cancel in bursts, and must not be cut off for it.
const MAX_PENDING_RESETS: usize = 10_000;

/// What a client may send ahead in one request, in bytes: uploads go in messages of a megabyte or more.
const STREAM_WINDOW: u32 = 4 << 20;

/// The same for all requests of a connection.
const CONNECTION_WINDOW: u32 = 16 << 20;

/// The largest HTTP/2 frame that is taken, in bytes.
const MAX_FRAME: u32 = 1 << 20;

/// The largest set of headers that is taken, in bytes.
const MAX_HEADERS: u32 = 256 << 10;

/// Why the server ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket cannot be used by the runtime.
    #[error("cannot serve on the socket")]
    Socket(#[source] io::Error),
    /// The server failed.
    #[error("the gRPC server failed")]
    Grpc(#[source] tonic::transport::Error),
}

/// Serves until `stop`, then drains. No keepalive is demanded of clients, and none is sent: old ones would take it amiss.
///
/// # Errors
/// The server ended before it was told to.
pub async fn serve(
    routes: Routes,
    listener: std::os::unix::net::UnixListener,
    traffic: Traffic,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let listener = UnixListener::from_std(listener).map_err(ServeError::Socket)?;
    let server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .max_frame_size(MAX_FRAME)
        .http2_max_header_list_size(MAX_HEADERS)
        .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
        .layer(traffic.clone())
        .add_routes(routes)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop.clone().cancelled_owned());
    let bounded = async {
        stop.cancelled().await;
        info!(in_flight = traffic.in_flight(), "draining");
        tokio::time::sleep(DRAIN_TIME).await;
    };
    tokio::select! {
        ended = server => ended.map_err(ServeError::Grpc),
        () = bounded => {
            warn!(in_flight = traffic.in_flight(), "requests were cut off");
            Ok(())
        }
    }
}
