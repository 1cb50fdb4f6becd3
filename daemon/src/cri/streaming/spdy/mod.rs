//! SPDY/3.1 as Kubernetes' clients speak it: the server's side of one connection.
//!
//! ```text
//!  socket ──► reader ──► frames ──► per stream: bounded queue ──► Stream (AsyncRead)
//!  socket ◄── writer ◄── one bounded queue of frames ◄─────────── Stream (AsyncWrite)
//! ```
//!
//! Source of the rules: SPDY Protocol, draft 3.1. Two things differ from its letter, because all clients of this protocol are one
//! implementation (the one in kubectl, the kubelet and crictl): what is sent is not held back by the peer's window, since
//! that implementation never opens it (TCP holds back instead), and pushed streams and settings are ignored.
//!
//! It knows no Kubernetes: headers are pairs of strings, data are bytes. A peer that breaks the format loses its connection;
//! a peer that opens too many streams has them refused.

mod connection;
mod dictionary;
mod frame;
mod headers;

pub(super) use connection::{Connection, Stream};
#[cfg(test)]
pub(super) use frame::{FLAG_FIN, HEADER_LEN, Kind, encode_control, encode_data};
#[cfg(test)]
pub(super) use headers::Deflater;
