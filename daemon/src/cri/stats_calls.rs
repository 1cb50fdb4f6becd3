//! Figures as calls: what containers and pods use, asked of [`super::stats`].

use proto::cri as wire;

use super::{Cri, CriError, Settings};
use crate::api::Failure;

/// Samples of what containers use.
#[derive(Debug)]
pub struct Stats {}

impl Stats {
    /// No samples yet.
    pub fn new(_settings: &Settings) -> Self {
        Self {}
    }
}

fn missing(what: &str) -> Failure {
    CriError::Unimplemented(format!("{what} is not there yet")).into()
}

impl Cri {
    pub(super) async fn container_stats(
        &self,
        _request: wire::ContainerStatsRequest,
    ) -> Result<wire::ContainerStatsResponse, Failure> {
        Err(missing("ContainerStats"))
    }

    pub(super) async fn list_container_stats(
        &self,
        _request: wire::ListContainerStatsRequest,
    ) -> Result<wire::ListContainerStatsResponse, Failure> {
        Err(missing("ListContainerStats"))
    }

    pub(super) async fn pod_sandbox_stats(
        &self,
        _request: wire::PodSandboxStatsRequest,
    ) -> Result<wire::PodSandboxStatsResponse, Failure> {
        Err(missing("PodSandboxStats"))
    }

    pub(super) async fn list_pod_sandbox_stats(
        &self,
        _request: wire::ListPodSandboxStatsRequest,
    ) -> Result<wire::ListPodSandboxStatsResponse, Failure> {
        Err(missing("ListPodSandboxStats"))
    }

    pub(super) async fn list_metric_descriptors(
        &self,
        _request: wire::ListMetricDescriptorsRequest,
    ) -> Result<wire::ListMetricDescriptorsResponse, Failure> {
        Err(missing("ListMetricDescriptors"))
    }

    pub(super) async fn list_pod_sandbox_metrics(
        &self,
        _request: wire::ListPodSandboxMetricsRequest,
    ) -> Result<wire::ListPodSandboxMetricsResponse, Failure> {
        Err(missing("ListPodSandboxMetrics"))
    }

    /// Starts what samples in the background. Called once.
    pub(super) fn start_stats(&self) {}
}
