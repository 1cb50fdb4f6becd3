//! Named streams beside calls: a client opens one, another of its calls names it, and the two ends talk (containerd's contract).
//!
//! ```text
//!   client ── Stream(id) ──► registered, waiting ── claim(id) ──► a Channel in the hands of a transfer
//!                  │                                                   │ dropped: the client's stream ends
//!                  └── gone: the name is free, the other end reads the end of the stream
//! ```
//!
//! It knows names and ends, never what is said; [`bytes`] speaks the one protocol that several transfers share. A stream is
//! claimed once. Nothing is kept of one that was not claimed when its client goes.

pub mod bytes;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use model::Namespace;
use model::error::{Classify, Kind};
use prost::Name;
use prost_types::Any;
use tokio::sync::mpsc;
use tonic::Status;

/// The most streams that are open at a time, of all clients together.
pub const MAX_STREAMS: usize = 4096;

/// The longest name of a stream, in bytes.
pub const MAX_ID_BYTES: usize = 1024;

/// Messages to a client that may wait for the transport; then the sender waits.
const SEND_AHEAD: usize = 4;

/// Why there is no such stream, or why it cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The client opened none of that name, or somebody has claimed it.
    #[error("stream {id:?}")]
    NotFound {
        /// The name.
        id: String,
    },
    /// A stream of that name is open.
    #[error("stream {id:?}")]
    AlreadyExists {
        /// The name.
        id: String,
    },
    /// No name, or one that is too long.
    #[error("a stream name of {length} bytes, it must have 1 to {MAX_ID_BYTES}")]
    Name {
        /// Its length in bytes.
        length: usize,
    },
    /// Too many streams are open.
    #[error("{MAX_STREAMS} streams are open, which is all there may be")]
    TooMany,
    /// The client is gone.
    #[error("the client closed the stream")]
    Closed,
    /// What the client sent cannot be read.
    #[error("cannot read message {type_url:?} on the stream")]
    Malformed {
        /// What it says it is.
        type_url: String,
        /// What is wrong with it.
        source: prost::DecodeError,
    },
    /// The client sent something else than is due.
    #[error("message {got:?} on the stream, expected {wanted:?}")]
    Unexpected {
        /// What it says it is.
        got: String,
        /// What is due.
        wanted: String,
    },
    /// The transport failed.
    #[error("the stream broke: {message}")]
    Broken {
        /// What it said.
        message: String,
    },
}

impl Classify for StreamError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound { .. } => Kind::NotFound,
            Self::AlreadyExists { .. } => Kind::AlreadyExists,
            Self::Name { .. } | Self::Malformed { .. } | Self::Unexpected { .. } => Kind::InvalidArgument,
            Self::TooMany => Kind::ResourceExhausted,
            Self::Closed | Self::Broken { .. } => Kind::Canceled,
        }
    }
}

type Key = (Namespace, String);

/// The open streams. Clones share them.
#[derive(Clone, Default)]
pub struct Streams {
    /// `None` once claimed.
    open: Arc<Mutex<HashMap<Key, Option<Channel>>>>,
}

impl Streams {
    /// Registers a stream whose client sends `receive`; the answer is what to send to the client. The name is in use until that
    /// is dropped.
    ///
    /// # Errors
    /// The name is in use or no name, or too many streams are open.
    pub fn register(
        &self,
        namespace: Namespace,
        id: String,
        receive: impl Stream<Item = Result<Any, Status>> + Send + 'static,
    ) -> Result<Outgoing, StreamError> {
        if id.is_empty() || id.len() > MAX_ID_BYTES {
            return Err(StreamError::Name { length: id.len() });
        }
        let (send, messages) = mpsc::channel(SEND_AHEAD);
        let channel = Channel { receive: Mutex::new(receive.boxed()), send };
        let key = (namespace, id);
        let mut open = self.lock();
        if open.len() >= MAX_STREAMS {
            return Err(StreamError::TooMany);
        }
        match open.entry(key.clone()) {
            Entry::Occupied(_) => return Err(StreamError::AlreadyExists { id: key.1 }),
            Entry::Vacant(entry) => drop(entry.insert(Some(channel))),
        }
        drop(open);
        Ok(Outgoing { messages, registration: Registration { streams: self.clone(), key } })
    }

    /// Takes the stream of that name, which nobody else can then.
    ///
    /// # Errors
    /// There is none, or it is taken.
    pub fn claim(&self, namespace: &Namespace, id: &str) -> Result<Channel, StreamError> {
        let mut open = self.lock();
        let channel = open.get_mut(&(namespace.clone(), id.to_owned())).and_then(Option::take);
        channel.ok_or_else(|| StreamError::NotFound { id: id.to_owned() })
    }

    /// How many streams are open.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether no stream is open.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Option<Channel>>> {
        // Every change under the lock is a single insertion or removal.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams").field("open", &self.len()).finish()
    }
}

/// What goes to the client of a stream: ends when the channel is dropped.
#[derive(Debug)]
pub struct Outgoing {
    messages: mpsc::Receiver<Any>,
    #[expect(dead_code, reason = "frees the name when it is dropped")]
    registration: Registration,
}

impl Stream for Outgoing {
    type Item = Any;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Any>> {
        self.messages.poll_recv(context)
    }
}

#[derive(Debug)]
struct Registration {
    streams: Streams,
    key: Key,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let channel = self.streams.lock().remove(&self.key);
        // Outside of the lock: what the client sends may own much.
        drop(channel);
    }
}

/// The daemon's end of a stream. Dropping it ends the stream.
pub struct Channel {
    /// Never locked: only so that whoever sends may be on another thread than whoever receives.
    receive: Mutex<BoxStream<'static, Result<Any, Status>>>,
    send: mpsc::Sender<Any>,
}

impl Channel {
    /// Sends a message; waits while the client is behind.
    ///
    /// # Errors
    /// The client is gone.
    pub async fn send<M: Name>(&self, message: &M) -> Result<(), StreamError> {
        self.send.send(proto::any::pack(message)).await.map_err(|_| StreamError::Closed)
    }

    /// The next message; none when the client has sent all.
    ///
    /// # Errors
    /// The stream broke, or the message is of another type.
    ///
    /// # Cancel safety
    /// No message is lost when this is dropped.
    pub async fn receive<M: Name + Default>(&mut self) -> Result<Option<M>, StreamError> {
        let receive = self.receive.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Some(message) = receive.next().await else { return Ok(None) };
        let any = message.map_err(|status| StreamError::Broken { message: status.message().to_owned() })?;
        match proto::any::unpack(&any) {
            Ok(Some(message)) => Ok(Some(message)),
            Ok(None) => Err(StreamError::Unexpected { got: any.type_url, wanted: M::full_name() }),
            Err(source) => Err(StreamError::Malformed { type_url: any.type_url, source }),
        }
    }

    /// Resolves when the client is gone.
    pub async fn closed(&self) {
        self.send.closed().await;
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Channel")
    }
}

#[cfg(test)]
mod tests;
