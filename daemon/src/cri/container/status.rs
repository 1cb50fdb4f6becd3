//! What clients are told of containers: lists and statuses, all from memory.

use std::collections::BTreeMap;

use model::error::{Classify as _, Kind};
use proto::cri as wire;
use serde_json::{Value, json};

use super::super::record::ContainerRecord;
use super::super::spec::signal;
use super::super::state::of_container;
use super::super::{Container, Cri, CriError};
use crate::api::Failure;

impl Cri {
    pub(in super::super) async fn list_containers(
        &self,
        request: wire::ListContainersRequest,
    ) -> Result<wire::ListContainersResponse, Failure> {
        let filter = request.filter.unwrap_or_default();
        // Ids may be short; one that means nothing means no container.
        let found = match (filter.id.is_empty(), filter.pod_sandbox_id.is_empty()) {
            (false, _) => self.container(&filter.id).into_iter().collect(),
            (true, false) => match self.inner.index.pod(&filter.pod_sandbox_id) {
                Ok(pod) => self.inner.index.containers_of(&pod.id),
                Err(_) => Vec::new(),
            },
            (true, true) => self.inner.index.containers(),
        };
        let containers = found.iter().filter_map(|container| {
            let record = container.record();
            fits(&record, &filter).then(|| listed(container, &record))
        });
        Ok(wire::ListContainersResponse { containers: containers.collect() })
    }

    pub(in super::super) async fn container_status(
        &self,
        request: wire::ContainerStatusRequest,
    ) -> Result<wire::ContainerStatusResponse, Failure> {
        let container = self.container(&request.container_id)?;
        let status = self.status_of_container(&container);
        let info = if request.verbose { self.details_of_container(&container).await? } else { BTreeMap::new() };
        Ok(wire::ContainerStatusResponse { status: Some(status), info })
    }

    /// The status of a container, for events and pod statuses.
    pub(in super::super) fn status_of_container(&self, container: &Container) -> wire::ContainerStatus {
        status(&container.id, &container.record())
    }

    /// What people are told who ask for more.
    async fn details_of_container(&self, container: &Container) -> Result<BTreeMap<String, String>, Failure> {
        let record = container.record();
        let stored = match self.inner.containers.get(&self.inner.namespace, &container.id).await {
            Ok(stored) => Some(stored.record),
            Err(error) if error.kind() == Kind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        let spec = stored.as_ref().and_then(|stored| stored.spec.as_ref());
        let spec: Value = spec.and_then(|spec| serde_json::from_slice(&spec.value).ok()).unwrap_or_default();
        let options = stored.as_ref().and_then(|stored| stored.runtime.options.clone());
        let options = options.map(crate::containers::any_to_wire);
        let options =
            options.and_then(|options| proto::any::unpack::<proto::runc::v1::Options>(&options).ok().flatten());
        let info = json!({
            "sandboxID": record.pod,
            "pid": record.pid,
            "removing": record.removing,
            "snapshotKey": container.id,
            "snapshotter": stored.as_ref().map(|stored| stored.snapshotter.as_str()).unwrap_or_default(),
            "runtimeType": stored.as_ref().map(|stored| stored.runtime.name.as_str()).unwrap_or_default(),
            "runtimeOptions": options.map(|options| json!({
                "binary_name": options.binary_name, "root": options.root, "systemd_cgroup": options.systemd_cgroup,
            })),
            "config": record.config.as_ref().map(config),
            "runtimeSpec": spec,
        });
        Ok([("info".to_owned(), info.to_string())].into())
    }
}

/// A configuration for people, with the names of the wire. Values of environment variables may be secret, but they are in the
/// specification beside it anyway.
fn config(config: &wire::ContainerConfig) -> Value {
    let wire::ContainerConfig { metadata, image, .. } = config;
    let metadata = metadata.clone().unwrap_or_default();
    let image = image.clone().unwrap_or_default();
    json!({
        "metadata": {"name": metadata.name, "attempt": metadata.attempt},
        "image": {"image": image.image, "user_specified_image": image.user_specified_image},
        "command": config.command,
        "args": config.args,
        "working_dir": config.working_dir,
        "labels": config.labels,
        "annotations": config.annotations,
        "log_path": config.log_path,
        "stdin": config.stdin,
        "stdin_once": config.stdin_once,
        "tty": config.tty,
        "mounts": config.mounts.iter().map(|mount| json!({
            "container_path": mount.container_path, "host_path": mount.host_path, "readonly": mount.readonly,
            "propagation": mount.propagation().as_str_name(),
        })).collect::<Vec<_>>(),
    })
}

/// Whether a container is one of those that were asked for.
fn fits(record: &ContainerRecord, filter: &wire::ContainerFilter) -> bool {
    let wire::ContainerFilter { state, pod_sandbox_id, label_selector, .. } = filter;
    let none = BTreeMap::new();
    let labels = record.config.as_ref().map_or(&none, |config| &config.labels);
    state.as_ref().is_none_or(|wanted| wanted.state == of_container(record) as i32)
        && record.pod.starts_with(pod_sandbox_id.as_str())
        && label_selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn listed(container: &Container, record: &ContainerRecord) -> wire::Container {
    let none = wire::ContainerConfig::default();
    let config = record.config.as_ref().unwrap_or(&none);
    wire::Container {
        id: container.id.clone(),
        pod_sandbox_id: record.pod.clone(),
        metadata: config.metadata.clone(),
        image: config.image.clone(),
        image_ref: record.image_id.clone(),
        state: of_container(record).into(),
        created_at: record.created_at,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        image_id: record.image_id.clone(),
    }
}

fn status(id: &str, record: &ContainerRecord) -> wire::ContainerStatus {
    let none = wire::ContainerConfig::default();
    let config = record.config.as_ref().unwrap_or(&none);
    let image = config.image.clone().unwrap_or_default();
    let name = if image.user_specified_image.is_empty() { &image.image } else { &image.user_specified_image };
    wire::ContainerStatus {
        id: id.to_owned(),
        metadata: config.metadata.clone(),
        state: of_container(record).into(),
        created_at: record.created_at,
        started_at: record.started_at,
        finished_at: record.finished_at,
        exit_code: record.exit_code,
        image: Some(wire::ImageSpec { image: name.clone(), ..image }),
        image_ref: record.image_ref.clone(),
        reason: record.reason.clone(),
        message: record.message.clone(),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        mounts: record.mounts.clone(),
        log_path: record.log_path.clone(),
        resources: record.resources.clone().map(|linux| wire::ContainerResources { linux: Some(linux), windows: None }),
        image_id: record.image_id.clone(),
        user: record.user.clone().map(|linux| wire::ContainerUser { linux: Some(linux) }),
        stop_signal: signal::to_wire(&record.stop_signal).into(),
    }
}

/// Refused where the machine cannot: it needs a program that saves processes, and so does the other end.
impl Cri {
    pub(in super::super) async fn checkpoint_container(
        &self,
        request: wire::CheckpointContainerRequest,
    ) -> Result<wire::CheckpointContainerResponse, Failure> {
        self.container(&request.container_id)?;
        Err(CriError::Unimplemented("checkpoints of containers are not made by this version".into()).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(labels: &[(&str, &str)]) -> ContainerRecord {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let config = wire::ContainerConfig { labels, ..Default::default() };
        ContainerRecord { pod: "pod1".into(), config: Some(config), created_at: 1, ..ContainerRecord::default() }
    }

    #[test]
    fn filters_as_a_table() {
        let state = |state: wire::ContainerState| Some(wire::ContainerStateValue { state: state.into() });
        let label = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
        let base = wire::ContainerFilter::default;
        for (filter, expected) in [
            (base(), true),
            (wire::ContainerFilter { state: state(wire::ContainerState::ContainerCreated), ..base() }, true),
            (wire::ContainerFilter { state: state(wire::ContainerState::ContainerRunning), ..base() }, false),
            (wire::ContainerFilter { pod_sandbox_id: "pod1".into(), ..base() }, true),
            (wire::ContainerFilter { pod_sandbox_id: "pod2".into(), ..base() }, false),
            (wire::ContainerFilter { label_selector: label("a", "1"), ..base() }, true),
            (wire::ContainerFilter { label_selector: label("a", "2"), ..base() }, false),
            (wire::ContainerFilter { label_selector: label("b", "1"), ..base() }, false),
        ] {
            assert_eq!(fits(&record(&[("a", "1"), ("c", "3")]), &filter), expected, "{filter:?}");
        }
    }

    #[test]
    fn a_status_says_what_the_user_called_the_image() {
        let mut record = record(&[]);
        let image =
            wire::ImageSpec { image: "sha256:1".into(), user_specified_image: "busybox".into(), ..Default::default() };
        record.config.as_mut().unwrap().image = Some(image);
        record.image_id = "sha256:1".into();
        record.image_ref = "r@sha256:2".into();
        record.stop_signal = "SIGQUIT".into();
        let status = status("id", &record);
        assert_eq!(status.image.unwrap().image, "busybox");
        assert_eq!((status.image_id.as_str(), status.image_ref.as_str()), ("sha256:1", "r@sha256:2"));
        assert_eq!(status.stop_signal, wire::Signal::Sigquit as i32);
    }
}
