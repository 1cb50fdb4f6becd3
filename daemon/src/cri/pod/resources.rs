//! UpdatePodSandboxResources: the kubelet tells what it made of the pod's cgroup, which is its own.

use proto::cri as wire;

use super::super::Cri;
use super::super::CriError;
use super::super::nri::cri_resources;
use super::super::record::PodPhase;
use crate::api::Failure;

impl Cri {
    pub(in crate::cri) async fn update_pod_sandbox_resources(
        &self,
        request: wire::UpdatePodSandboxResourcesRequest,
    ) -> Result<wire::UpdatePodSandboxResourcesResponse, Failure> {
        let wire::UpdatePodSandboxResourcesRequest { pod_sandbox_id, overhead, resources } = request;
        let pod = self.pod(&pod_sandbox_id)?;
        let _turn = self.inner.turns.take(&pod.id).await;
        if pod.record().phase() != PodPhase::Running {
            return Err(CriError::State(format!("sandbox {:?} is not running", pod.id)).into());
        }
        let say = |all: &Option<wire::LinuxContainerResources>| all.as_ref().map(cri_resources);
        self.nri_update_pod(&pod, say(&overhead), say(&resources)).await?;
        self.change_pod(&pod, |record| {
            record.overhead = overhead.clone();
            record.resources = resources.clone();
            if let Some(linux) = record.config.as_mut().and_then(|config| config.linux.as_mut()) {
                linux.overhead = overhead;
                linux.resources = resources;
            }
        })
        .await?;
        self.nri_post_update_pod(&pod).await;
        Ok(wire::UpdatePodSandboxResourcesResponse {})
    }
}
