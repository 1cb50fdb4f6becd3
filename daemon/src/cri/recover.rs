//! The start: pods and containers as an earlier daemon left them.
//!
//! First the records are read into the index and the names taken, which is quick; then each pod and container is asked how it is, each
//! for itself and with a bound, so that a wedged one delays nobody. What was half made is undone.

use std::time::Duration;

use futures_util::StreamExt;
use model::filter::Filters;
use std::ops::ControlFlow;
use tracing::{info, warn};

use super::record::{CONTAINER_EXTENSION, ContainerRecord, POD_EXTENSION, PodPhase, PodRecord, unpack};
use super::{Cri, names};
use crate::blocking;

/// Pods and containers that are looked at together.
const AT_A_TIME: usize = 64;

/// How long the start waits for all of them; who takes longer is done in the background.
const PATIENCE: Duration = Duration::from_secs(5);

impl Cri {
    /// Reads the records, and finds out how everything is. To be awaited before clients are served.
    pub async fn recover(&self) {
        self.listen();
        let (pods, containers) = self.read_records().await;
        let counts = (pods.len(), containers.len());
        for (id, record) in pods {
            if let Ok(name) = self.inner.names.reserve(names::of_pod(&record.metadata()), &id) {
                name.keep();
            }
            self.inner.index.add_pod(&id, record);
        }
        for (id, record) in containers {
            let pod = self.inner.index.known_pod(&record.pod);
            let metadata = record.config.as_ref().and_then(|config| config.metadata.clone()).unwrap_or_default();
            let pod = pod.map(|pod| pod.record().metadata()).unwrap_or_default();
            if let Ok(name) = self.inner.names.reserve(names::of_container(&metadata, &pod), &id) {
                name.keep();
            }
            self.inner.index.add_container(&id, record);
        }
        self.sweep_container_folders().await;
        let cri = self.clone();
        let looking = self.inner.tracker.spawn(async move { cri.look_at_all().await });
        if tokio::time::timeout(PATIENCE, looking).await.is_err() {
            warn!("some pods or containers do not answer: they are looked at while others are served");
        }
        info!(pods = counts.0, containers = counts.1, "pods found again");
    }

    async fn look_at_all(&self) {
        let containers = futures_util::stream::iter(self.inner.index.containers());
        containers
            .for_each_concurrent(AT_A_TIME, async |container| {
                let pod = self.inner.index.known_pod(&container.record().pod);
                // Its pod is being undone or removed, and it with it.
                let pod = pod.filter(|pod| matches!(pod.record().phase(), PodPhase::Running | PodPhase::Stopped));
                self.recover_container(&container, pod.as_ref()).await;
            })
            .await;
        let pods = futures_util::stream::iter(self.inner.index.all_pods());
        pods.for_each_concurrent(AT_A_TIME, async |pod| self.recover_pod(&pod).await).await;
    }

    async fn read_records(&self) -> (Vec<(String, PodRecord)>, Vec<(String, ContainerRecord)>) {
        let (records, namespace) = (self.inner.containers.clone(), self.inner.namespace.clone());
        blocking::run(move || {
            let (mut pods, mut containers) = (Vec::new(), Vec::new());
            let all = Filters::parse::<&str>(&[]).expect("no filter is right");
            let read = records.walk(&namespace, &all, |container| {
                let extensions = &container.record.extensions;
                if let Some(any) = extensions.get(POD_EXTENSION) {
                    match unpack::<PodRecord>(any) {
                        Some(record) => pods.push((container.id, record)),
                        None => warn!(id = container.id, "the record of a pod is damaged"),
                    }
                } else if let Some(any) = extensions.get(CONTAINER_EXTENSION) {
                    match unpack::<ContainerRecord>(any) {
                        Some(record) => containers.push((container.id, record)),
                        None => warn!(id = container.id, "the record of a container is damaged"),
                    }
                }
                ControlFlow::Continue(())
            });
            if let Err(error) = read {
                warn!(error = &error as &dyn std::error::Error, "pods cannot be read");
            }
            (pods, containers)
        })
        .await
    }

    /// Asks the plugins whether the networks of pods are what they were, which is told in the pods' verbose status, and lets them give
    /// back what belongs to no pod any more. In the background: plugins may take their time.
    fn look_at_networks(&self) {
        let cri = self.clone();
        self.inner.tracker.spawn(async move {
            for pod in cri.inner.index.pods() {
                let record = pod.record();
                if record.phase() == PodPhase::Running && !record.netns.is_empty() {
                    cri.check_network(&pod).await;
                }
            }
            let lists = cri.inner.net.lists(None).unwrap_or_default();
            let attachments = || {
                let up = cri.inner.index.all_pods().into_iter().filter(|pod| !pod.record().network_down);
                let of = |pod: std::sync::Arc<super::Pod>| {
                    let networks = pod.record().networks.clone();
                    networks.into_iter().map(move |network| (pod.id.clone(), network.interface))
                };
                up.flat_map(of).collect()
            };
            cri.inner.net.collect(&lists, attachments).await;
        });
    }

    /// Starts what runs beside calls. To be called once, after [`Cri::recover`].
    pub async fn start(&self) {
        self.look_at_networks();
        self.start_nri().await;
        self.start_stats();
        if let Err(failure) = self.start_streaming().await {
            warn!(error = failure.message(), "there is no streaming: exec, attach and port-forward fail");
        }
    }
}
