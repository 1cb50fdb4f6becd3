//! A cgroup of the v2 hierarchy (cgroup-v2.rst).

use std::path::Path;
use std::time::SystemTime;

use super::collector::Detail;
use super::files::{Buffer, Folder, device, pairs};
use super::sample::{Cpu, DeviceIo, HugePages, Memory, Pids, Pressure, Sample, Stall, Waited};

/// The weight that a cgroup has when nobody sets it.
const DEFAULT_WEIGHT: u64 = 100;

/// Reads the cgroup in `folder`; nothing if it is gone.
pub(super) fn read(folder: &Path, detail: Detail, huge_page_sizes: &[String], buffer: &mut Buffer) -> Option<Sample> {
    let folder = Folder::open(folder)?;
    // The file that every cgroup has; without it the cgroup is on its way out.
    let cpu = cpu_stat(folder.text("cpu.stat", buffer)?);
    let pids = Pids { current: folder.number("pids.current", buffer).unwrap_or_default(), limit: None };
    let memory = memory(&folder, buffer);
    let pressure = pressure(&folder, buffer);
    let io = Vec::new();
    let mut sample = Sample { at: SystemTime::now(), cpu, memory, pids, io, huge_pages: Vec::new(), pressure };
    if detail == Detail::Metrics {
        more(&mut sample, &folder, huge_page_sizes, buffer);
    }
    Some(sample)
}

/// What only metrics need.
fn more(sample: &mut Sample, folder: &Folder, huge_page_sizes: &[String], buffer: &mut Buffer) {
    let cpu = &mut sample.cpu;
    if let Some(text) = folder.text("cpu.max", buffer) {
        let (quota, period) = text.trim().split_once(' ').unwrap_or((text.trim(), "100000"));
        (cpu.quota_us, cpu.period_us) = (quota.parse().ok(), period.parse().unwrap_or_default());
    }
    cpu.shares = shares(folder.number("cpu.weight", buffer).unwrap_or(DEFAULT_WEIGHT));
    sample.pids.limit = folder.number("pids.max", buffer);
    sample.io = folder.text("io.stat", buffer).map(io_stat).unwrap_or_default();
    sample.huge_pages = huge_page_sizes.iter().filter_map(|size| huge_pages(folder, size, buffer)).collect();
    let memory = &mut sample.memory;
    for (name, number) in folder.text("memory.events", buffer).into_iter().flat_map(pairs) {
        match name {
            "max" => memory.failures = number,
            "oom_kill" => memory.oom_kills = number,
            _ => {}
        }
    }
    memory.max_usage = folder.number("memory.peak", buffer).unwrap_or_default();
    let swap_only = folder.number("memory.swap.max", buffer);
    memory.swap_limit = memory.limit.zip(swap_only).map(|(memory, swap)| memory + swap);
    memory.reservation = folder.number("memory.low", buffer).filter(|bytes| *bytes > 0);
}

fn cpu_stat(text: &str) -> Cpu {
    let mut cpu = Cpu::default();
    for (name, number) in pairs(text) {
        match name {
            "usage_usec" => cpu.usage_ns = number * 1000,
            "user_usec" => cpu.user_ns = number * 1000,
            "system_usec" => cpu.system_ns = number * 1000,
            "nr_periods" => cpu.periods = number,
            "nr_throttled" => cpu.throttled_periods = number,
            "throttled_usec" => cpu.throttled_ns = number * 1000,
            _ => {}
        }
    }
    cpu
}

/// A weight, 1 to 10000, as v1's shares, 2 to 262144: the inverse of the conversion that runtimes make.
fn shares(weight: u64) -> u64 {
    2 + (weight.clamp(1, 10_000) - 1) * 262_142 / 9_999
}

fn memory(folder: &Folder, buffer: &mut Buffer) -> Memory {
    let mut memory = Memory { usage: folder.number("memory.current", buffer).unwrap_or_default(), ..Memory::default() };
    let mut idle = 0;
    for (name, number) in folder.text("memory.stat", buffer).into_iter().flat_map(pairs) {
        match name {
            "anon" => memory.rss = number,
            "file" => memory.cache = number,
            "file_mapped" => memory.mapped_file = number,
            "kernel" => memory.kernel = number,
            "inactive_file" => idle = number,
            "pgfault" => memory.page_faults = number,
            "pgmajfault" => memory.major_page_faults = number,
            _ => {}
        }
    }
    memory.working_set = memory.usage.saturating_sub(idle);
    memory.swap = folder.number("memory.swap.current", buffer).unwrap_or_default();
    memory.limit = folder.number("memory.max", buffer);
    memory
}

/// Lines such as `8:0 rbytes=90 wbytes=0 rios=7 wios=0 dbytes=0 dios=0`.
fn io_stat(text: &str) -> Vec<DeviceIo> {
    let line = |line: &str| {
        let (name, fields) = line.split_once(' ')?;
        let (major, minor) = device(name)?;
        let mut io = DeviceIo { major, minor, ..DeviceIo::default() };
        for (name, number) in fields.split(' ').filter_map(|field| field.split_once('=')) {
            let number = number.parse().unwrap_or_default();
            match name {
                "rbytes" => io.read_bytes = number,
                "wbytes" => io.write_bytes = number,
                "rios" => io.reads = number,
                "wios" => io.writes = number,
                _ => {}
            }
        }
        Some(io)
    };
    text.lines().filter_map(line).collect()
}

fn huge_pages(folder: &Folder, size: &str, buffer: &mut Buffer) -> Option<HugePages> {
    let usage = folder.number(&format!("hugetlb.{size}.current"), buffer)?;
    // The kernel keeps no maximum in v2.
    Some(HugePages { size: size.to_owned(), usage, max_usage: usage })
}

fn pressure(folder: &Folder, buffer: &mut Buffer) -> Option<Pressure> {
    Some(Pressure {
        cpu: stall(folder.text("cpu.pressure", buffer)?),
        memory: stall(folder.text("memory.pressure", buffer)?),
        io: stall(folder.text("io.pressure", buffer)?),
    })
}

/// Lines such as `some avg10=0.00 avg60=0.12 avg300=0.03 total=4711`.
fn stall(text: &str) -> Stall {
    let mut stall = Stall::default();
    for line in text.lines() {
        let mut words = line.split(' ');
        let waited = match words.next() {
            Some("some") => &mut stall.some,
            Some("full") => &mut stall.full,
            _ => continue,
        };
        words.filter_map(|word| word.split_once('=')).for_each(|(name, value)| set(waited, name, value));
    }
    stall
}

fn set(waited: &mut Waited, name: &str, value: &str) {
    match name {
        "avg10" => waited.avg10 = value.parse().unwrap_or_default(),
        "avg60" => waited.avg60 = value.parse().unwrap_or_default(),
        "avg300" => waited.avg300 = value.parse().unwrap_or_default(),
        "total" => waited.total_us = value.parse().unwrap_or_default(),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::shares;

    #[test]
    fn weights_become_shares() {
        assert_eq!((shares(1), shares(100), shares(10_000)), (2, 2597, 262_144));
    }
}
