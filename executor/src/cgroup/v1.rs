//! What v1 controllers tell, field by field as in `io.containerd.cgroups.v1.Metrics`.

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
