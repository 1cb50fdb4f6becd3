//! What a container uses: the figures of its cgroup, and what only `/proc` tells, its network and the states of its tasks.

use executor::cgroup::{Cgroup, CgroupError, Metrics};

/// The most processes whose state is asked for: with more, the counts are of the first ones.
const MAX_TASKS: usize = 4096;
/// The most network interfaces.
const MAX_INTERFACES: usize = 256;

/// Everything at once.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Usage {
    /// Of the cgroup.
    pub metrics: Metrics,
    /// Of its own network interfaces; empty when it has the host's.
    pub network: Vec<Network>,
    /// How many of its tasks are in which state.
    pub tasks: Tasks,
}

/// One network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Network {
    pub name: String,
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

/// Counts of tasks by their state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tasks {
    pub nr_sleeping: u64,
    pub nr_running: u64,
    pub nr_stopped: u64,
    pub nr_uninterruptible: u64,
}

/// Reads it all; `init` is the container's init while that lives.
///
/// # Errors
/// The cgroup is gone.
pub(crate) fn read(cgroup: &Cgroup, init: Option<u32>) -> Result<Usage, CgroupError> {
    let metrics = cgroup.metrics()?;
    let network = init.and_then(network).unwrap_or_default();
    Ok(Usage { metrics, network, tasks: tasks(&cgroup.pids().unwrap_or_default()) })
}

fn network(pid: u32) -> Option<Vec<Network>> {
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    if namespace("self")? == namespace(&pid.to_string())? {
        return None;
    }
    Some(interfaces(&std::fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?))
}

/// The lines of `/proc/PID/net/dev` but for the loopback.
fn interfaces(text: &str) -> Vec<Network> {
    let line = |line: &str| {
        let (name, figures) = line.split_once(':')?;
        let figures: Vec<u64> = figures.split_whitespace().map_while(|figure| figure.parse().ok()).collect();
        let at = |at: usize| figures.get(at).copied().unwrap_or(0);
        Some(Network {
            name: name.trim().to_owned(),
            rx_bytes: at(0),
            rx_packets: at(1),
            rx_errors: at(2),
            rx_dropped: at(3),
            tx_bytes: at(8),
            tx_packets: at(9),
            tx_errors: at(10),
            tx_dropped: at(11),
        })
    };
    text.lines().filter_map(line).filter(|network| network.name != "lo").take(MAX_INTERFACES).collect()
}

fn tasks(pids: &[i32]) -> Tasks {
    let mut tasks = Tasks::default();
    for pid in pids.iter().take(MAX_TASKS) {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let count = match state(&stat) {
            Some('R') => &mut tasks.nr_running,
            Some('S' | 'I') => &mut tasks.nr_sleeping,
            Some('T' | 't') => &mut tasks.nr_stopped,
            Some('D') => &mut tasks.nr_uninterruptible,
            _ => continue,
        };
        *count += 1;
    }
    tasks
}

/// The state in `/proc/PID/stat`: behind the name, which may contain anything.
fn state(stat: &str) -> Option<char> {
    stat.rsplit_once(") ")?.1.chars().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_in_the_columns_of_the_kernel() {
        let text = "Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs\n    \
                    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0\n  \
                    eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n";
        let eth0 = Network {
            name: "eth0".into(),
            rx_bytes: 1,
            rx_packets: 2,
            rx_errors: 3,
            rx_dropped: 4,
            tx_bytes: 9,
            tx_packets: 10,
            tx_errors: 11,
            tx_dropped: 12,
        };
        assert_eq!(interfaces(text), [eth0]);
    }

    #[test]
    fn a_name_cannot_pretend_a_state() {
        assert_eq!(state("7 (a) R b) S 1 7 7"), Some('S'));
        let own = i32::try_from(std::process::id()).unwrap();
        let tasks = tasks(&[own, i32::MAX]);
        assert_eq!(tasks.nr_sleeping + tasks.nr_running, 1);
    }
}
