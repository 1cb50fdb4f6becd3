//! Stopping a container: asked by its signal, then by one that cannot be refused.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use model::error::{Classify as _, Kind};
use proto::convert::time;
use proto::cri as wire;
use proto::services::tasks::v1 as api;
use tracing::{debug, info};

use super::super::record::{self, nanoseconds};
use super::super::spec::signal;
use super::super::state::{Act, Verdict, judge, of_container};
use super::super::{Container, Cri, CriError};
use super::Ended;
use crate::api::Failure;

/// The signal that cannot be refused.
pub(super) const SIGKILL: u32 = 9;
const SIGTERM: u32 = 15;
/// How long a killed container may take to end: longer only if the kernel does not let go of it.
pub(super) const KILLED: Duration = Duration::from_secs(30);
/// The longest time that a container may be given.
const MAX_GRACE: Duration = Duration::from_secs(365 * 24 * 60 * 60);

impl Cri {
    // Boxed: what hears of the end of a container may stop another one.
    pub(in super::super) fn stop_container(
        &self,
        request: wire::StopContainerRequest,
    ) -> BoxFuture<'_, Result<wire::StopContainerResponse, Failure>> {
        Box::pin(async move {
            let grace = Duration::from_secs(u64::try_from(request.timeout).unwrap_or(0)).min(MAX_GRACE);
            match self.container(&request.container_id) {
                Ok(container) => self.stop_within(&container, grace).await?,
                // It is as well stopped as it can be.
                Err(CriError::Missing { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            Ok(wire::StopContainerResponse {})
        })
    }

    /// Ends a container at once, because its pod is stopped. The caller has the pod's turn. It is well if it has ended already.
    pub(in super::super) async fn end_container_of_pod(&self, container: &Arc<Container>) -> Result<(), Failure> {
        self.stop_within(container, Duration::ZERO).await
    }

    /// Stops a container. Its turn must not be held: its end is recorded in it.
    pub(super) async fn stop_within(&self, container: &Arc<Container>, grace: Duration) -> Result<(), Failure> {
        let record = container.record();
        let state = of_container(&record);
        if judge(state, record.removing, Act::Stop) == Verdict::Done && state != wire::ContainerState::ContainerCreated
        {
            return Ok(());
        }
        if state == wire::ContainerState::ContainerCreated {
            // It may be on its way to running.
            drop(self.inner.turns.take(&container.id).await);
            if of_container(&container.record()) != wire::ContainerState::ContainerRunning {
                return Ok(());
            }
        }
        if !grace.is_zero() {
            let signal = signal::number(&record.stop_signal).unwrap_or(SIGTERM);
            info!(ns = super::super::NAMESPACE, container = container.id, signal, ?grace, "stopping a container");
            if !self.signal_container(container, signal).await? || self.container_ends_within(container, grace).await? {
                return Ok(());
            }
        }
        if !self.signal_container(container, SIGKILL).await? || self.container_ends_within(container, KILLED).await? {
            return Ok(());
        }
        let why = format!("container {:?} does not end {KILLED:?} after it was killed", container.id);
        Err(CriError::Deadline(why).into())
    }

    /// Sends a signal; false if the container has ended.
    async fn signal_container(&self, container: &Arc<Container>, signal: u32) -> Result<bool, Failure> {
        let request = api::KillRequest { container_id: container.id.clone(), signal, ..Default::default() };
        match self.inner.tasks.kill(self.inner.namespace.clone(), request).await {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::FailedPrecondition) => {
                debug!(container = container.id, %error, "there is nothing to signal");
                // Its end may be known in a moment, or never.
                if !self.container_ends_within(container, KILLED).await? {
                    return Ok(true);
                }
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for the end of a container and records it; false if it did not end in time.
    async fn container_ends_within(&self, container: &Arc<Container>, limit: Duration) -> Result<bool, Failure> {
        let wait = api::WaitRequest { container_id: container.id.clone(), exec_id: String::new() };
        let waiting = self.inner.tasks.wait(self.inner.namespace.clone(), wait);
        match tokio::time::timeout(limit, waiting).await {
            Err(_) => Ok(false),
            Ok(Ok(api::WaitResponse { exit_status, exited_at })) => {
                let at = exited_at.and_then(|at| time::from_wire(at).ok()).map_or_else(record::now, nanoseconds);
                self.container_ended(container, Ended { code: exit_status, at, pid: 0 }).await;
                Ok(true)
            }
            Ok(Err(error)) if error.kind() == Kind::NotFound => {
                // Whoever deleted the task has the turn until its end is on record.
                let turn = self.inner.turns.take(&container.id).await;
                let running = wire::ContainerState::ContainerRunning;
                let state = of_container(&container.record());
                if state == running || state == wire::ContainerState::ContainerUnknown {
                    self.ended_unseen(container).await;
                    drop(turn);
                    self.told_end(container).await;
                }
                Ok(true)
            }
            Ok(Err(error)) => Err(error.into()),
        }
    }
}
