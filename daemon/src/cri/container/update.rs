//! Changing the limits of a container while it waits or runs: in its cgroup first, then on record.

use proto::cri as wire;
use proto::prost_types::Any;
use proto::services::tasks::v1 as api;
use serde_json::{Value, json};
use tracing::warn;

use super::super::record::{CONTAINER_EXTENSION, pack};
use super::super::spec::{self, resources};
use super::super::state::{Act, Verdict, judge, of_container};
use super::super::{Container, Cri, CriError};
use crate::api::Failure;
use crate::api::fields::Path;
use crate::containers;

/// The type of limits in an update of a task (containerd's contract).
const RESOURCES_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

impl Cri {
    pub(in super::super) async fn update_container_resources(
        &self,
        request: wire::UpdateContainerResourcesRequest,
    ) -> Result<wire::UpdateContainerResourcesResponse, Failure> {
        let container = self.container(&request.container_id)?;
        if request.windows.is_some() {
            return Err(CriError::Invalid("resources for Windows make no sense here".into()).into());
        }
        let Some(update) = request.linux else { return Ok(wire::UpdateContainerResourcesResponse {}) };
        let _turn = self.inner.turns.take(&container.id).await;
        let record = container.record();
        let state = of_container(&record);
        if judge(state, record.removing, Act::Update) != Verdict::Go {
            return Err(
                CriError::State(format!("container {:?} is in {} state", container.id, state.as_str_name())).into()
            );
        }
        let old = record.resources.clone().unwrap_or_default();
        let wanted = resources::merged(&old, &update);
        let stored = self.inner.containers.get(&self.inner.namespace, &container.id).await?;
        let spec = stored.record.spec.as_ref().map(|spec| spec.value.as_slice()).unwrap_or_default();
        let mut document: Value = serde_json::from_slice(spec).map_err(|error| {
            CriError::Failed(format!("the specification of container {:?} cannot be read: {error}", container.id))
        })?;
        let host = self.inner.containers_known.host();
        let policy = resources::Policy {
            disable_hugetlb: self.inner.settings.disable_hugetlb && host.hugepage_sizes.is_empty(),
            tolerate_missing_hugetlb: self.inner.settings.tolerate_missing_hugetlb,
            ..resources::Policy::default()
        };
        let mut limits = Value::Object(resources::to_json(&wanted, policy, host)?);
        let pod = self.pod(&record.pod)?;
        self.nri_update(&pod, &container, &mut limits).await?;
        let before = document["linux"]["resources"].clone();
        merge(&mut document["linux"]["resources"], &limits);
        let score = resources::oom_score(wanted.oom_score_adj, policy, host)?;
        document["process"]["oomScoreAdj"] = json!(score);

        if state == wire::ContainerState::ContainerRunning {
            self.update_task(&container, &limits, &request.annotations).await?;
        }
        let mut changed = (*record).clone();
        changed.resources = Some(wanted);
        let stored = self.store_update(&container, stored, &document, &changed).await;
        if let Err(failure) = stored {
            // What is on record must be what is in force.
            if state == wire::ContainerState::ContainerRunning
                && let Err(failure) = self.update_task(&container, &only_limits(&before), &request.annotations).await
            {
                warn!(
                    container = container.id,
                    error = failure.message(),
                    "limits that are not on record stay in force"
                );
            }
            return Err(failure);
        }
        container.set(changed);
        self.nri_post_update(&pod, &container).await;
        Ok(wire::UpdateContainerResourcesResponse {})
    }

    async fn update_task(
        &self,
        container: &Container,
        limits: &Value,
        annotations: &std::collections::BTreeMap<String, String>,
    ) -> Result<(), Failure> {
        let request = api::UpdateTaskRequest {
            container_id: container.id.clone(),
            resources: Some(Any { type_url: RESOURCES_URL.to_owned(), value: limits.to_string().into_bytes() }),
            annotations: annotations.clone(),
        };
        Ok(self.inner.tasks.update(self.inner.namespace.clone(), request).await?)
    }

    async fn store_update(
        &self,
        container: &Container,
        mut stored: containers::Container,
        document: &Value,
        record: &super::super::record::ContainerRecord,
    ) -> Result<(), Failure> {
        let value = document.to_string().into_bytes();
        stored.record.spec = Some(store::record::Any { type_url: spec::SPEC_URL.to_owned(), value });
        stored.record.extensions.insert(CONTAINER_EXTENSION.to_owned(), pack(record));
        let paths = ["spec".to_owned(), format!("extensions.{CONTAINER_EXTENSION}")];
        let paths = paths.iter().map(|path| Path::parse(path)).collect();
        debug_assert_eq!(stored.id, container.id);
        self.inner.containers.update(&self.inner.namespace, stored, Some(paths)).await?;
        Ok(())
    }
}

/// What an update may say: devices are not limits that change.
fn only_limits(resources: &Value) -> Value {
    let mut limits = resources.clone();
    if let Some(limits) = limits.as_object_mut() {
        limits.remove("devices");
    }
    limits
}

/// Puts `new` into `old`, one level into objects; lists are replaced.
fn merge(old: &mut Value, new: &Value) {
    let Some(new) = new.as_object() else { return };
    if !old.is_object() {
        *old = json!({});
    }
    for (key, value) in new {
        match value {
            Value::Object(fields) if old[key].is_object() => {
                for (name, field) in fields {
                    old[key][name] = field.clone();
                }
            }
            other => old[key] = other.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_change_and_the_rest_stays() {
        let mut old = json!({"devices": [1], "memory": {"limit": 1, "swap": 1}, "hugepageLimits": [1]});
        merge(&mut old, &json!({"memory": {"limit": 2}, "cpu": {"shares": 3}, "hugepageLimits": [2]}));
        let expected =
            json!({"devices": [1], "memory": {"limit": 2, "swap": 1}, "cpu": {"shares": 3}, "hugepageLimits": [2]});
        assert_eq!(old, expected);
        assert_eq!(only_limits(&expected).get("devices"), None);
        let mut nothing = Value::Null;
        merge(&mut nothing, &json!({"cpu": {"shares": 3}}));
        assert_eq!(nothing, json!({"cpu": {"shares": 3}}));
    }
}
