//! ListPodSandbox and PodSandboxStatus: pods as clients see them, from memory.

use std::collections::BTreeMap;

use proto::cri as wire;
use serde_json::{Value, json};

use super::super::net::netns;
use super::super::record::{PodRecord, now};
use super::super::{Cri, Pod, state};
use crate::api::Failure;
use crate::blocking;

/// Whether `labels` has all that is selected.
pub(in crate::cri) fn selected(labels: &BTreeMap<String, String>, selector: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

impl Cri {
    pub(in crate::cri) async fn list_pod_sandbox(
        &self,
        request: wire::ListPodSandboxRequest,
    ) -> Result<wire::ListPodSandboxResponse, Failure> {
        let filter = request.filter.unwrap_or_default();
        let pods = if filter.id.is_empty() {
            self.inner.index.pods()
        } else {
            // Nothing fits an id that there is not; one that fits several is as good as none here.
            self.inner.index.pod(&filter.id).into_iter().collect()
        };
        let items = pods.iter().filter_map(|pod| {
            let record = pod.record();
            let state = state::of_pod(&record);
            let config = record.config.as_ref()?;
            let wanted = filter.state.is_none_or(|wanted| wanted.state() == state)
                && selected(&config.labels, &filter.label_selector);
            wanted.then(|| wire::PodSandbox {
                id: pod.id.clone(),
                metadata: config.metadata.clone(),
                state: state.into(),
                created_at: record.created_at,
                labels: config.labels.clone(),
                annotations: config.annotations.clone(),
                runtime_handler: record.handler.clone(),
            })
        });
        Ok(wire::ListPodSandboxResponse { items: items.collect() })
    }

    /// The status of a pod, from memory.
    pub(in crate::cri) fn status_of_pod(&self, pod: &Pod) -> wire::PodSandboxStatus {
        let record = pod.record();
        let config = record.config.clone().unwrap_or_default();
        let (first, more) = match record.addresses.split_first() {
            // A pod that is down has given its addresses back.
            Some((first, more)) if !record.network_down => (first.clone(), more),
            _ => (String::new(), &[][..]),
        };
        wire::PodSandboxStatus {
            id: pod.id.clone(),
            metadata: config.metadata,
            state: state::of_pod(&record).into(),
            created_at: record.created_at,
            network: Some(wire::PodSandboxNetworkStatus {
                ip: first,
                additional_ips: more.iter().map(|ip| wire::PodIp { ip: ip.clone() }).collect(),
            }),
            linux: Some(wire::LinuxPodSandboxStatus {
                namespaces: Some(wire::Namespace { options: Some(record.namespaces()) }),
            }),
            labels: config.labels,
            annotations: config.annotations,
            runtime_handler: record.handler.clone(),
        }
    }

    pub(in crate::cri) async fn pod_sandbox_status(
        &self,
        request: wire::PodSandboxStatusRequest,
    ) -> Result<wire::PodSandboxStatusResponse, Failure> {
        let pod = self.pod(&request.pod_sandbox_id)?;
        let containers = self.inner.index.containers_of(&pod.id);
        let info = if request.verbose {
            BTreeMap::from([("info".to_owned(), self.details_of_pod(&pod).await?.to_string())])
        } else {
            BTreeMap::new()
        };
        Ok(wire::PodSandboxStatusResponse {
            status: Some(self.status_of_pod(&pod)),
            info,
            containers_statuses: containers.iter().map(|container| self.status_of_container(container)).collect(),
            timestamp: now(),
        })
    }

    /// What is told on request, for people and tests.
    async fn details_of_pod(&self, pod: &Pod) -> Result<Value, Failure> {
        let record = pod.record();
        let container = self.inner.containers.get(&self.inner.namespace, &pod.id).await?;
        let spec = container.record.spec.as_ref().and_then(|spec| serde_json::from_slice(&spec.value).ok());
        let path = std::path::PathBuf::from(&record.netns);
        let closed = !record.netns.is_empty() && !blocking::run(move || netns::is_there(&path)).await;
        let results: Vec<Value> =
            record.networks.iter().filter_map(|network| serde_json::from_str(&network.result).ok()).collect();
        Ok(json!({
            "pid": record.pid,
            "processStatus": if record.pid == 0 { "deleted" } else { "running" },
            "netNamespaceClosed": closed,
            "netNamespacePath": record.netns,
            "image": container.record.image,
            "snapshotKey": container.record.snapshot_key,
            "snapshotter": container.record.snapshotter,
            "runtimeHandler": record.handler,
            "runtimeType": container.record.runtime.name,
            "runtimeOptions": Value::Null,
            "config": config_json(&record),
            "runtimeSpec": spec.unwrap_or(Value::Null),
            "cniResult": { "Interfaces": interfaces(&results), "Results": results },
            "networkError": record.network_error,
        }))
    }
}

/// The interfaces of results, by name, with their addresses: as others print it.
fn interfaces(results: &[Value]) -> Value {
    let mut all = serde_json::Map::new();
    for result in results {
        for (at, interface) in result["interfaces"].as_array().into_iter().flatten().enumerate() {
            let Some(name) = interface["name"].as_str() else { continue };
            let own = |ip: &&Value| ip["interface"].as_u64() == u64::try_from(at).ok();
            let configs: Vec<Value> = result["ips"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(own)
                .map(|ip| {
                    let address = ip["address"].as_str().unwrap_or_default().split('/').next().unwrap_or_default();
                    json!({ "IP": address, "Gateway": ip["gateway"] })
                })
                .collect();
            let of = json!({ "IPConfigs": configs, "Mac": interface["mac"], "Sandbox": interface["sandbox"] });
            all.insert(name.to_owned(), of);
        }
    }
    all.into()
}

/// What was asked for, as far as people look for it.
fn config_json(record: &PodRecord) -> Value {
    let config = record.config.clone().unwrap_or_default();
    let metadata = config.metadata.unwrap_or_default();
    let linux = config.linux.unwrap_or_default();
    let ports: Vec<Value> = config
        .port_mappings
        .iter()
        .map(|port| json!({ "container_port": port.container_port, "host_port": port.host_port, "host_ip": port.host_ip }))
        .collect();
    let dns = config.dns_config.unwrap_or_default();
    json!({
        "metadata": { "name": metadata.name, "namespace": metadata.namespace, "uid": metadata.uid, "attempt": metadata.attempt },
        "hostname": config.hostname,
        "log_directory": config.log_directory,
        "dns_config": { "servers": dns.servers, "searches": dns.searches, "options": dns.options },
        "port_mappings": ports,
        "labels": config.labels,
        "annotations": config.annotations,
        "linux": { "cgroup_parent": linux.cgroup_parent, "sysctls": linux.sysctls },
    })
}
