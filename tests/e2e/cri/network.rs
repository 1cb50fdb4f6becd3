//! Networks of pods, by Debian's plugins and by plugins of the test.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use harness::cri::{Setup, container_config, pod_config};
use harness::{Node, eventually};
use proto::cri as wire;

use super::pods::write_program;

fn verbose(node: &Node, id: &str) -> anyhow::Result<serde_json::Value> {
    Ok(serde_json::from_str(&node.pod_status(id)?.info["info"])?)
}

fn stop(node: &Node, id: &str) -> Result<(), tonic::Status> {
    let request = wire::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
    node.wait(async { node.pods().stop_pod_sandbox(request).await }).map(drop)
}

fn remove(node: &Node, id: &str) -> Result<(), tonic::Status> {
    let request = wire::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
    node.wait(async { node.pods().remove_pod_sandbox(request).await }).map(drop)
}

/// A network of one plugin of the test, which writes down what it is called with, and fails at what is in a file.
fn scripted(node: &Node, version: &str) -> anyhow::Result<()> {
    let folder = node.daemon.folder().display().to_string();
    let script = format!(
        "#!/bin/sh\ninput=$(cat)\necho \"$CNI_COMMAND $CNI_CONTAINERID $CNI_ARGS $CNI_IFNAME [$CNI_NETNS] $input\" >>{folder}/calls\n\
         if grep -qs \"$CNI_COMMAND\" {folder}/fails; then echo '{{\"code\":11,\"msg\":\"not now\"}}'; exit 1; fi\n\
         [ \"$CNI_COMMAND\" = ADD ] && echo '{{\"cniVersion\":\"{version}\",\"ips\":[{{\"address\":\"10.1.2.3/24\"}}]}}'\nexit 0\n"
    );
    write_program(&node.plugin_dir()?.join("scripted"), &script)?;
    let network = format!(
        r#"{{"cniVersion":"{version}","name":"scripted","plugins":[{{"type":"scripted","capabilities":{{"portMappings":true,"bandwidth":true}}}}]}}"#
    );
    Ok(std::fs::write(node.conf_dir().join("10-pods.conflist"), network)?)
}

fn calls(node: &Node) -> Vec<String> {
    let text = std::fs::read_to_string(node.daemon.folder().join("calls")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn pods_reach_each_other_and_ports_reach_pods() -> anyhow::Result<()> {
    let node = Node::start()?;
    let mut config = pod_config("server");
    let tcp = wire::Protocol::Tcp.into();
    config.port_mappings = vec![
        wire::PortMapping { protocol: tcp, container_port: 80, host_port: 18080, host_ip: String::new() },
        wire::PortMapping { protocol: tcp, container_port: 81, host_port: 0, host_ip: String::new() },
    ];
    config.annotations.insert("kubernetes.io/ingress-bandwidth".into(), "100M".into());
    let server = node.run_pod(&config)?;
    let serve = ["sh", "-c", "mkdir /tmp/w; echo page >/tmp/w/index.html; exec httpd -f -p 80 -h /tmp/w"];
    node.run_container(&server, &config, &container_config("httpd", &serve))?;
    let network = node.pod_status(&server)?.status.context("status")?.network.context("network")?;
    let client_config = pod_config("client");
    let client = node.run_pod(&client_config)?;
    let client_container = node.run_container(&client, &client_config, &container_config("c", &["sleep", "600"]))?;
    let v6 = network.additional_ips.first().context("an IPv6 address")?.ip.clone();
    for url in [format!("http://{}/", network.ip), format!("http://[{v6}]/")] {
        eventually("the page comes from pod to pod", || {
            let ran = node.exec(&client_container, &["wget", "-q", "-O", "-", &url])?;
            ensure!(ran.stdout == b"page\n", "{url}: {ran:?}");
            Ok(())
        })?;
    }
    // The port of the node, which a plugin leads to the pod.
    let gateway = "http://10.99.0.1:18080/";
    let ran = node.exec(&client_container, &["wget", "-q", "-O", "-", gateway])?;
    ensure!(ran.stdout == b"page\n", "{ran:?}");
    let shaped = node.in_network(&["tc", "qdisc", "show"])?;
    ensure!(shaped.contains("tbf"), "{shaped}");
    node.remove_pod(&server)?;
    let rules = node.in_network(&["iptables-save", "-t", "nat"])?;
    ensure!(!rules.contains("18080"), "{rules}");
    node.remove_pod(&client)?;
    let links = node.in_network(&["ip", "-o", "link"])?;
    ensure!(!links.contains("veth"), "{links}");
    Ok(())
}

#[test]
fn plugins_are_told_who_the_pod_is() -> anyhow::Result<()> {
    let node = Node::start()?;
    scripted(&node, "1.0.0")?;
    let mut config = pod_config("told");
    config.port_mappings = vec![wire::PortMapping { container_port: 80, host_port: 8080, ..Default::default() }];
    config.annotations = BTreeMap::from([("kubernetes.io/egress-bandwidth".into(), "1M".into())]);
    let id = node.run_pod(&config)?;
    ensure!(node.pod_status(&id)?.status.context("status")?.network.context("network")?.ip == "10.1.2.3");
    let info = verbose(&node, &id)?;
    ensure!(info["cniResult"]["Results"][0]["ips"][0]["address"] == "10.1.2.3/24", "{info}");
    let netns = info["netNamespacePath"].as_str().context("a namespace")?.to_owned();
    ensure!(netns.starts_with(&node.daemon.state().display().to_string()) && std::path::Path::new(&netns).exists());
    node.remove_pod(&id)?;
    ensure!(!std::path::Path::new(&netns).exists());
    let calls = calls(&node);
    ensure!(calls.len() == 2, "{calls:#?}");
    let args = format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=tests;K8S_POD_NAME=told;K8S_POD_INFRA_CONTAINER_ID={id};K8S_POD_UID=uid-told"
    );
    ensure!(calls[0].starts_with(&format!("ADD {id} {args} eth0 [{netns}]")), "{}", calls[0]);
    ensure!(calls[0].contains(r#""hostPort":8080"#) && calls[0].contains(r#""egressRate":1000000"#), "{}", calls[0]);
    ensure!(
        calls[1].starts_with("DEL") && calls[1].contains("prevResult") && calls[1].contains("10.1.2.3"),
        "{}",
        calls[1]
    );
    Ok(())
}

#[test]
fn a_network_that_cannot_be_set_up_leaves_no_pod() -> anyhow::Result<()> {
    let node = Node::start()?;
    scripted(&node, "1.0.0")?;
    std::fs::write(node.daemon.folder().join("fails"), "ADD")?;
    let refused = node.run_pod(&pod_config("a")).unwrap_err();
    ensure!(refused.message().contains("not now"), "{refused:?}");
    ensure!(node.list_pods()?.is_empty());
    ensure!(calls(&node).iter().any(|call| call.starts_with("DEL")), "what was set up is taken down");
    let left = node.daemon.ctr(&["-n", "k8s.io", "containers", "ls", "-q"])?.ok()?;
    ensure!(left.is_empty(), "{left}");
    let folder = node.daemon.state().join("io.containerd.grpc.v1.cri/netns");
    ensure!(std::fs::read_dir(folder)?.next().is_none(), "a namespace is left");
    Ok(())
}

#[test]
fn a_network_that_cannot_be_taken_down_is_visible_and_not_for_ever() -> anyhow::Result<()> {
    let node = Node::start()?;
    scripted(&node, "1.0.0")?;
    let id = node.run_pod(&pod_config("a"))?;
    let fails = node.daemon.folder().join("fails");
    std::fs::write(&fails, "DEL")?;
    let refused = stop(&node, &id).unwrap_err();
    ensure!(refused.message().contains("not now"), "{refused:?}");
    let info = verbose(&node, &id)?;
    ensure!(info["networkError"].as_str().unwrap_or_default().contains("not now"), "{info}");
    ensure!(node.list_pods()?[0].state() == wire::PodSandboxState::SandboxNotready);
    // It is tried again with each call; when it works, all is well.
    std::fs::remove_file(&fails)?;
    stop(&node, &id)?;
    ensure!(verbose(&node, &id)?["networkError"] == "");
    remove(&node, &id)?;

    let id = node.run_pod(&pod_config("b"))?;
    std::fs::write(&fails, "DEL")?;
    eventually("it is given up", || Ok(remove(&node, &id)?))?;
    ensure!(node.list_pods()?.is_empty());
    Ok(())
}

#[test]
fn a_pod_whose_namespace_was_removed_can_be_stopped() -> anyhow::Result<()> {
    let node = Node::start()?;
    let id = node.run_pod(&pod_config("a"))?;
    let netns = verbose(&node, &id)?["netNamespacePath"].as_str().context("a namespace")?.to_owned();
    nix::mount::umount2(netns.as_str(), nix::mount::MntFlags::MNT_DETACH)?;
    std::fs::remove_file(&netns)?;
    ensure!(verbose(&node, &id)?["netNamespaceClosed"] == true);
    node.remove_pod(&id)?;
    let left = std::fs::read_dir(node.daemon.folder().join("addresses/pods"))?.flatten();
    let left: Vec<_> = left
        .map(|entry| entry.file_name())
        .filter(|name| name.to_string_lossy().contains('.') && !name.to_string_lossy().starts_with("last_"))
        .collect();
    ensure!(left.is_empty(), "its addresses are taken still: {left:?}");
    Ok(())
}

#[test]
fn lists_of_old_and_new_versions() -> anyhow::Result<()> {
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let node = Node::with(Setup::default())?;
        scripted(&node, version)?;
        let ready = node.wait(async { node.pods().status(wire::StatusRequest { verbose: false }).await })?.into_inner();
        ensure!(ready.status.unwrap_or_default().conditions[1].status, "{version}");
        let id = node.run_pod(&pod_config("a"))?;
        node.remove_pod(&id)?;
        let calls = calls(&node);
        let asked = calls.iter().any(|call| call.starts_with("STATUS"));
        ensure!(asked == (version == "1.1.0"), "{version}: {calls:#?}");
        let told = calls.iter().any(|call| call.starts_with("DEL") && call.contains("prevResult"));
        ensure!(told == (version != "0.3.1"), "{version}: {calls:#?}");
    }
    Ok(())
}
