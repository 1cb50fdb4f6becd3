//! One task, as long as it is in the list: its shim, and what is known of its end.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use model::task::{Exit, Pid};
use proto::task::v3::DeleteResponse;
use tokio::sync::watch;
use tokio_util::sync::DropGuard;

use super::bundle::Bundle;
use super::log::Tail;
use super::record::PublishedExit;
use super::registry::Key;
use super::shim::Shim;

/// A task. Whether it runs is only known to its shim.
#[derive(Debug)]
pub(super) struct Task {
    /// Its name.
    pub key: Key,
    /// Its folder.
    pub bundle: Bundle,
    /// The binary of its shim.
    pub binary: PathBuf,
    /// Its shim.
    pub shim: Shim,
    /// Whether the shim is a sandbox's, which ends with the sandbox and not with the task.
    pub is_in_sandbox: bool,
    /// Copies what the shim says, for as long as the task is there.
    _log: Option<Log>,
    /// Its first process; 0 as long as it is not known.
    pid: AtomicU32,
    /// The end of its first process, once the clients were told.
    told: watch::Sender<Option<PublishedExit>>,
    /// What its removal gave, once it is being taken apart.
    removed: watch::Sender<Option<DeleteResponse>>,
}

/// The copying of a shim's log; it stops when this is dropped.
#[derive(Debug)]
pub(super) struct Log {
    /// The last lines.
    pub tail: Tail,
    /// Stops the copying.
    pub _stop: DropGuard,
}

impl Task {
    /// A task whose shim listens.
    pub(super) fn new(
        key: Key,
        bundle: Bundle,
        binary: PathBuf,
        shim: Shim,
        is_in_sandbox: bool,
        log: Option<Log>,
    ) -> Self {
        Self {
            key,
            bundle,
            binary,
            is_in_sandbox,
            shim,
            _log: log,
            pid: AtomicU32::new(0),
            told: watch::Sender::new(None),
            removed: watch::Sender::new(None),
        }
    }

    /// Its first process; 0 if it is not known.
    pub(super) fn pid(&self) -> Pid {
        self.pid.load(Ordering::Relaxed)
    }

    /// Remembers its first process.
    pub(super) fn set_pid(&self, pid: Pid) {
        self.pid.store(pid, Ordering::Relaxed);
    }

    /// Marks the end of its first process as told. False if it was told before.
    pub(super) fn tell(&self, end: PublishedExit) -> bool {
        self.told.send_if_modified(|told| {
            let first = told.is_none();
            told.get_or_insert(end);
            first
        })
    }

    /// The end that was told.
    pub(super) fn told(&self) -> Option<Exit> {
        self.told.borrow().map(|told| told.exit)
    }

    /// Lets those know who wait for [`removal`](Self::removal).
    pub(super) fn set_removed(&self, response: DeleteResponse) {
        self.removed.send_if_modified(|removed| removed.replace(response).is_none());
    }

    /// Waits until the task is taken apart and gives what came of it; `None` if that takes longer than `limit`.
    pub(super) async fn removal(&self, limit: Duration) -> Option<DeleteResponse> {
        let mut removed = self.removed.subscribe();
        let waited = tokio::time::timeout(limit, removed.wait_for(Option::is_some)).await;
        *waited.ok()?.ok()?
    }
}
