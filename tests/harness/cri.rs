//! A node: a private daemon as a kubelet sees it, with a network for pods, and the generated client.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use client::{Client, Connection};
use proto::cri as wire;
use proto::cri::image_service_client::ImageServiceClient;
use proto::cri::runtime_service_client::RuntimeServiceClient;
use tonic::{Code, Response, Status};

use crate::image::BUSYBOX_NAME;
use crate::{Gantryd, busybox_archive};

/// Where Debian installs network plugins.
pub const PLUGINS: &str = "/usr/lib/cni";

/// A private daemon with pods.
#[derive(Debug)]
pub struct Node {
    /// The daemon.
    pub daemon: Gantryd,
    runtime: tokio::runtime::Runtime,
    client: Client,
}

/// What a node's configuration says besides the usual.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// More of the file.
    pub config: String,
    /// The network configuration; the usual one if it is empty.
    pub network: String,
}

/// The usual network: a bridge with addresses of both families, ports, bandwidth, a firewall.
pub fn usual_network(folder: &Path) -> String {
    serde_json::json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "pods0",
                "isGateway": true,
                "ipMasq": false,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": folder.join("addresses"),
                    "ranges": [[{ "subnet": "10.99.0.0/16" }], [{ "subnet": "fd99::/64" }]],
                    "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
            { "type": "bandwidth", "capabilities": { "bandwidth": true } },
            { "type": "firewall" },
        ],
    })
    .to_string()
}

impl Node {
    /// A node with the usual network, in a network namespace of its own, and the small image.
    ///
    /// # Errors
    /// When the daemon does not serve, or refuses the image.
    pub fn start() -> anyhow::Result<Self> {
        Self::with(Setup::default())
    }

    /// The same, set up in another way.
    ///
    /// # Errors
    /// When the daemon does not serve, or refuses the image.
    pub fn with(setup: Setup) -> anyhow::Result<Self> {
        let daemon = Gantryd::in_private_network(|folder| {
            let cni = folder.join("cni");
            std::fs::create_dir(&cni)?;
            let network = if setup.network.is_empty() { usual_network(folder) } else { setup.network.clone() };
            std::fs::write(cni.join("10-pods.conflist"), network)?;
            Ok(format!(
                "[plugins.\"io.containerd.cri.v1.runtime\"]\nnetns_mounts_under_state_dir = true\n\
                 [plugins.\"io.containerd.cri.v1.runtime\".cni]\nbin_dirs = [\"{}\", \"{PLUGINS}\"]\nconf_dir = \"{}\"\n\
                 [plugins.\"io.containerd.nri.v1.nri\"]\nsocket_path = \"{}\"\nplugin_path = \"{}\"\nplugin_config_path = \"{}\"\n{}",
                folder.join("plugins").display(),
                cni.display(),
                folder.join("nri.sock").display(),
                folder.join("nri").display(),
                folder.join("nri-conf").display(),
                setup.config,
            ))
        })?;
        Self::over(daemon)
    }

    /// A node in the network of the test, whose pods have none of their own: for what needs a registry.
    ///
    /// # Errors
    /// When the daemon does not serve, or refuses the image.
    pub fn without_network() -> anyhow::Result<Self> {
        Self::over(Gantryd::with_config("[plugins.\"io.containerd.nri.v1.nri\"]\ndisable = true\n")?)
    }

    fn over(daemon: Gantryd) -> anyhow::Result<Self> {
        let archive = busybox_archive()?.display().to_string();
        daemon.ctr(&["-n", "k8s.io", "images", "import", &archive])?.ok()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let client = runtime.block_on(connect(&daemon))?;
        Ok(Self { daemon, runtime, client })
    }

    /// Waits for a future.
    pub fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Begins a call and does not wait for it.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.runtime.spawn(work)
    }

    /// The client for pods and containers.
    pub fn pods(&self) -> RuntimeServiceClient<Connection> {
        self.client.pods()
    }

    /// The client for images.
    pub fn images(&self) -> ImageServiceClient<Connection> {
        self.client.pod_images()
    }

    /// The folder of the network configuration.
    pub fn conf_dir(&self) -> PathBuf {
        self.daemon.folder().join("cni")
    }

    /// The folder for plugins of the test, which are preferred.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn plugin_dir(&self) -> anyhow::Result<PathBuf> {
        let folder = self.daemon.folder().join("plugins");
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// Kills the daemon, and starts it again.
    ///
    /// # Errors
    /// When it does not serve.
    pub fn crash(&mut self) -> anyhow::Result<()> {
        self.daemon.kill9()?;
        self.relaunch()
    }

    /// Starts the daemon again after it ended.
    ///
    /// # Errors
    /// When it does not serve.
    pub fn relaunch(&mut self) -> anyhow::Result<()> {
        self.daemon.launch()?;
        self.client = self.runtime.block_on(connect(&self.daemon))?;
        Ok(())
    }

    /// Runs a pod.
    ///
    /// # Errors
    /// When it is refused.
    pub fn run_pod(&self, config: &wire::PodSandboxConfig) -> Result<String, Status> {
        let request = wire::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
        let answer = self.wait(async { self.pods().run_pod_sandbox(request).await })?;
        Ok(answer.into_inner().pod_sandbox_id)
    }

    /// Stops and removes a pod.
    ///
    /// # Errors
    /// When that fails.
    pub fn remove_pod(&self, id: &str) -> Result<(), Status> {
        self.wait(async {
            self.pods().stop_pod_sandbox(wire::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() }).await?;
            self.pods().remove_pod_sandbox(wire::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() }).await?;
            Ok(())
        })
    }

    /// The status of a pod.
    ///
    /// # Errors
    /// When there is none.
    pub fn pod_status(&self, id: &str) -> Result<wire::PodSandboxStatusResponse, Status> {
        let request = wire::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true };
        Ok(self.wait(async { self.pods().pod_sandbox_status(request).await })?.into_inner())
    }

    /// All pods, by id.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn list_pods(&self) -> Result<Vec<wire::PodSandbox>, Status> {
        let answer = self.wait(async { self.pods().list_pod_sandbox(wire::ListPodSandboxRequest::default()).await })?;
        Ok(answer.into_inner().items)
    }

    /// Makes a container in a pod and starts it.
    ///
    /// # Errors
    /// When that is refused.
    pub fn run_container(
        &self,
        pod: &str,
        pod_config: &wire::PodSandboxConfig,
        config: &wire::ContainerConfig,
    ) -> Result<String, Status> {
        let request = wire::CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(config.clone()),
            sandbox_config: Some(pod_config.clone()),
        };
        self.wait(async {
            let id = self.pods().create_container(request).await?.into_inner().container_id;
            self.pods().start_container(wire::StartContainerRequest { container_id: id.clone() }).await?;
            Ok(id)
        })
    }

    /// Runs a command in a container to its end.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn exec(&self, container: &str, command: &[&str]) -> Result<wire::ExecSyncResponse, Status> {
        let cmd = command.iter().map(|&word| word.to_owned()).collect();
        let request = wire::ExecSyncRequest { container_id: container.to_owned(), cmd, timeout: 30 };
        Ok(self.wait(async { self.pods().exec_sync(request).await })?.into_inner())
    }

    /// Runs a program in the network namespace of the daemon.
    ///
    /// # Errors
    /// When it fails.
    pub fn in_network(&self, command: &[&str]) -> anyhow::Result<String> {
        let netns = self.daemon.netns().context("it has no network of its own")?.display().to_string();
        let mut all = vec![format!("--net={netns}"), "--".to_owned()];
        all.extend(command.iter().map(|&word| word.to_owned()));
        crate::run(&crate::programs::find("nsenter")?, &all)?.ok()
    }
}

async fn connect(daemon: &Gantryd) -> anyhow::Result<Client> {
    let namespace = model::Namespace::new("k8s.io")?;
    Ok(Client::connect(&daemon.address(), namespace).await?)
}

/// A pod with a name, and nothing else said about it.
pub fn pod_config(name: &str) -> wire::PodSandboxConfig {
    wire::PodSandboxConfig {
        metadata: Some(wire::PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            namespace: "tests".to_owned(),
            attempt: 0,
        }),
        hostname: name.to_owned(),
        labels: BTreeMap::from([("name".to_owned(), name.to_owned())]),
        annotations: BTreeMap::from([("note".to_owned(), "n".to_owned())]),
        linux: Some(wire::LinuxPodSandboxConfig::default()),
        ..wire::PodSandboxConfig::default()
    }
}

/// A pod with the network of the node.
pub fn host_network_pod(name: &str) -> wire::PodSandboxConfig {
    let mut config = pod_config(name);
    let options =
        wire::NamespaceOption { network: wire::NamespaceMode::Node.into(), ..wire::NamespaceOption::default() };
    let security = wire::LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() };
    config.linux.get_or_insert_default().security_context = Some(security);
    config
}

/// A container of the small image.
pub fn container_config(name: &str, command: &[&str]) -> wire::ContainerConfig {
    wire::ContainerConfig {
        metadata: Some(wire::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
        image: Some(wire::ImageSpec { image: BUSYBOX_NAME.to_owned(), ..wire::ImageSpec::default() }),
        command: command.iter().map(|&word| word.to_owned()).collect(),
        linux: Some(wire::LinuxContainerConfig::default()),
        ..wire::ContainerConfig::default()
    }
}

/// The code with which a call was refused; `Ok` if it was not.
pub fn code<T>(answer: Result<Response<T>, Status>) -> Code {
    answer.map_or_else(|status| status.code(), |_| Code::Ok)
}

/// A connection to an address inside of a network namespace. A thread of its own enters it, connects, and ends.
///
/// # Errors
/// When it cannot be entered, or nobody listens.
pub fn dial(netns: &Path, address: &str) -> anyhow::Result<std::net::TcpStream> {
    let (netns, address) = (std::fs::File::open(netns)?, address.to_owned());
    let dialling = std::thread::spawn(move || {
        nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from)?;
        std::net::TcpStream::connect(address)
    });
    Ok(dialling.join().map_err(|_| anyhow::anyhow!("the dialling thread panicked"))??)
}
