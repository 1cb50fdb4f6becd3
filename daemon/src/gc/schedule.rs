//! When collection runs: soon after something was deleted, at once when somebody waits for it, never so often that it is in the way.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::Digest;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::sweep::{self, Found};
use crate::api::Failure;
use crate::blocking;
use crate::config::Gc;
use crate::meta::Meta;

/// The shortest time a collection is taken to last, so that the pause after it has a length.
const SHORTEST_RUN: Duration = Duration::from_millis(5);

/// The longest pause. Collection does not stop writers, so the share is a courtesy: what removing a big tree took must not keep
/// the next one waiting for minutes, when clients expect what they deleted to be gone soon.
const PATIENCE: Duration = Duration::from_secs(5);

/// The pause after a collection when the configuration allows it no share of the time.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The pause after a collection that failed: what is wrong with the store or a driver will not be over at once.
const RETRY_PAUSE: Duration = Duration::from_secs(10);

/// Without any other cause collection runs this often, for what expires.
const EXPIRY_PERIOD: Duration = Duration::from_secs(10 * 60);

/// Asks for collection. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Trigger {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    work: Mutex<Work>,
    wake: Notify,
    thresholds: Thresholds,
    figures: Mutex<Figures>,
}

/// What collections have done since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// How many have ended well.
    pub runs: u64,
    /// What they removed.
    pub removed: u64,
    /// How long the last one took.
    pub last: Duration,
}

/// How much of what makes collection more urgent; 0 for no amount. Nothing is known of it before the schedule runs.
#[derive(Debug, Default)]
struct Thresholds {
    changes: AtomicU64,
    deletions: AtomicU64,
}

impl Thresholds {
    fn set(&self, settings: &Gc) {
        self.changes.store(settings.mutation_threshold, Ordering::Relaxed);
        self.deletions.store(settings.deletion_threshold, Ordering::Relaxed);
    }

    fn urgency(&self, work: &Work) -> Urgency {
        let reached = |count: u64, threshold: &AtomicU64| match threshold.load(Ordering::Relaxed) {
            0 => false,
            threshold => count >= threshold,
        };
        if !work.waiting.is_empty() || reached(work.deletions, &self.deletions) {
            Urgency::Now
        } else if work.deletions > 0 || reached(work.changes, &self.changes) {
            Urgency::Tick
        } else {
            Urgency::None
        }
    }
}

/// What has come together since the last collection.
#[derive(Debug, Default)]
struct Work {
    deletions: u64,
    changes: u64,
    loose: Loose,
    waiting: Vec<oneshot::Sender<Result<(), Failure>>>,
}

/// Files and folders whose last record is gone, as far as is known.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Loose {
    /// Driver keys, each with its snapshotter.
    pub snapshots: BTreeSet<(String, String)>,
    /// Blobs.
    pub blobs: BTreeSet<Digest>,
}

/// How soon collection has to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    /// There is no cause.
    None,
    /// When the pause is over.
    Tick,
    /// Somebody waits for it, or very much was deleted.
    Now,
}

impl Trigger {
    /// What collections have done since the start.
    pub fn figures(&self) -> Figures {
        *self.shared.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self, removed: u64, took: Duration) {
        let mut figures = self.shared.figures.lock().unwrap_or_else(PoisonError::into_inner);
        figures.runs += 1;
        figures.removed += removed;
        figures.last = took;
    }

    /// Says that records were written.
    pub fn changed(&self) {
        self.note(|work| work.changes += 1);
    }

    /// Says that something is gone that may have held something else.
    pub fn deleted(&self) {
        self.note(|work| work.deletions += 1);
    }

    /// Says that a record of a snapshot is gone.
    pub fn unmapped(&self, snapshotter: String, backend_key: String) {
        self.note(|work| {
            work.deletions += 1;
            work.loose.snapshots.insert((snapshotter, backend_key));
        });
    }

    /// Says that a record of a blob is gone.
    pub fn unheld(&self, digest: Digest) {
        self.note(|work| {
            work.deletions += 1;
            work.loose.blobs.insert(digest);
        });
    }

    /// Notes a cause, and wakes the schedule if it became more urgent by it.
    fn note(&self, cause: impl FnOnce(&mut Work)) {
        let mut work = self.lock();
        let before = self.shared.thresholds.urgency(&work);
        cause(&mut work);
        let more_urgent = self.shared.thresholds.urgency(&work) > before;
        drop(work);
        if more_urgent {
            self.shared.wake.notify_one();
        }
    }

    /// Lets collection run, and waits for one that began after this call.
    ///
    /// # Errors
    /// Why it failed.
    ///
    /// # Cancel safety
    /// It runs all the same.
    pub async fn collect(&self) -> Result<(), Failure> {
        let (done, answer) = oneshot::channel();
        self.note(|work| work.waiting.push(done));
        answer.await.unwrap_or_else(|_| Err(Stopping.into()))
    }

    fn urgency(&self) -> Urgency {
        self.shared.thresholds.urgency(&self.lock())
    }

    fn take(&self) -> Work {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Work> {
        // Every change under the lock leaves a whole list.
        self.shared.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The daemon ends before collection could run.
#[derive(Debug, thiserror::Error)]
#[error("garbage collection is stopping")]
struct Stopping;

impl model::Classify for Stopping {
    fn kind(&self) -> model::Kind {
        model::Kind::Unavailable
    }
}

/// Runs collection whenever there is a cause, until `stop`. The first run also looks for what a crash left.
pub async fn run(meta: Meta, settings: Gc, stop: CancellationToken) {
    let trigger = meta.trigger().clone();
    trigger.shared.thresholds.set(&settings);
    let mut pace = Pace::new(settings.pause_threshold);
    let mut next = Instant::now() + settings.startup_delay;
    let mut found = Found::Everything;
    // What could not be removed yet, for one a snapshot that others still stand on.
    let mut left = Loose::default();
    loop {
        let urgency = if found == Found::Everything { Urgency::Tick } else { trigger.urgency() };
        let now = match urgency {
            Urgency::Now => {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(settings.schedule_delay) => true,
                }
            }
            Urgency::Tick | Urgency::None => {
                let at = if urgency == Urgency::Tick { next } else { next + EXPIRY_PERIOD };
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep_until(at) => true,
                    // There is a new cause: look again.
                    () = trigger.shared.wake.notified() => trigger.urgency() == Urgency::Now,
                }
            }
        };
        if !now {
            continue;
        }
        let Work { mut loose, waiting, .. } = trigger.take();
        loose.snapshots.append(&mut left.snapshots);
        loose.blobs.append(&mut left.blobs);
        let began = Instant::now();
        let outcome = {
            let (meta, found) = (meta.clone(), found);
            blocking::run(move || sweep::collect(&meta, loose, found)).await
        };
        let answer = match outcome {
            Ok(report) => {
                debug!(removed = report.removed, kept = report.left.snapshots.len(), took = ?began.elapsed(), "collected");
                trigger.ended(report.removed as u64, began.elapsed());
                left = report.left;
                found = Found::Told;
                Ok(())
            }
            Err(error) => {
                // What was known to be loose is looked for again.
                found = Found::Everything;
                let failure = Failure::from(error);
                warn!(error = failure.message(), "garbage collection failed");
                Err(failure)
            }
        };
        for done in waiting {
            // Who asked may have stopped waiting.
            let _ = done.send(answer.clone());
        }
        let pause = pace.pause_after(began.elapsed());
        next = Instant::now() + if found == Found::Everything { pause.max(RETRY_PAUSE) } else { pause };
    }
}

/// How long to pause, so that collection takes no more than its share of the time.
#[derive(Debug)]
struct Pace {
    share: f64,
    average: Duration,
}

impl Pace {
    fn new(share: f64) -> Self {
        Self { share, average: SHORTEST_RUN }
    }

    fn pause_after(&mut self, run: Duration) -> Duration {
        self.average = ((self.average * 3 + run) / 4).max(SHORTEST_RUN);
        if self.share <= 0.0 {
            return LONGEST_PAUSE.max(self.average);
        }
        self.average.div_f64(self.share).min(PATIENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Gc {
        Gc {
            pause_threshold: 0.02,
            deletion_threshold: 0,
            mutation_threshold: 3,
            schedule_delay: Duration::ZERO,
            startup_delay: Duration::ZERO,
        }
    }

    #[test]
    fn causes_and_how_urgent_they_are() {
        let digest = Digest::sha256(b"x");
        let digest = &digest;
        for (cause, urgency, with_threshold) in [
            ((|_| {}) as fn(&Trigger), Urgency::None, Urgency::None),
            (|t| t.changed(), Urgency::None, Urgency::None),
            (|t| (0..3).for_each(|_| t.changed()), Urgency::Tick, Urgency::Tick),
            (|t| t.deleted(), Urgency::Tick, Urgency::Tick),
            (|t| t.unmapped("s".into(), "k".into()), Urgency::Tick, Urgency::Tick),
            (|t| (0..2).for_each(|_| t.deleted()), Urgency::Tick, Urgency::Now),
        ] {
            let trigger = Trigger::default();
            cause(&trigger);
            trigger.shared.thresholds.set(&settings());
            assert_eq!(trigger.urgency(), urgency);
            trigger.shared.thresholds.set(&Gc { deletion_threshold: 2, ..settings() });
            assert_eq!(trigger.urgency(), with_threshold);
        }
        let trigger = Trigger::default();
        trigger.unheld(digest.clone());
        assert_eq!(trigger.take().loose.blobs, BTreeSet::from([digest.clone()]));
        assert_eq!(trigger.urgency(), Urgency::None);
    }

    #[test]
    fn pauses_follow_the_share() {
        let mut pace = Pace::new(0.02);
        assert_eq!(pace.pause_after(Duration::from_millis(1)), Duration::from_millis(250));
        let longer = pace.pause_after(Duration::from_millis(20));
        assert!(longer > Duration::from_millis(250) && longer < Duration::from_secs(1), "{longer:?}");
        assert_eq!(pace.pause_after(Duration::from_secs(100)), PATIENCE);
        assert_eq!(Pace::new(0.0).pause_after(Duration::ZERO), LONGEST_PAUSE);
    }
}
