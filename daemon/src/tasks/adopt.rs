//! After a restart: which of the folders are tasks, and what happened to them meanwhile.
//!
//! ```text
//!  folder ─┬─ hidden, or empty ─────────────────────────────► removed
//!          ├─ no address: no shim was ever reached ─────────► `shim delete`, removed
//!          ├─ nobody listens: the shim is dead ─────────────► `shim delete`, told, removed
//!          ├─ listens, answers: has no such task ───────────► shut down, removed
//!          ├─ listens, answers, container has no record ────► killed, told, removed
//!          ├─ listens, answers ─────────────────────────────► adopted; an exit that was not told is told
//!          └─ listens, does not answer in time ─────────────► adopted as wedged, asked again in the background
//! ```
//!
//! All folders at once, and nobody waits longer than the time limit for loading: what is not finished by then goes on in the
//! background, its id taken until it is.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use model::error::{Classify, Kind};
use model::task::Exit;
use model::{ContainerId, Namespace};
use proto::convert::time;
use proto::events::TaskExit;
use proto::process::Status;
use proto::task::v3::{KillRequest, StateRequest, StateResponse};
use proto::types::Envelope;
use tracing::{debug, info, warn};

use super::bundle::{Bundle, remove_tree};
use super::end::{EXIT_TOPIC, Remains};
use super::outbox::Outgoing;
use super::record::{Bootstrap, PublishedExit, read_binary, read_journal};
use super::registry::{Key, Reservation};
use super::service::{Inner, init_exit};
use super::task::Task;
use super::unmount::unmount_below;
use crate::blocking;
use crate::ttrpc::CallError;

/// How often a wedged shim is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// The signal for what nobody has a record of.
const KILL: u32 = 9;

/// What was found after a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Tasks whose shims answered.
    pub adopted: usize,
    /// Tasks whose shims were dead, or whose containers were gone; their ends were told.
    pub ended: usize,
    /// Folders that were no tasks.
    pub removed: usize,
    /// Tasks, as `namespace/id`, whose shims do not answer. They are listed with an unknown state.
    pub wedged: Vec<String>,
    /// Tasks that take longer than the limit; they are worked on in the background.
    pub pending: Vec<String>,
}

/// What came of one folder.
enum Found {
    Adopted,
    Ended,
    Removed,
    Wedged,
}

/// What a folder says about its task.
pub(super) struct Papers {
    bundle: Bundle,
    pub binary: Option<PathBuf>,
    pub bootstrap: Option<Bootstrap>,
    published: Option<PublishedExit>,
    /// Its first process, 0 if no file says so.
    pid: u32,
    is_in_sandbox: bool,
}

impl Inner {
    /// Finds all tasks of the last daemon. To be awaited before clients are served.
    pub(super) async fn recover(self: Arc<Self>) -> Recovery {
        let begun = Instant::now();
        let settings = self.settings.clone();
        let keys = blocking::run(move || {
            discard(&settings.scratch());
            // Those of shims that live are left alone. A kill between the making of one and of its shim leaves one that nothing names.
            for socket in fs::read_dir(&settings.socket_dir).into_iter().flatten().flatten() {
                super::launch::remove_socket(&socket.path());
            }
            sweep(&settings.bundles(), &settings.works())
        })
        .await;
        // First, so that a task that is taken over finds the sandbox that it belongs to.
        self.recover_sandboxes().await;
        let outbox = self.outbox.clone();
        let left = blocking::run(move || outbox.left()).await;
        if !keys.is_empty() || !left.is_empty() {
            self.outbox.hold(&self.tracker, self.stop.clone());
        }
        let told = Arc::new(self.tell_again(left).await);
        let mut waiting: Vec<String> = keys.iter().map(name).collect();
        let mut all: FuturesUnordered<_> = keys
            .into_iter()
            .map(|key| {
                let name = name(&key);
                let told = told.get(&key).copied();
                let work = self.tracker.spawn(self.clone().adopt(key, told));
                async move { (name, work.await) }
            })
            .collect();
        let mut recovery = Recovery::default();
        let collecting = async {
            while let Some((name, found)) = all.next().await {
                waiting.retain(|waiting| *waiting != name);
                match found {
                    Ok(Found::Adopted) => recovery.adopted += 1,
                    Ok(Found::Ended) => recovery.ended += 1,
                    Ok(Found::Removed) => recovery.removed += 1,
                    Ok(Found::Wedged) => recovery.wedged.push(name),
                    Err(error) => warn!(%error, task = name, "taking over a task failed"),
                }
            }
        };
        // A little more than the limit of each, so that the wedged ones are counted as such.
        let _ = tokio::time::timeout(self.settings.timeouts.load + Duration::from_millis(250), collecting).await;
        recovery.pending = waiting;
        let Recovery { adopted, ended, removed, ref wedged, ref pending } = recovery;
        let elapsed = begun.elapsed();
        info!(adopted, ended, removed, wedged = wedged.len(), pending = pending.len(), ?elapsed, "tasks recovered");
        for task in wedged.iter().chain(pending) {
            warn!(task, "the shim does not answer");
        }
        recovery
    }

    /// Says what the last daemon held when it was killed. Answers with the ends of tasks among it, which are not to be told by us
    /// as well.
    async fn tell_again(&self, left: Vec<(PathBuf, Envelope)>) -> HashMap<Key, PublishedExit> {
        let mut told = HashMap::new();
        for (file, envelope) in left {
            let record = init_exit(&envelope).map(|(key, exit)| {
                let bundle = Bundle::of(&self.settings, &key.namespace, &key.id).path;
                told.insert(key, exit);
                (bundle, exit)
            });
            if let Err(error) = self.outbox.send_again(Outgoing { envelope, record }, file).await {
                warn!(error = error.wire_message(), "dropped a malformed event that was kept");
            }
        }
        told
    }

    async fn adopt(self: Arc<Self>, key: Key, told: Option<PublishedExit>) -> Found {
        let Ok(reservation) = self.registry.reserve(&key).await else {
            // Nobody else works before we are done; said for completeness.
            return Found::Removed;
        };
        let begun = Instant::now();
        let bundle = Bundle::of(&self.settings, &key.namespace, &key.id);
        let mut papers = blocking::run(move || read_papers(bundle)).await;
        papers.published = papers.published.or(told);
        let log = self.copy_log(&key, &papers.bundle);
        let Some(bootstrap) = &papers.bootstrap else {
            if let Some(binary) = &papers.binary
                && let Err(error) = self.launcher.delete(&key, &papers.bundle, binary).await
            {
                debug!(error = error.wire_message(), container = %key.id, "a shim's delete command failed");
            }
            self.remove_files(papers.bundle, None).await;
            return Found::Removed;
        };
        let limit = self.settings.timeouts.load;
        let shim = match self.launcher.connect(&key.namespace, bootstrap, limit).await {
            Ok(shim) => shim,
            Err(error) => {
                warn!(error = error.wire_message(), ns = %key.namespace, container = %key.id, "the shim is gone");
                return self.settle_dead(papers, reservation, None).await;
            }
        };
        let binary = papers.binary.clone().unwrap_or_else(|| self.settings.gantry_shim.clone());
        let in_sandbox = papers.is_in_sandbox;
        let task = Arc::new(Task::new(key.clone(), papers.bundle.clone(), binary, shim, in_sandbox, log));
        task.set_pid(papers.pid);
        if let Some(published) = papers.published {
            task.tell(published);
        }
        let left = limit.saturating_sub(begun.elapsed());
        let message = StateRequest { id: key.id.to_string(), exec_id: String::new() };
        match task.shim.first_call::<StateResponse>("State", &message, Some(left)).await.0 {
            Ok(state) => {
                if !self.has_container(&key).await {
                    warn!(ns = %key.namespace, container = %key.id, "a task without a container, killing it");
                    let kill = KillRequest { id: key.id.to_string(), signal: KILL, all: true, ..Default::default() };
                    if let Err(error) = task.shim.call::<()>("Kill", &kill, Some(self.settings.timeouts.state)).await {
                        debug!(error = error.wire_message(), "cannot kill it by its shim");
                    }
                    return self.settle_dead(papers, reservation, Some(&task)).await;
                }
                reservation.commit(task.clone());
                self.reconcile(&task, &state).await;
                self.spawn(self.clone().watch(task));
                Found::Adopted
            }
            Err(error) if error.kind() == Kind::NotFound => {
                debug!(ns = %key.namespace, container = %key.id, "a shim without a task");
                if in_sandbox {
                    task.shim.close();
                    self.remove_files(papers.bundle, None).await;
                    return Found::Removed;
                }
                self.give_up(&task.shim, &key).await;
                if let Err(error) = self.launcher.delete(&key, &task.bundle, &task.binary).await {
                    debug!(error = error.wire_message(), "a shim's delete command failed");
                }
                self.remove_files(papers.bundle, Some(&task.shim)).await;
                drop(reservation);
                Found::Removed
            }
            Err(CallError::Closed) => self.settle_dead(papers, reservation, Some(&task)).await,
            Err(_) => {
                reservation.commit(task.clone());
                self.spawn(self.clone().ask_again(task.clone()));
                self.spawn(self.clone().watch(task));
                Found::Wedged
            }
        }
    }

    /// Whether the container has a record. When that cannot be read, it is not to be killed for it.
    async fn has_container(&self, key: &Key) -> bool {
        !matches!(self.container(&key.namespace, &key.id).await, Err(error) if error.kind() == Kind::NotFound)
    }

    async fn settle_dead(&self, papers: Papers, reservation: Reservation<Task>, task: Option<&Task>) -> Found {
        match task {
            Some(task) if task.is_in_sandbox => task.shim.close(),
            Some(task) => self.give_up(&task.shim, reservation.key()).await,
            None => {}
        }
        let remains = Remains {
            key: reservation.key().clone(),
            bundle: papers.bundle.clone(),
            binary: papers.binary,
            pid: papers.pid,
            told: papers.published.map(|published| published.exit),
        };
        self.bury(remains).await;
        self.remove_files(papers.bundle, task.filter(|task| !task.is_in_sandbox).map(|task| &task.shim)).await;
        if let Some(socket) =
            papers.bootstrap.filter(|_| !papers.is_in_sandbox).and_then(|bootstrap| bootstrap.socket())
        {
            blocking::run(move || super::launch::remove_socket(&socket)).await;
        }
        drop(reservation);
        Found::Ended
    }

    /// Takes over what the shim says. An exit that was not told yet is told; when the shim sends the event itself later on, it is
    /// not told again.
    async fn reconcile(&self, task: &Task, state: &StateResponse) {
        if state.pid != 0 {
            task.set_pid(state.pid);
        }
        if state.status() != Status::Stopped {
            return;
        }
        let at = state.exited_at.and_then(|at| time::from_wire(at).ok()).unwrap_or_else(std::time::SystemTime::now);
        let published = PublishedExit { pid: task.pid(), exit: Exit { status: state.exit_status, at } };
        if !task.tell(published) {
            return;
        }
        let id = task.key.id.to_string();
        let event = TaskExit {
            container_id: id.clone(),
            id,
            pid: published.pid,
            exit_status: published.exit.status,
            exited_at: Some(time::to_wire(at)),
        };
        self.tell(&task.key, EXIT_TOPIC, &event, Some((task.bundle.path.clone(), published))).await;
    }

    /// Asks a wedged shim until it answers or ends.
    async fn ask_again(self: Arc<Self>, task: Arc<Task>) {
        let message = StateRequest { id: task.key.id.to_string(), exec_id: String::new() };
        loop {
            let answer = tokio::select! {
                answer = task.shim.call::<StateResponse>("State", &message, Some(ASK_AGAIN)) => answer,
                () = self.stop.cancelled() => return,
            };
            match answer {
                Ok(state) => {
                    info!(ns = %task.key.namespace, container = %task.key.id, "the shim answers again");
                    return self.reconcile(&task, &state).await;
                }
                Err(CallError::TimedOut { .. }) => {}
                // `watch` sees to it if the shim has ended.
                Err(error) => {
                    return debug!(error = error.wire_message(), container = %task.key.id, "a shim does not say its state");
                }
            }
        }
    }
}

fn name(key: &Key) -> String {
    format!("{}/{}", key.namespace, key.id)
}

pub(super) fn read_papers(bundle: Bundle) -> Papers {
    let folder = bundle.path.clone();
    // One file that makes no sense must not hide what the others say.
    fn or_nothing<T>(result: Result<Option<T>, super::error::BundleError>) -> Option<T> {
        result.unwrap_or_else(|error| {
            warn!(error = error.wire_message(), "a file in the folder of a task cannot be used");
            None
        })
    }
    let journal = or_nothing(read_journal(&folder));
    let init = fs::read_to_string(folder.join("init.pid")).ok().and_then(|text| text.trim().parse().ok());
    let published = or_nothing(PublishedExit::read(&folder));
    Papers {
        is_in_sandbox: bundle.is_in_sandbox(),
        bundle,
        binary: or_nothing(read_binary(&folder)),
        bootstrap: or_nothing(Bootstrap::read(&folder)),
        pid: published.map(|p| p.pid).or(journal.map(|journal| journal.pid)).or(init).unwrap_or_default(),
        published,
    }
}

/// Removes what no task can be, and gives the names of all that may be one.
pub(super) fn sweep(bundles: &Path, works: &Path) -> Vec<Key> {
    let mut keys = Vec::new();
    for (namespace, folder) in folders(bundles) {
        let Ok(namespace) = Namespace::new(namespace) else { continue };
        for (name, bundle) in folders(&folder) {
            let is_empty = fs::read_dir(&bundle).is_ok_and(|mut entries| entries.next().is_none());
            match ContainerId::new(name.as_str()) {
                Ok(id) if !is_empty => keys.push(Key { namespace: namespace.clone(), id }),
                Err(_) if !name.starts_with('.') => {}
                _ => discard(&bundle),
            }
        }
    }
    for (namespace, folder) in folders(works) {
        for (name, work) in folders(&folder) {
            if !bundles.join(&namespace).join(&name).exists() {
                discard(&work);
            }
        }
    }
    keys
}

fn discard(folder: &Path) {
    let removed = unmount_below(folder)
        .map_err(super::error::BundleError::at("unmount", folder))
        .and_then(|()| remove_tree(folder));
    if let Err(error) = removed {
        warn!(error = error.wire_message(), "cannot remove what a task left");
    }
}

fn folders(folder: &Path) -> Vec<(String, PathBuf)> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sweep_keeps_what_may_be_a_task_and_removes_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let (bundles, works) = (folder.path().join("b"), folder.path().join("w"));
        for path in ["ns/full", "ns/empty", "ns/.half", "-odd/full", "ns/-odd"] {
            fs::create_dir_all(bundles.join(path)).unwrap();
        }
        for path in ["ns/full", "ns/-odd", "ns/.half", "-odd/full"] {
            fs::write(bundles.join(path).join("config.json"), "{}").unwrap();
        }
        fs::create_dir_all(works.join("ns/full")).unwrap();
        fs::create_dir_all(works.join("ns/orphan/deep")).unwrap();
        let keys = sweep(&bundles, &works);
        assert_eq!(keys.iter().map(name).collect::<Vec<_>>(), ["ns/full"]);
        for (path, stays) in
            [("ns/full", true), ("ns/empty", false), ("ns/.half", false), ("-odd/full", true), ("ns/-odd", true)]
        {
            assert_eq!(bundles.join(path).exists(), stays, "{path}");
        }
        assert!(works.join("ns/full").exists() && !works.join("ns/orphan").exists());
    }

    #[test]
    fn nothing_there_is_nothing_to_do() {
        assert_eq!(sweep(Path::new("/nonexistent/a"), Path::new("/nonexistent/b")), []);
    }
}
