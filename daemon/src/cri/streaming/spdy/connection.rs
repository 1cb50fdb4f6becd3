//! One connection: a reader and a writer, and the streams between them.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use prost::bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufWriter, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard, PollSender};
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::frame::{
    Control, FLAG_FIN, HEADER_LEN, Header, Kind, MAX_DATA, Reset, encode_control, encode_data, invalid, number,
};
use super::headers::{Deflater, Inflater, Pairs};

/// Streams of one connection at one time; two for each forwarded TCP connection, five for an exec.
const MAX_STREAMS: usize = 1024;
/// Streams that wait to be accepted.
const ACCEPT_AHEAD: usize = 64;
/// Pieces of data that wait to be read, for each stream; beyond it the connection is not read.
const READ_AHEAD: usize = 8;
/// The longest piece.
const PIECE: usize = 32 << 10;
/// Frames that wait to be written; beyond it the writers wait.
const WRITE_AHEAD: usize = 16;
/// How long a peer may take to close after it was told that all is over, so that nothing it was sent is lost to a reset.
const LINGER: Duration = Duration::from_secs(5);
/// The window that a stream begins with (section 2.6.8); it is opened again by what was read.
const WINDOW: u32 = 64 << 10;

/// What goes to the writer.
#[derive(Debug)]
enum Out {
    Reply(u32),
    Data { stream: u32, fin: bool, bytes: Bytes },
    Reset(u32, Reset),
    Ping(u32),
    Window { stream: u32, read: u32 },
    Close { last: u32 },
}

/// The server's side of a connection.
#[derive(Debug)]
pub(in super::super) struct Connection {
    accepted: mpsc::Receiver<Stream>,
    out: mpsc::Sender<Out>,
    ended: CancellationToken,
    closing: Arc<AtomicBool>,
    // Ends the reader, whose peer may never close.
    _stop: DropGuard,
}

impl Connection {
    /// Serves a connection on `io`; its two halves run on `tracker`. It ends by itself when nothing passes for `idle`.
    pub(in super::super) fn new<I: AsyncRead + AsyncWrite + Send + 'static>(
        io: I,
        idle: Duration,
        tracker: &TaskTracker,
    ) -> Self {
        let (reading, writing) = tokio::io::split(io);
        let (out, outgoing) = mpsc::channel(WRITE_AHEAD);
        let (accept, accepted) = mpsc::channel(ACCEPT_AHEAD);
        let (ended, stop) = (CancellationToken::new(), CancellationToken::new());
        let closing = Arc::new(AtomicBool::new(false));
        let active = Arc::new(std::sync::Mutex::new(Instant::now()));
        tracker.spawn(write_all(writing, outgoing, active.clone()));
        let reader = Reader {
            io: reading,
            inflater: Inflater::new(),
            streams: HashMap::new(),
            last: 0,
            unacknowledged: 0,
            accept,
            out: out.clone(),
            idle,
            active,
            closing: closing.clone(),
        };
        let (told, stopped) = (ended.clone().drop_guard(), stop.clone());
        tracker.spawn(async move {
            let _told = told;
            if let Some(Err(error)) = stopped.run_until_cancelled(reader.run()).await {
                debug!(error = %error, "streaming connection ended");
            }
        });
        Self { accepted, out, ended, closing, _stop: stop.drop_guard() }
    }

    /// The next stream that the peer opens; nothing when the connection is over.
    pub(in super::super) async fn accept(&mut self) -> Option<Stream> {
        self.accepted.recv().await
    }

    /// Until the peer has gone.
    pub(in super::super) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Says that no more streams are taken, writes what is left, and waits a short while for the peer to close.
    pub(in super::super) async fn close(self) {
        self.closing.store(true, Ordering::Relaxed);
        if self.out.send(Out::Close { last: 0 }).await.is_ok() {
            drop(timeout(LINGER, self.ended.cancelled()).await);
        }
    }
}

/// One stream. Reading gives what the peer sends until it half-closes; shutting down the writing side half-closes ours.
#[derive(Debug)]
pub(in super::super) struct Stream {
    id: u32,
    headers: Pairs,
    incoming: mpsc::Receiver<Bytes>,
    current: Bytes,
    out: PollSender<Out>,
    window: mpsc::WeakSender<Out>,
    unacknowledged: u32,
    reset: Arc<AtomicBool>,
    finished: bool,
}

impl Stream {
    /// Its number; odd, and growing within a connection.
    pub(in super::super) fn id(&self) -> u32 {
        self.id
    }

    /// The value of a header it was opened with; names are in lower case.
    pub(in super::super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Opens the peer's window again by what was read, in steps.
    fn opened(&mut self, read: usize) {
        self.unacknowledged += u32::try_from(read).unwrap_or(WINDOW);
        if self.unacknowledged < WINDOW / 2 {
            return;
        }
        // A full queue only puts it off to the next read.
        if let Some(out) = self.window.upgrade()
            && out.try_send(Out::Window { stream: self.id, read: self.unacknowledged }).is_ok()
        {
            self.unacknowledged = 0;
        }
    }

    fn was_reset(&self) -> bool {
        self.reset.load(Ordering::Relaxed)
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.current.is_empty() {
            match ready!(this.incoming.poll_recv(cx)) {
                Some(bytes) => this.current = bytes,
                None if this.was_reset() => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                None => return Poll::Ready(Ok(())),
            }
        }
        let piece = this.current.len().min(buf.remaining());
        buf.put_slice(&this.current[..piece]);
        this.current.advance(piece);
        this.opened(piece);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.was_reset() || this.finished {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(this.out.poll_reserve(cx)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        let piece = bytes.len().min(MAX_DATA);
        let frame = Out::Data { stream: this.id, fin: false, bytes: Bytes::copy_from_slice(&bytes[..piece]) };
        this.out.send_item(frame).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Poll::Ready(Ok(piece))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.finished || this.was_reset() {
            return Poll::Ready(Ok(()));
        }
        if ready!(this.out.poll_reserve(cx)).is_ok() {
            drop(this.out.send_item(Out::Data { stream: this.id, fin: true, bytes: Bytes::new() }));
        }
        this.finished = true;
        Poll::Ready(Ok(()))
    }
}

/// A stream, as the reader knows it.
struct Open {
    incoming: Option<mpsc::Sender<Bytes>>,
    reset: Arc<AtomicBool>,
}

struct Reader<I> {
    io: I,
    inflater: Inflater,
    streams: HashMap<u32, Open>,
    last: u32,
    unacknowledged: usize,
    accept: mpsc::Sender<Stream>,
    out: mpsc::Sender<Out>,
    idle: Duration,
    active: Arc<std::sync::Mutex<Instant>>,
    closing: Arc<AtomicBool>,
}

impl<I: AsyncRead + Unpin> Reader<I> {
    async fn run(mut self) -> io::Result<()> {
        while let Some(header) = self.header().await? {
            match header {
                Header::Data { stream, fin, len } => self.data(stream, fin, len).await?,
                Header::Unknown { len } => drop(self.payload(len).await?),
                Header::Control(control) => self.control(control).await?,
            }
        }
        Ok(())
    }

    /// The next header; nothing at the end. Silence on both sides for too long is an error.
    async fn header(&mut self) -> io::Result<Option<Header>> {
        let mut bytes = [0; HEADER_LEN];
        let mut got = 0;
        while got < HEADER_LEN {
            let since = *self.active.lock().expect("nobody panics with it held");
            match timeout(self.idle.saturating_sub(since.elapsed()), self.io.read(&mut bytes[got..])).await {
                Ok(read) => match read? {
                    0 if got == 0 => return Ok(None),
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    read => got += read,
                },
                Err(_) if self.active.lock().expect("nobody panics with it held").elapsed() < self.idle => continue,
                Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "no traffic for too long")),
            }
            *self.active.lock().expect("nobody panics with it held") = Instant::now();
        }
        Header::parse(bytes).map(Some)
    }

    async fn payload(&mut self, len: usize) -> io::Result<Vec<u8>> {
        let mut payload = vec![0; len];
        self.io.read_exact(&mut payload).await?;
        Ok(payload)
    }

    async fn control(&mut self, control: Control) -> io::Result<()> {
        let payload = self.payload(control.len).await?;
        match control.kind {
            Kind::SynStream => self.open(control.flags, &payload).await,
            Kind::RstStream => {
                if let Some(open) = self.streams.remove(&number(&payload, 0)?) {
                    open.reset.store(true, Ordering::Relaxed);
                }
                Ok(())
            }
            // Numbers of ours would be even; none is sent, so an even one is an answer to nothing.
            Kind::Ping => match number(&payload, 0)? {
                id if id % 2 == 1 => self.send(Out::Ping(id)).await,
                _ => Ok(()),
            },
            Kind::Headers => {
                let (id, block) = (number(&payload, 0)?, &payload[4..]);
                // The context must see every block, whether anybody wants it or not.
                drop(self.inflater.pairs(block)?);
                if control.flags & FLAG_FIN != 0
                    && let Some(open) = self.streams.get_mut(&id)
                {
                    open.incoming = None;
                }
                Ok(())
            }
            Kind::SynReply => Err(invalid("a reply to a stream that was never opened")),
            Kind::Settings | Kind::GoAway | Kind::WindowUpdate => Ok(()),
        }
    }

    async fn open(&mut self, flags: u8, payload: &[u8]) -> io::Result<()> {
        let id = number(payload, 0)? & 0x7fff_ffff;
        let block = payload.get(10..).ok_or_else(|| invalid("a SPDY stream without headers"))?;
        let headers = self.inflater.pairs(block)?;
        if id % 2 == 0 || id <= self.last {
            return Err(invalid(format!("SPDY stream {id} after {}", self.last)));
        }
        self.last = id;
        // Those whose `Stream` is gone.
        self.streams.retain(|_, open| Arc::strong_count(&open.reset) > 1);
        if self.streams.len() >= MAX_STREAMS || self.closing.load(Ordering::Relaxed) {
            return self.send(Out::Reset(id, Reset::RefusedStream)).await;
        }
        let (queue, incoming) = mpsc::channel(READ_AHEAD);
        let reset = Arc::new(AtomicBool::new(false));
        let open = Open { incoming: (flags & FLAG_FIN == 0).then_some(queue), reset: reset.clone() };
        self.streams.insert(id, open);
        let stream = Stream {
            id,
            headers,
            incoming,
            current: Bytes::new(),
            out: PollSender::new(self.out.clone()),
            window: self.out.downgrade(),
            unacknowledged: 0,
            reset,
            finished: false,
        };
        self.send(Out::Reply(id)).await?;
        if self.accept.send(stream).await.is_err() {
            self.streams.remove(&id);
        }
        Ok(())
    }

    /// Passes data on in pieces, so that a frame of any length takes little memory.
    async fn data(&mut self, stream: u32, fin: bool, mut len: usize) -> io::Result<()> {
        if stream == 0 || stream > self.last {
            return Err(invalid(format!("data of SPDY stream {stream}, which was never opened")));
        }
        while len > 0 {
            let piece = self.payload(len.min(PIECE)).await?;
            len -= piece.len();
            self.acknowledge(piece.len());
            let queue = self.streams.get(&stream).and_then(|open| open.incoming.clone());
            let gone = match queue {
                Some(queue) => queue.send(piece.into()).await.is_err(),
                None => false,
            };
            if gone && self.streams.remove(&stream).is_some() {
                // Nobody reads it any more; what still comes is thrown away.
                self.send(Out::Reset(stream, Reset::InvalidStream)).await?;
            }
            *self.active.lock().expect("nobody panics with it held") = Instant::now();
        }
        if fin && let Some(open) = self.streams.get_mut(&stream) {
            open.incoming = None;
        }
        Ok(())
    }

    /// Opens the window of the whole connection by what was taken off it.
    fn acknowledge(&mut self, read: usize) {
        self.unacknowledged += read;
        if self.unacknowledged >= WINDOW as usize / 2 {
            let read = u32::try_from(self.unacknowledged).unwrap_or(WINDOW);
            if self.out.try_send(Out::Window { stream: 0, read }).is_ok() {
                self.unacknowledged = 0;
            }
        }
    }

    async fn send(&mut self, frame: Out) -> io::Result<()> {
        self.out.send(frame).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Writes frames until there is nobody left who could send one, or until told that all is over.
async fn write_all<I: AsyncWrite>(io: I, mut frames: mpsc::Receiver<Out>, active: Arc<std::sync::Mutex<Instant>>) {
    let mut io = Box::pin(BufWriter::new(io));
    let mut deflater = Deflater::new();
    let mut closed = false;
    while let Some(frame) = frames.recv().await {
        closed = matches!(frame, Out::Close { .. });
        let mut written = write(&mut io, &mut deflater, frame).await;
        if written.is_ok() && (frames.is_empty() || closed) {
            written = io.flush().await;
        }
        if let Err(error) = written {
            debug!(error = %error, "streaming connection cannot be written");
            return;
        }
        *active.lock().expect("nobody panics with it held") = Instant::now();
        if closed {
            break;
        }
    }
    // The peer may have gone; there is nobody to tell.
    drop(io.shutdown().await);
    debug!(closed, "streaming connection written to its end");
}

async fn write<I: AsyncWrite + Unpin>(io: &mut I, deflater: &mut Deflater, frame: Out) -> io::Result<()> {
    let control = match frame {
        Out::Data { stream, fin, bytes } => {
            io.write_all(&encode_data(stream, fin, bytes.len())).await?;
            return io.write_all(&bytes).await;
        }
        Out::Reply(id) => {
            let block = deflater.block(&[])?;
            encode_control(Kind::SynReply, 0, &[&id.to_be_bytes()[..], &block].concat())
        }
        Out::Reset(id, why) => encode_control(Kind::RstStream, 0, &pair(id, why as u32)),
        Out::Ping(id) => encode_control(Kind::Ping, 0, &id.to_be_bytes()),
        Out::Window { stream, read } => encode_control(Kind::WindowUpdate, 0, &pair(stream, read)),
        Out::Close { last } => encode_control(Kind::GoAway, 0, &pair(last, 0)),
    };
    io.write_all(&control).await
}

fn pair(first: u32, second: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&first.to_be_bytes());
    bytes[4..].copy_from_slice(&second.to_be_bytes());
    bytes
}
