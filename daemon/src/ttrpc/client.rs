//! One connection to a ttrpc server, shared by any number of calls.
//!
//! ```text
//!  call ──► pending[id] ─┐                    ┌─► pending[id] answered
//!     └────► queue ──► writer ══ socket ══ reader
//! ```
//!
//! Stream ids are odd and grow on the wire: id and place in the queue are given out under one lock. A caller that goes away
//! takes its entry out of the table, so that its answer, if one comes, finds nobody and is dropped. When the connection ends,
//! for whatever reason, all calls fail with [`CallError::Closed`] and [`Client::closed`] returns; it is never reopened here.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::error::{Classify, Kind};
use proto::prost::Message;
use proto::status::Failure;
use proto::ttrpc::{Decoder, FrameKind, Request, Response, TooLong, encode};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{More, read_some};

/// Calls that wait for an answer at one time on one connection. Each holds a map entry only; waits may last for hours.
const MAX_PENDING_CALLS: usize = 4096;

/// Requests that wait to be written. Callers beyond it wait for a place, within their own time limit.
const WRITE_QUEUE: usize = 16;

/// Why a call has no reply.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The other side answered with a failure.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The connection ended before an answer came.
    #[error("ttrpc: closed")]
    Closed,
    /// No answer came in time. The call may still take effect.
    #[error("no answer to {method} within {limit:?}")]
    TimedOut {
        /// The method.
        method: String,
        /// The time limit.
        limit: Duration,
    },
    /// The request, or the answer to it, is longer than a frame may be.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// Too many calls wait on this connection.
    #[error("{MAX_PENDING_CALLS} calls wait on the connection")]
    Busy,
}

impl Classify for CallError {
    fn kind(&self) -> Kind {
        match self {
            Self::Failed(failure) => failure.kind(),
            Self::Closed => Kind::Unknown,
            Self::TimedOut { .. } => Kind::DeadlineExceeded,
            Self::TooLong(error) => error.kind(),
            Self::Busy => Kind::Unavailable,
        }
    }
}

/// A handle of the connection; clones share it. The connection ends when the last handle is dropped.
#[derive(Debug, Clone)]
pub struct Client {
    connection: Arc<Connection>,
}

/// Lives as long as there are handles; its drop ends both tasks.
#[derive(Debug)]
struct Connection {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Vec<u8>>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.closed.cancel();
    }
}

#[derive(Debug)]
struct Shared {
    calls: Mutex<Calls>,
    closed: CancellationToken,
}

#[derive(Debug)]
struct Calls {
    next_id: u32,
    pending: HashMap<u32, oneshot::Sender<Result<Response, TooLong>>>,
}

impl Shared {
    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, id: u32, answer: Result<Response, TooLong>) {
        let waiting = self.calls().pending.remove(&id);
        if let Some(waiting) = waiting {
            // The caller may have gone away this very moment.
            let _ = waiting.send(answer);
        }
    }
}

/// Takes a call out of the table when its caller goes away.
struct Pending<'a> {
    shared: &'a Shared,
    id: u32,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.shared.calls().pending.remove(&self.id);
    }
}

impl Client {
    /// Connects to the socket at `path`. Reader and writer run on `tracker` until the connection ends.
    ///
    /// # Errors
    /// Nobody listens there, or not within `limit`.
    pub async fn connect(path: &Path, limit: Duration, tracker: &TaskTracker) -> io::Result<Self> {
        let stream = tokio::time::timeout(limit, UnixStream::connect(path)).await??;
        Ok(Self::over(stream, tracker))
    }

    /// A client over a socket that is connected already.
    pub fn over(stream: UnixStream, tracker: &TaskTracker) -> Self {
        let shared = Arc::new(Shared {
            calls: Mutex::new(Calls { next_id: 1, pending: HashMap::new() }),
            closed: CancellationToken::new(),
        });
        let (queue, requests) = mpsc::channel(WRITE_QUEUE);
        let (reader, writer) = stream.into_split();
        tracker.spawn(write_all(writer, requests, shared.clone()));
        tracker.spawn(read_all(reader, shared.clone()));
        Self { connection: Arc::new(Connection { shared, queue }) }
    }

    /// Calls a method and waits for its reply, at most `request.timeout()` if it has one, else for as long as it takes.
    ///
    /// # Errors
    /// [`CallError`]. After `TimedOut` the call may still take effect at the other side.
    ///
    /// # Cancel safety
    /// The call is forgotten here; ttrpc has no way to tell the other side.
    pub async fn call<R: Message + Default>(&self, request: &Request) -> Result<R, CallError> {
        let Some(limit) = request.timeout() else { return self.exchange(request).await };
        match tokio::time::timeout(limit, self.exchange(request)).await {
            Ok(result) => result,
            Err(_) => Err(CallError::TimedOut { method: request.method.clone(), limit }),
        }
    }

    async fn exchange<R: Message + Default>(&self, request: &Request) -> Result<R, CallError> {
        let Connection { shared, queue } = &*self.connection;
        let place = tokio::select! {
            place = queue.reserve() => place.map_err(|_| CallError::Closed)?,
            () = shared.closed.cancelled() => return Err(CallError::Closed),
        };
        let (answer, answered) = oneshot::channel();
        let pending = {
            let mut calls = shared.calls();
            // The reader empties the table under this lock after it has set the mark: either it sees our entry or we see the mark.
            if shared.closed.is_cancelled() {
                return Err(CallError::Closed);
            }
            if calls.pending.len() >= MAX_PENDING_CALLS {
                return Err(CallError::Busy);
            }
            let id = calls.next_id;
            let mut frame = Vec::new();
            encode(FrameKind::Request, id, request, &mut frame)?;
            // An id may not come twice on a connection; one that has used up all of them is of no more use.
            calls.next_id = id.checked_add(2).ok_or(CallError::Closed)?;
            calls.pending.insert(id, answer);
            place.send(frame);
            Pending { shared, id }
        };
        let response = answered.await.map_err(|_| CallError::Closed)?;
        drop(pending);
        Ok(response?.into_result()?)
    }

    /// Returns once the connection has ended.
    pub async fn closed(&self) {
        self.connection.shared.closed.cancelled().await;
    }

    /// A token that is cancelled once the connection has ended. It does not keep the connection open.
    pub fn closed_token(&self) -> CancellationToken {
        // A child: whoever holds it must not be able to end the connection with it.
        self.connection.shared.closed.child_token()
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.connection.shared.closed.is_cancelled()
    }

    /// Ends the connection for all handles.
    pub fn close(&self) {
        self.connection.shared.closed.cancel();
    }
}

async fn write_all(mut socket: OwnedWriteHalf, mut requests: mpsc::Receiver<Vec<u8>>, shared: Arc<Shared>) {
    loop {
        let frame = tokio::select! {
            frame = requests.recv() => frame,
            () = shared.closed.cancelled() => None,
        };
        let Some(frame) = frame else { return };
        let written = tokio::select! {
            written = socket.write_all(&frame) => written,
            // A peer that does not read must not hold us beyond the end of the connection.
            () = shared.closed.cancelled() => return,
        };
        if written.is_err() {
            shared.closed.cancel();
            return;
        }
    }
}

async fn read_all(socket: OwnedReadHalf, shared: Arc<Shared>) {
    let mut decoder = Decoder::new();
    loop {
        tokio::select! {
            _ = socket.readable() => {}
            () = shared.closed.cancelled() => break,
        }
        match read_some(&mut decoder, |buffer| socket.try_read(buffer)) {
            Ok(More::Wait) => {}
            Ok(More::Came) if take_in(&mut decoder, &shared) => {}
            _ => break,
        }
    }
    shared.closed.cancel();
    shared.calls().pending.clear();
}

/// Hands out all whole frames; `false` when the other side does not speak ttrpc.
fn take_in(decoder: &mut Decoder, shared: &Shared) -> bool {
    loop {
        match decoder.decode() {
            Ok(None) => return true,
            Ok(Some(frame)) if frame.kind == FrameKind::Response => match Response::decode(frame.payload) {
                Ok(response) => shared.answer(frame.stream_id, Ok(response)),
                Err(_) => return false,
            },
            // No call of ours streams, and unknown kinds are for later versions.
            Ok(Some(_)) => {}
            Err(too_long) => shared.answer(too_long.stream_id, Err(too_long)),
        }
    }
}

#[cfg(test)]
impl Client {
    /// How many calls wait for an answer.
    pub(super) fn pending(&self) -> usize {
        self.connection.shared.calls().pending.len()
    }
}
