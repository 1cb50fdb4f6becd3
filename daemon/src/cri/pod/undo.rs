//! Taking a pod apart, as far as it was made: after a failure, after a crash, and at the end of its life.
//!
//! Each step is well if there is nothing to do, so they can be repeated. What cannot be undone is tried again in the background for a
//! while, and told in the log; nothing waits for it for ever.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use model::error::Kind;
use proto::services::tasks::v1::{KillRequest, WaitRequest};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::super::net::{Subject, args, netns};
use super::super::record::{PodPhase, PodRecord};
use super::super::{Cri, CriError, Pod, names};
use crate::api::Failure;
use crate::blocking;
use crate::containers::ContainerError;

/// How long a killed process may take to end.
const KILL_TIME: Duration = Duration::from_secs(10);

/// After how many failures a network is given up when its pod is removed.
const NETWORK_TRIES: u32 = 5;

/// How long to wait between attempts in the background; twice as long after each.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// SIGKILL.
const KILL: u32 = 9;

impl Cri {
    /// Kills the task of a pod or container, if there is one, and deletes it.
    ///
    /// # Errors
    /// It does not end, or its shim does not answer.
    pub(in crate::cri) async fn end_task(&self, id: &str) -> Result<(), Failure> {
        let namespace = &self.inner.namespace;
        let request = KillRequest { container_id: id.to_owned(), signal: KILL, all: true, ..KillRequest::default() };
        match self.inner.tasks.kill(namespace.clone(), request).await.map_err(Failure::from) {
            Ok(()) => {}
            // No task, or its first process has ended.
            Err(failure) if failure.kind() == Kind::NotFound => {}
            Err(failure) => debug!(id, error = failure.message(), "cannot kill a task"),
        }
        let wait = WaitRequest { container_id: id.to_owned(), exec_id: String::new() };
        match timeout(KILL_TIME, self.inner.tasks.wait(namespace.clone(), wait)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                let failure = Failure::from(error);
                if failure.kind() != Kind::NotFound {
                    debug!(id, error = failure.message(), "cannot wait for a task");
                }
            }
            Err(_) => return Err(CriError::Deadline(format!("task {id} does not end although it was killed")).into()),
        }
        match self.inner.tasks.delete(namespace.clone(), id).await.map_err(Failure::from) {
            Err(failure) if failure.kind() != Kind::NotFound => Err(failure),
            _ => Ok(()),
        }
    }

    /// Takes the network of a pod down, and writes down that it is, or why not.
    ///
    /// # Errors
    /// A plugin failed; it can be tried again.
    pub(super) async fn end_network(&self, pod: &Pod) -> Result<(), Failure> {
        let record = pod.record();
        if record.network_down || record.netns.is_empty() {
            return Ok(());
        }
        match self.try_end_network(&pod.id, &record).await {
            Ok(()) => {
                self.change_pod(pod, |record| {
                    record.network_down = true;
                    record.network_error.clear();
                })
                .await?;
                Ok(())
            }
            Err(failure) => {
                let text = failure.message().to_owned();
                self.change_pod(pod, |record| {
                    record.network_error = text;
                    record.network_tries += 1;
                })
                .await?;
                Err(failure)
            }
        }
    }

    /// Asks the plugins whether the network of a pod is what it was; if not, the pod's verbose status says why.
    pub(in crate::cri) async fn check_network(&self, pod: &Arc<Pod>) {
        let record = pod.record();
        let subject = Subject {
            id: pod.id.clone(),
            netns: Some(PathBuf::from(&record.netns)),
            arguments: args::cni_args(&pod.id, &record.metadata()),
        };
        let Err(error) = self.inner.net.check(&subject, &record.networks).await else { return };
        warn!(pod = pod.id, %error, "the network of a pod is not what it was");
        let _turn = self.inner.turns.take(&pod.id).await;
        if pod.record().phase() != PodPhase::Running {
            return;
        }
        let text = error.to_string();
        if let Err(failure) = self.change_pod(pod, |record| record.network_error = text).await {
            debug!(pod = pod.id, error = failure.message(), "that is not recorded");
        }
    }

    /// Takes the network of a pod down. Its namespace goes last, and only if its plugins are done with it.
    async fn try_end_network(&self, id: &str, record: &PodRecord) -> Result<(), Failure> {
        let path = PathBuf::from(&record.netns);
        let at = path.clone();
        let there = blocking::run(move || netns::is_there(&at)).await;
        let subject = Subject {
            id: id.to_owned(),
            netns: there.then(|| path.clone()),
            arguments: args::cni_args(id, &record.metadata()),
        };
        self.inner.net.take_down(&subject, &record.networks).await?;
        blocking::run(move || netns::remove(&path)).await?;
        Ok(())
    }

    /// Undoes a pod that could not be made, or was half made when the daemon ended. The caller has its turn.
    pub(super) async fn undo_pod(&self, pod: &Arc<Pod>) {
        if let Err(failure) = self.take_pod_apart(pod).await {
            warn!(
                pod = pod.id,
                error = failure.message(),
                "a pod that could not be made is not undone yet: it is tried again"
            );
            let (cri, pod) = (self.clone(), Arc::clone(pod));
            self.inner.tracker.spawn(async move { cri.undo_later(&pod).await });
        }
    }

    /// Tries again, until it is undone or the daemon stops. The next one begins where this one ends.
    async fn undo_later(&self, pod: &Arc<Pod>) {
        let mut pause = FIRST_PAUSE;
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.inner.stop.cancelled() => return,
            }
            pause = (pause * 2).min(Duration::from_secs(60));
            let _turn = self.inner.turns.take(&pod.id).await;
            match self.take_pod_apart(pod).await {
                Ok(()) => return,
                Err(failure) => debug!(pod = pod.id, error = failure.message(), "still not undone"),
            }
        }
    }

    /// Takes everything of a pod apart but its containers, and forgets it. The caller has its turn.
    ///
    /// # Errors
    /// A step failed; it can be called again. A network that fails too often is given up, and does not count.
    pub(super) async fn take_pod_apart(&self, pod: &Arc<Pod>) -> Result<(), Failure> {
        self.end_task(&pod.id).await?;
        if let Err(failure) = self.end_network(pod).await {
            let record = pod.record();
            if record.network_tries < NETWORK_TRIES {
                return Err(failure);
            }
            warn!(
                pod = pod.id,
                tries = record.network_tries,
                error = failure.message(),
                "a network is given up: what its plugins keep for the pod may stay behind"
            );
            let path = PathBuf::from(&record.netns);
            blocking::run(move || netns::remove(&path)).await?;
        }
        let record = pod.record();
        let snapshotter = self.inner.settings.snapshotter_of(&record.handler).to_owned();
        self.remove_rootfs(&pod.id, &snapshotter).await?;
        let files = self.files_of_pod(&pod.id);
        let removed = blocking::run(move || files.remove()).await;
        removed.map_err(|error| CriError::Failed(format!("cannot remove the files of the pod: {error}")))?;
        match self.inner.containers.delete(&self.inner.namespace, pod.id.clone()).await {
            Ok(()) | Err(ContainerError::Missing { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        self.inner.index.forget_pod(&pod.id);
        self.inner.names.release(&names::of_pod(&record.metadata()), &pod.id);
        Ok(())
    }

    /// Finds out at the start how a pod is, whose record was just read: half made and half removed ones are taken apart, ends that nobody
    /// saw are recorded.
    pub(in crate::cri) async fn recover_pod(&self, pod: &Arc<Pod>) {
        let _turn = self.inner.turns.take(&pod.id).await;
        match pod.record().phase() {
            PodPhase::Making => self.undo_pod(pod).await,
            PodPhase::Removing => {
                if let Err(failure) = self.remove_pod(pod).await {
                    warn!(
                        pod = pod.id,
                        error = failure.message(),
                        "the removal of a pod is not finished: it is tried again"
                    );
                    let (cri, pod) = (self.clone(), Arc::clone(pod));
                    self.inner.tracker.spawn(async move { cri.remove_later(&pod).await });
                }
            }
            PodPhase::Running => self.recover_running_pod(pod).await,
            PodPhase::Stopped => {}
        }
    }

    async fn remove_later(&self, pod: &Arc<Pod>) {
        let mut pause = FIRST_PAUSE;
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.inner.stop.cancelled() => return,
            }
            pause = (pause * 2).min(Duration::from_secs(60));
            let _turn = self.inner.turns.take(&pod.id).await;
            if self.remove_pod(pod).await.is_ok() {
                return;
            }
        }
    }

    async fn recover_running_pod(&self, pod: &Arc<Pod>) {
        use proto::process::Status;
        use proto::services::tasks::v1::GetRequest;
        let get = GetRequest { container_id: pod.id.clone(), exec_id: String::new() };
        let process = self.inner.tasks.get(self.inner.namespace.clone(), get).await.map_err(Failure::from);
        let ended = match &process {
            Ok(process) => process.status() == Status::Stopped,
            Err(failure) if failure.kind() == Kind::NotFound => true,
            Err(failure) => {
                warn!(
                    pod = pod.id,
                    error = failure.message(),
                    "a pod cannot be asked how it is: it is taken for running"
                );
                false
            }
        };
        if !ended {
            return;
        }
        if let Err(failure) = self.pod_is_stopped(pod).await {
            warn!(pod = pod.id, error = failure.message(), "the end of a pod is not recorded");
        }
    }
}
