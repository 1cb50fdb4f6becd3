//! Wrong requests for pods: each is refused with a code that a kubelet understands, and leaves nothing.

use anyhow::{Context as _, ensure};
use harness::Node;
use harness::cri::{code, pod_config};
use proto::cri as wire;
use tonic::Code;

#[test]
fn wrong_pods_are_refused() -> anyhow::Result<()> {
    let node = Node::start()?;
    let run = |config: Option<wire::PodSandboxConfig>, handler: &str| {
        let request = wire::RunPodSandboxRequest { config, runtime_handler: handler.to_owned() };
        code(node.wait(async { node.pods().run_pod_sandbox(request).await }))
    };
    ensure!(run(None, "") == Code::InvalidArgument);
    ensure!(run(Some(wire::PodSandboxConfig::default()), "") == Code::InvalidArgument);
    ensure!(run(Some(pod_config("a")), "no-such-handler") == Code::InvalidArgument);
    let mut long = pod_config("a");
    long.hostname = "h".repeat(100);
    ensure!(run(Some(long), "") == Code::InvalidArgument);
    let mut escaping = pod_config("a");
    escaping.linux.as_mut().context("linux")?.cgroup_parent = "/a/../../b".into();
    ensure!(run(Some(escaping), "") == Code::InvalidArgument);
    let mut unknown = pod_config("a");
    unknown.linux.as_mut().context("linux")?.sysctls.insert("no.such.sysctl".into(), "1".into());
    ensure!(run(Some(unknown), "") != Code::Ok);
    let mut bandwidth = pod_config("a");
    bandwidth.annotations.insert("kubernetes.io/ingress-bandwidth".into(), "much".into());
    ensure!(run(Some(bandwidth), "") == Code::InvalidArgument);
    let mut users = pod_config("a");
    let user = wire::UserNamespace { mode: wire::NamespaceMode::Pod.into(), ..Default::default() };
    let options = wire::NamespaceOption { userns_options: Some(user), ..Default::default() };
    let security = wire::LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() };
    users.linux.as_mut().context("linux")?.security_context = Some(security);
    let request = wire::RunPodSandboxRequest { config: Some(users), runtime_handler: String::new() };
    let refused = node.wait(async { node.pods().run_pod_sandbox(request).await }).unwrap_err();
    ensure!(refused.message().contains("user namespaces"), "{refused:?}");
    ensure!(node.list_pods()?.is_empty());
    let left = node.daemon.ctr(&["-n", "k8s.io", "containers", "ls", "-q"])?.ok()?;
    ensure!(left.is_empty(), "{left}");
    Ok(())
}

#[test]
fn what_is_not_there_is_stopped_and_removed_but_has_no_status() -> anyhow::Result<()> {
    let node = Node::start()?;
    for id in ["", "none", &"0".repeat(64)] {
        node.remove_pod(id)?;
        ensure!(node.pod_status(id).unwrap_err().code() == Code::NotFound, "{id:?}");
    }
    // The beginning of an id is enough, as long as it means one.
    let ids = [node.run_pod(&pod_config("a"))?, node.run_pod(&pod_config("b"))?];
    ensure!(node.pod_status(&ids[0][..32])?.status.context("status")?.id == ids[0]);
    for id in &ids {
        node.remove_pod(&id[..32])?;
    }
    ensure!(node.list_pods()?.is_empty());
    Ok(())
}
