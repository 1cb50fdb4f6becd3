//! What a v2 cgroup tells, field by field as in `io.containerd.cgroups.v2.Metrics`.

use std::path::Path;

use super::files;
use super::v1::{RdmaEntry, plain};

plain! { /// Everything at once. A controller the host lacks stays `None` or empty.
Metrics {
    pids: Option<Pids>, cpu: Option<Cpu>, memory: Option<Memory>, rdma: Option<Rdma>, io: Option<Io>, hugetlb: Vec<Hugetlb>,
    memory_events: Option<MemoryEvents>,
} }
plain! { /// Tasks; limit `u64::MAX` is none.
Pids { current: u64, limit: u64 } }
plain! { /// Averages in percent over 10, 60, 300 s, total in microseconds.
PsiData { avg10: f64, avg60: f64, avg300: f64, total: u64 } }
plain! { /// Pressure stall information of one resource.
Psi { some: Option<PsiData>, full: Option<PsiData> } }
plain! { /// `cpu.stat`, microseconds.
Cpu { usage_usec: u64, user_usec: u64, system_usec: u64, nr_periods: u64, nr_throttled: u64, throttled_usec: u64, psi: Option<Psi> } }
plain! { /// `memory.stat` and the counters beside it, bytes and counts; limit `u64::MAX` is none.
Memory {
    anon: u64, file: u64, kernel_stack: u64, slab: u64, sock: u64, shmem: u64, file_mapped: u64, file_dirty: u64,
    file_writeback: u64, anon_thp: u64, inactive_anon: u64, active_anon: u64, inactive_file: u64, active_file: u64,
    unevictable: u64, slab_reclaimable: u64, slab_unreclaimable: u64, pgfault: u64, pgmajfault: u64,
    workingset_refault: u64, workingset_activate: u64, workingset_nodereclaim: u64, pgrefill: u64, pgscan: u64, pgsteal: u64,
    pgactivate: u64, pgdeactivate: u64, pglazyfree: u64, pglazyfreed: u64, thp_fault_alloc: u64, thp_collapse_alloc: u64,
    usage: u64, usage_limit: u64, swap_usage: u64, swap_limit: u64, max_usage: u64, swap_max_usage: u64, psi: Option<Psi>,
} }
plain! { /// `memory.events`.
MemoryEvents { low: u64, high: u64, max: u64, oom: u64, oom_kill: u64, oom_group_kill: u64 } }
plain! { /// `rdma.current`, `rdma.max`.
Rdma { current: Vec<RdmaEntry>, limit: Vec<RdmaEntry> } }
plain! { /// One line of `io.stat`.
IoEntry { major: u64, minor: u64, rbytes: u64, wbytes: u64, rios: u64, wios: u64 } }
plain! { /// `io.stat` and the pressure.
Io { usage: Vec<IoEntry>, psi: Option<Psi> } }
plain! { /// Bytes of huge pages of one size (`2MB`).
Hugetlb { current: u64, max: u64, pagesize: String, failcnt: u64 } }

/// Reads everything there is.
pub(super) fn read(folder: &Path) -> Metrics {
    Metrics {
        pids: files::number(folder, "pids.current", 0)
            .map(|current| Pids { current, limit: files::number(folder, "pids.max", u64::MAX).unwrap_or(0) }),
        cpu: cpu(folder),
        memory: memory(folder),
        rdma: files::text(folder, "rdma.current")
            .map(|_| Rdma { current: files::rdma(folder, "rdma.current"), limit: files::rdma(folder, "rdma.max") }),
        io: io(folder),
        hugetlb: hugetlb(folder),
        memory_events: memory_events(folder),
    }
}

fn cpu(folder: &Path) -> Option<Cpu> {
    files::text(folder, "cpu.stat")?;
    let stat = files::table(folder, "cpu.stat");
    let value = |key| stat.get(key).copied().unwrap_or(0);
    Some(Cpu {
        usage_usec: value("usage_usec"),
        user_usec: value("user_usec"),
        system_usec: value("system_usec"),
        nr_periods: value("nr_periods"),
        nr_throttled: value("nr_throttled"),
        throttled_usec: value("throttled_usec"),
        psi: pressure(folder, "cpu.pressure"),
    })
}

fn memory(folder: &Path) -> Option<Memory> {
    files::text(folder, "memory.stat")?;
    let stat = files::table(folder, "memory.stat");
    let value = |key: &str| stat.get(key).copied().unwrap_or(0);
    // Since 5.9 the counter is split by kind of page; older kernels have the sum.
    let both = |key: &str| {
        let sum = value(&format!("{key}_anon")) + value(&format!("{key}_file"));
        if sum == 0 { value(key) } else { sum }
    };
    let counter = |file: &str| files::number(folder, file, u64::MAX).unwrap_or(0);
    Some(Memory {
        anon: value("anon"),
        file: value("file"),
        kernel_stack: value("kernel_stack"),
        slab: value("slab"),
        sock: value("sock"),
        shmem: value("shmem"),
        file_mapped: value("file_mapped"),
        file_dirty: value("file_dirty"),
        file_writeback: value("file_writeback"),
        anon_thp: value("anon_thp"),
        inactive_anon: value("inactive_anon"),
        active_anon: value("active_anon"),
        inactive_file: value("inactive_file"),
        active_file: value("active_file"),
        unevictable: value("unevictable"),
        slab_reclaimable: value("slab_reclaimable"),
        slab_unreclaimable: value("slab_unreclaimable"),
        pgfault: value("pgfault"),
        pgmajfault: value("pgmajfault"),
        workingset_refault: both("workingset_refault"),
        workingset_activate: both("workingset_activate"),
        workingset_nodereclaim: value("workingset_nodereclaim"),
        pgrefill: value("pgrefill"),
        pgscan: value("pgscan"),
        pgsteal: value("pgsteal"),
        pgactivate: value("pgactivate"),
        pgdeactivate: value("pgdeactivate"),
        pglazyfree: value("pglazyfree"),
        pglazyfreed: value("pglazyfreed"),
        thp_fault_alloc: value("thp_fault_alloc"),
        thp_collapse_alloc: value("thp_collapse_alloc"),
        usage: counter("memory.current"),
        usage_limit: counter("memory.max"),
        swap_usage: counter("memory.swap.current"),
        swap_limit: counter("memory.swap.max"),
        max_usage: counter("memory.peak"),
        swap_max_usage: counter("memory.swap.peak"),
        psi: pressure(folder, "memory.pressure"),
    })
}

fn memory_events(folder: &Path) -> Option<MemoryEvents> {
    files::text(folder, "memory.events")?;
    let table = files::table(folder, "memory.events");
    let value = |key| table.get(key).copied().unwrap_or(0);
    Some(MemoryEvents {
        low: value("low"),
        high: value("high"),
        max: value("max"),
        oom: value("oom"),
        oom_kill: value("oom_kill"),
        oom_group_kill: value("oom_group_kill"),
    })
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`.
fn io(folder: &Path) -> Option<Io> {
    let text = files::text(folder, "io.stat")?;
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        let (major, minor) = words.next()?.split_once(':')?;
        let mut entry = IoEntry { major: major.parse().ok()?, minor: minor.parse().ok()?, ..IoEntry::default() };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let value = value.parse().unwrap_or(0);
            match key {
                "rbytes" => entry.rbytes = value,
                "wbytes" => entry.wbytes = value,
                "rios" => entry.rios = value,
                "wios" => entry.wios = value,
                _ => {}
            }
        }
        Some(entry)
    };
    Some(Io { usage: text.lines().filter_map(entry).collect(), psi: pressure(folder, "io.pressure") })
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0` and the same for `full`.
fn pressure(folder: &Path, file: &str) -> Option<Psi> {
    let text = files::text(folder, file)?;
    let mut psi = Psi::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let kind = words.next();
        let mut data = PsiData::default();
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            match key {
                "avg10" => data.avg10 = value.parse().unwrap_or(0.0),
                "avg60" => data.avg60 = value.parse().unwrap_or(0.0),
                "avg300" => data.avg300 = value.parse().unwrap_or(0.0),
                "total" => data.total = value.parse().unwrap_or(0),
                _ => {}
            }
        }
        match kind {
            Some("some") => psi.some = Some(data),
            Some("full") => psi.full = Some(data),
            _ => {}
        }
    }
    Some(psi)
}

fn hugetlb(folder: &Path) -> Vec<Hugetlb> {
    files::hugetlb_sizes(folder, "current")
        .into_iter()
        .map(|size| Hugetlb {
            current: files::number(folder, &format!("hugetlb.{size}.current"), u64::MAX).unwrap_or(0),
            max: files::number(folder, &format!("hugetlb.{size}.max"), u64::MAX).unwrap_or(0),
            failcnt: files::table(folder, &format!("hugetlb.{size}.events")).get("max").copied().unwrap_or(0),
            pagesize: size,
        })
        .collect()
}
