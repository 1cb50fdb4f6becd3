//! Removing a container: stopped if it runs, then everything of it, its record last.

use std::sync::Arc;
use std::time::Duration;

use model::error::{Classify as _, Kind};
use proto::cri as wire;
use tracing::{Instrument as _, info};

use super::super::{Container, Cri, CriError, names};
use super::volumes;
use crate::api::Failure;
use crate::blocking;

impl Cri {
    pub(in super::super) async fn remove_container(
        &self,
        request: wire::RemoveContainerRequest,
    ) -> Result<wire::RemoveContainerResponse, Failure> {
        match self.container(&request.container_id) {
            Ok(container) => {
                let cri = self.clone();
                let removing = async move { cri.remove_container_of_pod(&container).await };
                self.inner.tracker.spawn(removing.in_current_span()).await.map_err(|_| CriError::Cancelled)??;
            }
            // It is as well removed as it can be.
            Err(CriError::Missing { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(wire::RemoveContainerResponse {})
    }

    /// Removes a container, because its pod is removed, or because it was asked for. It is ended first if it runs.
    pub(in super::super) async fn remove_container_of_pod(&self, container: &Arc<Container>) -> Result<(), Failure> {
        self.stop_within(container, Duration::ZERO).await?;
        let _turn = self.inner.turns.take(&container.id).await;
        if !self.inner.index.containers_of(&container.record().pod).iter().any(|known| Arc::ptr_eq(known, container)) {
            // Somebody else has removed it meanwhile.
            return Ok(());
        }
        // Nothing is done with it from now on. A crash leaves a container that has ended, and can be removed again.
        let mut record = (*container.record()).clone();
        record.removing = true;
        let record = container.set(record);
        let removed = self.remove_parts(container).await;
        if removed.is_err() {
            let mut record = (*record).clone();
            record.removing = false;
            container.set(record);
        }
        removed
    }

    async fn remove_parts(&self, container: &Arc<Container>) -> Result<(), Failure> {
        let record = container.record();
        let id = &container.id;
        self.discard_task(id).await;
        let namespace = &self.inner.namespace;
        let snapshotter = match self.inner.containers.get(namespace, id).await {
            Ok(stored) => stored.record.snapshotter,
            Err(error) if error.kind() == Kind::NotFound => self.inner.settings.snapshotter.clone(),
            Err(error) => return Err(error.into()),
        };
        let pod = self.inner.index.known_pod(&record.pod);
        if let Some(pod) = &pod {
            self.nri_remove(pod, container).await;
        }
        self.remove_rootfs(id, &snapshotter).await?;
        let folder = self.folder_of_container(id);
        blocking::run(move || volumes::remove(&folder))
            .await
            .map_err(|error| CriError::Failed(format!("cannot remove the folder of container {id:?}: {error}")))?;
        match self.inner.containers.delete(namespace, id.clone()).await {
            Err(error) if error.kind() != Kind::NotFound => return Err(error.into()),
            _ => {}
        }
        self.happened(wire::ContainerEventType::ContainerDeletedEvent, id, &record.pod);
        self.inner.index.forget_container(id);
        self.release_image_volumes(&record.pod, &snapshotter, &record.image_volumes).await;
        let metadata = record.config.as_ref().and_then(|config| config.metadata.clone()).unwrap_or_default();
        let pod_metadata = pod.map(|pod| pod.record().metadata()).unwrap_or_default();
        self.inner.names.release(&names::of_container(&metadata, &pod_metadata), id);
        info!(ns = super::super::NAMESPACE, container = id, "container removed");
        Ok(())
    }
}
