//! What pods and containers use, read from cgroupfs in one pass.
//!
//! ```text
//!  callers ──► Collector::samples ──► fresh enough? ──► the last pass
//!                                └──► one pass over all cgroups, shared by all who wait for it
//!                                         └── reader (v1, v2) ──► Sample per cgroup ──► rates (usage per second)
//! ```
//!
//! No shim is asked: a wedged one costs nothing here, and a pass costs a few file reads a cgroup. Nothing runs while nobody asks.
//! A cgroup that is gone has no sample; a file that the kernel does not have leaves its field empty. [`families`] says
//! the same numbers in cAdvisor's words.
//!
//! Sources: cgroup-v2.rst and cgroup-v1/*.rst of the kernel's documentation; cAdvisor's metric names.

mod collector;
mod families;
mod files;
mod network;
mod processes;
mod sample;
mod v1;
mod v2;

pub use collector::{Collector, Detail, Pass, Target};
pub use families::{BASE_LABELS, Disk, FAMILIES, Family, Labels, Point, Subject, points};
pub use network::{Interface, interfaces};
pub use processes::{Processes, processes};
pub use sample::{Cpu, DeviceIo, HugePages, Memory, Pids, Pressure, Sample, Stall, Waited};

#[cfg(test)]
mod tests;
