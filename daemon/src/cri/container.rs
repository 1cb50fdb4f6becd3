//! Containers of pods: their life after they were created, and what clients are told of them.

use std::sync::Arc;

use proto::cri as wire;

use super::{Container, Cri, CriError, Pod};
use crate::api::Failure;

/// How a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// The code or 128 and the signal.
    pub code: u32,
    /// When, in nanoseconds since 1970.
    pub at: i64,
    /// The first process.
    pub pid: u32,
}

fn missing(what: &str) -> Failure {
    CriError::Unimplemented(format!("{what} is not there yet")).into()
}

impl Cri {
    pub(super) async fn create_container(
        &self,
        _request: wire::CreateContainerRequest,
    ) -> Result<wire::CreateContainerResponse, Failure> {
        Err(missing("CreateContainer"))
    }

    pub(super) async fn start_container(
        &self,
        _request: wire::StartContainerRequest,
    ) -> Result<wire::StartContainerResponse, Failure> {
        Err(missing("StartContainer"))
    }

    pub(super) async fn stop_container(
        &self,
        _request: wire::StopContainerRequest,
    ) -> Result<wire::StopContainerResponse, Failure> {
        Err(missing("StopContainer"))
    }

    pub(super) async fn remove_container(
        &self,
        _request: wire::RemoveContainerRequest,
    ) -> Result<wire::RemoveContainerResponse, Failure> {
        Err(missing("RemoveContainer"))
    }

    pub(super) async fn list_containers(
        &self,
        _request: wire::ListContainersRequest,
    ) -> Result<wire::ListContainersResponse, Failure> {
        Err(missing("ListContainers"))
    }

    pub(super) async fn container_status(
        &self,
        _request: wire::ContainerStatusRequest,
    ) -> Result<wire::ContainerStatusResponse, Failure> {
        Err(missing("ContainerStatus"))
    }

    pub(super) async fn update_container_resources(
        &self,
        _request: wire::UpdateContainerResourcesRequest,
    ) -> Result<wire::UpdateContainerResourcesResponse, Failure> {
        Err(missing("UpdateContainerResources"))
    }

    pub(super) async fn reopen_container_log(
        &self,
        _request: wire::ReopenContainerLogRequest,
    ) -> Result<wire::ReopenContainerLogResponse, Failure> {
        Err(missing("ReopenContainerLog"))
    }

    pub(super) async fn checkpoint_container(
        &self,
        _request: wire::CheckpointContainerRequest,
    ) -> Result<wire::CheckpointContainerResponse, Failure> {
        Err(missing("CheckpointContainer"))
    }

    /// The status of a container, for events and pod statuses.
    pub(super) fn status_of_container(&self, _container: &Container) -> wire::ContainerStatus {
        wire::ContainerStatus::default()
    }

    /// The first process of a container ended: its record says so from now on, its task is deleted, and clients are told.
    pub(super) async fn container_ended(&self, _container: &Arc<Container>, _ended: Ended) {}

    /// The kernel killed a process of a container for memory.
    pub(super) async fn container_out_of_memory(&self, _container: &Arc<Container>) {}

    /// Ends a container at once, because its pod is stopped. The caller has the pod's turn. It is well if it has ended already.
    pub(super) async fn end_container_of_pod(&self, _container: &Arc<Container>) -> Result<(), Failure> {
        Ok(())
    }

    /// Removes an ended container, because its pod is removed. The caller has the pod's turn.
    pub(super) async fn remove_container_of_pod(&self, _container: &Arc<Container>) -> Result<(), Failure> {
        Ok(())
    }

    /// Finds out at the start how a container is, whose record was just read: half made ones are undone, ends that nobody saw
    /// are recorded. It must not wait for a shim that does not answer. `pod` is `None` if its pod is gone.
    pub(super) async fn recover_container(&self, _container: &Arc<Container>, _pod: Option<&Arc<Pod>>) {}
}
