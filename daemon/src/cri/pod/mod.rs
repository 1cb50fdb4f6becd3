//! Pods.

use std::sync::Arc;

use proto::cri as wire;

use super::container::Ended;
use super::{Cri, CriError, Pod};
use crate::api::Failure;

fn missing(what: &str) -> Failure {
    CriError::Unimplemented(format!("{what} is not there yet")).into()
}

impl Cri {
    pub(super) async fn run_pod_sandbox(
        &self,
        _r: wire::RunPodSandboxRequest,
    ) -> Result<wire::RunPodSandboxResponse, Failure> {
        Err(missing("RunPodSandbox"))
    }
    pub(super) async fn stop_pod_sandbox(
        &self,
        _r: wire::StopPodSandboxRequest,
    ) -> Result<wire::StopPodSandboxResponse, Failure> {
        Err(missing("StopPodSandbox"))
    }
    pub(super) async fn remove_pod_sandbox(
        &self,
        _r: wire::RemovePodSandboxRequest,
    ) -> Result<wire::RemovePodSandboxResponse, Failure> {
        Err(missing("RemovePodSandbox"))
    }
    pub(super) async fn pod_sandbox_status(
        &self,
        _r: wire::PodSandboxStatusRequest,
    ) -> Result<wire::PodSandboxStatusResponse, Failure> {
        Err(missing("PodSandboxStatus"))
    }
    pub(super) async fn list_pod_sandbox(
        &self,
        _r: wire::ListPodSandboxRequest,
    ) -> Result<wire::ListPodSandboxResponse, Failure> {
        Err(missing("ListPodSandbox"))
    }
    pub(super) async fn update_pod_sandbox_resources(
        &self,
        _r: wire::UpdatePodSandboxResourcesRequest,
    ) -> Result<wire::UpdatePodSandboxResourcesResponse, Failure> {
        Err(missing("UpdatePodSandboxResources"))
    }
    /// The status of a pod, for events too.
    pub(super) fn status_of_pod(&self, _pod: &Pod) -> wire::PodSandboxStatus {
        wire::PodSandboxStatus::default()
    }
    /// The first process of a pod ended.
    pub(super) async fn pod_ended(&self, _pod: &Arc<Pod>, _ended: Ended) {}
    /// Finds out at the start how a pod is.
    pub(super) async fn recover_pod(&self, _pod: &Arc<Pod>) {}
}
