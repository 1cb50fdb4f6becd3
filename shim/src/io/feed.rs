//! The input that attached clients bring, on its way into a process.
//!
//! ```text
//!  AttachInput ──► pending ──► pipe of the process, terminal          close ─► once nothing is pending: the end of input
//! ```
//!
//! It stays open however many clients come and go, until it is closed. What the process does not read stays here, and the
//! owner takes in no more while [`Feed::is_full`].

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;

use crate::poll::{EventFlags, Key, Poll};

/// More than this is not taken in before the process has read.
const FULL_BYTES: usize = 64 << 10;

/// Standard input, from our side.
#[derive(Debug)]
pub(crate) struct Feed {
    key: Key,
    sink: OwnedFd,
    pending: Vec<u8>,
    is_closing: bool,
    /// Whether it closes with the first client that has brought input.
    once: bool,
}

/// What a feed is after a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fed {
    /// Open.
    Open,
    /// The process has its end of input, or will never read again.
    Ended,
}

impl Feed {
    /// A feed into `sink`, which becomes non-blocking, reported under `key`.
    ///
    /// # Errors
    /// The descriptor is no such thing.
    pub(crate) fn new(key: Key, sink: OwnedFd, once: bool) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&sink, true)?;
        Ok(Self { key, sink, pending: Vec::new(), is_closing: false, once })
    }

    /// The key it is reported under.
    pub(crate) fn key(&self) -> Key {
        self.key
    }

    /// Whether it closes with the first client that has brought input.
    pub(crate) fn is_once(&self) -> bool {
        self.once
    }

    /// Whether no more should be taken in for now.
    pub(crate) fn is_full(&self) -> bool {
        self.pending.len() > FULL_BYTES
    }

    /// Takes in more input; after a close, it is dropped.
    pub(crate) fn write(&mut self, bytes: &[u8], poll: &Poll) -> Fed {
        if !self.is_closing {
            self.pending.extend_from_slice(bytes);
        }
        self.step(poll)
    }

    /// No more will come.
    pub(crate) fn close(&mut self, poll: &Poll) -> Fed {
        self.is_closing = true;
        self.step(poll)
    }

    /// Hands on what the process takes now.
    pub(crate) fn step(&mut self, poll: &Poll) -> Fed {
        let mut written = 0;
        let result = loop {
            if written == self.pending.len() {
                break Ok(());
            }
            match rustix::io::write(&self.sink, &self.pending[written..]) {
                Ok(count) => written += count,
                Err(Errno::INTR) => {}
                Err(error) => break Err(error),
            }
        };
        self.pending.drain(..written);
        if self.pending.is_empty() {
            self.pending = Vec::new();
        }
        let waits = match result {
            Ok(()) => Ok(()),
            Err(Errno::AGAIN) => poll.arm(&self.sink, self.key, EventFlags::OUT),
            Err(error) => Err(error.into()),
        };
        if waits.is_err() || (self.is_closing && self.pending.is_empty()) {
            self.forget(poll);
            return Fed::Ended;
        }
        Fed::Open
    }

    /// Takes it out of the set.
    pub(crate) fn forget(&self, poll: &Poll) {
        poll.remove(&self.sink);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_read_waits_and_the_end_comes_behind_it() {
        let mut poll = Poll::new().unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let mut feed = Feed::new(poll.key(), writer, false).unwrap();
        assert_eq!(feed.write(&[7; 200_000], &poll), Fed::Open);
        assert!(feed.is_full());
        assert_eq!(feed.close(&poll), Fed::Open, "there is something left");
        assert_eq!(feed.write(b"too late", &poll), Fed::Open);
        let mut read = 0;
        let mut buffer = vec![0; 65_536];
        loop {
            let count = rustix::io::read(&reader, &mut buffer).unwrap();
            read += count;
            if feed.step(&poll) == Fed::Ended {
                break;
            }
        }
        drop(feed);
        loop {
            match rustix::io::read(&reader, &mut buffer).unwrap() {
                0 => break,
                count => read += count,
            }
        }
        assert_eq!(read, 200_000);
    }

    #[test]
    fn a_process_that_is_gone_ends_it() {
        let mut poll = Poll::new().unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let mut feed = Feed::new(poll.key(), writer, true).unwrap();
        drop(reader);
        assert!(feed.is_once());
        assert_eq!(feed.write(b"x", &poll), Fed::Ended);
    }
}
