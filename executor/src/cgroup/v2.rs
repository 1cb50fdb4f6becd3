//! What a v2 cgroup tells, field by field as in `io.containerd.cgroups.v2.Metrics`.

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
MemoryEvents { low: u64, high: u64, max: u64, oom: u64, oom_kill: u64 } }
plain! { /// `rdma.current`, `rdma.max`.
Rdma { current: Vec<RdmaEntry>, limit: Vec<RdmaEntry> } }
plain! { /// One line of `io.stat`.
IoEntry { major: u64, minor: u64, rbytes: u64, wbytes: u64, rios: u64, wios: u64 } }
plain! { /// `io.stat` and the pressure.
Io { usage: Vec<IoEntry>, psi: Option<Psi> } }
plain! { /// Bytes of huge pages of one size (`2MB`).
Hugetlb { current: u64, max: u64, pagesize: String, failcnt: u64 } }
