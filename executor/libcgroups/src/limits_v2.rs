//! Limits on v2: one folder. Device rules are programs of the kernel there, and are not made here.

use std::path::Path;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};

use crate::file::{self, Error};

const MAX: &str = "max";

pub(crate) fn apply(folder: &Path, resources: &LinuxResources) -> Result<(), Error> {
    if let Some(limits) = resources.cpu() {
        cpu(folder, limits)?;
    }
    if let Some(limits) = resources.memory() {
        memory(folder, limits)?;
    }
    if let Some(limit) = resources.pids().as_ref().map(|limits| limits.limit()).filter(|limit| *limit != 0) {
        file::write(folder, "pids.max", bytes(limit))?;
    }
    if let Some(limits) = resources.block_io() {
        block_io(folder, limits)?;
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        file::write(folder, &format!("hugetlb.{}.max", limit.page_size()), limit.limit())?;
    }
    for (name, value) in resources.unified().iter().flatten() {
        if name.contains('/') || name.starts_with("cgroup.") {
            return Err(Error::Invalid { what: "a unified limit must be a file of a controller" });
        }
        file::write(folder, name, value)?;
    }
    Ok(())
}

/// A limit where a negative one means none.
fn bytes(limit: i64) -> String {
    if limit < 0 { MAX.to_owned() } else { limit.to_string() }
}

fn cpu(folder: &Path, limits: &LinuxCpu) -> Result<(), Error> {
    if limits.realtime_period().is_some_and(|time| time != 0) || limits.realtime_runtime().is_some_and(|time| time != 0)
    {
        return Err(Error::Unsupported { what: "real-time scheduling by cgroup v2" });
    }
    if let Some(idle) = limits.idle() {
        file::write(folder, "cpu.idle", idle)?;
    }
    // The kernel takes no weight for a group that is idle.
    if let Some(shares) = limits.shares().filter(|shares| *shares != 0 && limits.idle() != Some(1)) {
        file::write(folder, "cpu.weight", weight(shares))?;
    }
    let (quota, period) = (limits.quota().filter(|quota| *quota != 0), limits.period().filter(|period| *period != 0));
    let quota = quota.map(bytes);
    match (quota, period) {
        (Some(quota), Some(period)) => file::write(folder, "cpu.max", format!("{quota} {period}"))?,
        (Some(quota), None) => file::write(folder, "cpu.max", quota)?,
        (None, Some(period)) => {
            let now = file::read(folder, "cpu.max")?;
            let quota = now.split_whitespace().next().unwrap_or(MAX);
            file::write(folder, "cpu.max", format!("{quota} {period}"))?;
        }
        (None, None) => {}
    }
    if let Some(burst) = limits.burst() {
        file::write(folder, "cpu.max.burst", burst)?;
    }
    for (file, value) in [("cpuset.cpus", limits.cpus()), ("cpuset.mems", limits.mems())] {
        if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
            file::write(folder, file, value)?;
        }
    }
    Ok(())
}

/// 2 to 262144 shares as 1 to 10000 of weight.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

fn memory(folder: &Path, limits: &LinuxMemory) -> Result<(), Error> {
    let limit = limits.limit().filter(|limit| *limit != 0);
    let swap = match limits.swap().filter(|swap| *swap != 0) {
        None => None,
        Some(swap) if swap < 0 => Some(MAX.to_owned()),
        Some(swap) => match limit {
            // It is the sum of both here, and swap alone there.
            Some(limit) if limit >= 0 && swap >= limit => Some((swap - limit).to_string()),
            Some(limit) if limit >= 0 => {
                return Err(Error::Invalid { what: "memory and swap together must not be less than memory" });
            }
            _ => return Err(Error::Invalid { what: "a limit of swap needs a limit of memory" }),
        },
    };
    if let Some(swap) = swap {
        match file::write(folder, "memory.swap.max", &swap) {
            // A kernel without swap limits nothing.
            Err(error) if error.is_missing() && (swap == MAX || swap == "0") => {}
            done => done?,
        }
    }
    if let Some(limit) = limit {
        file::write(folder, "memory.max", bytes(limit))?;
    }
    if let Some(reservation) = limits.reservation().filter(|reservation| *reservation != 0) {
        file::write(folder, "memory.low", bytes(reservation))?;
    }
    Ok(())
}

fn block_io(folder: &Path, limits: &LinuxBlockIo) -> Result<(), Error> {
    if let Some(weight) = limits.weight().filter(|weight| *weight != 0) {
        match file::write(folder, "io.bfq.weight", weight) {
            // 10 to 1000 as 1 to 10000.
            Err(error) if error.is_missing() => {
                let weight = 1 + u64::from(weight.saturating_sub(10)) * 9999 / 990;
                file::write(folder, "io.weight", weight)?;
            }
            done => done?,
        }
    }
    for (key, devices) in [
        ("rbps", limits.throttle_read_bps_device()),
        ("wbps", limits.throttle_write_bps_device()),
        ("riops", limits.throttle_read_iops_device()),
        ("wiops", limits.throttle_write_iops_device()),
    ] {
        for device in devices.iter().flatten() {
            let line = format!("{}:{} {key}={}", device.major(), device.minor(), device.rate());
            file::write(folder, "io.max", line)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn set(name: &str, files: &[&str], resources: serde_json::Value) -> (Result<(), Error>, Vec<String>) {
        let root = std::env::temp_dir().join(format!("gantry-v2-{name}-{}", std::process::id()));
        fs::create_dir_all(&root).expect("a folder");
        for file in files {
            fs::write(root.join(file), "").expect("a file");
        }
        let resources: LinuxResources = serde_json::from_value(resources).expect("resources");
        let result = apply(&root, &resources);
        let read = files.iter().map(|file| fs::read_to_string(root.join(file)).expect("a file")).collect();
        fs::remove_dir_all(&root).expect("it is ours");
        (result, read)
    }

    #[test]
    fn limits_are_written_where_the_kernel_reads_them() {
        let files =
            ["cpu.weight", "cpu.max", "memory.max", "memory.swap.max", "memory.low", "pids.max", "io.max", "x.y"];
        let (result, read) = set(
            "all",
            &files,
            serde_json::json!({
                "cpu": {"shares": 1024, "period": 100_000, "quota": 50_000},
                "memory": {"limit": 1000, "swap": 1500, "reservation": -1},
                "pids": {"limit": 7},
                "blockIO": {"throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 5}]},
                "unified": {"x.y": "z"},
            }),
        );
        result.expect("every file is there");
        assert_eq!(read, ["39", "50000 100000", "1000", "500", "max", "7", "8:0 wiops=5", "z"]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (name, resources) in [
            ("swap", serde_json::json!({"memory": {"limit": 10, "swap": 5}})),
            ("alone", serde_json::json!({"memory": {"swap": 5}})),
            ("path", serde_json::json!({"unified": {"../memory.max": "1"}})),
            ("missing", serde_json::json!({"pids": {"limit": 1}})),
        ] {
            assert!(set(name, &[], resources).0.is_err(), "{name}");
        }
    }
}
