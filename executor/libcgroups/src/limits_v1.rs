//! Limits on v1: one folder for each controller.

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxDeviceCgroup, LinuxMemory, LinuxNetwork, LinuxResources};

use crate::common::ControllerOpt;
use crate::file::{self, Error};
use crate::places::Hierarchy;

/// What every container may use besides what its rules allow: making nodes, terminals, and the devices that each one has.
const ALLOWED: [&str; 12] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
    "c 10:200 rwm",
];

/// The folder of a cgroup in the hierarchy that has a controller.
pub(crate) fn folder(hierarchies: &[Hierarchy], path: &Path, controller: &'static str) -> Result<PathBuf, Error> {
    let found = hierarchies.iter().find(|one| one.controllers.iter().any(|name| name == controller));
    found.map(|one| one.point.join(path)).ok_or(Error::Missing { controller })
}

pub(crate) fn apply(hierarchies: &[Hierarchy], path: &Path, options: &ControllerOpt<'_>) -> Result<(), Error> {
    let resources: &LinuxResources = options.resources;
    let folder = |controller| folder(hierarchies, path, controller);
    devices(&folder("devices")?, resources.devices().as_deref().unwrap_or_default())?;
    if let Some(limits) = resources.cpu() {
        if has_shares(limits) {
            cpu(&folder("cpu")?, limits)?;
        }
        for (file, value) in [("cpuset.cpus", limits.cpus()), ("cpuset.mems", limits.mems())] {
            if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
                file::write(&folder("cpuset")?, file, value)?;
            }
        }
    }
    match resources.memory() {
        Some(limits) if *limits != LinuxMemory::default() || options.disable_oom_killer => {
            memory(&folder("memory")?, limits, options.disable_oom_killer)?;
        }
        None if options.disable_oom_killer => file::write(&folder("memory")?, "memory.oom_control", 1)?,
        _ => {}
    }
    if let Some(limits) = resources.pids() {
        let limit = limits.limit();
        match limit {
            0 => {}
            1.. => file::write(&folder("pids")?, "pids.max", limit)?,
            _ => file::write(&folder("pids")?, "pids.max", "max")?,
        }
    }
    if let Some(limits) = resources.block_io().as_ref().filter(|limits| **limits != LinuxBlockIo::default()) {
        block_io(&folder("blkio")?, limits)?;
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        let name = format!("hugetlb.{}.limit_in_bytes", limit.page_size());
        file::write(&folder("hugetlb")?, &name, limit.limit())?;
    }
    if let Some(limits) = resources.network() {
        network(&folder, limits)?;
    }
    Ok(())
}

fn devices(folder: &Path, rules: &[LinuxDeviceCgroup]) -> Result<(), Error> {
    for rule in rules {
        file::write(folder, if rule.allow() { "devices.allow" } else { "devices.deny" }, rule)?;
    }
    for allowed in ALLOWED {
        file::write(folder, "devices.allow", allowed)?;
    }
    Ok(())
}

fn has_shares(limits: &LinuxCpu) -> bool {
    limits.shares().is_some()
        || limits.quota().is_some()
        || limits.period().is_some()
        || limits.burst().is_some()
        || limits.idle().is_some()
        || limits.realtime_period().is_some()
        || limits.realtime_runtime().is_some()
}

fn cpu(folder: &Path, limits: &LinuxCpu) -> Result<(), Error> {
    let set = |file: &str, value: Option<String>| value.map_or(Ok(()), |value| file::write(folder, file, value));
    set("cpu.shares", limits.shares().filter(|shares| *shares != 0).map(|shares| shares.to_string()))?;
    set("cpu.idle", limits.idle().map(|idle| idle.to_string()))?;
    set("cpu.rt_period_us", limits.realtime_period().filter(|period| *period != 0).map(|period| period.to_string()))?;
    set("cpu.rt_runtime_us", limits.realtime_runtime().filter(|time| *time != 0).map(|time| time.to_string()))?;
    let period = limits.period().filter(|period| *period != 0).map(|period| period.to_string());
    let quota = limits.quota().filter(|quota| *quota != 0).map(|quota| quota.to_string());
    match set("cpu.cfs_period_us", period.clone()) {
        // Too short for the quota that is in force; the new one comes first then.
        Err(error) if error.is(Errno::EINVAL) && quota.is_some() => {
            set("cpu.cfs_quota_us", quota)?;
            set("cpu.cfs_period_us", period)?;
        }
        done => {
            done?;
            set("cpu.cfs_quota_us", quota)?;
        }
    }
    set("cpu.cfs_burst_us", limits.burst().map(|burst| burst.to_string()))
}

fn memory(folder: &Path, limits: &LinuxMemory, disable_oom_killer: bool) -> Result<(), Error> {
    const LIMIT: &str = "memory.limit_in_bytes";
    const SWAP: &str = "memory.memsw.limit_in_bytes";
    let set = |file: &str, value: Option<i64>| match value.filter(|value| *value != 0) {
        Some(value) => file::write(folder, file, value),
        None => Ok(()),
    };
    let set_swap = || match set(SWAP, limits.swap()) {
        // A kernel that does not account for swap has no limit of it either.
        Err(error) if error.is_missing() && limits.swap() == Some(-1) => Ok(()),
        set => set,
    };
    match set(LIMIT, limits.limit()) {
        // Memory may not exceed memory and swap, so when both grow the sum comes first.
        Err(error) if (error.is(Errno::EINVAL) || error.is(Errno::EBUSY)) && limits.swap().is_some() => {
            set_swap()?;
            set(LIMIT, limits.limit())?;
        }
        done => {
            done?;
            set_swap()?;
        }
    }
    set("memory.soft_limit_in_bytes", limits.reservation())?;
    set("memory.kmem.tcp.limit_in_bytes", limits.kernel_tcp())?;
    if let Some(swappiness) = limits.swappiness() {
        if swappiness > 100 {
            return Err(Error::Invalid { what: "memory swappiness is beyond 100" });
        }
        file::write(folder, "memory.swappiness", swappiness)?;
    }
    if disable_oom_killer || limits.disable_oom_killer() == Some(true) {
        file::write(folder, "memory.oom_control", 1)?;
    }
    Ok(())
}

fn block_io(folder: &Path, limits: &LinuxBlockIo) -> Result<(), Error> {
    if let Some(weight) = limits.weight().filter(|weight| *weight != 0) {
        // The file of the scheduler that is there.
        match file::write(folder, "blkio.weight", weight) {
            Err(error) if error.is_missing() => file::write(folder, "blkio.bfq.weight", weight)?,
            done => done?,
        }
    }
    for device in limits.weight_device().iter().flatten() {
        if let Some(weight) = device.weight() {
            let line = format!("{}:{} {weight}", device.major(), device.minor());
            match file::write(folder, "blkio.weight_device", &line) {
                Err(error) if error.is_missing() => file::write(folder, "blkio.bfq.weight_device", &line)?,
                done => done?,
            }
        }
    }
    for (file, devices) in [
        ("blkio.throttle.read_bps_device", limits.throttle_read_bps_device()),
        ("blkio.throttle.write_bps_device", limits.throttle_write_bps_device()),
        ("blkio.throttle.read_iops_device", limits.throttle_read_iops_device()),
        ("blkio.throttle.write_iops_device", limits.throttle_write_iops_device()),
    ] {
        for device in devices.iter().flatten() {
            file::write(folder, file, format!("{}:{} {}", device.major(), device.minor(), device.rate()))?;
        }
    }
    Ok(())
}

fn network(folder: &impl Fn(&'static str) -> Result<PathBuf, Error>, limits: &LinuxNetwork) -> Result<(), Error> {
    if let Some(class) = limits.class_id().filter(|class| *class != 0) {
        file::write(&folder("net_cls")?, "net_cls.classid", class)?;
    }
    for priority in limits.priorities().iter().flatten() {
        let line = format!("{} {}", priority.name(), priority.priority());
        file::write(&folder("net_prio")?, "net_prio.ifpriomap", line)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use oci_spec::runtime::LinuxResources;

    use super::*;

    #[test]
    fn limits_are_written_where_the_kernel_reads_them() {
        let root = std::env::temp_dir().join(format!("gantry-limits-{}", std::process::id()));
        let names = ["devices", "cpu", "cpuset", "memory", "pids", "blkio", "hugetlb", "net_cls"];
        let hierarchies: Vec<Hierarchy> =
            names.iter().map(|name| Hierarchy { point: root.join(name), controllers: vec![(*name).into()] }).collect();
        let files = [
            ("devices/c/devices.allow", "c 10:200 rwm"),
            ("devices/c/devices.deny", "a *:* rwm"),
            ("cpu/c/cpu.shares", "512"),
            ("cpu/c/cpu.cfs_period_us", "100000"),
            ("cpu/c/cpu.cfs_quota_us", "-1"),
            ("cpuset/c/cpuset.cpus", "0"),
            ("memory/c/memory.limit_in_bytes", "1048576"),
            ("memory/c/memory.memsw.limit_in_bytes", "2097152"),
            ("memory/c/memory.soft_limit_in_bytes", "524288"),
            ("memory/c/memory.swappiness", "0"),
            ("memory/c/memory.oom_control", "1"),
            ("pids/c/pids.max", "max"),
            ("blkio/c/blkio.bfq.weight", "100"),
            ("blkio/c/blkio.throttle.read_bps_device", "8:0 1024"),
            ("hugetlb/c/hugetlb.2MB.limit_in_bytes", "0"),
            ("net_cls/c/net_cls.classid", "7"),
        ];
        for (file, _) in files {
            let path = root.join(file);
            fs::create_dir_all(path.parent().expect("it has one")).expect("a folder");
            fs::write(path, "").expect("a file");
        }
        let resources: LinuxResources = serde_json::from_value(serde_json::json!({
            "devices": [{"allow": false, "access": "rwm"}],
            "cpu": {"shares": 512, "period": 100_000, "quota": -1, "cpus": "0"},
            "memory": {"limit": 1_048_576, "swap": 2_097_152, "reservation": 524_288, "swappiness": 0, "disableOOMKiller": true},
            "pids": {"limit": -1},
            "blockIO": {"weight": 100, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1024}]},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
            "network": {"classID": 7},
        }))
        .expect("resources");
        let options = ControllerOpt {
            resources: &resources,
            disable_oom_killer: false,
            oom_score_adj: None,
            freezer_state: None,
        };
        apply(&hierarchies, Path::new("c"), &options).expect("every file is there");
        for (file, wanted) in files {
            assert!(fs::read_to_string(root.join(file)).expect("a file").ends_with(wanted), "{file}");
        }
        fs::remove_file(root.join("pids/c/pids.max")).expect("a file");
        assert!(
            apply(&hierarchies, Path::new("c"), &options).is_err(),
            "a limit that cannot be set is not passed over"
        );
        fs::remove_dir_all(&root).expect("it is ours");
    }
}
