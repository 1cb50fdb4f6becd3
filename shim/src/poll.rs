//! What the one thread sleeps on: descriptors (epoll) and deadlines.
//!
//! It knows neither what a descriptor is nor what a deadline is for: the caller gives each a key or a value of its own.
//! Nothing here allocates while nothing happens.

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};

pub(crate) use rustix::event::epoll::EventFlags;

/// The most events taken from the kernel at once.
const BATCH: usize = 32;

/// The name of what is watched. Never used twice, so an event that was already fetched cannot reach a newcomer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key(u64);

/// The set of watched descriptors.
#[derive(Debug)]
pub(crate) struct Poll {
    epoll: OwnedFd,
    next: u64,
}

impl Poll {
    /// An empty set.
    ///
    /// # Errors
    /// The kernel has no descriptor left.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?, next: 1 })
    }

    /// A key that was never given before.
    pub(crate) fn key(&mut self) -> Key {
        self.next += 1;
        Key(self.next)
    }

    /// Watches `fd`. Errors and hang-ups are always reported, also when `interest` is empty.
    ///
    /// # Errors
    /// `EPERM` for a regular file, which is always ready; `EEXIST` for a descriptor that is watched already.
    pub(crate) fn add(&self, fd: impl AsFd, key: Key, interest: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, epoll::EventData::new_u64(key.0), interest)?)
    }

    /// Changes what is reported of `fd`.
    ///
    /// # Errors
    /// It is not watched.
    pub(crate) fn change(&self, fd: impl AsFd, key: Key, interest: EventFlags) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, fd, epoll::EventData::new_u64(key.0), interest)?)
    }

    /// Watches `fd` for one event, whether it was watched before or not.
    ///
    /// # Errors
    /// `EPERM` for a regular file.
    pub(crate) fn arm(&self, fd: impl AsFd, key: Key, interest: EventFlags) -> io::Result<()> {
        let interest = interest | EventFlags::ONESHOT;
        match self.change(&fd, key, interest) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.add(fd, key, interest),
            result => result,
        }
    }

    /// Stops watching. A descriptor that was closed everywhere is forgotten by itself, but one that was also handed to
    /// another process is not.
    pub(crate) fn remove(&self, fd: impl AsFd) {
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Sleeps until something is ready or `until` has come, and gives the ready ones to `each`.
    ///
    /// # Errors
    /// The set itself is broken.
    pub(crate) fn wait(&self, until: Option<Instant>, mut each: impl FnMut(Key, EventFlags)) -> io::Result<()> {
        let timeout = until.map(|until| until.saturating_duration_since(Instant::now()));
        let timeout = timeout.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); BATCH];
        let (ready, _) = match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => return Ok(()),
            result => result?,
        };
        for event in ready {
            each(Key(event.data.u64()), event.flags);
        }
        Ok(())
    }
}

/// The name of a deadline, to cancel it by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TimerId {
    at: Instant,
    number: u64,
}

/// Deadlines, the earliest first. Those at the same moment keep their order.
#[derive(Debug)]
pub(crate) struct Timers<T> {
    next: u64,
    by_time: BTreeMap<TimerId, T>,
}

impl<T> Timers<T> {
    /// No deadlines.
    pub(crate) fn new() -> Self {
        Self { next: 0, by_time: BTreeMap::new() }
    }

    /// Has `what` come out of [`due`](Self::due) once `after` has passed.
    pub(crate) fn set(&mut self, after: Duration, what: T) -> TimerId {
        self.next += 1;
        let id = TimerId { at: Instant::now() + after, number: self.next };
        self.by_time.insert(id, what);
        id
    }

    /// Forgets a deadline; one that has come is no error.
    pub(crate) fn cancel(&mut self, id: TimerId) -> Option<T> {
        self.by_time.remove(&id)
    }

    /// When the earliest is.
    pub(crate) fn earliest(&self) -> Option<Instant> {
        self.by_time.first_key_value().map(|(id, _)| id.at)
    }

    /// Takes out the earliest if it has come by `now`.
    pub(crate) fn due(&mut self, now: Instant) -> Option<T> {
        if self.earliest()? > now {
            return None;
        }
        self.by_time.pop_first().map(|(_, what)| what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_come_in_order_and_cancelled_ones_never() {
        let mut timers = Timers::new();
        timers.set(Duration::from_secs(3), "c");
        let cancelled = timers.set(Duration::from_secs(2), "b");
        timers.set(Duration::from_secs(1), "a");
        assert_eq!(timers.cancel(cancelled), Some("b"));
        assert_eq!(timers.cancel(cancelled), None);
        assert_eq!(timers.due(Instant::now()), None);
        let later = Instant::now() + Duration::from_secs(10);
        assert_eq!([timers.due(later), timers.due(later), timers.due(later)], [Some("a"), Some("c"), None]);
        assert_eq!(timers.earliest(), None);
    }

    #[test]
    fn a_one_shot_event_is_reported_once_until_armed_again() {
        let mut poll = Poll::new().unwrap();
        let key = poll.key();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&writer, b"x").unwrap();
        let mut seen = 0;
        for _ in 0..2 {
            poll.arm(&reader, key, EventFlags::IN).unwrap();
            for _ in 0..2 {
                poll.wait(Some(Instant::now()), |found, _| {
                    assert_eq!(found, key);
                    seen += 1;
                })
                .unwrap();
            }
        }
        assert_eq!(seen, 2);
    }
}
