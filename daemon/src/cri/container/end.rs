//! The end of a container, however it came: its task is deleted, its record says how it ended, and clients are told.

use std::sync::Arc;

use model::error::{Classify as _, Kind};
use proto::cri as wire;
use tracing::{info, warn};

use super::super::record::{self, ContainerRecord};
use super::super::state::of_container;
use super::super::{Container, Cri};
use super::Ended;

/// The code of an end that nobody saw (containerd's contract).
const UNSEEN: i32 = 255;

impl Cri {
    /// The first process of a container ended: its record says so from now on, its task is deleted, and clients are told.
    pub(in super::super) async fn container_ended(&self, container: &Arc<Container>, ended: Ended) {
        let turn = self.inner.turns.take(&container.id).await;
        let record = container.record();
        let state = of_container(&record);
        let other = ended.pid != 0 && record.pid != 0 && ended.pid != record.pid;
        if other || record.started_at == 0 || state == wire::ContainerState::ContainerExited {
            return;
        }
        // The log is whole once the task is deleted: who sees the end can read all of it.
        match self.inner.tasks.delete(self.inner.namespace.clone(), &container.id).await {
            Err(error) if error.kind() != Kind::NotFound => {
                warn!(container = container.id, %error, "the task of an ended container stays");
            }
            _ => {}
        }
        self.record_end(container, |record| {
            let reason = reason(ended.code, record.oom_killed);
            (ended.at, i32::try_from(ended.code).unwrap_or(i32::MAX), reason, String::new())
        })
        .await;
        drop(turn);
        self.told_end(container).await;
    }

    /// Nobody can say any more how a container ended. The caller has its turn.
    pub(super) async fn ended_unseen(&self, container: &Arc<Container>) {
        self.record_end(container, |_| (record::now(), UNSEEN, "Unknown", "its shim is gone".to_owned())).await;
    }

    async fn record_end(
        &self,
        container: &Arc<Container>,
        how: impl FnOnce(&ContainerRecord) -> (i64, i32, &'static str, String),
    ) {
        let changed = self.change_container(container, |record| {
            let (at, code, reason, message) = how(record);
            record.finished_at = at.max(record.started_at).max(1);
            record.exit_code = code;
            record.reason = reason.to_owned();
            record.message = message;
            record.pid = 0;
            record.unknown = false;
        });
        match changed.await {
            Ok(record) => info!(
                ns = super::super::NAMESPACE,
                container = container.id,
                code = record.exit_code,
                reason = record.reason,
                "container ended"
            ),
            Err(failure) => warn!(container = container.id, error = failure.message(), "an end is not on record"),
        }
    }

    pub(super) async fn told_end(&self, container: &Arc<Container>) {
        let pod = container.record().pod.clone();
        self.happened(wire::ContainerEventType::ContainerStoppedEvent, &container.id, &pod);
        if let Ok(pod) = self.pod(&pod) {
            self.nri_stop(&pod, container).await;
        }
    }

    /// The kernel killed a process of a container for memory.
    pub(in super::super) async fn container_out_of_memory(&self, container: &Arc<Container>) {
        let _turn = self.inner.turns.take(&container.id).await;
        if container.record().oom_killed {
            return;
        }
        let changed = self.change_container(container, |record| {
            record.oom_killed = true;
            // The two events come in any order.
            if record.reason == "Error" {
                record.reason = "OOMKilled".to_owned();
            }
        });
        if let Err(failure) = changed.await {
            warn!(container = container.id, error = failure.message(), "a kill for memory is not on record");
        }
    }
}

/// Why it ended, in the words that kubelets know.
fn reason(code: u32, oom_killed: bool) -> &'static str {
    match (code, oom_killed) {
        (0, _) => "Completed",
        (_, true) => "OOMKilled",
        (_, false) => "Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_as_a_table() {
        for (code, oom_killed, expected) in
            [(0, false, "Completed"), (1, false, "Error"), (137, true, "OOMKilled"), (143, false, "Error")]
        {
            assert_eq!(reason(code, oom_killed), expected, "{code} {oom_killed}");
        }
    }
}
