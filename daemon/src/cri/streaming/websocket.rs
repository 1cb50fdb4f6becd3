//! WebSocket: exec, attach and the old port-forward over numbered channels, and SPDY tunnelled in messages.
//!
//! The first byte of a message is its channel; in the `base64.` protocols messages are text, a digit and then base64. From
//! `v5` on a message `255, n` half-closes channel n.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt, StreamExt};
use prost::bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_util::io::StreamReader;
use tokio_util::sync::{CancellationToken, PollSender};
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::remote::Version;
use super::session::{Backend, End, Io, Session, sizes};

/// The protocols for exec and attach, the best first; the empty name is that of clients which name none.
pub(super) const PROTOCOLS: [&str; 5] =
    ["v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "channel.k8s.io", "base64.channel.k8s.io"];
/// The protocols for port-forward.
pub(super) const FORWARD_PROTOCOLS: [&str; 5] =
    [TUNNEL, "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "channel.k8s.io", "base64.channel.k8s.io"];
/// SPDY inside of messages.
pub(super) const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// The longest message that is taken.
const MAX_MESSAGE: usize = 1 << 20;
/// The longest message that is sent.
const MAX_PIECE: usize = 32 << 10;
/// Messages that wait, for each channel and direction.
const AHEAD: usize = 8;
/// Bytes that wait inside a tunnel.
const TUNNEL_AHEAD: usize = 64 << 10;
/// How long a client may take to answer that the connection is closed.
const LINGER: Duration = Duration::from_secs(5);
/// How long the connection may be silent is checked by whoever made it; this bounds the last words.
const REPORTING: Duration = Duration::from_secs(10);

type Incoming = StreamReader<ReceiverStream<io::Result<Bytes>>, Bytes>;

/// A connection with numbered channels.
struct Channels {
    inputs: HashMap<u8, Incoming>,
    out: mpsc::Sender<(u8, Bytes)>,
    gone: CancellationToken,
    written: tokio::task::JoinHandle<()>,
}

/// The sending end of a channel.
struct Sender {
    channel: u8,
    out: PollSender<(u8, Bytes)>,
}

impl AsyncWrite for Sender {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.out.poll_reserve(cx)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        let piece = bytes.len().min(MAX_PIECE);
        let message = (this.channel, Bytes::copy_from_slice(&bytes[..piece]));
        this.out.send_item(message).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Poll::Ready(Ok(piece))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Takes the upgraded connection as a WebSocket.
pub(super) async fn accept<I: AsyncRead + AsyncWrite + Unpin>(io: I) -> WebSocketStream<I> {
    let config = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

impl Channels {
    /// Reads `from` and writes to the other end in the background, on `tracker`, until the client leaves, is silent for `idle`, or
    /// this is closed.
    fn new<I>(socket: WebSocketStream<I>, from: &[u8], base64: bool, idle: Duration, tracker: &TaskTracker) -> Self
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (mut sink, mut source) = socket.split();
        let (mut queues, mut inputs) = (HashMap::new(), HashMap::new());
        for channel in from {
            let (queue, queued) = mpsc::channel(AHEAD);
            queues.insert(*channel, queue);
            inputs.insert(*channel, StreamReader::new(ReceiverStream::new(queued)));
        }
        let (out, mut outgoing) = mpsc::channel::<(u8, Bytes)>(AHEAD);
        let gone = CancellationToken::new();
        let told = gone.clone().drop_guard();
        let stop = gone.clone();
        tracker.spawn(async move {
            let _told = told;
            loop {
                let message = tokio::select! {
                    message = timeout(idle, source.next()) => message,
                    () = stop.cancelled() => return,
                };
                let Ok(Some(Ok(message))) = message else { return };
                let Some((channel, bytes)) = decode(message, base64) else { continue };
                if channel == CLOSE {
                    queues.remove(&bytes.first().copied().unwrap_or(STDIN));
                } else if let Some(queue) = queues.get(&channel)
                    && queue.send(Ok(bytes)).await.is_err()
                {
                    queues.remove(&channel);
                }
            }
        });
        let stop = gone.clone();
        let written = tracker.spawn(async move {
            loop {
                let next = tokio::select! {
                    next = outgoing.recv() => next,
                    () = stop.cancelled() => None,
                };
                let Some((channel, bytes)) = next else { break };
                if sink.send(encode(channel, &bytes, base64)).await.is_err() {
                    return;
                }
            }
            drop(timeout(LINGER, sink.close()).await);
        });
        Self { inputs, out, gone, written }
    }

    fn input(&mut self, channel: u8) -> Option<Incoming> {
        self.inputs.remove(&channel)
    }

    fn output(&self, channel: u8) -> Sender {
        Sender { channel, out: PollSender::new(self.out.clone()) }
    }

    /// Writes what is left, says that all is over, and waits a short while for the client to close.
    async fn close(self) {
        let Self { inputs, out, gone, written } = self;
        drop((inputs, out));
        drop(timeout(REPORTING, written).await);
        drop(timeout(LINGER, gone.cancelled()).await);
        gone.cancel();
    }
}

fn decode(message: Message, base64: bool) -> Option<(u8, Bytes)> {
    match message {
        Message::Binary(bytes) if !base64 => Some((*bytes.first()?, bytes.slice(1..))),
        Message::Text(text) if base64 => {
            let (digit, rest) = text.as_bytes().split_first()?;
            Some((digit.checked_sub(b'0')?, STANDARD.decode(rest).ok()?.into()))
        }
        _ => None,
    }
}

fn encode(channel: u8, bytes: &[u8], base64: bool) -> Message {
    if base64 {
        Message::text(format!("{}{}", char::from(b'0' + channel), STANDARD.encode(bytes)))
    } else {
        Message::binary([&[channel][..], bytes].concat())
    }
}

/// Serves exec or attach to its end.
pub(super) async fn serve_remote<I: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    socket: WebSocketStream<I>,
    session: Session,
    protocol: Option<&str>,
    backend: &dyn Backend,
    idle: Duration,
    tracker: &TaskTracker,
) {
    let (Session::Exec { wanted, .. } | Session::Attach { wanted, .. }) = &session else { return };
    let base64 = protocol.is_some_and(|name| name.contains("base64"));
    let mut channels = Channels::new(socket, &[STDIN, RESIZE], base64, idle, tracker);
    let io = Io {
        stdin: channels.input(STDIN).filter(|_| wanted.stdin).map(|input| Box::new(input) as _),
        stdout: wanted.stdout.then(|| Box::new(channels.output(STDOUT)) as _),
        stderr: wanted.stderr.then(|| Box::new(channels.output(STDERR)) as _),
        resize: channels.input(RESIZE).filter(|_| wanted.tty).map(|input| sizes(input, tracker)),
    };
    // Clients take the first message, an empty one, for the sign that the session has begun.
    let first = if wanted.stdout {
        STDOUT
    } else if wanted.stderr {
        STDERR
    } else {
        ERROR
    };
    if channels.out.send((first, Bytes::new())).await.is_err() {
        return;
    }
    let end = match session {
        Session::Exec { container, command, wanted } => {
            End::of_exec(backend.exec(container, command, wanted, io).await)
        }
        Session::Attach { container, wanted } => tokio::select! {
            result = backend.attach(container, wanted, io) => End::of_attach(result),
            () = channels.gone.cancelled() => return,
        },
        Session::Forward { .. } => return,
    };
    let report = end.report(Version::of(protocol).structured());
    if !report.is_empty() && channels.out.send((ERROR, report.into())).await.is_err() {
        debug!("streaming client left before the report of its session's end");
    }
    channels.close().await;
}

/// Serves the old port-forward: two channels for each port, data and errors, each of which begins with the port's number.
pub(super) async fn serve_forward<I: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    socket: WebSocketStream<I>,
    (pod, ports): (String, Vec<u16>),
    protocol: Option<&str>,
    backend: Arc<dyn Backend>,
    idle: Duration,
    tracker: &TaskTracker,
) {
    let base64 = protocol.is_some_and(|name| name.contains("base64"));
    let data = |index: usize| u8::try_from(2 * index).ok().filter(|channel| *channel < ERROR_LIMIT);
    let numbers: Vec<u8> = (0..ports.len()).map_while(data).collect();
    if numbers.len() < ports.len() {
        debug!(ports = ports.len(), "a WebSocket carries fewer ports than were asked for; the rest is not served");
    }
    let mut channels = Channels::new(socket, &numbers, base64, idle, tracker);
    let mut pairs = tokio::task::JoinSet::new();
    for (port, number) in ports.into_iter().zip(numbers) {
        let input = channels.input(number).expect("made above, one for each number");
        let (output, mut errors) = (channels.output(number), channels.output(number + 1));
        let (pod, backend) = (pod.clone(), backend.clone());
        pairs.spawn(async move {
            let (mut input, mut output) = (input, output);
            let begun = async {
                output.write_all(&port.to_le_bytes()).await?;
                errors.write_all(&port.to_le_bytes()).await
            };
            if begun.await.is_err() {
                return;
            }
            let result = match backend.connect(pod.clone(), port).await {
                Ok(socket) => {
                    let (mut from, mut to) = socket.into_split();
                    // A client cannot half-close a channel: it is over when the server has no more to say.
                    let feeding = async {
                        drop(tokio::io::copy(&mut input, &mut to).await);
                        drop(to.shutdown().await);
                        std::future::pending::<()>().await;
                    };
                    tokio::select! {
                        copied = tokio::io::copy(&mut from, &mut output) => copied.map(drop).map_err(|error| error.to_string()),
                        () = feeding => Ok(()),
                    }
                }
                Err(why) => Err(why),
            };
            if let Err(why) = result {
                let text = format!("an error occurred forwarding port {port} to pod {pod}: {why}");
                drop(errors.write_all(text.as_bytes()).await);
            }
        });
    }
    tokio::select! {
        () = channels.gone.cancelled() => {}
        () = async { while pairs.join_next().await.is_some() {} } => {}
    }
    drop(pairs);
    channels.close().await;
}

/// Channel numbers are a byte, and in the base64 protocols a printable character after `0`.
const ERROR_LIMIT: u8 = 78;

/// The inside of a tunnel: what is written to it arrives as messages, and the other way round.
pub(super) fn tunnel<I>(socket: WebSocketStream<I>, tracker: &TaskTracker) -> tokio::io::DuplexStream
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (inside, outside) = tokio::io::duplex(TUNNEL_AHEAD);
    let (mut sink, mut source) = socket.split();
    let (mut reading, mut writing) = tokio::io::split(outside);
    tracker.spawn(async move {
        while let Some(Ok(message)) = source.next().await {
            if let Message::Binary(bytes) = message
                && writing.write_all(&bytes).await.is_err()
            {
                break;
            }
        }
        drop(writing.shutdown().await);
    });
    tracker.spawn(async move {
        let mut piece = vec![0; MAX_PIECE];
        while let Ok(read) = reading.read(&mut piece).await {
            if read == 0 || sink.send(Message::binary(piece[..read].to_vec())).await.is_err() {
                break;
            }
        }
        drop(timeout(LINGER, sink.close()).await);
    });
    inside
}
