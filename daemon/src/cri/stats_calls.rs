//! Figures as calls: what containers and pods use, asked of [`super::stats`].
//!
//! Where the cgroup of a container is, its first process says once (`/proc/<pid>/cgroup`, cgroups(7)): that is true for every
//! cgroup driver and every runtime. What a writable layer holds is counted at most every ten seconds, and a list waits only a
//! moment for it: a layer that takes longer has its figure in the next list.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::{StreamExt, stream};
use model::snapshot::Usage;
use proto::cri as wire;
use wire::{MetricType, UInt64Value};

use super::record::{ContainerRecord, nanoseconds};
use super::state::{of_container, of_pod};
use super::stats::{
    BASE_LABELS, Collector, Detail, Disk, FAMILIES, Pass, Point, Sample, Stall, Subject, Target, interfaces, points,
    processes,
};
use super::{Container, Cri, CriError, Pod, Settings};
use crate::api::Failure;
use crate::blocking;
use crate::meta::snapshots::SnapshotName;

/// Where cgroups are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";
/// Where processes are shown.
const PROC: &str = "/proc";
/// The interface that is the pod's own.
const DEFAULT_INTERFACE: &str = "eth0";
/// How long the size of a layer is good for.
const LAYER_FRESH: Duration = Duration::from_secs(10);
/// How long a list waits for sizes of layers.
const LAYER_PATIENCE: Duration = Duration::from_millis(200);
/// Layers that are counted at a time.
const LAYERS_AT_ONCE: usize = 4;

/// Samples of what containers use.
#[derive(Debug)]
pub struct Stats {
    collector: Arc<Collector>,
    /// The cgroups of first processes, by their pids.
    cgroups: Mutex<HashMap<String, (u32, PathBuf)>>,
    /// The sizes of writable layers.
    layers: Mutex<HashMap<String, (Instant, SystemTime, Usage)>>,
}

impl Stats {
    /// No samples yet.
    pub fn new(_settings: &Settings) -> Self {
        Self { collector: Arc::new(Collector::new(CGROUPS)), cgroups: Mutex::default(), layers: Mutex::default() }
    }

    /// The cgroup of a process, which belongs to `id`.
    fn cgroup(&self, id: &str, pid: u32) -> Option<PathBuf> {
        let mut known = self.cgroups.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, path)) = known.get(id)
            && *of == pid
        {
            return Some(path.clone());
        }
        let text = std::fs::read_to_string(Path::new(PROC).join(pid.to_string()).join("cgroup")).ok()?;
        // A pid that was given to somebody else meanwhile is in a cgroup of another name.
        let path = cgroup_of(&text, self.collector.unified()).filter(|path| path.contains(id))?;
        known.insert(id.to_owned(), (pid, path.into()));
        known.get(id).map(|(_, path)| path.clone())
    }

    /// Forgets those that are no more.
    fn keep(&self, known: impl Fn(&str) -> bool) {
        self.cgroups.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| known(id));
        self.layers.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| known(id));
    }

    fn layer(&self, id: &str) -> Option<(Instant, SystemTime, Usage)> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner).get(id).copied()
    }
}

/// The line of the hierarchy that figures are read from.
fn cgroup_of(text: &str, unified: bool) -> Option<&str> {
    text.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let wanted = if unified { controllers.is_empty() } else { controllers.split(',').any(|name| name == "memory") };
        wanted.then_some(path)
    })
}

/// A pod whose first process runs, with its cgroup.
fn pod_cgroup(cgroup: PathBuf, parent: &str) -> PathBuf {
    // The figures of a pod are those of its parent cgroup, which holds its containers too; without one only the first process is known.
    match (parent.is_empty(), cgroup.parent()) {
        (false, Some(above)) => above.to_owned(),
        _ => cgroup,
    }
}

impl Cri {
    pub(super) async fn container_stats(
        &self,
        request: wire::ContainerStatsRequest,
    ) -> Result<wire::ContainerStatsResponse, Failure> {
        let container = self.container(&request.container_id)?;
        self.count_layers(vec![container.clone()], None).await;
        let cri = self.clone();
        let of = container.clone();
        let sample = blocking::run(move || cri.inner.stats.collector.one(&cri.target(&of)?)).await;
        let stats = self.stats_of(&container, sample.as_ref());
        Ok(wire::ContainerStatsResponse { stats: Some(stats) })
    }

    pub(super) async fn list_container_stats(
        &self,
        request: wire::ListContainerStatsRequest,
    ) -> Result<wire::ListContainerStatsResponse, Failure> {
        let filter = request.filter.unwrap_or_default();
        let mut wanted = self.running();
        wanted.retain(|container| {
            let record = container.record();
            (filter.id.is_empty() || container.id.starts_with(&filter.id))
                && (filter.pod_sandbox_id.is_empty() || record.pod.starts_with(&filter.pod_sandbox_id))
                && filter.label_selector.iter().all(|(key, value)| labels(&record).get(key) == Some(value))
        });
        let pass = self.pass(Detail::Stats).await;
        self.count_layers(wanted.clone(), Some(LAYER_PATIENCE)).await;
        let one = |container: &Arc<Container>| Some(self.stats_of(container, Some(pass.samples.get(&container.id)?)));
        Ok(wire::ListContainerStatsResponse { stats: wanted.iter().filter_map(one).collect() })
    }

    pub(super) async fn pod_sandbox_stats(
        &self,
        request: wire::PodSandboxStatsRequest,
    ) -> Result<wire::PodSandboxStatsResponse, Failure> {
        let pod = self.pod(&request.pod_sandbox_id)?;
        if of_pod(&pod.record()) != wire::PodSandboxState::SandboxReady {
            return Err(CriError::State(format!("sandbox {:?} is not running", pod.id)).into());
        }
        let pass = self.pass(Detail::Stats).await;
        self.count_layers(self.inner.index.containers_of(&pod.id), Some(LAYER_PATIENCE)).await;
        let cri = self.clone();
        let stats = blocking::run(move || cri.stats_of_pod(&pod, &pass)).await;
        Ok(wire::PodSandboxStatsResponse { stats: Some(stats) })
    }

    pub(super) async fn list_pod_sandbox_stats(
        &self,
        request: wire::ListPodSandboxStatsRequest,
    ) -> Result<wire::ListPodSandboxStatsResponse, Failure> {
        let filter = request.filter.unwrap_or_default();
        let mut pods = self.inner.index.pods();
        pods.retain(|pod| {
            let record = pod.record();
            let labels = record.config.as_ref().map(|config| &config.labels);
            of_pod(&record) == wire::PodSandboxState::SandboxReady
                && (filter.id.is_empty() || pod.id.starts_with(&filter.id))
                && filter.label_selector.iter().all(|(key, value)| labels.and_then(|all| all.get(key)) == Some(value))
        });
        let pass = self.pass(Detail::Stats).await;
        self.count_layers(self.running(), Some(LAYER_PATIENCE)).await;
        let cri = self.clone();
        let stats = blocking::run(move || pods.iter().map(|pod| cri.stats_of_pod(pod, &pass)).collect()).await;
        Ok(wire::ListPodSandboxStatsResponse { stats })
    }

    pub(super) async fn list_metric_descriptors(
        &self,
        _request: wire::ListMetricDescriptorsRequest,
    ) -> Result<wire::ListMetricDescriptorsResponse, Failure> {
        let descriptors = FAMILIES.iter().map(|family| wire::MetricDescriptor {
            name: family.name.to_owned(),
            help: family.help.to_owned(),
            label_keys: BASE_LABELS.iter().chain(family.labels).map(|label| (*label).to_owned()).collect(),
        });
        Ok(wire::ListMetricDescriptorsResponse { descriptors: descriptors.collect() })
    }

    pub(super) async fn list_pod_sandbox_metrics(
        &self,
        _request: wire::ListPodSandboxMetricsRequest,
    ) -> Result<wire::ListPodSandboxMetricsResponse, Failure> {
        let mut pods = self.inner.index.pods();
        pods.retain(|pod| of_pod(&pod.record()) == wire::PodSandboxState::SandboxReady);
        let pass = self.pass(Detail::Metrics).await;
        self.count_layers(self.running(), Some(LAYER_PATIENCE)).await;
        let cri = self.clone();
        let pod_metrics = blocking::run(move || pods.iter().map(|pod| cri.metrics_of_pod(pod, &pass)).collect()).await;
        Ok(wire::ListPodSandboxMetricsResponse { pod_metrics })
    }

    /// Nothing runs in the background: figures are read when they are asked for.
    pub(super) fn start_stats(&self) {}

    /// The containers that run.
    fn running(&self) -> Vec<Arc<Container>> {
        let mut containers = self.inner.index.containers();
        containers.retain(|container| of_container(&container.record()) == wire::ContainerState::ContainerRunning);
        containers
    }

    /// One reading of everything that runs, shared with all who ask now.
    async fn pass(&self, detail: Detail) -> Arc<Pass> {
        let cri = self.clone();
        blocking::run(move || {
            let collector = cri.inner.stats.collector.clone();
            collector.pass(detail, || cri.targets())
        })
        .await
    }

    fn target(&self, container: &Container) -> Option<Target> {
        let cgroup = self.inner.stats.cgroup(&container.id, container.record().pid)?;
        Some(Target { id: container.id.clone(), cgroup })
    }

    fn targets(&self) -> Vec<Target> {
        let mut targets: Vec<Target> = self.running().iter().filter_map(|container| self.target(container)).collect();
        for pod in self.inner.index.pods() {
            let record = pod.record();
            if record.pid == 0 {
                continue;
            }
            let parent = record.linux().map(|linux| linux.cgroup_parent.as_str()).unwrap_or_default();
            if let Some(cgroup) = self.inner.stats.cgroup(&pod.id, record.pid) {
                targets.push(Target { id: pod.id.clone(), cgroup: pod_cgroup(cgroup, parent) });
            }
        }
        let (containers, pods) = (self.inner.index.containers(), self.inner.index.all_pods());
        let known: std::collections::HashSet<&str> =
            containers.iter().map(|one| one.id.as_str()).chain(pods.iter().map(|one| one.id.as_str())).collect();
        self.inner.stats.keep(|id| known.contains(id));
        targets
    }

    /// Counts those layers whose sizes are not fresh; with a limit, the rest is counted on in the background.
    async fn count_layers(&self, containers: Vec<Arc<Container>>, limit: Option<Duration>) {
        let stale = |container: &Arc<Container>| {
            self.inner.stats.layer(&container.id).is_none_or(|(at, ..)| at.elapsed() > LAYER_FRESH)
        };
        let stale: Vec<_> = containers.into_iter().filter(stale).collect();
        if stale.is_empty() {
            return;
        }
        let cri = self.clone();
        let counting = self.inner.tracker.spawn(async move {
            let cri = &cri;
            stream::iter(stale)
                .for_each_concurrent(LAYERS_AT_ONCE, async |container| cri.count_layer(&container).await)
                .await;
        });
        match limit {
            None => drop(counting.await),
            // Dropping the handle does not end the work.
            Some(limit) => drop(tokio::time::timeout(limit, counting).await),
        }
    }

    async fn count_layer(&self, container: &Container) {
        let name = SnapshotName {
            namespace: self.inner.namespace.clone(),
            snapshotter: self.snapshotter_of(&container.record().pod),
            key: container.id.clone(),
        };
        let meta = self.inner.meta.clone();
        match blocking::run(move || meta.snapshot_usage(&name)).await {
            Ok(usage) => {
                let found = (Instant::now(), SystemTime::now(), usage);
                let mut layers = self.inner.stats.layers.lock().unwrap_or_else(PoisonError::into_inner);
                layers.insert(container.id.clone(), found);
            }
            Err(error) => tracing::debug!(container = container.id, %error, "a writable layer cannot be counted"),
        }
    }

    /// The snapshotter of a pod's containers.
    fn snapshotter_of(&self, pod: &str) -> String {
        let handler = self.inner.index.pod(pod).map(|pod| pod.record().handler.clone()).unwrap_or_default();
        let own = self.handler(&handler).ok().and_then(|handler| handler.snapshotter.clone());
        own.unwrap_or_else(|| self.inner.settings.snapshotter.clone())
    }

    /// The folder of a snapshotter, which stands for its filesystem.
    fn snapshotter_root(&self, snapshotter: &str) -> String {
        self.inner.settings.root.join(format!("io.containerd.snapshotter.v1.{snapshotter}")).display().to_string()
    }

    fn stats_of(&self, container: &Container, sample: Option<&Sample>) -> wire::ContainerStats {
        let record = container.record();
        let config = record.config.as_ref();
        let writable_layer = self.inner.stats.layer(&container.id).map(|(_, at, usage)| wire::FilesystemUsage {
            timestamp: nanoseconds(at),
            fs_id: Some(wire::FilesystemIdentifier {
                mountpoint: self.snapshotter_root(&self.snapshotter_of(&record.pod)),
            }),
            used_bytes: value(usage.size_bytes),
            inodes_used: value(usage.inodes),
        });
        wire::ContainerStats {
            attributes: Some(wire::ContainerAttributes {
                id: container.id.clone(),
                metadata: config.and_then(|config| config.metadata.clone()),
                labels: config.map(|config| config.labels.clone()).unwrap_or_default(),
                annotations: config.map(|config| config.annotations.clone()).unwrap_or_default(),
            }),
            cpu: sample.map(cpu),
            memory: sample.map(memory),
            writable_layer,
            swap: sample.map(swap),
            io: sample.and_then(io),
        }
    }

    fn stats_of_pod(&self, pod: &Pod, pass: &Pass) -> wire::PodSandboxStats {
        let record = pod.record();
        let config = record.config.as_ref();
        let sample = pass.samples.get(&pod.id);
        let network = (!record.netns.is_empty()).then(|| network(record.pid));
        let containers = self.inner.index.containers_of(&pod.id);
        let one = |container: &Arc<Container>| Some(self.stats_of(container, Some(pass.samples.get(&container.id)?)));
        wire::PodSandboxStats {
            attributes: Some(wire::PodSandboxAttributes {
                id: pod.id.clone(),
                metadata: config.and_then(|config| config.metadata.clone()),
                labels: config.map(|config| config.labels.clone()).unwrap_or_default(),
                annotations: config.map(|config| config.annotations.clone()).unwrap_or_default(),
            }),
            linux: Some(wire::LinuxPodSandboxStats {
                cpu: sample.map(cpu),
                memory: sample.map(memory),
                network,
                process: sample.map(|sample| wire::ProcessUsage {
                    timestamp: nanoseconds(sample.at),
                    process_count: value(sample.pids.current),
                }),
                containers: containers.iter().filter_map(one).collect(),
                io: sample.and_then(io),
            }),
            windows: None,
        }
    }

    fn metrics_of_pod(&self, pod: &Pod, pass: &Pass) -> wire::PodSandboxMetrics {
        let record = pod.record();
        let metadata = record.metadata();
        let sample = pass.samples.get(&pod.id);
        let cgroup = self.inner.stats.cgroup(&pod.id, record.pid).unwrap_or_default();
        let found = if record.netns.is_empty() { Vec::new() } else { interfaces(Path::new(PROC), record.pid) };
        let labels = |container: &str, id: &Path, image: &str, name: &str| {
            let id = id.display().to_string();
            [container, &id, image, name, &metadata.namespace, &metadata.name].map(str::to_owned)
        };
        let subject = Subject {
            labels: labels("", &cgroup, "", ""),
            sample,
            interfaces: &found,
            started: Some(time(record.created_at)),
            ..Subject::default()
        };
        let of_container = |container: &Arc<Container>| {
            let sample = pass.samples.get(&container.id)?;
            let record = container.record();
            let config = record.config.clone().unwrap_or_default();
            let cgroup = self.inner.stats.cgroup(&container.id, record.pid)?;
            let disk = self.disk_of(container);
            let name = config.metadata.map(|metadata| metadata.name).unwrap_or_default();
            let subject = Subject {
                labels: labels(&name, &cgroup, &record.image_ref, &container.id),
                sample: Some(sample),
                processes: processes(Path::new(PROC), &self.inner.stats.collector.folder(&cgroup)),
                interfaces: &[],
                disk: disk.as_ref(),
                started: Some(time(record.started_at)),
                spec_memory_limit: 0,
            };
            Some(wire::ContainerMetrics {
                container_id: container.id.clone(),
                metrics: metrics(&points(&subject), sample.at),
            })
        };
        wire::PodSandboxMetrics {
            pod_sandbox_id: pod.id.clone(),
            metrics: metrics(&points(&subject), sample.map_or_else(SystemTime::now, |sample| sample.at)),
            container_metrics: self.inner.index.containers_of(&pod.id).iter().filter_map(of_container).collect(),
        }
    }

    fn disk_of(&self, container: &Container) -> Option<Disk> {
        let (_, _, usage) = self.inner.stats.layer(&container.id)?;
        let root = self.snapshotter_root(&self.snapshotter_of(&container.record().pod));
        let filesystem = rustix::fs::statvfs(&root).ok();
        Some(Disk {
            used_bytes: usage.size_bytes,
            limit_bytes: filesystem.as_ref().map_or(0, |of| of.f_blocks.saturating_mul(of.f_frsize)),
            inodes: filesystem.as_ref().map_or(0, |of| of.f_files),
            inodes_free: filesystem.as_ref().map_or(0, |of| of.f_ffree),
            device: root,
        })
    }
}

fn labels(record: &ContainerRecord) -> std::collections::BTreeMap<String, String> {
    record.config.as_ref().map(|config| config.labels.clone()).unwrap_or_default()
}

fn value(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}

fn time(at: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(u64::try_from(at).unwrap_or_default())
}

fn cpu(sample: &Sample) -> wire::CpuUsage {
    wire::CpuUsage {
        timestamp: nanoseconds(sample.at),
        usage_core_nano_seconds: value(sample.cpu.usage_ns),
        usage_nano_cores: sample.cpu.nano_cores.and_then(value),
        psi: sample.pressure.map(|pressure| psi(&pressure.cpu)),
    }
}

fn memory(sample: &Sample) -> wire::MemoryUsage {
    let memory = &sample.memory;
    wire::MemoryUsage {
        timestamp: nanoseconds(sample.at),
        working_set_bytes: value(memory.working_set),
        available_bytes: value(memory.available().unwrap_or_default()),
        usage_bytes: value(memory.usage),
        rss_bytes: value(memory.rss),
        page_faults: value(memory.page_faults),
        major_page_faults: value(memory.major_page_faults),
        psi: sample.pressure.map(|pressure| psi(&pressure.memory)),
    }
}

fn swap(sample: &Sample) -> wire::SwapUsage {
    let memory = &sample.memory;
    let limit = memory.swap_limit.zip(memory.limit).map(|(all, memory)| all.saturating_sub(memory));
    wire::SwapUsage {
        timestamp: nanoseconds(sample.at),
        swap_available_bytes: value(limit.map_or(0, |limit| limit.saturating_sub(memory.swap))),
        swap_usage_bytes: value(memory.swap),
    }
}

fn io(sample: &Sample) -> Option<wire::IoUsage> {
    let pressure = sample.pressure?;
    Some(wire::IoUsage { timestamp: nanoseconds(sample.at), psi: Some(psi(&pressure.io)) })
}

fn psi(stall: &Stall) -> wire::PsiStats {
    let data = |waited: super::stats::Waited| wire::PsiData {
        total: waited.total_us.saturating_mul(1000),
        avg10: waited.avg10,
        avg60: waited.avg60,
        avg300: waited.avg300,
    };
    wire::PsiStats { full: Some(data(stall.full)), some: Some(data(stall.some)) }
}

fn network(pid: u32) -> wire::NetworkUsage {
    let usage = |interface: super::stats::Interface| wire::NetworkInterfaceUsage {
        name: interface.name,
        rx_bytes: value(interface.rx_bytes),
        rx_errors: value(interface.rx_errors),
        tx_bytes: value(interface.tx_bytes),
        tx_errors: value(interface.tx_errors),
    };
    let all: Vec<_> = interfaces(Path::new(PROC), pid).into_iter().map(usage).collect();
    let (own, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|interface| interface.name == DEFAULT_INTERFACE);
    wire::NetworkUsage {
        timestamp: super::record::now(),
        default_interface: own.into_iter().next(),
        interfaces: others,
    }
}

fn metrics(points: &[Point], at: SystemTime) -> Vec<wire::Metric> {
    let metric = |point: &Point| wire::Metric {
        name: point.family.name.to_owned(),
        timestamp: nanoseconds(at),
        metric_type: if point.counter { MetricType::Counter } else { MetricType::Gauge }.into(),
        label_values: point.labels.clone(),
        value: value(point.value),
    };
    points.iter().map(metric).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_that_counts_is_found() {
        let v1 = "12:pids:/a\n11:cpu,cpuacct:/b\n7:memory:/pods/x\n1:name=systemd:/\n0::/y\n";
        assert_eq!(cgroup_of(v1, false), Some("/pods/x"));
        assert_eq!(cgroup_of("0::/pods/y\n", true), Some("/pods/y"));
        assert_eq!(cgroup_of("0::/pods/y\n", false), None);
    }

    #[test]
    fn a_pod_with_a_cgroup_of_its_own_is_counted_whole() {
        assert_eq!(pod_cgroup("/kubepods/pod1/abc".into(), "/kubepods/pod1"), PathBuf::from("/kubepods/pod1"));
        assert_eq!(pod_cgroup("/k8s.io/abc".into(), ""), PathBuf::from("/k8s.io/abc"));
    }
}
