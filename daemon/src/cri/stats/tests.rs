//! Readings of trees that look like the kernel's, and of this machine.

use std::fs;
use std::path::{Path, PathBuf};

use super::{
    Collector, Detail, DeviceIo, FAMILIES, HugePages, Interface, Processes, Subject, Target, interfaces, points,
    processes,
};

fn write(root: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

fn target(cgroup: &str) -> Target {
    Target { id: "c".to_owned(), cgroup: PathBuf::from(cgroup) }
}

fn unified() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    write(
        root.path(),
        &[
            ("cgroup.controllers", "cpu memory io pids hugetlb"),
            ("system.slice/hugetlb.2MB.current", "0"),
            ("system.slice/hugetlb.2MB.rsvd.current", "0"),
            (
                "pods/c/cpu.stat",
                "usage_usec 5000000\nuser_usec 3000000\nsystem_usec 2000000\nnr_periods 7\nnr_throttled 2\nthrottled_usec 900\n",
            ),
            ("pods/c/cpu.max", "50000 100000\n"),
            ("pods/c/cpu.weight", "1\n"),
            ("pods/c/memory.current", "1000\n"),
            (
                "pods/c/memory.stat",
                "anon 300\nfile 500\nkernel 60\nfile_mapped 20\ninactive_file 400\npgfault 11\npgmajfault 3\n",
            ),
            ("pods/c/memory.max", "4000\n"),
            ("pods/c/memory.swap.max", "1000\n"),
            ("pods/c/memory.swap.current", "5\n"),
            ("pods/c/memory.low", "0\n"),
            ("pods/c/memory.events", "low 0\nhigh 0\nmax 6\noom 1\noom_kill 1\n"),
            ("pods/c/pids.current", "4\n"),
            ("pods/c/pids.max", "max\n"),
            ("pods/c/io.stat", "8:0 rbytes=90 wbytes=80 rios=7 wios=6 dbytes=0 dios=0\n"),
            ("pods/c/hugetlb.2MB.current", "2097152\n"),
            (
                "pods/c/cpu.pressure",
                "some avg10=1.50 avg60=0.20 avg300=0.03 total=4711\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=12\n",
            ),
            ("pods/c/memory.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=2000000\n"),
            ("pods/c/io.pressure", ""),
        ],
    );
    root
}

#[test]
fn a_cgroup_of_v2_is_read_whole() {
    let root = unified();
    let sample = Collector::new(root.path()).one(&target("/pods/c")).unwrap();
    let cpu = sample.cpu;
    assert_eq!((cpu.usage_ns, cpu.user_ns, cpu.system_ns), (5_000_000_000, 3_000_000_000, 2_000_000_000));
    assert_eq!((cpu.periods, cpu.throttled_periods, cpu.throttled_ns), (7, 2, 900_000));
    assert_eq!((cpu.quota_us, cpu.period_us, cpu.shares, cpu.nano_cores), (Some(50_000), 100_000, 2, None));
    let memory = sample.memory;
    assert_eq!((memory.usage, memory.working_set, memory.rss, memory.available()), (1000, 600, 300, Some(3400)));
    assert_eq!((memory.limit, memory.swap_limit, memory.swap, memory.reservation), (Some(4000), Some(5000), 5, None));
    assert_eq!((memory.failures, memory.oom_kills, memory.page_faults, memory.major_page_faults), (6, 1, 11, 3));
    assert_eq!((sample.pids.current, sample.pids.limit), (4, None));
    assert_eq!(sample.io, [DeviceIo { major: 8, minor: 0, read_bytes: 90, write_bytes: 80, reads: 7, writes: 6 }]);
    assert_eq!(sample.huge_pages, [HugePages { size: "2MB".to_owned(), usage: 2_097_152, max_usage: 2_097_152 }]);
    let pressure = sample.pressure.unwrap();
    assert_eq!((pressure.cpu.some.avg10, pressure.cpu.some.total_us, pressure.cpu.full.total_us), (1.5, 4711, 12));
}

#[test]
fn a_cgroup_of_v1_is_read_from_all_its_hierarchies() {
    let root = tempfile::tempdir().unwrap();
    write(
        root.path(),
        &[
            ("cpuacct/pods/c/cpuacct.usage", "5000\n"),
            ("cpuacct/pods/c/cpuacct.usage_user", "3000\n"),
            ("cpuacct/pods/c/cpuacct.usage_sys", "2000\n"),
            ("cpu/pods/c/cpu.cfs_quota_us", "-1\n"),
            ("cpu/pods/c/cpu.cfs_period_us", "100000\n"),
            ("cpu/pods/c/cpu.shares", "512\n"),
            ("cpu/pods/c/cpu.stat", "nr_periods 1\nnr_throttled 2\nthrottled_time 3\n"),
            ("memory/pods/c/memory.usage_in_bytes", "1000\n"),
            ("memory/pods/c/memory.stat", "total_rss 300\ntotal_inactive_file 400\ntotal_swap 9\nrss 1\n"),
            ("memory/pods/c/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/pods/c/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
            ("pids/pods/c/pids.current", "4\n"),
            ("pids/pods/c/pids.max", "10\n"),
            (
                "blkio/pods/c/blkio.throttle.io_service_bytes_recursive",
                "8:0 Read 90\n8:0 Write 80\n8:0 Total 170\nTotal 170\n",
            ),
            ("blkio/pods/c/blkio.throttle.io_serviced_recursive", "8:0 Read 7\n8:0 Write 6\nTotal 13\n"),
        ],
    );
    let sample = Collector::new(root.path()).one(&target("pods/c")).unwrap();
    assert_eq!((sample.cpu.usage_ns, sample.cpu.quota_us, sample.cpu.shares), (5000, None, 512));
    assert_eq!((sample.memory.working_set, sample.memory.rss, sample.memory.limit), (600, 300, None));
    assert_eq!((sample.memory.swap, sample.memory.oom_kills), (9, 2));
    assert_eq!((sample.pids.current, sample.pids.limit), (4, Some(10)));
    assert_eq!(sample.io, [DeviceIo { major: 8, minor: 0, read_bytes: 90, write_bytes: 80, reads: 7, writes: 6 }]);
    assert_eq!(sample.pressure, None);
}

#[test]
fn what_is_gone_has_no_sample_and_passes_are_shared() {
    let root = unified();
    let collector = Collector::new(root.path());
    assert_eq!(collector.one(&target("/pods/gone")), None);
    let first = collector
        .pass(Detail::Stats, || vec![target("/pods/c"), Target { id: "gone".to_owned(), cgroup: "/pods/gone".into() }]);
    assert_eq!(first.samples.keys().collect::<Vec<_>>(), ["c"]);
    let second = collector.pass(Detail::Stats, || panic!("the pass is fresh"));
    assert!(std::sync::Arc::ptr_eq(&first, &second));
    let many: Vec<_> = (0..300).map(|id| Target { id: id.to_string(), cgroup: "/pods/c".into() }).collect();
    let whole = collector.pass(Detail::Metrics, || many);
    assert_eq!(
        (whole.samples.len(), whole.samples["299"].memory.failures, first.samples["c"].memory.failures),
        (300, 6, 0)
    );
}

#[test]
fn this_machine_can_be_read() {
    let root = Path::new("/sys/fs/cgroup");
    let Some(sample) = Collector::new(root).one(&target("/")) else { return eprintln!("no cgroups are mounted here") };
    assert!(sample.cpu.usage_ns > 0);
}

#[test]
fn interfaces_are_those_of_the_process() {
    let proc = tempfile::tempdir().unwrap();
    write(
        proc.path(),
        &[(
            "7/net/dev",
            "Inter-|   Receive |  Transmit\n face |bytes packets|bytes\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 10 2 3 4 0 0 0 0 50 6 7 8 0 0 0 0\n",
        )],
    );
    let expected = Interface {
        name: "eth0".to_owned(),
        rx_bytes: 10,
        rx_packets: 2,
        rx_errors: 3,
        rx_dropped: 4,
        tx_bytes: 50,
        tx_packets: 6,
        tx_errors: 7,
        tx_dropped: 8,
    };
    assert_eq!(interfaces(proc.path(), 7), [expected]);
    assert_eq!(interfaces(proc.path(), 8), []);
}

#[test]
fn open_files_and_sockets_are_counted() {
    let proc = tempfile::tempdir().unwrap();
    write(
        proc.path(),
        &[
            ("cgroup/cgroup.procs", "7\n8\n"),
            (
                "7/limits",
                "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 4096                 files\n",
            ),
        ],
    );
    fs::create_dir_all(proc.path().join("7/fd")).unwrap();
    for (fd, to) in [("0", "/dev/null"), ("1", "socket:[33]")] {
        std::os::unix::fs::symlink(to, proc.path().join("7/fd").join(fd)).unwrap();
    }
    let found = processes(proc.path(), &proc.path().join("cgroup"));
    assert_eq!(found, Processes { count: 2, files: 2, sockets: 1, files_soft_limit: Some(1024) });
}

#[test]
fn every_metric_has_points_with_all_its_labels() {
    let root = unified();
    let sample = Collector::new(root.path()).one(&target("/pods/c")).unwrap();
    let sample = super::Sample { memory: super::Memory { reservation: Some(1), ..sample.memory }, ..sample };
    let disk = super::Disk { device: "/dev/sda".to_owned(), ..super::Disk::default() };
    let interfaces = [Interface { name: "eth0".to_owned(), ..Interface::default() }];
    let subject = Subject {
        labels: ["c", "/pods/c", "busybox", "x", "default", "p"].map(str::to_owned),
        sample: Some(&sample),
        processes: Processes { files_soft_limit: Some(5), ..Processes::default() },
        interfaces: &interfaces,
        disk: Some(&disk),
        started: Some(std::time::SystemTime::now()),
        spec_memory_limit: 0,
    };
    let points = points(&subject);
    for family in FAMILIES {
        let of_family: Vec<_> = points.iter().filter(|point| point.family.name == family.name).collect();
        assert!(!of_family.is_empty(), "{} has no point", family.name);
        for point in of_family {
            assert_eq!(point.labels.len(), super::BASE_LABELS.len() + family.labels.len(), "{}", family.name);
        }
    }
    let usage = points.iter().find(|point| point.family.name == "container_cpu_usage_seconds_total").unwrap();
    assert_eq!((usage.value, usage.counter, usage.labels.last().unwrap().as_str()), (5, true, "total"));
}

/// Prints how long a pass takes over as many cgroups as 500 pods of one container have: the pod, its pause and its container.
#[test]
#[ignore = "a measurement"]
fn how_long_a_pass_takes() {
    let collector = Collector::new("/sys/fs/cgroup");
    let targets: Vec<_> = (0..1500).map(|id| Target { id: id.to_string(), cgroup: "/".into() }).collect();
    for detail in [Detail::Stats, Detail::Metrics] {
        let start = std::time::Instant::now();
        let read = collector.pass(detail, || targets.clone()).samples.len();
        println!("{detail:?}: {read} cgroups in {:?}", start.elapsed());
    }
}
