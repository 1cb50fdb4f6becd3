//! A ttrpc server on a unix socket, for peers of our own user.
//!
//! Calls of one connection are answered one after the other, in the order in which they came: events of a shim must not
//! overtake each other, and a peer that sends faster than it is served is held back by its own socket. Connections are
//! counted; when there are too many, new ones wait in the backlog. What a peer sends can end its connection, nothing else.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use model::error::Kind;
use nix::unistd::geteuid;
use proto::prost::Message;
use proto::status;
use proto::ttrpc::{Decoder, Frame, FrameKind, Request, Response, encode};
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::{More, read_some};

/// Connections at one time: one for every shim, and room for those that connect anew for each event.
const MAX_CONNECTIONS: usize = 8192;

/// The longest a call may take, whatever its caller grants.
const MAX_CALL_TIME: Duration = Duration::from_secs(10);

/// How long a peer may take to read an answer before it is given up.
const MAX_WRITE_TIME: Duration = Duration::from_secs(10);

/// The pause after a failed accept: too many open files do not pass by trying at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What is served.
pub trait Service: Send + Sync + 'static {
    /// Answers one call. Unknown services and methods get [`Response::unimplemented`].
    fn call(&self, request: Request) -> impl Future<Output = Response> + Send;
}

/// A server that has not been started.
#[derive(Debug)]
pub struct Server<S> {
    service: Arc<S>,
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl<S: Service> Server<S> {
    /// A server whose connections run on `tracker` until `stop` is cancelled.
    pub fn new(service: S, tracker: TaskTracker, stop: CancellationToken) -> Self {
        Self { service: Arc::new(service), tracker, stop }
    }

    /// Accepts connections until the token is cancelled. Calls in progress are finished; the tracker says when.
    pub async fn serve(self, listener: UnixListener) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let place = tokio::select! {
                place = places.clone().acquire_owned() => place.expect("the semaphore is never closed"),
                () = self.stop.cancelled() => return,
            };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.cancelled() => return,
            };
            match accepted {
                Ok((stream, _)) => self.take(stream, place),
                Err(error) => {
                    warn!(%error, "cannot accept a ttrpc connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Serves one connection that is there already, in the background, until it ends or the token is cancelled.
    pub fn serve_one(self, stream: UnixStream) {
        let Self { service, tracker, stop } = self;
        tracker.spawn(async move {
            if let Err(error) = converse(&*service, stream, &stop).await {
                debug!(%error, "a ttrpc connection ended");
            }
        });
    }

    fn take(&self, stream: UnixStream, place: OwnedSemaphorePermit) {
        match stream.peer_cred() {
            Ok(peer) if peer.uid() == geteuid().as_raw() => {}
            Ok(peer) => {
                warn!(uid = peer.uid(), pid = peer.pid(), "refused a ttrpc connection of another user");
                return;
            }
            Err(error) => {
                warn!(%error, "refused a ttrpc connection of an unknown user");
                return;
            }
        }
        let (service, stop) = (self.service.clone(), self.stop.clone());
        self.tracker.spawn(async move {
            if let Err(error) = converse(&*service, stream, &stop).await {
                debug!(%error, "a ttrpc connection ended");
            }
            drop(place);
        });
    }
}

/// Serves one connection until it ends or the server stops.
async fn converse<S: Service>(service: &S, mut stream: UnixStream, stop: &CancellationToken) -> io::Result<()> {
    let mut decoder = Decoder::new();
    let mut last_id = 0;
    loop {
        tokio::select! {
            ready = stream.readable() => ready?,
            () = stop.cancelled() => return Ok(()),
        }
        match read_some(&mut decoder, |buffer| stream.try_read(buffer)) {
            Ok(More::Wait) => continue,
            Ok(More::Came) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && decoder.is_between_frames() => return Ok(()),
            Err(error) => return Err(error),
        }
        loop {
            let (id, response) = match decoder.decode() {
                Ok(None) => break,
                Ok(Some(frame)) if frame.kind == FrameKind::Request => {
                    (frame.stream_id, answer(service, frame, &mut last_id).await)
                }
                Ok(Some(_)) => continue,
                Err(too_long) => (too_long.stream_id, Response::failed(status::of(&too_long))),
            };
            send(&mut stream, id, &response).await?;
            if stop.is_cancelled() {
                return Ok(());
            }
        }
    }
}

async fn answer<S: Service>(service: &S, frame: Frame, last_id: &mut u32) -> Response {
    let id = frame.stream_id;
    if id.is_multiple_of(2) {
        return invalid("stream id must be odd for streams that a client opens");
    }
    if id <= *last_id {
        return invalid("stream id must be larger than that of the call before");
    }
    *last_id = id;
    let request = match Request::decode(frame.payload) {
        Ok(request) => request,
        Err(error) => return invalid(&format!("cannot decode the request: {error}")),
    };
    let limit = request.timeout().map_or(MAX_CALL_TIME, |timeout| timeout.min(MAX_CALL_TIME));
    match tokio::time::timeout(limit, service.call(request)).await {
        Ok(response) => response,
        Err(_) => Response::failed(status::new(Kind::DeadlineExceeded, format!("not done within {limit:?}"))),
    }
}

fn invalid(message: &str) -> Response {
    Response::failed(status::new(Kind::InvalidArgument, format!("{message}: invalid argument")))
}

async fn send(stream: &mut UnixStream, id: u32, response: &Response) -> io::Result<()> {
    let mut frame = Vec::new();
    if let Err(too_long) = encode(FrameKind::Response, id, response, &mut frame) {
        let refusal = Response::failed(status::of(&too_long));
        encode(FrameKind::Response, id, &refusal, &mut frame).map_err(io::Error::other)?;
    }
    tokio::time::timeout(MAX_WRITE_TIME, stream.write_all(&frame)).await?
}
