//! Cgroup v2 by fixture: a folder tree with the files and texts that the kernel shows.
#![expect(clippy::unwrap_used, reason = "the helpers of a test")]

use std::fs;
use std::path::Path;

use executor::cgroup::{Cgroup, CgroupError, Metrics, Mode, probe, v1, v2};

fn write(folder: &Path, files: &[(&str, &str)]) {
    fs::create_dir_all(folder).unwrap();
    for (name, text) in files {
        fs::write(folder.join(name), text).unwrap();
    }
}

/// A host with one v2 hierarchy, and a process 42 in `/pod/box`.
fn host() -> (tempfile::TempDir, Cgroup) {
    let host = tempfile::tempdir().unwrap();
    let root = host.path().join("cgroup");
    write(&root, &[("cgroup.controllers", "cpu io memory pids\n")]);
    write(&host.path().join("proc/42"), &[("cgroup", "0::/pod/box\n")]);
    let folder = root.join("pod/box");
    write(
        &folder,
        &[
            ("cgroup.procs", "42\n43\n0\n"),
            ("cgroup.events", "populated 1\nfrozen 1\n"),
            ("cgroup.freeze", "0\n"),
            ("cgroup.kill", ""),
            ("pids.current", "3\n"),
            ("pids.max", "max\n"),
            (
                "cpu.stat",
                "usage_usec 100\nuser_usec 60\nsystem_usec 40\nnr_periods 5\nnr_throttled 2\nthrottled_usec 7\n",
            ),
            (
                "cpu.pressure",
                "some avg10=1.50 avg60=0.00 avg300=0.25 total=99\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
            ),
            (
                "memory.stat",
                "anon 1\nfile 2\nshmem 3\nworkingset_refault_anon 4\nworkingset_refault_file 5\npgfault 6\n",
            ),
            ("memory.current", "4096\n"),
            ("memory.max", "8192\n"),
            ("memory.swap.max", "max\n"),
            ("memory.peak", "5000\n"),
            ("memory.events", "low 0\nhigh 1\nmax 2\noom 3\noom_kill 4\noom_group_kill 5\n"),
            ("io.stat", "8:0 rbytes=10 wbytes=20 rios=3 wios=4 dbytes=0 dios=0\n"),
            ("rdma.current", "mlx4_0 hca_handle=2 hca_object=2000\n"),
            ("rdma.max", "mlx4_0 hca_handle=3 hca_object=max\n"),
            ("hugetlb.2MB.current", "0\n"),
            ("hugetlb.2MB.max", "max\n"),
            ("hugetlb.2MB.events", "max 6\n"),
            ("hugetlb.2MB.rsvd.current", "0\n"),
        ],
    );
    write(&folder.join("inner/deep"), &[("cgroup.procs", "44\n")]);
    let cgroup = Cgroup::of_pid_under(&root, &host.path().join("proc"), 42).unwrap();
    (host, cgroup)
}

#[test]
fn every_figure_of_the_files_is_reported() {
    let (_host, cgroup) = host();
    assert_eq!(cgroup.mode(), Mode::V2);
    let Metrics::V2(metrics) = cgroup.metrics().unwrap() else { panic!("v2") };
    assert_eq!(metrics.pids, Some(v2::Pids { current: 3, limit: u64::MAX }));
    let cpu = metrics.cpu.unwrap();
    assert_eq!((cpu.usage_usec, cpu.user_usec, cpu.system_usec), (100, 60, 40));
    assert_eq!((cpu.nr_periods, cpu.nr_throttled, cpu.throttled_usec), (5, 2, 7));
    let some = v2::PsiData { avg10: 1.5, avg60: 0.0, avg300: 0.25, total: 99 };
    assert_eq!(cpu.psi, Some(v2::Psi { some: Some(some), full: Some(v2::PsiData::default()) }));
    let memory = metrics.memory.unwrap();
    assert_eq!((memory.anon, memory.file, memory.shmem, memory.workingset_refault, memory.pgfault), (1, 2, 3, 9, 6));
    assert_eq!((memory.usage, memory.usage_limit, memory.swap_limit, memory.max_usage), (4096, 8192, u64::MAX, 5000));
    let events = v2::MemoryEvents { low: 0, high: 1, max: 2, oom: 3, oom_kill: 4, oom_group_kill: 5 };
    assert_eq!(metrics.memory_events, Some(events));
    let entry = v2::IoEntry { major: 8, minor: 0, rbytes: 10, wbytes: 20, rios: 3, wios: 4 };
    assert_eq!(metrics.io, Some(v2::Io { usage: vec![entry], psi: None }));
    let rdma = |hca_objects, hca_handles| vec![v1::RdmaEntry { device: "mlx4_0".to_owned(), hca_handles, hca_objects }];
    assert_eq!(metrics.rdma, Some(v2::Rdma { current: rdma(2000, 2), limit: rdma(u32::MAX, 3) }));
    let huge = v2::Hugetlb { current: 0, max: u64::MAX, pagesize: "2MB".to_owned(), failcnt: 6 };
    assert_eq!(metrics.hugetlb, [huge]);
}

#[test]
fn a_host_without_controllers_has_no_figures() {
    let (host, cgroup) = host();
    for entry in fs::read_dir(host.path().join("cgroup/pod/box")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::remove_file(path).unwrap();
        }
    }
    assert_eq!(cgroup.metrics().unwrap(), Metrics::V2(Box::default()));
}

#[test]
fn members_of_inner_groups_count_and_foreign_ones_do_not() {
    let (_host, cgroup) = host();
    assert_eq!(cgroup.pids().unwrap(), [42, 43, 44]);
}

#[test]
fn freezing_and_killing_are_one_write() {
    let (host, cgroup) = host();
    let file = |name: &str| fs::read_to_string(host.path().join("cgroup/pod/box").join(name)).unwrap();
    cgroup.freeze(true).unwrap();
    assert_eq!(file("cgroup.freeze"), "1\n", "the write replaces what is there, as the kernel's does");
    assert!(cgroup.is_frozen().unwrap());
    cgroup.kill().unwrap();
    assert_eq!(file("cgroup.kill"), "1");
}

#[test]
fn memory_kills_wake_the_watch_and_are_counted_once() {
    let (host, cgroup) = host();
    let mut watch = cgroup.watch_oom().unwrap();
    assert_eq!(watch.kills().unwrap(), 0);
    let events = host.path().join("cgroup/pod/box/memory.events");
    fs::write(&events, "oom 4\noom_kill 6\n").unwrap();
    assert_eq!(watch.kills().unwrap(), 2);
    assert_eq!(watch.kills().unwrap(), 0);
    fs::remove_file(&events).unwrap();
    assert!(matches!(watch.kills(), Err(CgroupError::Gone { .. })));
}

#[test]
fn a_removed_group_is_gone_and_removing_it_again_is_fine() {
    let (host, cgroup) = host();
    fs::remove_dir_all(host.path().join("cgroup/pod/box")).unwrap();
    assert!(matches!(cgroup.metrics(), Err(CgroupError::Gone { .. })));
    assert!(matches!(cgroup.pids(), Err(CgroupError::Gone { .. })));
    cgroup.kill().unwrap();
    cgroup.remove().unwrap();
}

#[test]
fn a_group_that_holds_the_caller_is_never_killed_or_frozen() {
    let (host, cgroup) = host();
    let me = std::process::id().to_string();
    fs::write(host.path().join("cgroup/pod/box/inner/cgroup.procs"), me).unwrap();
    for result in [cgroup.kill(), cgroup.freeze(true)] {
        assert!(matches!(result, Err(CgroupError::NotOwn { .. })), "{result:?}");
    }
}

#[test]
fn hosts_are_told_apart_by_what_is_mounted() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(probe(folder.path()), Mode::V1);
    write(&folder.path().join("unified"), &[("cgroup.procs", "")]);
    assert_eq!(probe(folder.path()), Mode::Hybrid);
    write(folder.path(), &[("cgroup.controllers", "")]);
    assert_eq!(probe(folder.path()), Mode::V2);
}
