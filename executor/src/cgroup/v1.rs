//! What v1 controllers tell, field by field as in `io.containerd.cgroups.v1.Metrics`.

use std::collections::HashMap;
use std::path::Path;

use super::{Cgroup, files};

/// `cpuacct.stat` counts in ticks of 1/100 s (`USER_HZ`, fixed on every Linux architecture that matters here).
const NANOSECONDS_PER_TICK: u64 = 10_000_000;

/// Everything at once. A controller the host lacks stays at its default.
#[derive(Debug, Clone, Default, PartialEq)]
#[expect(missing_docs, reason = "the names are the kernel's and the wire's")]
pub struct Metrics {
    pub hugetlb: Vec<Hugetlb>,
    pub pids: Option<Pids>,
    pub cpu: Option<Cpu>,
    pub memory: Option<Memory>,
    pub blkio: Option<Blkio>,
    pub rdma: Option<Rdma>,
    pub memory_oom_control: Option<OomControl>,
}

macro_rules! plain {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq)]
        #[expect(missing_docs, reason = "the names are the kernel's and the wire's")]
        pub struct $name { $(pub $field: $type),* }
    };
}
pub(super) use plain;

plain! { /// Bytes of huge pages of one size (`2MB`).
Hugetlb { usage: u64, max: u64, failcnt: u64, pagesize: String } }
plain! { /// Tasks; limit 0 is none.
Pids { current: u64, limit: u64 } }
plain! { /// Nanoseconds.
CpuUsage { total: u64, kernel: u64, user: u64, per_cpu: Vec<u64> } }
plain! { /// CFS bandwidth; time in nanoseconds.
Throttle { periods: u64, throttled_periods: u64, throttled_time: u64 } }
plain! { /// `cpuacct` and `cpu`.
Cpu { usage: CpuUsage, throttling: Throttle } }
plain! { /// One `memory.*` counter family, bytes.
MemoryEntry { limit: u64, usage: u64, max: u64, failcnt: u64 } }
plain! { /// `memory.stat` and the counters beside it, bytes and counts.
Memory {
    cache: u64, rss: u64, rss_huge: u64, mapped_file: u64, dirty: u64, writeback: u64, pg_pg_in: u64, pg_pg_out: u64,
    pg_fault: u64, pg_maj_fault: u64, inactive_anon: u64, active_anon: u64, inactive_file: u64, active_file: u64,
    unevictable: u64, hierarchical_memory_limit: u64, hierarchical_swap_limit: u64, total_cache: u64, total_rss: u64,
    total_rss_huge: u64, total_mapped_file: u64, total_dirty: u64, total_writeback: u64, total_pg_pg_in: u64,
    total_pg_pg_out: u64, total_pg_fault: u64, total_pg_maj_fault: u64, total_inactive_anon: u64, total_active_anon: u64,
    total_inactive_file: u64, total_active_file: u64, total_unevictable: u64,
    usage: Option<MemoryEntry>, swap: Option<MemoryEntry>, kernel: Option<MemoryEntry>, kernel_tcp: Option<MemoryEntry>,
} }
plain! { /// One line of a blkio file.
BlkioEntry { op: String, device: String, major: u64, minor: u64, value: u64 } }
plain! { /// `blkio.*`.
Blkio {
    io_service_bytes_recursive: Vec<BlkioEntry>, io_serviced_recursive: Vec<BlkioEntry>, io_queued_recursive: Vec<BlkioEntry>,
    io_service_time_recursive: Vec<BlkioEntry>, io_wait_time_recursive: Vec<BlkioEntry>, io_merged_recursive: Vec<BlkioEntry>,
    io_time_recursive: Vec<BlkioEntry>, sectors_recursive: Vec<BlkioEntry>,
} }
plain! { /// One RDMA device.
RdmaEntry { device: String, hca_handles: u32, hca_objects: u32 } }
plain! { /// `rdma.current`, `rdma.max`.
Rdma { current: Vec<RdmaEntry>, limit: Vec<RdmaEntry> } }
plain! { /// `memory.oom_control`.
OomControl { oom_kill_disable: u64, under_oom: u64, oom_kill: u64 } }

/// Reads everything there is.
pub(super) fn read(cgroup: &Cgroup) -> Metrics {
    let mut metrics = Metrics::default();
    if let Some(folder) = cgroup.folder("hugetlb") {
        metrics.hugetlb = hugetlb(folder);
    }
    metrics.pids = cgroup.folder("pids").and_then(pids);
    metrics.cpu = cpu(cgroup);
    if let Some(folder) = cgroup.folder("memory") {
        metrics.memory = memory(folder);
        metrics.memory_oom_control = oom_control(folder);
    }
    metrics.blkio = cgroup.folder("blkio").map(|folder| blkio(folder, Path::new("/proc/diskstats")));
    metrics.rdma = cgroup
        .folder("rdma")
        .map(|folder| Rdma { current: files::rdma(folder, "rdma.current"), limit: files::rdma(folder, "rdma.max") });
    metrics
}

fn hugetlb(folder: &Path) -> Vec<Hugetlb> {
    let value =
        |size: &str, what: &str| files::number(folder, &format!("hugetlb.{size}.{what}"), u64::MAX).unwrap_or(0);
    files::hugetlb_sizes(folder, "usage_in_bytes")
        .into_iter()
        .map(|size| Hugetlb {
            usage: value(&size, "usage_in_bytes"),
            max: value(&size, "max_usage_in_bytes"),
            failcnt: value(&size, "failcnt"),
            pagesize: size,
        })
        .collect()
}

fn pids(folder: &Path) -> Option<Pids> {
    Some(Pids {
        current: files::number(folder, "pids.current", 0)?,
        limit: files::number(folder, "pids.max", 0).unwrap_or(0),
    })
}

fn cpu(cgroup: &Cgroup) -> Option<Cpu> {
    let (account, share) = (cgroup.folder("cpuacct"), cgroup.folder("cpu"));
    if account.is_none() && share.is_none() {
        return None;
    }
    let mut cpu = Cpu::default();
    if let Some(folder) = account {
        let ticks = files::table(folder, "cpuacct.stat");
        let time = |key| ticks.get(key).copied().unwrap_or(0) * NANOSECONDS_PER_TICK;
        let per_cpu = files::text(folder, "cpuacct.usage_percpu").unwrap_or_default();
        cpu.usage = CpuUsage {
            total: files::number(folder, "cpuacct.usage", 0).unwrap_or(0),
            kernel: time("system"),
            user: time("user"),
            per_cpu: per_cpu.split_whitespace().filter_map(|word| word.parse().ok()).collect(),
        };
    }
    if let Some(folder) = share {
        let stat = files::table(folder, "cpu.stat");
        let value = |key| stat.get(key).copied().unwrap_or(0);
        cpu.throttling = Throttle {
            periods: value("nr_periods"),
            throttled_periods: value("nr_throttled"),
            throttled_time: value("throttled_time"),
        };
    }
    Some(cpu)
}

fn memory(folder: &Path) -> Option<Memory> {
    files::text(folder, "memory.stat")?;
    let stat = files::table(folder, "memory.stat");
    let value = |key: &str| stat.get(key).copied().unwrap_or(0);
    Some(Memory {
        cache: value("cache"),
        rss: value("rss"),
        rss_huge: value("rss_huge"),
        mapped_file: value("mapped_file"),
        dirty: value("dirty"),
        writeback: value("writeback"),
        pg_pg_in: value("pgpgin"),
        pg_pg_out: value("pgpgout"),
        pg_fault: value("pgfault"),
        pg_maj_fault: value("pgmajfault"),
        inactive_anon: value("inactive_anon"),
        active_anon: value("active_anon"),
        inactive_file: value("inactive_file"),
        active_file: value("active_file"),
        unevictable: value("unevictable"),
        hierarchical_memory_limit: value("hierarchical_memory_limit"),
        hierarchical_swap_limit: value("hierarchical_memsw_limit"),
        total_cache: value("total_cache"),
        total_rss: value("total_rss"),
        total_rss_huge: value("total_rss_huge"),
        total_mapped_file: value("total_mapped_file"),
        total_dirty: value("total_dirty"),
        total_writeback: value("total_writeback"),
        total_pg_pg_in: value("total_pgpgin"),
        total_pg_pg_out: value("total_pgpgout"),
        total_pg_fault: value("total_pgfault"),
        total_pg_maj_fault: value("total_pgmajfault"),
        total_inactive_anon: value("total_inactive_anon"),
        total_active_anon: value("total_active_anon"),
        total_inactive_file: value("total_inactive_file"),
        total_active_file: value("total_active_file"),
        total_unevictable: value("total_unevictable"),
        usage: memory_entry(folder, "memory"),
        swap: memory_entry(folder, "memory.memsw"),
        kernel: memory_entry(folder, "memory.kmem"),
        kernel_tcp: memory_entry(folder, "memory.kmem.tcp"),
    })
}

fn memory_entry(folder: &Path, family: &str) -> Option<MemoryEntry> {
    let value = |what: &str| files::number(folder, &format!("{family}.{what}"), u64::MAX);
    Some(MemoryEntry {
        usage: value("usage_in_bytes")?,
        max: value("max_usage_in_bytes").unwrap_or(0),
        failcnt: value("failcnt").unwrap_or(0),
        limit: value("limit_in_bytes").unwrap_or(0),
    })
}

fn oom_control(folder: &Path) -> Option<OomControl> {
    files::text(folder, "memory.oom_control")?;
    let table = files::table(folder, "memory.oom_control");
    let value = |key| table.get(key).copied().unwrap_or(0);
    Some(OomControl {
        oom_kill_disable: value("oom_kill_disable"),
        under_oom: value("under_oom"),
        oom_kill: value("oom_kill"),
    })
}

fn blkio(folder: &Path, diskstats: &Path) -> Blkio {
    let names = device_names(diskstats);
    let entries = |file: &str| blkio_entries(folder, file, &names);
    // Without a proportional scheduler only the throttling layer counts.
    let serviced = entries("blkio.io_serviced_recursive");
    if serviced.is_empty() {
        return Blkio {
            io_service_bytes_recursive: entries("blkio.throttle.io_service_bytes"),
            io_serviced_recursive: entries("blkio.throttle.io_serviced"),
            ..Blkio::default()
        };
    }
    Blkio {
        io_service_bytes_recursive: entries("blkio.io_service_bytes_recursive"),
        io_serviced_recursive: serviced,
        io_queued_recursive: entries("blkio.io_queued_recursive"),
        io_service_time_recursive: entries("blkio.io_service_time_recursive"),
        io_wait_time_recursive: entries("blkio.io_wait_time_recursive"),
        io_merged_recursive: entries("blkio.io_merged_recursive"),
        io_time_recursive: entries("blkio.time_recursive"),
        sectors_recursive: entries("blkio.sectors_recursive"),
    }
}

/// Lines of `8:0 Read 4096` or `8:0 4096`; the closing `Total 4096` names no device and is left out.
fn blkio_entries(folder: &Path, file: &str, names: &HashMap<(u64, u64), String>) -> Vec<BlkioEntry> {
    let text = files::text(folder, file).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (major, minor) = words.first()?.split_once(':')?;
            let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
            let (op, value) = match words[1..] {
                [op, value] => (op, value),
                [value] => ("", value),
                _ => return None,
            };
            let device = names.get(&(major, minor)).cloned().unwrap_or_default();
            Some(BlkioEntry { op: op.to_owned(), device, major, minor, value: value.parse().ok()? })
        })
        .collect()
}

fn device_names(diskstats: &Path) -> HashMap<(u64, u64), String> {
    let text = std::fs::read_to_string(diskstats).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let key = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            Some((key, format!("/dev/{}", words.next()?)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blkio_lines_with_and_without_operation_are_read_and_totals_left_out() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("x"), "8:0 Read 4096\n8:0 7\nTotal 4103\n").unwrap();
        let names = HashMap::from([((8, 0), "/dev/sda".to_owned())]);
        let entry = |op: &str, value| BlkioEntry {
            op: op.to_owned(),
            device: "/dev/sda".to_owned(),
            major: 8,
            minor: 0,
            value,
        };
        assert_eq!(blkio_entries(folder.path(), "x", &names), [entry("Read", 4096), entry("", 7)]);
    }
}
