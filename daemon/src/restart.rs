//! The restart monitor: brings containers to the state that their labels ask for, every now and then (containerd's contract).
//!
//! ```text
//! containerd.io/restart.status               running | stopped: what is wanted; without it a container is left alone
//! containerd.io/restart.policy               always (the default) | on-failure[:most] | unless-stopped | no
//! containerd.io/restart.count                how often it was started again, kept here
//! containerd.io/restart.explicitly-stopped   true: a person stopped it
//! containerd.io/restart.loguri               where its output goes
//! ```
//!
//! What to do is decided by one pure function, [`judge`]. A container that cannot be started is tried again at the next round.

use std::ops::ControlFlow;
use std::time::Duration;

use model::filter::Filters;
use model::{Labels, Namespace};
use nix::sys::signal::Signal;
use proto::process::Status;
use proto::services::tasks::v1 as api;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api::Failure;
use crate::api::fields::Path;
use crate::blocking;
use crate::containers::{Container, Containers};
use crate::meta::Meta;
use crate::meta::snapshots::SnapshotName;
use crate::namespaces::Namespaces;
use crate::tasks::{CreateTask, Tasks};

/// What a client finds the monitor by.
pub const CAPABILITIES: [&str; 4] = ["no", "always", "on-failure", "unless-stopped"];

const STATUS: &str = "containerd.io/restart.status";
const POLICY: &str = "containerd.io/restart.policy";
const COUNT: &str = "containerd.io/restart.count";
const STOPPED_BY_HAND: &str = "containerd.io/restart.explicitly-stopped";
const LOG: &str = "containerd.io/restart.loguri";

/// How long a killed task may take to be gone.
const END_TIME: Duration = Duration::from_secs(10);

/// What is to be done about a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Leave,
    /// It is to be started.
    Start,
    /// It is to be stopped.
    Stop,
}

/// What is to be done about a container with these labels, in this state, whose first process ended with that code.
pub fn judge(labels: &Labels, status: Status, exit_status: u32) -> Verdict {
    let label = |name: &str| labels.get(name).map(String::as_str).unwrap_or_default();
    let runs = matches!(status, Status::Running | Status::Paused | Status::Pausing | Status::Created);
    match label(STATUS) {
        // What a shim does not say is not changed.
        _ if status == Status::Unknown => Verdict::Leave,
        "stopped" if runs => Verdict::Stop,
        "running" if !runs => {
            let (name, most) = label(POLICY).split_once(':').unwrap_or((label(POLICY), ""));
            let wanted = match name {
                "" | "always" => true,
                "unless-stopped" => label(STOPPED_BY_HAND) != "true",
                "on-failure" => {
                    let most = most.parse::<u64>().unwrap_or(0);
                    let count = label(COUNT).parse::<u64>().unwrap_or(0);
                    exit_status != 0 && (most == 0 || count < most)
                }
                _ => false,
            };
            if wanted { Verdict::Start } else { Verdict::Leave }
        }
        _ => Verdict::Leave,
    }
}

/// The monitor.
#[derive(Clone)]
pub struct Monitor {
    /// Where the containers are.
    pub containers: Containers,
    /// Where the snapshots are.
    pub meta: Meta,
    /// Where the namespaces are.
    pub namespaces: Namespaces,
    /// What runs.
    pub tasks: Tasks,
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Monitor")
    }
}

impl Monitor {
    /// Looks after the containers every `interval`, until `stop`.
    pub async fn run(self, interval: Duration, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(interval)).await.is_some() {
            if stop.run_until_cancelled(self.round()).await.is_none() {
                return;
            }
        }
    }

    async fn round(&self) {
        let namespaces = match self.namespaces.list().await {
            Ok(namespaces) => namespaces,
            Err(error) => return warn!(%error, "restart monitor cannot list namespaces"),
        };
        for (name, _) in namespaces {
            let Ok(namespace) = Namespace::new(name) else { continue };
            for container in self.marked(namespace.clone()).await {
                let id = container.id.clone();
                if let Err(failure) = self.look_after(&namespace, container).await {
                    warn!(ns = %namespace, container = id, error = failure.message(), "restart monitor: not done");
                }
            }
        }
    }

    /// The containers that have the label.
    async fn marked(&self, namespace: Namespace) -> Vec<Container> {
        let containers = self.containers.clone();
        blocking::run(move || {
            let filters = Filters::parse(&[format!("labels.\"{STATUS}\"")]).expect("the filter is written here");
            let mut found = Vec::new();
            let walked = containers.walk(&namespace, &filters, |container| {
                found.push(container);
                ControlFlow::Continue(())
            });
            if let Err(error) = walked {
                warn!(%error, ns = %namespace, "restart monitor cannot list containers");
            }
            found
        })
        .await
    }

    async fn look_after(&self, namespace: &Namespace, container: Container) -> Result<(), Failure> {
        let id = container.id.clone();
        let request = api::GetRequest { container_id: id.clone(), exec_id: String::new() };
        let (there, status, exit) = match self.tasks.get(namespace.clone(), request).await {
            Ok(process) => (true, process.status(), process.exit_status),
            Err(error) => match Failure::from(error) {
                failure if failure.kind() == model::error::Kind::NotFound => (false, Status::Stopped, 0),
                failure => return Err(failure),
            },
        };
        match judge(&container.record.labels, status, exit) {
            Verdict::Leave => Ok(()),
            Verdict::Stop => {
                info!(ns = %namespace, container = id, "stopping a container that is to be stopped");
                self.end(namespace, &id, true).await
            }
            Verdict::Start => {
                info!(ns = %namespace, container = id, "starting a container that is to run");
                if there {
                    self.end(namespace, &id, false).await?;
                }
                self.count(namespace, &container).await?;
                self.start(namespace, container).await
            }
        }
    }

    /// Kills a task, if it still runs, and removes it.
    async fn end(&self, namespace: &Namespace, id: &str, runs: bool) -> Result<(), Failure> {
        if runs {
            let signal = Signal::SIGKILL as u32;
            let kill = api::KillRequest { container_id: id.to_owned(), exec_id: String::new(), signal, all: true };
            self.tasks.kill(namespace.clone(), kill).await?;
            let wait = api::WaitRequest { container_id: id.to_owned(), exec_id: String::new() };
            // Whoever does not end in time fails to be removed, and that is said.
            let _ = tokio::time::timeout(END_TIME, self.tasks.wait(namespace.clone(), wait)).await;
        }
        self.tasks.delete(namespace.clone(), id).await?;
        Ok(())
    }

    /// Notes one start more, where starts are counted.
    async fn count(&self, namespace: &Namespace, container: &Container) -> Result<(), Failure> {
        let policy = container.record.labels.get(POLICY).map(String::as_str).unwrap_or_default();
        if !policy.starts_with("on-failure") && !container.record.labels.contains_key(COUNT) {
            return Ok(());
        }
        let count = container.record.labels.get(COUNT).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let mut changed = container.clone();
        changed.record.labels.insert(COUNT.to_owned(), (count + 1).to_string());
        let paths = vec![Path::parse(&format!("labels.{COUNT}"))];
        self.containers.update(namespace, changed, Some(paths)).await?;
        Ok(())
    }

    async fn start(&self, namespace: &Namespace, container: Container) -> Result<(), Failure> {
        let Container { id, record } = container;
        let rootfs = if record.snapshot_key.is_empty() {
            Vec::new()
        } else {
            let (meta, namespace) = (self.meta.clone(), namespace.clone());
            let name =
                SnapshotName { namespace, snapshotter: record.snapshotter.clone(), key: record.snapshot_key.clone() };
            let mounts = blocking::run(move || meta.snapshot_mounts(&name)).await?;
            proto::convert::mount::to_wire(mounts)
        };
        let log = record.labels.get(LOG).cloned().unwrap_or_default();
        let task = CreateTask {
            rootfs,
            stdin: String::new(),
            stdout: log.clone(),
            stderr: log,
            terminal: false,
            checkpoint: None,
            options: None,
            runtime_path: String::new(),
            task_api_address: String::new(),
        };
        self.tasks.create(namespace.clone(), &id, task).await?;
        let start = api::StartRequest { container_id: id.clone(), exec_id: String::new() };
        if let Err(error) = self.tasks.start(namespace.clone(), start).await {
            let failure = Failure::from(error);
            // What could not be started is in the way of the next attempt.
            let _ = self.tasks.delete(namespace.clone(), &id).await;
            return Err(failure);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_decide() {
        let labels = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<Labels>()
        };
        use Verdict::{Leave, Start, Stop};
        for (pairs, status, exit, verdict) in [
            (&[][..], Status::Stopped, 1, Leave),
            (&[(STATUS, "running")], Status::Stopped, 0, Start),
            (&[(STATUS, "running")], Status::Running, 0, Leave),
            (&[(STATUS, "running")], Status::Unknown, 0, Leave),
            (&[(STATUS, "stopped")], Status::Running, 0, Stop),
            (&[(STATUS, "stopped")], Status::Stopped, 0, Leave),
            (&[(STATUS, "running"), (POLICY, "no")], Status::Stopped, 1, Leave),
            (&[(STATUS, "running"), (POLICY, "always"), (STOPPED_BY_HAND, "true")], Status::Stopped, 0, Start),
            (&[(STATUS, "running"), (POLICY, "unless-stopped")], Status::Stopped, 0, Start),
            (&[(STATUS, "running"), (POLICY, "unless-stopped"), (STOPPED_BY_HAND, "true")], Status::Stopped, 0, Leave),
            (&[(STATUS, "running"), (POLICY, "on-failure")], Status::Stopped, 0, Leave),
            (&[(STATUS, "running"), (POLICY, "on-failure")], Status::Stopped, 3, Start),
            (&[(STATUS, "running"), (POLICY, "on-failure:2"), (COUNT, "1")], Status::Stopped, 3, Start),
            (&[(STATUS, "running"), (POLICY, "on-failure:2"), (COUNT, "2")], Status::Stopped, 3, Leave),
        ] {
            assert_eq!(judge(&labels(pairs), status, exit), verdict, "{pairs:?} {status:?} {exit}");
        }
    }
}
