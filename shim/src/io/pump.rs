//! Copies one stream from where it comes out to where it goes, as fast as both sides allow and no faster.
//!
//! ```text
//!  source: pipe of the process, terminal, client's fifo        sink: client's fifo, file, log, pipe of the process, terminal
//!     WaitSource ──readable──► copy ──sink full──► WaitSink ──writable──► copy ─► …        end of source ─► Finished
//! ```
//!
//! What a sink does not take stays in the pipe, and so stops the writer: nothing is lost, and at most one small buffer is
//! held here. Large amounts do not pass through this process at all (splice). It never blocks; the owner calls
//! [`Pump::step`] whenever the pump's key is reported.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::pipe::SpliceFlags;

use super::cri_log::CriLog;
use super::fifo;
use crate::log;
use crate::poll::{EventFlags, Key, Poll};

/// What is copied at once by way of this process's memory.
const BUFFER_BYTES: usize = 8 << 10;
/// What is copied before other work gets its turn.
const TURN_BYTES: usize = 1 << 20;
/// The same while clients are attached, who get a copy.
const TAPPED_TURN_BYTES: usize = 64 << 10;
/// How soon an open without a reader is tried again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(1));
const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// Where a stream goes.
#[derive(Debug)]
pub(crate) enum Sink {
    /// A fifo whose reader has not come yet.
    Opening(PathBuf),
    /// A fifo, and our own reading end of it: as long as that is open, a client may go and come back.
    Fifo {
        /// The writing end.
        writer: OwnedFd,
        /// The reading end.
        keeper: Option<OwnedFd>,
    },
    /// The pipe that a process reads, or one to a logger.
    Pipe(OwnedFd),
    /// A terminal.
    Terminal(OwnedFd),
    /// A file, which is always ready.
    File(OwnedFd),
    /// A log of ours, if one is kept, and clients that attach.
    Log {
        /// The log.
        log: Option<Box<CriLog>>,
        /// A copy for those who are attached; none while nobody is.
        tap: Option<Vec<u8>>,
    },
}

impl Sink {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Opening(_) | Self::Log { .. } => None,
            Self::Fifo { writer: fd, .. } | Self::Pipe(fd) | Self::Terminal(fd) | Self::File(fd) => Some(fd.as_fd()),
        }
    }
}

/// Whether there is more to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The pump waits for its key to be reported.
    Waiting,
    /// The sink could not be opened yet: call again after this long.
    Retry(Duration),
    /// The source has ended, or nobody can read the sink any more.
    Finished,
}

/// What one attempt to copy came to.
enum Copied {
    Bytes(usize),
    SourceEmpty,
    SinkFull,
    End,
}

/// One stream on its way.
#[derive(Debug)]
pub(crate) struct Pump {
    key: Key,
    source: OwnedFd,
    source_is_pipe: bool,
    sink: Sink,
    /// What was read but not taken yet.
    pending: Vec<u8>,
    retry: Duration,
    /// Set once the sink is broken: the rest is read and thrown away, so that the writer does not stop.
    discards: bool,
}

impl Pump {
    /// A pump that will be reported under `key`. Both descriptors become non-blocking. Call [`step`](Self::step) to start.
    ///
    /// # Errors
    /// A descriptor is no such thing.
    pub(crate) fn new(key: Key, source: OwnedFd, sink: Sink) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&source, true)?;
        if let Some(fd) = sink.fd() {
            rustix::io::ioctl_fionbio(fd, true)?;
        }
        let source_is_pipe = rustix::pipe::fcntl_getpipe_size(&source).is_ok();
        Ok(Self { key, source, source_is_pipe, sink, pending: Vec::new(), retry: RETRY.0, discards: false })
    }

    /// The key it is reported under.
    pub(crate) fn key(&self) -> Key {
        self.key
    }

    /// Gives up our own reading end: from now on nothing is kept for a client that may come back. True if nobody reads
    /// the sink any more, and so the pump has nothing left to do.
    pub(crate) fn release(&mut self) -> bool {
        let Sink::Fifo { writer, keeper } = &mut self.sink else { return false };
        drop(keeper.take());
        let mut fds = [PollFd::new(writer, PollFlags::empty())];
        rustix::event::poll(&mut fds, Some(&AT_ONCE)).is_ok() && fds[0].revents().contains(PollFlags::ERR)
    }

    /// The log and the copy for attached clients, if that is where it goes.
    pub(crate) fn log(&mut self) -> Option<(Option<&mut CriLog>, &mut Option<Vec<u8>>)> {
        match &mut self.sink {
            Sink::Log { log, tap } => Some((log.as_deref_mut(), tap)),
            _ => None,
        }
    }

    /// Copies what can be copied now.
    pub(crate) fn step(&mut self, poll: &Poll) -> Progress {
        if let Sink::Opening(path) = &self.sink {
            match fifo::open_writer(path) {
                Ok(Some((writer, keeper))) => self.sink = Sink::Fifo { writer, keeper: Some(keeper) },
                Ok(None) => {
                    let again = self.retry;
                    self.retry = (self.retry * 2).min(RETRY.1);
                    return Progress::Retry(again);
                }
                Err(error) => {
                    log::warning!("output is lost: cannot open {}: {error}", path.display());
                    self.discards = true;
                }
            }
        }
        let mut left = if matches!(self.sink, Sink::Log { tap: Some(_), .. }) { TAPPED_TURN_BYTES } else { TURN_BYTES };
        let wait_for_sink = loop {
            match self.copy() {
                Copied::Bytes(count) if count < left => left -= count,
                // Enough for one turn; being ready, it is reported again at once.
                Copied::Bytes(_) | Copied::SourceEmpty => break false,
                Copied::SinkFull => break true,
                Copied::End => {
                    self.forget(poll);
                    return Progress::Finished;
                }
            }
        };
        let armed = match self.sink.fd() {
            Some(sink) if wait_for_sink => poll.arm(sink, self.key, EventFlags::OUT),
            _ => poll.arm(&self.source, self.key, EventFlags::IN),
        };
        match armed {
            Ok(()) => Progress::Waiting,
            Err(error) => {
                log::warning!("a stream cannot be watched: {error}");
                self.forget(poll);
                Progress::Finished
            }
        }
    }

    /// Takes both ends out of the set: they may be open elsewhere too, and would be reported for ever.
    pub(crate) fn forget(&self, poll: &Poll) {
        poll.remove(&self.source);
        if let Some(sink) = self.sink.fd() {
            poll.remove(sink);
        }
    }

    fn copy(&mut self) -> Copied {
        if !self.pending.is_empty() {
            return self.write_pending();
        }
        let mut buffer = [0; BUFFER_BYTES];
        let count = match rustix::io::read(&self.source, &mut buffer) {
            Ok(0) => return Copied::End,
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => return Copied::SourceEmpty,
            // A terminal without processes says so by EIO.
            Err(Errno::IO) => return Copied::End,
            Err(error) => {
                log::warning!("a stream has broken: {error}");
                return Copied::End;
            }
        };
        let copied = match self.write(&buffer[..count]) {
            Ok(written) if written == count => Copied::Bytes(count),
            Ok(written) => {
                self.pending.extend_from_slice(&buffer[written..count]);
                Copied::SinkFull
            }
            Err(()) => return Copied::End,
        };
        // There seems to be much more: let the kernel move the pages. Small amounts are better copied, since the kernel
        // would give each a page of the fifo of its own.
        match copied {
            Copied::Bytes(count) if count == BUFFER_BYTES && self.can_splice() => match self.splice() {
                Copied::SourceEmpty => Copied::Bytes(count),
                spliced => spliced,
            },
            copied => copied,
        }
    }

    fn write_pending(&mut self) -> Copied {
        let pending = std::mem::take(&mut self.pending);
        match self.write(&pending) {
            Ok(written) if written == pending.len() => Copied::Bytes(written),
            Ok(written) => {
                self.pending = pending[written..].to_vec();
                Copied::SinkFull
            }
            Err(()) => Copied::End,
        }
    }

    /// Writes as much as the sink takes; an error when nobody will ever take the rest.
    fn write(&mut self, bytes: &[u8]) -> Result<usize, ()> {
        if let Sink::Log { log, tap } = &mut self.sink {
            if let Some(log) = log {
                log.write(bytes, SystemTime::now());
            }
            if let Some(tap) = tap {
                tap.extend_from_slice(bytes);
            }
            return Ok(bytes.len());
        }
        let mut written = 0;
        while written < bytes.len() {
            let Some(sink) = self.sink.fd().filter(|_| !self.discards) else { return Ok(bytes.len()) };
            match rustix::io::write(sink, &bytes[written..]) {
                Ok(count) => written += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(Errno::PIPE | Errno::IO) if !matches!(self.sink, Sink::File(_)) => return Err(()),
                Err(error) => {
                    log::warning!("output is lost: {error}");
                    self.discards = true;
                }
            }
        }
        Ok(written)
    }

    fn can_splice(&self) -> bool {
        self.source_is_pipe && !self.discards && matches!(self.sink, Sink::Fifo { .. } | Sink::Pipe(_))
    }

    fn splice(&self) -> Copied {
        let Some(sink) = self.sink.fd() else { return Copied::SinkFull };
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        match rustix::pipe::splice(&self.source, None, sink, None, TURN_BYTES, flags) {
            Ok(0) | Err(Errno::PIPE) => Copied::End,
            Ok(count) => Copied::Bytes(count),
            // Either side may be the reason.
            Err(Errno::AGAIN) if is_writable(sink) => Copied::SourceEmpty,
            Err(Errno::AGAIN) => Copied::SinkFull,
            Err(_) => Copied::SourceEmpty,
        }
    }
}

fn is_writable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
    rustix::event::poll(&mut fds, Some(&AT_ONCE)).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::time::Instant;

    use super::*;

    /// Steps the pump whenever it is reported, until it has finished or nothing happens for `quiet`.
    fn run(pump: &mut Pump, poll: &Poll, quiet: Duration) -> bool {
        loop {
            match pump.step(poll) {
                Progress::Finished => return true,
                Progress::Retry(after) => std::thread::sleep(after),
                Progress::Waiting => {}
            }
            let mut reported = false;
            poll.wait(Some(Instant::now() + quiet), |_, _| reported = true).unwrap();
            if !reported && !matches!(pump.sink, Sink::Opening(_)) {
                return false;
            }
        }
    }

    #[test]
    fn a_stuck_reader_stops_the_writer_and_loses_nothing() {
        let mut poll = Poll::new().unwrap();
        let (source, writer) = rustix::pipe::pipe().unwrap();
        let (reader, sink) = rustix::pipe::pipe().unwrap();
        let mut pump = Pump::new(poll.key(), source, Sink::Pipe(sink)).unwrap();
        let sent: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[(n % 4) as usize]).collect();
        let to_send = sent.clone();
        let sender = std::thread::spawn(move || {
            std::io::Write::write_all(&mut std::fs::File::from(writer), &to_send).unwrap();
        });
        assert!(!run(&mut pump, &poll, Duration::from_millis(50)), "the reader takes nothing");
        assert!(pump.pending.len() <= BUFFER_BYTES);
        assert!(!sender.is_finished());
        let receiver = std::thread::spawn(move || {
            let mut received = Vec::new();
            std::fs::File::from(reader).read_to_end(&mut received).unwrap();
            received
        });
        assert!(run(&mut pump, &poll, Duration::from_secs(5)));
        drop(pump);
        sender.join().unwrap();
        assert!(receiver.join().unwrap() == sent);
    }

    #[test]
    fn a_sink_that_nobody_reads_ends_the_pump_once_released() {
        let mut poll = Poll::new().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let (source, writer) = rustix::pipe::pipe().unwrap();
        let mut pump = Pump::new(poll.key(), source, Sink::Opening(path.clone())).unwrap();
        assert!(matches!(pump.step(&poll), Progress::Retry(_)), "no reader yet");
        let client = fifo::open_reader(&path).unwrap();
        rustix::io::write(&writer, b"hello").unwrap();
        assert!(!run(&mut pump, &poll, Duration::from_millis(20)));
        let mut buffer = [0; 16];
        assert_eq!(rustix::io::read(&client, &mut buffer).unwrap(), 5);
        drop(client);
        rustix::io::write(&writer, b"kept for the next client").unwrap();
        assert!(!run(&mut pump, &poll, Duration::from_millis(20)));
        let client = fifo::open_reader(&path).unwrap();
        assert!(rustix::io::read(&client, &mut buffer).unwrap() > 0);
        assert!(!pump.release(), "the client is still there");
        drop(client);
        assert!(pump.release(), "nobody can read it any more");
        rustix::io::write(&writer, b"for nobody").unwrap();
        assert!(run(&mut pump, &poll, Duration::from_millis(500)));
    }
}
