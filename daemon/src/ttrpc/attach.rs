//! A client that is attached to the streams of a process: the one streaming call there is (`gantry.shim.v1.Logs/Attach`).
//!
//! It has a connection of its own. To drop both halves is to detach; what the process does with its end of input then is
//! the shim's business, by the stdio strings of its creation.

use std::io;
use std::path::Path;
use std::time::Duration;

use model::error::Kind;
use proto::gantry::shim::v1::{AttachInput, AttachOutput, AttachRequest};
use proto::prost::Message as _;
use proto::status::Failure;
use proto::ttrpc::{
    Decoder, FLAG_NO_DATA, FLAG_REMOTE_CLOSED, FLAG_REMOTE_OPEN, Frame, FrameKind, Request, Response, encode_frame,
};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::client::CallError;
use super::{More, read_some};

/// The one stream of the connection.
const STREAM: u32 = 1;
/// The most input in one frame; more is cut.
const INPUT_BYTES: usize = 32 << 10;

/// What comes out of the process.
#[derive(Debug)]
pub struct Output {
    socket: OwnedReadHalf,
    decoder: Decoder,
}

/// What goes into it. To drop it says nothing: that is [`close`](Self::close).
#[derive(Debug)]
pub struct Input {
    /// There until the drop.
    socket: Option<OwnedWriteHalf>,
}

impl Drop for Input {
    fn drop(&mut self) {
        // Dropped by itself it would shut the socket down, which is to detach.
        if let Some(socket) = self.socket.take() {
            socket.forget();
        }
    }
}

/// Attaches to a process of the shim behind `socket`. Once this returns, no output is missed.
///
/// # Errors
/// Nobody listens there, or not within `limit`; the shim refuses, with `Unimplemented` when it is another kind of shim.
pub async fn attach(socket: &Path, request: &AttachRequest, limit: Duration) -> Result<(Output, Input), CallError> {
    let begin = async {
        let stream = UnixStream::connect(socket).await.map_err(|_| CallError::Closed)?;
        let (reader, writer) = stream.into_split();
        let (mut output, mut input) =
            (Output { socket: reader, decoder: Decoder::new() }, Input { socket: Some(writer) });
        let call = Request::new(proto::service::LOGS, "Attach", request);
        let flags = if request.stdin { FLAG_REMOTE_OPEN } else { FLAG_REMOTE_CLOSED };
        input.send(FrameKind::Request, flags, call.encode_to_vec()).await.map_err(|_| CallError::Closed)?;
        match output.next().await? {
            Some(_) => Ok((output, input)),
            None => Err(CallError::Closed),
        }
    };
    match tokio::time::timeout(limit, begin).await {
        Ok(result) => result,
        Err(_) => Err(CallError::TimedOut { method: "Attach".to_owned(), limit }),
    }
}

impl Output {
    /// The next piece; `None` once the process has ended and all of its output was seen.
    ///
    /// # Errors
    /// The shim has dropped us, for being too slow for one, or is gone.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn next(&mut self) -> Result<Option<AttachOutput>, CallError> {
        loop {
            while let Some(frame) = self.decoder.decode()? {
                match frame.kind {
                    FrameKind::Data => return Ok(Some(decoded(AttachOutput::decode(frame.payload))?)),
                    FrameKind::Response => {
                        decoded(Response::decode(frame.payload))?.into_result::<()>()?;
                        return Ok(None);
                    }
                    FrameKind::Request | FrameKind::Other(_) => {}
                }
            }
            self.socket.readable().await.map_err(|_| CallError::Closed)?;
            match read_some(&mut self.decoder, |buffer| self.socket.try_read(buffer)) {
                Ok(More::Came | More::Wait) => {}
                Err(_) => return Err(CallError::Closed),
            }
        }
    }
}

impl Input {
    /// Hands bytes to the process, or waits until the shim takes them.
    ///
    /// # Errors
    /// The shim has closed the connection, which [`Output::next`] says why.
    pub async fn write(&mut self, data: &[u8]) -> io::Result<()> {
        for piece in data.chunks(INPUT_BYTES) {
            let message = AttachInput { data: piece.to_vec() };
            self.send(FrameKind::Data, 0, message.encode_to_vec()).await?;
        }
        Ok(())
    }

    /// Says that there is no more input. Output goes on.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn close(&mut self) -> io::Result<()> {
        self.send(FrameKind::Data, FLAG_REMOTE_CLOSED | FLAG_NO_DATA, Vec::new()).await
    }

    async fn send(&mut self, kind: FrameKind, flags: u8, payload: Vec<u8>) -> io::Result<()> {
        let mut bytes = Vec::new();
        let frame = Frame { stream_id: STREAM, kind, flags, payload: payload.into() };
        encode_frame(&frame, &mut bytes).map_err(io::Error::other)?;
        let socket = self.socket.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        socket.write_all(&bytes).await
    }
}

fn decoded<M>(message: Result<M, proto::prost::DecodeError>) -> Result<M, CallError> {
    message.map_err(|error| {
        CallError::Failed(Failure { kind: Kind::Internal, message: format!("cannot decode the stream: {error}") })
    })
}
