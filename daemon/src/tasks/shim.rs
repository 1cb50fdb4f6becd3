//! The connection to one shim, and the calls of its task service.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use model::Namespace;
use model::error::{Classify, Kind};
use proto::prost::Message;
use proto::service::{SANDBOX, TASK_V2, TASK_V3};
use proto::task::v3::{ConnectRequest, ConnectResponse};
use proto::ttrpc::Request;
use tokio_util::sync::CancellationToken;

use super::process::ProcessRef;
use crate::ttrpc::{CallError, Client};

/// The newest version of the task service that is spoken here.
pub(super) const NEWEST_VERSION: i32 = 3;
/// The version that every shim has.
pub(super) const OLDEST_VERSION: i32 = 2;

/// A shim that listens.
#[derive(Debug)]
pub(super) struct Shim {
    client: Client,
    namespace: Namespace,
    /// Both versions have the same messages; only the name of the service differs.
    version: AtomicI32,
    socket: PathBuf,
    /// Its process, once it is known.
    process: OnceLock<ProcessRef>,
}

impl Shim {
    /// A shim behind a connection.
    pub(super) fn new(client: Client, namespace: Namespace, version: i32, socket: PathBuf) -> Self {
        Self { client, namespace, version: AtomicI32::new(version), socket, process: OnceLock::new() }
    }

    /// Calls a method of the task service. Without a limit it waits for as long as it takes.
    ///
    /// # Errors
    /// See [`CallError`].
    pub(super) async fn call<R: Message + Default>(
        &self,
        method: &str,
        message: &impl Message,
        limit: Option<Duration>,
    ) -> Result<R, CallError> {
        let service = if self.version() >= 3 { TASK_V3 } else { TASK_V2 };
        self.call_service(service, method, message, limit).await
    }

    /// Calls a method of the sandbox service, which not every shim has. Without a limit it waits for as long as it takes.
    ///
    /// # Errors
    /// See [`CallError`].
    pub(super) async fn call_sandbox<R: Message + Default>(
        &self,
        method: &str,
        message: &impl Message,
        limit: Option<Duration>,
    ) -> Result<R, CallError> {
        self.call_service(SANDBOX, method, message, limit).await
    }

    async fn call_service<R: Message + Default>(
        &self,
        service: &str,
        method: &str,
        message: &impl Message,
        limit: Option<Duration>,
    ) -> Result<R, CallError> {
        let mut request = Request::new(service, method, message).in_namespace(self.namespace.as_str());
        if let Some(limit) = limit {
            request = request.within(limit);
        }
        self.client.call(&request).await
    }

    /// The same, for the first call on a new shim: one that has no version 3, though it said so, is spoken to in version 2 from
    /// then on. The second value says whether that happened.
    ///
    /// # Errors
    /// See [`CallError`].
    pub(super) async fn first_call<R: Message + Default>(
        &self,
        method: &str,
        message: &impl Message,
        limit: Option<Duration>,
    ) -> (Result<R, CallError>, Downgraded) {
        match self.call(method, message, limit).await {
            Err(error) if error.kind() == Kind::Unimplemented && self.version() > OLDEST_VERSION => {
                self.version.store(OLDEST_VERSION, Ordering::Relaxed);
                (self.call(method, message, limit).await, Downgraded(true))
            }
            result => (result, Downgraded(false)),
        }
    }

    /// Says which process the shim is.
    pub(super) fn is_process(&self, process: ProcessRef) {
        // Whoever said it first was right.
        let _ = self.process.set(process);
    }

    /// Asks the shim which process it is, unless that is known.
    pub(super) async fn learn_process(&self, id: &str, limit: Duration) {
        if self.process.get().is_none()
            && let Ok(answer) =
                self.call::<ConnectResponse>("Connect", &ConnectRequest { id: id.to_owned() }, Some(limit)).await
            && let Some(process) = ProcessRef::of(answer.shim_pid)
        {
            self.is_process(process);
        }
    }

    /// Kills the shim's process, if it is known and still there.
    pub(super) fn kill(&self) {
        if let Some(process) = self.process.get() {
            process.kill();
        }
    }

    /// The version of the task service.
    pub(super) fn version(&self) -> i32 {
        self.version.load(Ordering::Relaxed)
    }

    /// The socket where it listens.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Returns once the connection has ended.
    pub(super) async fn closed(&self) {
        self.client.closed().await;
    }

    /// A token that is cancelled when the connection ends.
    pub(super) fn closed_token(&self) -> CancellationToken {
        self.client.closed_token()
    }

    /// Ends the connection; the shim lives on.
    pub(super) fn close(&self) {
        self.client.close();
    }
}

/// Whether a shim turned out to have version 2 only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Downgraded(pub bool);
