//! A process that can be told from a later one with the same pid.

use std::path::Path;

/// A pid with the start time of its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProcessId {
    /// The pid.
    pub pid: i32,
    /// Clock ticks since boot, field 22 of `/proc/PID/stat`.
    pub started: u64,
}

impl ProcessId {
    /// The process that has `pid` now; `None` when there is none.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
        // The command's name may hold spaces and parentheses: count from the last one.
        let started = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
        Some(Self { pid, started })
    }

    /// Whether this very process still exists (a zombie counts).
    pub fn exists(self) -> bool {
        Self::of(self.pid) == Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_with_another_start_time_is_another_process() {
        let me = ProcessId::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(me.exists());
        assert!(!ProcessId { started: me.started + 1, ..me }.exists());
        assert_eq!(ProcessId::of(0), None);
    }
}
