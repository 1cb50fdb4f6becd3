//! The two services of sandboxes: their records, and what controls them.

use std::time::SystemTime;

use model::error::{Classify, Kind};
use model::filter::Filters;
use proto::convert::time;
use proto::services::sandbox::v1 as wire;
use proto::types;
use store::record::{Runtime, SandboxRecord};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::fields::Path;
use super::unary;
use crate::containers::{any_from_wire, any_to_wire};
use crate::sandboxes::{Sandbox, Sandboxes};
use crate::tasks::{self, CreateSandbox, TaskError};

/// The controller that starts a shim for each sandbox. Older clients name none and mean it.
const SHIM: &str = "shim";

/// The states of the contract.
const NOT_READY: &str = "SANDBOX_NOTREADY";

/// The service of the records.
#[derive(Debug, Clone)]
pub struct Records {
    sandboxes: Sandboxes,
}

/// The service of the controllers.
#[derive(Debug, Clone)]
pub struct Controllers {
    records: Sandboxes,
    shims: tasks::Sandboxes,
    stop: CancellationToken,
}

/// What a request lacks, or asks of somebody that is not here.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("sandbox must be set")]
    Nothing,
    #[error("failed to get sandbox controller by {0}")]
    Controller(String),
    #[error("updating the resources of a sandbox is not implemented by shims")]
    Update,
}

impl Classify for Refused {
    fn kind(&self) -> Kind {
        match self {
            Self::Nothing => Kind::InvalidArgument,
            Self::Controller(_) => Kind::NotFound,
            Self::Update => Kind::Unimplemented,
        }
    }
}

impl Records {
    /// Serves `sandboxes`.
    pub fn new(sandboxes: Sandboxes) -> Self {
        Self { sandboxes }
    }
}

impl Controllers {
    /// Controls the sandboxes that have a shim; who waits for the end of one is sent away at `stop`.
    pub fn new(records: Sandboxes, shims: tasks::Sandboxes, stop: CancellationToken) -> Self {
        Self { records, shims, stop }
    }
}

/// For the wire.
fn to_wire(sandbox: Sandbox) -> types::Sandbox {
    let Sandbox { id, record } = sandbox;
    types::Sandbox {
        sandbox_id: id,
        runtime: Some(types::sandbox::Runtime {
            name: record.runtime.name,
            options: record.runtime.options.map(any_to_wire),
        }),
        spec: record.spec.map(any_to_wire),
        labels: record.labels,
        created_at: Some(time::to_wire(record.created_at)),
        updated_at: Some(time::to_wire(record.updated_at)),
        extensions: record.extensions.into_iter().map(|(key, any)| (key, any_to_wire(any))).collect(),
        sandboxer: record.sandboxer,
    }
}

/// From the wire. The times are the server's business, whatever was sent.
fn from_wire(sandbox: Option<types::Sandbox>) -> Result<Sandbox, Refused> {
    let sandbox = sandbox.ok_or(Refused::Nothing)?;
    let runtime = sandbox.runtime.unwrap_or_default();
    let record = SandboxRecord {
        labels: sandbox.labels,
        runtime: Runtime { name: runtime.name, options: runtime.options.map(any_from_wire) },
        spec: sandbox.spec.map(any_from_wire),
        extensions: sandbox.extensions.into_iter().map(|(key, any)| (key, any_from_wire(any))).collect(),
        sandboxer: sandbox.sandboxer,
        created_at: SystemTime::UNIX_EPOCH,
        updated_at: SystemTime::UNIX_EPOCH,
    };
    Ok(Sandbox { id: sandbox.sandbox_id, record })
}

/// Whether the controller is ours; pods with a first process of their own are made by the Kubernetes interface alone.
fn is_ours(sandboxer: &str) -> Result<(), Refused> {
    if sandboxer.is_empty() || sandboxer == SHIM { Ok(()) } else { Err(Refused::Controller(sandboxer.to_owned())) }
}

#[tonic::async_trait]
impl wire::store_server::Store for Records {
    async fn create(
        &self,
        request: Request<wire::StoreCreateRequest>,
    ) -> Result<Response<wire::StoreCreateResponse>, Status> {
        unary(request, async |scope, wire::StoreCreateRequest { sandbox }| {
            let created = self.sandboxes.create(&scope.namespace, from_wire(sandbox)?).await?;
            Ok(wire::StoreCreateResponse { sandbox: Some(to_wire(created)) })
        })
        .await
    }

    async fn update(
        &self,
        request: Request<wire::StoreUpdateRequest>,
    ) -> Result<Response<wire::StoreUpdateResponse>, Status> {
        unary(request, async |scope, wire::StoreUpdateRequest { sandbox, fields }| {
            let paths = fields.iter().map(|field| Path::parse(field)).collect();
            let updated = self.sandboxes.update(&scope.namespace, from_wire(sandbox)?, paths).await?;
            Ok(wire::StoreUpdateResponse { sandbox: Some(to_wire(updated)) })
        })
        .await
    }

    async fn delete(
        &self,
        request: Request<wire::StoreDeleteRequest>,
    ) -> Result<Response<wire::StoreDeleteResponse>, Status> {
        unary(request, async |scope, wire::StoreDeleteRequest { sandbox_id }| {
            self.sandboxes.delete(&scope.namespace, sandbox_id).await?;
            Ok(wire::StoreDeleteResponse {})
        })
        .await
    }

    async fn list(
        &self,
        request: Request<wire::StoreListRequest>,
    ) -> Result<Response<wire::StoreListResponse>, Status> {
        unary(request, async |scope, wire::StoreListRequest { filters }| {
            let found = self.sandboxes.list(&scope.namespace, Filters::parse(&filters)?).await?;
            Ok(wire::StoreListResponse { list: found.into_iter().map(to_wire).collect() })
        })
        .await
    }

    async fn get(&self, request: Request<wire::StoreGetRequest>) -> Result<Response<wire::StoreGetResponse>, Status> {
        unary(request, async |scope, wire::StoreGetRequest { sandbox_id }| {
            let sandbox = self.sandboxes.get(&scope.namespace, &sandbox_id).await?;
            Ok(wire::StoreGetResponse { sandbox: Some(to_wire(sandbox)) })
        })
        .await
    }
}

#[tonic::async_trait]
impl wire::controller_server::Controller for Controllers {
    async fn create(
        &self,
        request: Request<wire::ControllerCreateRequest>,
    ) -> Result<Response<wire::ControllerCreateResponse>, Status> {
        unary(request, async |scope, request| {
            is_ours(&request.sandboxer)?;
            // Newer clients send the sandbox along; it is in the store either way.
            let sandbox = match request.sandbox {
                Some(sandbox) => from_wire(Some(sandbox))?,
                None => self.records.get(&scope.namespace, &request.sandbox_id).await?,
            };
            let create = CreateSandbox {
                runtime: sandbox.record.runtime.name,
                runtime_options: sandbox.record.runtime.options.map(any_to_wire),
                spec: sandbox.record.spec.map(any_to_wire),
                rootfs: request.rootfs,
                options: request.options,
                netns_path: request.netns_path,
                annotations: request.annotations,
            };
            self.shims.create(scope.namespace, &request.sandbox_id, create).await?;
            Ok(wire::ControllerCreateResponse { sandbox_id: request.sandbox_id })
        })
        .await
    }

    async fn start(
        &self,
        request: Request<wire::ControllerStartRequest>,
    ) -> Result<Response<wire::ControllerStartResponse>, Status> {
        unary(request, async |scope, wire::ControllerStartRequest { sandbox_id, sandboxer }| {
            is_ours(&sandboxer)?;
            let (started, at) = self.shims.start(&scope.namespace, &sandbox_id).await?;
            Ok(wire::ControllerStartResponse {
                sandbox_id,
                pid: started.pid,
                created_at: started.created_at,
                labels: Default::default(),
                address: at.address,
                version: at.version,
                spec: started.spec,
            })
        })
        .await
    }

    async fn platform(
        &self,
        request: Request<wire::ControllerPlatformRequest>,
    ) -> Result<Response<wire::ControllerPlatformResponse>, Status> {
        unary(request, async |scope, wire::ControllerPlatformRequest { sandbox_id, sandboxer }| {
            is_ours(&sandboxer)?;
            let platform = self.shims.platform(&scope.namespace, &sandbox_id).await?;
            Ok(wire::ControllerPlatformResponse { platform })
        })
        .await
    }

    async fn stop(
        &self,
        request: Request<wire::ControllerStopRequest>,
    ) -> Result<Response<wire::ControllerStopResponse>, Status> {
        unary(request, async |scope, wire::ControllerStopRequest { sandbox_id, timeout_secs, sandboxer }| {
            is_ours(&sandboxer)?;
            self.shims.stop(&scope.namespace, &sandbox_id, timeout_secs).await?;
            Ok(wire::ControllerStopResponse {})
        })
        .await
    }

    async fn wait(
        &self,
        request: Request<wire::ControllerWaitRequest>,
    ) -> Result<Response<wire::ControllerWaitResponse>, Status> {
        unary(request, async |scope, wire::ControllerWaitRequest { sandbox_id, sandboxer }| {
            is_ours(&sandboxer)?;
            let ended = tokio::select! {
                ended = self.shims.wait(&scope.namespace, &sandbox_id) => ended?,
                // It may be hours until then, and the daemon does not drain for hours.
                () = self.stop.cancelled() => return Err(TaskError::Stopping.into()),
            };
            Ok(wire::ControllerWaitResponse { exit_status: ended.exit_status, exited_at: ended.exited_at })
        })
        .await
    }

    async fn status(
        &self,
        request: Request<wire::ControllerStatusRequest>,
    ) -> Result<Response<wire::ControllerStatusResponse>, Status> {
        unary(request, async |scope, wire::ControllerStatusRequest { sandbox_id, verbose, sandboxer }| {
            is_ours(&sandboxer)?;
            let (status, at) = match self.shims.status(&scope.namespace, &sandbox_id, verbose).await {
                // One that is gone has ended, and nobody knows when.
                Err(error) if error.kind() == Kind::NotFound => {
                    let exited_at = Some(time::to_wire(SystemTime::now()));
                    let state = NOT_READY.to_owned();
                    return Ok(wire::ControllerStatusResponse { sandbox_id, state, exited_at, ..Default::default() });
                }
                status => status?,
            };
            Ok(wire::ControllerStatusResponse {
                sandbox_id: status.sandbox_id,
                pid: status.pid,
                state: status.state,
                info: status.info,
                created_at: status.created_at,
                exited_at: status.exited_at,
                extra: status.extra,
                address: at.address,
                version: at.version,
            })
        })
        .await
    }

    async fn shutdown(
        &self,
        request: Request<wire::ControllerShutdownRequest>,
    ) -> Result<Response<wire::ControllerShutdownResponse>, Status> {
        unary(request, async |scope, wire::ControllerShutdownRequest { sandbox_id, sandboxer }| {
            is_ours(&sandboxer)?;
            self.shims.shutdown(&scope.namespace, &sandbox_id).await?;
            Ok(wire::ControllerShutdownResponse {})
        })
        .await
    }

    async fn metrics(
        &self,
        request: Request<wire::ControllerMetricsRequest>,
    ) -> Result<Response<wire::ControllerMetricsResponse>, Status> {
        unary(request, async |scope, wire::ControllerMetricsRequest { sandbox_id, sandboxer }| {
            is_ours(&sandboxer)?;
            let metrics = self.shims.metrics(&scope.namespace, &sandbox_id).await?;
            Ok(wire::ControllerMetricsResponse { metrics })
        })
        .await
    }

    async fn update(
        &self,
        request: Request<wire::ControllerUpdateRequest>,
    ) -> Result<Response<wire::ControllerUpdateResponse>, Status> {
        unary(request, async |_, _| Err(Refused::Update.into())).await
    }
}
