//! Several connections over one socket, as NRI plugins expect it: frames of a connection's number and a length, four bytes each, big-endian.
//!
//! ```text
//!   ttrpc client ══ pair ══╗            ╔══► connection 1: the plugin is called
//!                          mux ══ trunk ╣
//!   ttrpc server ══ pair ══╝            ╚══► connection 2: the plugin calls
//! ```
//!
//! Both ends here are ordinary sockets, so ttrpc knows nothing of it. When the trunk ends, both end; when either end is closed here,
//! so is the trunk. The peer reads a frame in one piece into a buffer of at least 4 KiB, or of exactly what it lacks of a
//! message; so a message goes out as one frame of at most 4 KiB, and the rest of it as another.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

/// On which the runtime calls the plugin.
pub(super) const PLUGIN: u32 = 1;
/// On which the plugin calls the runtime.
pub(super) const RUNTIME: u32 = 2;

/// Bytes before a message of ttrpc.
const TTRPC_HEADER: usize = 10;
/// The longest message of ttrpc, header included.
const MAX_MESSAGE: usize = TTRPC_HEADER + (4 << 20);
/// The first frame of a message.
const FIRST: usize = 4096;
/// Messages that wait to be written.
const AHEAD: usize = 4;

/// The ends that belong to this side.
pub(super) struct Ends {
    /// For the client that calls the plugin.
    pub(super) plugin: UnixStream,
    /// For the server that the plugin calls.
    pub(super) runtime: UnixStream,
}

/// Splits `trunk`. Its tasks run on `tracker` until it ends, or until `stop`.
pub(super) fn split(trunk: UnixStream, tracker: &TaskTracker, stop: &CancellationToken) -> io::Result<Ends> {
    let (plugin, plugin_inside) = UnixStream::pair()?;
    let (runtime, runtime_inside) = UnixStream::pair()?;
    let (trunk_reading, trunk_writing) = trunk.into_split();
    let (plugin_reading, plugin_writing) = plugin_inside.into_split();
    let (runtime_reading, runtime_writing) = runtime_inside.into_split();
    let (frames, queued) = mpsc::channel(AHEAD);
    // Whichever part ends first ends the others, and drops their sockets.
    let over = stop.child_token();
    let spawn = |part: std::pin::Pin<Box<dyn Future<Output = io::Result<()>> + Send>>| {
        let over = over.clone();
        tracker.spawn(async move {
            let guard = over.clone().drop_guard();
            if let Some(Err(error)) = over.run_until_cancelled(part).await {
                debug!(error = %error, "connection to an NRI plugin ended");
            }
            drop(guard);
        });
    };
    spawn(Box::pin(messages(PLUGIN, plugin_reading, frames.clone())));
    spawn(Box::pin(messages(RUNTIME, runtime_reading, frames)));
    spawn(Box::pin(write_all(trunk_writing, queued)));
    spawn(Box::pin(deal_out(trunk_reading, plugin_writing, runtime_writing)));
    Ok(Ends { plugin, runtime })
}

/// Reads whole messages of ttrpc from one end.
async fn messages(connection: u32, mut from: OwnedReadHalf, to: mpsc::Sender<(u32, Vec<u8>)>) -> io::Result<()> {
    loop {
        let mut message = vec![0; TTRPC_HEADER];
        from.read_exact(&mut message).await?;
        let length = u32::from_be_bytes([message[0], message[1], message[2], message[3]]) as usize;
        if TTRPC_HEADER + length > MAX_MESSAGE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a ttrpc message that is too long"));
        }
        message.resize(TTRPC_HEADER + length, 0);
        from.read_exact(&mut message[TTRPC_HEADER..]).await?;
        to.send((connection, message)).await.map_err(|_| io::ErrorKind::BrokenPipe)?;
    }
}

async fn write_all(mut trunk: OwnedWriteHalf, mut messages: mpsc::Receiver<(u32, Vec<u8>)>) -> io::Result<()> {
    while let Some((connection, message)) = messages.recv().await {
        let (first, rest) = message.split_at(message.len().min(FIRST));
        for part in [first, rest].into_iter().filter(|part| !part.is_empty()) {
            let length = u32::try_from(part.len()).expect("a message is shorter than 5 MiB");
            let frame = [&connection.to_be_bytes()[..], &length.to_be_bytes(), part].concat();
            trunk.write_all(&frame).await?;
        }
    }
    Ok(())
}

/// Hands what comes to the end it is for. What is for neither is dropped, as the other side does.
async fn deal_out(mut trunk: OwnedReadHalf, mut plugin: OwnedWriteHalf, mut runtime: OwnedWriteHalf) -> io::Result<()> {
    loop {
        let connection = trunk.read_u32().await?;
        let length = trunk.read_u32().await? as usize;
        if length > MAX_MESSAGE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame that is too long"));
        }
        let mut frame = vec![0; length];
        trunk.read_exact(&mut frame).await?;
        match connection {
            PLUGIN => plugin.write_all(&frame).await?,
            RUNTIME => runtime.write_all(&frame).await?,
            _ => {}
        }
    }
}
