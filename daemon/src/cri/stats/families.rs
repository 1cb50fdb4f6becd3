//! The numbers of a container or pod in cAdvisor's words: the names, labels and kinds that dashboards for Kubernetes expect.
//!
//! Values are whole numbers, since the CRI carries no others; seconds are cut off, not rounded. A value that is not known has no
//! point. A limit that nobody set is 0, as in cAdvisor.

use std::time::{SystemTime, UNIX_EPOCH};

use super::network::Interface;
use super::processes::Processes;
use super::sample::Sample;

/// The labels that each point has before its own.
pub const BASE_LABELS: [&str; 6] = ["container", "id", "image", "name", "namespace", "pod"];

/// One metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// What it means.
    pub help: &'static str,
    /// Labels after [`BASE_LABELS`].
    pub labels: &'static [&'static str],
}

/// The values of [`BASE_LABELS`], in their order.
pub type Labels = [String; 6];

/// One value of a metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// The metric.
    pub family: &'static Family,
    /// Whether it only grows.
    pub counter: bool,
    /// The values of all its labels.
    pub labels: Vec<String>,
    /// The value.
    pub value: u64,
}

/// What a writable layer holds, and the filesystem it is on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Disk {
    /// The filesystem's device or mount point.
    pub device: String,
    /// Bytes of the layer.
    pub used_bytes: u64,
    /// Bytes of the filesystem.
    pub limit_bytes: u64,
    /// Inodes of the filesystem.
    pub inodes: u64,
    /// Those that are free.
    pub inodes_free: u64,
}

/// All that points are made of.
#[derive(Debug, Clone, Default)]
pub struct Subject<'a> {
    /// The labels that all of them have.
    pub labels: Labels,
    /// Its cgroup.
    pub sample: Option<&'a Sample>,
    /// Its processes.
    pub processes: Processes,
    /// Its interfaces; only a pod has them.
    pub interfaces: &'a [Interface],
    /// Its writable layer; only a container has one.
    pub disk: Option<&'a Disk>,
    /// When it was started.
    pub started: Option<SystemTime>,
    /// Memory limit in bytes that its spec asks for.
    pub spec_memory_limit: u64,
}

macro_rules! families {
    ($($constant:ident = $name:literal $labels:expr, $help:literal;)*) => {
        $(static $constant: Family = Family { name: concat!("container_", $name), help: $help, labels: &$labels };)*
        /// Every metric there is.
        pub static FAMILIES: &[&Family] = &[$(&$constant),*];
    };
}

families! {
    BLKIO = "blkio_device_usage_total" ["device", "major", "minor", "operation"], "Bytes moved to and from a block device";
    CPU_PERIODS = "cpu_cfs_periods_total" [], "Periods of the processor quota in which it ran";
    CPU_THROTTLED = "cpu_cfs_throttled_periods_total" [], "Periods in which it was held back";
    CPU_THROTTLED_SECONDS = "cpu_cfs_throttled_seconds_total" [], "Seconds for which it was held back";
    CPU_SYSTEM = "cpu_system_seconds_total" [], "Seconds of processor time in the kernel";
    CPU_USAGE = "cpu_usage_seconds_total" ["cpu"], "Seconds of processor time";
    CPU_USER = "cpu_user_seconds_total" [], "Seconds of processor time in user mode";
    FILES = "file_descriptors" [], "Open files of all its processes";
    FS_INODES_FREE = "fs_inodes_free" ["device"], "Free inodes of its filesystem";
    FS_INODES = "fs_inodes_total" ["device"], "Inodes of its filesystem";
    FS_LIMIT = "fs_limit_bytes" ["device"], "Bytes of its filesystem";
    FS_READ_BYTES = "fs_reads_bytes_total" ["device"], "Bytes read";
    FS_READS = "fs_reads_total" ["device"], "Reads";
    FS_USAGE = "fs_usage_bytes" ["device"], "Bytes of its writable layer";
    FS_WRITE_BYTES = "fs_writes_bytes_total" ["device"], "Bytes written";
    FS_WRITES = "fs_writes_total" ["device"], "Writes";
    HUGETLB = "hugetlb_usage_bytes" ["pagesize"], "Bytes in huge pages";
    HUGETLB_MAX = "hugetlb_max_usage_bytes" ["pagesize"], "The most bytes in huge pages";
    LAST_SEEN = "last_seen" [], "When it was last seen, in seconds of Unix time";
    MEMORY_CACHE = "memory_cache" [], "Bytes of file pages";
    MEMORY_FAILCNT = "memory_failcnt" [], "How often it met its memory limit";
    MEMORY_FAILURES = "memory_failures_total" ["failure_type", "scope"], "Page faults";
    MEMORY_KERNEL = "memory_kernel_usage" [], "Bytes used by the kernel for it";
    MEMORY_MAPPED = "memory_mapped_file" [], "Bytes of mapped file pages";
    MEMORY_MAX = "memory_max_usage_bytes" [], "The most bytes it ever used";
    MEMORY_RSS = "memory_rss" [], "Bytes of pages of no file";
    MEMORY_SWAP = "memory_swap" [], "Bytes that are swapped out";
    MEMORY_USAGE = "memory_usage_bytes" [], "Bytes in use, file pages included";
    MEMORY_WORKING_SET = "memory_working_set_bytes" [], "Bytes in use that cannot be taken back at once";
    RX_BYTES = "network_receive_bytes_total" ["interface"], "Bytes received";
    RX_ERRORS = "network_receive_errors_total" ["interface"], "Packets received wrongly";
    RX_DROPPED = "network_receive_packets_dropped_total" ["interface"], "Received packets that were dropped";
    RX_PACKETS = "network_receive_packets_total" ["interface"], "Packets received";
    TX_BYTES = "network_transmit_bytes_total" ["interface"], "Bytes sent";
    TX_ERRORS = "network_transmit_errors_total" ["interface"], "Packets that could not be sent";
    TX_DROPPED = "network_transmit_packets_dropped_total" ["interface"], "Packets that were dropped before they were sent";
    TX_PACKETS = "network_transmit_packets_total" ["interface"], "Packets sent";
    OOM = "oom_events_total" [], "Processes that were killed because it ran out of memory";
    CPU_STALLED = "pressure_cpu_stalled_seconds_total" [], "Seconds in which all of its tasks waited for a processor";
    CPU_WAITING = "pressure_cpu_waiting_seconds_total" [], "Seconds in which some of its tasks waited for a processor";
    IO_STALLED = "pressure_io_stalled_seconds_total" [], "Seconds in which all of its tasks waited for a device";
    IO_WAITING = "pressure_io_waiting_seconds_total" [], "Seconds in which some of its tasks waited for a device";
    MEMORY_STALLED = "pressure_memory_stalled_seconds_total" [], "Seconds in which all of its tasks waited for memory";
    MEMORY_WAITING = "pressure_memory_waiting_seconds_total" [], "Seconds in which some of its tasks waited for memory";
    PROCESSES = "processes" [], "Its processes";
    SOCKETS = "sockets" [], "Open sockets of all its processes";
    SPEC_CPU_PERIOD = "spec_cpu_period" [], "The period of its processor quota, in microseconds";
    SPEC_CPU_QUOTA = "spec_cpu_quota" [], "Its processor quota, in microseconds a period";
    SPEC_CPU_SHARES = "spec_cpu_shares" [], "Its processor shares";
    SPEC_MEMORY_LIMIT = "spec_memory_limit_bytes" [], "Its memory limit";
    SPEC_MEMORY_RESERVATION = "spec_memory_reservation_limit_bytes" [], "The memory it keeps when memory is short";
    SPEC_MEMORY_SWAP = "spec_memory_swap_limit_bytes" [], "Its limit for memory and swap together";
    STARTED = "start_time_seconds" [], "When it was started, in seconds of Unix time";
    THREADS = "threads" [], "Its threads";
    THREADS_MAX = "threads_max" [], "The most threads it may have";
    ULIMITS = "ulimits_soft" ["ulimit"], "Soft limits of its first process";
}

/// Gathers points.
struct Points<'a> {
    labels: &'a Labels,
    points: Vec<Point>,
}

impl Points<'_> {
    fn add(&mut self, counter: bool, family: &'static Family, own: &[&str], value: u64) {
        debug_assert_eq!(own.len(), family.labels.len(), "{}", family.name);
        let own = own.iter().map(|value| (*value).to_owned());
        let labels = self.labels.iter().cloned().chain(own).collect();
        self.points.push(Point { family, counter, labels, value });
    }

    fn counter(&mut self, family: &'static Family, own: &[&str], value: u64) {
        self.add(true, family, own, value);
    }

    fn gauge(&mut self, family: &'static Family, own: &[&str], value: u64) {
        self.add(false, family, own, value);
    }
}

/// All points of a container or pod.
pub fn points(subject: &Subject<'_>) -> Vec<Point> {
    let mut points = Points { labels: &subject.labels, points: Vec::new() };
    if let Some(sample) = subject.sample {
        of_cpu(&mut points, sample);
        of_memory(&mut points, sample, subject.spec_memory_limit);
        of_devices(&mut points, sample);
        of_pressure(&mut points, sample);
        points.gauge(&LAST_SEEN, &[], seconds(sample.at));
        points.gauge(&THREADS, &[], sample.pids.current);
        points.gauge(&THREADS_MAX, &[], sample.pids.limit.unwrap_or_default());
    }
    let processes = subject.processes;
    points.gauge(&PROCESSES, &[], processes.count);
    points.gauge(&FILES, &[], processes.files);
    points.gauge(&SOCKETS, &[], processes.sockets);
    if let Some(limit) = processes.files_soft_limit {
        points.gauge(&ULIMITS, &["max_open_files"], limit);
    }
    if let Some(disk) = subject.disk {
        let device = [disk.device.as_str()];
        points.gauge(&FS_USAGE, &device, disk.used_bytes);
        points.gauge(&FS_LIMIT, &device, disk.limit_bytes);
        points.gauge(&FS_INODES, &device, disk.inodes);
        points.gauge(&FS_INODES_FREE, &device, disk.inodes_free);
    }
    of_network(&mut points, subject.interfaces);
    if let Some(started) = subject.started {
        points.gauge(&STARTED, &[], seconds(started));
    }
    points.points
}

fn of_cpu(points: &mut Points<'_>, sample: &Sample) {
    const SECOND: u64 = 1_000_000_000;
    let cpu = &sample.cpu;
    points.counter(&CPU_USAGE, &["total"], cpu.usage_ns / SECOND);
    points.counter(&CPU_USER, &[], cpu.user_ns / SECOND);
    points.counter(&CPU_SYSTEM, &[], cpu.system_ns / SECOND);
    points.counter(&CPU_PERIODS, &[], cpu.periods);
    points.counter(&CPU_THROTTLED, &[], cpu.throttled_periods);
    points.counter(&CPU_THROTTLED_SECONDS, &[], cpu.throttled_ns / SECOND);
    points.gauge(&SPEC_CPU_PERIOD, &[], cpu.period_us);
    points.gauge(&SPEC_CPU_SHARES, &[], cpu.shares);
    if let Some(quota) = cpu.quota_us {
        points.gauge(&SPEC_CPU_QUOTA, &[], quota);
    }
}

fn of_memory(points: &mut Points<'_>, sample: &Sample, spec_limit: u64) {
    let memory = &sample.memory;
    points.gauge(&MEMORY_USAGE, &[], memory.usage);
    points.gauge(&MEMORY_WORKING_SET, &[], memory.working_set);
    points.gauge(&MEMORY_RSS, &[], memory.rss);
    points.gauge(&MEMORY_CACHE, &[], memory.cache);
    points.gauge(&MEMORY_MAPPED, &[], memory.mapped_file);
    points.gauge(&MEMORY_SWAP, &[], memory.swap);
    points.gauge(&MEMORY_KERNEL, &[], memory.kernel);
    points.gauge(&MEMORY_MAX, &[], memory.max_usage);
    points.counter(&MEMORY_FAILCNT, &[], memory.failures);
    points.counter(&OOM, &[], memory.oom_kills);
    for scope in ["container", "hierarchy"] {
        points.counter(&MEMORY_FAILURES, &["pgfault", scope], memory.page_faults);
        points.counter(&MEMORY_FAILURES, &["pgmajfault", scope], memory.major_page_faults);
    }
    points.gauge(&SPEC_MEMORY_LIMIT, &[], memory.limit.unwrap_or(spec_limit));
    points.gauge(&SPEC_MEMORY_SWAP, &[], memory.swap_limit.unwrap_or_default());
    if let Some(reservation) = memory.reservation {
        points.gauge(&SPEC_MEMORY_RESERVATION, &[], reservation);
    }
    for pages in &sample.huge_pages {
        points.gauge(&HUGETLB, &[&pages.size], pages.usage);
        points.gauge(&HUGETLB_MAX, &[&pages.size], pages.max_usage);
    }
}

fn of_devices(points: &mut Points<'_>, sample: &Sample) {
    for io in &sample.io {
        let (major, minor) = (io.major.to_string(), io.minor.to_string());
        let device = format!("{major}:{minor}");
        points.counter(&BLKIO, &[&device, &major, &minor, "Read"], io.read_bytes);
        points.counter(&BLKIO, &[&device, &major, &minor, "Write"], io.write_bytes);
        points.counter(&FS_READ_BYTES, &[&device], io.read_bytes);
        points.counter(&FS_WRITE_BYTES, &[&device], io.write_bytes);
        points.counter(&FS_READS, &[&device], io.reads);
        points.counter(&FS_WRITES, &[&device], io.writes);
    }
}

fn of_pressure(points: &mut Points<'_>, sample: &Sample) {
    const SECOND: u64 = 1_000_000;
    let Some(pressure) = sample.pressure else { return };
    for (waiting, stalled, stall) in [
        (&CPU_WAITING, &CPU_STALLED, pressure.cpu),
        (&MEMORY_WAITING, &MEMORY_STALLED, pressure.memory),
        (&IO_WAITING, &IO_STALLED, pressure.io),
    ] {
        points.counter(waiting, &[], stall.some.total_us / SECOND);
        points.counter(stalled, &[], stall.full.total_us / SECOND);
    }
}

fn of_network(points: &mut Points<'_>, interfaces: &[Interface]) {
    for interface in interfaces {
        let own = [interface.name.as_str()];
        points.counter(&RX_BYTES, &own, interface.rx_bytes);
        points.counter(&RX_PACKETS, &own, interface.rx_packets);
        points.counter(&RX_ERRORS, &own, interface.rx_errors);
        points.counter(&RX_DROPPED, &own, interface.rx_dropped);
        points.counter(&TX_BYTES, &own, interface.tx_bytes);
        points.counter(&TX_PACKETS, &own, interface.tx_packets);
        points.counter(&TX_ERRORS, &own, interface.tx_errors);
        points.counter(&TX_DROPPED, &own, interface.tx_dropped);
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map(|since| since.as_secs()).unwrap_or_default()
}
