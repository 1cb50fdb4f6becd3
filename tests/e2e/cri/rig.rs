//! A private gantryd with the small image in `k8s.io`, and a kubelet's side of the CRI.

use std::future::Future;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use harness::image::BUSYBOX_NAME;
use harness::{Gantryd, busybox_archive, eventually};
use proto::cri;
use proto::cri::runtime_service_client::RuntimeServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

/// The largest message that is taken: outputs of commands are large.
const MAX_MESSAGE: usize = 64 << 20;

/// A daemon and a client. Pods are removed when it is dropped.
pub(super) struct Rig {
    pub(super) daemon: Gantryd,
    runtime: tokio::runtime::Runtime,
    channel: Channel,
}

impl Rig {
    /// Starts one.
    pub(super) fn start() -> anyhow::Result<Self> {
        Self::with_config("")
    }

    /// Starts one with a configuration.
    pub(super) fn with_config(config: &str) -> anyhow::Result<Self> {
        let daemon = Gantryd::with_config(config)?;
        daemon.ctr(&["-n", "k8s.io", "images", "import", &busybox_archive()?.display().to_string()])?.ok()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let endpoint = Endpoint::from_shared(format!("unix://{}", daemon.address().display()))?;
        let channel = runtime.block_on(async { endpoint.connect_lazy() });
        Ok(Self { daemon, runtime, channel })
    }

    /// The runtime service.
    pub(super) fn cri(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// Waits for an answer.
    pub(super) fn ask<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
        self.runtime.block_on(call).map(Response::into_inner)
    }

    /// Waits for anything.
    pub(super) fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// The folder of all logs.
    pub(super) fn logs(&self) -> PathBuf {
        self.daemon.folder().join("logs")
    }

    /// The configuration of a pod with the network of the machine.
    pub(super) fn pod_config(&self, name: &str) -> cri::PodSandboxConfig {
        let options = cri::NamespaceOption { network: cri::NamespaceMode::Node.into(), ..Default::default() };
        let security = cri::LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() };
        cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: name.into(),
                uid: format!("uid-{name}"),
                namespace: "tests".into(),
                attempt: 0,
            }),
            log_directory: self.logs().join(name).display().to_string(),
            linux: Some(cri::LinuxPodSandboxConfig { security_context: Some(security), ..Default::default() }),
            ..Default::default()
        }
    }

    /// Runs a pod with the network of the machine.
    pub(super) fn pod(&self, name: &str) -> anyhow::Result<Pod> {
        self.run_pod(self.pod_config(name))
    }

    /// Runs a pod.
    pub(super) fn run_pod(&self, config: cri::PodSandboxConfig) -> anyhow::Result<Pod> {
        self.run_pod_with(config, "")
    }

    /// Runs a pod by a runtime handler.
    pub(super) fn run_pod_with(&self, config: cri::PodSandboxConfig, handler: &str) -> anyhow::Result<Pod> {
        let request = cri::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: handler.into() };
        let id = self.ask(self.cri().run_pod_sandbox(request))?.pod_sandbox_id;
        Ok(Pod { id, config })
    }

    /// Makes a container.
    pub(super) fn create(&self, pod: &Pod, config: cri::ContainerConfig) -> Result<String, Status> {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(config),
            sandbox_config: Some(pod.config.clone()),
        };
        Ok(self.ask(self.cri().create_container(request))?.container_id)
    }

    /// Makes a container that runs a script.
    pub(super) fn create_script(&self, pod: &Pod, name: &str, script: &str) -> Result<String, Status> {
        self.create(pod, script_config(name, script))
    }

    /// Starts a container.
    pub(super) fn start_container(&self, id: &str) -> Result<(), Status> {
        let request = cri::StartContainerRequest { container_id: id.into() };
        self.ask(self.cri().start_container(request)).map(drop)
    }

    /// Makes and starts a container.
    pub(super) fn run(&self, pod: &Pod, config: cri::ContainerConfig) -> anyhow::Result<String> {
        let id = self.create(pod, config)?;
        self.start_container(&id)?;
        Ok(id)
    }

    /// Makes and starts a container, and waits for its end: its status, and what it wrote.
    pub(super) fn run_to_end(
        &self,
        pod: &Pod,
        config: cri::ContainerConfig,
    ) -> anyhow::Result<(cri::ContainerStatus, String)> {
        let id = self.run(pod, config)?;
        let status = self.ended(&id)?;
        let lines = content(&std::fs::read_to_string(&status.log_path)?)?;
        Ok((status, lines))
    }

    /// What a script prints in a container with a changed configuration.
    pub(super) fn printed(
        &self,
        pod: &Pod,
        name: &str,
        script: &str,
        change: impl FnOnce(&mut cri::ContainerConfig),
    ) -> anyhow::Result<String> {
        let mut config = script_config(name, script);
        change(&mut config);
        let (status, output) = self.run_to_end(pod, config)?;
        ensure!(status.exit_code == 0, "{name} ended with {}: {output} {}", status.exit_code, status.message);
        Ok(output)
    }

    /// The status of a container.
    pub(super) fn status(&self, id: &str) -> Result<cri::ContainerStatus, Status> {
        let request = cri::ContainerStatusRequest { container_id: id.into(), verbose: false };
        Ok(self.ask(self.cri().container_status(request))?.status.unwrap_or_default())
    }

    /// Waits until a container has ended.
    pub(super) fn ended(&self, id: &str) -> anyhow::Result<cri::ContainerStatus> {
        eventually("the container ends", || {
            let status = self.status(id)?;
            ensure!(status.state() == cri::ContainerState::ContainerExited, "{:?}", status.state());
            Ok(status)
        })
    }

    /// Stops a container.
    pub(super) fn stop(&self, id: &str, timeout: i64) -> Result<(), Status> {
        let request = cri::StopContainerRequest { container_id: id.into(), timeout };
        self.ask(self.cri().stop_container(request)).map(drop)
    }

    /// Removes a container.
    pub(super) fn remove(&self, id: &str) -> Result<(), Status> {
        let request = cri::RemoveContainerRequest { container_id: id.into() };
        self.ask(self.cri().remove_container(request)).map(drop)
    }

    /// Runs a command in a container.
    pub(super) fn exec(&self, id: &str, command: &[&str], timeout: i64) -> Result<cri::ExecSyncResponse, Status> {
        let cmd = command.iter().map(|&word| word.to_owned()).collect();
        self.ask(self.cri().exec_sync(cri::ExecSyncRequest { container_id: id.into(), cmd, timeout }))
    }

    /// The containers that fit.
    pub(super) fn list(&self, filter: cri::ContainerFilter) -> Result<Vec<cri::Container>, Status> {
        let request = cri::ListContainersRequest { filter: Some(filter) };
        Ok(self.ask(self.cri().list_containers(request))?.containers)
    }

    /// Stops and removes every pod.
    pub(super) fn remove_pods(&self) -> Result<(), Status> {
        let all = self.ask(self.cri().list_pod_sandbox(cri::ListPodSandboxRequest { filter: None }))?;
        for pod in all.items {
            self.ask(self.cri().stop_pod_sandbox(cri::StopPodSandboxRequest { pod_sandbox_id: pod.id.clone() }))?;
            self.ask(self.cri().remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: pod.id }))?;
        }
        Ok(())
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // A test that kills the daemon has none to ask.
        if self.daemon.pid().is_ok()
            && let Err(status) = self.remove_pods()
        {
            eprintln!("pods stay: {status}");
        }
    }
}

/// A pod that runs.
#[derive(Debug, Clone)]
pub(super) struct Pod {
    pub(super) id: String,
    pub(super) config: cri::PodSandboxConfig,
}

/// A container that runs a script of busybox.
pub(super) fn script_config(name: &str, script: &str) -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(cri::ImageSpec { image: BUSYBOX_NAME.into(), ..Default::default() }),
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        log_path: format!("{name}.log"),
        ..Default::default()
    }
}

/// The security context of a container, to be changed.
pub(super) fn security(config: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerSecurityContext {
    config.linux.get_or_insert_default().security_context.get_or_insert_default()
}

/// The content of a log in the form of the CRI, both streams as they come.
pub(super) fn content(log: &str) -> anyhow::Result<String> {
    let mut text = String::new();
    for line in log.lines() {
        let mut fields = line.splitn(4, ' ');
        let (_time, stream, tag) = (fields.next(), fields.next(), fields.next());
        ensure!(matches!(stream, Some("stdout" | "stderr")), "no line of a log: {line:?}");
        text += fields.next().context("a line without content")?;
        match tag {
            Some("F") => text.push('\n'),
            Some("P") => {}
            other => anyhow::bail!("unknown tag {other:?} in {line:?}"),
        }
    }
    Ok(text)
}

/// The code of a refusal.
pub(super) fn code<T>(answer: Result<T, Status>) -> Code {
    answer.err().map_or(Code::Ok, |status| status.code())
}
