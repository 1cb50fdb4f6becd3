//! The frames of ttrpc, and the messages in them.
//!
//! ```text
//!  0        4           8      9       10
//!  │ length │ stream id │ kind │ flags │ payload: length bytes …      numbers are big-endian
//! ```
//!
//! A call is one request frame and one response frame with the same stream id; clients use odd ids, each only once.
//!
//! This is a pure codec: bytes in, frames out, and back. It does no I/O, knows no method, and is used alike by the async
//! daemon and by the single-threaded shim. What a peer sends can make it fail, but not panic, and not keep more than one
//! frame of at most [`MAX_PAYLOAD_BYTES`] beyond what the caller hands in at once.

use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use model::error::{Classify, Kind};
use prost::{
    DecodeError, Message,
    bytes::{self, BufMut},
};

pub use crate::wire::ttrpc::{KeyValue, Request, Response};
use crate::{google::rpc::Status, status::Failure};

/// Size of the header before each payload.
pub const HEADER_BYTES: usize = 10;

/// The largest payload, as in every other implementation; also the bound on memory for one frame.
pub const MAX_PAYLOAD_BYTES: usize = 4 << 20;

/// Metadata key under which the namespace of a call travels.
pub const NAMESPACE_KEY: &str = "containerd-namespace-ttrpc";

/// Buffers that have grown beyond this are given back once they are empty.
const KEPT_BUFFER_BYTES: usize = 16 << 10;

/// Flag: the sender is not going to send more on this stream.
pub const FLAG_REMOTE_CLOSED: u8 = 1;
/// Flag: the sender is going to send data frames on this stream.
pub const FLAG_REMOTE_OPEN: u8 = 2;
/// Flag: a data frame without data.
pub const FLAG_NO_DATA: u8 = 4;

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// Opens a stream; the payload is a [`Request`].
    Request,
    /// Ends a stream; the payload is a [`Response`].
    Response,
    /// A piece of a streaming call, of which the protocol of shims has none.
    Data,
    /// One that was invented later. Receivers ignore it.
    Other(u8),
}

impl FrameKind {
    fn from_wire(byte: u8) -> Self {
        match byte {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Data,
            other => Self::Other(other),
        }
    }

    fn to_wire(self) -> u8 {
        match self {
            Self::Request => 1,
            Self::Response => 2,
            Self::Data => 3,
            Self::Other(other) => other,
        }
    }
}

/// One frame, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The call it belongs to.
    pub stream_id: u32,
    /// What it is for.
    pub kind: FrameKind,
    /// `FLAG_*` bits; 0 in calls that do not stream.
    pub flags: u8,
    /// The encoded message.
    pub payload: Bytes,
}

/// A payload longer than [`MAX_PAYLOAD_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("message length {length} exceed maximum message size of {MAX_PAYLOAD_BYTES}")]
pub struct TooLong {
    /// The call it belongs to.
    pub stream_id: u32,
    /// Its length in bytes.
    pub length: usize,
}

impl Classify for TooLong {
    fn kind(&self) -> Kind {
        Kind::ResourceExhausted
    }
}

/// Appends a frame that carries `message` to `out`.
///
/// # Errors
///
/// The message is too long; `out` is unchanged.
pub fn encode<M: Message>(kind: FrameKind, stream_id: u32, message: &M, out: &mut Vec<u8>) -> Result<(), TooLong> {
    let length = message.encoded_len();
    put_header(kind, stream_id, 0, length, out)?;
    message.encode_raw(out);
    Ok(())
}

/// Appends a frame as it is to `out`.
///
/// # Errors
///
/// The payload is too long; `out` is unchanged.
pub fn encode_frame(frame: &Frame, out: &mut Vec<u8>) -> Result<(), TooLong> {
    put_header(frame.kind, frame.stream_id, frame.flags, frame.payload.len(), out)?;
    out.extend_from_slice(&frame.payload);
    Ok(())
}

fn put_header(kind: FrameKind, stream_id: u32, flags: u8, length: usize, out: &mut Vec<u8>) -> Result<(), TooLong> {
    if length > MAX_PAYLOAD_BYTES {
        return Err(TooLong { stream_id, length });
    }
    out.reserve(HEADER_BYTES + length);
    out.put_u32(u32::try_from(length).expect("the maximum fits"));
    out.put_u32(stream_id);
    out.put_u8(kind.to_wire());
    out.put_u8(flags);
    Ok(())
}

/// Turns a byte stream, cut anywhere, into frames.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
    /// How much of a frame that was too long is still to come, and to be thrown away.
    skip: usize,
}

impl Decoder {
    /// A decoder at the start of a connection. It allocates nothing until bytes come.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in what was read from the connection. Call [`decode`](Self::decode) until it has nothing more, then read on.
    pub fn extend(&mut self, bytes: &[u8]) {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        self.buffer.extend_from_slice(&bytes[skipped..]);
    }

    /// The next frame, or `None` until more bytes have come.
    ///
    /// # Errors
    ///
    /// A frame is too long. It is skipped as it comes in, and the decoder goes on behind it: a server can answer that
    /// stream with the error and keep the connection.
    pub fn decode(&mut self) -> Result<Option<Frame>, TooLong> {
        let Some(mut header) = self.buffer.get(..HEADER_BYTES) else {
            self.give_back();
            return Ok(None);
        };
        let length = header.get_u32() as usize;
        let stream_id = header.get_u32();
        let kind = FrameKind::from_wire(header.get_u8());
        let flags = header.get_u8();

        if length > MAX_PAYLOAD_BYTES {
            let here = length.min(self.buffer.len() - HEADER_BYTES);
            self.buffer.advance(HEADER_BYTES + here);
            self.skip = length - here;
            return Err(TooLong { stream_id, length });
        }
        if self.buffer.len() - HEADER_BYTES < length {
            return Ok(None);
        }
        self.buffer.advance(HEADER_BYTES);
        let payload = self.buffer.split_to(length).freeze();
        Ok(Some(Frame { stream_id, kind, flags, payload }))
    }

    /// Whether the stream may end here: no frame has been begun.
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        self.buffer.is_empty() && self.skip == 0
    }

    /// One large message must not make an idle connection large for ever.
    fn give_back(&mut self) {
        if self.buffer.is_empty() && self.buffer.capacity() > KEPT_BUFFER_BYTES {
            self.buffer = BytesMut::new();
        }
    }
}

impl Request {
    /// A call of `method` of `service`, to which metadata and a timeout can be added.
    #[must_use]
    pub fn new<M: Message>(service: &str, method: &str, message: &M) -> Self {
        Self {
            service: service.to_owned(),
            method: method.to_owned(),
            payload: message.encode_to_vec().into(),
            timeout_nano: 0,
            metadata: Vec::new(),
        }
    }

    /// The same call in a namespace.
    #[must_use]
    pub fn in_namespace(mut self, namespace: &str) -> Self {
        self.metadata.push(KeyValue { key: NAMESPACE_KEY.to_owned(), value: namespace.to_owned() });
        self
    }

    /// The same call with a bound on how long its caller waits.
    #[must_use]
    pub fn within(mut self, timeout: Duration) -> Self {
        self.timeout_nano = i64::try_from(timeout.as_nanos()).unwrap_or(i64::MAX);
        self
    }

    /// The namespace it is made in, if it says so.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.metadata.iter().find(|pair| pair.key == NAMESPACE_KEY).map(|pair| pair.value.as_str())
    }

    /// How long its caller waits; `None` is for ever.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        u64::try_from(self.timeout_nano).ok().filter(|nanos| *nanos > 0).map(Duration::from_nanos)
    }

    /// Its message.
    ///
    /// # Errors
    ///
    /// The payload is not an `M`.
    pub fn message<M: Message + Default>(&self) -> Result<M, DecodeError> {
        M::decode(self.payload.clone())
    }
}

impl Response {
    /// A success.
    #[must_use]
    pub fn ok<M: Message>(message: &M) -> Self {
        Self { status: None, payload: message.encode_to_vec().into() }
    }

    /// A failure.
    #[must_use]
    pub fn failed(status: Status) -> Self {
        Self { status: Some(status), payload: Bytes::new() }
    }

    /// The answer to a method that is not served. Callers tell an older service by it.
    #[must_use]
    pub fn unimplemented(service: &str, method: &str) -> Self {
        Self::failed(crate::status::new(Kind::Unimplemented, format!("method {service}/{method} not implemented")))
    }

    /// The reply, or what went wrong at the other side.
    ///
    /// # Errors
    ///
    /// The other side failed, or its reply is not an `M`.
    pub fn into_result<M: Message + Default>(self) -> Result<M, Failure> {
        match self.status {
            Some(status) if status.code != crate::status::OK => Err(Failure::from(status)),
            _ => M::decode(self.payload).map_err(|error| Failure {
                kind: Kind::Internal,
                message: format!("cannot decode the reply: {error}"),
            }),
        }
    }
}

#[cfg(test)]
mod tests;
