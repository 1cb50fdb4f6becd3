//! Owns the containers and their processes, and everything that changes them: one thread, one loop over calls, exits,
//! streams and deadlines. Nobody else touches any of it, so there are no locks.
//!
//! Nothing here waits. What takes time is a *job*, an executor's process, and goes on when its exit is seen:
//!
//! ```text
//!  call ──► checks ──► job ┄┄┄ SIGCHLD ┄┄┄► what came of it ──► event, answer
//!  Create:  mounts, streams (logger ready?) ─► executor create ─► terminal, journal ─► TaskCreate, answer
//!  Start:   executor start ─► TaskStart, answer            exec: streams ─► executor exec ─► TaskExecStarted, answer
//!  exit:    of an added process ─► TaskExit, waiters       of the init ─► the rest dies first ─► TaskExit, waiters
//!  Delete:  output drained (10 s) ─► executor delete ─► unmount ─► TaskDelete, answer
//! ```
//!
//! Calls that change the same container wait for one another in a bounded queue; those that only ask never wait.
//! A process that ends while its start is under way ends, for everybody else, after it has started.

mod attach;
mod checkpoint;
mod control;
mod create;
mod delete;
mod errands;
mod exits;
mod jobs;
mod process;
mod query;
mod sandbox;
mod start;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use model::Mount;
use model::task::{Exit, Pid};

use self::attach::Attached;
pub(crate) use self::create::{INIT_PID_FILE, ROOTFS_DIR};
use self::errands::Errand;
use self::jobs::Job;
use self::process::{Container, Number, Process};
use self::sandbox::Sandbox;
use crate::api::{self, Call};
use crate::command::{Answer, Command, Refusal};
use crate::events::{Event, Publisher, Todo};
use crate::io::logger::Slots;
use crate::io::pump::Progress;
use crate::poll::{EventFlags, Key, Poll, TimerId, Timers};
use crate::trace::trace;
use crate::ttrpc::{Clients, Incoming, ReplyTo};
use crate::{log, sys};

/// How long output is waited for when a container is deleted.
const DRAIN: Duration = Duration::from_secs(10);
/// The same for an added process, whose children may well keep its output open.
const DRAIN_EXEC: Duration = Duration::from_secs(2);
/// How long the other processes of a container are waited for once its init is gone and they were killed.
const DYING: Duration = Duration::from_secs(10);
/// How long a logger may take to say that it is ready.
const LOGGER_READY: Duration = Duration::from_secs(10);
/// How long a logger may go on after it was asked to end.
const LOGGER_KILL: Duration = Duration::from_secs(12);
/// How long a root filesystem may take to be mounted, if nobody has said.
const MOUNT: Duration = Duration::from_secs(60);
/// How long one may take to be unmounted.
const UNMOUNT: Duration = Duration::from_secs(15);
/// How long an attached client may be behind without reading anything.
const SLOW: Duration = Duration::from_secs(10);
/// How long events are still delivered after the call to shut down.
const LINGER: Duration = Duration::from_secs(5);
/// How long nothing must be under way before the memory of what is not needed for waiting is given back.
const QUIET: Duration = Duration::from_secs(1);
/// The most calls that wait for the same container.
const MAX_QUEUED: usize = 64;
/// The most exits that are kept for starts under way.
const MAX_EARLY: usize = 1024;

/// Where an answer goes, and in what form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Caller {
    to: ReplyTo,
    call: Call,
}

/// What a key of the poll set belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watch {
    Signals,
    Listener,
    Client,
    Publisher,
    Errand,
    Pump(Number),
    Feed(Number),
    LoggerReady(Number),
    /// Of the container with this init.
    Oom(Number),
}

/// What has to happen at a certain time, if nothing happens before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deadline {
    /// This executor takes too long.
    Job(Pid),
    /// This helper takes too long.
    Errand(Key),
    /// Try again to open the sink of this pump.
    OpenSink(Key),
    /// This logger has not said that it is ready.
    LoggerReady(Number),
    /// This logger was asked to end and has not.
    LoggerKill(Pid),
    /// The output of this process, which is to be deleted, has not ended.
    Drain(Number),
    /// The init is gone, others are not.
    Dying(Number),
    /// Events: try again.
    Publisher,
    /// Events need not be delivered any longer: we were told to end.
    Linger,
    /// The sandbox, which is this process, was asked to end and has not.
    StopSandbox(Number),
    /// This attached client is behind.
    Slow(Key),
    /// Nothing was done for a while.
    Quiet,
}

/// What [`Driver::new`] needs.
#[derive(Debug)]
pub(crate) struct Parts {
    /// The socket to serve on.
    pub listener: UnixListener,
    /// Its name, which goes when nobody new is to come.
    pub socket: Option<PathBuf>,
    /// The namespace of all containers.
    pub namespace: String,
    /// Where events go.
    pub events: Option<PathBuf>,
    /// The folder this process was started in: that of its first container.
    pub bundle: PathBuf,
    /// Descriptors kept free for loggers.
    pub slots: Slots,
    /// How long a root filesystem may take to be mounted, if someone has said.
    pub mount_limit: Option<Duration>,
}

/// The one owner of everything.
#[derive(Debug)]
pub(crate) struct Driver {
    namespace: String,
    poll: Poll,
    timers: Timers<Deadline>,
    watches: BTreeMap<Key, Watch>,
    /// Readable when a signal has come.
    signals: &'static OwnedFd,
    clients: Clients,
    socket: Option<PathBuf>,
    publisher: Publisher,
    slots: Slots,
    mount_limit: Duration,
    containers: BTreeMap<String, Container>,
    sandbox: Option<Sandbox>,
    processes: BTreeMap<Number, Process>,
    /// What creates under way have mounted, for their event.
    mounts_of_create: BTreeMap<Number, Vec<Mount>>,
    /// Live processes of containers.
    pids: BTreeMap<Pid, Number>,
    /// Executors at work.
    jobs: BTreeMap<Pid, Job>,
    /// Helpers at work.
    errands: BTreeMap<Key, Errand>,
    /// Told to end while a container was going.
    ends_after_errands: bool,
    /// Loggers, by the process they log.
    loggers: BTreeMap<Pid, Number>,
    /// Attached clients, by their connection.
    attached: BTreeMap<Key, Attached>,
    /// Exits of pids that nobody knows yet, while starts are under way.
    early: VecDeque<(Pid, Exit)>,
    next: u64,
    /// Runs since the last job; none once it is over.
    quiet: Option<TimerId>,
    /// Told to end.
    is_ending: bool,
    /// Ready to end.
    has_ended: bool,
}

impl Driver {
    /// Everything set up, nothing running.
    ///
    /// # Errors
    /// The kernel refuses a descriptor.
    pub(crate) fn new(parts: Parts) -> io::Result<Self> {
        let signals = sys::catch_signals(&[libc::SIGCHLD, libc::SIGTERM, libc::SIGINT])?;
        let mut poll = Poll::new()?;
        let mut watches = BTreeMap::new();
        let key = poll.key();
        poll.add(signals, key, EventFlags::IN)?;
        watches.insert(key, Watch::Signals);
        let key = poll.key();
        let clients = Clients::new(parts.listener, key, &poll)?;
        watches.insert(key, Watch::Listener);
        Ok(Self {
            publisher: Publisher::new(parts.events, &parts.namespace, &parts.bundle),
            namespace: parts.namespace,
            poll,
            timers: Timers::new(),
            watches,
            signals,
            clients,
            socket: parts.socket,
            slots: parts.slots,
            mount_limit: parts.mount_limit.unwrap_or(MOUNT),
            containers: BTreeMap::new(),
            sandbox: None,
            processes: BTreeMap::new(),
            mounts_of_create: BTreeMap::new(),
            pids: BTreeMap::new(),
            jobs: BTreeMap::new(),
            errands: BTreeMap::new(),
            ends_after_errands: false,
            loggers: BTreeMap::new(),
            attached: BTreeMap::new(),
            early: VecDeque::new(),
            next: 0,
            quiet: None,
            is_ending: false,
            has_ended: false,
        })
    }

    /// The loop. Returns when a client, or a signal, has ended it and no container is left.
    ///
    /// # Errors
    /// The poll set is broken, which ends everything.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        let mut ready = Vec::new();
        while !self.has_ended {
            self.poll.wait(self.timers.earliest(), |key, flags| ready.push((key, flags)))?;
            for (key, flags) in ready.drain(..) {
                self.on_ready(key, flags);
            }
            let now = Instant::now();
            while let Some(deadline) = self.timers.due(now) {
                self.on_deadline(deadline);
            }
            self.publish();
        }
        self.kill_loggers();
        Ok(())
    }

    fn on_ready(&mut self, key: Key, flags: EventFlags) {
        // What was forgotten earlier in the same round has no watch any more.
        let Some(watch) = self.watches.get(&key).copied() else { return };
        match watch {
            Watch::Signals => self.on_signals(),
            Watch::Listener => {
                for key in self.clients.accept(&mut self.poll) {
                    self.watches.insert(key, Watch::Client);
                }
            }
            Watch::Client => self.on_client(key, flags),
            Watch::Publisher => {
                let todo = self.publisher.ready(&mut self.poll);
                self.on_todo(todo);
            }
            Watch::Errand => self.on_errand(key),
            Watch::Pump(number) => self.step_pump(number, key),
            Watch::Feed(number) => self.on_feed(number, key),
            Watch::LoggerReady(number) => self.on_logger_ready(number, key),
            Watch::Oom(number) => self.on_oom(number, key),
        }
    }

    fn on_deadline(&mut self, deadline: Deadline) {
        match deadline {
            Deadline::Job(pid) => self.kill_job(pid),
            Deadline::Errand(key) => self.give_errand_up(key),
            Deadline::OpenSink(key) => {
                if let Some(Watch::Pump(number)) = self.watches.get(&key).copied() {
                    self.step_pump(number, key);
                }
            }
            Deadline::LoggerReady(number) => self.logger_is_silent(number),
            Deadline::LoggerKill(pid) => self.kill_logger(pid),
            Deadline::Drain(number) => self.drained(number),
            Deadline::Dying(number) => self.give_up_waiting(number),
            Deadline::Publisher => {
                let todo = self.publisher.on_timer(&mut self.poll);
                self.on_todo(todo);
            }
            Deadline::Linger => self.has_ended = true,
            Deadline::StopSandbox(number) => self.kill_sandbox(number),
            Deadline::Slow(key) => self.on_slow(key),
            Deadline::Quiet => self.on_quiet(),
        }
    }

    fn on_client(&mut self, key: Key, flags: EventFlags) {
        let input = self.clients.ready(key, flags, &self.poll);
        for incoming in input.incoming {
            match incoming {
                Incoming::Call(to, request) => self.call(to, &request),
                Incoming::Data(data) => self.on_data(key, &data),
            }
        }
        if input.is_closed {
            self.forget_client(key);
        } else {
            self.after_client(key);
        }
    }

    fn call(&mut self, to: ReplyTo, request: &proto::ttrpc::Request) {
        log::debug!("call {}", request.method);
        trace!("call.begin", "{} {}", request.method, to.stream());
        match api::decode(request) {
            Ok(command) => {
                let caller = Caller { to, call: Call::of(&command) };
                self.command(command, caller);
            }
            Err(status) => self.respond(to, &proto::ttrpc::Response::failed(status)),
        }
    }

    /// Nobody waits there any more.
    fn forget_client(&mut self, key: Key) {
        self.watches.remove(&key);
        self.detach(key);
        for process in self.processes.values_mut() {
            process.waiters.retain(|waiter| !waiter.to.is_of(key));
        }
    }

    /// Carries a command out, or starts to.
    fn command(&mut self, command: Command, caller: Caller) {
        let done = match command {
            Command::Create(request) => self.create(*request, caller),
            Command::Exec(request) => self.add_exec(*request, caller),
            Command::Wait(target) => self.wait(&target, caller),
            Command::Kill { target, signal, all } => self.kill(&target, signal, all, caller),
            Command::State(target) => self.state(&target).map(|state| self.answer(caller, &state)),
            Command::Pids(id) => self.pids_of(&id).map(|pids| self.answer(caller, &pids)),
            Command::Stats(id) => self.stats(&id).map(|stats| self.answer(caller, &stats)),
            Command::Connect(id) => {
                let connected = self.connect(&id);
                self.answer(caller, &connected);
                Ok(())
            }
            Command::Resize { target, width, height } => {
                self.resize(&target, width, height).map(|()| self.answer(caller, &Answer::Done))
            }
            Command::CloseInput { target, stdin } => {
                self.close_input(&target, stdin).map(|()| self.answer(caller, &Answer::Done))
            }
            Command::Sandbox(command) => self.sandbox(command, caller),
            Command::Attach(request) => self.attach(request, caller),
            Command::Reopen(target) => self.reopen(&target).map(|()| self.answer(caller, &Answer::Done)),
            Command::Shutdown => {
                self.answer(caller, &Answer::Done);
                self.shut_down("a client");
                Ok(())
            }
            Command::Start(ref target) | Command::Delete(ref target) if target.exec.is_some() => {
                self.change_exec(command, caller)
            }
            Command::Start(_)
            | Command::Delete(_)
            | Command::Pause(_)
            | Command::Resume(_)
            | Command::Update(..)
            | Command::Checkpoint(_) => self.change(command, caller),
        };
        if let Err(refusal) = done {
            self.refuse(caller, &refusal);
        }
    }

    /// A change of a container: now, or after those that are under way.
    fn change(&mut self, command: Command, caller: Caller) -> Result<(), Refusal> {
        let id = match &command {
            Command::Start(target) | Command::Delete(target) => &target.id,
            Command::Pause(id) | Command::Resume(id) | Command::Update(id, _) => id,
            Command::Checkpoint(request) => &request.id,
            _ => return Err(Refusal::NoContainer),
        };
        let container =
            self.containers.get_mut(id).filter(|container| container.is_created).ok_or(Refusal::NoContainer)?;
        if container.is_busy() {
            if container.queue.len() >= MAX_QUEUED {
                return Err(Refusal::Queue(MAX_QUEUED));
            }
            container.queue.push_back((command, caller));
            return Ok(());
        }
        let init = container.init;
        match command {
            Command::Start(_) => self.start_init(init, caller),
            Command::Delete(_) => self.delete_init(init, caller),
            Command::Pause(id) => self.pause(&id, caller),
            Command::Resume(id) => self.resume(&id, caller),
            Command::Update(id, resources) => self.update(&id, resources, caller),
            Command::Checkpoint(request) => self.checkpoint(*request, caller),
            _ => Err(Refusal::NoContainer),
        }
    }

    /// The container is free: what has waited for it goes on.
    fn next_change(&mut self, id: &str) {
        loop {
            let Some(container) = self.containers.get_mut(id) else { return };
            if container.is_busy() {
                return;
            }
            let Some((command, caller)) = container.queue.pop_front() else { return };
            if let Err(refusal) = self.change(command, caller) {
                self.refuse(caller, &refusal);
            }
        }
    }

    fn answer(&mut self, caller: Caller, answer: &Answer) {
        let response = api::encode(answer, caller.call);
        self.respond(caller.to, &response);
    }

    fn refuse(&mut self, caller: Caller, refusal: &Refusal) {
        let response = api::refuse(refusal);
        self.respond(caller.to, &response);
    }

    fn respond(&mut self, to: ReplyTo, response: &proto::ttrpc::Response) {
        // The daemon hears of what has happened no later than the client whose call it was.
        self.publish();
        trace!("call.end", "{}", to.stream());
        if let Some(key) = self.clients.reply(to, response, &self.poll) {
            self.forget_client(key);
        }
    }

    fn publish(&mut self) {
        if !self.publisher.is_empty() {
            let todo = self.publisher.advance(&mut self.poll);
            self.on_todo(todo);
        } else if self.is_ending {
            self.has_ended = true;
        }
    }

    fn event(&mut self, event: &Event) {
        // Of the sandbox, the daemon tells itself.
        if !self.is_sandbox(event.container()) {
            trace!("event", "{}", event.topic());
            self.publisher.push(event);
        }
    }

    fn on_todo(&mut self, todo: Todo) {
        if let Some(key) = todo.watch {
            self.watches.insert(key, Watch::Publisher);
        }
        if let Some(key) = todo.unwatch {
            self.watches.remove(&key);
        }
        if todo.settles_timer {
            if let Some(timer) = self.publisher.timer.take() {
                self.timers.cancel(timer);
            }
            self.publisher.timer = todo.timer.map(|after| self.timers.set(after, Deadline::Publisher));
        }
        if let Some(id) = todo.published
            && let Some(journal) = self.containers.get_mut(&id).and_then(|container| container.journal.as_mut())
        {
            journal.published();
        }
    }

    fn on_signals(&mut self) {
        let _ = rustix::io::read(self.signals, &mut [0; 8]);
        if sys::was_caught(libc::SIGCHLD) {
            self.reap();
        }
        for (signal, name) in [(libc::SIGTERM, "SIGTERM"), (libc::SIGINT, "SIGINT")] {
            if sys::was_caught(signal) {
                self.shut_down(name);
            }
        }
    }

    /// Ends once all events are delivered, unless there are containers.
    fn shut_down(&mut self, who: &str) {
        if !self.containers.is_empty() || self.sandbox.is_some() {
            log::info!("{who} asks for the end: {} containers are here", self.containers.len());
            return;
        }
        if !self.errands.is_empty() {
            self.ends_after_errands = true;
            return;
        }
        if !self.is_ending {
            log::info!("{who} asks for the end");
            self.is_ending = true;
            // Whoever starts a container of the same group from now on must not find us, but make another.
            self.remove_socket();
            self.timers.set(LINGER, Deadline::Linger);
        }
    }

    /// Removes the name of the socket, once: another may have it afterwards.
    pub(crate) fn remove_socket(&mut self) {
        if let Some(socket) = self.socket.take() {
            let _ = std::fs::remove_file(socket);
        }
    }

    fn step_pump(&mut self, number: Number, key: Key) {
        let is_behind = self.is_behind(number);
        let Some(process) = self.processes.get_mut(&number) else { return };
        if is_behind {
            // It is not armed, so it is not reported until it was stepped again.
            process.held.insert(key);
            return;
        }
        let progress = process.stdio.step(key, &self.poll);
        self.pass_on(number);
        match progress {
            Progress::Waiting => {}
            Progress::Retry(after) => {
                self.timers.set(after, Deadline::OpenSink(key));
            }
            Progress::Finished => {
                self.watches.remove(&key);
                self.end_attached(number);
                self.check_drained(number);
            }
        }
    }

    /// Watches all streams of a process and gets them going.
    fn start_pumps(&mut self, number: Number) {
        // Before anything is read: those who have attached already miss nothing.
        self.begin_attached(number);
        let Some(process) = self.processes.get(&number) else { return };
        for key in process.stdio.pump_keys() {
            if self.watches.insert(key, Watch::Pump(number)).is_none() {
                self.step_pump(number, key);
            }
        }
    }

    /// Something was done: the memory it took is needed for a while.
    fn not_quiet(&mut self) {
        if let Some(timer) = self.quiet.take() {
            self.timers.cancel(timer);
        }
        self.quiet = Some(self.timers.set(QUIET, Deadline::Quiet));
    }

    /// From now on this process most likely only waits, for hours. Of the program, a few pages are enough for that.
    fn on_quiet(&mut self) {
        self.quiet = None;
        if !self.jobs.is_empty() {
            return self.not_quiet();
        }
        let Ok(smaps) = std::fs::read_to_string("/proc/self/smaps") else { return };
        for mapping in sys::clean_mappings(&smaps) {
            if let Err(error) = sys::give_back(&mapping) {
                log::debug!("memory is not given back: {error}");
            }
        }
    }

    fn number(&mut self) -> Number {
        self.next += 1;
        Number(self.next)
    }
}
