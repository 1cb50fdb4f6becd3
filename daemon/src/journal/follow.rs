//! Reading the journal from a place on.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use model::filter::Filters;
use proto::prost_types::Any;
use proto::types::Envelope;
use store::StoreError;
use store::record::JournalEntry;
use tokio::sync::watch;

use super::{Extent, Inner, Journal, JournalError};
use crate::blocking;
use crate::events::fields::EventFields;

/// Most entries that are read at a time.
const PAGE: u64 = 256;

/// No entry is read to a page that has so many bytes.
const PAGE_BYTES: usize = 4 << 20;

/// The place of an entry, as clients remember it: `<journal>.<number>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    pub(super) journal: String,
    pub(super) number: u64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.journal, self.number)
    }
}

impl FromStr for Cursor {
    type Err = JournalError;

    fn from_str(text: &str) -> Result<Self, JournalError> {
        let parts = text.rsplit_once('.').filter(|(journal, _)| !journal.is_empty());
        let cursor = parts
            .and_then(|(journal, number)| Some(Self { journal: journal.to_owned(), number: number.parse().ok()? }));
        cursor.ok_or_else(|| JournalError::Cursor { text: text.chars().take(100).collect() })
    }
}

/// Where to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// With what happens next.
    Now,
    /// With the oldest entry.
    Oldest,
    /// With the first entry that was written down then or later.
    Since(SystemTime),
    /// Behind this one.
    Behind(Cursor),
}

/// Events that are missing, and how many if that is known (else 0).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gap {
    /// Dropped because of their age or number.
    Expired(u64),
    /// The daemon ended without a farewell.
    Crash,
    /// More happened than could be written.
    Overflow(u64),
    /// The cursor is of another journal.
    OtherJournal,
    /// They cannot be read.
    Damaged(u64),
}

/// What a follower is given.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Where to go on behind it.
    pub cursor: Cursor,
    /// What it is.
    pub what: What,
}

/// An event, or what is there instead.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// An event.
    Event(Envelope),
    /// Events are missing here.
    Gap(Gap),
    /// What is here does not match the filters.
    Others,
}

/// Reads from a place on. Dropping it ends that.
pub struct Follower {
    journal: Journal,
    filters: Arc<Filters>,
    /// The number of the entry to read next.
    position: u64,
    ready: VecDeque<Item>,
    extent: watch::Receiver<Extent>,
    /// Present if it waits for what comes.
    listening: Option<Listening>,
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower").field("position", &self.position).finish_non_exhaustive()
    }
}

/// Makes the journal write at once.
struct Listening(Arc<Inner>);

impl Listening {
    fn new(inner: &Arc<Inner>) -> Self {
        inner.listeners.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(inner))
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.listeners.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Journal {
    /// Begins to read at `start`, and with `follow` goes on with what comes.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn follow(&self, start: Start, filters: Filters, follow: bool) -> Result<Follower, JournalError> {
        let listening = follow.then(|| Listening::new(&self.inner));
        let extent = self.inner.extent.subscribe();
        let (oldest, next) = {
            let now = extent.borrow();
            (now.oldest, now.next)
        };
        let mut ready = VecDeque::new();
        let position = match start {
            Start::Now => next,
            Start::Oldest => oldest,
            Start::Since(time) => {
                let journal = self.clone();
                blocking::run(move || journal.first_since(time, oldest, next)).await?
            }
            Start::Behind(cursor) if cursor.journal == self.inner.id && cursor.number < next => cursor.number + 1,
            Start::Behind(_) => {
                let cursor = self.cursor(oldest - 1);
                ready.push_back(Item { cursor, what: What::Gap(Gap::OtherJournal) });
                oldest
            }
        };
        Ok(Follower { journal: self.clone(), filters: Arc::new(filters), position, ready, extent, listening })
    }

    pub(super) fn cursor(&self, number: u64) -> Cursor {
        Cursor { journal: self.inner.id.clone(), number }
    }

    /// The first entry that was written down at `time` or later: entries are in that order.
    fn first_since(&self, time: SystemTime, oldest: u64, next: u64) -> Result<u64, StoreError> {
        let (mut low, mut high) = (oldest, next);
        while low < high {
            let middle = low + (high - low) / 2;
            let earlier = match self.entry(middle) {
                Ok(entry) => entry.is_none_or(|entry| entry.kept_at < time),
                Err(StoreError::Damaged { .. } | StoreError::Newer { .. }) => true,
                Err(error) => return Err(error),
            };
            if earlier {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// The entries from `position` on, at most to `end`, and where to go on.
    fn page(&self, position: u64, end: u64, filters: &Filters) -> Result<(Vec<Item>, u64), StoreError> {
        let (mut items, mut bytes, mut number) = (Vec::<Item>::new(), 0, position);
        while number < end && bytes < PAGE_BYTES {
            let what = match self.entry(number) {
                Ok(Some(record)) => match record.entry {
                    JournalEntry::Event { at, namespace, topic, type_url, payload } => {
                        bytes += payload.len();
                        let timestamp = Some(proto::convert::time::to_wire(at));
                        let event = Some(Any { type_url, value: payload });
                        let envelope = Envelope { timestamp, namespace, topic, event };
                        if filters.matches(&EventFields::new(&envelope)) { What::Event(envelope) } else { What::Others }
                    }
                    JournalEntry::Crash => What::Gap(Gap::Crash),
                    JournalEntry::Overflow(number) => What::Gap(Gap::Overflow(number)),
                },
                // Dropped since.
                Ok(None) => What::Gap(Gap::Expired(1)),
                Err(StoreError::Damaged { .. } | StoreError::Newer { .. }) => What::Gap(Gap::Damaged(1)),
                Err(error) => return Err(error),
            };
            let cursor = self.cursor(number);
            number += 1;
            match (items.last_mut(), &what) {
                (Some(Item { what: What::Gap(Gap::Expired(so_far)), cursor: last }), What::Gap(Gap::Expired(more)))
                | (Some(Item { what: What::Gap(Gap::Damaged(so_far)), cursor: last }), What::Gap(Gap::Damaged(more))) =>
                {
                    *so_far += more;
                    *last = cursor;
                }
                (Some(Item { what: What::Others, cursor: last }), What::Others) => *last = cursor,
                _ => items.push(Item { cursor, what }),
            }
        }
        Ok((items, number))
    }
}

impl Follower {
    /// The next item; `None` at the end of a journal that is not followed further.
    ///
    /// # Errors
    /// The store cannot be read, or the daemon stops.
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Result<Option<Item>, JournalError> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Ok(Some(item));
            }
            let extent = self.extent.borrow_and_update().clone();
            if self.position < extent.oldest {
                let gap = Gap::Expired(extent.oldest - self.position);
                self.position = extent.oldest;
                return Ok(Some(Item { cursor: self.journal.cursor(extent.oldest - 1), what: What::Gap(gap) }));
            }
            if self.position < extent.next {
                let (journal, filters, position) = (self.journal.clone(), Arc::clone(&self.filters), self.position);
                let end = extent.next.min(position + PAGE);
                let (items, next) = blocking::run(move || journal.page(position, end, &filters)).await?;
                self.ready.extend(items);
                self.position = next;
                continue;
            }
            if self.listening.is_none() {
                return Ok(None);
            }
            if extent.closed || self.extent.changed().await.is_err() {
                return Err(JournalError::Stopping);
            }
        }
    }
}
