//! What can be asked of tasks. Each call finds the container, then the task, then asks its shim; it keeps nothing.

use std::future::Future;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::StreamExt;
use futures_util::stream;
use model::error::{Classify, Kind};
use model::filter::{Fields, Filters};
use model::task::Pid;
use model::{ContainerId, ExecId, Namespace};
use proto::convert::time;
use proto::events::TaskExit;
use proto::process::{Process, ProcessInfo, Status};
use proto::prost_types::Any;
use proto::services::tasks::v1 as api;
use proto::status::Failure;
use proto::task::v3 as shim;
use proto::types::{Envelope, Metric, RuntimeInfo};
use store::record::ContainerRecord;
use store::{Read, Store, key, tables};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, debug, warn};

use super::adopt::Recovery;
use super::create::CreateTask;
use super::end::EXIT_TOPIC;
use super::error::{RuntimeError, TaskError};
use super::launch::Launcher;
use super::outbox::{Outbox, Outgoing};
use super::record::PublishedExit;
use super::registry::{Key, Registry};
use super::runtime;
use super::sandbox::SandboxShim;
use super::settings::Settings;
use super::task::Task;
use crate::blocking;
use crate::events::Bus;
use crate::ttrpc::CallError;
use crate::ttrpc::events::Sink;

/// How many shims are asked at one time for a list.
const ASKED_AT_ONCE: usize = 64;

/// All tasks of this daemon. Clones are the same.
#[derive(Debug, Clone)]
pub struct Tasks {
    inner: Arc<Inner>,
}

/// A task, as others in the daemon see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveTask {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its container.
    pub id: ContainerId,
    /// Its first process; 0 if not known.
    pub pid: Pid,
    /// The binary of its shim.
    pub binary: std::path::PathBuf,
}

/// What all parts of this module share.
pub(super) struct Inner {
    pub settings: Arc<Settings>,
    store: Store,
    pub registry: Registry<Task>,
    pub sandboxes: Registry<SandboxShim>,
    pub launcher: Launcher,
    pub outbox: Outbox,
    pub tracker: TaskTracker,
    pub stop: CancellationToken,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Inner {
    /// The record of a container.
    pub(super) async fn container(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
    ) -> Result<ContainerRecord, TaskError> {
        let store = self.store.clone();
        let (in_namespace, of) = (namespace.clone(), id.clone());
        let record =
            blocking::run(move || store.read().get(&tables::CONTAINERS, &key(&[in_namespace.as_str(), of.as_str()])?))
                .await
                .map_err(|source| TaskError::Record { id: id.clone(), source })?;
        record.ok_or_else(|| TaskError::NoContainer { namespace: namespace.clone(), id: id.clone() })
    }

    /// Runs in the background until the daemon stops waiting for it.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(work);
    }
}

/// A record's `Any` as the wire has it.
pub(super) fn to_wire(any: store::record::Any) -> Any {
    Any { type_url: any.type_url, value: any.value }
}

impl Tasks {
    /// No tasks yet; see [`recover`](Self::recover). Background work runs on `tracker` until `stop` is cancelled; shims stay.
    pub fn new(settings: Settings, store: Store, bus: Bus, tracker: TaskTracker, stop: CancellationToken) -> Self {
        let settings = Arc::new(settings);
        let launcher = Launcher::new(settings.clone(), tracker.clone(), stop.clone());
        let outbox = Outbox::new(bus, settings.untold());
        let (registry, sandboxes) = (Registry::default(), Registry::default());
        Self { inner: Arc::new(Inner { settings, store, registry, sandboxes, launcher, outbox, tracker, stop }) }
    }

    /// Finds the tasks that a daemon before this one left. To be awaited before clients are served; it takes no longer than the
    /// time limit for loading. Events of shims may come in from before it is called.
    pub async fn recover(&self) -> Recovery {
        self.inner.clone().recover().await
    }

    /// All tasks of all namespaces, in no order.
    pub fn live(&self) -> Vec<LiveTask> {
        let tasks = self.inner.registry.list();
        tasks
            .into_iter()
            .map(|(key, task)| LiveTask {
                namespace: key.namespace,
                id: key.id,
                pid: task.pid(),
                binary: task.binary.clone(),
            })
            .collect()
    }

    /// Where the shim of a task listens; nothing if there is no such task.
    pub fn socket(&self, namespace: &Namespace, id: &str) -> Option<std::path::PathBuf> {
        let key = Key { namespace: namespace.clone(), id: ContainerId::new(id).ok()? };
        Some(self.inner.registry.get(&key)?.shim.socket().to_owned())
    }

    /// Asks a runtime, by its name or by the path of its shim, what it is and can do.
    ///
    /// # Errors
    /// There is no such runtime, or it cannot say.
    pub async fn runtime_info(&self, runtime: &str, options: Option<Any>) -> Result<RuntimeInfo, RuntimeError> {
        let (settings, name) = (self.inner.settings.clone(), runtime.to_owned());
        let runtime = blocking::run(move || runtime::resolve(&name, "", &settings)).await?;
        self.inner.launcher.info(&runtime.binary, options.as_ref()).await
    }

    /// The program that writes logs in the CRI's form for tasks of a runtime, named as in [`runtime_info`](Self::runtime_info), whose
    /// shim does not do that itself; `None` if it does, or if there is no such runtime.
    pub async fn logger(&self, runtime: &str, path: &str) -> Option<std::path::PathBuf> {
        let (settings, name, path) = (self.inner.settings.clone(), runtime.to_owned(), path.to_owned());
        blocking::run(move || {
            let runtime = runtime::resolve(&name, &path, &settings).ok()?;
            (runtime.kind == runtime::RuntimeKind::Foreign).then(|| settings.gantry_shim.clone())
        })
        .await
    }

    /// Makes a task for a container and gives its first process, which waits to be started.
    ///
    /// # Errors
    /// See [`TaskError`]. Nothing is left behind.
    ///
    /// # Cancel safety
    /// If the future is dropped, all that was made is undone in the background.
    pub async fn create(&self, namespace: Namespace, id: &str, request: CreateTask) -> Result<Pid, TaskError> {
        let id = ContainerId::new(id).map_err(TaskError::ContainerId)?;
        self.inner.create(namespace, id, request).await
    }

    /// Starts the first process, or one that was added by [`exec`](Self::exec).
    ///
    /// # Errors
    /// See [`TaskError`].
    pub async fn start(&self, namespace: Namespace, request: api::StartRequest) -> Result<Pid, TaskError> {
        let task = self.task(namespace, &request.container_id).await?;
        let message = shim::StartRequest { id: request.container_id, exec_id: request.exec_id };
        let response: shim::StartResponse = self.slow(&task, "Start", &message).await?;
        if message.exec_id.is_empty() {
            task.set_pid(response.pid);
        }
        Ok(response.pid)
    }

    /// Deletes a task that has ended or was never started, and ends its shim.
    ///
    /// # Errors
    /// See [`TaskError`].
    ///
    /// # Cancel safety
    /// If the future is dropped, the deletion goes on.
    pub async fn delete(&self, namespace: Namespace, id: &str) -> Result<api::DeleteResponse, TaskError> {
        let task = self.task(namespace, id).await?;
        let deleting = self.inner.tracker.spawn(self.inner.clone().delete(task).in_current_span());
        let response = deleting.await.map_err(|_| TaskError::Stopping)??;
        Ok(deleted(id, response))
    }

    /// Deletes a process that was added and has ended.
    ///
    /// # Errors
    /// See [`TaskError`].
    pub async fn delete_process(
        &self,
        namespace: Namespace,
        request: api::DeleteProcessRequest,
    ) -> Result<api::DeleteResponse, TaskError> {
        let task = self.task(namespace, &request.container_id).await?;
        if request.exec_id.is_empty() {
            return Err(TaskError::NoExecId);
        }
        let message = shim::DeleteRequest { id: request.container_id, exec_id: request.exec_id };
        let response = self.slow(&task, "Delete", &message).await?;
        Ok(deleted(&message.exec_id, response))
    }

    /// The state of a process. A shim that does not answer in time has a process of unknown state.
    ///
    /// # Errors
    /// See [`TaskError`].
    pub async fn get(&self, namespace: Namespace, request: api::GetRequest) -> Result<Process, TaskError> {
        let task = self.task(namespace, &request.container_id).await?;
        self.state(&task, request.exec_id).await
    }

    /// All tasks of a namespace and their states. No shim can make it fail, or late.
    pub async fn list(&self, namespace: &Namespace) -> Vec<Process> {
        let tasks = self.of_namespace(namespace);
        let states = stream::iter(tasks).map(async |task| match self.state(&task, String::new()).await {
            Ok(process) => Some(process),
            Err(error) if error.kind() == Kind::NotFound => None,
            Err(error) => {
                warn!(%error, container = %task.key.id, "cannot learn the state of a task");
                Some(unknown(&task, String::new()))
            }
        });
        let mut processes: Vec<_> =
            states.buffer_unordered(ASKED_AT_ONCE).filter_map(std::future::ready).collect().await;
        processes.sort_by(|a, b| a.id.cmp(&b.id));
        processes
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// See [`TaskError`].
    pub async fn kill(&self, namespace: Namespace, request: api::KillRequest) -> Result<(), TaskError> {
        let task = self.task(namespace, &request.container_id).await?;
        let api::KillRequest { container_id: id, exec_id, signal, all } = request;
        self.quick(&task, "Kill", &shim::KillRequest { id, exec_id, signal, all }).await
    }

    /// Adds a process, which is to be started.
    ///
    /// # Errors
    /// See [`TaskError`].
    pub async fn exec(&self, namespace: Namespace, request: api::ExecProcessRequest) -> Result<(), TaskError> {
        if request.exec_id.is_empty() {
            return Err(TaskError::NoExecId);
        }
        let task = self.task(namespace, &request.container_id).await?;
        if let Err(source) = ExecId::new(request.exec_id.as_str()) {
            return Err(TaskError::ExecId { id: request.exec_id, source });
        }
        let api::ExecProcessRequest { container_id: id, stdin, stdout, stderr, terminal, spec, exec_id } = request;
        let message = shim::ExecProcessRequest { id, exec_id, terminal, stdin, stdout, stderr, spec };
        self.slow(&task, "Exec", &message).await
    }

    /// Sets the size of a terminal.
    ///
    /// # Errors
    /// See [`TaskError`].
    pub async fn resize_pty(&self, namespace: Namespace, request: api::ResizePtyRequest) -> Result<(), TaskError> {
        let task = self.task(namespace, &request.container_id).await?;
        let api::ResizePtyRequest { container_id: id, exec_id, width, height } = request;
        self.quick(&task, "ResizePty", &shim::ResizePtyRequest { id, exec_id, width, height }).await
    }

    /// Ends the standard input of a process.
    ///
    /// # Errors
    /// See [`TaskError`].
    pub async fn close_io(&self, namespace: Namespace, request: api::CloseIoRequest) -> Result<(), TaskError> {
        let task = self.task(namespace, &request.container_id).await?;
        let api::CloseIoRequest { container_id: id, exec_id, stdin } = request;
        self.quick(&task, "CloseIO", &shim::CloseIoRequest { id, exec_id, stdin }).await
    }

    /// Freezes all processes.
    ///
    /// # Errors
    /// See [`TaskError`].
    pub async fn pause(&self, namespace: Namespace, id: &str) -> Result<(), TaskError> {
        let task = self.task(namespace, id).await?;
        self.quick(&task, "Pause", &shim::PauseRequest { id: id.to_owned() }).await
    }

    /// Thaws all processes.
    ///
    /// # Errors
    /// See [`TaskError`].
    pub async fn resume(&self, namespace: Namespace, id: &str) -> Result<(), TaskError> {
        let task = self.task(namespace, id).await?;
        self.quick(&task, "Resume", &shim::ResumeRequest { id: id.to_owned() }).await
    }

    /// All processes.
    ///
    /// # Errors
    /// See [`TaskError`].
    pub async fn pids(&self, namespace: Namespace, id: &str) -> Result<Vec<ProcessInfo>, TaskError> {
        let task = self.task(namespace, id).await?;
        let response: shim::PidsResponse = self.quick(&task, "Pids", &shim::PidsRequest { id: id.to_owned() }).await?;
        Ok(response.processes)
    }

    /// Changes the limits of the resources.
    ///
    /// # Errors
    /// See [`TaskError`].
    pub async fn update(&self, namespace: Namespace, request: api::UpdateTaskRequest) -> Result<(), TaskError> {
        let task = self.task(namespace, &request.container_id).await?;
        let api::UpdateTaskRequest { container_id: id, resources, annotations } = request;
        self.quick(&task, "Update", &shim::UpdateTaskRequest { id, resources, annotations }).await
    }

    /// Figures of the tasks that match. Those that have none, or do not answer in time, are left out.
    pub async fn metrics(&self, namespace: &Namespace, filters: &Filters) -> Vec<Metric> {
        let tasks = self.of_namespace(namespace).into_iter().filter(|task| filters.matches(&TaskFields(&task.key)));
        let limit = Some(self.inner.settings.timeouts.stats);
        let figures = stream::iter(tasks).map(async |task| {
            let id = task.key.id.to_string();
            let message = shim::StatsRequest { id: id.clone() };
            match task.shim.call::<shim::StatsResponse>("Stats", &message, limit).await {
                Ok(response) => {
                    Some(Metric { timestamp: Some(time::to_wire(SystemTime::now())), id, data: response.stats })
                }
                Err(error) if error.kind() == Kind::NotFound => None,
                Err(error) => {
                    warn!(%error, container = id, "cannot learn the figures of a task");
                    None
                }
            }
        });
        let mut metrics: Vec<_> =
            figures.buffer_unordered(ASKED_AT_ONCE).filter_map(std::future::ready).collect().await;
        metrics.sort_by(|a, b| a.id.cmp(&b.id));
        metrics
    }

    /// Waits for the end of a process, however long that takes.
    ///
    /// # Errors
    /// See [`TaskError`].
    pub async fn wait(&self, namespace: Namespace, request: api::WaitRequest) -> Result<api::WaitResponse, TaskError> {
        let key = self.key(namespace, &request.container_id).await?;
        // One that is being taken apart is as good: its end is known in a moment.
        let task = self.inner.registry.get_or_leaving(&key).ok_or(TaskError::NoTask { id: key.id })?;
        let message = shim::WaitRequest { id: request.container_id, exec_id: request.exec_id };
        match task.shim.call::<shim::WaitResponse>("Wait", &message, None).await {
            Ok(shim::WaitResponse { exit_status, exited_at }) => Ok(api::WaitResponse { exit_status, exited_at }),
            // Whatever ran there, it does not run any more.
            Err(CallError::Closed) => {
                let removed = self.inner.removal(&task).await?;
                Ok(api::WaitResponse { exit_status: removed.exit_status, exited_at: removed.exited_at })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Has the shim save the state of a task into a folder. Answers with the container's spec, which is a part of the checkpoint.
    ///
    /// # Errors
    /// See [`TaskError`]. A shim or an executor that cannot do it says so.
    pub async fn checkpoint(
        &self,
        namespace: Namespace,
        id: &str,
        folder: &std::path::Path,
        options: Option<Any>,
    ) -> Result<Any, TaskError> {
        let task = self.task(namespace, id).await?;
        let container = self.inner.container(&task.key.namespace, &task.key.id).await?;
        let spec = container.spec.map(to_wire).ok_or_else(|| TaskError::NoSpec { id: task.key.id.clone() })?;
        let path = folder.display().to_string();
        self.slow::<()>(&task, "Checkpoint", &shim::CheckpointTaskRequest { id: id.to_owned(), path, options }).await?;
        Ok(spec)
    }

    /// A folder for what is to become a part of a task; what is left there is removed at the next start.
    pub fn scratch(&self) -> std::path::PathBuf {
        self.inner.settings.scratch()
    }

    /// The sandboxes that have a shim.
    pub fn sandboxes(&self) -> super::sandbox::Sandboxes {
        super::sandbox::Sandboxes::new(self.inner.clone())
    }

    /// Whether some task is being made or taken apart.
    #[cfg(test)]
    pub(super) fn is_busy(&self) -> bool {
        self.inner.registry.is_busy()
    }

    /// The task of a container that has a record.
    async fn task(&self, namespace: Namespace, id: &str) -> Result<Arc<Task>, TaskError> {
        let key = self.key(namespace, id).await?;
        self.inner.registry.get(&key).ok_or(TaskError::NoTask { id: key.id })
    }

    /// The name of a container that has a record.
    async fn key(&self, namespace: Namespace, id: &str) -> Result<Key, TaskError> {
        let id = ContainerId::new(id).map_err(TaskError::ContainerId)?;
        self.inner.container(&namespace, &id).await?;
        Ok(Key { namespace, id })
    }

    fn of_namespace(&self, namespace: &Namespace) -> Vec<Arc<Task>> {
        let tasks = self.inner.registry.list();
        tasks.into_iter().filter(|(key, _)| key.namespace == *namespace).map(|(_, task)| task).collect()
    }

    async fn quick<R: proto::prost::Message + Default>(
        &self,
        task: &Task,
        method: &str,
        message: &impl proto::prost::Message,
    ) -> Result<R, TaskError> {
        Ok(task.shim.call(method, message, Some(self.inner.settings.timeouts.call)).await?)
    }

    async fn slow<R: proto::prost::Message + Default>(
        &self,
        task: &Task,
        method: &str,
        message: &impl proto::prost::Message,
    ) -> Result<R, TaskError> {
        Ok(task.shim.call(method, message, Some(self.inner.settings.timeouts.slow_call)).await?)
    }

    async fn state(&self, task: &Task, exec_id: String) -> Result<Process, TaskError> {
        let message = shim::StateRequest { id: task.key.id.to_string(), exec_id };
        let limit = self.inner.settings.timeouts.state;
        match task.shim.call::<shim::StateResponse>("State", &message, Some(limit)).await {
            Ok(state) => Ok(Process {
                container_id: task.key.id.to_string(),
                id: if message.exec_id.is_empty() { message.id } else { message.exec_id },
                pid: state.pid,
                status: state.status,
                stdin: state.stdin,
                stdout: state.stdout,
                stderr: state.stderr,
                terminal: state.terminal,
                exit_status: state.exit_status,
                exited_at: state.exited_at,
            }),
            Err(CallError::TimedOut { .. }) => {
                warn!(container = %task.key.id, "the shim does not say the state of its task in time");
                Ok(unknown(task, message.exec_id))
            }
            // It is being cleaned up this very moment.
            Err(CallError::Closed) => Err(TaskError::NoTask { id: task.key.id.clone() }),
            Err(error) => Err(error.into()),
        }
    }
}

/// A process whose shim does not answer.
fn unknown(task: &Task, exec_id: String) -> Process {
    let container_id = task.key.id.to_string();
    let (id, pid) = if exec_id.is_empty() { (container_id.clone(), task.pid()) } else { (exec_id, 0) };
    Process { container_id, id, pid, status: Status::Unknown.into(), ..Default::default() }
}

fn deleted(id: &str, response: shim::DeleteResponse) -> api::DeleteResponse {
    let shim::DeleteResponse { pid, exit_status, exited_at } = response;
    api::DeleteResponse { id: id.to_owned(), pid, exit_status, exited_at }
}

/// What a filter of figures can ask.
struct TaskFields<'a>(&'a Key);

impl Fields for TaskFields<'_> {
    fn field(&self, path: &[String]) -> Option<String> {
        match path {
            [one] if one == "id" => Some(self.0.id.to_string()),
            [one] if one == "namespace" => Some(self.0.namespace.to_string()),
            _ => None,
        }
    }
}

/// Events of shims come in here, so that the end of a task is told once, whoever tells it.
impl Sink for Tasks {
    async fn take(&self, envelope: Envelope) -> Result<(), Failure> {
        let mut record = None;
        if envelope.topic == EXIT_TOPIC
            && let Some((task, exit)) = self.ended(&envelope)
        {
            if !task.tell(exit) {
                debug!(container = %task.key.id, "a shim sent an exit that was told already");
                return Ok(());
            }
            record = Some((task.bundle.path.clone(), exit));
        }
        let sent = self.inner.outbox.send(Outgoing { envelope, record }).await;
        sent.map_err(|error| Failure { kind: error.kind(), message: error.wire_message() })
    }
}

impl Tasks {
    /// The task whose first process ended, if that is what the event says.
    fn ended(&self, envelope: &Envelope) -> Option<(Arc<Task>, PublishedExit)> {
        let (key, exit) = init_exit(envelope)?;
        let task = self.inner.registry.get_or_leaving(&key)?;
        // A late event of an earlier task of the same name is passed on, but says nothing about this one.
        (task.pid() == 0 || task.pid() == exit.pid).then_some((task, exit))
    }
}

/// Whose first process ended, and how, if that is what the event says.
pub(super) fn init_exit(envelope: &Envelope) -> Option<(Key, PublishedExit)> {
    let event: TaskExit = proto::any::unpack(envelope.event.as_ref()?).ok()??;
    if event.id != event.container_id {
        return None;
    }
    let namespace = Namespace::new(envelope.namespace.as_str()).ok()?;
    let key = Key { namespace, id: ContainerId::new(event.container_id).ok()? };
    let at = event.exited_at.and_then(|at| time::from_wire(at).ok()).unwrap_or_else(SystemTime::now);
    let exit = model::task::Exit { status: event.exit_status, at };
    Some((key, PublishedExit { pid: event.pid, exit }))
}
