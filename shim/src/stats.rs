//! What is known of a container's use, as the message that clients expect. Field by field, no arithmetic.

use executor::cgroup::{Metrics, v1, v2};
use prost_types::Any;
use proto::cgroups as wire;

use crate::usage::Usage;

/// Copies fields of the same name.
macro_rules! copy {
    ($from:expr => $($to:ident)::+ { $($field:ident),* $(,)? $(; $($rest:tt)*)? }) => {
        $($to)::+ { $($field: $from.$field.clone(),)* $($($rest)*)? }
    };
}

/// One network interface; both versions have the same fields.
macro_rules! network {
    ($($version:ident)::+, $from:expr) => {
        copy!($from => $($version)::+::NetworkStat {
            name, rx_bytes, rx_packets, rx_errors, rx_dropped, tx_bytes, tx_packets, tx_errors, tx_dropped
        })
    };
}

/// Packs the figures under the name that tells the version of cgroups.
pub(crate) fn to_wire(usage: &Usage) -> Any {
    let network = &usage.network;
    match &usage.metrics {
        Metrics::V1(metrics) => proto::any::pack(&wire::v1::Metrics {
            network: network.iter().map(|n| network!(wire::v1, n)).collect(),
            cgroup_stats: Some(copy!(usage.tasks => wire::v1::CgroupStats {
                nr_sleeping, nr_running, nr_stopped, nr_uninterruptible; nr_io_wait: 0
            })),
            ..of_v1(metrics)
        }),
        Metrics::V2(metrics) => proto::any::pack(&wire::v2::Metrics {
            network: network.iter().map(|n| network!(wire::v2, n)).collect(),
            ..of_v2(metrics)
        }),
    }
}

fn of_v1(m: &v1::Metrics) -> wire::v1::Metrics {
    wire::v1::Metrics {
        hugetlb: m
            .hugetlb
            .iter()
            .map(|h| copy!(h => wire::v1::HugetlbStat { usage, max, failcnt, pagesize }))
            .collect(),
        pids: m.pids.as_ref().map(|p| copy!(p => wire::v1::PidsStat { current, limit })),
        cpu: m.cpu.as_ref().map(|cpu| wire::v1::CpuStat {
            usage: Some(copy!(cpu.usage => wire::v1::CpuUsage { total, kernel, user, per_cpu })),
            throttling: Some(
                copy!(cpu.throttling => wire::v1::Throttle { periods, throttled_periods, throttled_time }),
            ),
        }),
        memory: m.memory.as_ref().map(v1_memory),
        blkio: m.blkio.as_ref().map(v1_blkio),
        rdma: m
            .rdma
            .as_ref()
            .map(|rdma| wire::v1::RdmaStat { current: v1_rdma(&rdma.current), limit: v1_rdma(&rdma.limit) }),
        memory_oom_control: m
            .memory_oom_control
            .as_ref()
            .map(|oom| copy!(oom => wire::v1::MemoryOomControl { oom_kill_disable, under_oom, oom_kill })),
        ..Default::default()
    }
}

fn v1_memory(m: &v1::Memory) -> wire::v1::MemoryStat {
    let entry = |entry: &Option<v1::MemoryEntry>| {
        entry.as_ref().map(|e| copy!(e => wire::v1::MemoryEntry { limit, usage, max, failcnt }))
    };
    copy!(m => wire::v1::MemoryStat {
        cache, rss, rss_huge, mapped_file, dirty, writeback, pg_pg_in, pg_pg_out, pg_fault, pg_maj_fault,
        inactive_anon, active_anon, inactive_file, active_file, unevictable, hierarchical_memory_limit,
        hierarchical_swap_limit, total_cache, total_rss, total_rss_huge, total_mapped_file, total_dirty,
        total_writeback, total_pg_pg_in, total_pg_pg_out, total_pg_fault, total_pg_maj_fault, total_inactive_anon,
        total_active_anon, total_inactive_file, total_active_file, total_unevictable;
        usage: entry(&m.usage), swap: entry(&m.swap), kernel: entry(&m.kernel), kernel_tcp: entry(&m.kernel_tcp),
    })
}

fn v1_blkio(m: &v1::Blkio) -> wire::v1::BlkIoStat {
    let entries = |entries: &[v1::BlkioEntry]| {
        entries.iter().map(|e| copy!(e => wire::v1::BlkIoEntry { op, device, major, minor, value })).collect()
    };
    wire::v1::BlkIoStat {
        io_service_bytes_recursive: entries(&m.io_service_bytes_recursive),
        io_serviced_recursive: entries(&m.io_serviced_recursive),
        io_queued_recursive: entries(&m.io_queued_recursive),
        io_service_time_recursive: entries(&m.io_service_time_recursive),
        io_wait_time_recursive: entries(&m.io_wait_time_recursive),
        io_merged_recursive: entries(&m.io_merged_recursive),
        io_time_recursive: entries(&m.io_time_recursive),
        sectors_recursive: entries(&m.sectors_recursive),
    }
}

fn v1_rdma(entries: &[v1::RdmaEntry]) -> Vec<wire::v1::RdmaEntry> {
    entries.iter().map(|e| copy!(e => wire::v1::RdmaEntry { device, hca_handles, hca_objects })).collect()
}

fn of_v2(m: &v2::Metrics) -> wire::v2::Metrics {
    wire::v2::Metrics {
        pids: m.pids.as_ref().map(|p| copy!(p => wire::v2::PidsStat { current, limit })),
        cpu: m.cpu.as_ref().map(|cpu| {
            copy!(cpu => wire::v2::CpuStat {
                usage_usec, user_usec, system_usec, nr_periods, nr_throttled, throttled_usec;
                psi: psi(&cpu.psi), ..Default::default()
            })
        }),
        memory: m.memory.as_ref().map(v2_memory),
        rdma: m
            .rdma
            .as_ref()
            .map(|rdma| wire::v2::RdmaStat { current: v2_rdma(&rdma.current), limit: v2_rdma(&rdma.limit) }),
        io: m.io.as_ref().map(|io| wire::v2::IoStat {
            usage: io
                .usage
                .iter()
                .map(|e| copy!(e => wire::v2::IoEntry { major, minor, rbytes, wbytes, rios, wios }))
                .collect(),
            psi: psi(&io.psi),
        }),
        hugetlb: m
            .hugetlb
            .iter()
            .map(|h| copy!(h => wire::v2::HugeTlbStat { current, max, pagesize, failcnt }))
            .collect(),
        memory_events: m
            .memory_events
            .as_ref()
            .map(|e| copy!(e => wire::v2::MemoryEvents { low, high, max, oom, oom_kill, oom_group_kill })),
        ..Default::default()
    }
}

fn v2_memory(m: &v2::Memory) -> wire::v2::MemoryStat {
    copy!(m => wire::v2::MemoryStat {
        anon, file, kernel_stack, slab, sock, shmem, file_mapped, file_dirty, file_writeback, anon_thp, inactive_anon,
        active_anon, inactive_file, active_file, unevictable, slab_reclaimable, slab_unreclaimable, pgfault, pgmajfault,
        workingset_refault, workingset_activate, workingset_nodereclaim, pgrefill, pgscan, pgsteal, pgactivate,
        pgdeactivate, pglazyfree, pglazyfreed, thp_fault_alloc, thp_collapse_alloc, usage, usage_limit, swap_usage,
        swap_limit, max_usage, swap_max_usage;
        psi: psi(&m.psi),
    })
}

fn v2_rdma(entries: &[v1::RdmaEntry]) -> Vec<wire::v2::RdmaEntry> {
    entries.iter().map(|e| copy!(e => wire::v2::RdmaEntry { device, hca_handles, hca_objects })).collect()
}

fn psi(psi: &Option<v2::Psi>) -> Option<wire::v2::PsiStats> {
    let data = |data: &Option<v2::PsiData>| {
        data.as_ref().map(|d| copy!(d => wire::v2::PsiData { avg10, avg60, avg300, total }))
    };
    psi.as_ref().map(|psi| wire::v2::PsiStats { some: data(&psi.some), full: data(&psi.full) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::{Network, Tasks};

    #[test]
    fn the_type_tells_the_version_and_figures_stay() {
        let metrics = v1::Metrics {
            pids: Some(v1::Pids { current: 3, limit: 7 }),
            memory: Some(v1::Memory {
                rss: 11,
                usage: Some(v1::MemoryEntry { usage: 13, ..Default::default() }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let network = vec![Network { name: "eth0".into(), rx_bytes: 17, tx_dropped: 19, ..Default::default() }];
        let tasks = Tasks { nr_sleeping: 23, ..Default::default() };
        let any = to_wire(&Usage { metrics: Metrics::V1(Box::new(metrics)), network: network.clone(), tasks });
        assert_eq!(any.type_url, "io.containerd.cgroups.v1.Metrics");
        let wire: wire::v1::Metrics = proto::any::unpack(&any).unwrap().unwrap();
        assert_eq!(wire.pids.unwrap().current, 3);
        let memory = wire.memory.unwrap();
        assert_eq!((memory.rss, memory.usage.unwrap().usage), (11, 13));
        assert_eq!((wire.network[0].rx_bytes, wire.network[0].tx_dropped), (17, 19));
        assert_eq!(wire.cgroup_stats.unwrap().nr_sleeping, 23);

        let events = v2::MemoryEvents { oom_group_kill: 29, ..Default::default() };
        let metrics = v2::Metrics { memory_events: Some(events), ..Default::default() };
        let any = to_wire(&Usage { metrics: Metrics::V2(Box::new(metrics)), network, tasks });
        assert_eq!(any.type_url, "io.containerd.cgroups.v2.Metrics");
        let wire: wire::v2::Metrics = proto::any::unpack(&any).unwrap().unwrap();
        assert_eq!(wire.memory_events.unwrap().oom_group_kill, 29);
        assert_eq!(wire.network[0].name, "eth0");
    }
}
