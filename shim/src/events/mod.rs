//! Events on their way to the daemon: in order, one after the other, until the daemon has them.
//!
//! A daemon that is away loses nothing: the queue waits for it for ever, and tries again at growing intervals. Nothing here
//! blocks; the driver's loop reports the connection's key and the retry deadline.

mod queue;

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use prost::{Message as _, Name};
use proto::events::{
    TaskCheckpointed, TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskOom, TaskPaused,
    TaskResumed, TaskStart,
};
use proto::services::events::ttrpc::v1::ForwardRequest;
use proto::ttrpc::{Decoder, FrameKind, Request, Response, encode};
use proto::types::Envelope;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use self::queue::{Queue, Queued};
use crate::log;
use crate::poll::{EventFlags, Key, Poll, TimerId};
use crate::trace::trace;

/// How long the daemon may take to acknowledge one.
const ACKNOWLEDGE: Duration = Duration::from_secs(10);
/// The pause after a failure, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
const READ_BYTES: usize = 1024;

/// Something that happened to a task.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event {
    Create(TaskCreate),
    Start(TaskStart),
    Oom(TaskOom),
    Exit(TaskExit),
    Delete(TaskDelete),
    ExecAdded(TaskExecAdded),
    ExecStarted(TaskExecStarted),
    Paused(TaskPaused),
    Resumed(TaskResumed),
    Checkpointed(TaskCheckpointed),
}

impl Event {
    /// Its topic.
    pub(crate) fn topic(&self) -> &'static str {
        match self {
            Self::Create(_) => "/tasks/create",
            Self::Start(_) => "/tasks/start",
            Self::Oom(_) => "/tasks/oom",
            Self::Exit(_) => "/tasks/exit",
            Self::Delete(_) => "/tasks/delete",
            Self::ExecAdded(_) => "/tasks/exec-added",
            Self::ExecStarted(_) => "/tasks/exec-started",
            Self::Paused(_) => "/tasks/paused",
            Self::Resumed(_) => "/tasks/resumed",
            Self::Checkpointed(_) => "/tasks/checkpointed",
        }
    }

    fn pack(&self) -> prost_types::Any {
        fn any<M: Name>(message: &M) -> prost_types::Any {
            proto::any::pack(message)
        }
        match self {
            Self::Create(message) => any(message),
            Self::Start(message) => any(message),
            Self::Oom(message) => any(message),
            Self::Exit(message) => any(message),
            Self::Delete(message) => any(message),
            Self::ExecAdded(message) => any(message),
            Self::ExecStarted(message) => any(message),
            Self::Paused(message) => any(message),
            Self::Resumed(message) => any(message),
            Self::Checkpointed(message) => any(message),
        }
    }

    /// The container it is about.
    pub(crate) fn container(&self) -> &str {
        match self {
            Self::Create(event) => &event.container_id,
            Self::Start(event) => &event.container_id,
            Self::Oom(event) => &event.container_id,
            Self::Exit(event) => &event.container_id,
            Self::Delete(event) => &event.container_id,
            Self::ExecAdded(event) => &event.container_id,
            Self::ExecStarted(event) => &event.container_id,
            Self::Paused(event) => &event.container_id,
            Self::Resumed(event) => &event.container_id,
            Self::Checkpointed(event) => &event.container_id,
        }
    }

    /// The container whose init it says the end of.
    fn init_exit(&self) -> Option<&str> {
        match self {
            Self::Exit(exit) if exit.id == exit.container_id => Some(&exit.container_id),
            _ => None,
        }
    }
}

#[derive(Debug)]
enum Link {
    /// Nothing to send, or nobody to send it to for now.
    Down,
    /// Connected; perhaps one event is unacknowledged.
    Up(Connection),
}

#[derive(Debug)]
struct Connection {
    socket: UnixStream,
    key: Key,
    decoder: Decoder,
    unsent: Vec<u8>,
    next_stream: u32,
    /// Whether the first of the queue has been sent.
    in_flight: bool,
}

/// What the driver has to do after a call.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Todo {
    /// Watch this key for us from now on.
    pub watch: Option<Key>,
    /// Forget this key.
    pub unwatch: Option<Key>,
    /// Whether an earlier wish for a timer is void.
    pub settles_timer: bool,
    /// Call [`Publisher::on_timer`] after this long.
    pub timer: Option<Duration>,
    /// The daemon knows that the init of this container has ended.
    pub published: Option<String>,
}

/// The queue and the connection.
#[derive(Debug)]
pub(crate) struct Publisher {
    address: Option<PathBuf>,
    namespace: String,
    queue: Queue,
    link: Link,
    retry: Duration,
    /// The deadline that the driver keeps for us.
    pub timer: Option<TimerId>,
}

impl Publisher {
    /// Sends to the daemon's ttrpc socket at `address`; without one, events go nowhere. Those that wait for long are kept in
    /// `folder`.
    pub(crate) fn new(address: Option<PathBuf>, namespace: &str, folder: &Path) -> Self {
        if address.is_none() {
            log::warning!("no TTRPC_ADDRESS: events go nowhere");
        }
        let (queue, link) = (Queue::new(folder), Link::Down);
        Self { address, namespace: namespace.to_owned(), queue, link, retry: RETRY.0, timer: None }
    }

    /// Whether the daemon has everything.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Puts an event at the end of the queue. [`advance`](Self::advance) sends it.
    pub(crate) fn push(&mut self, event: &Event) {
        if self.address.is_none() {
            return;
        }
        let envelope = Envelope {
            timestamp: Some(SystemTime::now().into()),
            namespace: self.namespace.clone(),
            topic: event.topic().to_owned(),
            event: Some(event.pack()),
        };
        self.queue.push(Queued {
            request: ForwardRequest { envelope: Some(envelope) }.encode_to_vec(),
            topic: event.topic().to_owned(),
            init_exit: event.init_exit().map(ToOwned::to_owned),
        });
    }

    /// Sends the first of the queue if nothing is on its way.
    pub(crate) fn advance(&mut self, poll: &mut Poll) -> Todo {
        if self.queue.is_empty() {
            return Todo::default();
        }
        let mut todo = Todo::default();
        if matches!(self.link, Link::Down) {
            if self.timer.is_some() {
                return todo;
            }
            match self.connect(poll) {
                Ok(key) => todo.watch = Some(key),
                Err(error) => return self.failed(&error, poll),
            }
        }
        let (Link::Up(connection), Some(first)) = (&mut self.link, self.queue.front()) else { return todo };
        if connection.in_flight {
            return todo;
        }
        if let Err(error) = connection.send(&first.request, &self.namespace, poll) {
            let watched = todo.watch;
            todo = self.failed(&error, poll);
            todo.watch = watched;
            return todo;
        }
        todo.settles_timer = true;
        todo.timer = Some(ACKNOWLEDGE);
        todo
    }

    fn connect(&mut self, poll: &mut Poll) -> io::Result<Key> {
        let path = self.address.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // With a full backlog this fails at once, and is tried again as any failure is.
        rustix::net::connect(&socket, &SocketAddrUnix::new(path.as_path())?)?;
        let key = poll.key();
        poll.add(&socket, key, EventFlags::IN)?;
        let socket = UnixStream::from(socket);
        let (decoder, unsent) = (Decoder::new(), Vec::new());
        self.link = Link::Up(Connection { socket, key, decoder, unsent, next_stream: 1, in_flight: false });
        Ok(key)
    }

    /// Gives the connection up and asks to be called again later.
    fn failed(&mut self, error: &io::Error, poll: &Poll) -> Todo {
        let mut todo = Todo { settles_timer: true, ..Todo::default() };
        if let Link::Up(connection) = std::mem::replace(&mut self.link, Link::Down) {
            poll.remove(&connection.socket);
            todo.unwatch = Some(connection.key);
        }
        if !self.queue.is_empty() {
            let (in_memory, bytes_in_file) = self.queue.waiting();
            log::debug!("{in_memory} events and {bytes_in_file} bytes of more wait for the daemon: {error}");
            todo.timer = Some(self.retry);
            self.retry = (self.retry * 2).min(RETRY.1);
        }
        todo
    }

    /// The connection's key was reported.
    pub(crate) fn ready(&mut self, poll: &mut Poll) -> Todo {
        let Link::Up(connection) = &mut self.link else { return Todo::default() };
        let response = match connection.exchange(poll) {
            Ok(None) => return Todo::default(),
            Ok(Some(response)) => response,
            Err(error) => return self.failed(&error, poll),
        };
        connection.in_flight = false;
        let mut published = None;
        match response.into_result::<()>() {
            Ok(()) => {
                trace!("event.known", "{}", self.queue.front().map_or("", |queued| queued.topic.as_str()));
                published = self.queue.pop_front().and_then(|queued| queued.init_exit);
            }
            // It will never take this one; the others must not wait for it.
            Err(refused) if is_final(refused.kind) => {
                if let Some(queued) = self.queue.pop_front() {
                    log::error!("the daemon refuses an event of {}: {}", queued.topic, refused.message);
                    published = queued.init_exit;
                }
            }
            Err(refused) => return self.failed(&io::Error::other(refused.message), poll),
        }
        self.retry = RETRY.0;
        let mut todo = self.advance(poll);
        todo.settles_timer = true;
        todo.published = published;
        todo
    }

    /// The deadline has come: an acknowledgement is overdue, or it is time to try again.
    pub(crate) fn on_timer(&mut self, poll: &mut Poll) -> Todo {
        self.timer = None;
        match &self.link {
            Link::Up(connection) if connection.in_flight => {
                self.failed(&io::Error::from(io::ErrorKind::TimedOut), poll)
            }
            _ => self.advance(poll),
        }
    }
}

fn is_final(kind: model::Kind) -> bool {
    matches!(kind, model::Kind::InvalidArgument | model::Kind::Unimplemented | model::Kind::PermissionDenied)
}

impl Connection {
    fn send(&mut self, forward: &[u8], namespace: &str, poll: &Poll) -> io::Result<()> {
        let request = Request {
            service: proto::service::EVENTS.to_owned(),
            method: "Forward".to_owned(),
            payload: forward.to_vec().into(),
            ..Request::default()
        };
        let request = request.in_namespace(namespace).within(ACKNOWLEDGE);
        encode(FrameKind::Request, self.next_stream, &request, &mut self.unsent).map_err(io::Error::other)?;
        // Clients use odd numbers; a connection that has used them all is replaced.
        self.next_stream = self.next_stream.checked_add(2).ok_or(io::ErrorKind::ConnectionAborted)?;
        self.in_flight = true;
        self.flush(poll)
    }

    fn flush(&mut self, poll: &Poll) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match self.socket.write(&self.unsent) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return poll.change(&self.socket, self.key, EventFlags::IN | EventFlags::OUT);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.unsent = Vec::new();
        Ok(())
    }

    /// Writes what is unsent, reads what has come; the response to the event on its way, if it is among that.
    fn exchange(&mut self, poll: &Poll) -> io::Result<Option<Response>> {
        if !self.unsent.is_empty() {
            self.flush(poll)?;
            if self.unsent.is_empty() {
                poll.change(&self.socket, self.key, EventFlags::IN)?;
            }
        }
        let mut buffer = [0; READ_BYTES];
        match self.socket.read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::ConnectionReset.into()),
            Ok(count) => self.decoder.extend(&buffer[..count]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        while let Some(frame) = self.decoder.decode().map_err(io::Error::other)? {
            if self.in_flight && frame.kind == FrameKind::Response && frame.stream_id == self.next_stream - 2 {
                return Ok(Some(Response::decode(frame.payload).map_err(io::Error::other)?));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(pid: u32) -> Event {
        Event::Start(TaskStart { container_id: "c".into(), pid })
    }

    fn exit(pid: u32) -> Event {
        Event::Exit(TaskExit { container_id: "c".into(), id: "c".into(), pid, ..Default::default() })
    }

    #[test]
    fn pauses_grow_while_nobody_is_there() {
        let mut poll = Poll::new().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut publisher = Publisher::new(Some(folder.path().join("none")), "ns", folder.path());
        assert_eq!(publisher.advance(&mut poll), Todo::default(), "nothing to send");
        publisher.push(&start(1));
        let first = publisher.advance(&mut poll).timer.unwrap();
        let second = publisher.on_timer(&mut poll).timer.unwrap();
        assert!(first == RETRY.0 && second > first);
        for _ in 0..20 {
            publisher.on_timer(&mut poll);
        }
        assert_eq!(publisher.retry, RETRY.1);
    }

    #[test]
    fn events_go_one_by_one_and_a_lost_connection_repeats_the_one_on_its_way() {
        let mut poll = Poll::new().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        let daemon = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let mut publisher = Publisher::new(Some(path), "ns", folder.path());
        publisher.push(&start(1));
        publisher.push(&exit(1));
        publisher.advance(&mut poll);
        assert_eq!(receive(&daemon.accept().unwrap().0).2, "/tasks/start");
        // That connection was dropped without an answer.
        let todo = publisher.ready(&mut poll);
        assert!(todo.unwatch.is_some() && todo.timer.is_some());
        publisher.on_timer(&mut poll);
        let (mut socket, _) = daemon.accept().unwrap();
        for topic in ["/tasks/start", "/tasks/exit"] {
            let (stream, namespace, got) = receive(&socket);
            assert_eq!((namespace.as_str(), got.as_str()), ("ns", topic));
            let mut answer = Vec::new();
            encode(FrameKind::Response, stream, &Response::ok(&()), &mut answer).unwrap();
            socket.write_all(&answer).unwrap();
            let todo = publisher.ready(&mut poll);
            assert_eq!(todo.published.as_deref(), (topic == "/tasks/exit").then_some("c"));
        }
        assert!(publisher.is_empty());
    }

    fn receive(mut socket: &UnixStream) -> (u32, String, String) {
        let mut decoder = Decoder::new();
        loop {
            if let Some(frame) = decoder.decode().unwrap() {
                let request = Request::decode(frame.payload).unwrap();
                let forward: ForwardRequest = request.message().unwrap();
                let namespace = request.namespace().unwrap().to_owned();
                return (frame.stream_id, namespace, forward.envelope.unwrap().topic);
            }
            let mut buffer = [0; 512];
            let count = socket.read(&mut buffer).unwrap();
            assert_ne!(count, 0);
            decoder.extend(&buffer[..count]);
        }
    }
}
