//! The server side of ttrpc: connections, whole requests in, responses out.
//!
//! Knows frames and no method. Never blocks: what a client does not read waits in a bounded buffer, and a client that
//! lets it overflow loses its connection. Many requests of one connection may be open at the same time, and are answered
//! in any order.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};

use proto::prost::Message;
use proto::prost::bytes::Bytes;
use proto::ttrpc::{Decoder, FrameKind, Request, Response, encode};
use rustix::net::sockopt::socket_peercred;

use crate::log;
use crate::poll::{EventFlags, Key, Poll};

/// The most clients at once, others wait at the door. A daemon has one or two.
const MAX_CONNECTIONS: usize = 64;
/// The most requests of one connection that wait for an answer: one `Wait` for each exec, and some more.
const MAX_OPEN_CALLS: usize = 8192;
/// The most that is kept for a client that does not read.
const MAX_UNSENT_BYTES: usize = 8 << 20;
/// How much is read from one connection before the others get their turn.
const READ_BYTES: usize = 8 << 10;
/// Buffers larger than this are given back once they are empty.
const KEPT_BUFFER_BYTES: usize = 4 << 10;

/// Where an answer goes. Stays valid, without effect, when the connection is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReplyTo {
    connection: Key,
    stream_id: u32,
}

impl ReplyTo {
    /// Whether the answer would go to that connection.
    pub(crate) fn is_of(self, connection: Key) -> bool {
        self.connection == connection
    }

    /// Its stream, for traces.
    pub(crate) fn stream(self) -> u32 {
        self.stream_id
    }

    /// The connection that the answer would go to.
    pub(crate) fn connection(self) -> Key {
        self.connection
    }
}

/// What came of the readiness of a connection.
#[derive(Debug)]
pub(crate) struct Input {
    /// What has come, in order; perhaps nothing.
    pub incoming: Vec<Incoming>,
    /// The connection is gone, after these.
    pub is_closed: bool,
}

/// One frame from a client.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// A request.
    Call(ReplyTo, Request),
    /// A piece of a stream.
    Data(Data),
}

/// A piece of a stream that a request has opened.
#[derive(Debug)]
pub(crate) struct Data {
    stream: ReplyTo,
    /// `FLAG_*` bits.
    pub flags: u8,
    /// The message; empty when the flags are all there is.
    pub payload: Bytes,
}

impl Data {
    /// Whether it belongs to the stream that this request has opened.
    pub(crate) fn is_of(&self, opened: ReplyTo) -> bool {
        self.stream == opened
    }
}

/// The listening socket and all connections to it.
#[derive(Debug)]
pub(crate) struct Clients {
    listener: UnixListener,
    listener_key: Key,
    connections: BTreeMap<Key, Connection>,
}

#[derive(Debug)]
struct Connection {
    socket: UnixStream,
    decoder: Decoder,
    unsent: Vec<u8>,
    /// How much was sent so far.
    sent: u64,
    /// What the socket is watched for.
    interest: EventFlags,
    /// Nothing is read for now.
    is_paused: bool,
    open_calls: usize,
}

impl Clients {
    /// Listens on `listener`, whose readiness will be reported under `key`.
    ///
    /// # Errors
    /// The socket cannot be watched.
    pub(crate) fn new(listener: UnixListener, key: Key, poll: &Poll) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        poll.add(&listener, key, EventFlags::IN)?;
        Ok(Self { listener, listener_key: key, connections: BTreeMap::new() })
    }

    /// Takes in everyone who waits at the door, and gives the keys under which they will be reported.
    pub(crate) fn accept(&mut self, poll: &mut Poll) -> Vec<Key> {
        let mut keys = Vec::new();
        loop {
            if self.connections.len() >= MAX_CONNECTIONS {
                log::warning!("{MAX_CONNECTIONS} connections are open: others wait");
                poll.remove(&self.listener);
                return keys;
            }
            let socket = match self.listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        log::warning!("cannot accept a connection: {error}");
                    }
                    return keys;
                }
            };
            if let Err(reason) = Self::admit(&socket) {
                log::warning!("connection refused: {reason}");
                continue;
            }
            let key = poll.key();
            if socket.set_nonblocking(true).and_then(|()| poll.add(&socket, key, EventFlags::IN)).is_ok() {
                self.connections.insert(key, Connection::new(socket));
                keys.push(key);
            }
        }
    }

    /// Only our own user may command a shim; the socket's mode says so too, but modes get changed.
    fn admit(socket: &UnixStream) -> Result<(), String> {
        let peer = socket_peercred(socket).map_err(|error| format!("peer is unknown: {error}"))?;
        let own = rustix::process::geteuid();
        if peer.uid != own {
            return Err(format!("peer has uid {}, not {}", peer.uid.as_raw(), own.as_raw()));
        }
        Ok(())
    }

    /// Reads and writes what the connection is ready for.
    pub(crate) fn ready(&mut self, key: Key, flags: EventFlags, poll: &Poll) -> Input {
        let mut incoming = Vec::new();
        let Some(connection) = self.connections.get_mut(&key) else { return Input { incoming, is_closed: false } };
        let mut open = true;
        if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            // One that is paused is only reported like this when it is gone.
            open = !connection.is_paused && connection.read(key, &mut incoming);
        }
        if open && (flags.contains(EventFlags::OUT) || !connection.unsent.is_empty()) {
            open = connection.flush(key, poll);
        }
        if !open {
            self.close(key, poll);
        }
        Input { incoming, is_closed: !open }
    }

    /// Sends a piece of a stream, or as much of it as the client takes now. Gives the connection's key when that ended it.
    pub(crate) fn push<M: Message>(&mut self, to: ReplyTo, message: &M, poll: &Poll) -> Option<Key> {
        let connection = self.connections.get_mut(&to.connection)?;
        if let Err(too_long) = encode(FrameKind::Data, to.stream_id, message, &mut connection.unsent) {
            log::error!("{too_long}");
            self.close(to.connection, poll);
            return Some(to.connection);
        }
        self.send(to.connection, poll)
    }

    /// How much waits for the client to read.
    pub(crate) fn unsent(&self, key: Key) -> usize {
        self.connections.get(&key).map_or(0, |connection| connection.unsent.len())
    }

    /// How much it has read so far.
    pub(crate) fn sent(&self, key: Key) -> u64 {
        self.connections.get(&key).map_or(0, |connection| connection.sent)
    }

    /// Reads nothing from the connection, or does again.
    pub(crate) fn pause(&mut self, key: Key, is_paused: bool, poll: &Poll) {
        if let Some(connection) = self.connections.get_mut(&key)
            && std::mem::replace(&mut connection.is_paused, is_paused) != is_paused
        {
            connection.watch(key, poll);
        }
    }

    /// Sends an answer, or as much of it as the client takes now. Gives the connection's key when that ended it.
    pub(crate) fn reply(&mut self, to: ReplyTo, response: &Response, poll: &Poll) -> Option<Key> {
        let connection = self.connections.get_mut(&to.connection)?;
        connection.open_calls = connection.open_calls.saturating_sub(1);
        if let Err(too_long) = encode(FrameKind::Response, to.stream_id, response, &mut connection.unsent) {
            let failed = Response::failed(proto::status::of(&too_long));
            let _ = encode(FrameKind::Response, to.stream_id, &failed, &mut connection.unsent);
        }
        self.send(to.connection, poll)
    }

    /// Writes what the client takes now.
    fn send(&mut self, key: Key, poll: &Poll) -> Option<Key> {
        let connection = self.connections.get_mut(&key)?;
        let waits = connection.interest.contains(EventFlags::OUT);
        let alive = waits || connection.flush(key, poll);
        if alive && connection.unsent.len() <= MAX_UNSENT_BYTES {
            return None;
        }
        self.close(key, poll);
        Some(key)
    }

    /// Ends a connection.
    pub(crate) fn close(&mut self, key: Key, poll: &Poll) {
        let was_full = self.connections.len() >= MAX_CONNECTIONS;
        let Some(connection) = self.connections.remove(&key) else { return };
        poll.remove(&connection.socket);
        if was_full && let Err(error) = poll.add(&self.listener, self.listener_key, EventFlags::IN) {
            log::error!("nobody can connect any more: {error}");
        }
    }
}

impl Connection {
    fn new(socket: UnixStream) -> Self {
        Self {
            socket,
            decoder: Decoder::new(),
            unsent: Vec::new(),
            sent: 0,
            interest: EventFlags::IN,
            is_paused: false,
            open_calls: 0,
        }
    }

    /// Reads once and takes out whole requests; false at the end of the connection.
    fn read(&mut self, key: Key, incoming: &mut Vec<Incoming>) -> bool {
        let mut buffer = [0; READ_BYTES];
        let count = match self.socket.read(&mut buffer) {
            Ok(0) => return false,
            Ok(count) => count,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return true;
            }
            Err(_) => return false,
        };
        self.decoder.extend(&buffer[..count]);
        loop {
            let (stream_id, request) = match self.decoder.decode() {
                Ok(None) => return true,
                Ok(Some(frame)) if frame.kind == FrameKind::Request => (
                    frame.stream_id,
                    prost::Message::decode(frame.payload).map_err(|error: prost::DecodeError| {
                        proto::status::new(model::Kind::InvalidArgument, format!("malformed request: {error}"))
                    }),
                ),
                Ok(Some(frame)) if frame.kind == FrameKind::Data => {
                    let stream = ReplyTo { connection: key, stream_id: frame.stream_id };
                    incoming.push(Incoming::Data(Data { stream, flags: frame.flags, payload: frame.payload }));
                    continue;
                }
                // Responses: nothing that we have asked for.
                Ok(Some(_)) => continue,
                Err(too_long) => (too_long.stream_id, Err(proto::status::of(&too_long))),
            };
            let refusal = match request {
                Ok(_) if self.open_calls >= MAX_OPEN_CALLS => proto::status::new(
                    model::Kind::ResourceExhausted,
                    format!("{MAX_OPEN_CALLS} requests of this connection are open"),
                ),
                Ok(request) => {
                    self.open_calls += 1;
                    incoming.push(Incoming::Call(ReplyTo { connection: key, stream_id }, request));
                    continue;
                }
                Err(status) => status,
            };
            // The caller flushes.
            let _ = encode(FrameKind::Response, stream_id, &Response::failed(refusal), &mut self.unsent);
            if self.unsent.len() > MAX_UNSENT_BYTES {
                return false;
            }
        }
    }

    /// Writes what is unsent and asks to be told when more can be written; false when the connection is broken.
    fn flush(&mut self, key: Key, poll: &Poll) -> bool {
        if self.write().is_err() {
            return false;
        }
        self.watch(key, poll)
    }

    /// Has exactly that reported which can be used.
    fn watch(&mut self, key: Key, poll: &Poll) -> bool {
        let mut interest = EventFlags::empty();
        interest.set(EventFlags::IN, !self.is_paused);
        interest.set(EventFlags::OUT, !self.unsent.is_empty());
        if interest == self.interest {
            return true;
        }
        self.interest = interest;
        poll.change(&self.socket, key, interest).is_ok()
    }

    fn write(&mut self) -> io::Result<()> {
        let mut sent = 0;
        let result = loop {
            if sent == self.unsent.len() {
                break Ok(());
            }
            match self.socket.write(&self.unsent[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        self.unsent.drain(..sent);
        self.sent += sent as u64;
        if self.unsent.is_empty() && self.unsent.capacity() > KEPT_BUFFER_BYTES {
            self.unsent = Vec::new();
        }
        result
    }
}
