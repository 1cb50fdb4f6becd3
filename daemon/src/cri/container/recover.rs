//! Containers as an earlier daemon left them.
//!
//! | on record | its task | then |
//! |---|---|---|
//! | any | any, its pod is gone | removed |
//! | created | none | created |
//! | created | made, not started | the task is discarded: it can be started again |
//! | created | runs, or has ended | running, or ended: the start was not recorded |
//! | running | runs | running |
//! | running | has ended | ended, as its shim says |
//! | running | none | ended, and nobody saw how |
//! | running | its shim does not answer | unknown, until it does |
//! | ended | any | ended, the task is discarded |

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;

use model::error::{Classify as _, Kind};
use proto::convert::time;
use proto::cri as wire;
use proto::process::{Process, Status};
use proto::services::tasks::v1 as api;
use tracing::{info, warn};

use super::super::record::{self, nanoseconds};
use super::super::state::of_container;
use super::super::{Container, Cri, Pod};
use super::{Ended, volumes};
use crate::blocking;

impl Cri {
    /// Finds out at the start how a container is, whose record was just read. It waits for no shim that does not answer. `pod` is
    /// `None` if its pod is gone.
    pub(in super::super) async fn recover_container(&self, container: &Arc<Container>, pod: Option<&Arc<Pod>>) {
        if pod.is_none() {
            if let Err(failure) = self.remove_container_of_pod(container).await {
                warn!(container = container.id, error = failure.message(), "a container without a pod stays");
            }
            return;
        }
        match of_container(&container.record()) {
            wire::ContainerState::ContainerExited => self.discard_task(&container.id).await,
            wire::ContainerState::ContainerCreated => self.container_was_created(container).await,
            wire::ContainerState::ContainerRunning | wire::ContainerState::ContainerUnknown => {
                self.container_was_running(container).await;
            }
        }
    }

    async fn task_of(&self, container: &Container) -> Result<Process, crate::tasks::TaskError> {
        let request = api::GetRequest { container_id: container.id.clone(), exec_id: String::new() };
        self.inner.tasks.get(self.inner.namespace.clone(), request).await
    }

    async fn container_was_created(&self, container: &Arc<Container>) {
        let turn = self.inner.turns.take(&container.id).await;
        let Ok(process) = self.task_of(container).await else { return };
        match process.status() {
            Status::Running | Status::Paused | Status::Pausing | Status::Stopped => {
                let changed = self.change_container(container, |record| {
                    record.started_at = record::now();
                    record.pid = process.pid;
                });
                if let Err(failure) = changed.await {
                    warn!(container = container.id, error = failure.message(), "a start is not on record");
                }
                drop(turn);
                if process.status() == Status::Stopped {
                    self.container_ended(container, ended(&process)).await;
                }
            }
            Status::Created | Status::Unknown => self.discard_task(&container.id).await,
        }
    }

    async fn container_was_running(&self, container: &Arc<Container>) {
        match self.task_of(container).await {
            Ok(process) => match process.status() {
                Status::Stopped => self.container_ended(container, ended(&process)).await,
                Status::Unknown => self.mark_container(container, true, 0),
                Status::Created | Status::Running | Status::Paused | Status::Pausing => {
                    self.mark_container(container, false, process.pid);
                }
            },
            Err(error) if error.kind() == Kind::NotFound => {
                let turn = self.inner.turns.take(&container.id).await;
                if of_container(&container.record()) == wire::ContainerState::ContainerExited {
                    return;
                }
                info!(ns = super::super::NAMESPACE, container = container.id, "a container ended unseen");
                self.ended_unseen(container).await;
                drop(turn);
                self.told_end(container).await;
            }
            Err(error) => {
                warn!(container = container.id, %error, "nobody can say how a container is");
                self.mark_container(container, true, 0);
            }
        }
    }

    /// Whether anybody can say how it is: known in memory alone, since the next daemon asks again.
    fn mark_container(&self, container: &Container, unknown: bool, pid: u32) {
        let mut record = (*container.record()).clone();
        if record.finished_at == 0 {
            record.unknown = unknown;
            record.pid = if pid == 0 { record.pid } else { pid };
            container.set(record);
        }
    }

    /// Removes folders of containers that never came to be. To be called when all records are in the index, before clients are served.
    pub(in super::super) async fn sweep_container_folders(&self) {
        self.sweep_image_volumes().await;
        let known: HashSet<String> =
            self.inner.index.containers().iter().map(|container| container.id.clone()).collect();
        let folder = self.folder_of_containers();
        blocking::run(move || {
            let Ok(entries) = fs::read_dir(&folder) else { return };
            for entry in entries.flatten() {
                let name = entry.file_name();
                if name.to_str().is_some_and(|name| known.contains(name)) {
                    continue;
                }
                if let Err(error) = volumes::remove(&entry.path()) {
                    warn!(folder = %entry.path().display(), %error, "the folder of a container that never was stays");
                }
            }
        })
        .await;
    }
}

fn ended(process: &Process) -> Ended {
    let at = process.exited_at.and_then(|at| time::from_wire(at).ok()).map_or_else(record::now, nanoseconds);
    Ended { code: process.exit_status, at, pid: 0 }
}
