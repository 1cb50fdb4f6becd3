//! The journal of events.

use std::time::SystemTime;

use crate::table::Record;

/// One entry of the journal. Key: its number, as [`event_key`] writes it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct EventRecord {
    /// When it was written down. What happened may have happened long before.
    pub kept_at: SystemTime,
    /// What it says.
    pub entry: JournalEntry,
}

/// What an entry of the journal says.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum JournalEntry {
    /// Something happened.
    Event {
        /// When.
        at: SystemTime,
        /// In which namespace.
        namespace: String,
        /// What about.
        topic: String,
        /// The type of the payload.
        type_url: String,
        /// The payload.
        payload: Vec<u8>,
    },
    /// Events may be missing here, because the daemon ended without a farewell.
    Crash,
    /// So many events are missing here, because they could not be written; 0 if the number is not known.
    Overflow(u64),
}

impl Record for EventRecord {
    const VERSION: u8 = 1;
}

/// How far the journal goes. There is one.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct JournalRecord {
    /// Which journal this is: another store has another one.
    pub id: String,
    /// The number of the oldest entry, or of the next one if there is none.
    pub oldest: u64,
    /// The number of the next entry.
    pub next: u64,
    /// The bytes of all entries.
    pub bytes: u64,
    /// Whether it was closed, so that nothing is missing at its end.
    pub closed: bool,
}

impl Record for JournalRecord {
    const VERSION: u8 = 1;
}

/// The key of an entry: keys sort as their numbers do.
pub fn event_key(number: u64) -> Vec<u8> {
    format!("{number:016x}").into_bytes()
}
