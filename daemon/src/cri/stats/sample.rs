//! One cgroup at one moment, v1 and v2 alike. Plain data.

use std::time::SystemTime;

/// What a cgroup has used until now, and what it may use.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// When it was read.
    pub at: SystemTime,
    /// Processor time.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
    /// Tasks.
    pub pids: Pids,
    /// Traffic with block devices.
    pub io: Vec<DeviceIo>,
    /// Huge pages, by size.
    pub huge_pages: Vec<HugePages>,
    /// Time in which it waited for a resource; only with cgroup v2 and a kernel that counts it.
    pub pressure: Option<Pressure>,
}

/// Processor time.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Cpu {
    /// All of it, in nanoseconds.
    pub usage_ns: u64,
    /// In user mode, in nanoseconds.
    pub user_ns: u64,
    /// In the kernel, in nanoseconds.
    pub system_ns: u64,
    /// How much of one core it used of late, in nanoseconds per second; unknown until it was read twice.
    pub nano_cores: Option<u64>,
    /// Periods of its quota in which it ran.
    pub periods: u64,
    /// Those in which it used its quota up.
    pub throttled_periods: u64,
    /// How long it was held back, in nanoseconds.
    pub throttled_ns: u64,
    /// Its quota in each period, in microseconds; none if it has no limit.
    pub quota_us: Option<u64>,
    /// The length of a period, in microseconds.
    pub period_us: u64,
    /// Its weight in cgroup v1's measure, 2 to 262144.
    pub shares: u64,
}

/// Memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Memory {
    /// All that is charged to it.
    pub usage: u64,
    /// What cannot be taken from it without it noticing: usage without the file pages that were not used for long.
    pub working_set: u64,
    /// Pages of no file.
    pub rss: u64,
    /// Pages of files.
    pub cache: u64,
    /// Those that are mapped.
    pub mapped_file: u64,
    /// Swapped out.
    pub swap: u64,
    /// Used by the kernel on its behalf.
    pub kernel: u64,
    /// The most it ever used.
    pub max_usage: u64,
    /// How often it met its limit.
    pub failures: u64,
    /// Page faults.
    pub page_faults: u64,
    /// Page faults that had to read from a disk.
    pub major_page_faults: u64,
    /// Its limit.
    pub limit: Option<u64>,
    /// Its limit for memory and swap together.
    pub swap_limit: Option<u64>,
    /// What it keeps when memory is short.
    pub reservation: Option<u64>,
    /// Processes that were killed because it ran out.
    pub oom_kills: u64,
}

impl Memory {
    /// What is left below the limit; nothing is said without one.
    pub fn available(&self) -> Option<u64> {
        self.limit.map(|limit| limit.saturating_sub(self.working_set))
    }
}

/// Tasks: processes and their threads.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Pids {
    /// Now.
    pub current: u64,
    /// At most.
    pub limit: Option<u64>,
}

/// Traffic with one block device.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct DeviceIo {
    /// Its major number.
    pub major: u32,
    /// Its minor number.
    pub minor: u32,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

/// Huge pages of one size.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HugePages {
    /// The size as the kernel names it, `2MB` for one.
    pub size: String,
    /// Bytes in use.
    pub usage: u64,
    /// The most that ever were.
    pub max_usage: u64,
}

/// Pressure stall information (psi.rst).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Pressure {
    /// Waiting for a processor.
    pub cpu: Stall,
    /// Waiting for memory.
    pub memory: Stall,
    /// Waiting for a device.
    pub io: Stall,
}

/// How long tasks waited for one resource.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Stall {
    /// At least one of them.
    pub some: Waited,
    /// All of them at once.
    pub full: Waited,
}

/// A share of time, and all of it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Waited {
    /// Percent of the last 10 seconds.
    pub avg10: f64,
    /// Percent of the last minute.
    pub avg60: f64,
    /// Percent of the last five minutes.
    pub avg300: f64,
    /// All of it, in microseconds.
    pub total_us: u64,
}
