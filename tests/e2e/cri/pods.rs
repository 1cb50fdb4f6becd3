//! The life of a pod.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use harness::cri::{code, container_config, host_network_pod, pod_config};
use harness::{Census, Node, eventually};
use proto::cri as wire;
use tonic::Code;
use wire::PodSandboxState::{SandboxNotready, SandboxReady};

fn state(node: &Node, id: &str) -> anyhow::Result<wire::PodSandboxState> {
    Ok(node.pod_status(id)?.status.context("a status")?.state())
}

/// The first process of a pod.
fn pid(node: &Node, id: &str) -> anyhow::Result<u32> {
    let info: serde_json::Value = serde_json::from_str(&node.pod_status(id)?.info["info"])?;
    Ok(u32::try_from(info["pid"].as_u64().context("a pid")?)?)
}

#[test]
fn a_pod_runs_is_stopped_and_removed_and_nothing_is_left() -> anyhow::Result<()> {
    let node = Node::start()?;
    // What is made once: the image of pods.
    let first = node.run_pod(&pod_config("first"))?;
    node.remove_pod(&first)?;
    let before = Census::take(node.daemon.folder(), "cri-none", node.daemon.pid()?);

    let config = pod_config("one");
    let id = node.run_pod(&config)?;
    ensure!(id.len() == 64 && state(&node, &id)? == SandboxReady);
    let status = node.pod_status(&id)?.status.context("a status")?;
    ensure!(status.metadata == config.metadata && status.labels == config.labels, "{status:?}");
    ensure!(status.annotations == config.annotations && status.created_at > 0, "{status:?}");
    let network = status.network.context("a network")?;
    ensure!(network.ip.starts_with("10.99."), "{network:?}");
    ensure!(network.additional_ips.iter().any(|ip| ip.ip.starts_with("fd99:")), "{network:?}");
    let process = pid(&node, &id)?;
    ensure!(std::path::Path::new(&format!("/proc/{process}")).exists());

    // Other clients see it as what it is.
    let seen = node.daemon.ctr(&["-n", "k8s.io", "containers", "info", &id])?.ok()?;
    ensure!(seen.contains("\"io.cri-containerd.kind\": \"sandbox\""), "{seen}");
    ensure!(node.daemon.ctr(&["-n", "k8s.io", "tasks", "ls"])?.ok()?.contains("RUNNING"));

    let stop = || {
        node.wait(async {
            node.pods().stop_pod_sandbox(wire::StopPodSandboxRequest { pod_sandbox_id: id.clone() }).await
        })
    };
    stop()?;
    ensure!(state(&node, &id)? == SandboxNotready);
    ensure!(!std::path::Path::new(&format!("/proc/{process}")).exists(), "its first process runs on");
    ensure!(node.pod_status(&id)?.status.context("a status")?.network.unwrap_or_default().ip.is_empty());
    stop()?;
    let remove = || {
        node.wait(async {
            node.pods().remove_pod_sandbox(wire::RemovePodSandboxRequest { pod_sandbox_id: id.clone() }).await
        })
    };
    remove()?;
    remove()?;
    stop()?;
    ensure!(node.pod_status(&id).unwrap_err().code() == Code::NotFound);
    ensure!(node.list_pods()?.is_empty());
    eventually("nothing is left", || {
        let left = Census::take(node.daemon.folder(), "cri-none", node.daemon.pid()?).left_since(&before);
        ensure!(left.is_empty(), "left on the machine:\n{left}");
        Ok(())
    })
}

#[test]
fn names_are_for_one_pod_at_a_time() -> anyhow::Result<()> {
    let node = Node::start()?;
    let id = node.run_pod(&pod_config("a"))?;
    let refused = node.run_pod(&pod_config("a")).unwrap_err();
    ensure!(refused.message().contains("is reserved for"), "{refused:?}");
    let mut again = pod_config("a");
    again.metadata.as_mut().context("metadata")?.attempt = 1;
    let second = node.run_pod(&again)?;
    ensure!(node.list_pods()?.len() == 2);
    for id in [id, second] {
        node.remove_pod(&id)?;
    }
    // A name is free again when its pod is gone, and after a failure too.
    let broken = node.conf_dir().join("10-pods.conflist");
    let text = std::fs::read_to_string(&broken)?;
    std::fs::write(&broken, text.replace("\"firewall\"", "\"no-such-plugin\""))?;
    ensure!(node.run_pod(&pod_config("a")).is_err());
    std::fs::write(&broken, text)?;
    let id = node.run_pod(&pod_config("a"))?;
    node.remove_pod(&id)?;
    Ok(())
}

#[test]
fn lists_are_filtered_and_streamed() -> anyhow::Result<()> {
    let node = Node::start()?;
    let ids = ["a", "b", "c"].map(|name| node.run_pod(&pod_config(name)));
    let [a, b, c] = ids;
    let (a, b, c) = (a?, b?, c?);
    node.wait(async { node.pods().stop_pod_sandbox(wire::StopPodSandboxRequest { pod_sandbox_id: c.clone() }).await })?;
    let list = |filter: wire::PodSandboxFilter| -> anyhow::Result<Vec<String>> {
        let request = wire::ListPodSandboxRequest { filter: Some(filter.clone()) };
        let listed = node.wait(async { node.pods().list_pod_sandbox(request).await })?.into_inner().items;
        let streamed = node.wait(async {
            let request = wire::StreamPodSandboxesRequest { filter: Some(filter) };
            let mut stream = node.pods().stream_pod_sandboxes(request).await?.into_inner();
            let mut all = Vec::new();
            while let Some(message) = stream.message().await? {
                all.extend(message.pod_sandboxes);
            }
            Ok::<_, tonic::Status>(all)
        })?;
        ensure!(listed == streamed, "{listed:?} {streamed:?}");
        Ok(listed.into_iter().map(|pod| pod.metadata.unwrap_or_default().name).collect())
    };
    let in_state = |state: wire::PodSandboxState| wire::PodSandboxFilter {
        state: Some(wire::PodSandboxStateValue { state: state.into() }),
        ..Default::default()
    };
    let sorted = |mut names: Vec<String>| {
        names.sort();
        names.join(" ")
    };
    ensure!(sorted(list(wire::PodSandboxFilter::default())?) == "a b c");
    ensure!(sorted(list(in_state(SandboxReady))?) == "a b");
    ensure!(sorted(list(in_state(SandboxNotready))?) == "c");
    let by_id = |id: &str| wire::PodSandboxFilter { id: id.to_owned(), ..Default::default() };
    ensure!(sorted(list(by_id(&a))?) == "a" && sorted(list(by_id(&a[..20]))?) == "a");
    ensure!(list(by_id("none"))?.is_empty());
    let labelled = |value: &str| wire::PodSandboxFilter {
        label_selector: BTreeMap::from([("name".to_owned(), value.to_owned())]),
        ..Default::default()
    };
    ensure!(sorted(list(labelled("b"))?) == "b" && list(labelled("x"))?.is_empty());
    for id in [a, b, c] {
        node.remove_pod(&id)?;
    }
    Ok(())
}

#[test]
fn containers_share_what_the_pod_has() -> anyhow::Result<()> {
    let node = Node::start()?;
    let mut config = pod_config("shared");
    config.dns_config = Some(wire::DnsConfig {
        servers: vec!["10.99.0.53".into()],
        searches: vec!["tests.local".into()],
        options: vec!["ndots:5".into()],
    });
    let linux = config.linux.as_mut().context("linux")?;
    linux.sysctls =
        BTreeMap::from([("kernel.shm_rmid_forced".into(), "1".into()), ("net.ipv4.ip_forward".into(), "1".into())]);
    let pod = node.run_pod(&config)?;
    let one = node.run_container(&pod, &config, &container_config("one", &["sleep", "600"]))?;
    let two = node.run_container(&pod, &config, &container_config("two", &["sleep", "600"]))?;
    let out = |container: &str, script: &str| -> anyhow::Result<String> {
        let ran = node.exec(container, &["sh", "-c", script])?;
        ensure!(ran.exit_code == 0, "{script}: {ran:?}");
        Ok(String::from_utf8(ran.stdout)?.trim().to_owned())
    };
    ensure!(out(&one, "hostname")? == "shared" && out(&one, "cat /etc/hostname")? == "shared");
    let resolver = out(&one, "cat /etc/resolv.conf")?;
    ensure!(resolver == "search tests.local\nnameserver 10.99.0.53\noptions ndots:5", "{resolver:?}");
    ensure!(out(&one, "cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_forward")? == "1\n1");
    ensure!(out(&one, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start")? == "0");
    out(&one, "echo here >/dev/shm/note")?;
    ensure!(out(&two, "cat /dev/shm/note")? == "here");
    for namespace in ["net", "ipc", "uts", "pid"] {
        let link = format!("readlink /proc/self/ns/{namespace}");
        ensure!(out(&one, &link)? == out(&two, &link)?, "{namespace}");
    }
    // One pid namespace for all of them: the first process is the pod's.
    ensure!(out(&one, "cat /proc/1/cmdline | tr '\\0' ' '")? == "/pause");
    // Its network is that of the pod: a server in one answers the other.
    let serve = ["sh", "-c", "mkdir /tmp/w; echo hello >/tmp/w/index.html; exec httpd -f -p 127.0.0.1:8080 -h /tmp/w"];
    node.run_container(&pod, &config, &container_config("server", &serve))?;
    eventually("the other container is heard", || {
        let ran = node.exec(&two, &["wget", "-q", "-O", "-", "http://127.0.0.1:8080/"])?;
        ensure!(ran.stdout == b"hello\n", "{ran:?}");
        Ok(())
    })?;
    node.remove_pod(&pod)?;
    ensure!(
        code(node.wait(async {
            node.pods().container_status(wire::ContainerStatusRequest { container_id: one, verbose: false }).await
        })) == Code::NotFound
    );
    Ok(())
}

#[test]
fn the_namespaces_of_the_node() -> anyhow::Result<()> {
    let node = Node::start()?;
    let mut config = host_network_pod("host");
    let modes = wire::NamespaceOption {
        network: wire::NamespaceMode::Node.into(),
        pid: wire::NamespaceMode::Node.into(),
        ipc: wire::NamespaceMode::Node.into(),
        ..Default::default()
    };
    let linux = config.linux.as_mut().context("linux")?;
    linux.security_context.as_mut().context("security")?.namespace_options = Some(modes.clone());
    let pod = node.run_pod(&config)?;
    let status = node.pod_status(&pod)?.status.context("a status")?;
    ensure!(status.network.clone().unwrap_or_default().ip.is_empty(), "{status:?}");
    let options = status.linux.and_then(|linux| linux.namespaces).and_then(|namespaces| namespaces.options);
    ensure!(options == Some(modes.clone()), "{options:?}");
    let daemon = node.daemon.pid()?;
    let first = pid(&node, &pod)?;
    for namespace in ["net", "pid", "ipc", "uts"] {
        let of = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/{namespace}"));
        ensure!(of(daemon)? == of(first)?, "{namespace}");
    }
    let mut container = container_config("c", &["sleep", "600"]);
    container.linux.as_mut().context("linux")?.security_context =
        Some(wire::LinuxContainerSecurityContext { namespace_options: Some(modes), ..Default::default() });
    let container = node.run_container(&pod, &config, &container)?;
    let links = node.exec(&container, &["sh", "-c", "ls /sys/class/net"])?;
    ensure!(String::from_utf8(links.stdout)?.contains("lo"));
    node.remove_pod(&pod)?;
    Ok(())
}

#[test]
fn the_end_of_the_first_process_makes_a_pod_not_ready() -> anyhow::Result<()> {
    let node = Node::start()?;
    let id = node.run_pod(&pod_config("ends"))?;
    let process = nix::unistd::Pid::from_raw(pid(&node, &id)?.cast_signed());
    nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGKILL)?;
    eventually("it is not ready", || {
        ensure!(state(&node, &id)? == SandboxNotready);
        Ok(())
    })?;
    // A new attempt can be made while the old one is there.
    let mut again = pod_config("ends");
    again.metadata.as_mut().context("metadata")?.attempt = 1;
    let second = node.run_pod(&again)?;
    node.remove_pod(&id)?;
    node.remove_pod(&second)?;
    Ok(())
}

#[test]
fn cgroups_are_where_the_kubelet_wants_them() -> anyhow::Result<()> {
    let node = Node::start()?;
    let parent = format!("/gantry-cri-{}/pod1", std::process::id());
    let mut config = pod_config("grouped");
    config.linux.as_mut().context("linux")?.cgroup_parent = parent.clone();
    let pod = node.run_pod(&config)?;
    let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", pid(&node, &pod)?))?;
    ensure!(groups.lines().any(|line| line.ends_with(&format!("{parent}/{pod}"))), "{groups}");
    let update = |id: &str| {
        let resources = Some(wire::LinuxContainerResources { cpu_shares: 512, ..Default::default() });
        let request =
            wire::UpdatePodSandboxResourcesRequest { pod_sandbox_id: id.to_owned(), overhead: None, resources };
        node.wait(async { node.pods().update_pod_sandbox_resources(request).await })
    };
    update(&pod)?;
    ensure!(code(update("none")) == Code::NotFound);
    node.wait(async {
        node.pods().stop_pod_sandbox(wire::StopPodSandboxRequest { pod_sandbox_id: pod.clone() }).await
    })?;
    ensure!(code(update(&pod)) == Code::FailedPrecondition);
    node.remove_pod(&pod)?;
    // The parents are the kubelet's; here they are ours to remove.
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup")?.flatten() {
        let folder = hierarchy.path().join(parent.trim_start_matches('/'));
        let _ = std::fs::remove_dir(&folder);
        let _ = folder.parent().map(std::fs::remove_dir);
    }
    Ok(())
}

#[test]
fn a_client_that_goes_away_leaves_no_pod() -> anyhow::Result<()> {
    let node = Node::start()?;
    let folder = node.plugin_dir()?;
    // A plugin that takes its time while it is told to, and says when it has begun.
    let (slow, begun) = (node.daemon.folder().join("slow"), node.daemon.folder().join("begun"));
    std::fs::write(&slow, "")?;
    let script = format!(
        "#!/bin/sh\n[ \"$CNI_COMMAND\" = ADD ] && while [ -e {} ]; do touch {}; sleep 0.05; done\necho '{{}}'\n",
        slow.display(),
        begun.display()
    );
    write_program(&folder.join("slow"), &script)?;
    let network = r#"{"cniVersion":"1.0.0","name":"s","plugins":[{"type":"slow"}]}"#;
    std::fs::write(node.conf_dir().join("10-pods.conflist"), network)?;
    let request = wire::RunPodSandboxRequest { config: Some(pod_config("gone")), runtime_handler: String::new() };
    let mut client = node.pods();
    let running = node.spawn(async move { client.run_pod_sandbox(request).await });
    eventually("the plugin runs", || {
        ensure!(begun.exists());
        Ok(())
    })?;
    running.abort();
    ensure!(node.list_pods()?.is_empty(), "nobody was told of it");
    std::fs::remove_file(&slow)?;
    let id = eventually("its name is free again", || Ok(node.run_pod(&pod_config("gone"))?))?;
    ensure!(node.list_pods()?.len() == 1);
    node.remove_pod(&id)?;
    Ok(())
}

/// Writes an executable file.
pub(super) fn write_program(path: &std::path::Path, text: &str) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}
