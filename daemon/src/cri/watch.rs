//! Listens to what happens to tasks of `k8s.io`, and passes it on to pods and containers.
//!
//! Ends are passed on one after the other for one id, at the same time for different ones. If this listener is ever too slow for the
//! bus, which has a bound, it looks at everything again.

use futures_util::StreamExt;
use model::filter::Filters;
use proto::convert::time;
use proto::events::{TaskExit, TaskOom};
use proto::types::Envelope;
use tracing::{debug, warn};

use super::container::Ended;
use super::record::nanoseconds;
use super::{Cri, NAMESPACE};
use crate::events::Ended as Over;

/// What is listened to: more than is needed, since after a restart events of tasks are held back until somebody listens for each of
/// them, those included that come of what we do ourselves.
const TOPICS: &str = "^/tasks/";

impl Cri {
    /// Recovers nothing, listens from now on: ends that come in are passed on until the daemon stops. To be called before
    /// [`Cri::recover`], so that nothing falls between the two.
    pub(super) fn listen(&self) {
        let cri = self.clone();
        let filters =
            Filters::parse(&[format!("namespace=={NAMESPACE},topic~={TOPICS:?}")]).expect("our own filters are right");
        self.inner.tracker.spawn(async move {
            loop {
                let mut subscription = cri.inner.bus.subscribe(filters.clone());
                let over = loop {
                    match subscription.next().await {
                        Ok(envelope) => cri.heard(&envelope),
                        Err(over) => break over,
                    }
                };
                match over {
                    Over::Stopping => return,
                    Over::TooSlow => {
                        warn!("too much happened at once: every pod and container is looked at again");
                        cri.look_again().await;
                    }
                }
            }
        });
    }

    /// Takes in one event. What it means is found out in the background, so that no other event waits.
    fn heard(&self, envelope: &Envelope) {
        let Some(event) = &envelope.event else { return };
        if let Ok(Some(exit)) = proto::any::unpack::<TaskExit>(event) {
            // Only the end of the first process ends a container.
            if exit.id != exit.container_id {
                return;
            }
            let at =
                exit.exited_at.and_then(|at| time::from_wire(at).ok()).map_or_else(super::record::now, nanoseconds);
            let ended = Ended { code: exit.exit_status, at, pid: exit.pid };
            let (cri, id) = (self.clone(), exit.container_id);
            self.inner.tracker.spawn(async move { cri.ended(&id, ended).await });
        } else if let Ok(Some(oom)) = proto::any::unpack::<TaskOom>(event) {
            let (cri, id) = (self.clone(), oom.container_id);
            self.inner.tracker.spawn(async move {
                if let Ok(container) = cri.inner.index.container(&id) {
                    cri.container_out_of_memory(&container).await;
                }
            });
        }
    }

    /// The task of a pod or container ended.
    async fn ended(&self, id: &str, ended: Ended) {
        if let Some(container) = self.inner.index.known_container(id) {
            self.container_ended(&container, ended).await;
        } else if let Some(pod) = self.inner.index.known_pod(id) {
            self.pod_ended(&pod, ended).await;
        } else {
            debug!(id, "the end of a task that is none of ours");
        }
    }

    /// Looks at all tasks, for ends that were not heard.
    async fn look_again(&self) {
        let pods = futures_util::stream::iter(self.inner.index.all_pods());
        pods.for_each_concurrent(64, async |pod| self.recover_pod(&pod).await).await;
        let containers = futures_util::stream::iter(self.inner.index.containers());
        containers
            .for_each_concurrent(64, async |container| {
                let pod = self.inner.index.pod(&container.record().pod).ok();
                self.recover_container(&container, pod.as_ref()).await;
            })
            .await;
    }
}
