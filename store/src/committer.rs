//! The one thread that changes metadata.
//!
//! ```text
//! submit ─► queue ─► take a group ─► run its closures, one after the other ─► apply ─► flush ─► answer all
//!                       ▲            (each sees the writes of those before)                        │
//!                       └──────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! A request that can wait a little ([`crate::Store::submit_patiently`]) makes no group of its own before its time is up: it rides
//! with the next one.
//!
//! Small groups are not only for speed: sled 0.34.7 was seen to hang when hundreds of changes waited for one flush.
//! A closure that fails or panics leaves nothing behind. When the engine fails, for one because the disk is full, what is
//! on disk is unknown, and only opening it again can tell: that is done at once, and as long as it does not succeed
//! again whenever a request comes, but not all the time.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use futures_channel::oneshot;

use crate::engine::MetaStore;
use crate::error::{EngineError, StoreError};
use crate::failpoint;
use crate::overlay::Overlay;
use crate::shared::Shared;
use crate::tx::Tx;

/// The most requests in one group.
pub const GROUP_REQUESTS: usize = 16;
/// No request joins a group that wants to write this much already, in bytes.
pub const GROUP_BYTES: usize = 64 * 1024;
/// The most requests that may wait: about a second of work.
pub const QUEUE: usize = 4096;

/// The time between two attempts to open a failed engine again.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// Closes a failed engine and opens it again.
pub(crate) type Reopen = Box<dyn FnMut(Option<Box<dyn MetaStore>>) -> Result<Box<dyn MetaStore>, Reopening> + Send>;

/// How opening again failed.
pub(crate) enum Reopening {
    /// Another attempt may succeed.
    Failed(EngineError),
    /// The engine hangs; another attempt would hang, too.
    Hangs(EngineError),
}

/// A request without its types.
pub(crate) trait Job: Send {
    /// Runs the closure; whether its changes are to be kept.
    fn run(&mut self, tx: &mut Tx<'_>) -> bool;
    /// Answers, after the changes of the group are on disk or `failed` says why they are not.
    fn answer(self: Box<Self>, failed: Option<StoreError>);
}

/// A closure, what it returned, and who wants to know.
pub(crate) struct Request<T, E, F> {
    work: Option<F>,
    outcome: Option<Result<T, E>>,
    reply: oneshot::Sender<Result<T, E>>,
}

impl<T, E, F> Request<T, E, F> {
    pub(crate) fn new(work: F, reply: oneshot::Sender<Result<T, E>>) -> Self {
        Self { work: Some(work), outcome: None, reply }
    }
}

impl<T, E, F> Job for Request<T, E, F>
where
    T: Send,
    E: From<StoreError> + Send,
    F: FnOnce(&mut Tx<'_>) -> Result<T, E> + Send,
{
    fn run(&mut self, tx: &mut Tx<'_>) -> bool {
        let work = self.work.take().expect("a request runs once");
        // Nothing that the closure can reach is used again after a panic, except the committed state, which it cannot change.
        let outcome = catch_unwind(AssertUnwindSafe(|| work(tx)))
            .unwrap_or_else(|panic| Err(StoreError::Panicked { text: panic_text(&*panic) }.into()));
        self.outcome.insert(outcome).is_ok()
    }

    fn answer(self: Box<Self>, failed: Option<StoreError>) {
        let outcome = match failed {
            Some(error) => Err(error.into()),
            None => self.outcome.unwrap_or_else(|| Err(StoreError::Closed.into())),
        };
        // Whoever asked may have stopped waiting.
        let _ = self.reply.send(outcome);
    }
}

/// What can be seen of the committer from outside.
pub(crate) struct Watch {
    started: Instant,
    /// When the group that is being written began, in milliseconds since `started`, plus 1; 0 between groups.
    writing_since: AtomicU64,
}

impl Watch {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), writing_since: AtomicU64::new(0) }
    }

    /// For how long the current group is being written.
    pub(crate) fn writing_for(&self) -> Option<Duration> {
        let since = self.writing_since.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.started.elapsed().saturating_sub(Duration::from_millis(since)))
    }

    fn begin(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.writing_since.store(now + 1, Ordering::Relaxed);
    }

    fn end(&self) {
        self.writing_since.store(0, Ordering::Relaxed);
    }
}

/// What waits in the queue.
pub(crate) enum Item {
    /// Work for the next group.
    Now(Box<dyn Job>),
    /// Work for the next group there is, or for one of its own at that time.
    Until(Instant, Box<dyn Job>),
}

/// What the committer thread works with.
pub(crate) struct Committer {
    pub(crate) queue: Receiver<Item>,
    /// What has time, the oldest first.
    pub(crate) patient: VecDeque<(Instant, Box<dyn Job>)>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) watch: Arc<Watch>,
    pub(crate) reopen: Reopen,
}

impl Committer {
    /// Works until nobody can submit any more and the queue is empty.
    pub(crate) fn run(mut self) {
        let mut next_attempt = Some(Instant::now());
        while let Some(first) = self.next() {
            self.watch.begin();
            if self.shared.needs_reopening() && next_attempt.is_some_and(|at| at <= Instant::now()) {
                next_attempt = self.reopen(None);
            }
            if let Some(error) = self.shared.stopped() {
                first.answer(Some(error));
                self.watch.end();
                continue;
            }
            let (group, changes) = self.gather(first);
            let failed = write(&self.shared, &changes);
            if self.shared.needs_reopening() {
                next_attempt = self.reopen(failed.as_ref());
            }
            self.watch.end();
            for job in group {
                job.answer(failed.clone());
            }
        }
    }

    /// The first request of the next group, `None` when there will be no more.
    fn next(&mut self) -> Option<Box<dyn Job>> {
        loop {
            let item = match self.patient.front() {
                None => self.queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some((until, _)) => self.queue.recv_timeout(until.saturating_duration_since(Instant::now())),
            };
            match item {
                Ok(Item::Now(job)) => return Some(job),
                Ok(Item::Until(until, job)) => self.patient.push_back((until, job)),
                Err(_) => return self.patient.pop_front().map(|(_, job)| job),
            }
        }
    }

    /// Runs the first request, those that wait behind it, and those that had time.
    fn gather(&mut self, first: Box<dyn Job>) -> (Vec<Box<dyn Job>>, Overlay) {
        let mut group = Vec::with_capacity(GROUP_REQUESTS);
        let mut changes = Overlay::default();
        let mut next = Some(first);
        while let Some(mut job) = next {
            let mut tx = Tx::new(&self.shared, &changes);
            let keep = job.run(&mut tx);
            let own = tx.into_changes();
            if keep {
                changes.absorb(own);
            }
            group.push(job);
            let full = group.len() == GROUP_REQUESTS || changes.bytes() >= GROUP_BYTES;
            next = if full { None } else { self.waiting() };
        }
        (group, changes)
    }

    /// A request that can join the group now: one that was asked for now before those that have time.
    fn waiting(&mut self) -> Option<Box<dyn Job>> {
        while let Ok(item) = self.queue.try_recv() {
            match item {
                Item::Now(job) => return Some(job),
                Item::Until(until, job) => self.patient.push_back((until, job)),
            }
        }
        self.patient.pop_front().map(|(_, job)| job)
    }

    /// Opens the engine again; when to try next if that failed, `None` if never.
    fn reopen(&mut self, because: Option<&StoreError>) -> Option<Instant> {
        let because = match because {
            Some(StoreError::Engine(error)) => Arc::clone(error),
            _ => Arc::new(EngineError::Engine { what: "reading", detail: "it failed".to_owned() }),
        };
        tracing::error!(error = &*because as &dyn std::error::Error, "metadata engine failed, opening it again");
        let old = self.shared.take_engine(because);
        match (self.reopen)(old) {
            Ok(engine) => {
                self.shared.replace(engine);
                tracing::info!("metadata engine opened again");
                Some(Instant::now())
            }
            Err(Reopening::Failed(error)) => {
                tracing::error!(error = &error as &dyn std::error::Error, "metadata engine not opened");
                self.shared.take_engine(Arc::new(error));
                Some(Instant::now() + REOPEN_PAUSE)
            }
            Err(Reopening::Hangs(error)) => {
                tracing::error!(error = &error as &dyn std::error::Error, "metadata engine not opened, it hangs");
                self.shared.take_engine(Arc::new(error));
                None
            }
        }
    }
}

/// Writes the changes of a group; why that failed, if it did.
fn write(shared: &Shared, changes: &Overlay) -> Option<StoreError> {
    if changes.is_empty() {
        return None;
    }
    failpoint("group-before");
    // Engines have assertions of their own. After one of them nothing is known, as after a failed flush.
    let committed = catch_unwind(AssertUnwindSafe(|| shared.commit(changes))).unwrap_or_else(|panic| {
        shared.note_failure();
        let detail = panic_text(&*panic);
        Err(EngineError::Engine { what: "the engine panicked", detail }.into())
    });
    failpoint("group-written");
    committed.err()
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no text".to_owned())
}
