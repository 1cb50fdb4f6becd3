//! Cgroup limits, changed ones too, and the notice of a memory kill.

use std::fs;

use model::error::{Classify, Kind};
use serde_json::json;

use super::KILL;
use crate::Ended;
use crate::cgroup::Metrics;
use crate::contract::Lab;

/// More memory than allowed ends in SIGKILL, and the watch tells of it.
pub fn the_memory_limit_kills_and_is_noticed(lab: &Lab) {
    let mut spec = lab.spec(&["dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"]);
    spec["linux"]["resources"]["memory"] = json!({ "limit": 32 << 20, "swap": 32 << 20 });
    let container = lab.try_create(&spec).unwrap();
    let cgroup = container.cgroup();
    let Metrics::V1(metrics) = cgroup.metrics().unwrap() else { panic!("these machines have cgroup v1") };
    assert_eq!(metrics.memory.unwrap().usage.unwrap().limit, 32 << 20);
    let mut watch = cgroup.watch_oom().unwrap();
    assert_eq!(watch.kills().unwrap(), 0);
    container.start();
    assert_eq!(container.wait().ended, Ended::Signaled(KILL));
    assert!(readable(&watch), "the watch wakes its poller");
    assert_eq!(watch.kills().unwrap(), 1);
    assert!(!readable(&watch), "asking makes it quiet");
    container.delete(false).unwrap();
    assert_eq!(watch.kills().unwrap_err().kind(), Kind::NotFound);
}

fn readable(fd: &impl std::os::fd::AsFd) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
}

/// `resources.pids`.
pub fn the_pids_limit_holds(lab: &Lab) {
    let mut spec = lab.script("for i in 1 2 3 4 5 6 7 8; do sleep 10 & done; echo all");
    spec["linux"]["resources"]["pids"] = json!({ "limit": 5 });
    let container = lab.start(&spec);
    let ran = container.wait();
    assert!(ran.output.contains("fork") && !ran.output.contains("all"), "{ran:?}");
}

/// `update` with the JSON of `LinuxResources`.
pub fn update_changes_limits(lab: &Lab) {
    let mut spec = lab.spec(&["sleep", "1000"]);
    spec["linux"]["resources"]["memory"] = json!({ "limit": 64 << 20 });
    let container = lab.start(&spec);
    let resources = json!({
        "memory": { "limit": 128 << 20 }, "pids": { "limit": 77 }, "cpu": { "shares": 512, "quota": 50_000, "period": 100_000 },
    });
    lab.finish(&lab.executor.update(&container.id, resources.to_string().into_bytes()), None).unwrap();
    let cgroup = container.cgroup();
    let Metrics::V1(metrics) = cgroup.metrics().unwrap() else { panic!("these machines have cgroup v1") };
    assert_eq!(metrics.memory.unwrap().usage.unwrap().limit, 128 << 20);
    assert_eq!(metrics.pids.unwrap().limit, 77);
    let cpu = |file: &str| fs::read_to_string(cgroup.folder("cpu").unwrap().join(file)).unwrap();
    assert_eq!((cpu("cpu.shares").as_str(), cpu("cpu.cfs_quota_us").as_str()), ("512\n", "50000\n"));
    let error = lab.finish(&lab.executor.update(&container.id, b"nonsense".to_vec()), None).unwrap_err();
    assert_eq!(error.kind(), Kind::Unknown, "{error}");
}
