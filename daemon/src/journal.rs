//! The journal: events kept in the store, so that whoever was away hears what happened meanwhile.
//!
//! ```text
//! bus ─► queue (bounded) ─► write: a batch, riding with the groups of the store ─► on disk ─► followers, page by page
//! ```
//!
//! Entries are numbered without holes. A follower is given an entry only when it is on disk, so a number never comes to mean
//! something else. It is bounded by age, number and bytes; the oldest go first. Whatever is missing leaves a mark where it is
//! missing: too old, a crash, an overflow, damage. It must never make a request wait.

mod follow;
mod write;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use model::error::{Classify, Kind};
use store::record::{EventRecord, JournalEntry, JournalRecord};
use store::{Read as _, Store, StoreError, tables};
use tokio::sync::watch;

pub use follow::{Cursor, Follower, Gap, Item, Start, What};

/// The key of the only record in its table.
const ONLY: &[u8] = b"";

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Whether anything is.
    pub enabled: bool,
    /// For how long.
    pub max_age: Duration,
    /// How many entries.
    pub max_events: u64,
    /// How many bytes of them.
    pub max_bytes: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { enabled: true, max_age: Duration::from_secs(7 * 24 * 3600), max_events: 100_000, max_bytes: 64 << 20 }
    }
}

/// Why there is nothing to read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A cursor that this daemon never gave out.
    #[error("{text:?} is not a cursor")]
    Cursor {
        /// What was given.
        text: String,
    },
    /// The store cannot be read.
    #[error("cannot read the journal of events")]
    Store(#[from] StoreError),
    /// The daemon stops; the rest comes after its next start.
    #[error("daemon is stopping")]
    Stopping,
    /// Events are not kept.
    #[error("this daemon is configured to keep no events")]
    Off,
}

impl Classify for JournalError {
    fn kind(&self) -> Kind {
        match self {
            Self::Cursor { .. } => Kind::InvalidArgument,
            Self::Store(error) => error.kind(),
            Self::Stopping => Kind::Unavailable,
            Self::Off => Kind::FailedPrecondition,
        }
    }
}

/// How far the journal goes on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// The number of the oldest entry.
    pub oldest: u64,
    /// The number of the next entry.
    pub next: u64,
    /// The bytes of all entries.
    pub bytes: u64,
    /// Whether nothing will be added any more.
    pub closed: bool,
}

/// The journal. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Journal {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    settings: Settings,
    id: String,
    extent: watch::Sender<Extent>,
    /// Followers that wait for what comes next.
    listeners: AtomicUsize,
}

impl Journal {
    /// Opens the journal, or begins one. An earlier one that was not closed gets a mark at its end. For blocking code.
    ///
    /// # Errors
    /// The store refuses.
    pub fn open(store: Store, settings: Settings) -> Result<Self, StoreError> {
        let record = store.write(|tx| {
            let mut record = match tx.get(&tables::JOURNAL, ONLY) {
                Ok(Some(record)) => record,
                Ok(None) => begin(0),
                Err(error @ (StoreError::Damaged { .. } | StoreError::Newer { .. })) => {
                    tracing::error!(%error, "journal of events begun anew");
                    // Entries that are there would get in the way.
                    let last = tx.keys(&tables::EVENTS, b"")?.pop();
                    let number = last.as_deref().and_then(|key| std::str::from_utf8(key).ok());
                    begin(number.and_then(|text| u64::from_str_radix(text, 16).ok()).map_or(0, |last| last + 1))
                }
                Err(error) => return Err(error),
            };
            if !record.closed {
                write::append(tx, &mut record, JournalEntry::Crash)?;
            }
            record.closed = false;
            tx.put(&tables::JOURNAL, ONLY, &record)?;
            Ok::<_, StoreError>(record)
        })?;
        let (extent, _) = watch::channel(Extent::of(&record));
        let listeners = AtomicUsize::new(0);
        Ok(Self { inner: Arc::new(Inner { store, settings, id: record.id, extent, listeners }) })
    }

    /// How far it goes.
    pub fn extent(&self) -> Extent {
        self.inner.extent.borrow().clone()
    }

    /// The cursor of the newest entry.
    pub fn newest(&self) -> Cursor {
        Cursor { journal: self.inner.id.clone(), number: self.extent().next.saturating_sub(1) }
    }

    fn entry(&self, number: u64) -> Result<Option<EventRecord>, StoreError> {
        self.inner.store.read().get(&tables::EVENTS, &store::record::event_key(number))
    }

    fn is_awaited(&self) -> bool {
        self.inner.listeners.load(Ordering::Relaxed) > 0
    }
}

impl Extent {
    fn of(record: &JournalRecord) -> Self {
        Self { oldest: record.oldest, next: record.next, bytes: record.bytes, closed: record.closed }
    }
}

/// A journal without entries.
fn begin(next: u64) -> JournalRecord {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let id = format!("{:x}{}", since.as_secs(), crate::meta::leases::random_text(8));
    // Number 0 is never used, so that a cursor can stand before the first entry.
    let next = next.max(1);
    JournalRecord { id, oldest: next, next, bytes: 0, closed: true }
}

#[cfg(test)]
mod tests;
