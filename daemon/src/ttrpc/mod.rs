//! ttrpc over tokio: the [`client`] that talks to shims, [`attach`] for the live streams of a process, the [`server`] that
//! shims talk to, and [`events`], the one service that is served there.
//!
//! Frames and messages are [`proto::ttrpc`]'s; here are the connections. A connection has a task that writes and a task that
//! reads, so that a caller who gives up never leaves half a frame behind. Nothing here knows what a task or a shim is.

pub mod attach;
pub mod client;
pub mod events;
pub mod server;

pub use client::{CallError, Client};
pub use server::{Server, Service};

use std::io;

use proto::ttrpc::Decoder;

/// How much is read from a socket at once.
const READ_BYTES: usize = 16 << 10;

/// What a read brought.
enum More {
    /// Bytes, which are in the decoder now.
    Came,
    /// Nothing yet; wait until the socket is readable.
    Wait,
}

/// Reads once into the decoder. The buffer is on the stack of this call, so that an idle connection keeps none.
///
/// # Errors
/// The connection is at its end or broken.
fn read_some(decoder: &mut Decoder, read: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<More> {
    let mut buffer = [0; READ_BYTES];
    match read(&mut buffer) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(length) => {
            decoder.extend(&buffer[..length]);
            Ok(More::Came)
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(More::Wait),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
