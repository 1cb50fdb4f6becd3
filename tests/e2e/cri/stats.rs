//! Figures of pods and containers, and the metrics that a kubelet passes on.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use harness::cri::{container_config, pod_config};
use harness::{Node, eventually};
use proto::cri as wire;

use super::rig::{Rig, script_config};

/// Metrics that every pod or container has, on cgroup v1 too. (Those of devices need traffic.)
const METRICS: [&str; 36] = [
    "cpu_cfs_periods_total",
    "cpu_cfs_throttled_periods_total",
    "cpu_cfs_throttled_seconds_total",
    "cpu_system_seconds_total",
    "cpu_usage_seconds_total",
    "cpu_user_seconds_total",
    "file_descriptors",
    "fs_inodes_free",
    "fs_inodes_total",
    "fs_limit_bytes",
    "fs_usage_bytes",
    "last_seen",
    "memory_cache",
    "memory_failcnt",
    "memory_failures_total",
    "memory_kernel_usage",
    "memory_mapped_file",
    "memory_max_usage_bytes",
    "memory_rss",
    "memory_swap",
    "memory_usage_bytes",
    "memory_working_set_bytes",
    "network_receive_bytes_total",
    "network_receive_errors_total",
    "network_receive_packets_dropped_total",
    "network_transmit_bytes_total",
    "network_transmit_packets_total",
    "oom_events_total",
    "processes",
    "sockets",
    "spec_cpu_period",
    "spec_cpu_shares",
    "spec_memory_limit_bytes",
    "start_time_seconds",
    "threads",
    "threads_max",
];

fn value(of: Option<wire::UInt64Value>) -> u64 {
    of.map_or(0, |of| of.value)
}

#[test]
fn a_container_has_figures_while_it_runs() -> anyhow::Result<()> {
    let rig = Rig::start()?;
    let pod = rig.pod("figures")?;
    let busy = "head -c 3000000 /dev/zero >/big; while true; do :; done";
    let mut config = script_config("c", busy);
    config.labels = [("app".to_owned(), "x".to_owned())].into();
    let resources = wire::LinuxContainerResources { memory_limit_in_bytes: 64 << 20, ..Default::default() };
    config.linux = Some(wire::LinuxContainerConfig { resources: Some(resources), ..Default::default() });
    let id = rig.run(&pod, config)?;
    let stats = || -> anyhow::Result<wire::ContainerStats> {
        let request = wire::ContainerStatsRequest { container_id: id.clone() };
        rig.ask(rig.cri().container_stats(request))?.stats.context("stats")
    };
    eventually("it is seen to work", || {
        let stats = stats()?;
        let (cpu, memory) = (stats.cpu.context("cpu")?, stats.memory.context("memory")?);
        ensure!(value(cpu.usage_core_nano_seconds) > 100_000_000 && cpu.timestamp > 0, "{cpu:?}");
        ensure!(value(memory.working_set_bytes) > 0 && value(memory.available_bytes) < 64 << 20, "{memory:?}");
        let layer = stats.writable_layer.context("a writable layer")?;
        ensure!(value(layer.inodes_used) > 0 && layer.fs_id.is_some(), "{layer:?}");
        Ok(())
    })?;
    // A rate needs two readings.
    eventually("it uses a good part of a core", || {
        let request = wire::ListContainerStatsRequest { filter: None };
        let all = rig.ask(rig.cri().list_container_stats(request))?.stats;
        let cpu = all.first().and_then(|stats| stats.cpu).context("cpu")?;
        ensure!(value(cpu.usage_nano_cores) > 50_000_000, "{cpu:?}");
        Ok(())
    })?;
    let list = |filter: wire::ContainerStatsFilter| {
        let request = wire::ListContainerStatsRequest { filter: Some(filter) };
        rig.ask(rig.cri().list_container_stats(request)).map(|answer| answer.stats.len())
    };
    let labels = |value: &str| wire::ContainerStatsFilter {
        label_selector: [("app".to_owned(), value.to_owned())].into(),
        ..Default::default()
    };
    ensure!((list(labels("x"))?, list(labels("y"))?) == (1, 0), "labels choose");
    ensure!(list(wire::ContainerStatsFilter { pod_sandbox_id: pod.id, ..Default::default() })? == 1);
    rig.stop(&id, 0)?;
    eventually("it is left out once it has ended", || {
        ensure!(list(wire::ContainerStatsFilter::default())? == 0);
        Ok(())
    })
}

#[test]
fn a_pod_has_figures_of_its_network_and_containers_and_metrics() -> anyhow::Result<()> {
    let node = Node::start()?;
    let config = pod_config("metrics");
    let pod = node.run_pod(&config)?;
    let id = node.run_container(&pod, &config, &container_config("c", &["sleep", "1000"]))?;
    let request = wire::PodSandboxStatsRequest { pod_sandbox_id: pod.clone() };
    let stats =
        node.wait(async { node.pods().pod_sandbox_stats(request).await })?.into_inner().stats.context("stats")?;
    ensure!(stats.attributes.as_ref().is_some_and(|of| of.id == pod), "{stats:?}");
    let linux = stats.linux.context("linux")?;
    let network = linux.network.context("network")?;
    let interface = network.default_interface.context("eth0")?;
    ensure!(interface.name == "eth0" && interface.rx_bytes.is_some(), "{interface:?}");
    ensure!(linux.containers.len() == 1 && linux.cpu.is_some() && linux.process.is_some(), "{:?}", linux.containers);

    let descriptors =
        node.wait(async { node.pods().list_metric_descriptors(wire::ListMetricDescriptorsRequest {}).await })?;
    let descriptors = descriptors.into_inner().descriptors;
    let all = node.wait(async { node.pods().list_pod_sandbox_metrics(wire::ListPodSandboxMetricsRequest {}).await })?;
    let all = all.into_inner().pod_metrics;
    let ours = all.iter().find(|one| one.pod_sandbox_id == pod).context("the pod's metrics")?;
    let container = ours.container_metrics.iter().find(|one| one.container_id == id).context("the container's")?;
    let points: Vec<_> = ours.metrics.iter().chain(&container.metrics).collect();
    let names: BTreeSet<&str> = points.iter().map(|point| point.name.as_str()).collect();
    let missing: Vec<_> = METRICS.iter().filter(|name| !names.contains(format!("container_{name}").as_str())).collect();
    ensure!(missing.is_empty(), "missing: {missing:?}");
    for point in points {
        let descriptor = descriptors.iter().find(|one| one.name == point.name).with_context(|| point.name.clone())?;
        ensure!(descriptor.label_keys.len() == point.label_values.len(), "{point:?}");
    }
    let name = descriptors[0].label_keys.iter().position(|key| key == "pod").context("a label for the pod")?;
    ensure!(container.metrics.iter().all(|point| point.label_values[name] == "metrics"), "the pod is named");
    node.remove_pod(&pod)?;
    Ok(())
}
