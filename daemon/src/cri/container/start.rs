//! Starting a container: its task is made and started, or the container has ended with the error of the start.

use std::sync::Arc;

use proto::convert::mount;
use proto::cri as wire;
use proto::services::tasks::v1 as api;
use tracing::{Instrument as _, debug, info, warn};

use super::super::record::{self, ContainerRecord};
use super::super::state::{Act, Verdict, judge, of_container};
use super::super::{Container, Cri, CriError, Pod};
use super::log;
use crate::api::Failure;
use crate::blocking;
use crate::meta::snapshots::SnapshotName;
use crate::tasks::CreateTask;

/// The exit code of a container that could not be started (containerd's contract).
const NOT_STARTED: i32 = 128;

impl Cri {
    pub(in super::super) async fn start_container(
        &self,
        request: wire::StartContainerRequest,
    ) -> Result<wire::StartContainerResponse, Failure> {
        let container = self.container(&request.container_id)?;
        let cri = self.clone();
        // Half a start would help nobody: it goes on when the client goes away.
        let starting = self.inner.tracker.spawn(async move { cri.start_now(&container).await }.in_current_span());
        starting.await.map_err(|_| CriError::Cancelled)??;
        Ok(wire::StartContainerResponse {})
    }

    async fn start_now(&self, container: &Arc<Container>) -> Result<(), Failure> {
        let turn = self.inner.turns.take(&container.id).await;
        let record = container.record();
        let state = of_container(&record);
        if judge(state, record.removing, Act::Start) != Verdict::Go {
            let state = if record.removing { "being removed" } else { state.as_str_name() };
            return Err(CriError::State(format!("container {:?} is in {state} state", container.id)).into());
        }
        let pod = self.pod(&record.pod)?;
        super::create::ready(&pod)?;
        let started = match self.nri_start(&pod, container).await {
            Ok(()) => self.start_task(container, &record, &pod).await,
            Err(error) => Err(error.into()),
        };
        match started {
            Ok(pid) => {
                let changed = self.change_container(container, |record| {
                    record.started_at = record::now();
                    record.pid = pid;
                });
                changed.await?;
                drop(turn);
                info!(ns = super::super::NAMESPACE, container = container.id, pid, "container started");
                self.happened(wire::ContainerEventType::ContainerStartedEvent, &container.id, &pod.id);
                self.nri_post_start(&pod, container).await;
                Ok(())
            }
            Err(failure) => {
                self.discard_task(&container.id).await;
                let message = failure.message().to_owned();
                let changed = self.change_container(container, |record| {
                    record.finished_at = record::now();
                    record.exit_code = NOT_STARTED;
                    record.reason = "StartError".to_owned();
                    record.message = message;
                });
                changed.await?;
                drop(turn);
                self.happened(wire::ContainerEventType::ContainerStoppedEvent, &container.id, &pod.id);
                Err(failure)
            }
        }
    }

    async fn start_task(&self, container: &Container, record: &ContainerRecord, pod: &Pod) -> Result<u32, Failure> {
        let inner = &self.inner;
        let handler = self.handler(&pod.record().handler)?;
        let name = SnapshotName {
            namespace: inner.namespace.clone(),
            snapshotter: self.snapshotter_of_pod(pod),
            key: container.id.clone(),
        };
        let meta = inner.meta.clone();
        let rootfs = blocking::run(move || meta.snapshot_mounts(&name)).await?;
        let none = wire::ContainerConfig::default();
        let config = record.config.as_ref().unwrap_or(&none);
        let logger = inner.tasks.logger(&handler.runtime_type, &handler.runtime_path).await;
        if config.stdin && logger.is_some() {
            warn!(container = container.id, runtime = handler.runtime_type, "a foreign shim: its input is empty");
        }
        let streams = log::streams(config, &record.log_path, inner.settings.max_log_line, logger.as_deref());
        let task = CreateTask {
            rootfs: mount::to_wire(rootfs),
            stdin: streams.stdin,
            stdout: streams.stdout,
            stderr: streams.stderr,
            terminal: config.tty,
            runtime_path: handler.runtime_path.clone(),
            ..CreateTask::default()
        };
        inner.tasks.create(inner.namespace.clone(), &container.id, task).await?;
        let request = api::StartRequest { container_id: container.id.clone(), exec_id: String::new() };
        Ok(inner.tasks.start(inner.namespace.clone(), request).await?)
    }

    /// Deletes the task of a container, killed first if need be, as far as that is possible.
    pub(super) async fn discard_task(&self, id: &str) {
        let namespace = || self.inner.namespace.clone();
        if self.inner.tasks.socket(&namespace(), id).is_none() {
            return;
        }
        if self.inner.tasks.delete(namespace(), id).await.is_ok() {
            return;
        }
        let kill = api::KillRequest { container_id: id.to_owned(), signal: super::stop::SIGKILL, ..Default::default() };
        if let Err(error) = self.inner.tasks.kill(namespace(), kill).await {
            debug!(container = id, %error, "a task that is discarded cannot be killed");
        }
        let wait = api::WaitRequest { container_id: id.to_owned(), exec_id: String::new() };
        let waited = tokio::time::timeout(super::stop::KILLED, self.inner.tasks.wait(namespace(), wait)).await;
        debug!(container = id, ended = waited.is_ok(), "task discarded");
        if let Err(error) = self.inner.tasks.delete(namespace(), id).await {
            debug!(container = id, %error, "a task that is discarded cannot be deleted");
        }
    }
}
