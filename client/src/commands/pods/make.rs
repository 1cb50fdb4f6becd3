//! Pods and containers made, used and removed.

use std::collections::BTreeMap;
use std::io::Write as _;

use client::{Client, ClientError};
use proto::cri as wire;

use super::{container_id, pod_id};
use crate::output;

#[derive(Debug, clap::Args)]
pub(super) struct Run {
    /// Its name.
    name: String,
    /// Its namespace, in Kubernetes' sense.
    #[arg(long, default_value = "default")]
    pod_namespace: String,
    /// What runs it; the default one if it is not given.
    #[arg(long, default_value = "")]
    handler: String,
    /// Lead a port of the node to it: `[HOST_IP:]HOST_PORT:CONTAINER_PORT[/udp|/sctp]`.
    #[arg(short, long)]
    publish: Vec<String>,
    /// Use the network of the node.
    #[arg(long)]
    host_network: bool,
    /// Give it a label.
    #[arg(short, long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Where its containers' logs are.
    #[arg(long, default_value = "/var/log/pods")]
    log_directory: String,
    /// Ask this server for names.
    #[arg(long)]
    dns: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Add {
    /// The pod.
    pod: String,
    /// The container's name.
    name: String,
    /// The image; it is pulled if it is not there.
    image: String,
    /// The command, instead of the image's.
    #[arg(trailing_var_arg = true)]
    command: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Exec {
    /// The container.
    container: String,
    /// How long the command may take, in seconds; 0 is for ever.
    #[arg(long, default_value_t = 0)]
    timeout: i64,
    /// The command.
    #[arg(trailing_var_arg = true, required = true)]
    command: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Names {
    /// The pods.
    #[arg(required = true)]
    pods: Vec<String>,
}

/// Where the pod's configuration is kept for those who add containers to it.
const LOG_LABEL: &str = "gantry.io/log-directory";

pub(super) async fn run(client: &Client, run: Run) -> Result<u8, ClientError> {
    let mut labels = BTreeMap::new();
    for label in &run.label {
        let (key, value) =
            label.split_once('=').ok_or_else(|| ClientError::Invalid(format!("label {label:?} has no =")))?;
        labels.insert(key.to_owned(), value.to_owned());
    }
    let log_directory = format!("{}/{}_{}", run.log_directory, run.pod_namespace, run.name);
    let mode = if run.host_network { wire::NamespaceMode::Node } else { wire::NamespaceMode::Pod };
    let options = wire::NamespaceOption { network: mode.into(), ..wire::NamespaceOption::default() };
    let security = wire::LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() };
    let config = wire::PodSandboxConfig {
        metadata: Some(wire::PodSandboxMetadata {
            name: run.name.clone(),
            uid: format!("{}-{}", run.pod_namespace, run.name),
            namespace: run.pod_namespace,
            attempt: 0,
        }),
        hostname: run.name,
        annotations: BTreeMap::from([(LOG_LABEL.to_owned(), log_directory.clone())]),
        log_directory,
        labels,
        port_mappings: run.publish.iter().map(|text| port(text)).collect::<Result<_, _>>()?,
        dns_config: (!run.dns.is_empty()).then(|| wire::DnsConfig { servers: run.dns, ..wire::DnsConfig::default() }),
        linux: Some(wire::LinuxPodSandboxConfig { security_context: Some(security), ..Default::default() }),
        ..wire::PodSandboxConfig::default()
    };
    let request = wire::RunPodSandboxRequest { config: Some(config), runtime_handler: run.handler };
    let answer = client.pods().run_pod_sandbox(request).await?.into_inner();
    output::line(&answer.pod_sandbox_id);
    Ok(0)
}

/// `[HOST_IP:]HOST_PORT:CONTAINER_PORT[/PROTOCOL]`
fn port(text: &str) -> Result<wire::PortMapping, ClientError> {
    let wrong = || ClientError::Invalid(format!("{text:?} is not [HOST_IP:]HOST_PORT:CONTAINER_PORT[/udp|/sctp]"));
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol {
        "tcp" => wire::Protocol::Tcp,
        "udp" => wire::Protocol::Udp,
        "sctp" => wire::Protocol::Sctp,
        _ => return Err(wrong()),
    };
    let (rest, container) = ports.rsplit_once(':').ok_or_else(wrong)?;
    let (host_ip, host) = rest.rsplit_once(':').unwrap_or(("", rest));
    let number = |text: &str| text.parse::<u16>().map(i32::from).map_err(|_| wrong());
    Ok(wire::PortMapping {
        protocol: protocol.into(),
        container_port: number(container)?,
        host_port: number(host)?,
        host_ip: host_ip.trim_matches(['[', ']']).to_owned(),
    })
}

pub(super) async fn add(client: &Client, add: Add) -> Result<u8, ClientError> {
    let pod = pod_id(client, &add.pod).await?;
    let status = client
        .pods()
        .pod_sandbox_status(wire::PodSandboxStatusRequest { pod_sandbox_id: pod.clone(), verbose: false })
        .await?
        .into_inner()
        .status
        .unwrap_or_default();
    let image = wire::ImageSpec { image: add.image, ..wire::ImageSpec::default() };
    let known = client
        .pod_images()
        .image_status(wire::ImageStatusRequest { image: Some(image.clone()), verbose: false })
        .await?;
    if known.into_inner().image.is_none() {
        let pull = wire::PullImageRequest { image: Some(image.clone()), ..wire::PullImageRequest::default() };
        client.pod_images().pull_image(pull).await?;
    }
    let sandbox_config = wire::PodSandboxConfig {
        metadata: status.metadata,
        log_directory: status.annotations.get(LOG_LABEL).cloned().unwrap_or_default(),
        labels: status.labels,
        annotations: status.annotations,
        linux: Some(wire::LinuxPodSandboxConfig::default()),
        ..wire::PodSandboxConfig::default()
    };
    let security = wire::LinuxContainerSecurityContext {
        namespace_options: status.linux.and_then(|linux| linux.namespaces).and_then(|namespaces| namespaces.options),
        ..wire::LinuxContainerSecurityContext::default()
    };
    let config = wire::ContainerConfig {
        log_path: format!("{}.log", add.name),
        metadata: Some(wire::ContainerMetadata { name: add.name, attempt: 0 }),
        image: Some(image),
        command: add.command,
        linux: Some(wire::LinuxContainerConfig { security_context: Some(security), ..Default::default() }),
        ..wire::ContainerConfig::default()
    };
    let request = wire::CreateContainerRequest {
        pod_sandbox_id: pod,
        config: Some(config),
        sandbox_config: Some(sandbox_config),
    };
    let id = client.pods().create_container(request).await?.into_inner().container_id;
    client.pods().start_container(wire::StartContainerRequest { container_id: id.clone() }).await?;
    output::line(&id);
    Ok(0)
}

pub(super) async fn exec(client: &Client, exec: Exec) -> Result<u8, ClientError> {
    let container_id = container_id(client, &exec.container).await?;
    let request = wire::ExecSyncRequest { container_id, cmd: exec.command, timeout: exec.timeout };
    let ended = client.pods().exec_sync(request).await?.into_inner();
    // Whoever does not read it does not miss it.
    let _ = std::io::stdout().write_all(&ended.stdout);
    let _ = std::io::stderr().write_all(&ended.stderr);
    Ok(u8::try_from(ended.exit_code & 0xff).unwrap_or(u8::MAX))
}

pub(super) async fn stop(client: &Client, names: &Names) -> Result<u8, ClientError> {
    for name in &names.pods {
        let pod_sandbox_id = pod_id(client, name).await?;
        client.pods().stop_pod_sandbox(wire::StopPodSandboxRequest { pod_sandbox_id }).await?;
        output::line(name);
    }
    Ok(0)
}

pub(super) async fn remove(client: &Client, names: &Names) -> Result<u8, ClientError> {
    for name in &names.pods {
        let id = pod_id(client, name).await?;
        client.pods().stop_pod_sandbox(wire::StopPodSandboxRequest { pod_sandbox_id: id.clone() }).await?;
        client.pods().remove_pod_sandbox(wire::RemovePodSandboxRequest { pod_sandbox_id: id }).await?;
        output::line(name);
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_as_people_write_them() {
        let full = port("10.0.0.1:8080:80/udp").unwrap();
        assert_eq!(
            (full.host_ip.as_str(), full.host_port, full.container_port, full.protocol),
            ("10.0.0.1", 8080, 80, 1)
        );
        assert_eq!(port("[fd00::1]:1:2").unwrap().host_ip, "fd00::1");
        assert_eq!(port("1:2").unwrap().host_ip, "");
        for wrong in ["", "80", "a:b", "1:2/x", "1:70000"] {
            assert!(port(wrong).is_err(), "{wrong}");
        }
    }
}
