//! Clients that are attached to the streams of a process (`proto/gantry/shim/v1`).
//!
//! ```text
//!  process ──► pump ──► log
//!                └────► copy ──► each attached client          input of clients ──► feed ──► process
//!  a client is behind: the pumps wait ──► it goes on, or makes no progress for SLOW and loses its connection
//! ```
//!
//! Whoever attaches misses nothing from then on, and gets nothing from before. The exit of a process waits for no client; a
//! stream of a client ends when the process has ended and its output is complete.

use proto::gantry::shim::v1::{AttachInput, AttachOutput};
use proto::prost::Message as _;
use proto::ttrpc::FLAG_REMOTE_CLOSED;

use super::process::{Number, Phase};
use super::{Caller, Deadline, Driver, SLOW, Watch};
use crate::command::{Answer, Attach, Refusal, Target};
use crate::io::Stream;
use crate::io::uri::{self, Uri};
use crate::log;
use crate::poll::{Key, TimerId};
use crate::ttrpc::Data;

/// A client with more than this unsent is behind.
const BEHIND_BYTES: usize = 256 << 10;
/// The most clients attached to one process.
const MAX_ATTACHED: usize = 16;

/// One attached client. It has its connection for itself.
#[derive(Debug)]
pub(super) struct Attached {
    number: Number,
    caller: Caller,
    /// Whether it may still bring input.
    stdin: bool,
    stdout: bool,
    stderr: bool,
    /// Input for a process that is not there yet.
    early: Vec<u8>,
    /// Running while it is behind, with how much it had taken when that was noticed.
    slow: Option<(TimerId, u64)>,
}

impl Attached {
    fn wants(&self, stream: Stream) -> bool {
        match stream {
            Stream::Out => self.stdout,
            Stream::Err => self.stderr,
        }
    }
}

impl Driver {
    pub(super) fn attach(&mut self, request: Attach, caller: Caller) -> Result<(), Refusal> {
        let number = self.find(&request.target)?;
        let Some(process) = self.processes.get(&number) else { return Err(Refusal::NoContainer) };
        let connection = caller.to.connection();
        if self.attached.contains_key(&connection) {
            return Err(Refusal::Attach("one client of one connection can be attached"));
        }
        if self.attached.values().filter(|attached| attached.number == number).count() >= MAX_ATTACHED {
            return Err(Refusal::Queue(MAX_ATTACHED));
        }
        let parsed = |text: &str| uri::parse(text).ok();
        let is_log = |text: &str| matches!(parsed(text), Some(Uri::Log(_)));
        let streams = &process.streams;
        if request.stdin && !matches!(parsed(&streams.stdin), Some(Uri::Attach { .. })) {
            return Err(Refusal::Attach("its standard input is not gantry-attach://"));
        }
        if request.stdout && !is_log(&streams.stdout) {
            return Err(Refusal::Attach("its standard output is not gantry-log://"));
        }
        if request.stderr && !streams.terminal && !is_log(&streams.stderr) {
            return Err(Refusal::Attach("its standard error is not gantry-log://"));
        }
        let attached = Attached {
            number,
            caller,
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            early: Vec::new(),
            slow: None,
        };
        self.attached.insert(connection, attached);
        self.push(connection, &AttachOutput::default());
        self.tap(number);
        self.settle_input(number);
        self.end_attached(number);
        Ok(())
    }

    pub(super) fn reopen(&mut self, target: &Target) -> Result<(), Refusal> {
        let number = self.find(target)?;
        let Some(process) = self.processes.get_mut(&number) else { return Err(Refusal::NoContainer) };
        match process.stdio.reopen_logs() {
            Ok(true) => Ok(()),
            // One that has ended writes nothing more: its log may be moved as it is.
            Ok(false) if process.exit().is_some() => Ok(()),
            Ok(false) => Err(Refusal::Attach("it writes no log")),
            Err(source) => Err(Refusal::Io { what: "open the log again", source }),
        }
    }

    /// Keeps copies of the output exactly while somebody wants them.
    fn tap(&mut self, number: Number) {
        let is_on = self.attached.values().any(|attached| attached.number == number);
        if let Some(process) = self.processes.get_mut(&number) {
            process.stdio.tap(is_on);
        }
    }

    /// The streams of a process are there: who has attached before gets them.
    pub(super) fn begin_attached(&mut self, number: Number) {
        if let Some(feed) = self.processes.get(&number).and_then(|process| process.stdio.feed()) {
            self.watches.insert(feed.key(), Watch::Feed(number));
        }
        self.tap(number);
        let waiting = self.attached.values_mut().filter(|attached| attached.number == number);
        let early: Vec<Vec<u8>> = waiting.map(|attached| std::mem::take(&mut attached.early)).collect();
        for input in early {
            self.feed(number, &input);
        }
        if let Some(process) = self.processes.get_mut(&number)
            && std::mem::take(&mut process.closes_input)
        {
            process.stdio.close_input(&self.poll);
        }
        self.settle_input(number);
    }

    /// Whether a client is behind, and the output has to wait for it.
    pub(super) fn is_behind(&self, number: Number) -> bool {
        self.attached
            .iter()
            .any(|(key, attached)| attached.number == number && self.clients.unsent(*key) >= BEHIND_BYTES)
    }

    /// Sends the copies of what was just pumped.
    pub(super) fn pass_on(&mut self, number: Number) {
        if self.attached.is_empty() {
            return;
        }
        let Some(process) = self.processes.get_mut(&number) else { return };
        for (stream, data) in process.stdio.take_tapped() {
            let message = AttachOutput { stream: if stream == Stream::Out { 1 } else { 2 }, data };
            let wanting = |(_, attached): &(&Key, &Attached)| attached.number == number && attached.wants(stream);
            let keys: Vec<Key> = self.attached.iter().filter(wanting).map(|(key, _)| *key).collect();
            for key in keys {
                self.push(key, &message);
            }
        }
    }

    fn push(&mut self, key: Key, message: &AttachOutput) {
        let Some(attached) = self.attached.get(&key) else { return };
        if let Some(closed) = self.clients.push(attached.caller.to, message, &self.poll) {
            return self.forget_client(closed);
        }
        self.watch_slowness(key);
    }

    /// Looks whether the client is behind; if it has made no progress since that was noticed, it goes.
    fn watch_slowness(&mut self, key: Key) {
        let Some(attached) = self.attached.get_mut(&key) else { return };
        let is_behind = self.clients.unsent(key) >= BEHIND_BYTES;
        match attached.slow {
            Some((timer, _)) if !is_behind => {
                self.timers.cancel(timer);
                attached.slow = None;
            }
            None if is_behind => {
                attached.slow = Some((self.timers.set(SLOW, Deadline::Slow(key)), self.clients.sent(key)));
            }
            _ => {}
        }
    }

    pub(super) fn on_slow(&mut self, key: Key) {
        let Some(attached) = self.attached.get_mut(&key) else { return };
        let Some((_, before)) = attached.slow.take() else { return };
        if self.clients.sent(key) == before {
            log::warning!("an attached client does not read and is dropped");
            self.clients.close(key, &self.poll);
            return self.forget_client(key);
        }
        self.watch_slowness(key);
    }

    /// Something was read from, or written to, the connection of a client that is perhaps attached.
    pub(super) fn after_client(&mut self, key: Key) {
        let Some(attached) = self.attached.get(&key) else { return };
        let number = attached.number;
        self.watch_slowness(key);
        self.release_held(number);
    }

    /// Nobody is behind any more: the output goes on.
    fn release_held(&mut self, number: Number) {
        if self.is_behind(number) {
            return;
        }
        let Some(process) = self.processes.get_mut(&number) else { return };
        for key in std::mem::take(&mut process.held) {
            self.step_pump(number, key);
        }
    }

    /// A piece of input.
    pub(super) fn on_data(&mut self, key: Key, data: &Data) {
        let Some(attached) = self.attached.get_mut(&key) else { return };
        if !attached.stdin || !data.is_of(attached.caller.to) {
            return;
        }
        let number = attached.number;
        let ends = data.flags & FLAG_REMOTE_CLOSED != 0;
        if !data.payload.is_empty() {
            match AttachInput::decode(data.payload.clone()) {
                Ok(input) if self.is_launched(number) => self.feed(number, &input.data),
                Ok(input) => {
                    if let Some(attached) = self.attached.get_mut(&key) {
                        attached.early.extend_from_slice(&input.data);
                    }
                }
                Err(error) => log::warning!("input of an attached client makes no sense: {error}"),
            }
        }
        if ends {
            self.end_input(key);
        }
        self.settle_input(number);
    }

    fn is_launched(&self, number: Number) -> bool {
        self.processes.get(&number).is_none_or(|process| {
            matches!(process.phase, Phase::Live(_) | Phase::Pausing(_)) || process.stdio.feed().is_some()
        })
    }

    fn feed(&mut self, number: Number, input: &[u8]) {
        if let Some(process) = self.processes.get_mut(&number) {
            process.stdio.step_feed(input, &self.poll);
        }
    }

    /// A client brings no more input; with `once` that is the end of input for the process.
    fn end_input(&mut self, key: Key) {
        let Some(attached) = self.attached.get_mut(&key) else { return };
        if !std::mem::take(&mut attached.stdin) {
            return;
        }
        let number = attached.number;
        if let Some(process) = self.processes.get_mut(&number) {
            match process.stdio.feed() {
                Some(feed) if feed.is_once() => process.stdio.close_input(&self.poll),
                Some(_) => {}
                None => process.closes_input |= uri::parse(&process.streams.stdin) == Ok(Uri::Attach { once: true }),
            }
        }
    }

    /// The process has read some of its input.
    pub(super) fn on_feed(&mut self, number: Number, key: Key) {
        self.feed(number, &[]);
        if self.processes.get(&number).is_none_or(|process| process.stdio.feed().is_none()) {
            self.watches.remove(&key);
        }
        self.settle_input(number);
    }

    /// Reads from the clients of a process exactly while it reads from us.
    fn settle_input(&mut self, number: Number) {
        let feed = self.processes.get(&number).and_then(|process| process.stdio.feed());
        let waits = feed.map_or(!self.is_launched(number), crate::io::feed::Feed::is_full);
        for (key, attached) in &self.attached {
            if attached.number == number {
                self.clients.pause(*key, waits && attached.stdin, &self.poll);
            }
        }
    }

    /// Ends the streams of clients if the process has ended and its output is complete.
    pub(super) fn end_attached(&mut self, number: Number) {
        let is_over =
            self.processes.get(&number).is_none_or(|process| process.exit().is_some() && process.stdio.is_drained());
        if is_over {
            self.end_all_attached(number);
        }
    }

    /// Ends the streams of clients, whatever there may still be.
    pub(super) fn end_all_attached(&mut self, number: Number) {
        let keys: Vec<Key> =
            self.attached.iter().filter(|(_, attached)| attached.number == number).map(|(key, _)| *key).collect();
        for key in keys {
            if let Some(attached) = self.detach(key) {
                self.answer(attached.caller, &Answer::Done);
            }
        }
    }

    /// Takes a client out of the table, with what hangs on it.
    pub(super) fn detach(&mut self, key: Key) -> Option<Attached> {
        self.end_input(key);
        let mut attached = self.attached.remove(&key)?;
        if let Some((timer, _)) = attached.slow.take() {
            self.timers.cancel(timer);
        }
        self.clients.pause(key, false, &self.poll);
        self.tap(attached.number);
        self.release_held(attached.number);
        Some(attached)
    }
}
