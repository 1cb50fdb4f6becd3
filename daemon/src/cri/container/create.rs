//! Making a container: everything, then one write of its record, or nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use model::Labels;
use proto::cri as wire;
use store::record::{Any, Runtime};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, info, warn};

use super::super::images::KnownImage;
use super::super::record::{self, CONTAINER_EXTENSION, ContainerRecord, pack};
use super::super::spec::{self, Accounts, ImageConfig, PodFiles, signal};
use super::super::state::of_pod;
use super::super::{Container, Cri, CriError, KIND_CONTAINER, Pod, handlers, id, labels_with_kind, names};
use super::volumes::{self, Volume};
use super::{accounts, image_volumes, log};
use crate::api::Failure;
use crate::blocking;
use crate::containers;
use crate::gc::node::Node;

/// The largest configuration of a container, encoded: it is kept with its record.
const MAX_CONFIG_BYTES: usize = 4 << 20;

impl Cri {
    pub(in super::super) async fn create_container(
        &self,
        request: wire::CreateContainerRequest,
    ) -> Result<wire::CreateContainerResponse, Failure> {
        let pod = self.pod(&request.pod_sandbox_id)?;
        ready(&pod)?;
        let config = request.config.ok_or_else(|| CriError::Invalid("container config is nil".into()))?;
        let metadata = config.metadata.clone().filter(|metadata| !metadata.name.is_empty());
        let metadata = metadata.ok_or_else(|| CriError::Invalid("container config must include a name".into()))?;
        if proto::prost::Message::encoded_len(&config) > MAX_CONFIG_BYTES {
            return Err(CriError::Invalid(format!("container config is larger than {MAX_CONFIG_BYTES} bytes")).into());
        }
        let id = id::new_id();
        let name = names::of_container(&metadata, &pod.record().metadata());
        let reservation = self.inner.names.reserve(name, &id)?;
        let making = Making { cri: self.clone(), pod, id, config, undo: Undo::default() };
        let gone = CancellationToken::new();
        let _here = gone.clone().drop_guard();
        let work = async move {
            let made = making.run(gone).await;
            // A name is free again only when nothing is left of who had it.
            match made {
                Ok(id) => {
                    reservation.keep();
                    Ok(id)
                }
                Err(failure) => Err(failure),
            }
        };
        let made = self.inner.tracker.spawn(work.in_current_span()).await;
        let container_id = made.map_err(|_| CriError::Cancelled)??;
        Ok(wire::CreateContainerResponse { container_id })
    }

    /// The files that the containers of a pod share.
    fn shared_files(&self, pod: &Pod) -> PodFiles {
        let files = self.files_of_pod(&pod.id);
        let there = |path: PathBuf| Some(path).filter(|path| path.exists());
        let host_ipc = pod.record().namespaces().ipc() == wire::NamespaceMode::Node;
        PodFiles {
            hostname: there(files.hostname),
            hosts: there(files.hosts),
            resolv_conf: there(files.resolv_conf),
            shm: if host_ipc { Some("/dev/shm".into()) } else { there(files.shm) },
        }
    }

    /// The first process of the container whose processes another one wants to see.
    fn target_pid(&self, pod: &Pod, config: &wire::ContainerConfig) -> Result<Option<u32>, CriError> {
        let security = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        let Some(options) = security.and_then(|security| security.namespace_options.as_ref()) else { return Ok(None) };
        if options.pid() != wire::NamespaceMode::Target {
            return Ok(None);
        }
        let target = self.container(&options.target_id)?;
        let record = target.record();
        if record.pod != pod.id {
            let why = format!("target container {:?} is not in the same pod", options.target_id);
            return Err(CriError::Invalid(why));
        }
        Ok(Some(record.pid).filter(|pid| *pid != 0))
    }
}

/// Refuses what needs a pod that runs.
pub(super) fn ready(pod: &Pod) -> Result<(), CriError> {
    match of_pod(&pod.record()) {
        wire::PodSandboxState::SandboxReady => Ok(()),
        wire::PodSandboxState::SandboxNotready => Err(CriError::State(format!("sandbox {:?} is not ready", pod.id))),
    }
}

/// A container in the making.
struct Making {
    cri: Cri,
    pod: Arc<Pod>,
    id: String,
    config: wire::ContainerConfig,
    undo: Undo,
}

/// What was made so far.
#[derive(Default)]
struct Undo {
    folder: bool,
    snapshot: bool,
    image_volumes: Vec<String>,
}

impl Making {
    async fn run(mut self, gone: CancellationToken) -> Result<String, Failure> {
        match self.make(&gone).await {
            Ok(container) => {
                info!(ns = super::super::NAMESPACE, container = container.id, pod = self.pod.id, "container created");
                self.cri.happened(wire::ContainerEventType::ContainerCreatedEvent, &container.id, &self.pod.id);
                self.cri.nri_post_create(&self.pod, &container).await;
                Ok(self.id)
            }
            Err(failure) => {
                self.take_back().await;
                Err(failure)
            }
        }
    }

    async fn make(&mut self, gone: &CancellationToken) -> Result<Arc<Container>, Failure> {
        let (cri, pod) = (self.cri.clone(), Arc::clone(&self.pod));
        let inner = &cri.inner;
        let handler = cri.handler(&pod.record().handler)?;
        let snapshotter = cri.snapshotter_of_pod(&pod);
        let wanted = self.config.image.clone().unwrap_or_default();
        if wanted.image.is_empty() {
            return Err(CriError::Invalid("container config must include an image".into()).into());
        }
        let image = cri.find_image(&wanted.image).await?;
        let image = image.ok_or_else(|| CriError::Missing { what: "image", id: wanted.image.clone() })?;
        let image_config = ImageConfig::parse(&image.fact.config)?;
        self.name_image(&image);
        let stop_signal = stop_signal(&self.config, &image_config)?;
        let pod_config = pod.record().config.clone().unwrap_or_default();
        let log_path = log::path(&pod_config.log_directory, &self.config.log_path)?;

        let mut found = image_volumes::Found::default();
        let volumes = cri.find_image_volumes(&pod, &self.config.mounts, &mut found).await;
        self.undo.image_volumes.clone_from(&found.folders);
        volumes?;

        // Nothing refers to the snapshot until the record does.
        let node = Node::snapshot(snapshotter.as_str(), self.id.as_str());
        let _pin = inner.meta.barrier().pin(&inner.namespace, vec![node]);
        self.undo.snapshot = true;
        let rootfs = cri.prepare_rootfs(&self.id, &image, &snapshotter, Labels::new()).await?;
        let declared: &[String] = if inner.settings.ignore_image_volumes { &[] } else { &image_config.volumes };
        let planned = volumes::plan(declared, &self.config.mounts, &cri.folder_of_container(&self.id))?;
        self.undo.folder = !planned.is_empty();
        let accounts = self.look_into(&image, rootfs, &planned).await?;

        let features = cri.features_of(&pod.record().handler).await;
        let (config, handler_settings) = (self.config.clone(), handler.clone());
        let mut in_place = config.clone();
        in_place.mounts = found.mounts;
        let target_pid = cri.target_pid(&pod, &config)?;
        let files = cri.shared_files(&pod);
        let (own, pod_id, pod_pid) = (self.id.clone(), pod.id.clone(), pod.record().pid);
        let image_name = image_name(&config);
        let builder = cri.clone();
        let made = blocking::run(move || {
            let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
            let volumes: Vec<_> = planned.into_iter().map(|volume| (volume.source, volume.target)).collect();
            spec::build(&spec::Input {
                id: &own,
                pod: &pod_id,
                config: &in_place,
                pod_config: &pod_config,
                image: &image_config,
                image_name: &image_name,
                accounts: &accounts,
                pod_pid,
                target_pid,
                files: &files,
                volumes: &volumes,
                mountinfo: &mountinfo,
                handler: &handler_settings,
                recursive_read_only: features.recursive_read_only_mounts,
                idmap: features.user_namespaces,
                settings: &builder.inner.settings,
                host: builder.inner.containers_known.host(),
                own_oom_score: own_oom_score(),
            })
        })
        .await?;
        let mut document = made.spec;
        let resources = config.linux.as_ref().and_then(|linux| linux.resources.clone());
        let user = wire::LinuxContainerUser {
            uid: made.user.uid.into(),
            gid: made.user.gid.into(),
            supplemental_groups: made.user.groups.iter().map(|group| i64::from(*group)).collect(),
        };
        let mut kept = ContainerRecord {
            pod: pod.id.clone(),
            config: Some(config),
            image_id: image.id().to_owned(),
            image_ref: image.reference().to_owned(),
            log_path,
            resources,
            stop_signal,
            user: Some(user),
            mounts: found.reported,
            image_volumes: found.folders,
            ..ContainerRecord::default()
        };
        let held = found.held;
        cri.nri_create_container(&pod, &self.id, &kept, &mut document).await?;

        // From here on a pod that is being stopped sees it, or it is not made.
        let _turn = inner.turns.take(&pod.id).await;
        ready(&pod)?;
        if gone.is_cancelled() {
            return Err(CriError::Cancelled.into());
        }
        kept.created_at = record::now();
        let labels = kept.config.as_ref().map(|config| labels_with_kind(&config.labels, KIND_CONTAINER));
        let stored = store::record::ContainerRecord {
            labels: labels.unwrap_or_default(),
            image: image.names.first().cloned().unwrap_or_default(),
            runtime: Runtime {
                name: handler.runtime_type.clone(),
                options: handlers::options(handler).map(containers::any_from_wire),
            },
            spec: Some(Any { type_url: spec::SPEC_URL.to_owned(), value: document.to_string().into_bytes() }),
            snapshotter,
            snapshot_key: self.id.clone(),
            extensions: [(CONTAINER_EXTENSION.to_owned(), pack(&kept))].into(),
            sandbox: pod.id.clone(),
            created_at: SystemTime::now(),
            updated_at: SystemTime::now(),
        };
        let new = containers::Container { id: self.id.clone(), record: stored };
        inner.containers.create(&inner.namespace, new).await?;
        let container = inner.index.add_container(&self.id, kept);
        drop(held);
        Ok(container)
    }

    /// What the user called the image, if the kubelet names it by id alone.
    fn name_image(&mut self, image: &KnownImage) {
        if let Some(wanted) = &mut self.config.image
            && wanted.user_specified_image.is_empty()
        {
            let by_name = image.names.contains(&wanted.image) && !wanted.image.starts_with("sha256:");
            let familiar = image.tags.first().or(image.digests.first()).unwrap_or(&wanted.image);
            wanted.user_specified_image = if by_name { wanted.image.clone() } else { familiar.clone() };
        }
    }

    /// Reads the user files of the image and fills its volumes.
    async fn look_into(
        &self,
        image: &KnownImage,
        rootfs: Vec<model::Mount>,
        planned: &[Volume],
    ) -> Result<Arc<Accounts>, Failure> {
        let known = self.cri.inner.containers_known.accounts(image.id());
        if let Some(accounts) = known.clone()
            && planned.is_empty()
        {
            return Ok(accounts);
        }
        let (mounts, planned, image) = (self.cri.inner.mounts.clone(), planned.to_vec(), image.id().to_owned());
        let folder = self.cri.folder_of_container(&self.id);
        let cri = self.cri.clone();
        blocking::run(move || -> Result<_, Failure> {
            let mounted = mounts.mount(&rootfs)?;
            if !planned.is_empty() {
                make_folder(&folder)?;
            }
            for volume in &planned {
                volumes::make(volume, mounted.path())?;
            }
            let accounts = match known {
                Some(accounts) => accounts,
                None => Arc::new(accounts::read(mounted.path())?),
            };
            cri.inner.containers_known.keep(&image, &accounts);
            Ok(accounts)
        })
        .await
    }

    async fn take_back(&self) {
        let cri = &self.cri;
        let snapshotter = cri.snapshotter_of_pod(&self.pod);
        if self.undo.snapshot
            && let Err(failure) = cri.remove_rootfs(&self.id, &snapshotter).await
        {
            warn!(container = self.id, error = failure.message(), "the snapshot of a failed container stays");
        }
        if self.undo.folder {
            let folder = cri.folder_of_container(&self.id);
            if let Err(error) = blocking::run(move || volumes::remove(&folder)).await {
                warn!(container = self.id, %error, "the folder of a failed container stays");
            }
        }
        cri.release_image_volumes(&self.pod.id, &snapshotter, &self.undo.image_volumes).await;
    }
}

fn make_folder(folder: &std::path::Path) -> Result<(), CriError> {
    use std::os::unix::fs::DirBuilderExt as _;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o711).create(folder);
    made.map_err(|error| CriError::Failed(format!("cannot make {}: {error}", folder.display())))
}

/// The name of the signal that ends the container.
fn stop_signal(config: &wire::ContainerConfig, image: &ImageConfig) -> Result<String, CriError> {
    let wanted = wire::Signal::try_from(config.stop_signal)
        .map_err(|_| CriError::Invalid(format!("unknown stop signal {}", config.stop_signal)))?;
    if wanted != wire::Signal::RuntimeDefault {
        return Ok(wanted.as_str_name().to_owned());
    }
    if image.stop_signal.is_empty() || signal::number(&image.stop_signal).is_ok() {
        return Ok(image.stop_signal.clone());
    }
    // An image that says nonsense can be run all the same.
    warn!(signal = image.stop_signal, "the image names a stop signal that there is not: TERM is used");
    Ok(String::new())
}

/// How annotations call the image.
fn image_name(config: &wire::ContainerConfig) -> String {
    config.image.as_ref().map(|image| image.user_specified_image.clone()).unwrap_or_default()
}

fn own_oom_score() -> i32 {
    std::fs::read_to_string("/proc/self/oom_score_adj").ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}
