//! The network interfaces of a network namespace, as one of its processes sees them (`/proc/<pid>/net/dev`, proc_net(5)).

use std::path::Path;

/// One interface and its counters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Packets received wrongly.
    pub rx_errors: u64,
    /// Packets that were received and dropped.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Packets that were dropped before they were sent.
    pub tx_dropped: u64,
}

/// All interfaces but the loopback; none if the process is gone.
pub fn interfaces(proc: &Path, pid: u32) -> Vec<Interface> {
    let text = std::fs::read_to_string(proc.join(pid.to_string()).join("net/dev")).unwrap_or_default();
    text.lines().filter_map(line).filter(|interface| interface.name != "lo").collect()
}

fn line(line: &str) -> Option<Interface> {
    let (name, counters) = line.split_once(':')?;
    let counters: Vec<u64> = counters.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    let [rx_bytes, rx_packets, rx_errors, rx_dropped, _, _, _, _, tx_bytes, tx_packets, tx_errors, tx_dropped, ..] =
        counters.as_slice().try_into().ok().map(|counters: [u64; 16]| counters)?;
    let name = name.trim().to_owned();
    Some(Interface { name, rx_bytes, rx_packets, rx_errors, rx_dropped, tx_bytes, tx_packets, tx_errors, tx_dropped })
}
