//! Many pods: made eight at a time, looked at all the while, removed. Nothing fails and nothing is left.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::ensure;
use harness::cri::{container_config, pod_config};
use harness::{Census, Node, eventually};
use proto::cri as wire;

/// Pods, of two containers each.
const PODS: usize = 100;
/// Those that are made at a time.
const AT_A_TIME: usize = 8;

#[test]
fn a_hundred_pods_of_two_containers_leave_nothing() -> anyhow::Result<()> {
    let node = Node::start()?;
    // What is made once.
    let first = node.run_pod(&pod_config("first"))?;
    node.run_container(&first, &pod_config("first"), &container_config("c", &["sleep", "600"]))?;
    node.remove_pod(&first)?;
    let before = Census::take(node.daemon.folder(), "cri-none", node.daemon.pid()?);
    let (node, next, done) = (&node, AtomicUsize::new(0), AtomicBool::new(false));
    let in_parallel = |work: &(dyn Fn(usize) -> anyhow::Result<()> + Sync)| -> anyhow::Result<()> {
        next.store(0, Ordering::SeqCst);
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..AT_A_TIME)
                .map(|_| {
                    scope.spawn(|| {
                        loop {
                            let number = next.fetch_add(1, Ordering::SeqCst);
                            if number >= PODS {
                                return anyhow::Ok(());
                            }
                            work(number)?;
                        }
                    })
                })
                .collect();
            workers.into_iter().try_for_each(|worker| worker.join().expect("no panic"))
        })
    };
    let ids = std::sync::Mutex::new(vec![String::new(); PODS]);
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            // As a kubelet does: lists and figures, again and again.
            let mut looks = 0;
            while !done.load(Ordering::SeqCst) {
                node.list_pods()?;
                node.wait(async {
                    node.pods().list_containers(wire::ListContainersRequest::default()).await?;
                    node.pods().list_pod_sandbox_stats(wire::ListPodSandboxStatsRequest::default()).await
                })?;
                looks += 1;
                std::thread::sleep(std::time::Duration::from_millis(200));
            }
            anyhow::Ok(looks)
        });
        let work = || -> anyhow::Result<()> {
            in_parallel(&|number| {
                let config = pod_config(&format!("p{number}"));
                let pod = node.run_pod(&config)?;
                for name in ["a", "b"] {
                    node.run_container(&pod, &config, &container_config(name, &["sleep", "600"]))?;
                }
                ids.lock().expect("no panic")[number] = pod;
                Ok(())
            })?;
            ensure!(node.list_pods()?.len() == PODS);
            let containers =
                node.wait(async { node.pods().list_containers(wire::ListContainersRequest::default()).await })?;
            ensure!(containers.into_inner().containers.len() == 2 * PODS);
            let ids = ids.lock().expect("no panic").clone();
            let addresses: std::collections::BTreeSet<_> = ids
                .iter()
                .map(|id| Ok(node.pod_status(id)?.status.unwrap_or_default().network.unwrap_or_default().ip))
                .collect::<Result<_, tonic::Status>>()?;
            ensure!(addresses.len() == PODS, "each has its own address");
            in_parallel(&|number| Ok(node.remove_pod(&ids[number])?))
        };
        let worked = work();
        done.store(true, Ordering::SeqCst);
        let looked = watching.join().expect("no panic");
        worked?;
        ensure!(looked? > 0);
        anyhow::Ok(())
    })?;
    ensure!(node.list_pods()?.is_empty());
    eventually("nothing is left", || {
        let left = Census::take(node.daemon.folder(), "cri-none", node.daemon.pid()?).left_since(&before);
        ensure!(left.is_empty(), "left on the machine:\n{left}");
        let links = node.in_network(&["ip", "-o", "link"])?;
        ensure!(!links.contains("veth"), "{links}");
        let ids = ids.lock().expect("no panic");
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup")?.flatten() {
            let group = |id: &String| hierarchy.path().join("k8s.io").join(id).exists();
            ensure!(!ids.iter().any(group), "cgroups are left in {}", hierarchy.path().display());
        }
        Ok(())
    })
}
