//! The daemon is killed or restarted: pods and containers are what they were.

use anyhow::{Context as _, ensure};
use harness::cri::{container_config, pod_config};
use harness::{Node, eventually};
use proto::cri as wire;
use wire::PodSandboxState::{SandboxNotready, SandboxReady};

use super::pods::write_program;

#[test]
fn pods_containers_and_addresses_survive() -> anyhow::Result<()> {
    let mut node = Node::start()?;
    let config = pod_config("stays");
    let pod = node.run_pod(&config)?;
    let container = node.run_container(&pod, &config, &container_config("c", &["sleep", "600"]))?;
    let stopped = node.run_pod(&pod_config("stopped"))?;
    node.wait(async {
        node.pods().stop_pod_sandbox(wire::StopPodSandboxRequest { pod_sandbox_id: stopped.clone() }).await
    })?;
    let status = |node: &Node, id: &str| -> anyhow::Result<wire::PodSandboxStatus> {
        node.pod_status(id)?.status.context("a status")
    };
    let of_container = |node: &Node| -> anyhow::Result<wire::ContainerStatus> {
        let request = wire::ContainerStatusRequest { container_id: container.clone(), verbose: false };
        node.wait(async { node.pods().container_status(request).await })?.into_inner().status.context("a status")
    };
    let before = (status(&node, &pod)?, status(&node, &stopped)?, of_container(&node)?);
    for killed in [true, false] {
        if killed {
            node.crash()?;
        } else {
            node.daemon.terminate()?;
            node.relaunch()?;
        }
        let after = (status(&node, &pod)?, status(&node, &stopped)?, of_container(&node)?);
        ensure!(before == after, "before {before:#?}\nafter {after:#?}");
        let ran = node.exec(&container, &["echo", "here"])?;
        ensure!(ran.stdout == b"here\n", "{ran:?}");
        let refused = node.run_pod(&config).unwrap_err();
        ensure!(refused.message().contains("is reserved for"), "{refused:?}");
    }
    node.remove_pod(&pod)?;
    node.remove_pod(&stopped)?;
    ensure!(node.list_pods()?.is_empty());
    Ok(())
}

#[test]
fn what_ended_while_nobody_looked_is_known() -> anyhow::Result<()> {
    let mut node = Node::start()?;
    let config = pod_config("ends");
    let pod = node.run_pod(&config)?;
    let container = node.run_container(
        &pod,
        &config,
        &container_config("c", &["sh", "-c", "while [ ! -e /stop ]; do sleep 0.05; done; exit 7"]),
    )?;
    let info: serde_json::Value = serde_json::from_str(&node.pod_status(&pod)?.info["info"])?;
    let first = i32::try_from(info["pid"].as_i64().context("a pid")?)?;
    node.exec(&container, &["touch", "/stop"])?;
    node.daemon.kill9()?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(first), nix::sys::signal::Signal::SIGKILL)?;
    node.relaunch()?;
    eventually("the pod is not ready", || {
        ensure!(node.pod_status(&pod)?.status.context("a status")?.state() == SandboxNotready);
        Ok(())
    })?;
    let request = wire::ContainerStatusRequest { container_id: container, verbose: false };
    eventually("the container has ended", || {
        let status = node.wait(async { node.pods().container_status(request.clone()).await })?.into_inner().status;
        let status = status.context("a status")?;
        ensure!(status.state() == wire::ContainerState::ContainerExited && status.finished_at > 0, "{status:?}");
        Ok(())
    })?;
    node.remove_pod(&pod)?;
    Ok(())
}

#[test]
fn a_pod_in_the_making_is_undone() -> anyhow::Result<()> {
    let mut node = Node::start()?;
    let folder = node.daemon.folder().to_owned();
    let (slow, begun) = (folder.join("slow"), folder.join("begun"));
    std::fs::write(&slow, "")?;
    let script = format!(
        "#!/bin/sh\necho $CNI_COMMAND >>{0}/calls\n[ \"$CNI_COMMAND\" = ADD ] && while [ -e {1} ]; do touch {2}; sleep 0.05; done\necho '{{}}'\n",
        folder.display(),
        slow.display(),
        begun.display()
    );
    write_program(&node.plugin_dir()?.join("slow"), &script)?;
    let network = r#"{"cniVersion":"1.0.0","name":"s","plugins":[{"type":"slow"}]}"#;
    std::fs::write(node.conf_dir().join("10-pods.conflist"), network)?;
    let request = wire::RunPodSandboxRequest { config: Some(pod_config("half")), runtime_handler: String::new() };
    let mut client = node.pods();
    let running = node.spawn(async move { client.run_pod_sandbox(request).await });
    eventually("the plugin runs", || {
        ensure!(begun.exists());
        Ok(())
    })?;
    node.daemon.kill9()?;
    ensure!(node.wait(running)?.is_err());
    std::fs::remove_file(&slow)?;
    node.relaunch()?;
    ensure!(node.list_pods()?.is_empty());
    eventually("it is undone", || {
        let calls = std::fs::read_to_string(folder.join("calls"))?;
        ensure!(calls.contains("DEL"), "{calls}");
        let left = node.daemon.ctr(&["-n", "k8s.io", "containers", "ls", "-q"])?.ok()?;
        ensure!(left.is_empty(), "{left}");
        let left = std::fs::read_dir(node.daemon.state().join("io.containerd.grpc.v1.cri/netns"))?.count();
        ensure!(left == 0, "{left} namespaces");
        Ok(())
    })?;
    let id = node.run_pod(&pod_config("half"))?;
    ensure!(node.pod_status(&id)?.status.context("a status")?.state() == SandboxReady);
    node.remove_pod(&id)?;
    Ok(())
}

#[test]
fn killed_at_any_moment_of_many_pods() -> anyhow::Result<()> {
    let mut node = Node::start()?;
    let mut number = 0;
    for round in 0..4_u64 {
        let mut running = Vec::new();
        for _ in 0..3 {
            number += 1;
            let config = pod_config(&format!("p{number}"));
            let request = wire::RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
            let mut client = node.pods();
            running.push(node.spawn(async move { client.run_pod_sandbox(request).await }));
        }
        // At another point of their making each time.
        std::thread::sleep(std::time::Duration::from_millis(40 * round));
        node.crash()?;
        let mut told = Vec::new();
        for one in running {
            if let Ok(answer) = node.wait(one)? {
                told.push(answer.into_inner().pod_sandbox_id);
            }
        }
        // What was told is there and ready; of the rest there is all or nothing.
        let listed = node.list_pods()?;
        for id in &told {
            ensure!(listed.iter().any(|pod| pod.id == *id && pod.state() == SandboxReady), "{id} in {listed:#?}");
        }
        for pod in listed {
            node.remove_pod(&pod.id)?;
        }
    }
    eventually("nothing is left", || {
        let left = node.daemon.ctr(&["-n", "k8s.io", "containers", "ls", "-q"])?.ok()?;
        ensure!(left.is_empty(), "{left}");
        let netns = std::fs::read_dir(node.daemon.state().join("io.containerd.grpc.v1.cri/netns"))?.count();
        ensure!(netns == 0, "{netns} namespaces");
        let links = node.in_network(&["ip", "-o", "link"])?;
        ensure!(!links.contains("veth"), "{links}");
        Ok(())
    })
}
