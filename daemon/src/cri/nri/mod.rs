//! NRI: plugins that hear of pods and containers, and may adjust containers before they are made.
//!
//! ```text
//!   /opt/nri/plugins/10-x ──┐ started, or connected by itself          ┌─► merge: who wants what, conflicts ─► apply: into the spec
//!   /var/run/nri/nri.sock ──┴─► mux ─► plugin ─► list, in order of index ┤
//!                                                                       └─► updates of other containers ─► tasks
//! ```
//!
//! One request at a time goes through all plugins, so each sees what those before it did, and a new one is told of everything before it
//! hears of anything. A plugin that does not answer in time is given up, and what waited for it goes on without it. A plugin that
//! refuses makes the request fail.

mod apply;
mod merge;
mod mux;
mod owners;
mod plugin;
mod say;
mod validate;

pub(super) use say::cri_resources;

use std::os::unix::fs::DirBuilderExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use proto::nri as wire;
use proto::prost::Message;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use wire::Event;

use self::merge::Merge;
use self::plugin::{Plugin, installed, is_lost};
use super::{Container, Cri, CriError, Pod, Settings};
use crate::api::Failure;
use crate::ttrpc::CallError;

/// The longest part of what a new plugin is told at once: its queue of frames is short.
const TOLD_AT_ONCE: usize = 256 << 10;

/// Serves plugins.
#[derive(Debug)]
pub struct Nri {
    /// In order.
    plugins: Mutex<Vec<Arc<Plugin>>>,
    /// Whose request goes through the plugins.
    turn: tokio::sync::Mutex<()>,
}

impl Nri {
    /// No plugins yet.
    pub fn new(_settings: &Settings) -> Self {
        Self { plugins: Mutex::default(), turn: tokio::sync::Mutex::default() }
    }

    fn all(&self) -> Vec<Arc<Plugin>> {
        self.plugins.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn listening(&self, event: Event) -> Vec<Arc<Plugin>> {
        let mut plugins = self.all();
        plugins.retain(|plugin| plugin.hears(event));
        plugins
    }

    fn forget(&self, plugin: &Arc<Plugin>) {
        self.plugins.lock().unwrap_or_else(PoisonError::into_inner).retain(|known| !Arc::ptr_eq(known, plugin));
        plugin.close();
    }

    /// Calls one plugin. `None` if it is given up.
    async fn ask<R: Message + Default>(
        &self,
        plugin: &Arc<Plugin>,
        method: &str,
        request: &impl Message,
    ) -> Result<Option<R>, CriError> {
        match plugin.call(method, request).await {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if is_lost(&error) => {
                warn!(plugin = plugin.full_name(), method, %error, "NRI plugin is given up");
                self.forget(plugin);
                Ok(None)
            }
            Err(error) => {
                Err(CriError::Failed(format!("NRI plugin {:?} refused {method}: {error}", plugin.full_name())))
            }
        }
    }

    /// Tells all who want to hear of `event`, in order.
    async fn tell<R: Message + Default>(
        &self,
        event: Event,
        method: &str,
        request: &impl Message,
    ) -> Result<(), CriError> {
        let plugins = self.listening(event);
        if plugins.is_empty() {
            return Ok(());
        }
        let _turn = self.turn.lock().await;
        for plugin in plugins {
            self.ask::<R>(&plugin, method, request).await?;
        }
        Ok(())
    }
}

impl Cri {
    /// Starts plugins and listens for others. Called once, before clients are served.
    pub(super) async fn start_nri(&self) {
        let settings = &self.inner.settings.nri;
        if settings.disable {
            return;
        }
        for installed in installed(&settings.plugin_path) {
            match self.start_plugin(&installed).await {
                Ok(()) => info!(plugin = %installed.path.display(), "NRI plugin started"),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    warn!(plugin = %installed.path.display(), error, "NRI plugin is not used");
                }
            }
        }
        if !settings.disable_connections
            && let Err(error) = self.listen_for_plugins()
        {
            warn!(socket = %settings.socket_path.display(), %error, "NRI plugins cannot connect");
        }
    }

    fn listen_for_plugins(&self) -> std::io::Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let path = &self.inner.settings.nri.socket_path;
        if let Some(folder) = path.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(std::io::Error::new(std::io::ErrorKind::AddrInUse, "another daemon serves plugins there"));
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        let cri = self.clone();
        let stop = self.inner.stop.clone();
        self.inner.tracker.spawn(async move {
            let accepting = async {
                loop {
                    match listener.accept().await {
                        Ok((trunk, _)) => {
                            let cri = cri.clone();
                            cri.inner.tracker.clone().spawn(async move {
                                if let Err(error) = cri.take_in(trunk, None, CancellationToken::new()).await {
                                    warn!(error = &error as &dyn std::error::Error, "an NRI plugin is not used");
                                }
                            });
                        }
                        Err(error) => {
                            warn!(%error, "cannot accept an NRI plugin");
                            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                        }
                    }
                }
            };
            let _over: Option<()> = stop.run_until_cancelled(accepting).await;
        });
        Ok(())
    }

    /// Tells a configured plugin of all pods and containers, and puts it into the list.
    async fn join(&self, plugin: Plugin, gone: CancellationToken) -> Result<(), CallError> {
        let nri = &self.inner.nri;
        let turn = nri.turn.lock().await;
        let updates = self.synchronize(&plugin).await?;
        let plugin = Arc::new(plugin);
        info!(plugin = plugin.full_name(), "NRI plugin joined");
        {
            let mut plugins = nri.plugins.lock().unwrap_or_else(PoisonError::into_inner);
            plugins.push(plugin.clone());
            plugins.sort_by(|one, other| one.index.cmp(&other.index));
        }
        drop(turn);
        self.update_for_plugin(updates, Vec::new()).await;
        let cri = self.clone();
        self.inner.tracker.spawn(async move {
            plugin.gone().cancelled().await;
            info!(plugin = plugin.full_name(), "NRI plugin left");
            cri.inner.nri.forget(&plugin);
            gone.cancel();
        });
        Ok(())
    }

    async fn synchronize(&self, plugin: &Plugin) -> Result<Vec<wire::ContainerUpdate>, CallError> {
        let mut parts = vec![wire::SynchronizeRequest::default()];
        let mut size = 0;
        let mut part = |more: usize, parts: &mut Vec<wire::SynchronizeRequest>| {
            size += more;
            if size > TOLD_AT_ONCE {
                size = more;
                parts.push(wire::SynchronizeRequest::default());
            }
        };
        for pod in self.inner.index.pods() {
            let pod = say::pod(&pod);
            part(pod.encoded_len(), &mut parts);
            parts.last_mut().expect("never empty").pods.push(pod);
        }
        for container in self.inner.index.containers() {
            let container = self.say(&container).await;
            part(container.encoded_len(), &mut parts);
            parts.last_mut().expect("never empty").containers.push(container);
        }
        let (count, mut updates) = (parts.len(), Vec::new());
        for (number, mut request) in parts.into_iter().enumerate() {
            request.more = number + 1 < count;
            let answer: wire::SynchronizeResponse = plugin.call("Synchronize", &request).await?;
            updates.extend(answer.update);
        }
        Ok(updates)
    }

    /// A container as plugins see it, with its specification as it is on record.
    async fn say(&self, container: &Container) -> wire::Container {
        let record = self.inner.containers.get(&self.inner.namespace, &container.id).await;
        let spec = record.ok().and_then(|container| container.record.spec).map(|spec| spec.value).unwrap_or_default();
        say::container(&container.id, &container.record(), &serde_json::from_slice(&spec).unwrap_or_default())
    }

    /// A pod was made, and waits to be told to its client.
    pub(super) async fn nri_run_pod(&self, pod: &Pod) -> Result<(), CriError> {
        let request = wire::RunPodSandboxRequest { pod: Some(say::pod(pod)) };
        self.inner.nri.tell::<wire::RunPodSandboxResponse>(Event::RunPodSandbox, "RunPodSandbox", &request).await
    }

    /// A pod is being stopped. A refusal stops nothing.
    pub(super) async fn nri_stop_pod(&self, pod: &Pod) {
        let request = wire::StopPodSandboxRequest { pod: Some(say::pod(pod)) };
        let told =
            self.inner.nri.tell::<wire::StopPodSandboxResponse>(Event::StopPodSandbox, "StopPodSandbox", &request);
        heard(told.await);
    }

    /// A pod is being removed. A refusal stops nothing.
    pub(super) async fn nri_remove_pod(&self, pod: &Pod) {
        let request = wire::RemovePodSandboxRequest { pod: Some(say::pod(pod)) };
        let told = self.inner.nri.tell::<wire::RemovePodSandboxResponse>(
            Event::RemovePodSandbox,
            "RemovePodSandbox",
            &request,
        );
        heard(told.await);
    }

    /// Resources of a pod are to be changed, and then were.
    pub(super) async fn nri_update_pod(
        &self,
        pod: &Pod,
        overhead: Option<wire::LinuxResources>,
        all: Option<wire::LinuxResources>,
    ) -> Result<(), CriError> {
        let request = wire::UpdatePodSandboxRequest {
            pod: Some(say::pod(pod)),
            overhead_linux_resources: overhead,
            linux_resources: all,
        };
        let nri = &self.inner.nri;
        nri.tell::<wire::UpdatePodSandboxResponse>(Event::UpdatePodSandbox, "UpdatePodSandbox", &request).await
    }

    /// Resources of a pod were changed.
    pub(super) async fn nri_post_update_pod(&self, pod: &Pod) {
        let request = wire::PostUpdatePodSandboxRequest { pod: Some(say::pod(pod)) };
        let nri = &self.inner.nri;
        heard(
            nri.tell::<wire::PostUpdatePodSandboxResponse>(
                Event::PostUpdatePodSandbox,
                "PostUpdatePodSandbox",
                &request,
            )
            .await,
        );
    }

    /// A container is about to be made: plugins adjust its specification.
    ///
    /// # Errors
    /// A plugin refuses, two are in conflict, a rule forbids it, or what they want cannot be done.
    pub(super) async fn nri_create_container(
        &self,
        pod: &Pod,
        id: &str,
        record: &super::record::ContainerRecord,
        spec: &mut serde_json::Value,
    ) -> Result<(), CriError> {
        let nri = &self.inner.nri;
        let plugins = nri.listening(Event::CreateContainer);
        if plugins.is_empty() && !validate::is_needed(&self.inner.settings.nri.validator) {
            return Ok(());
        }
        let turn = nri.turn.lock().await;
        let (pod, pristine) = (say::pod(pod), say::container(id, record, spec));
        let mut merge = Merge::new(pristine.clone());
        for plugin in &plugins {
            let request =
                wire::CreateContainerRequest { pod: Some(pod.clone()), container: Some(merge.container.clone()) };
            let Some(answer) = nri.ask::<wire::CreateContainerResponse>(plugin, "CreateContainer", &request).await?
            else {
                continue;
            };
            let conflict = |error: owners::Conflict| CriError::Failed(format!("NRI: {error}"));
            merge.adjust(&plugin.name, answer.adjust.unwrap_or_default()).map_err(conflict)?;
            for update in answer.update {
                if update.container_id == id {
                    let name = plugin.full_name();
                    return Err(CriError::Failed(format!(
                        "NRI plugin {name:?} updates the container that is being created"
                    )));
                }
                merge.update(&plugin.name, update).map_err(conflict)?;
            }
            merge.evictions.extend(answer.evict);
        }
        self.validate(&pod, &pristine, &merge).await?;
        drop(turn);
        apply::adjust(spec, &merge.adjust).map_err(CriError::Failed)?;
        let failed = self.update_for_plugin(merge.updates(), std::mem::take(&mut merge.evictions)).await;
        match failed.first() {
            Some(update) => {
                Err(CriError::Failed(format!("an update of container {:?} for NRI failed", update.container_id)))
            }
            None => Ok(()),
        }
    }

    /// Rules of the configuration, then plugins that judge.
    async fn validate(
        &self,
        pod: &wire::PodSandbox,
        pristine: &wire::Container,
        merge: &Merge,
    ) -> Result<(), CriError> {
        let nri = &self.inner.nri;
        let all = nri.all();
        let names: Vec<&str> = all.iter().map(|plugin| plugin.name.as_str()).collect();
        validate::by_rules(&self.inner.settings.nri.validator, pod, pristine, &merge.adjust, &names)
            .map_err(CriError::Failed)?;
        let judges = nri.listening(Event::ValidateContainerAdjustment);
        let request = wire::ValidateContainerAdjustmentRequest {
            pod: Some(pod.clone()),
            container: Some(pristine.clone()),
            adjust: Some(merge.adjust.clone()),
            update: merge.updates(),
            owners: Some(merge.owners()),
            plugins: all
                .iter()
                .map(|one| wire::PluginInstance { name: one.name.clone(), index: one.index.clone() })
                .collect(),
        };
        for plugin in judges {
            let method = "ValidateContainerAdjustment";
            let answer = nri.ask::<wire::ValidateContainerAdjustmentResponse>(&plugin, method, &request).await?;
            if let Some(answer) = answer.filter(|answer| answer.reject) {
                let name = plugin.full_name();
                return Err(CriError::Failed(format!(
                    "NRI plugin {name:?} rejects the adjustments: {}",
                    answer.reason
                )));
            }
        }
        Ok(())
    }

    /// A container was made.
    pub(super) async fn nri_post_create(&self, pod: &Pod, container: &Container) {
        let request =
            wire::PostCreateContainerRequest { pod: Some(say::pod(pod)), container: Some(self.say(container).await) };
        let nri = &self.inner.nri;
        heard(
            nri.tell::<wire::PostCreateContainerResponse>(Event::PostCreateContainer, "PostCreateContainer", &request)
                .await,
        );
    }

    /// A container is about to be started. A refusal fails the start.
    pub(super) async fn nri_start(&self, pod: &Pod, container: &Container) -> Result<(), CriError> {
        if self.inner.nri.listening(Event::StartContainer).is_empty() {
            return Ok(());
        }
        let request =
            wire::StartContainerRequest { pod: Some(say::pod(pod)), container: Some(self.say(container).await) };
        self.inner.nri.tell::<wire::StartContainerResponse>(Event::StartContainer, "StartContainer", &request).await
    }

    /// A container was started.
    pub(super) async fn nri_post_start(&self, pod: &Pod, container: &Container) {
        if self.inner.nri.listening(Event::PostStartContainer).is_empty() {
            return;
        }
        let request =
            wire::PostStartContainerRequest { pod: Some(say::pod(pod)), container: Some(self.say(container).await) };
        let nri = &self.inner.nri;
        heard(
            nri.tell::<wire::PostStartContainerResponse>(Event::PostStartContainer, "PostStartContainer", &request)
                .await,
        );
    }

    /// Limits of a container are about to be changed to `resources`, in the form of the runtime specification: plugins have their say.
    pub(super) async fn nri_update(
        &self,
        pod: &Pod,
        container: &Container,
        resources: &mut serde_json::Value,
    ) -> Result<(), CriError> {
        let nri = &self.inner.nri;
        let plugins = nri.listening(Event::UpdateContainer);
        if plugins.is_empty() {
            return Ok(());
        }
        let turn = nri.turn.lock().await;
        let said = self.say(container).await;
        let mut merge = Merge::new(said.clone());
        let conflict = |error: owners::Conflict| CriError::Failed(format!("NRI: {error}"));
        for plugin in plugins {
            let request = wire::UpdateContainerRequest {
                pod: Some(say::pod(pod)),
                container: Some(said.clone()),
                linux_resources: Some(say::resources(resources)),
            };
            let Some(answer) = nri.ask::<wire::UpdateContainerResponse>(&plugin, "UpdateContainer", &request).await?
            else {
                continue;
            };
            for update in answer.update {
                merge.update(&plugin.name, update).map_err(conflict)?;
            }
            merge.evictions.extend(answer.evict);
        }
        drop(turn);
        let (own, others): (Vec<_>, Vec<_>) =
            merge.updates().into_iter().partition(|update| update.container_id == container.id);
        for update in own {
            if let Some(wanted) = update.linux.and_then(|linux| linux.resources) {
                apply::resources(resources, &wanted);
            }
        }
        self.update_for_plugin(others, merge.evictions).await;
        Ok(())
    }

    /// Limits of a container were changed.
    pub(super) async fn nri_post_update(&self, pod: &Pod, container: &Container) {
        let request =
            wire::PostUpdateContainerRequest { pod: Some(say::pod(pod)), container: Some(self.say(container).await) };
        let nri = &self.inner.nri;
        heard(
            nri.tell::<wire::PostUpdateContainerResponse>(Event::PostUpdateContainer, "PostUpdateContainer", &request)
                .await,
        );
    }

    /// A container was stopped, or ended by itself.
    pub(super) async fn nri_stop(&self, pod: &Pod, container: &Container) {
        let nri = &self.inner.nri;
        let plugins = nri.listening(Event::StopContainer);
        if plugins.is_empty() {
            return;
        }
        let turn = nri.turn.lock().await;
        let request =
            wire::StopContainerRequest { pod: Some(say::pod(pod)), container: Some(self.say(container).await) };
        let mut updates = Vec::new();
        for plugin in plugins {
            match nri.ask::<wire::StopContainerResponse>(&plugin, "StopContainer", &request).await {
                Ok(answer) => updates.extend(answer.into_iter().flat_map(|answer| answer.update)),
                Err(error) => heard(Err(error)),
            }
        }
        drop(turn);
        self.update_for_plugin(updates, Vec::new()).await;
    }

    /// A container is being removed.
    pub(super) async fn nri_remove(&self, pod: &Pod, container: &Container) {
        if self.inner.nri.listening(Event::RemoveContainer).is_empty() {
            return;
        }
        let request =
            wire::RemoveContainerRequest { pod: Some(say::pod(pod)), container: Some(self.say(container).await) };
        let nri = &self.inner.nri;
        heard(nri.tell::<wire::RemoveContainerResponse>(Event::RemoveContainer, "RemoveContainer", &request).await);
    }

    /// Changes containers for plugins; gives those that could not be changed and may not fail.
    pub(super) async fn update_for_plugin(
        &self,
        updates: Vec<wire::ContainerUpdate>,
        evictions: Vec<wire::ContainerEviction>,
    ) -> Vec<wire::ContainerUpdate> {
        let mut failed = Vec::new();
        for update in updates {
            if let Err(error) = self.update_one(&update).await {
                warn!(container = update.container_id, error = error.message(), "an update for an NRI plugin failed");
                if !update.ignore_failure {
                    failed.push(update);
                }
            }
        }
        for eviction in evictions {
            let cri = self.clone();
            self.inner.tracker.spawn(async move {
                info!(container = eviction.container_id, reason = eviction.reason, "an NRI plugin evicts a container");
                let request = proto::cri::StopContainerRequest { container_id: eviction.container_id, timeout: 0 };
                if let Err(failure) = cri.stop_container(request).await {
                    warn!(error = failure.message(), "an eviction failed");
                }
            });
        }
        failed
    }

    async fn update_one(&self, update: &wire::ContainerUpdate) -> Result<(), Failure> {
        let container = self.container(&update.container_id)?;
        let Some(wanted) = update.linux.as_ref().and_then(|linux| linux.resources.as_ref()) else { return Ok(()) };
        let mut resources = serde_json::json!({});
        apply::resources(&mut resources, wanted);
        let request = proto::services::tasks::v1::UpdateTaskRequest {
            container_id: container.id.clone(),
            resources: Some(proto::prost_types::Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".to_owned(),
                value: resources.to_string().into_bytes(),
            }),
            annotations: Default::default(),
        };
        Ok(self.inner.tasks.update(self.inner.namespace.clone(), request).await?)
    }
}

/// Refusals of what has happened already are only worth a line.
fn heard(result: Result<(), CriError>) {
    if let Err(error) = result {
        debug!(%error, "an NRI plugin refuses what has happened already");
    }
}

#[cfg(test)]
mod tests;
