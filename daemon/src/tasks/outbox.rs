//! The way of every event about a task to the bus, and what is held back right after a restart.
//!
//! The bus has no replay, and clients that live on events need a moment to come back when the daemon was restarted. What ended
//! meanwhile would be told to nobody. So after a restart that found tasks, events are kept, in order, until each has somebody who
//! listens for it and nobody new came for a moment; at the latest after [`PATIENCE`]'s `hold`. Only then is an exit written down as published.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use model::error::Classify;
use proto::types::Envelope;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::record::PublishedExit;
use crate::blocking;
use crate::events::{Bus, EventError};

/// How long clients are waited for.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// How long events are held at most.
    hold: Duration,
    /// How long nobody new may have subscribed before they are let go: dockerd subscribes twice.
    settle: Duration,
    /// How often it is looked who subscribed.
    look: Duration,
}

const PATIENCE: Patience =
    Patience { hold: Duration::from_secs(30), settle: Duration::from_millis(500), look: Duration::from_millis(25) };

/// How many events are held at most; when there are more, all are let go.
const MAX_HELD: usize = 8192;

/// An event on its way.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// The event.
    pub envelope: Envelope,
    /// What to write down, in the folder of which task, once it is on the bus.
    pub record: Option<(PathBuf, PublishedExit)>,
}

/// The way to the bus. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Outbox {
    bus: Bus,
    /// `None`: nothing is held.
    held: Arc<Mutex<Option<Vec<Outgoing>>>>,
    patience: Patience,
}

impl Outbox {
    /// A way that is open.
    pub(super) fn new(bus: Bus) -> Self {
        Self { bus, held: Arc::default(), patience: PATIENCE }
    }

    /// Passes an event on, or keeps it for a while.
    ///
    /// # Errors
    /// The envelope is malformed. While events are held this is not noticed.
    pub(super) async fn send(&self, outgoing: Outgoing) -> Result<(), EventError> {
        let record = {
            let mut held = self.lock();
            match &mut *held {
                Some(waiting) if waiting.len() < MAX_HELD => {
                    waiting.push(outgoing);
                    return Ok(());
                }
                Some(_) => {
                    let records = self.let_go(&mut held);
                    self.bus.forward(outgoing.envelope)?;
                    records.into_iter().chain(outgoing.record).collect()
                }
                None => {
                    self.bus.forward(outgoing.envelope)?;
                    Vec::from_iter(outgoing.record)
                }
            }
        };
        write_down(record).await;
        Ok(())
    }

    /// Holds events back from now on, until the clients are there again.
    pub(super) fn hold(&self, tracker: &TaskTracker, stop: CancellationToken) {
        *self.lock() = Some(Vec::new());
        let outbox = self.clone();
        tracker.spawn(async move {
            tokio::select! {
                () = outbox.clients_are_back() => {}
                // What is held was not written down as published; the next start tells it.
                () = stop.cancelled() => return,
            }
            let records = {
                let mut held = outbox.lock();
                outbox.let_go(&mut held)
            };
            write_down(records).await;
        });
    }

    async fn clients_are_back(&self) {
        let Patience { hold, settle, look } = self.patience;
        let begun = Instant::now();
        let mut seen = (0, begun);
        while begun.elapsed() < hold {
            let subscribers = self.bus.load().0;
            if subscribers != seen.0 {
                seen = (subscribers, Instant::now());
            }
            if subscribers > 0 && seen.1.elapsed() >= settle && self.all_are_awaited() {
                return;
            }
            tokio::time::sleep(look).await;
        }
    }

    /// Whether somebody listens for each event that is held. dockerd has a connection for each of its namespaces, and they come
    /// back apart: the first one must not let go what only the second one is told.
    fn all_are_awaited(&self) -> bool {
        self.lock().iter().flatten().all(|outgoing| self.bus.is_awaited(&outgoing.envelope))
    }

    /// Puts all on the bus under the lock, so that nothing overtakes.
    fn let_go(&self, held: &mut MutexGuard<'_, Option<Vec<Outgoing>>>) -> Vec<(PathBuf, PublishedExit)> {
        let waiting = held.take().unwrap_or_default();
        if !waiting.is_empty() {
            info!(events = waiting.len(), "telling what happened while the daemon was away");
        }
        let mut records = Vec::new();
        for outgoing in waiting {
            if let Err(error) = self.bus.forward(outgoing.envelope) {
                warn!(error = error.wire_message(), "dropped a malformed event of a shim");
            }
            records.extend(outgoing.record);
        }
        records
    }

    fn lock(&self) -> MutexGuard<'_, Option<Vec<Outgoing>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes down which exits were published. After the event: a kill in between tells it twice, which clients bear; the other order
/// would not tell it at all.
async fn write_down(records: Vec<(PathBuf, PublishedExit)>) {
    if records.is_empty() {
        return;
    }
    blocking::run(move || {
        for (bundle, record) in records {
            match record.write(&bundle) {
                // The task was deleted meanwhile.
                Err(_) if !bundle.exists() => {}
                Err(error) => warn!(
                    error = error.wire_message(),
                    "cannot write down a published exit, it may be told again after a restart"
                ),
                Ok(()) => {}
            }
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use model::filter::Filters;
    use model::task::Exit;
    use proto::events::TaskExit;

    use super::super::tests::everything;
    use super::*;

    fn event(topic: &str) -> Outgoing {
        let envelope = Envelope {
            timestamp: Some(proto::convert::time::to_wire(SystemTime::now())),
            namespace: "ns".into(),
            topic: topic.into(),
            event: Some(proto::any::pack(&TaskExit::default())),
        };
        Outgoing { envelope, record: None }
    }

    const SETTLE: Duration = Duration::from_millis(300);

    fn impatient() -> Outbox {
        let patience = Patience { hold: 4 * SETTLE, settle: SETTLE, look: SETTLE / 50 };
        Outbox { patience, ..Outbox::new(Bus::new()) }
    }

    #[tokio::test]
    async fn an_open_outbox_passes_on_and_refuses_what_is_malformed() {
        let outbox = Outbox::new(Bus::new());
        let mut subscription = outbox.bus.subscribe(everything());
        outbox.send(event("/tasks/exit")).await.unwrap();
        assert!(outbox.send(event("no topic")).await.is_err());
        assert_eq!(subscription.next().await.unwrap().topic, "/tasks/exit");
    }

    #[tokio::test]
    async fn what_is_held_waits_for_late_subscribers_and_keeps_its_order() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = impatient();
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        outbox.hold(&tracker, stop);
        let exit = PublishedExit { pid: 1, exit: Exit { status: 0, at: SystemTime::now() } };
        outbox.send(Outgoing { record: Some((folder.path().into(), exit)), ..event("/a") }).await.unwrap();
        outbox.send(event("/b")).await.unwrap();
        tokio::time::sleep(2 * SETTLE).await;
        assert_eq!(PublishedExit::read(folder.path()).unwrap(), None, "nobody was told");
        let mut first = outbox.bus.subscribe(everything());
        tokio::time::sleep(SETTLE / 2).await;
        let mut second = outbox.bus.subscribe(everything());
        outbox.send(event("/c")).await.unwrap();
        tracker.close();
        tracker.wait().await;
        outbox.send(event("/d")).await.unwrap();
        for subscription in [&mut first, &mut second] {
            for topic in ["/a", "/b", "/c", "/d"] {
                assert_eq!(subscription.next().await.unwrap().topic, topic);
            }
        }
        assert_eq!(PublishedExit::read(folder.path()).unwrap(), Some(exit));
    }

    #[tokio::test]
    async fn what_only_a_later_subscriber_is_told_waits_for_it() {
        let outbox = impatient();
        let tracker = TaskTracker::new();
        outbox.hold(&tracker, CancellationToken::new());
        outbox.send(event("/tasks/exit")).await.unwrap();
        let filters = |text: &str| Filters::parse(&[text]).unwrap();
        let _other = outbox.bus.subscribe(filters("namespace==other"));
        tokio::time::sleep(SETTLE * 3 / 2).await;
        let mut late = outbox.bus.subscribe(filters("namespace==ns,topic~=|^/tasks/|"));
        tracker.close();
        tracker.wait().await;
        assert_eq!(late.next().await.unwrap().topic, "/tasks/exit");
    }

    #[tokio::test]
    async fn without_subscribers_it_opens_after_a_while() {
        let begun = Instant::now();
        let outbox = impatient();
        let tracker = TaskTracker::new();
        outbox.hold(&tracker, CancellationToken::new());
        tracker.close();
        tracker.wait().await;
        assert!(outbox.lock().is_none());
        assert!(begun.elapsed() >= 4 * SETTLE);
    }

    #[tokio::test]
    async fn too_many_are_let_go() {
        let outbox = impatient();
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        outbox.hold(&tracker, stop.clone());
        for _ in 0..=MAX_HELD {
            outbox.send(event("/a")).await.unwrap();
        }
        assert!(outbox.lock().is_none());
        stop.cancel();
        tracker.close();
        tracker.wait().await;
    }
}
