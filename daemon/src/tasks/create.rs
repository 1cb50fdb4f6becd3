//! Making a task: all or nothing.
//!
//! [`Attempt`] owns what was made so far: the id, the folder, the shim. When a step fails or the client goes away, all of it is
//! undone in reverse order, and the id stays taken until that is done. An attempt runs on its own, not in the client's request: a step
//! that is under way when the client goes away is finished first, so that nothing comes into being behind the back of the undoing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use model::error::{Classify, Kind};
use model::task::Pid;
use model::{ContainerId, Namespace};
use proto::prost_types::Any;
use proto::task::v3::{
    ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse, DeleteRequest, DeleteResponse,
    ShutdownRequest,
};
use proto::types::Mount;
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info, warn};

use super::bundle::Bundle;
use super::error::{LaunchError, TaskError};
use super::launch::remove_socket;
use super::log;
use super::record::Bootstrap;
use super::registry::{Key, Reservation};
use super::runtime::{self, Runtime, RuntimeKind};
use super::sandbox::SandboxShim;
use super::service::Inner;
use super::shim::{Downgraded, Shim};
use super::task::{Log, Task};
use crate::blocking;
use crate::ttrpc::CallError;

/// How long to wait for the last words of a shim that ended.
const LAST_WORDS_TIME: Duration = Duration::from_millis(50);

/// How long a shim that is given up may take to say which process it is.
const ASK_TIME: Duration = Duration::from_secs(1);

/// A request for a task. The container's record says the rest.
#[derive(Debug, Clone, Default)]
pub struct CreateTask {
    /// What the shim mounts as the root filesystem; nothing if the spec's root is there already.
    pub rootfs: Vec<Mount>,
    /// Where standard input comes from: empty, a fifo, or a URI that the shim understands.
    pub stdin: String,
    /// Where standard output goes.
    pub stdout: String,
    /// Where standard error goes.
    pub stderr: String,
    /// Whether the first process gets a terminal.
    pub terminal: bool,
    /// The checkpoint to restore it from, in a folder in the place of [`Tasks::scratch`](super::Tasks::scratch); it becomes a part of the
    /// task's own, since some executors read it when the task is started.
    pub checkpoint: Option<Arc<TempDir>>,
    /// Options for the runtime; the container's if there are none.
    pub options: Option<Any>,
    /// The binary of the shim; if empty, the container's runtime says it.
    pub runtime_path: String,
    /// A shim that is there already, which is not supported.
    pub task_api_address: String,
}

impl Inner {
    /// Makes a task and gives its first process, which waits to be started.
    pub(super) async fn create(
        self: &Arc<Self>,
        namespace: Namespace,
        id: ContainerId,
        request: CreateTask,
    ) -> Result<Pid, TaskError> {
        if !request.task_api_address.is_empty() {
            return Err(TaskError::Unserved { what: "creating a task in the shim of task_api_address is" });
        }
        let container = self.container(&namespace, &id).await?;
        let key = Key { namespace, id };
        let reservation = self.registry.reserve(&key).await.map_err(|_| TaskError::Exists { id: key.id.clone() })?;
        let spec = container.spec.ok_or_else(|| TaskError::NoSpec { id: key.id.clone() })?.value;
        let settings = self.settings.clone();
        let (name, path) = (container.runtime.name, request.runtime_path.clone());
        let runtime =
            blocking::run(move || runtime::resolve(&name, &path, &settings)).await.map_err(LaunchError::from)?;
        let options = request.options.clone().or_else(|| container.runtime.options.map(super::service::to_wire));

        let shared = self.sandbox_of(&key.namespace, &container.sandbox);
        let binary = shared.as_ref().map_or(&runtime.binary, |sandbox| &sandbox.binary).clone();
        let attempt = Attempt::new(self.clone(), reservation, binary, shared);
        let gone = CancellationToken::new();
        // Dropped together with the request.
        let _here = gone.clone().drop_guard();
        let attempting = self.tracker.spawn(attempt.run(spec, runtime, options, request, gone).in_current_span());
        attempting.await.map_err(|_| TaskError::Stopping)?
    }
}

/// A task in the making.
struct Attempt {
    inner: Arc<Inner>,
    /// Where to undo it if this is dropped.
    runtime: Handle,
    /// `None` once it is committed or being undone.
    parts: Option<Parts>,
}

/// What was made so far.
struct Parts {
    reservation: Reservation<Task>,
    bundle: Bundle,
    binary: PathBuf,
    /// Whether the folder is ours to remove.
    has_bundle: bool,
    /// Whether a shim may have been started.
    may_run: bool,
    shim: Option<Shim>,
    log: Option<Log>,
    /// The sandbox in whose shim the task is to be.
    sandbox: Option<Arc<SandboxShim>>,
}

impl Attempt {
    fn new(
        inner: Arc<Inner>,
        reservation: Reservation<Task>,
        binary: PathBuf,
        sandbox: Option<Arc<SandboxShim>>,
    ) -> Self {
        let Key { namespace, id } = reservation.key();
        let bundle = Bundle::of(&inner.settings, namespace, id);
        let parts =
            Parts { reservation, bundle, binary, has_bundle: false, may_run: false, shim: None, log: None, sandbox };
        Self { inner, runtime: Handle::current(), parts: Some(parts) }
    }

    /// Makes the task, or nothing.
    async fn run(
        mut self,
        spec: Vec<u8>,
        runtime: Runtime,
        options: Option<Any>,
        request: CreateTask,
        gone: CancellationToken,
    ) -> Result<Pid, TaskError> {
        match self.make(spec, &runtime, options, request, &gone).await {
            Ok(pid) => {
                let inner = self.inner.clone();
                let task = self.commit(pid);
                info!(ns = %task.key.namespace, container = %task.key.id, pid, "task created");
                inner.spawn(inner.clone().watch(task));
                Ok(pid)
            }
            Err(error) => {
                if let Some(parts) = self.parts.take() {
                    parts.undo(self.inner.clone()).await;
                }
                Err(error)
            }
        }
    }

    async fn make(
        &mut self,
        spec: Vec<u8>,
        runtime: &Runtime,
        options: Option<Any>,
        request: CreateTask,
        gone: &CancellationToken,
    ) -> Result<Pid, TaskError> {
        let inner = self.inner.clone();
        let parts = self.parts.as_mut().expect("it is neither committed nor undone yet");
        let key = parts.reservation.key().clone();

        let (bundle, binary) = (parts.bundle.clone(), parts.binary.clone());
        // If this fails, it left nothing, or found what is not ours.
        blocking::run(move || bundle.create(&spec, &binary)).await.map_err(LaunchError::from)?;
        parts.has_bundle = true;
        let checkpoint = match request.checkpoint {
            Some(folder) => parts.bundle.take_checkpoint(folder).await.map_err(LaunchError::from)?,
            None => String::new(),
        };
        let shim = match &parts.sandbox {
            Some(sandbox) => inner.join_sandbox(sandbox, &parts.bundle).await?,
            None => {
                parts.log = inner.copy_log(&key, &parts.bundle);
                parts.may_run = true;
                tokio::select! {
                    shim = inner.launcher.launch(&key, &parts.bundle, runtime, options.as_ref()) => shim?,
                    // A `start` that hangs is killed. Ours has none, and takes no time.
                    () = gone.cancelled(), if runtime.kind == RuntimeKind::Foreign => return Err(TaskError::Gone),
                }
            }
        };
        let is_fresh = parts.sandbox.is_none();
        let shim = parts.shim.insert(shim);

        let message = CreateTaskRequest {
            id: key.id.to_string(),
            bundle: parts.bundle.path.display().to_string(),
            rootfs: request.rootfs,
            terminal: request.terminal,
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            checkpoint,
            options,
            ..Default::default()
        };
        let limit = Some(inner.settings.timeouts.slow_call);
        let (created, downgraded) = tokio::select! {
            answer = shim.first_call::<CreateTaskResponse>("Create", &message, limit) => answer,
            error = never_ready(shim, &key, runtime, inner.settings.timeouts.start), if is_fresh => {
                (Err(error), Downgraded(false))
            }
            () = gone.cancelled() => return Err(TaskError::Gone),
        };
        match created {
            Ok(response) => {
                if downgraded.0 {
                    rewrite_bootstrap(shim, &parts.bundle).await;
                }
                Ok(response.pid)
            }
            Err(CallError::Closed) => {
                tokio::time::sleep(LAST_WORDS_TIME).await;
                let output = parts.log.as_ref().map(|log| log.tail.text()).filter(|text| !text.is_empty());
                Err(TaskError::CreateLost { output: output.unwrap_or_else(|| "it said nothing".into()) })
            }
            Err(error) => Err(TaskError::Create(error)),
        }
    }

    fn commit(mut self, pid: Pid) -> Arc<Task> {
        let parts = self.parts.take().expect("it is neither committed nor undone yet");
        let shim = parts.shim.expect("it was made in full");
        let key = parts.reservation.key().clone();
        let task = Task::new(key, parts.bundle, parts.binary, shim, parts.sandbox.is_some(), parts.log);
        task.set_pid(pid);
        let task = Arc::new(task);
        parts.reservation.commit(task.clone());
        task
    }
}

/// Only if it panicked.
impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(parts) = self.parts.take() {
            self.inner.tracker.spawn_on(parts.undo(self.inner.clone()), &self.runtime);
        }
    }
}

impl Parts {
    async fn undo(self, inner: Arc<Inner>) {
        let Self { reservation, bundle, binary, has_bundle, may_run, shim, log, sandbox } = self;
        if let Some(shim) = &shim {
            // It may have made the task after we had given up waiting, and does not end as long as it has one.
            let message = DeleteRequest { id: reservation.key().id.to_string(), exec_id: String::new() };
            let limit = Some(inner.settings.timeouts.shutdown);
            if let Err(error) = shim.call::<DeleteResponse>("Delete", &message, limit).await {
                debug!(error = error.wire_message(), "a shim has nothing to delete");
            }
            match sandbox {
                Some(_) => shim.close(),
                None => inner.give_up(shim, reservation.key()).await,
            }
        }
        if may_run && let Err(error) = inner.launcher.delete(reservation.key(), &bundle, &binary).await {
            debug!(error = error.wire_message(), "a shim's delete command failed");
        }
        drop(log);
        if has_bundle {
            inner.remove_files(bundle, shim.as_ref().filter(|_| sandbox.is_none())).await;
        }
        drop(reservation);
    }
}

/// Returns only if a shim that was handed its socket does not come to answer on it.
async fn never_ready(shim: &Shim, key: &Key, runtime: &Runtime, limit: Duration) -> CallError {
    if runtime.kind == RuntimeKind::Gantry {
        let message = ConnectRequest { id: key.id.to_string() };
        let answer = shim.call::<ConnectResponse>("Connect", &message, Some(limit)).await;
        if let Err(error @ CallError::TimedOut { .. }) = answer {
            return error;
        }
    }
    std::future::pending().await
}

async fn rewrite_bootstrap(shim: &Shim, bundle: &Bundle) {
    let (version, folder) = (shim.version(), bundle.path.clone());
    let rewritten = blocking::run(move || match Bootstrap::read(&folder)? {
        Some(bootstrap) => Bootstrap { version, ..bootstrap }.write(&folder),
        None => Ok(()),
    })
    .await;
    if let Err(error) = rewritten {
        warn!(
            error = error.wire_message(),
            "cannot write down that a shim speaks version 2 only, it is asked again after a restart"
        );
    }
}

impl Inner {
    /// Ends a shim that has no task, or is to have none: kindly, then not.
    pub(super) async fn give_up(&self, shim: &Shim, key: &Key) {
        if self.is_named_by_others(key, shim.socket()).await {
            return shim.close();
        }
        let limit = self.settings.timeouts.shutdown;
        shim.learn_process(key.id.as_str(), ASK_TIME).await;
        let message = ShutdownRequest { id: key.id.to_string(), now: true };
        let answer = shim.call::<()>("Shutdown", &message, Some(limit)).await;
        let said_no = matches!(&answer, Err(error) if error.kind() == Kind::Unimplemented);
        if said_no || tokio::time::timeout(limit, shim.closed()).await.is_err() {
            warn!(container = %key.id, "a shim does not end by itself, killing it");
            shim.kill();
            shim.close();
        }
    }

    /// Removes the folder of a task and the socket of its shim. What cannot be removed is removed at the next start.
    pub(super) async fn remove_files(&self, bundle: Bundle, shim: Option<&Shim>) {
        let socket = shim.map(|shim| shim.socket().to_owned());
        blocking::run(move || {
            if let Err(error) = bundle.remove() {
                warn!(error = error.wire_message(), bundle = %bundle.path.display(), "cannot remove the folder of a task");
            }
            if let Some(socket) = socket {
                remove_socket(&socket);
            }
        })
        .await;
    }

    /// Copies the log of a shim. Without it the task can live.
    pub(super) fn copy_log(&self, key: &Key, bundle: &Bundle) -> Option<Log> {
        let stop = self.stop.child_token();
        let guard = stop.clone().drop_guard();
        match log::copy(&bundle.path, &key.namespace, &key.id, &self.tracker, stop) {
            Ok(tail) => Some(Log { tail, _stop: guard }),
            Err(error) => {
                warn!(%error, container = %key.id, "cannot read the log of a shim");
                None
            }
        }
    }
}
