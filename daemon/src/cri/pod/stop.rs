//! StopPodSandbox and RemovePodSandbox, and what happens when a first process ends by itself.

use std::sync::Arc;

use futures_util::future::try_join_all;
use proto::cri as wire;
use tracing::{info, warn};

use super::super::container::Ended;
use super::super::record::{PodPhase, now};
use super::super::{Cri, CriError, Pod};
use crate::api::Failure;
use crate::blocking;

impl Cri {
    /// Stops a pod. One that is not there has been stopped.
    pub(in crate::cri) async fn stop_pod_sandbox(
        &self,
        request: wire::StopPodSandboxRequest,
    ) -> Result<wire::StopPodSandboxResponse, Failure> {
        let Some(pod) = self.there(&request.pod_sandbox_id)? else { return Ok(wire::StopPodSandboxResponse {}) };
        // It goes on if the client goes away: half stopped is of no use to anybody.
        let cri = self.clone();
        let stopping = self.inner.tracker.spawn(async move {
            let _turn = cri.inner.turns.take(&pod.id).await;
            // It may have been removed meanwhile.
            if cri.inner.index.pod(&pod.id).is_err() {
                return Ok(());
            }
            cri.stop_pod(&pod).await
        });
        stopping.await.map_err(|_| CriError::Failed("the daemon is stopping".into()))??;
        Ok(wire::StopPodSandboxResponse {})
    }

    /// Removes a pod with its containers. One that is not there has been removed.
    pub(in crate::cri) async fn remove_pod_sandbox(
        &self,
        request: wire::RemovePodSandboxRequest,
    ) -> Result<wire::RemovePodSandboxResponse, Failure> {
        let Some(pod) = self.there(&request.pod_sandbox_id)? else { return Ok(wire::RemovePodSandboxResponse {}) };
        let cri = self.clone();
        let removing = self.inner.tracker.spawn(async move {
            let _turn = cri.inner.turns.take(&pod.id).await;
            if cri.inner.index.pod(&pod.id).is_err() {
                return Ok(());
            }
            cri.remove_pod(&pod).await
        });
        removing.await.map_err(|_| CriError::Failed("the daemon is stopping".into()))??;
        Ok(wire::RemovePodSandboxResponse {})
    }

    /// A pod, or `None` if there is none of that id.
    fn there(&self, id: &str) -> Result<Option<Arc<Pod>>, CriError> {
        match self.pod(id) {
            Ok(pod) => Ok(Some(pod)),
            Err(CriError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Ends everything that runs in a pod, and its network. The caller has its turn.
    async fn stop_pod(&self, pod: &Arc<Pod>) -> Result<(), Failure> {
        let containers = self.inner.index.containers_of(&pod.id);
        try_join_all(containers.iter().map(|container| self.end_container_of_pod(container))).await?;
        if pod.record().phase() == PodPhase::Running {
            self.nri_stop_pod(pod).await;
        }
        self.end_task(&pod.id).await?;
        self.pod_is_stopped(pod).await?;
        self.end_network(pod).await?;
        let files = self.files_of_pod(&pod.id);
        let unmounted = blocking::run(move || files.unmount()).await;
        unmounted.map_err(|error| CriError::Failed(format!("cannot unmount the shared memory of the pod: {error}")))?;
        Ok(())
    }

    /// Writes down that the first process of a pod does not run any more, and tells it, once.
    pub(super) async fn pod_is_stopped(&self, pod: &Arc<Pod>) -> Result<(), Failure> {
        if pod.record().phase() != PodPhase::Running {
            return Ok(());
        }
        self.change_pod(pod, |record| {
            record.phase = PodPhase::Stopped.into();
            record.pid = 0;
            record.stopped_at = now();
        })
        .await?;
        info!(pod = pod.id, "pod stopped");
        self.happened(wire::ContainerEventType::ContainerStoppedEvent, &pod.id, &pod.id);
        Ok(())
    }

    /// Removes a pod. The caller has its turn.
    pub(super) async fn remove_pod(&self, pod: &Arc<Pod>) -> Result<(), Failure> {
        let containers = self.inner.index.containers_of(&pod.id);
        try_join_all(containers.iter().map(|container| self.end_container_of_pod(container))).await?;
        if pod.record().phase() == PodPhase::Running {
            self.nri_stop_pod(pod).await;
        }
        self.end_task(&pod.id).await?;
        self.pod_is_stopped(pod).await?;
        if pod.record().phase() != PodPhase::Removing {
            self.change_pod(pod, |record| record.phase = PodPhase::Removing.into()).await?;
        }
        try_join_all(containers.iter().map(|container| self.remove_container_of_pod(container))).await?;
        self.nri_remove_pod(pod).await;
        self.happened(wire::ContainerEventType::ContainerDeletedEvent, &pod.id, &pod.id);
        self.take_pod_apart(pod).await?;
        info!(pod = pod.id, "pod removed");
        Ok(())
    }

    /// The first process of a pod ended, by whoever's doing. Its containers go on, and so does its network, until the pod is stopped.
    pub(in crate::cri) async fn pod_ended(&self, pod: &Arc<Pod>, _ended: Ended) {
        let _turn = self.inner.turns.take(&pod.id).await;
        if pod.record().phase() != PodPhase::Running {
            return;
        }
        if let Err(failure) = self.pod_is_stopped(pod).await {
            warn!(pod = pod.id, error = failure.message(), "the end of a pod is not recorded");
            return;
        }
        // Its shim is of no use any more.
        if let Err(failure) = self.end_task(&pod.id).await {
            warn!(pod = pod.id, error = failure.message(), "the ended task of a pod is not deleted");
        }
    }
}
