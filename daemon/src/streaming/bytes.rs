//! Bytes over a stream, with credit: the receiver says how many more it takes, the sender waits for that.
//!
//! The receiver speaks first. Neither side ever holds more than a window.

use proto::bytes::Bytes;
use proto::types::transfer::{Data, WindowUpdate};

use super::{Channel, StreamError};

/// How many bytes a receiver takes ahead of its reader.
pub const WINDOW_BYTES: usize = 64 * 1024;

/// The largest piece that is sent at once.
pub const PIECE_BYTES: usize = 32 * 1024;

/// The largest credit that is kept; a client that gives more gets no more at once for it.
const MAX_CREDIT: usize = 1 << 30;

/// Bytes that a client sends.
#[derive(Debug)]
pub struct Receiver {
    channel: Channel,
    /// What the client may still send.
    credit: usize,
}

impl Receiver {
    /// Receives over `channel`.
    pub fn new(channel: Channel) -> Self {
        Self { channel, credit: 0 }
    }

    /// The next piece, never empty; none at the end.
    ///
    /// # Errors
    /// The stream broke or the client sends something else.
    pub async fn next(&mut self) -> Result<Option<Bytes>, StreamError> {
        loop {
            if self.credit <= WINDOW_BYTES - PIECE_BYTES {
                let missing = WINDOW_BYTES - self.credit;
                // If the client is gone, the end of what it sent says so.
                let update = WindowUpdate { update: i32::try_from(missing).unwrap_or(i32::MAX) };
                let _ = self.channel.send(&update).await;
                self.credit = WINDOW_BYTES;
            }
            let Some(Data { data }) = self.channel.receive().await? else { return Ok(None) };
            self.credit = self.credit.saturating_sub(data.len());
            if !data.is_empty() {
                return Ok(Some(data));
            }
        }
    }
}

/// Bytes that go to a client.
#[derive(Debug)]
pub struct Sender {
    channel: Channel,
    /// What the client still takes.
    credit: usize,
}

impl Sender {
    /// Sends over `channel`.
    pub fn new(channel: Channel) -> Self {
        Self { channel, credit: 0 }
    }

    /// Sends all of `bytes`, in pieces, as the client takes them.
    ///
    /// # Errors
    /// The client is gone or answers with something else than credit.
    pub async fn send(&mut self, mut bytes: Bytes) -> Result<(), StreamError> {
        while !bytes.is_empty() {
            while self.credit == 0 {
                let Some(WindowUpdate { update }) = self.channel.receive().await? else {
                    return Err(StreamError::Closed);
                };
                self.credit = self.credit.saturating_add(usize::try_from(update).unwrap_or(0)).min(MAX_CREDIT);
            }
            let piece = bytes.split_to(bytes.len().min(PIECE_BYTES).min(self.credit));
            self.credit -= piece.len();
            self.channel.send(&Data { data: piece }).await?;
        }
        Ok(())
    }
}
