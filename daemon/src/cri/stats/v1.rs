//! A cgroup of the v1 hierarchies (cgroup-v1/*.rst): one folder for each controller.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::collector::Detail;
use super::files::{Buffer, Folder, device, pairs};
use super::sample::{Cpu, DeviceIo, HugePages, Memory, Pids, Sample};

/// The kernel writes a limit that nobody set as the largest multiple of a page below 2^63.
const NO_LIMIT: u64 = 1 << 62;

/// Reads the cgroup at `path` under the hierarchies mounted in `root`; nothing if it is gone.
pub(super) fn read(
    root: &Path,
    path: &Path,
    detail: Detail,
    huge_page_sizes: &[String],
    buffer: &mut Buffer,
) -> Option<Sample> {
    let of = |controller: &str| Folder::open(&folder(root, controller, path));
    // Without either of these there is nothing to say of it.
    let (memory_folder, accounting) = (of("memory"), of("cpuacct"));
    if memory_folder.is_none() && accounting.is_none() {
        return None;
    }
    let mut cpu = Cpu::default();
    if let Some(folder) = &accounting {
        cpu.usage_ns = folder.number("cpuacct.usage", buffer).unwrap_or_default();
    }
    let memory = memory_folder.as_ref().map(|folder| memory(folder, buffer)).unwrap_or_default();
    let pids_folder = of("pids");
    let current = pids_folder.as_ref().and_then(|folder| folder.number("pids.current", buffer)).unwrap_or_default();
    let pids = Pids { current, limit: None };
    let (io, huge_pages) = (Vec::new(), Vec::new());
    let mut sample = Sample { at: SystemTime::now(), cpu, memory, pids, io, huge_pages, pressure: None };
    if detail == Detail::Stats {
        return Some(sample);
    }
    if let Some(folder) = accounting {
        sample.cpu.user_ns = folder.number("cpuacct.usage_user", buffer).unwrap_or_default();
        sample.cpu.system_ns = folder.number("cpuacct.usage_sys", buffer).unwrap_or_default();
    }
    if let Some(folder) = of("cpu") {
        quota(&folder, &mut sample.cpu, buffer);
    }
    if let Some(folder) = memory_folder {
        more_memory(&folder, &mut sample.memory, buffer);
    }
    sample.pids.limit = pids_folder.and_then(|folder| folder.number("pids.max", buffer));
    sample.io = of("blkio").map(|folder| io_of(&folder, buffer)).unwrap_or_default();
    if let Some(folder) = of("hugetlb") {
        sample.huge_pages = huge_page_sizes.iter().filter_map(|size| huge_pages_of(&folder, size, buffer)).collect();
    }
    Some(sample)
}

/// The folder of a cgroup in one hierarchy.
pub(super) fn folder(root: &Path, controller: &str, path: &Path) -> PathBuf {
    root.join(controller).join(path.strip_prefix("/").unwrap_or(path))
}

fn quota(folder: &Folder, cpu: &mut Cpu, buffer: &mut Buffer) {
    // -1 is no quota, and no number here.
    cpu.quota_us = folder.number("cpu.cfs_quota_us", buffer);
    cpu.period_us = folder.number("cpu.cfs_period_us", buffer).unwrap_or_default();
    cpu.shares = folder.number("cpu.shares", buffer).unwrap_or_default();
    for (name, number) in folder.text("cpu.stat", buffer).into_iter().flat_map(pairs) {
        match name {
            "nr_periods" => cpu.periods = number,
            "nr_throttled" => cpu.throttled_periods = number,
            "throttled_time" => cpu.throttled_ns = number,
            _ => {}
        }
    }
}

/// A limit in bytes; the kernel's largest number is none.
fn limit(folder: &Folder, name: &str, buffer: &mut Buffer) -> Option<u64> {
    folder.number(name, buffer).filter(|bytes| *bytes < NO_LIMIT)
}

fn memory(folder: &Folder, buffer: &mut Buffer) -> Memory {
    let usage = folder.number("memory.usage_in_bytes", buffer).unwrap_or_default();
    let mut memory = Memory { usage, limit: limit(folder, "memory.limit_in_bytes", buffer), ..Memory::default() };
    let mut idle = 0;
    for (name, number) in folder.text("memory.stat", buffer).into_iter().flat_map(pairs) {
        match name {
            "total_rss" => memory.rss = number,
            "total_cache" => memory.cache = number,
            "total_mapped_file" => memory.mapped_file = number,
            "total_swap" => memory.swap = number,
            "total_inactive_file" => idle = number,
            "total_pgfault" => memory.page_faults = number,
            "total_pgmajfault" => memory.major_page_faults = number,
            _ => {}
        }
    }
    memory.working_set = memory.usage.saturating_sub(idle);
    memory
}

fn more_memory(folder: &Folder, memory: &mut Memory, buffer: &mut Buffer) {
    memory.swap_limit = limit(folder, "memory.memsw.limit_in_bytes", buffer);
    memory.reservation = limit(folder, "memory.soft_limit_in_bytes", buffer);
    memory.max_usage = folder.number("memory.max_usage_in_bytes", buffer).unwrap_or_default();
    memory.failures = folder.number("memory.failcnt", buffer).unwrap_or_default();
    memory.kernel = folder.number("memory.kmem.usage_in_bytes", buffer).unwrap_or_default();
    let control = folder.text("memory.oom_control", buffer).into_iter().flat_map(pairs);
    memory.oom_kills = control.filter(|(name, _)| *name == "oom_kill").map(|(_, number)| number).sum();
}

/// Lines such as `8:0 Read 4096`, in two files.
fn io_of(folder: &Folder, buffer: &mut Buffer) -> Vec<DeviceIo> {
    let mut devices: BTreeMap<(u32, u32), DeviceIo> = BTreeMap::new();
    for (name, bytes) in
        [("blkio.throttle.io_service_bytes_recursive", true), ("blkio.throttle.io_serviced_recursive", false)]
    {
        for line in folder.text(name, buffer).into_iter().flat_map(str::lines) {
            let mut words = line.split(' ');
            let (Some(of), Some(kind), Some(number)) = (words.next().and_then(device), words.next(), words.next())
            else {
                continue;
            };
            let number = number.parse().unwrap_or_default();
            let io = devices.entry(of).or_insert(DeviceIo { major: of.0, minor: of.1, ..DeviceIo::default() });
            match (kind, bytes) {
                ("Read", true) => io.read_bytes = number,
                ("Write", true) => io.write_bytes = number,
                ("Read", false) => io.reads = number,
                ("Write", false) => io.writes = number,
                _ => {}
            }
        }
    }
    devices.into_values().collect()
}

fn huge_pages_of(folder: &Folder, size: &str, buffer: &mut Buffer) -> Option<HugePages> {
    let usage = folder.number(&format!("hugetlb.{size}.usage_in_bytes"), buffer)?;
    let max_usage = folder.number(&format!("hugetlb.{size}.max_usage_in_bytes"), buffer).unwrap_or(usage);
    Some(HugePages { size: size.to_owned(), usage, max_usage })
}
