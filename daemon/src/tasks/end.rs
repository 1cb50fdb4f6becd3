//! The end of a task: deleted by a client, or its shim was lost.
//!
//! ```text
//!  delete   shim Delete ─ok─► out of the list ─► Shutdown ─► connection ends ─► folder removed ─► reply
//!  lost     connection ends, still in the list ─► out of it ─► `shim delete` ─► exit and delete events ─► folder removed
//! ```
//!
//! Whichever comes first takes the task out of the list and does the rest alone. What was begun is finished even if the
//! client goes away.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use model::error::{Classify, Kind};
use model::task::{Exit, Pid};
use proto::convert::time;
use proto::events::{TaskDelete, TaskExit};
use proto::prost::Name;
use proto::task::v3::{DeleteRequest, DeleteResponse, ShutdownRequest};
use proto::types::Envelope;
use tracing::{debug, info, warn};

use super::bundle::Bundle;
use super::error::TaskError;
use super::outbox::Outgoing;
use super::record::{Bootstrap, PublishedExit, read_journal};
use super::registry::{Key, Reservation};
use super::service::Inner;
use super::task::Task;
use crate::blocking;
use crate::ttrpc::CallError;

/// The exit of a task whose shim was lost and cannot say more: everything in it was killed.
const STATUS_KILLED: u32 = 137;
/// The exit of a task whose shim was lost and whose remains could not be cleaned up either.
const STATUS_UNKNOWN: u32 = 255;

/// How long a call that found the shim dead waits for what becomes of the task.
const REMOVAL_TIME: Duration = Duration::from_secs(15);

/// How long a new shim may take to say which process it is.
const ASK_TIME: Duration = Duration::from_secs(2);

/// The topic of exits.
pub(super) const EXIT_TOPIC: &str = "/tasks/exit";
/// The topic of removals.
const DELETE_TOPIC: &str = "/tasks/delete";

/// What a shim that is lost leaves.
pub(super) struct Remains {
    /// Its name.
    pub key: Key,
    /// Its folder.
    pub bundle: Bundle,
    /// The binary of its shim, if that is known.
    pub binary: Option<PathBuf>,
    /// Its first process; 0 if not known.
    pub pid: Pid,
    /// The end that was told already.
    pub told: Option<Exit>,
}

impl Inner {
    /// Waits for the end of a shim, and does what is to be done then if its task is still there.
    pub(super) async fn watch(self: Arc<Self>, task: Arc<Task>) {
        let closed = task.shim.closed_token();
        // The process of a sandbox's shim is not the task's to kill.
        let learning = async {
            if !task.is_in_sandbox {
                task.shim.learn_process(task.key.id.as_str(), ASK_TIME).await;
            }
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => return task.shim.close(),
            () = learning => {}
        }
        tokio::select! {
            biased;
            () = self.stop.cancelled() => return task.shim.close(),
            () = closed.cancelled() => {}
        }
        let Some(reservation) = self.registry.retire(&task.key, &task) else { return };
        warn!(ns = %task.key.namespace, container = %task.key.id, "the shim is lost");
        // The connection can also end because it talked nonsense.
        task.shim.kill();
        let remains = Remains {
            key: task.key.clone(),
            bundle: task.bundle.clone(),
            binary: Some(task.binary.clone()),
            pid: task.pid(),
            told: task.told(),
        };
        let response = self.bury(remains).await;
        task.set_removed(response);
        self.remove_files(task.bundle.clone(), (!task.is_in_sandbox).then_some(&task.shim)).await;
        drop(reservation);
    }

    /// Cleans up behind a lost shim and tells the clients. The folder is still there afterwards.
    pub(super) async fn bury(&self, remains: Remains) -> DeleteResponse {
        let Remains { key, bundle, binary, pid, told } = remains;
        let deleted = match &binary {
            Some(binary) => self.launcher.delete(&key, &bundle, binary).await.map_err(Some),
            None => Err(None),
        };
        if let Err(Some(error)) = &deleted {
            warn!(error = error.wire_message(), container = %key.id, "cannot clean up behind a shim");
        }
        let folder = bundle.path.clone();
        let journal = blocking::run(move || read_journal(&folder)).await.unwrap_or_else(|error| {
            warn!(error = error.wire_message(), "cannot read what a shim wrote down");
            None
        });
        let pid = [Some(pid), journal.as_ref().map(|journal| journal.pid), deleted.as_ref().ok().map(|d| d.pid)]
            .into_iter()
            .flatten()
            .find(|pid| *pid != 0)
            .unwrap_or_default();
        let exit = told.or(journal.and_then(|journal| journal.exit)).unwrap_or_else(|| exit_of(deleted.ok()));
        info!(ns = %key.namespace, container = %key.id, pid, status = exit.status, "task ended with its shim");

        let exited_at = Some(time::to_wire(exit.at));
        let (container_id, exit_status) = (key.id.to_string(), exit.status);
        if told.is_none() {
            let event =
                TaskExit { container_id: container_id.clone(), id: container_id.clone(), pid, exit_status, exited_at };
            self.tell(&key, EXIT_TOPIC, &event, None).await;
        }
        let event = TaskDelete { container_id, pid, exit_status, exited_at, id: String::new() };
        self.tell(&key, DELETE_TOPIC, &event, None).await;
        DeleteResponse { pid, exit_status, exited_at }
    }

    /// Publishes an event of our own about a task.
    pub(super) async fn tell<M: Name>(
        &self,
        key: &Key,
        topic: &str,
        event: &M,
        record: Option<(PathBuf, PublishedExit)>,
    ) {
        let envelope = Envelope {
            timestamp: Some(time::to_wire(SystemTime::now())),
            namespace: key.namespace.to_string(),
            topic: topic.to_owned(),
            event: Some(proto::any::pack(event)),
        };
        let sent = self.outbox.send(Outgoing { envelope, record }).await;
        debug_assert!(sent.is_ok(), "our own envelopes are well-formed: {sent:?}");
    }

    /// Deletes a task that has ended or was never started; the shim decides whether it may be.
    pub(super) async fn delete(self: Arc<Self>, task: Arc<Task>) -> Result<DeleteResponse, TaskError> {
        let message = DeleteRequest { id: task.key.id.to_string(), exec_id: String::new() };
        let answer = task.shim.call::<DeleteResponse>("Delete", &message, Some(self.settings.timeouts.slow_call)).await;
        match answer {
            Ok(response) => {
                task.set_removed(response);
                if let Some(reservation) = self.registry.retire(&task.key, &task) {
                    self.dismiss(&task, reservation).await;
                }
                info!(ns = %task.key.namespace, container = %task.key.id, status = response.exit_status, "task deleted");
                Ok(response)
            }
            // `watch` is cleaning up; what it finds out is the answer.
            Err(CallError::Closed) => task.removal(REMOVAL_TIME).await.ok_or(TaskError::Shim(CallError::Closed)),
            Err(error) => {
                // It has forgotten the task: an earlier Delete took effect, but its answer was lost.
                if error.kind() == Kind::NotFound
                    && let Some(reservation) = self.registry.retire(&task.key, &task)
                {
                    self.dismiss(&task, reservation).await;
                }
                Err(error.into())
            }
        }
    }

    /// Ends a shim that has no task any more, and removes the task's files.
    async fn dismiss(&self, task: &Task, reservation: Reservation<Task>) {
        if task.is_in_sandbox || self.has_other_tasks(task) {
            task.shim.close();
            self.remove_files(task.bundle.clone(), None).await;
            return drop(reservation);
        }
        let limit = self.settings.timeouts.shutdown;
        let message = ShutdownRequest { id: task.key.id.to_string(), now: false };
        if let Err(error) = task.shim.call::<()>("Shutdown", &message, Some(limit)).await
            && !matches!(error, CallError::Closed)
        {
            debug!(error = error.wire_message(), container = %task.key.id, "a shim refused to shut down");
        }
        if tokio::time::timeout(limit, task.shim.closed()).await.is_err() {
            warn!(container = %task.key.id, "a shim does not end by itself, killing it");
            task.shim.kill();
            task.shim.close();
            if let Err(error) = self.launcher.delete(&task.key, &task.bundle, &task.binary).await {
                debug!(error = error.wire_message(), "a shim's delete command failed");
            }
        }
        self.remove_files(task.bundle.clone(), Some(&task.shim)).await;
        drop(reservation);
    }

    /// Whether the shim has other tasks, as one for a group has: it is theirs as well.
    fn has_other_tasks(&self, task: &Task) -> bool {
        let socket = task.shim.socket();
        self.registry.list().iter().any(|(key, other)| *key != task.key && other.shim.socket() == socket)
    }

    /// The same by what is on disk, for the time before tasks are taken over.
    pub(super) async fn is_named_by_others(&self, key: &Key, socket: &Path) -> bool {
        let (folder, own, socket) =
            (self.settings.bundles().join(key.namespace.as_str()), key.id.to_string(), socket.to_owned());
        blocking::run(move || {
            let others = std::fs::read_dir(folder).into_iter().flatten().flatten();
            others.filter(|entry| entry.file_name() != *own).any(|entry| {
                let bootstrap = Bootstrap::read(&entry.path()).ok().flatten();
                bootstrap.and_then(|bootstrap| bootstrap.socket()).is_some_and(|other| other == socket)
            })
        })
        .await
    }

    /// What became of a task whose shim ended during a call.
    pub(super) async fn removal(&self, task: &Task) -> Result<DeleteResponse, TaskError> {
        tokio::select! {
            removed = task.removal(REMOVAL_TIME) => removed.ok_or(TaskError::Shim(CallError::Closed)),
            () = self.stop.cancelled() => Err(TaskError::Stopping),
        }
    }
}

/// The exit that a shim's `delete` command reported.
fn exit_of(deleted: Option<DeleteResponse>) -> Exit {
    let Some(deleted) = deleted else { return Exit { status: STATUS_UNKNOWN, at: SystemTime::now() } };
    // Shims that have nothing to report leave the time out or zero.
    let at = deleted.exited_at.and_then(|at| time::from_wire(at).ok()).filter(|at| *at > SystemTime::UNIX_EPOCH);
    match at {
        Some(at) => Exit { status: deleted.exit_status, at },
        None => Exit { status: STATUS_KILLED, at: SystemTime::now() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_without_a_time_was_a_kill() {
        let at = SystemTime::now();
        let response = |exit_status, at: Option<SystemTime>| {
            Some(DeleteResponse { pid: 1, exit_status, exited_at: at.map(time::to_wire) })
        };
        assert_eq!(exit_of(response(3, Some(at))), Exit { status: 3, at });
        assert_eq!(exit_of(response(0, None)).status, STATUS_KILLED);
        assert_eq!(exit_of(response(0, Some(SystemTime::UNIX_EPOCH))).status, STATUS_KILLED);
        assert_eq!(exit_of(None).status, STATUS_UNKNOWN);
    }
}
