//! Sandboxes that are a shim: made before any container, shared by the containers that name them, ended on request.
//!
//! ```text
//!  Create   folder ─► start shim ─► CreateSandbox          Start   StartSandbox ─► a watcher waits for the exit and tells it
//!  Stop     StopSandbox                                    Shutdown   ShutdownSandbox ─► the shim ends ─► folder removed
//! ```
//!
//! The folder says, as a task's does, where the shim listens, so a restarted daemon finds it. Records of sandboxes are kept elsewhere
//! ([`crate::sandboxes`]); a sandbox without a record is not touched here, and a record without a shim is not missed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use model::error::{Classify, Kind};
use model::id::IdError;
use model::{ContainerId, Namespace};
use proto::convert::time;
use proto::events::{SandboxCreate, SandboxExit, SandboxStart};
use proto::prost::Message;
use proto::prost_types::Any;
use proto::sandbox as wire;
use proto::types::{Metric, Mount, Platform};
use tracing::{debug, info, warn};

use super::adopt::{read_papers, sweep};
use super::bundle::Bundle;
use super::error::{BundleError, LaunchError, RuntimeError};
use super::record::Bootstrap;
use super::registry::{Key, Reservation};
use super::runtime;
use super::service::Inner;
use super::shim::Shim;
use super::task::Log;
use crate::blocking;
use crate::ttrpc::CallError;

/// The version of shims whose task service can be shared.
const SHARED_SINCE: i32 = 3;

/// How long a new shim may take to say which process it is.
const ASK_TIME: Duration = Duration::from_secs(1);

/// What a sandbox whose shim was lost has as its exit.
const STATUS_LOST: u32 = 137;

/// Why something could not be done with a sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// There is no shim for it.
    #[error("sandbox {id:?}")]
    Missing {
        /// Its id.
        id: String,
    },
    /// It has a shim already, or somebody is starting one.
    #[error("sandbox {id:?}")]
    Exists {
        /// Its id.
        id: String,
    },
    /// The id breaks the rule.
    #[error("sandbox id")]
    Id(#[from] IdError),
    /// What runs it cannot be found.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// No shim could be started.
    #[error("failed to start sandbox shim")]
    Launch(#[from] LaunchError),
    /// The shim refused, or cannot be asked.
    #[error(transparent)]
    Shim(#[from] CallError),
}

impl Classify for SandboxError {
    fn kind(&self) -> Kind {
        match self {
            Self::Missing { .. } => Kind::NotFound,
            Self::Exists { .. } => Kind::AlreadyExists,
            Self::Id(error) => error.kind(),
            Self::Runtime(error) => error.kind(),
            Self::Launch(error) => error.kind(),
            Self::Shim(error) => error.kind(),
        }
    }
}

/// The shim of one sandbox.
#[derive(Debug)]
pub(super) struct SandboxShim {
    key: Key,
    bundle: Bundle,
    /// The binary of the shim.
    pub binary: PathBuf,
    shim: Shim,
    bootstrap: Bootstrap,
    _log: Option<Log>,
}

/// What to make a sandbox from.
#[derive(Debug, Clone, Default)]
pub struct CreateSandbox {
    /// The name of the runtime, or the path of its shim.
    pub runtime: String,
    /// The options of the runtime.
    pub runtime_options: Option<Any>,
    /// What to run, in the words of the runtime.
    pub spec: Option<Any>,
    /// Its root filesystem, if it has one.
    pub rootfs: Vec<Mount>,
    /// Options of the request.
    pub options: Option<Any>,
    /// Its network namespace, if it is made already.
    pub netns_path: String,
    /// Annotations.
    pub annotations: std::collections::BTreeMap<String, String>,
}

/// Where the task service of a sandbox is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// `unix://` and a path, or `ttrpc+unix://`.
    pub address: String,
    /// The version of the task service.
    pub version: u32,
}

/// All sandboxes that have a shim. Clones are the same.
#[derive(Debug, Clone)]
pub struct Sandboxes {
    inner: Arc<Inner>,
}

impl Sandboxes {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    /// Starts a shim and makes the sandbox in it.
    ///
    /// # Errors
    /// See [`SandboxError`]. Nothing is left behind.
    ///
    /// # Cancel safety
    /// If the future is dropped, the creation goes on.
    pub async fn create(&self, namespace: Namespace, id: &str, request: CreateSandbox) -> Result<(), SandboxError> {
        let key = Key { namespace, id: ContainerId::new(id)? };
        let taken = |_| SandboxError::Exists { id: id.to_owned() };
        let reservation = self.inner.sandboxes.reserve(&key).await.map_err(taken)?;
        let making = self.inner.tracker.spawn(self.inner.clone().make_sandbox(reservation, request));
        making.await.map_err(|_| SandboxError::Shim(CallError::Closed))?
    }

    /// Starts it. Answers with what the shim says of it, and where containers find their task service.
    ///
    /// # Errors
    /// See [`SandboxError`].
    pub async fn start(
        &self,
        namespace: &Namespace,
        id: &str,
    ) -> Result<(wire::StartSandboxResponse, Address), SandboxError> {
        let sandbox = self.get(namespace, id)?;
        let message = wire::StartSandboxRequest { sandbox_id: id.to_owned() };
        let limit = Some(self.inner.settings.timeouts.slow_call);
        let started: wire::StartSandboxResponse = sandbox.shim.call_sandbox("StartSandbox", &message, limit).await?;
        self.inner.tell(&sandbox.key, "/sandboxes/start", &SandboxStart { sandbox_id: id.to_owned() }, None).await;
        self.inner.spawn(self.inner.clone().await_exit(sandbox.clone()));
        Ok((started, sandbox.address()))
    }

    /// What it runs on.
    ///
    /// # Errors
    /// See [`SandboxError`].
    pub async fn platform(&self, namespace: &Namespace, id: &str) -> Result<Option<Platform>, SandboxError> {
        let message = wire::PlatformRequest { sandbox_id: id.to_owned() };
        let answer: wire::PlatformResponse = self.quick(namespace, id, "Platform", &message).await?;
        Ok(answer.platform)
    }

    /// Stops it. One that is not there is stopped.
    ///
    /// # Errors
    /// See [`SandboxError`].
    pub async fn stop(&self, namespace: &Namespace, id: &str, timeout_secs: u32) -> Result<(), SandboxError> {
        let message = wire::StopSandboxRequest { sandbox_id: id.to_owned(), timeout_secs };
        let limit = self.inner.settings.timeouts.call + Duration::from_secs(timeout_secs.into());
        let stopped = match self.get(namespace, id) {
            Ok(sandbox) => {
                let answer: Result<wire::StopSandboxResponse, _> =
                    sandbox.shim.call_sandbox("StopSandbox", &message, Some(limit)).await;
                answer.map(drop).map_err(SandboxError::from)
            }
            Err(error) => Err(error),
        };
        match stopped {
            Err(SandboxError::Shim(CallError::Closed)) => Ok(()),
            Err(error) if error.kind() == Kind::NotFound => Ok(()),
            stopped => stopped,
        }
    }

    /// Waits for its end, however long that takes.
    ///
    /// # Errors
    /// See [`SandboxError`].
    pub async fn wait(&self, namespace: &Namespace, id: &str) -> Result<wire::WaitSandboxResponse, SandboxError> {
        let sandbox = self.get(namespace, id)?;
        Ok(sandbox.exit().await?)
    }

    /// What the shim says of it, and where containers find their task service.
    ///
    /// # Errors
    /// See [`SandboxError`].
    pub async fn status(
        &self,
        namespace: &Namespace,
        id: &str,
        verbose: bool,
    ) -> Result<(wire::SandboxStatusResponse, Address), SandboxError> {
        let sandbox = self.get(namespace, id)?;
        let message = wire::SandboxStatusRequest { sandbox_id: id.to_owned(), verbose };
        let limit = Some(self.inner.settings.timeouts.state);
        Ok((sandbox.shim.call_sandbox("SandboxStatus", &message, limit).await?, sandbox.address()))
    }

    /// Figures of it.
    ///
    /// # Errors
    /// See [`SandboxError`].
    pub async fn metrics(&self, namespace: &Namespace, id: &str) -> Result<Option<Metric>, SandboxError> {
        let message = wire::SandboxMetricsRequest { sandbox_id: id.to_owned() };
        let sandbox = self.get(namespace, id)?;
        let limit = Some(self.inner.settings.timeouts.stats);
        let answer: wire::SandboxMetricsResponse = sandbox.shim.call_sandbox("SandboxMetrics", &message, limit).await?;
        Ok(answer.metrics)
    }

    /// Ends it and its shim, and removes its folder. One that is not there is ended.
    ///
    /// # Errors
    /// See [`SandboxError`].
    ///
    /// # Cancel safety
    /// If the future is dropped, the removal goes on.
    pub async fn shutdown(&self, namespace: &Namespace, id: &str) -> Result<(), SandboxError> {
        let sandbox = match self.get(namespace, id) {
            Err(SandboxError::Missing { .. }) => return Ok(()),
            sandbox => sandbox?,
        };
        let ending = self.inner.tracker.spawn(self.inner.clone().end_sandbox(sandbox));
        ending.await.map_err(|_| SandboxError::Shim(CallError::Closed))?
    }

    fn get(&self, namespace: &Namespace, id: &str) -> Result<Arc<SandboxShim>, SandboxError> {
        let key = Key { namespace: namespace.clone(), id: ContainerId::new(id)? };
        self.inner.sandboxes.get(&key).ok_or_else(|| SandboxError::Missing { id: id.to_owned() })
    }

    async fn quick<R: Message + Default>(
        &self,
        namespace: &Namespace,
        id: &str,
        method: &str,
        message: &impl Message,
    ) -> Result<R, SandboxError> {
        let sandbox = self.get(namespace, id)?;
        Ok(sandbox.shim.call_sandbox(method, message, Some(self.inner.settings.timeouts.call)).await?)
    }
}

impl SandboxShim {
    fn address(&self) -> Address {
        let version = u32::try_from(self.bootstrap.version).unwrap_or_default();
        Address { address: self.bootstrap.address.clone(), version }
    }

    async fn exit(&self) -> Result<wire::WaitSandboxResponse, CallError> {
        let message = wire::WaitSandboxRequest { sandbox_id: self.key.id.to_string() };
        self.shim.call_sandbox("WaitSandbox", &message, None).await
    }
}

impl Inner {
    /// The sandbox in whose shim a container's task is to be; none if the container names none, or one of another kind.
    pub(super) fn sandbox_of(&self, namespace: &Namespace, sandbox: &str) -> Option<Arc<SandboxShim>> {
        let id = ContainerId::new(sandbox).ok()?;
        let found = self.sandboxes.get(&Key { namespace: namespace.clone(), id })?;
        (found.bootstrap.version >= SHARED_SINCE).then_some(found)
    }

    /// Connects a task to the shim of its sandbox, and writes down in its folder that it is there.
    pub(super) async fn join_sandbox(&self, sandbox: &SandboxShim, bundle: &Bundle) -> Result<Shim, LaunchError> {
        let (written, into, name) = (sandbox.bootstrap.clone(), bundle.clone(), sandbox.key.id.to_string());
        blocking::run(move || {
            into.note_sandbox(&name)?;
            written.write(&into.path)
        })
        .await?;
        self.launcher.connect(&sandbox.key.namespace, &sandbox.bootstrap, self.settings.timeouts.start).await
    }

    async fn make_sandbox(
        self: Arc<Self>,
        reservation: Reservation<SandboxShim>,
        request: CreateSandbox,
    ) -> Result<(), SandboxError> {
        let key = reservation.key().clone();
        let (name, settings) = (request.runtime, self.settings.clone());
        let runtime = blocking::run(move || runtime::resolve(&name, "", &settings)).await?;
        let bundle = Bundle::of_sandbox(&self.settings, &key.namespace, &key.id);
        let spec = request.spec.map(|spec| spec.value).unwrap_or_default();
        let (made, binary) = (bundle.clone(), runtime.binary.clone());
        blocking::run(move || made.create(&spec, &binary)).await.map_err(LaunchError::from)?;
        let log = self.copy_log(&key, &bundle);
        let launched = self.launcher.launch(&key, &bundle, &runtime, request.runtime_options.as_ref()).await;
        let result = match launched {
            Ok(shim) => {
                let message = wire::CreateSandboxRequest {
                    sandbox_id: key.id.to_string(),
                    bundle_path: bundle.path.display().to_string(),
                    rootfs: request.rootfs,
                    options: request.options.or(request.runtime_options),
                    netns_path: request.netns_path,
                    annotations: request.annotations,
                };
                let limit = Some(self.settings.timeouts.slow_call);
                let made: Result<wire::CreateSandboxResponse, _> =
                    shim.call_sandbox("CreateSandbox", &message, limit).await;
                match made {
                    Ok(_) => Ok(shim),
                    Err(error) => {
                        self.shut_sandbox(&shim, &key).await;
                        Err((SandboxError::Shim(error), Some(shim)))
                    }
                }
            }
            Err(error) => Err((SandboxError::Launch(error), None)),
        };
        let folder = bundle.path.clone();
        match (result, blocking::run(move || Bootstrap::read(&folder)).await) {
            (Ok(shim), Ok(Some(bootstrap))) => {
                let binary = runtime.binary;
                let sandbox = Arc::new(SandboxShim { key, bundle, binary, shim, bootstrap, _log: log });
                reservation.commit(sandbox.clone());
                info!(ns = %sandbox.key.namespace, sandbox = %sandbox.key.id, "sandbox created");
                let event = SandboxCreate { sandbox_id: sandbox.key.id.to_string() };
                self.tell(&sandbox.key, "/sandboxes/create", &event, None).await;
                self.spawn(self.clone().watch_sandbox(sandbox));
                Ok(())
            }
            (result, read) => {
                let (error, shim) = match result {
                    Err(failed) => failed,
                    // What we wrote a moment ago cannot be read.
                    Ok(shim) => {
                        let error = read.err().unwrap_or_else(|| BundleError::Exists { path: bundle.path.clone() });
                        self.shut_sandbox(&shim, &key).await;
                        (SandboxError::Launch(error.into()), Some(shim))
                    }
                };
                self.clean_sandbox(&key, &bundle, &runtime.binary, shim.as_ref()).await;
                Err(error)
            }
        }
    }

    /// Waits for the end of a sandbox and tells it.
    async fn await_exit(self: Arc<Self>, sandbox: Arc<SandboxShim>) {
        let exit = tokio::select! {
            exit = sandbox.exit() => exit,
            () = self.stop.cancelled() => return,
        };
        // If the shim is lost, whoever watches it tells.
        if let Ok(wire::WaitSandboxResponse { exit_status, exited_at }) = exit {
            self.tell_exit(&sandbox.key, exit_status, exited_at).await;
        }
    }

    async fn tell_exit(&self, key: &Key, exit_status: u32, exited_at: Option<proto::prost_types::Timestamp>) {
        let event = SandboxExit { sandbox_id: key.id.to_string(), exit_status, exited_at };
        self.tell(key, "/sandboxes/exit", &event, None).await;
    }

    /// Waits for the end of the shim. If nobody asked for it, what it left is removed.
    async fn watch_sandbox(self: Arc<Self>, sandbox: Arc<SandboxShim>) {
        let closed = sandbox.shim.closed_token();
        tokio::select! {
            () = self.stop.cancelled() => return sandbox.shim.close(),
            () = closed.cancelled() => {}
        }
        let Some(reservation) = self.sandboxes.retire(&sandbox.key, &sandbox) else { return };
        warn!(ns = %sandbox.key.namespace, sandbox = %sandbox.key.id, "the shim of a sandbox is lost");
        sandbox.shim.kill();
        self.clean_sandbox(&sandbox.key, &sandbox.bundle, &sandbox.binary, Some(&sandbox.shim)).await;
        self.tell_exit(&sandbox.key, STATUS_LOST, Some(time::to_wire(SystemTime::now()))).await;
        drop(reservation);
    }

    async fn end_sandbox(self: Arc<Self>, sandbox: Arc<SandboxShim>) -> Result<(), SandboxError> {
        let message = wire::ShutdownSandboxRequest { sandbox_id: sandbox.key.id.to_string() };
        let limit = Some(self.settings.timeouts.call);
        let answer: Result<wire::ShutdownSandboxResponse, _> =
            sandbox.shim.call_sandbox("ShutdownSandbox", &message, limit).await;
        match answer {
            Ok(_) | Err(CallError::Closed) => {}
            Err(error) if error.kind() == Kind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        let Some(reservation) = self.sandboxes.retire(&sandbox.key, &sandbox) else { return Ok(()) };
        self.give_up(&sandbox.shim, &sandbox.key).await;
        self.clean_sandbox(&sandbox.key, &sandbox.bundle, &sandbox.binary, Some(&sandbox.shim)).await;
        info!(ns = %sandbox.key.namespace, sandbox = %sandbox.key.id, "sandbox removed");
        drop(reservation);
        Ok(())
    }

    /// Ends a sandbox that nobody is to have, and its shim.
    async fn shut_sandbox(&self, shim: &Shim, key: &Key) {
        let message = wire::ShutdownSandboxRequest { sandbox_id: key.id.to_string() };
        let limit = Some(self.settings.timeouts.shutdown);
        let answer: Result<wire::ShutdownSandboxResponse, _> =
            shim.call_sandbox("ShutdownSandbox", &message, limit).await;
        if let Err(error) = answer {
            debug!(error = error.wire_message(), sandbox = %key.id, "a shim has no sandbox to end");
        }
        self.give_up(shim, key).await;
    }

    async fn clean_sandbox(&self, key: &Key, bundle: &Bundle, binary: &std::path::Path, shim: Option<&Shim>) {
        if let Err(error) = self.launcher.delete(key, bundle, binary).await {
            debug!(error = error.wire_message(), sandbox = %key.id, "a shim's delete command failed");
        }
        self.remove_files(bundle.clone(), shim).await;
    }

    /// Finds the sandboxes of the last daemon. Each is waited for no longer than the limit for loading.
    pub(super) async fn recover_sandboxes(self: &Arc<Self>) {
        let settings = self.settings.clone();
        let keys = blocking::run(move || sweep(&settings.sandboxes(), &settings.sandbox_works())).await;
        let all = keys.into_iter().map(|key| self.clone().adopt_sandbox(key));
        futures_util::future::join_all(all).await;
    }

    async fn adopt_sandbox(self: Arc<Self>, key: Key) {
        let Ok(reservation) = self.sandboxes.reserve(&key).await else { return };
        let bundle = Bundle::of_sandbox(&self.settings, &key.namespace, &key.id);
        let of = bundle.clone();
        let papers = blocking::run(move || read_papers(of)).await;
        let binary = papers.binary.unwrap_or_else(|| self.settings.gantry_shim.clone());
        let limit = self.settings.timeouts.load;
        let connected = match &papers.bootstrap {
            Some(bootstrap) => self.launcher.connect(&key.namespace, bootstrap, limit).await.ok(),
            None => None,
        };
        let (Some(bootstrap), Some(shim)) = (papers.bootstrap, connected) else {
            warn!(ns = %key.namespace, sandbox = %key.id, "the shim of a sandbox is gone");
            self.clean_sandbox(&key, &bundle, &binary, None).await;
            if let Some(socket) = Bootstrap::read(&bundle.path).ok().flatten().and_then(|bootstrap| bootstrap.socket())
            {
                blocking::run(move || super::launch::remove_socket(&socket)).await;
            }
            self.tell_exit(&key, STATUS_LOST, Some(time::to_wire(SystemTime::now()))).await;
            return drop(reservation);
        };
        shim.learn_process(key.id.as_str(), ASK_TIME).await;
        let log = self.copy_log(&key, &bundle);
        let sandbox = Arc::new(SandboxShim { key, bundle, binary, shim, bootstrap, _log: log });
        reservation.commit(sandbox.clone());
        self.spawn(self.clone().await_exit(sandbox.clone()));
        self.spawn(self.clone().watch_sandbox(sandbox));
    }
}
