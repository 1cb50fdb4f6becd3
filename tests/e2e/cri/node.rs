//! What the runtime says of itself.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use harness::Node;
use harness::cri::Setup;
use proto::cri as wire;

fn status(node: &Node, verbose: bool) -> anyhow::Result<wire::StatusResponse> {
    Ok(node.wait(async { node.pods().status(wire::StatusRequest { verbose }).await })?.into_inner())
}

fn network(status: &wire::StatusResponse) -> wire::RuntimeCondition {
    let conditions = status.status.clone().unwrap_or_default().conditions;
    conditions.into_iter().find(|condition| condition.r#type == "NetworkReady").unwrap_or_default()
}

#[test]
fn versions_and_the_driver_of_cgroups() -> anyhow::Result<()> {
    let node = Node::start()?;
    let version = node.wait(async { node.pods().version(wire::VersionRequest { version: "v1".into() }).await })?;
    let version = version.into_inner();
    let said = (version.version.as_str(), version.runtime_name.as_str(), version.runtime_api_version.as_str());
    ensure!(said == ("0.1.0", "containerd", "v1"), "{version:?}");
    ensure!(version.runtime_version.trim_start_matches('v').starts_with("2."), "{version:?}");
    let config = node.wait(async { node.pods().runtime_config(wire::RuntimeConfigRequest {}).await })?.into_inner();
    ensure!(config.linux.unwrap_or_default().cgroup_driver() == wire::CgroupDriver::Cgroupfs);
    Ok(())
}

#[test]
fn the_node_is_ready_when_its_network_is() -> anyhow::Result<()> {
    let node = Node::start()?;
    let plain = status(&node, false)?;
    ensure!(network(&plain).status && plain.info.is_empty(), "{plain:?}");
    let names: Vec<_> = plain.status.unwrap_or_default().conditions.iter().map(|each| each.r#type.clone()).collect();
    ensure!(names == ["RuntimeReady", "NetworkReady", "ContainerdHasNoDeprecationWarnings"], "{names:?}");
    let handlers: Vec<_> = plain.runtime_handlers.iter().map(|handler| handler.name.as_str()).collect();
    ensure!(handlers.contains(&"") && handlers.contains(&"runc"), "{handlers:?}");
    ensure!(plain.features.unwrap_or_default().supplemental_groups_policy);

    let info = status(&node, true)?.info;
    let config: serde_json::Value = serde_json::from_str(info.get("config").context("config")?)?;
    let state = node.daemon.state().join("io.containerd.grpc.v1.cri").display().to_string();
    ensure!(config["stateDir"] == state.as_str(), "{config}");
    ensure!(config["containerd"]["defaultRuntimeName"] == "runc", "{config}");
    ensure!(info["lastCNILoadStatus"] == "OK" && info["lastCNILoadStatus.default"] == "OK", "{info:?}");
    ensure!(info.contains_key("golang") && info["cniconfig"].contains("pods"), "{info:?}");

    // The configuration is read anew: no signal, no restart.
    let file = node.conf_dir().join("10-pods.conflist");
    let text = std::fs::read_to_string(&file)?;
    std::fs::remove_file(&file)?;
    let gone = network(&status(&node, false)?);
    ensure!(!gone.status && gone.reason == "NetworkPluginNotReady", "{gone:?}");
    ensure!(gone.message.contains("cni plugin not initialized"), "{gone:?}");
    std::fs::write(&file, "{ not one")?;
    ensure!(!network(&status(&node, false)?).status);
    std::fs::write(
        &file,
        text.replace("\"bridge\",\"bridge\"", "\"x\"").replace("\"firewall\"", "\"no-such-plugin\""),
    )?;
    let missing = network(&status(&node, false)?);
    ensure!(!missing.status && missing.message.contains("no-such-plugin"), "{missing:?}");
    std::fs::write(&file, text)?;
    ensure!(network(&status(&node, false)?).status);
    Ok(())
}

#[test]
fn handlers_are_those_of_the_configuration() -> anyhow::Result<()> {
    let config = "[plugins.\"io.containerd.cri.v1.runtime\".containerd]\ndefault_runtime_name = \"mine\"\n\
        [plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.mine]\nruntime_type = \"io.containerd.runc.v2\"\n\
        [plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.mine.options]\nBinaryName = \"runc\"\n";
    let node = Node::with(Setup { config: config.into(), ..Setup::default() })?;
    let handlers: BTreeMap<_, _> = status(&node, false)?
        .runtime_handlers
        .into_iter()
        .map(|handler| (handler.name, handler.features.unwrap_or_default()))
        .collect();
    ensure!(handlers.contains_key("mine") && handlers.get("") == handlers.get("mine"), "{handlers:?}");
    // runc 1.1 can do this, and says so.
    ensure!(handlers["mine"].recursive_read_only_mounts, "{handlers:?}");
    Ok(())
}

#[test]
fn the_network_is_made_from_a_template() -> anyhow::Result<()> {
    let template = std::env::temp_dir().join(format!("gantry-template-{}", std::process::id()));
    std::fs::write(
        &template,
        r#"{"cniVersion":"1.0.0","name":"made","plugins":[{"type":"bridge","bridge":"made0","ipam":{"type":"host-local","ranges":[{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet":"{{$range}}"}]{{end}}]}}]}"#,
    )?;
    let config = format!("[plugins.\"io.containerd.grpc.v1.cri\".cni]\nconf_template = \"{}\"\n", template.display());
    let node = Node::with(Setup { config, network: "{}".into() })?;
    ensure!(!network(&status(&node, false)?).status);
    let update = |cidr: &str| {
        let network_config = Some(wire::NetworkConfig { pod_cidr: cidr.to_owned() });
        let runtime_config = Some(wire::RuntimeConfig { network_config });
        node.wait(async {
            node.pods().update_runtime_config(wire::UpdateRuntimeConfigRequest { runtime_config }).await
        })
    };
    ensure!(update("no range").is_err());
    std::fs::remove_file(node.conf_dir().join("10-pods.conflist"))?;
    update("10.98.0.0/24,fd98::/64")?;
    std::fs::remove_file(&template)?;
    let made = std::fs::read_to_string(node.conf_dir().join("10-containerd-net.conflist"))?;
    ensure!(made.contains(r#"[{"subnet":"10.98.0.0/24"}], [{"subnet":"fd98::/64"}]"#), "{made}");
    ensure!(network(&status(&node, false)?).status);
    // What is configured is left alone.
    update("10.97.0.0/24")?;
    ensure!(made == std::fs::read_to_string(node.conf_dir().join("10-containerd-net.conflist"))?);
    Ok(())
}
