//! `containerd.services.tasks.v1.Tasks`: tasks, said on the wire.

use std::sync::Arc;

use model::filter::Filters;
use proto::services::tasks::v1 as wire;
use proto::services::tasks::v1::tasks_server;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::unary;
use crate::checkpoints::Checkpoints;
use crate::tasks::{CreateTask, TaskError, Tasks};

/// The service.
#[derive(Debug, Clone)]
pub struct TasksService {
    tasks: Tasks,
    checkpoints: Checkpoints,
    stop: CancellationToken,
}

impl TasksService {
    /// The service of these tasks; who waits for the end of a process is sent away at `stop`.
    pub fn new(tasks: Tasks, checkpoints: Checkpoints, stop: CancellationToken) -> Self {
        Self { tasks, checkpoints, stop }
    }
}

#[tonic::async_trait]
impl tasks_server::Tasks for TasksService {
    async fn create(
        &self,
        request: Request<wire::CreateTaskRequest>,
    ) -> Result<Response<wire::CreateTaskResponse>, Status> {
        unary(request, async |scope, request| {
            let container_id = request.container_id;
            let checkpoint = match request.checkpoint {
                Some(checkpoint) => {
                    Some(Arc::new(self.checkpoints.open(&scope.namespace, checkpoint.try_into()?).await?))
                }
                None => None,
            };
            let task = CreateTask {
                rootfs: request.rootfs,
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                terminal: request.terminal,
                checkpoint,
                options: request.options,
                runtime_path: request.runtime_path,
                task_api_address: request.task_api_address,
            };
            let pid = self.tasks.create(scope.namespace, &container_id, task).await?;
            Ok(wire::CreateTaskResponse { container_id, pid })
        })
        .await
    }

    async fn start(&self, request: Request<wire::StartRequest>) -> Result<Response<wire::StartResponse>, Status> {
        unary(request, async |scope, request| {
            Ok(wire::StartResponse { pid: self.tasks.start(scope.namespace, request).await? })
        })
        .await
    }

    async fn delete(
        &self,
        request: Request<wire::DeleteTaskRequest>,
    ) -> Result<Response<wire::DeleteResponse>, Status> {
        unary(request, async |scope, request| Ok(self.tasks.delete(scope.namespace, &request.container_id).await?))
            .await
    }

    async fn delete_process(
        &self,
        request: Request<wire::DeleteProcessRequest>,
    ) -> Result<Response<wire::DeleteResponse>, Status> {
        unary(request, async |scope, request| Ok(self.tasks.delete_process(scope.namespace, request).await?)).await
    }

    async fn get(&self, request: Request<wire::GetRequest>) -> Result<Response<wire::GetResponse>, Status> {
        unary(request, async |scope, request| {
            Ok(wire::GetResponse { process: Some(self.tasks.get(scope.namespace, request).await?) })
        })
        .await
    }

    async fn list(
        &self,
        request: Request<wire::ListTasksRequest>,
    ) -> Result<Response<wire::ListTasksResponse>, Status> {
        // containerd has a filter in the message and ignores it; clients rely on getting all.
        unary(request, async |scope, _| Ok(wire::ListTasksResponse { tasks: self.tasks.list(&scope.namespace).await }))
            .await
    }

    async fn kill(&self, request: Request<wire::KillRequest>) -> Result<Response<()>, Status> {
        unary(request, async |scope, request| Ok(self.tasks.kill(scope.namespace, request).await?)).await
    }

    async fn exec(&self, request: Request<wire::ExecProcessRequest>) -> Result<Response<()>, Status> {
        unary(request, async |scope, request| Ok(self.tasks.exec(scope.namespace, request).await?)).await
    }

    async fn resize_pty(&self, request: Request<wire::ResizePtyRequest>) -> Result<Response<()>, Status> {
        unary(request, async |scope, request| Ok(self.tasks.resize_pty(scope.namespace, request).await?)).await
    }

    async fn close_io(&self, request: Request<wire::CloseIoRequest>) -> Result<Response<()>, Status> {
        unary(request, async |scope, request| Ok(self.tasks.close_io(scope.namespace, request).await?)).await
    }

    async fn pause(&self, request: Request<wire::PauseTaskRequest>) -> Result<Response<()>, Status> {
        unary(request, async |scope, request| Ok(self.tasks.pause(scope.namespace, &request.container_id).await?)).await
    }

    async fn resume(&self, request: Request<wire::ResumeTaskRequest>) -> Result<Response<()>, Status> {
        unary(request, async |scope, request| Ok(self.tasks.resume(scope.namespace, &request.container_id).await?))
            .await
    }

    async fn list_pids(
        &self,
        request: Request<wire::ListPidsRequest>,
    ) -> Result<Response<wire::ListPidsResponse>, Status> {
        unary(request, async |scope, request| {
            Ok(wire::ListPidsResponse { processes: self.tasks.pids(scope.namespace, &request.container_id).await? })
        })
        .await
    }

    async fn checkpoint(
        &self,
        request: Request<wire::CheckpointTaskRequest>,
    ) -> Result<Response<wire::CheckpointTaskResponse>, Status> {
        unary(request, async |scope, request| {
            let descriptors = self.checkpoints.save(scope, &request.container_id, request.options).await?;
            Ok(wire::CheckpointTaskResponse { descriptors: descriptors.into_iter().map(Into::into).collect() })
        })
        .await
    }

    async fn update(&self, request: Request<wire::UpdateTaskRequest>) -> Result<Response<()>, Status> {
        unary(request, async |scope, request| Ok(self.tasks.update(scope.namespace, request).await?)).await
    }

    async fn metrics(&self, request: Request<wire::MetricsRequest>) -> Result<Response<wire::MetricsResponse>, Status> {
        unary(request, async |scope, request| {
            let filters = Filters::parse(&request.filters)?;
            Ok(wire::MetricsResponse { metrics: self.tasks.metrics(&scope.namespace, &filters).await })
        })
        .await
    }

    async fn wait(&self, request: Request<wire::WaitRequest>) -> Result<Response<wire::WaitResponse>, Status> {
        unary(request, async |scope, request| {
            let ended = tokio::select! {
                ended = self.tasks.wait(scope.namespace, request) => ended,
                // It may be hours until then, and the daemon does not drain for hours.
                () = self.stop.cancelled() => Err(TaskError::Stopping),
            };
            Ok(ended?)
        })
        .await
    }
}
