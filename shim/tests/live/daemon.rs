//! The daemon's end of the events: takes them, acknowledges them, can go away and come back.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use prost::Message as _;
use proto::events::{TaskExit, TaskStart};
use proto::services::events::ttrpc::v1::ForwardRequest;
use proto::ttrpc::{Decoder, FrameKind, Request, Response, encode};
use proto::types::Envelope;

const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Shared {
    events: Vec<Envelope>,
    connections: Vec<UnixStream>,
    is_away: bool,
}

pub(crate) struct Daemon {
    pub address: PathBuf,
    shared: Arc<(Mutex<Shared>, Condvar)>,
}

impl Daemon {
    pub(crate) fn new(folder: &Path) -> Self {
        let daemon = Self { address: folder.join("events.ttrpc"), shared: Arc::default() };
        daemon.come();
        daemon
    }

    /// Begins to listen.
    pub(crate) fn come(&self) {
        let _ = std::fs::remove_file(&self.address);
        let listener = UnixListener::bind(&self.address).unwrap();
        let shared = Arc::clone(&self.shared);
        shared.0.lock().unwrap().is_away = false;
        thread::spawn(move || {
            for socket in listener.incoming() {
                let socket = socket.unwrap();
                let mut state = shared.0.lock().unwrap();
                if state.is_away {
                    return;
                }
                state.connections.push(socket.try_clone().unwrap());
                drop(state);
                let shared = Arc::clone(&shared);
                thread::spawn(move || serve(socket, &shared));
            }
        });
    }

    /// Vanishes, as by kill -9.
    pub(crate) fn go(&self) {
        let mut state = self.shared.0.lock().unwrap();
        state.is_away = true;
        for socket in state.connections.drain(..) {
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
        drop(state);
        // The listener's thread sees that we are away, and goes too.
        let _ = UnixStream::connect(&self.address);
        std::fs::remove_file(&self.address).unwrap();
    }

    /// All events so far, once `enough` says that they are all.
    #[track_caller]
    pub(crate) fn events(&self, enough: impl Fn(&[Event]) -> bool) -> Vec<Event> {
        let until = Instant::now() + PATIENCE;
        let mut state = self.shared.0.lock().unwrap();
        loop {
            let events: Vec<Event> = state.events.iter().map(Event::of).collect();
            if enough(&events) {
                return events;
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited for more events than {events:#?}");
            state = self.shared.1.wait_timeout(state, left).unwrap().0;
        }
    }

    #[track_caller]
    pub(crate) fn topics(&self, last: &str) -> Vec<String> {
        let has_last = |events: &[Event]| events.iter().any(|event| event.topic == last);
        self.events(has_last).into_iter().map(|event| event.topic).collect()
    }
}

fn serve(mut socket: UnixStream, shared: &(Mutex<Shared>, Condvar)) {
    let mut decoder = Decoder::new();
    let mut buffer = [0; 4096];
    loop {
        while let Some(frame) = decoder.decode().unwrap() {
            let request = Request::decode(frame.payload).unwrap();
            assert_eq!((request.service.as_str(), request.method.as_str()), (proto::service::EVENTS, "Forward"));
            let forward: ForwardRequest = request.message().unwrap();
            let mut state = shared.0.lock().unwrap();
            if state.is_away {
                return;
            }
            // Answered before anybody can make us go: an event that was taken without an answer comes again, rightly.
            let mut answer = Vec::new();
            encode(FrameKind::Response, frame.stream_id, &Response::ok(&()), &mut answer).unwrap();
            if socket.write_all(&answer).is_err() {
                return;
            }
            state.events.push(forward.envelope.unwrap());
            shared.1.notify_all();
        }
        match socket.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(count) => decoder.extend(&buffer[..count]),
        }
    }
}

/// An event, as far as tests look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub topic: String,
    /// The process that has ended.
    pub process: Option<String>,
    pub pid: Option<u32>,
    pub status: Option<u32>,
}

impl Event {
    fn of(envelope: &Envelope) -> Self {
        assert_eq!(envelope.namespace, "shim-test");
        let topic = envelope.topic.clone();
        let any = envelope.event.as_ref().unwrap();
        if let Some(exit) = proto::any::unpack::<TaskExit>(any).unwrap() {
            return Self { topic, process: Some(exit.id), pid: Some(exit.pid), status: Some(exit.exit_status) };
        }
        let pid = proto::any::unpack::<TaskStart>(any).unwrap().map(|start| start.pid);
        Self { topic, process: None, pid, status: None }
    }

    pub(crate) fn is_exit_of(&self, process: &str) -> bool {
        self.topic == "/tasks/exit" && self.process.as_deref() == Some(process)
    }
}
