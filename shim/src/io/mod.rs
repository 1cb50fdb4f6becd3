//! The three streams of one process: what the process gets, what the client gets, and the copying in between.
//!
//! ```text
//!  client's fifo ──► stdin pump ──► pipe ──► process ──► pipe ──► output pump ──► client's fifo, file
//!                                               └────► pipe ─────────────────► logger (binary://)
//!  attached client ──► feed ──► pipe ──► process ──► pipe ──► output pump ──┬──► log (gantry-log://)
//!                                                                           └──► copy ──► attached clients
//!  with a terminal: fifo ◄─► pumps ◄─► master ┄ slave ◄─► process
//! ```
//!
//! The process never holds a descriptor of the client's or of the host's files, only ends of pipes made here. Nothing here
//! blocks, and nothing here waits: the driver's loop reports keys and calls [`Stdio::step`].

pub(crate) mod console;
pub(crate) mod cri_log;
pub(crate) mod feed;
pub(crate) mod fifo;
pub(crate) mod logger;
pub(crate) mod pump;
pub(crate) mod uri;

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use executor::StdioFds;
use model::error::{Classify, Kind};
use rustix::fs::{Gid, Uid};
use rustix::pipe::PipeFlags;

use self::console::ConsoleSocket;
use self::cri_log::CriLog;
use self::feed::{Fed, Feed};
use self::logger::{LoggerEnds, Slots};
use self::pump::{Progress, Pump, Sink};
use self::uri::{Uri, UriError};
use crate::poll::{EventFlags, Key, Poll};

/// What a client asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Streams {
    /// Where standard input comes from.
    pub stdin: String,
    /// Where standard output goes.
    pub stdout: String,
    /// Where standard error goes; unused with a terminal.
    pub stderr: String,
    /// Whether the process gets a terminal.
    pub terminal: bool,
}

/// For whom streams are made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner<'a> {
    /// The user who may open `/dev/stdout` again.
    pub uid: u32,
    /// That user's group.
    pub gid: u32,
    /// The container, told to loggers.
    pub id: &'a str,
    /// Its namespace, told to loggers.
    pub namespace: &'a str,
    /// The bundle, where the socket for a terminal is made.
    pub bundle: &'a Path,
    /// The name of that socket.
    pub socket_name: &'a str,
}

/// Why streams could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StdioError {
    /// The string means nothing.
    #[error(transparent)]
    Uri(#[from] UriError),
    /// The client's fifo or file cannot be opened.
    #[error("open {}", path.display())]
    Open {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The logger cannot be started.
    #[error("failed to start binary process {}", path.display())]
    Logger {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The logger has gone without saying that it is ready.
    #[error("logging binary ended without reporting that it is ready")]
    NotReady,
    /// The logger says nothing.
    #[error("timeout waiting for logging binary to be ready")]
    Silent,
    /// A logger for one of two streams.
    #[error("stderr cannot have a logging binary when stdout has none")]
    HalfLogged,
    /// Pipes, ownership or sockets of our own.
    #[error("cannot set up {what}")]
    Setup {
        /// What it was.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl Classify for StdioError {
    fn kind(&self) -> Kind {
        match self {
            Self::Uri(_) | Self::HalfLogged => Kind::InvalidArgument,
            Self::Open { source, .. } => model::error::io_kind(source),
            Self::Silent => Kind::DeadlineExceeded,
            Self::Logger { .. } | Self::NotReady | Self::Setup { .. } => Kind::Unknown,
        }
    }
}

/// The ends that the process gets; `None` is `/dev/null`.
#[derive(Debug, Default)]
pub(crate) struct ProcessEnds {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

impl ProcessEnds {
    /// In the form that starting a process takes.
    pub(crate) fn as_fds(&self) -> StdioFds<'_> {
        StdioFds {
            stdin: self.stdin.as_ref().map(|fd| fd.as_fd()),
            stdout: self.stdout.as_ref().map(|fd| fd.as_fd()),
            stderr: self.stderr.as_ref().map(|fd| fd.as_fd()),
        }
    }
}

/// A logger that runs.
#[derive(Debug)]
pub(crate) struct Logger {
    /// Its pid; a child of ours.
    pub pid: u32,
    /// Where it says that it is ready, with the key under which that is reported.
    ready: Option<(OwnedFd, Key)>,
    must_report: bool,
}

/// Our side of the streams of one process.
#[derive(Debug, Default)]
pub(crate) struct Stdio {
    input: Option<Pump>,
    /// Keeps standard input open until the client closes it by a call, however often it opens and closes the fifo.
    input_keeper: Option<OwnedFd>,
    /// Input by attached clients, in place of the two above.
    feed: Option<Feed>,
    outputs: Vec<Output>,
    /// Copies by pumps that have finished.
    last_tapped: Vec<(Stream, Vec<u8>)>,
    /// Where a terminal will come from, and what its pumps will be.
    socket: Option<ConsoleSocket>,
    terminal_input: Option<OwnedFd>,
    /// The terminal's input comes from attached clients; whether it ends with the first.
    terminal_feed: Option<bool>,
    terminal_output: Option<Sink>,
    console: Option<OwnedFd>,
    logger: Option<Logger>,
}

/// A pump of the process's output, and which one.
#[derive(Debug)]
struct Output {
    stream: Stream,
    pump: Pump,
}

/// One of the two streams of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Standard output; with a terminal, all output.
    Out,
    /// Standard error.
    Err,
}

impl Stream {
    /// As a log calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Out => "stdout",
            Self::Err => "stderr",
        }
    }
}

impl Stdio {
    /// Makes all that `streams` asks for, up to the point where the process itself is needed.
    ///
    /// # Errors
    /// [`StdioError`]; nothing is left behind but, at worst, a logger that ends by itself.
    pub(crate) fn prepare(
        streams: &Streams,
        owner: Owner<'_>,
        slots: &mut Slots,
        poll: &mut Poll,
    ) -> Result<(Self, ProcessEnds), StdioError> {
        let mut stdio = Self::default();
        let mut ends = ProcessEnds::default();
        let stdout = uri::parse(&streams.stdout)?;
        let stderr = if streams.terminal { Uri::Null } else { uri::parse(&streams.stderr)? };
        let stdin = uri::parse(&streams.stdin)?;
        let input = stdio.open_input(&stdin)?;
        let feeds = if let Uri::Attach { once } = stdin { Some(once) } else { None };
        if streams.terminal {
            (stdio.terminal_input, stdio.terminal_feed) = (input, feeds);
            stdio.terminal_output = match stdout {
                Uri::Binary(binary) => {
                    let (reader, writer) = pipe(owner)?;
                    let (unused, _) = pipe(owner)?;
                    stdio.start_logger(&binary, reader, unused, owner, slots, poll)?;
                    Some(Sink::Pipe(writer))
                }
                other => sink(&other, Stream::Out)?,
            };
            let socket = ConsoleSocket::new(owner.bundle, owner.socket_name);
            stdio.socket = Some(socket.map_err(setup("the console socket"))?);
            return Ok((stdio, ends));
        }
        if let Some(input) = input {
            if fifo::is_fifo(&proc_path(input.as_fd())) {
                let (reader, writer) = pipe(owner)?;
                stdio.input = Some(new_pump(poll, input, Sink::Pipe(writer))?);
                ends.stdin = Some(reader);
            } else {
                ends.stdin = Some(input);
            }
        }
        if let Some(once) = feeds {
            let (reader, writer) = pipe(owner)?;
            stdio.feed = Some(Feed::new(poll.key(), writer, once).map_err(setup("a stream"))?);
            ends.stdin = Some(reader);
        }
        if let Uri::Binary(binary) = &stdout {
            let (out_reader, out) = pipe(owner)?;
            let (err_reader, err) = pipe(owner)?;
            stdio.start_logger(binary, out_reader, err_reader, owner, slots, poll)?;
            (ends.stdout, ends.stderr) = (Some(out), Some(err));
            return Ok((stdio, ends));
        }
        // A log file takes both streams unless another is named.
        let stderr = if stderr == Uri::Null && matches!(stdout, Uri::File(_)) { stdout.clone() } else { stderr };
        if matches!(stderr, Uri::Binary(_)) {
            return Err(StdioError::HalfLogged);
        }
        for (uri, end, stream) in [(stdout, &mut ends.stdout, Stream::Out), (stderr, &mut ends.stderr, Stream::Err)] {
            if let Some(sink) = sink(&uri, stream)? {
                let (reader, writer) = pipe(owner)?;
                stdio.outputs.push(Output { stream, pump: new_pump(poll, reader, sink)? });
                *end = Some(writer);
            }
        }
        Ok((stdio, ends))
    }

    fn open_input(&mut self, uri: &Uri) -> Result<Option<OwnedFd>, StdioError> {
        let path = match uri {
            Uri::Null | Uri::Attach { .. } => return Ok(None),
            Uri::Path(path) | Uri::File(path) => path,
            Uri::Binary(_) => return Err(UriError::Place("binary").into()),
            Uri::Log(_) => return Err(UriError::Place("gantry-log").into()),
        };
        let failed = |source| StdioError::Open { path: path.clone(), source };
        let input = fifo::open_reader(path).map_err(failed)?;
        if fifo::is_fifo(path) {
            self.input_keeper = Some(fifo::open_keeper(path).map_err(failed)?);
        }
        Ok(Some(input))
    }

    fn start_logger(
        &mut self,
        binary: &uri::Binary,
        stdout: OwnedFd,
        stderr: OwnedFd,
        owner: Owner<'_>,
        slots: &mut Slots,
        poll: &mut Poll,
    ) -> Result<(), StdioError> {
        let (ready, report) =
            rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from).map_err(setup("a pipe"))?;
        let ends = LoggerEnds { stdout, stderr, ready: report };
        let failed = |source| StdioError::Logger { path: binary.path.clone(), source };
        let pid = slots.start(binary, ends, owner.id, owner.namespace).map_err(failed)?;
        let key = poll.key();
        poll.add(&ready, key, EventFlags::IN).map_err(setup("a pipe"))?;
        self.logger = Some(Logger { pid, ready: Some((ready, key)), must_report: binary.must_report });
        Ok(())
    }

    /// The socket to name to the runtime, if there is to be a terminal.
    pub(crate) fn console_socket(&self) -> Option<PathBuf> {
        self.socket.as_ref().map(ConsoleSocket::path)
    }

    /// The logger, if there is one.
    pub(crate) fn logger(&self) -> Option<&Logger> {
        self.logger.as_ref()
    }

    /// The key under which the logger's readiness is reported, until it has been.
    pub(crate) fn logger_key(&self) -> Option<Key> {
        self.logger.as_ref()?.ready.as_ref().map(|(_, key)| *key)
    }

    /// To be called when that key was reported.
    ///
    /// # Errors
    /// The logger has closed its descriptor without a word, although its kind must say one.
    pub(crate) fn logger_reported(&mut self) -> Result<(), StdioError> {
        let Some(logger) = &mut self.logger else { return Ok(()) };
        let Some((ready, _)) = logger.ready.take() else { return Ok(()) };
        let count = rustix::io::read(&ready, &mut [0; 1]).unwrap_or(0);
        if count == 0 && logger.must_report { Err(StdioError::NotReady) } else { Ok(()) }
    }

    /// Takes the terminal that the runtime has sent, once the runtime has ended.
    ///
    /// # Errors
    /// None was sent.
    pub(crate) fn attach_terminal(&mut self, poll: &mut Poll) -> Result<(), StdioError> {
        let Some(socket) = self.socket.take() else { return Ok(()) };
        let master = socket.receive().map_err(setup("the terminal"))?;
        let copy = || master.try_clone().map_err(setup("the terminal"));
        if let Some(input) = self.terminal_input.take() {
            self.input = Some(new_pump(poll, input, Sink::Terminal(copy()?))?);
        }
        if let Some(sink) = self.terminal_output.take() {
            self.outputs.push(Output { stream: Stream::Out, pump: new_pump(poll, copy()?, sink)? });
        }
        if let Some(once) = self.terminal_feed.take() {
            self.feed = Some(Feed::new(poll.key(), copy()?, once).map_err(setup("the terminal"))?);
        }
        self.console = Some(master);
        Ok(())
    }

    /// Sets the window's size; nothing without a terminal.
    ///
    /// # Errors
    /// The terminal is gone.
    pub(crate) fn resize(&self, columns: u32, rows: u32) -> io::Result<()> {
        let Some(console) = &self.console else { return Ok(()) };
        let cells = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
        console::resize(console, cells(columns), cells(rows))
    }

    /// The keys of all pumps: to be remembered, and stepped once each to get going.
    pub(crate) fn pump_keys(&self) -> Vec<Key> {
        self.pumps().map(Pump::key).collect()
    }

    fn pumps(&self) -> impl Iterator<Item = &Pump> {
        self.input.iter().chain(self.outputs.iter().map(|output| &output.pump))
    }

    /// Copies what the pump with that key can copy now. A pump that has finished is gone afterwards.
    pub(crate) fn step(&mut self, key: Key, poll: &Poll) -> Progress {
        if let Some(input) = self.input.as_mut().filter(|input| input.key() == key) {
            let progress = input.step(poll);
            if progress == Progress::Finished {
                self.input = None;
            }
            return progress;
        }
        let Some(at) = self.outputs.iter().position(|output| output.pump.key() == key) else {
            return Progress::Finished;
        };
        let progress = self.outputs[at].pump.step(poll);
        if progress == Progress::Finished {
            let mut output = self.outputs.swap_remove(at);
            if let Some((_, Some(tap))) = output.pump.log() {
                self.last_tapped.push((output.stream, std::mem::take(tap)));
            }
        }
        progress
    }

    /// The client wants no more input: once what it has written is read, the process sees the end.
    pub(crate) fn close_input(&mut self, poll: &Poll) {
        self.input_keeper = None;
        if self.feed.as_mut().is_some_and(|feed| feed.close(poll) == Fed::Ended) {
            self.feed = None;
        }
    }

    /// Input by attached clients, if that is where it comes from.
    pub(crate) fn feed(&self) -> Option<&Feed> {
        self.feed.as_ref()
    }

    /// Hands on what the process takes of it now, after taking in `more`.
    pub(crate) fn step_feed(&mut self, more: &[u8], poll: &Poll) {
        if self.feed.as_mut().is_some_and(|feed| feed.write(more, poll) == Fed::Ended) {
            self.feed = None;
        }
    }

    /// From now on, copies are kept for attached clients, or are not.
    pub(crate) fn tap(&mut self, is_on: bool) {
        let taps = self.outputs.iter_mut().filter_map(|output| output.pump.log()).map(|(_, tap)| tap);
        let future = match &mut self.terminal_output {
            Some(Sink::Log { tap, .. }) => Some(tap),
            _ => None,
        };
        for tap in taps.chain(future) {
            *tap = is_on.then(|| tap.take().unwrap_or_default());
        }
    }

    /// The copies that have been kept since the last call.
    pub(crate) fn take_tapped(&mut self) -> Vec<(Stream, Vec<u8>)> {
        let mut all = std::mem::take(&mut self.last_tapped);
        for output in &mut self.outputs {
            if let Some((_, Some(tap))) = output.pump.log() {
                all.push((output.stream, std::mem::take(tap)));
            }
        }
        all.retain(|(_, data)| !data.is_empty());
        all
    }

    /// Opens the logs again by their names; false if there are none.
    ///
    /// # Errors
    /// One cannot be opened: it goes on in the old file.
    pub(crate) fn reopen_logs(&mut self) -> io::Result<bool> {
        let mut found = false;
        for log in self.outputs.iter_mut().filter_map(|output| output.pump.log()?.0) {
            log.reopen()?;
            found = true;
        }
        Ok(found)
    }

    /// The process is gone: nobody will read its input.
    pub(crate) fn drop_input(&mut self, poll: &Poll) {
        self.input_keeper = None;
        if let Some(input) = self.input.take() {
            input.forget(poll);
        }
        if let Some(feed) = self.feed.take() {
            feed.forget(poll);
        }
    }

    /// No client will come back for the output: what nobody reads need not be waited for.
    pub(crate) fn release(&mut self, poll: &Poll) {
        self.outputs.retain_mut(|output| {
            let is_done = output.pump.release();
            if is_done {
                output.pump.forget(poll);
            }
            !is_done
        });
    }

    /// Whether all output of the process has been passed on.
    pub(crate) fn is_drained(&self) -> bool {
        self.outputs.is_empty()
    }

    /// Closes everything, drained or not.
    pub(crate) fn close(&mut self, poll: &Poll) {
        for pump in self.pumps() {
            pump.forget(poll);
        }
        if let Some(feed) = &self.feed {
            feed.forget(poll);
        }
        *self = Self { logger: self.logger.take(), ..Self::default() };
    }
}

fn sink(uri: &Uri, stream: Stream) -> Result<Option<Sink>, StdioError> {
    let open = |path: &Path, options: &OpenOptions| {
        options.open(path).map_err(|source| StdioError::Open { path: path.to_owned(), source })
    };
    Ok(match uri {
        Uri::Null | Uri::Binary(_) => None,
        Uri::Attach { .. } => return Err(UriError::Place("gantry-attach").into()),
        Uri::Log(asked) => {
            let open = |path: &PathBuf| {
                CriLog::open(path, stream.name(), asked.max_line)
                    .map(Box::new)
                    .map_err(|source| StdioError::Open { path: path.clone(), source })
            };
            Some(Sink::Log { log: asked.path.as_ref().map(open).transpose()?, tap: None })
        }
        Uri::Path(path) if fifo::is_fifo(path) => Some(Sink::Opening(path.clone())),
        Uri::Path(path) => Some(Sink::File(open(path, OpenOptions::new().append(true))?.into())),
        Uri::File(path) => {
            if let Some(folder) = path.parent() {
                std::fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o755)
                    .create(folder)
                    .map_err(|source| StdioError::Open { path: folder.to_owned(), source })?;
            }
            Some(Sink::File(open(path, OpenOptions::new().append(true).create(true).mode(0o644))?.into()))
        }
    })
}

/// A pipe whose ends the process's user may open again by way of `/dev/stdout`. Reader first.
fn pipe(owner: Owner<'_>) -> Result<(OwnedFd, OwnedFd), StdioError> {
    let make = || -> io::Result<(OwnedFd, OwnedFd)> {
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        if (owner.uid, owner.gid) != (0, 0) {
            rustix::fs::fchown(&reader, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))?;
        }
        Ok((reader, writer))
    };
    make().map_err(setup("a pipe"))
}

fn new_pump(poll: &mut Poll, source: OwnedFd, sink: Sink) -> Result<Pump, StdioError> {
    Pump::new(poll.key(), source, sink).map_err(setup("a stream"))
}

fn setup(what: &'static str) -> impl Fn(io::Error) -> StdioError + Copy {
    move |source| StdioError::Setup { what, source }
}

fn proc_path(fd: BorrowedFd<'_>) -> PathBuf {
    use std::os::fd::AsRawFd as _;
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}
