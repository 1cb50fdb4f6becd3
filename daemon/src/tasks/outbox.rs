//! The way of every event about a task to the bus, and what is held back right after a restart.
//!
//! The bus has no replay, and clients that live on events need a moment to come back when the daemon was restarted. What ended
//! meanwhile would be told to nobody. So after a restart that found tasks, events are kept, in order, until each has somebody who
//! listens for it and nobody new came for a moment; at the latest after [`PATIENCE`]'s `hold`. Only then is an exit written down as published.
//!
//! A daemon may be killed while it holds events, and by then the task that one is about may be gone, with all its files. So the ends of tasks
//! that are held are kept in a folder besides, one file each, until they are let go; the next daemon begins with them.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use model::error::Classify;
use proto::prost::Message;
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

/// The events that are kept besides.
const KEPT_TOPICS: [&str; 2] = ["/tasks/exit", "/tasks/delete"];

/// An event on its way.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// The event.
    pub envelope: Envelope,
    /// What to write down, in the folder of which task, once it is on the bus.
    pub record: Option<(PathBuf, PublishedExit)>,
}

/// An event that is held, and the file in which it is kept.
type Held = (Outgoing, Option<PathBuf>);

/// What is to be done once events are on the bus.
#[derive(Debug, Default)]
struct Aftermath {
    records: Vec<(PathBuf, PublishedExit)>,
    files: Vec<PathBuf>,
}

/// The way to the bus. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Outbox {
    bus: Bus,
    /// Where ends of tasks are kept while they are held.
    folder: Arc<Path>,
    /// Tells files of one moment apart.
    counter: Arc<AtomicU32>,
    /// `None`: nothing is held.
    held: Arc<Mutex<Option<Vec<Held>>>>,
    patience: Patience,
}

impl Outbox {
    /// A way that is open. What is held is kept in `folder`.
    pub(super) fn new(bus: Bus, folder: PathBuf) -> Self {
        Self { bus, folder: folder.into(), counter: Arc::default(), held: Arc::default(), patience: PATIENCE }
    }

    /// Passes an event on, or keeps it for a while.
    ///
    /// # Errors
    /// The envelope is malformed. While events are held this is not noticed.
    pub(super) async fn send(&self, outgoing: Outgoing) -> Result<(), EventError> {
        let is_kept = self.lock().is_some() && KEPT_TOPICS.contains(&outgoing.envelope.topic.as_str());
        let kept = if is_kept { self.keep(&outgoing.envelope).await } else { None };
        self.pass(outgoing, kept).await
    }

    /// Passes on an event that was kept when the last daemon ended, or keeps it for a while longer.
    ///
    /// # Errors
    /// The envelope is malformed. While events are held this is not noticed.
    pub(super) async fn send_again(&self, outgoing: Outgoing, file: PathBuf) -> Result<(), EventError> {
        self.pass(outgoing, Some(file)).await
    }

    async fn pass(&self, outgoing: Outgoing, file: Option<PathBuf>) -> Result<(), EventError> {
        let (aftermath, forwarded) = {
            let mut held = self.lock();
            let mut aftermath = match &mut *held {
                Some(waiting) if waiting.len() < MAX_HELD => {
                    waiting.push((outgoing, file));
                    return Ok(());
                }
                Some(_) => self.let_go(&mut held),
                None => Aftermath::default(),
            };
            let forwarded = self.bus.forward(outgoing.envelope);
            if forwarded.is_ok() {
                aftermath.records.extend(outgoing.record);
            }
            aftermath.files.extend(file);
            (aftermath, forwarded)
        };
        aftermath.see_to().await;
        forwarded
    }

    /// What the last daemon held when it was killed, in its order, and the files that it is kept in. Blocks.
    pub(super) fn left(&self) -> Vec<(PathBuf, Envelope)> {
        if let Err(error) = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder) {
            warn!(%error, folder = %self.folder.display(), "cannot make the folder for events that are held");
        }
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        files.sort();
        let read = |file: PathBuf| match fs::read(&file).ok().map(|bytes| Envelope::decode(bytes.as_slice())) {
            Some(Ok(envelope)) => Some((file, envelope)),
            // Half a file: the daemon was killed before it had said that the event came.
            _ => {
                let _ = fs::remove_file(&file);
                None
            }
        };
        files.into_iter().filter_map(read).collect()
    }

    async fn keep(&self, envelope: &Envelope) -> Option<PathBuf> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let file = self.folder.join(format!("{now:032}-{number:010}"));
        let (bytes, path) = (envelope.encode_to_vec(), file.clone());
        let kept = blocking::run(move || fs::write(path, bytes));
        match kept.await {
            Ok(()) => Some(file),
            Err(error) => {
                warn!(%error, "cannot keep the end of a task, it is lost if the daemon is killed before its clients are back");
                None
            }
        }
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
            let aftermath = {
                let mut held = outbox.lock();
                outbox.let_go(&mut held)
            };
            aftermath.see_to().await;
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
        self.lock().iter().flatten().all(|(outgoing, _)| self.bus.is_awaited(&outgoing.envelope))
    }

    /// Puts all on the bus under the lock, so that nothing overtakes.
    fn let_go(&self, held: &mut MutexGuard<'_, Option<Vec<Held>>>) -> Aftermath {
        let waiting = held.take().unwrap_or_default();
        if !waiting.is_empty() {
            info!(events = waiting.len(), "telling what happened while the daemon was away");
        }
        let mut aftermath = Aftermath::default();
        for (outgoing, file) in waiting {
            if let Err(error) = self.bus.forward(outgoing.envelope) {
                warn!(error = error.wire_message(), "dropped a malformed event of a shim");
            }
            aftermath.records.extend(outgoing.record);
            aftermath.files.extend(file);
        }
        aftermath
    }

    fn lock(&self) -> MutexGuard<'_, Option<Vec<Held>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Aftermath {
    /// Writes down which exits were published, and no longer keeps what was said. After the event: a kill in between tells it
    /// twice, which clients bear; the other order would not tell it at all.
    async fn see_to(self) {
        let Self { records, files } = self;
        if records.is_empty() && files.is_empty() {
            return;
        }
        blocking::run(move || {
            write_down(records);
            for file in files {
                let _ = fs::remove_file(file);
            }
        })
        .await;
    }
}

fn write_down(records: Vec<(PathBuf, PublishedExit)>) {
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

    fn impatient(folder: &Path) -> Outbox {
        let patience = Patience { hold: 4 * SETTLE, settle: SETTLE, look: SETTLE / 50 };
        Outbox { patience, ..Outbox::new(Bus::new(), folder.join("untold")) }
    }

    #[tokio::test]
    async fn ends_that_are_held_outlive_a_kill() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = impatient(folder.path());
        assert_eq!(outbox.left(), []);
        outbox.hold(&TaskTracker::new(), CancellationToken::new());
        for topic in ["/tasks/exit", "/tasks/start", "/tasks/delete"] {
            outbox.send(event(topic)).await.unwrap();
        }
        drop(outbox);

        let outbox = impatient(folder.path());
        fs::write(outbox.folder.join("9-half"), [0xff]).unwrap();
        let left = outbox.left();
        assert_eq!(
            left.iter().map(|(_, event)| event.topic.as_str()).collect::<Vec<_>>(),
            ["/tasks/exit", "/tasks/delete"]
        );
        let tracker = TaskTracker::new();
        outbox.hold(&tracker, CancellationToken::new());
        for (file, envelope) in left {
            outbox.send_again(Outgoing { envelope, record: None }, file).await.unwrap();
        }
        let mut subscription = outbox.bus.subscribe(everything());
        tracker.close();
        tracker.wait().await;
        for topic in ["/tasks/exit", "/tasks/delete"] {
            assert_eq!(subscription.next().await.unwrap().topic, topic);
        }
        assert_eq!(outbox.left(), [], "what was said is not said again");
    }

    #[tokio::test]
    async fn an_open_outbox_passes_on_and_refuses_what_is_malformed() {
        let outbox = Outbox::new(Bus::new(), "/nonexistent".into());
        let mut subscription = outbox.bus.subscribe(everything());
        outbox.send(event("/tasks/exit")).await.unwrap();
        assert!(outbox.send(event("no topic")).await.is_err());
        assert_eq!(subscription.next().await.unwrap().topic, "/tasks/exit");
    }

    #[tokio::test]
    async fn what_is_held_waits_for_late_subscribers_and_keeps_its_order() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = impatient(folder.path());
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
        let folder = tempfile::tempdir().unwrap();
        let outbox = impatient(folder.path());
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
        let folder = tempfile::tempdir().unwrap();
        let begun = Instant::now();
        let outbox = impatient(folder.path());
        let tracker = TaskTracker::new();
        outbox.hold(&tracker, CancellationToken::new());
        tracker.close();
        tracker.wait().await;
        assert!(outbox.lock().is_none());
        assert!(begun.elapsed() >= 4 * SETTLE);
    }

    #[tokio::test]
    async fn too_many_are_let_go() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = impatient(folder.path());
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
