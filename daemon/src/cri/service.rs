//! RuntimeService on the wire: each call goes to the method of [`Cri`] with its name, in the file of its area.
//!
//! The streams that stand for lists are made of the same lists, one element a message: how a client merges elements is its own
//! business then.

use std::future::Future;

use futures_util::{StreamExt, stream};
use proto::cri as wire;
use proto::cri::runtime_service_server::RuntimeService;
use tonic::{Request, Response, Status};
use tracing::{Instrument, debug, debug_span};

use super::Cri;
use crate::api::{Failure, Reply};

/// Calls a method, and says in the log how it went.
async fn call<A>(name: &'static str, work: impl Future<Output = Result<A, Failure>>) -> Result<Response<A>, Status> {
    let span = debug_span!("cri", call = name);
    let answer = work.instrument(span.clone()).await;
    if let Err(failure) = &answer {
        span.in_scope(|| debug!(kind = ?failure.kind(), error = failure.message(), "call failed"));
    }
    Ok(Response::new(answer?))
}

/// A list as a stream.
fn one_by_one<I, A>(items: Vec<I>, wrap: impl Fn(I) -> A + Send + 'static) -> Response<Reply<A>>
where
    I: Send + 'static,
    A: Send + 'static,
{
    Response::new(stream::iter(items).map(move |item| Ok(wrap(item))).boxed())
}

#[tonic::async_trait]
impl RuntimeService for Cri {
    async fn version(&self, request: Request<wire::VersionRequest>) -> Result<Response<wire::VersionResponse>, Status> {
        call("Version", Self::version(self, request.into_inner())).await
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<wire::RunPodSandboxRequest>,
    ) -> Result<Response<wire::RunPodSandboxResponse>, Status> {
        call("RunPodSandbox", Self::run_pod_sandbox(self, request.into_inner())).await
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<wire::StopPodSandboxRequest>,
    ) -> Result<Response<wire::StopPodSandboxResponse>, Status> {
        call("StopPodSandbox", Self::stop_pod_sandbox(self, request.into_inner())).await
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<wire::RemovePodSandboxRequest>,
    ) -> Result<Response<wire::RemovePodSandboxResponse>, Status> {
        call("RemovePodSandbox", Self::remove_pod_sandbox(self, request.into_inner())).await
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<wire::PodSandboxStatusRequest>,
    ) -> Result<Response<wire::PodSandboxStatusResponse>, Status> {
        call("PodSandboxStatus", Self::pod_sandbox_status(self, request.into_inner())).await
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<wire::ListPodSandboxRequest>,
    ) -> Result<Response<wire::ListPodSandboxResponse>, Status> {
        call("ListPodSandbox", Self::list_pod_sandbox(self, request.into_inner())).await
    }

    async fn create_container(
        &self,
        request: Request<wire::CreateContainerRequest>,
    ) -> Result<Response<wire::CreateContainerResponse>, Status> {
        call("CreateContainer", Self::create_container(self, request.into_inner())).await
    }

    async fn start_container(
        &self,
        request: Request<wire::StartContainerRequest>,
    ) -> Result<Response<wire::StartContainerResponse>, Status> {
        call("StartContainer", Self::start_container(self, request.into_inner())).await
    }

    async fn stop_container(
        &self,
        request: Request<wire::StopContainerRequest>,
    ) -> Result<Response<wire::StopContainerResponse>, Status> {
        call("StopContainer", Self::stop_container(self, request.into_inner())).await
    }

    async fn remove_container(
        &self,
        request: Request<wire::RemoveContainerRequest>,
    ) -> Result<Response<wire::RemoveContainerResponse>, Status> {
        call("RemoveContainer", Self::remove_container(self, request.into_inner())).await
    }

    async fn list_containers(
        &self,
        request: Request<wire::ListContainersRequest>,
    ) -> Result<Response<wire::ListContainersResponse>, Status> {
        call("ListContainers", Self::list_containers(self, request.into_inner())).await
    }

    async fn container_status(
        &self,
        request: Request<wire::ContainerStatusRequest>,
    ) -> Result<Response<wire::ContainerStatusResponse>, Status> {
        call("ContainerStatus", Self::container_status(self, request.into_inner())).await
    }

    async fn update_container_resources(
        &self,
        request: Request<wire::UpdateContainerResourcesRequest>,
    ) -> Result<Response<wire::UpdateContainerResourcesResponse>, Status> {
        call("UpdateContainerResources", Self::update_container_resources(self, request.into_inner())).await
    }

    async fn reopen_container_log(
        &self,
        request: Request<wire::ReopenContainerLogRequest>,
    ) -> Result<Response<wire::ReopenContainerLogResponse>, Status> {
        call("ReopenContainerLog", Self::reopen_container_log(self, request.into_inner())).await
    }

    async fn exec_sync(
        &self,
        request: Request<wire::ExecSyncRequest>,
    ) -> Result<Response<wire::ExecSyncResponse>, Status> {
        call("ExecSync", Self::exec_sync(self, request.into_inner())).await
    }

    async fn exec(&self, request: Request<wire::ExecRequest>) -> Result<Response<wire::ExecResponse>, Status> {
        call("Exec", Self::exec(self, request.into_inner())).await
    }

    async fn attach(&self, request: Request<wire::AttachRequest>) -> Result<Response<wire::AttachResponse>, Status> {
        call("Attach", Self::attach(self, request.into_inner())).await
    }

    async fn port_forward(
        &self,
        request: Request<wire::PortForwardRequest>,
    ) -> Result<Response<wire::PortForwardResponse>, Status> {
        call("PortForward", Self::port_forward(self, request.into_inner())).await
    }

    async fn container_stats(
        &self,
        request: Request<wire::ContainerStatsRequest>,
    ) -> Result<Response<wire::ContainerStatsResponse>, Status> {
        call("ContainerStats", Self::container_stats(self, request.into_inner())).await
    }

    async fn list_container_stats(
        &self,
        request: Request<wire::ListContainerStatsRequest>,
    ) -> Result<Response<wire::ListContainerStatsResponse>, Status> {
        call("ListContainerStats", Self::list_container_stats(self, request.into_inner())).await
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<wire::PodSandboxStatsRequest>,
    ) -> Result<Response<wire::PodSandboxStatsResponse>, Status> {
        call("PodSandboxStats", Self::pod_sandbox_stats(self, request.into_inner())).await
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<wire::ListPodSandboxStatsRequest>,
    ) -> Result<Response<wire::ListPodSandboxStatsResponse>, Status> {
        call("ListPodSandboxStats", Self::list_pod_sandbox_stats(self, request.into_inner())).await
    }

    async fn update_runtime_config(
        &self,
        request: Request<wire::UpdateRuntimeConfigRequest>,
    ) -> Result<Response<wire::UpdateRuntimeConfigResponse>, Status> {
        call("UpdateRuntimeConfig", Self::update_runtime_config(self, request.into_inner())).await
    }

    async fn status(&self, request: Request<wire::StatusRequest>) -> Result<Response<wire::StatusResponse>, Status> {
        call("Status", Self::status(self, request.into_inner())).await
    }

    async fn checkpoint_container(
        &self,
        request: Request<wire::CheckpointContainerRequest>,
    ) -> Result<Response<wire::CheckpointContainerResponse>, Status> {
        call("CheckpointContainer", Self::checkpoint_container(self, request.into_inner())).await
    }

    async fn list_metric_descriptors(
        &self,
        request: Request<wire::ListMetricDescriptorsRequest>,
    ) -> Result<Response<wire::ListMetricDescriptorsResponse>, Status> {
        call("ListMetricDescriptors", Self::list_metric_descriptors(self, request.into_inner())).await
    }

    async fn list_pod_sandbox_metrics(
        &self,
        request: Request<wire::ListPodSandboxMetricsRequest>,
    ) -> Result<Response<wire::ListPodSandboxMetricsResponse>, Status> {
        call("ListPodSandboxMetrics", Self::list_pod_sandbox_metrics(self, request.into_inner())).await
    }

    async fn runtime_config(
        &self,
        request: Request<wire::RuntimeConfigRequest>,
    ) -> Result<Response<wire::RuntimeConfigResponse>, Status> {
        call("RuntimeConfig", Self::runtime_config(self, request.into_inner())).await
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<wire::UpdatePodSandboxResourcesRequest>,
    ) -> Result<Response<wire::UpdatePodSandboxResourcesResponse>, Status> {
        call("UpdatePodSandboxResources", Self::update_pod_sandbox_resources(self, request.into_inner())).await
    }

    type StreamPodSandboxesStream = Reply<wire::StreamPodSandboxesResponse>;

    async fn stream_pod_sandboxes(
        &self,
        request: Request<wire::StreamPodSandboxesRequest>,
    ) -> Result<Response<Self::StreamPodSandboxesStream>, Status> {
        let list = call(
            "StreamPodSandboxes",
            Self::list_pod_sandbox(self, wire::ListPodSandboxRequest { filter: request.into_inner().filter }),
        )
        .await?;
        Ok(one_by_one(list.into_inner().items, |item| wire::StreamPodSandboxesResponse { pod_sandboxes: vec![item] }))
    }

    type StreamContainersStream = Reply<wire::StreamContainersResponse>;

    async fn stream_containers(
        &self,
        request: Request<wire::StreamContainersRequest>,
    ) -> Result<Response<Self::StreamContainersStream>, Status> {
        let list = call(
            "StreamContainers",
            Self::list_containers(self, wire::ListContainersRequest { filter: request.into_inner().filter }),
        )
        .await?;
        Ok(one_by_one(list.into_inner().containers, |item| wire::StreamContainersResponse { containers: vec![item] }))
    }

    type StreamContainerStatsStream = Reply<wire::StreamContainerStatsResponse>;

    async fn stream_container_stats(
        &self,
        request: Request<wire::StreamContainerStatsRequest>,
    ) -> Result<Response<Self::StreamContainerStatsStream>, Status> {
        let list = call(
            "StreamContainerStats",
            Self::list_container_stats(self, wire::ListContainerStatsRequest { filter: request.into_inner().filter }),
        )
        .await?;
        Ok(one_by_one(list.into_inner().stats, |item| wire::StreamContainerStatsResponse {
            container_stats: vec![item],
        }))
    }

    type StreamPodSandboxStatsStream = Reply<wire::StreamPodSandboxStatsResponse>;

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<wire::StreamPodSandboxStatsRequest>,
    ) -> Result<Response<Self::StreamPodSandboxStatsStream>, Status> {
        let list = call(
            "StreamPodSandboxStats",
            Self::list_pod_sandbox_stats(
                self,
                wire::ListPodSandboxStatsRequest { filter: request.into_inner().filter },
            ),
        )
        .await?;
        Ok(one_by_one(list.into_inner().stats, |item| wire::StreamPodSandboxStatsResponse {
            pod_sandbox_stats: vec![item],
        }))
    }

    type StreamPodSandboxMetricsStream = Reply<wire::StreamPodSandboxMetricsResponse>;

    async fn stream_pod_sandbox_metrics(
        &self,
        _request: Request<wire::StreamPodSandboxMetricsRequest>,
    ) -> Result<Response<Self::StreamPodSandboxMetricsStream>, Status> {
        let list = call(
            "StreamPodSandboxMetrics",
            Self::list_pod_sandbox_metrics(self, wire::ListPodSandboxMetricsRequest {}),
        )
        .await?;
        Ok(one_by_one(list.into_inner().pod_metrics, |item| wire::StreamPodSandboxMetricsResponse {
            pod_sandbox_metrics: vec![item],
        }))
    }

    type GetContainerEventsStream = Reply<wire::ContainerEventResponse>;

    async fn get_container_events(
        &self,
        request: Request<wire::GetEventsRequest>,
    ) -> Result<Response<Self::GetContainerEventsStream>, Status> {
        let events = Self::get_container_events(self, request.into_inner())?;
        Ok(Response::new(crate::api::call::reply(events)))
    }
}
