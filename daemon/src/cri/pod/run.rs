//! RunPodSandbox: everything or nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::{ContainerId, Labels};
use proto::cri as wire;
use proto::services::tasks::v1::StartRequest;
use serde_json::Value;
use store::record::{Any, ContainerRecord, Runtime};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info};

use super::super::handlers;
use super::super::images::KnownImage;
use super::super::net::{Subject, args, netns};
use super::super::record::{self, POD_EXTENSION, PodPhase, PodRecord};
use super::super::settings::Handler;
use super::super::spec::Capabilities;
use super::super::spec::security::{seccomp, selinux};
use super::super::{Cri, CriError, KIND_SANDBOX, Pod, id, labels_with_kind, names};
use super::cgroups_path;
use super::spec::{self, Parts};
use crate::api::Failure;
use crate::blocking;
use crate::containers::Container as ContainerWithId;
use crate::tasks::CreateTask;

/// The type of a specification, as all clients have it.
const SPEC_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

impl Cri {
    pub(in crate::cri) async fn run_pod_sandbox(
        &self,
        request: wire::RunPodSandboxRequest,
    ) -> Result<wire::RunPodSandboxResponse, Failure> {
        let wire::RunPodSandboxRequest { config, runtime_handler } = request;
        let config = config.ok_or_else(|| CriError::Invalid("sandbox config is required".into()))?;
        spec::validate(&config)?;
        self.handler(&runtime_handler)?;
        let id = id::new_id();
        let metadata = config.metadata.clone().unwrap_or_default();
        let reservation = self.inner.names.reserve(names::of_pod(&metadata), &id)?;
        let gone = CancellationToken::new();
        // Dropped together with the request.
        let _here = gone.clone().drop_guard();
        let (cri, made) = (self.clone(), id.clone());
        let making = async move {
            let pod = cri.make_pod(&made, config, runtime_handler, &gone).await?;
            reservation.keep();
            info!(pod = made, "pod runs");
            cri.happened(wire::ContainerEventType::ContainerCreatedEvent, &pod.id, &pod.id);
            cri.happened(wire::ContainerEventType::ContainerStartedEvent, &pod.id, &pod.id);
            Ok::<_, Failure>(())
        };
        let making = self.inner.tracker.spawn(making.in_current_span());
        making.await.map_err(|_| CriError::Failed("the daemon is stopping".into()))??;
        Ok(wire::RunPodSandboxResponse { pod_sandbox_id: id })
    }

    async fn make_pod(
        &self,
        id: &str,
        config: wire::PodSandboxConfig,
        handler_name: String,
        gone: &CancellationToken,
    ) -> Result<Arc<Pod>, Failure> {
        let _turn = self.inner.turns.take(id).await;
        let handler = self.handler(&handler_name)?.clone();
        let record = self.planned(id, config, handler_name, &handler)?;
        let pod = self.inner.index.add_pod(id, record);
        if let Err(failure) = self.record_pod(&pod, &handler).await {
            // Nothing was made.
            self.inner.index.forget_pod(id);
            return Err(failure);
        }
        if let Err(failure) = self.fill_pod(&pod, &handler, gone).await {
            self.undo_pod(&pod).await;
            return Err(failure);
        }
        Ok(pod)
    }

    /// All that is decided before anything is made.
    fn planned(
        &self,
        id: &str,
        config: wire::PodSandboxConfig,
        handler_name: String,
        handler: &Handler,
    ) -> Result<PodRecord, Failure> {
        let parent = config.linux.as_ref().map(|linux| linux.cgroup_parent.clone()).unwrap_or_default();
        let mut record = PodRecord {
            handler: handler_name,
            phase: PodPhase::Making.into(),
            created_at: record::now(),
            cgroups_path: cgroups_path(&parent, id),
            config: Some(config),
            ..PodRecord::default()
        };
        if record.namespaces().network() == wire::NamespaceMode::Node {
            record.network_down = true;
        } else {
            let lists = self.inner.net.lists(Some(handler))?;
            let config = record.config.clone().unwrap_or_default();
            let arguments = args::capabilities(&config, &record.cgroups_path).map_err(CriError::Invalid)?;
            record.netns = self.inner.net.new_netns().display().to_string();
            record.networks = self.inner.net.plan(&lists, &arguments);
        }
        Ok(record)
    }

    /// Writes the pod down, before anything of it is made.
    async fn record_pod(&self, pod: &Pod, handler: &Handler) -> Result<(), Failure> {
        let record = pod.record();
        let config = record.config.clone().unwrap_or_default();
        let snapshotter = self.inner.settings.snapshotter_of(&record.handler).to_owned();
        let container = ContainerRecord {
            labels: labels_with_kind(&config.labels, KIND_SANDBOX),
            image: self.inner.settings.sandbox_image.clone().unwrap_or_default(),
            runtime: Runtime {
                name: runtime_name(handler),
                options: handlers::options(handler).map(crate::containers::any_from_wire),
            },
            // What it really is, is known when the image is.
            spec: Some(Any { type_url: SPEC_URL.into(), value: b"{}".to_vec() }),
            snapshotter,
            snapshot_key: pod.id.clone(),
            extensions: BTreeMap::from([(POD_EXTENSION.to_owned(), record::pack(&*record))]),
            sandbox: String::new(),
            created_at: std::time::UNIX_EPOCH,
            updated_at: std::time::UNIX_EPOCH,
        };
        ContainerId::new(pod.id.as_str())?;
        let new = ContainerWithId { id: pod.id.clone(), record: container };
        self.inner.containers.create(&self.inner.namespace, new).await?;
        Ok(())
    }

    /// Makes everything else, and starts the first process.
    async fn fill_pod(&self, pod: &Pod, handler: &Handler, gone: &CancellationToken) -> Result<(), Failure> {
        let before = pod.record();
        let files = self.files_of_pod(&pod.id);
        let network = self.make_network(pod);
        let rootfs = async {
            let image = self.pause_image().await?;
            let snapshotter = self.inner.settings.snapshotter_of(&before.handler);
            let mounts = self.prepare_rootfs(&pod.id, &image, snapshotter, Labels::new()).await?;
            Ok::<_, Failure>((image, mounts))
        };
        let folder = async {
            let (files, record) = (files.clone(), Arc::clone(&before));
            blocking::run(move || files.make(&record)).await
        };
        let work = async {
            // Each is finished, so that there is nothing under way when it is undone.
            let (network, rootfs, folder) = tokio::join!(network, rootfs, folder);
            let ((image, mounts), networks) = (rootfs?, network?);
            folder?;
            self.check_here(gone)?;
            self.set_spec(pod, handler, &image, networks).await?;
            let rootfs = mounts.into_iter().map(Into::into).collect();
            let runtime_path = handler.runtime_path.clone();
            let namespace = &self.inner.namespace;
            let create = CreateTask { rootfs, runtime_path, ..CreateTask::default() };
            self.inner.tasks.create(namespace.clone(), &pod.id, create).await?;
            let start = StartRequest { container_id: pod.id.clone(), exec_id: String::new() };
            let pid = self.inner.tasks.start(namespace.clone(), start).await?;
            self.nri_run_pod(pod).await?;
            self.check_here(gone)?;
            self.change_pod(pod, |record| {
                record.phase = PodPhase::Running.into();
                record.pid = pid;
            })
            .await?;
            Ok(())
        };
        work.await
    }

    /// Makes the network of a pod, if it has its own; what its plugins answered.
    async fn make_network(&self, pod: &Pod) -> Result<Vec<record::Network>, Failure> {
        let record = pod.record();
        if record.netns.is_empty() {
            return Ok(Vec::new());
        }
        let path = std::path::PathBuf::from(&record.netns);
        let made = path.clone();
        blocking::run(move || netns::make(&made)).await?;
        let mut networks = record.networks.clone();
        let subject =
            Subject { id: pod.id.clone(), netns: Some(path), arguments: args::cni_args(&pod.id, &record.metadata()) };
        self.inner.net.set_up(&subject, &mut networks).await?;
        Ok(networks)
    }

    /// Puts what came out so far into the container's record, in one change: the specification, the image, the network.
    #[expect(deprecated, reason = "clients older than the new field")]
    async fn set_spec(
        &self,
        pod: &Pod,
        handler: &Handler,
        image: &KnownImage,
        networks: Vec<record::Network>,
    ) -> Result<(), Failure> {
        let config: Value = serde_json::from_slice(&image.fact.config).unwrap_or_default();
        let mut record = (*pod.record()).clone();
        record.addresses = self.inner.net.addresses(&networks);
        record.networks = networks;
        record.image = image.id().to_owned();
        let files = self.files_of_pod(&pod.id);
        let security = record.security().cloned().unwrap_or_default();
        let enabled = self.inner.settings.selinux && self.inner.containers_known.host().selinux;
        let selinux = selinux(security.selinux_options.as_ref(), enabled)?;
        let security = wire::LinuxContainerSecurityContext {
            seccomp: security.seccomp,
            seccomp_profile_path: security.seccomp_profile_path,
            ..wire::LinuxContainerSecurityContext::default()
        };
        let host = self.inner.containers_known.host();
        let seccomp = seccomp(&security, "", &Capabilities::default(), host)?;
        let spec = spec::spec(&Parts {
            id: &pod.id,
            record: &record,
            files: &files,
            handler,
            settings: &self.inner.settings,
            image: &config,
            image_name: image.names.first().map_or(image.id(), String::as_str),
            least_oom_score: least_oom_score(self.inner.settings.restrict_oom_score_adj),
            seccomp,
            selinux,
        })?;
        let spec = Any { type_url: SPEC_URL.into(), value: spec.to_string().into_bytes() };
        let name = image.names.first().cloned().unwrap_or_default();
        let (namespace, extension) = (self.inner.namespace.clone(), (POD_EXTENSION, record::pack(&record)));
        self.inner.containers.set_spec(namespace, pod.id.clone(), spec, name, extension).await?;
        pod.set(record);
        Ok(())
    }

    fn check_here(&self, gone: &CancellationToken) -> Result<(), CriError> {
        if gone.is_cancelled() || self.inner.stop.is_cancelled() { Err(CriError::Cancelled) } else { Ok(()) }
    }
}

/// The name of a handler's runtime as a container's record has it.
fn runtime_name(handler: &Handler) -> String {
    handler.runtime_type.clone()
}

/// The least OOM score that may be given to a process: this one's, if it must not or cannot be lowered.
pub(in crate::cri) fn least_oom_score(restrict: bool) -> i64 {
    const CAP_SYS_RESOURCE: u64 = 1 << 24;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capable = effective
        .and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
        .is_some_and(|all| all & CAP_SYS_RESOURCE != 0);
    if capable && !restrict {
        return -1000;
    }
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").ok();
    own.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}
