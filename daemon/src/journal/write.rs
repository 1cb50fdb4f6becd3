//! Writing entries, and dropping the oldest.
//!
//! One task takes what waits on the bus and writes it in one change. While nobody follows, the change has time and rides with the
//! groups that others make necessary. When the store fails the batch is kept and tried again; what the queue cannot hold
//! meanwhile leaves a mark.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use model::filter::Filters;
use proto::types::Envelope;
use store::record::{EventRecord, JournalEntry, JournalRecord, event_key};
use store::{Read as _, StoreError, Tx, tables};
use tracing::{error, warn};

use super::{Extent, Journal, ONLY, Settings};
use crate::events::{Bus, Ended, Subscription};

/// Most entries of one batch.
const BATCH: usize = 256;

/// No entry joins a batch that has so many bytes.
const BATCH_BYTES: usize = 1 << 20;

/// The largest event that is kept, in bytes; a larger one leaves a mark.
const MAX_EVENT_BYTES: usize = 1 << 20;

/// How long an event may take to the disk while nobody follows.
const PATIENCE: Duration = Duration::from_millis(100);

/// The time between two attempts to write a batch.
const RETRY: Duration = Duration::from_secs(1);

/// How often old entries are looked for when nothing happens.
const TRIM: Duration = Duration::from_secs(3600);

/// Most entries that one batch drops: more than it adds, so the bound is reached.
const MOST_DROPPED: usize = 2 * BATCH;

/// What an entry weighs beyond its texts, in bytes.
const ENTRY_BYTES: u64 = 64;

impl Journal {
    /// What the journal must hear. Call it before anything is published.
    pub fn listen(bus: &Bus) -> Subscription {
        bus.subscribe_inside(Filters::parse::<&str>(&[]).expect("no filter is a filter"))
    }

    /// Writes down what the subscription brings, until the bus is closed.
    pub async fn run(self, bus: Bus, mut subscription: Subscription) {
        loop {
            let mut batch = Vec::new();
            match tokio::time::timeout(TRIM, subscription.next()).await {
                Err(_) => {}
                Ok(Ok(envelope)) => batch.push(entry(&envelope)),
                Ok(Err(Ended::TooSlow)) => {
                    warn!("more events than could be written; the journal has a gap");
                    subscription = Self::listen(&bus);
                    batch.push(JournalEntry::Overflow(0));
                }
                Ok(Err(Ended::Stopping)) => break,
            }
            let mut bytes = batch.iter().map(weight).sum::<u64>();
            while batch.len() < BATCH && bytes < BATCH_BYTES as u64 {
                let Some(envelope) = subscription.waiting() else { break };
                batch.push(entry(&envelope));
                bytes += batch.last().map_or(0, weight);
            }
            self.write(batch).await;
        }
        let closed = self.change(Duration::ZERO, |tx, record| {
            record.closed = true;
            tx.put(&tables::JOURNAL, ONLY, record)
        });
        if let Err(error) = closed.await {
            error!(%error, "journal of events not closed");
        }
    }

    /// Writes a batch, however often it takes.
    async fn write(&self, batch: Vec<JournalEntry>) {
        let batch = Arc::new(batch);
        let patience = if self.is_awaited() || batch.len() == BATCH { Duration::ZERO } else { PATIENCE };
        loop {
            let (settings, entries) = (self.inner.settings, Arc::clone(&batch));
            let written = self.change(patience, move |tx, record| {
                for entry in &*entries {
                    append(tx, record, entry.clone())?;
                }
                drop_oldest(tx, record, &settings)?;
                tx.put(&tables::JOURNAL, ONLY, record)
            });
            match written.await {
                Ok(()) => return,
                Err(StoreError::Closed) => return,
                Err(error) => warn!(%error, events = batch.len(), "events not written, trying again"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn change(
        &self,
        patience: Duration,
        work: impl FnOnce(&mut Tx<'_>, &mut JournalRecord) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<(), StoreError> {
        let change = self.inner.store.submit_patiently(patience, move |tx| {
            let mut record = tx.get(&tables::JOURNAL, ONLY)?.unwrap_or_else(|| super::begin(0));
            work(tx, &mut record)?;
            Ok::<_, StoreError>(record)
        });
        let record = change.await?;
        self.inner.extent.send_replace(Extent::of(&record));
        Ok(())
    }
}

/// The entry of an event.
fn entry(envelope: &Envelope) -> JournalEntry {
    let (type_url, payload) = match &envelope.event {
        Some(event) => (event.type_url.clone(), event.value.clone()),
        None => Default::default(),
    };
    if payload.len() + type_url.len() > MAX_EVENT_BYTES {
        return JournalEntry::Overflow(1);
    }
    let at = envelope.timestamp.and_then(|time| proto::convert::time::from_wire(time).ok());
    JournalEntry::Event {
        at: at.unwrap_or_else(SystemTime::now),
        namespace: envelope.namespace.clone(),
        topic: envelope.topic.clone(),
        type_url,
        payload,
    }
}

/// Adds an entry with the next number. The record is to be written afterwards.
pub(super) fn append(tx: &mut Tx<'_>, record: &mut JournalRecord, entry: JournalEntry) -> Result<(), StoreError> {
    record.bytes += weight(&entry);
    tx.put(&tables::EVENTS, &event_key(record.next), &EventRecord { kept_at: SystemTime::now(), entry })?;
    record.next += 1;
    Ok(())
}

/// Drops the oldest entries that are too old or too many.
fn drop_oldest(tx: &mut Tx<'_>, record: &mut JournalRecord, settings: &Settings) -> Result<(), StoreError> {
    let now = SystemTime::now();
    for _ in 0..MOST_DROPPED {
        if record.oldest >= record.next {
            record.bytes = 0;
            return Ok(());
        }
        let key = event_key(record.oldest);
        let oldest = match tx.get(&tables::EVENTS, &key) {
            Ok(oldest) => oldest,
            // It goes when its turn comes, as if it were of no weight.
            Err(StoreError::Damaged { .. } | StoreError::Newer { .. }) => None,
            Err(error) => return Err(error),
        };
        let too_many = record.next - record.oldest > settings.max_events || record.bytes > settings.max_bytes;
        let age = |oldest: &EventRecord| now.duration_since(oldest.kept_at).unwrap_or_default();
        if !too_many && oldest.as_ref().is_some_and(|oldest| age(oldest) <= settings.max_age) {
            return Ok(());
        }
        record.bytes = record.bytes.saturating_sub(oldest.map_or(0, |oldest| weight(&oldest.entry)));
        tx.delete(&tables::EVENTS, &key)?;
        record.oldest += 1;
    }
    Ok(())
}

/// What an entry takes on disk, about.
fn weight(entry: &JournalEntry) -> u64 {
    let texts = match entry {
        JournalEntry::Event { namespace, topic, type_url, payload, .. } => {
            namespace.len() + topic.len() + type_url.len() + payload.len()
        }
        JournalEntry::Crash | JournalEntry::Overflow(_) => 0,
    };
    ENTRY_BYTES + texts as u64
}
