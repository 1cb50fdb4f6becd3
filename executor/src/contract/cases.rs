//! What an executor must do, one function per promise.
#![expect(clippy::unwrap_used, reason = "these are tests, compiled as a library for other crates' tests")]

use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use model::error::{Classify, Kind};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::lab::{eventually, read_until, receive_terminal, wait};
use super::spec::DEFAULT_CAPABILITIES;
use super::{Lab, plain_spec};
use crate::cgroup::Metrics;
use crate::{Ended, ProcessId, Verb};

const KILL: i32 = Signal::SIGKILL as i32;
const TERM: i32 = Signal::SIGTERM as i32;

/// `create` runs nothing of the user's, and the process survives the runtime's.
pub fn a_created_container_waits_for_start(lab: &Lab) {
    let container = lab.try_create(&lab.script("echo ran")).unwrap();
    assert_eq!(container.status(), "created");
    assert!(ProcessId::of(container.pid).is_some_and(ProcessId::is_alive));
    assert_eq!(container.streams.text(), "");
    container.start();
    assert_eq!(container.wait().output, "ran\n");
    assert_eq!(container.status(), "stopped");
}

/// The wait status of the init is the program's.
pub fn exit_code_is_the_programs(lab: &Lab) {
    let ran = lab.run(&lab.script("echo out; echo err >&2; exit 7"));
    assert_eq!((ran.ended, ran.output.as_str()), (Ended::Exited(7), "out\nerr\n"));
}

/// Signals arrive, also before `start`; a stopped container is not found.
pub fn signals_reach_the_init(lab: &Lab) {
    let container = lab.start(&lab.script("trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done"));
    container.wait_for("ready");
    container.kill(TERM, false).unwrap();
    assert_eq!(container.wait().ended, Ended::Exited(5));
    assert_eq!(container.kill(TERM, false).unwrap_err().kind(), Kind::NotFound);
    container.delete(false).unwrap();
    let container = lab.try_create(&lab.spec(&["sleep", "100"])).unwrap();
    container.kill(KILL, false).unwrap();
    assert_eq!(container.wait().ended, Ended::Signaled(KILL));
}

/// In the host's pid namespace nobody kills the children of a dead init but `kill --all`.
pub fn killing_all_reaches_children_of_a_dead_init(lab: &Lab) {
    let mut spec = lab.script("sleep 1000 & sleep 1000 & echo ready; exit 0");
    let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "pid");
    let container = lab.try_create(&spec).unwrap();
    let cgroup = container.cgroup();
    container.start();
    assert_eq!(container.wait().ended, Ended::Exited(0));
    let orphans = cgroup.pids().unwrap();
    assert_eq!(orphans.len(), 2, "{orphans:?}");
    container.kill(KILL, true).unwrap();
    for pid in orphans {
        assert_eq!(wait(pid), Some(Ended::Signaled(KILL)));
    }
}

/// An exec shares the container's namespaces and has its own exit code.
pub fn exec_runs_beside_the_init(lab: &Lab) {
    let container = lab.start(&lab.spec(&["sleep", "1000"]));
    let ran = container.exec("one", &container.script("hostname; cat /proc/1/comm; exit 9")).unwrap();
    assert_eq!((ran.ended, ran.output.as_str()), (Ended::Exited(9), "lab\nsleep\n"));
    let (pid, _streams) = container.exec_detached("two", &container.script("exec sleep 1000"), None).unwrap();
    assert!(container.cgroup().pids().unwrap().contains(&pid));
    for namespace in ["pid", "ipc", "uts", "mnt", "net"] {
        let of = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
        assert_eq!(of(pid), of(container.pid), "{namespace}");
    }
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    assert_eq!(wait(pid), Some(Ended::Signaled(KILL)));
    assert_eq!(container.status(), "running");
}

/// User, groups, environment, folder and capabilities of an exec are those of its own process, not the init's.
pub fn exec_has_its_own_process_settings(lab: &Lab) {
    let container = lab.start(&lab.spec(&["sleep", "1000"]));
    let mut process =
        container.script("id; pwd; env | grep X=; grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs' /proc/self/status");
    process["user"] = json!({ "uid": 1000, "gid": 1000, "additionalGids": [7, 9] });
    process["env"] = json!(["PATH=/bin", "X=1 2"]);
    process["cwd"] = json!("/tmp");
    process["capabilities"] = json!({ "bounding": ["CAP_KILL"] });
    process["noNewPrivileges"] = json!(false);
    let output = container.exec("one", &process).unwrap().output;
    let words: Vec<&str> = output.split('\n').collect();
    assert_eq!(words[0], "uid=1000(user) gid=1000 groups=7,9", "{output}");
    assert_eq!(words[1..3], ["/tmp", "X=1 2"], "{output}");
    for (field, value) in [("CapInh", 0), ("CapPrm", 0), ("CapEff", 0), ("CapBnd", 1 << 5), ("CapAmb", 0)] {
        assert!(output.contains(&format!("{field}:\t{value:016x}")), "{field} in {output}");
    }
    assert!(output.contains("NoNewPrivs:\t0"), "{output}");
}

/// `process.user`, `env`, `cwd`; a missing working folder is made, a missing home is looked up.
pub fn user_groups_environment_and_folder_are_as_asked(lab: &Lab) {
    let mut spec = lab.script("id; pwd; env | grep -E '^(Z|A|HOME)='");
    spec["process"]["user"] = json!({ "uid": 1000, "gid": 1001, "additionalGids": [1001, 20] });
    spec["process"]["env"] = json!(["PATH=/bin", "Z=1", "A=2=3"]);
    spec["process"]["cwd"] = json!("/made/for/it");
    let output = lab.run(&spec).output;
    // The shell has its own order of variables.
    let mut lines: Vec<&str> = output.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["/made/for/it", "A=2=3", "HOME=/home/user", "Z=1", "uid=1000(user) gid=1001 groups=20,1001"]);
    let owner = fs::metadata(lab.rootfs().join("made")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&owner), 0);
}

/// A process that is not root can open its own standard streams by name.
pub fn standard_streams_belong_to_the_user(lab: &Lab) {
    let mut spec = lab.script("echo through > /proc/self/fd/1; echo name >> /proc/self/fd/2");
    spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
    let ran = lab.run(&spec);
    assert_eq!(ran.ended, Ended::Exited(0), "{}", ran.output);
}

/// `terminal: true` gives a controlling terminal whose master comes through the socket.
pub fn a_terminal_comes_through_the_console_socket(lab: &Lab) {
    let mut spec = lab.script("tty; echo typed: $(head -n 1); exit 4");
    spec["process"]["terminal"] = json!(true);
    let (listener, path) = lab.console("console");
    let container = lab.create_with(&spec, "terminal", Some(path)).unwrap();
    let master = receive_terminal(&listener);
    container.start();
    let mut keyboard = fs::File::from(master.try_clone().unwrap());
    keyboard.write_all(b"hello\n").unwrap();
    let output = read_until(&master, "typed: hello");
    assert!(output.contains("/dev/pts/0") || output.contains("/dev/console"), "{output}");
    assert!(output.contains("typed: hello"), "{output}");
    assert_eq!(container.wait().ended, Ended::Exited(4));
}

/// The same for an exec.
pub fn an_exec_terminal_comes_through_the_console_socket(lab: &Lab) {
    let container = lab.start(&lab.spec(&["sleep", "1000"]));
    let (listener, path) = lab.console("console");
    let mut process = container.script("test -t 0 && test -t 2 && echo terminal=$(tty)");
    process["terminal"] = json!(true);
    let (pid, _streams) = container.exec_detached("one", &process, Some(path)).unwrap();
    let master = receive_terminal(&listener);
    let output = read_until(&master, "terminal=/dev/pts/");
    assert!(output.contains("terminal=/dev/pts/"), "{output}");
    assert_eq!(wait(pid), Some(Ended::Exited(0)));
}

/// New namespaces differ from the host's; one given by path is joined; one not named is the host's.
pub fn namespaces_are_new_or_joined_by_path(lab: &Lab) {
    let of = |pid: &str, namespace: &str| fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
    let first = lab.start(&lab.spec(&["sleep", "1000"]));
    for namespace in ["pid", "ipc", "uts", "mnt", "net"] {
        assert_ne!(of(&first.pid.to_string(), namespace), of("self", namespace), "{namespace}");
    }
    let mut spec = lab.script("hostname; cat /proc/1/comm; sleep 1000");
    spec["linux"]["cgroupsPath"] = json!(format!("{}-second", spec["linux"]["cgroupsPath"].as_str().unwrap()));
    spec["linux"]["namespaces"] = json!([
        { "type": "network", "path": format!("/proc/{}/ns/net", first.pid) },
        { "type": "ipc", "path": format!("/proc/{}/ns/ipc", first.pid) },
        { "type": "pid", "path": format!("/proc/{}/ns/pid", first.pid) },
        { "type": "mount" },
    ]);
    spec.as_object_mut().unwrap().remove("hostname");
    let second = lab.create_with(&spec, "second", None).unwrap();
    second.start();
    for namespace in ["net", "ipc"] {
        assert_eq!(of(&second.pid.to_string(), namespace), of(&first.pid.to_string(), namespace), "{namespace}");
    }
    assert_eq!(of(&second.pid.to_string(), "uts"), of("self", "uts"));
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    second.wait_for(&format!("{host}\nsleep\n"));
}

/// A cgroup namespace shows the container's cgroup as the root, to execs too.
pub fn a_cgroup_namespace_hides_where_it_is(lab: &Lab) {
    let mut spec = lab.spec(&["sleep", "1000"]);
    spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "cgroup" }));
    let container = lab.start(&spec);
    let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/cgroup")).unwrap();
    assert_ne!(of(&container.pid.to_string()), of("self"));
    assert_eq!(
        container.exec("one", &container.script("grep memory: /proc/self/cgroup | sed s/.*://")).unwrap().output,
        "/\n"
    );
    assert_eq!(
        container.exec("two", &container.script("grep pids: /proc/1/cgroup | sed s/.*://")).unwrap().output,
        "/\n"
    );
}

/// `root.readonly`.
pub fn a_read_only_root_refuses_writes(lab: &Lab) {
    let mut spec = lab.script("touch /file; touch /run/file && echo run is writable");
    spec["root"]["readonly"] = json!(true);
    let output = lab.run(&spec).output;
    assert!(output.contains("Read-only file system") && output.contains("run is writable"), "{output}");
    assert!(!lab.rootfs().join("file").exists());
}

/// `maskedPaths` are empty, `readonlyPaths` refuse writes.
pub fn hidden_paths_are_hidden(lab: &Lab) {
    let mut spec = lab.script("cat /secret; ls /hidden | head -n 1; cat /proc/timer_list | head -n 1; echo 1 > /proc/sys/kernel/domainname; echo end");
    fs::write(lab.rootfs().join("secret"), "secret text").unwrap();
    fs::create_dir(lab.rootfs().join("hidden")).unwrap();
    fs::write(lab.rootfs().join("hidden/name"), "").unwrap();
    spec["linux"]["maskedPaths"].as_array_mut().unwrap().extend([
        json!("/secret"),
        json!("/hidden"),
        json!("/not-there"),
    ]);
    let output = lab.run(&spec).output;
    assert!(output.contains("Read-only file system") && output.ends_with("end\n"), "{output}");
    assert_eq!(output.lines().count(), 2, "{output}");
}

/// More memory than allowed ends in SIGKILL, and the watch tells of it.
pub fn the_memory_limit_kills_and_is_noticed(lab: &Lab) {
    let mut spec = lab.spec(&["dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"]);
    spec["linux"]["resources"]["memory"] = json!({ "limit": 32 << 20, "swap": 32 << 20 });
    let container = lab.try_create(&spec).unwrap();
    let cgroup = container.cgroup();
    let Metrics::V1(metrics) = cgroup.metrics().unwrap() else { panic!("these machines have cgroup v1") };
    assert_eq!(metrics.memory.unwrap().usage.unwrap().limit, 32 << 20);
    let mut watch = cgroup.watch_oom().unwrap();
    assert_eq!(watch.kills().unwrap(), 0);
    container.start();
    assert_eq!(container.wait().ended, Ended::Signaled(KILL));
    assert!(readable(&watch), "the watch wakes its poller");
    assert_eq!(watch.kills().unwrap(), 1);
    assert!(!readable(&watch), "asking makes it quiet");
    container.delete(false).unwrap();
    assert_eq!(watch.kills().unwrap_err().kind(), Kind::NotFound);
}

fn readable(fd: &impl std::os::fd::AsFd) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
}

/// `resources.pids`.
pub fn the_pids_limit_holds(lab: &Lab) {
    let mut spec = lab.script("for i in 1 2 3 4 5 6 7 8; do sleep 10 & done; echo all");
    spec["linux"]["resources"]["pids"] = json!({ "limit": 5 });
    let container = lab.start(&spec);
    let ran = container.wait();
    assert!(ran.output.contains("fork") && !ran.output.contains("all"), "{ran:?}");
}

/// `process.rlimits`.
pub fn resource_limits_are_set(lab: &Lab) {
    let mut spec = lab.script("ulimit -Hn; ulimit -Sn; ulimit -Sc");
    spec["process"]["rlimits"] = json!([
        { "type": "RLIMIT_NOFILE", "hard": 300, "soft": 200 },
        { "type": "RLIMIT_CORE", "hard": 0, "soft": 0 },
    ]);
    assert_eq!(lab.run(&spec).output, "300\n200\n0\n");
}

/// Even a descriptor that the caller forgot to close does not reach the container.
pub fn no_descriptor_of_the_host_is_inherited(lab: &Lab) {
    let leak = fs::File::open("/").unwrap();
    nix::fcntl::fcntl(&leak, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    assert!(leak.as_raw_fd() > 2);
    let container = lab.start(&lab.script("ls /proc/self/fd; echo; sleep 1000"));
    container.wait_for("\n\n");
    // The last one is the folder that ls reads.
    assert_eq!(container.streams.text(), "0\n1\n2\n3\n\n");
    assert_eq!(fs::read_dir(format!("/proc/{}/fd", container.pid)).unwrap().count(), 3);
    assert_eq!(container.exec("one", &container.script("exec ls /proc/self/fd")).unwrap().output, "0\n1\n2\n3\n");
}

/// Inheritable and ambient sets are empty unless asked for, in run and exec.
pub fn no_capability_is_inheritable_or_ambient(lab: &Lab) {
    let script = "grep Cap /proc/self/status; sleep 1000";
    let mut spec = lab.script(script);
    let container = lab.start(&spec);
    container.wait_for("CapAmb");
    let exec = container.exec("one", &container.script("grep Cap /proc/self/status")).unwrap().output;
    for output in [container.streams.text(), exec] {
        assert!(
            output.contains("CapInh:\t0000000000000000") && output.contains("CapAmb:\t0000000000000000"),
            "{output}"
        );
        for field in ["CapPrm", "CapEff", "CapBnd"] {
            assert!(output.contains(&format!("{field}:\t00000000a80425fb")), "{DEFAULT_CAPABILITIES:?}: {output}");
        }
    }
    container.delete(true).unwrap();
    let sets = json!(["CAP_KILL"]);
    spec = lab.script("grep -E 'Cap(Eff|Amb)' /proc/self/status");
    spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
    spec["process"]["capabilities"] =
        json!({ "bounding": sets, "effective": sets, "permitted": sets, "inheritable": sets, "ambient": sets });
    assert_eq!(lab.run(&spec).output, "CapEff:\t0000000000000020\nCapAmb:\t0000000000000020\n");
}

/// The texts that clients turn into exit codes 127 and 126.
pub fn a_missing_program_is_named(lab: &Lab) {
    prepare_bad_programs(lab);
    for (program, text) in BAD_PROGRAMS {
        let error = lab.try_create(&lab.spec(&[program])).err().unwrap_or_else(|| panic!("{program} is refused"));
        let message = error.wire_message();
        assert!(message.starts_with("OCI runtime create failed: "), "{message}");
        assert!(message.contains(text), "{message}");
    }
}

/// The same for exec.
pub fn a_missing_program_of_exec_is_named(lab: &Lab) {
    prepare_bad_programs(lab);
    let container = lab.start(&lab.spec(&["sleep", "1000"]));
    for (index, (program, text)) in BAD_PROGRAMS.into_iter().enumerate() {
        let mut process = container.script("");
        process["args"] = json!([program]);
        let message = container.exec(&format!("bad{index}"), &process).unwrap_err().wire_message();
        assert!(message.starts_with("OCI runtime exec failed: ") && message.contains(text), "{message}");
    }
    assert_eq!(container.exec("good", &container.script("echo still here")).unwrap().output, "still here\n");
    assert!(eventually(|| container.cgroup().pids().unwrap() == [container.pid]), "{:?}", container.cgroup().pids());
}

const BAD_PROGRAMS: [(&str, &str); 3] = [
    ("nope", "exec: \"nope\": executable file not found in $PATH"),
    ("/nope", "no such file or directory"),
    ("/file", "permission denied"),
];

fn prepare_bad_programs(lab: &Lab) {
    let file = lab.rootfs().join("file");
    fs::write(&file, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
}

/// Without `force` a running container stays.
pub fn delete_refuses_a_running_container(lab: &Lab) {
    let container = lab.start(&lab.spec(&["sleep", "1000"]));
    let error = container.delete(false).unwrap_err();
    assert_ne!(error.kind(), Kind::NotFound);
    assert!(error.to_string().contains("not stopped: running"), "{error}");
    assert_eq!(container.status(), "running");
    container.delete(true).unwrap();
    assert_eq!(container.wait().ended, Ended::Signaled(KILL));
}

/// After `delete` nothing tells of the container: no state, no cgroup, no process, no mount.
pub fn delete_leaves_nothing_behind(lab: &Lab) {
    let container = lab.try_create(&lab.script("exit 0")).unwrap();
    let cgroup = container.cgroup();
    let folders: Vec<_> =
        ["memory", "pids", "cpu", "devices", "freezer"].into_iter().filter_map(|name| cgroup.folder(name)).collect();
    assert!(!folders.is_empty() && folders.iter().all(|folder| folder.is_dir()));
    container.start();
    container.wait();
    container.delete(false).unwrap();
    assert_eq!(container.delete(false).unwrap_err().kind(), Kind::NotFound);
    assert_eq!(lab.finish(&lab.executor.state(&container.id), None).unwrap_err().kind(), Kind::NotFound);
    assert!(folders.iter().all(|folder| !folder.exists()));
    assert_eq!(fs::read_dir(lab.path().join("state/lab")).unwrap().count(), 0);
    let folder = lab.path().to_str().unwrap();
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(folder));
}

/// A paused container does nothing, and goes on after `resume`.
pub fn pause_stops_the_clock(lab: &Lab) {
    let container = lab.start(&lab.script("while :; do echo tick; sleep 0.01; done"));
    container.wait_for("tick");
    lab.finish(&lab.executor.pause(&container.id), None).unwrap();
    assert_eq!(container.status(), "paused");
    assert!(container.cgroup().is_frozen().unwrap());
    let length = container.streams.text().len();
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(container.streams.text().len(), length);
    lab.finish(&lab.executor.pause(&container.id), None).expect_err("it is paused already");
    container.exec("one", &container.script("true")).expect_err("a paused container takes no exec");
    lab.finish(&lab.executor.resume(&container.id), None).unwrap();
    assert_eq!(container.status(), "running");
    assert!(eventually(|| container.streams.text().len() > length));
    lab.finish(&lab.executor.resume(&container.id), None).expect_err("it is not paused");
    lab.finish(&lab.executor.pause(&container.id), None).unwrap();
    container.delete(true).unwrap();
    assert_eq!(container.wait().ended, Ended::Signaled(KILL));
}

/// `update` with the JSON of `LinuxResources`.
pub fn update_changes_limits(lab: &Lab) {
    let mut spec = lab.spec(&["sleep", "1000"]);
    spec["linux"]["resources"]["memory"] = json!({ "limit": 64 << 20 });
    let container = lab.start(&spec);
    let resources = json!({
        "memory": { "limit": 128 << 20 }, "pids": { "limit": 77 }, "cpu": { "shares": 512, "quota": 50_000, "period": 100_000 },
    });
    lab.finish(&lab.executor.update(&container.id, resources.to_string().into_bytes()), None).unwrap();
    let cgroup = container.cgroup();
    let Metrics::V1(metrics) = cgroup.metrics().unwrap() else { panic!("these machines have cgroup v1") };
    assert_eq!(metrics.memory.unwrap().usage.unwrap().limit, 128 << 20);
    assert_eq!(metrics.pids.unwrap().limit, 77);
    let cpu = |file: &str| fs::read_to_string(cgroup.folder("cpu").unwrap().join(file)).unwrap();
    assert_eq!((cpu("cpu.shares").as_str(), cpu("cpu.cfs_quota_us").as_str()), ("512\n", "50000\n"));
    let error = lab.finish(&lab.executor.update(&container.id, b"nonsense".to_vec()), None).unwrap_err();
    assert_eq!(error.kind(), Kind::Unknown, "{error}");
}

/// Host pids, those of execs too.
pub fn ps_lists_the_processes(lab: &Lab) {
    let container = lab.start(&lab.spec(&["sleep", "1000"]));
    let (pid, _streams) = container.exec_detached("one", &container.script("exec sleep 1000"), None).unwrap();
    let mut pids = lab.finish(&lab.executor.ps(&container.id), None).unwrap().pids().unwrap();
    pids.sort_unstable();
    let mut expected = [container.pid, pid];
    expected.sort_unstable();
    assert_eq!(pids, expected);
    // The init of a pid namespace does not end before the others in it are reaped, and nobody reaps during a `delete`.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    wait(pid);
}

/// Hooks get the OCI state on their input; `poststop` runs with `delete`.
pub fn hooks_are_run_with_the_state(lab: &Lab) {
    let log = lab.path().join("hooks.log");
    let hook = |name: &str| json!([{ "path": "/bin/sh", "args": ["sh", "-c", format!("(echo {name}; cat; echo) >> {}", log.display())] }]);
    let mut spec = lab.script("exit 0");
    spec["annotations"] = json!({ "some.key": "some value" });
    spec["hooks"] =
        json!({ "createRuntime": hook("createRuntime"), "poststart": hook("poststart"), "poststop": hook("poststop") });
    let container = lab.try_create(&spec).unwrap();
    let text = fs::read_to_string(&log).unwrap();
    let (name, state) = text.split_once('\n').unwrap();
    // runc before 1.2 runs `poststart` with `create`, so more may follow.
    let state: Value = serde_json::from_str(state.lines().next().unwrap()).unwrap();
    assert_eq!(name, "createRuntime");
    assert_eq!(state["id"], container.id.as_str());
    assert_eq!(state["pid"], container.pid);
    assert_eq!(state["annotations"]["some.key"], "some value");
    let config = Path::new(state["bundle"].as_str().unwrap()).join("config.json");
    let seen: Value = serde_json::from_slice(&fs::read(config).unwrap()).unwrap();
    assert_eq!(seen["process"]["args"], spec["process"]["args"]);
    container.start();
    container.wait();
    container.delete(false).unwrap();
    let text = fs::read_to_string(&log).unwrap();
    let names: Vec<&str> = text.lines().filter(|line| !line.is_empty() && !line.starts_with('{')).collect();
    assert_eq!(names, ["createRuntime", "poststart", "poststop"], "{text}");
}

/// Namespaced sysctls are set; others, and such with tricks in them, are refused.
pub fn sysctls_are_set(lab: &Lab) {
    let mut spec = lab.script("cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax");
    spec["linux"]["sysctl"] = json!({ "net.ipv4.ip_unprivileged_port_start": "0", "kernel.msgmax": "8000" });
    assert_eq!(lab.run(&spec).output, "0\n8000\n");
    let before = fs::read_to_string("/proc/sys/kernel/panic").unwrap();
    for bad in ["kernel.panic", "net/../kernel.panic", "kernel.shm_rmid_forced+kernel.panic"] {
        let mut spec = plain_spec(&["true"], "/executor-lab-sysctl");
        spec["linux"]["sysctl"] = json!({ bad: "77" });
        assert!(lab.create_with(&spec, "sysctl", None).is_err(), "{bad}");
    }
    assert_eq!(fs::read_to_string("/proc/sys/kernel/panic").unwrap(), before);
}

/// A user that is not a number from 0 to 2^32-2 never becomes root.
pub fn a_malformed_user_is_an_error(lab: &Lab) {
    for user in [json!(-1), json!("0x0"), json!("+0"), json!(" 0"), json!(4_294_967_296_u64)] {
        let mut spec = lab.script("id");
        spec["process"]["user"] = json!({ "uid": user, "gid": 0 });
        let error = lab.try_create(&spec).err().unwrap_or_else(|| panic!("{user} is refused"));
        assert_eq!(error.kind(), Kind::Unknown, "{error}");
    }
}

/// A second container of the same id is refused and the first not harmed; a failed create can be repeated.
pub fn ids_are_unique(lab: &Lab) {
    assert!(lab.create_with(&lab.spec(&["nope"]), "twice", None).is_err());
    let container = lab.create_with(&lab.script("echo first"), "twice", None).unwrap();
    let error = lab.create_with(&lab.spec(&["true"]), "twice", None).err().expect("the id is taken");
    assert!(error.to_string().contains("container with given ID already exists"), "{error}");
    container.start();
    // The second create has replaced the config and taken over the files of the first; the container has not noticed.
    assert_eq!(container.wait().ended, Ended::Exited(0));
}

/// A working folder that is a descriptor of the runtime's does not lead to the host.
pub fn the_working_folder_cannot_leave_the_root(lab: &Lab) {
    fs::write(lab.rootfs().join("inside"), "").unwrap();
    for number in 3..20 {
        let mut spec = lab.script("ls");
        spec["process"]["cwd"] = json!(format!("/proc/self/fd/{number}"));
        // Refused is right. So is a folder of the container.
        if let Ok(container) = lab.try_create(&spec) {
            container.start();
            let output = container.wait().output;
            assert!(output.contains("inside") || output.is_empty(), "cwd by descriptor {number} shows {output}");
        }
    }
}

/// A container that writes to every `/proc/*/exe` it sees does not change the runtime's file.
pub fn the_runtimes_file_cannot_be_written(lab: &Lab) {
    let program = lab.finish(&lab.executor.features(), None).map(|_| lab.executor.features().program);
    let program = program.expect("features");
    let path = if program.is_absolute() { program } else { Path::new("/usr/sbin").join(program) };
    let before = fs::read(&path).unwrap();
    let script = "echo ready; while :; do for exe in /proc/[0-9]*/exe; do case $exe in /proc/1/exe) ;; *) (echo broken > $exe) 2>/dev/null && readlink $exe;; esac; done; done";
    let mut spec = lab.script(script);
    let all = json!(["CAP_DAC_OVERRIDE", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"]);
    spec["process"]["capabilities"] = json!({ "bounding": all, "effective": all, "permitted": all });
    spec["root"]["readonly"] = json!(true);
    let container = lab.start(&spec);
    container.wait_for("ready");
    for index in 0..20 {
        let _ = container.exec(&format!("e{index}"), &container.script("true"));
    }
    assert!(fs::read(&path).unwrap() == before, "{} was changed: {}", path.display(), container.streams.text());
}

/// Verbs on a container that was never made.
pub fn unknown_containers_are_not_found(lab: &Lab) {
    let executor = &lab.executor;
    for invocation in [
        executor.state("nobody"),
        executor.kill("nobody", TERM, false),
        executor.delete("nobody", false),
        executor.ps("nobody"),
    ] {
        let error = lab.finish(&invocation, None).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound, "{error}");
        assert!(error.to_string().contains("does not exist"), "{error}");
    }
    assert_eq!(executor.start("nobody").verb, Verb::Start);
    assert!(lab.finish(&executor.start("nobody"), None).is_err());
}

/// `noNewPrivileges`, both ways.
pub fn no_new_privileges_is_as_asked(lab: &Lab) {
    for (asked, value) in [(json!(true), 1), (json!(false), 0), (Value::Null, 0)] {
        let mut spec = lab.script("grep NoNewPrivs /proc/self/status");
        spec["process"]["noNewPrivileges"] = asked;
        assert_eq!(lab.run(&spec).output, format!("NoNewPrivs:\t{value}\n"));
    }
}

/// Bind mounts, read-only ones and files too; missing targets are made; devices and the container's cgroups are there.
pub fn mounts_are_made(lab: &Lab) {
    let outside = lab.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "content\n").unwrap();
    let mut spec = lab.script(
        "cat /data/file; echo new > /data/new && echo written; cat /etc/made; echo x > /etc/made; echo null > /dev/null && head -c 2 /dev/zero | wc -c; test -c /dev/urandom && test -L /dev/fd && echo devices; test -e /sys/fs/cgroup/memory/cgroup.procs && echo cgroups; touch /sys/fs/cgroup/memory/x",
    );
    let bind = |target: &str, source: &Path, options: &[&str]| json!({ "destination": target, "type": "bind", "source": source, "options": options });
    let cgroups =
        json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid"] });
    let file = bind("/etc/made", &outside.join("file"), &["bind", "ro"]);
    spec["mounts"].as_array_mut().unwrap().extend([bind("/data", &outside, &["rbind", "rw"]), file, cgroups]);
    std::os::unix::fs::symlink("busybox", lab.rootfs().join("bin/wc")).unwrap();
    let output = lab.run(&spec).output;
    assert_eq!(
        output.lines().collect::<Vec<_>>(),
        [
            "content",
            "written",
            "content",
            "sh: can't create /etc/made: Read-only file system",
            "2",
            "devices",
            "cgroups",
            "touch: /sys/fs/cgroup/memory/x: Read-only file system"
        ]
    );
    assert_eq!(fs::read_to_string(outside.join("new")).unwrap(), "new\n");
}

/// `linux.seccomp`, with and without `noNewPrivileges`, for init and exec; conditions on arguments; Docker's form of
/// profile, which refuses by default.
pub fn a_seccomp_filter_holds(lab: &Lab) {
    let script = "grep '^Seccomp:' /proc/self/status; mkdir /tmp/made 2>&1; kill -0 $$ 2>&1 && echo five; kill -CONT $$ 2>&1 && echo six";
    std::os::unix::fs::symlink("busybox", lab.rootfs().join("bin/mkdir")).unwrap();
    for no_new_privileges in [true, false] {
        let mut spec = lab.spec(&["sleep", "1000"]);
        spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
        spec["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": [
                { "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28 },
                { "names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [{ "index": 1, "value": 0, "op": "SCMP_CMP_EQ" }] },
            ],
        });
        let container = lab.start(&spec);
        let mut process = container.script(script);
        process["noNewPrivileges"] = json!(no_new_privileges);
        let exec = container.exec(&format!("e{no_new_privileges}"), &process).unwrap();
        container.delete(true).unwrap();
        spec["process"]["args"] = json!(["sh", "-c", script]);
        let ran = lab.run(&spec);
        for output in [ran.output, exec.output] {
            let lines: Vec<&str> = output.lines().collect();
            assert_eq!(lines[0], "Seccomp:\t2", "{output}");
            assert!(lines[1].contains("No space left on device"), "{output}");
            assert!(lines[2].contains("Operation not permitted"), "{output}");
            assert_eq!(lines[3], "six", "{output}");
        }
    }
    let mut spec = lab.script("echo ran");
    let names = [
        "access",
        "arch_prctl",
        "brk",
        "capget",
        "capset",
        "close",
        "dup2",
        "execve",
        "exit",
        "exit_group",
        "fchdir",
        "fcntl",
        "fstat",
        "fstatfs",
        "futex",
        "getcwd",
        "getdents64",
        "getegid",
        "geteuid",
        "getgid",
        "getpid",
        "getppid",
        "getuid",
        "gettid",
        "ioctl",
        "lseek",
        "lstat",
        "mmap",
        "mprotect",
        "munmap",
        "newfstatat",
        "open",
        "openat",
        "poll",
        "prctl",
        "read",
        "readlink",
        "rseq",
        "rt_sigaction",
        "rt_sigprocmask",
        "rt_sigreturn",
        "set_robust_list",
        "set_tid_address",
        "setgid",
        "setgroups",
        "setuid",
        "sigaltstack",
        "stat",
        "statx",
        "uname",
        "wait4",
        "write",
        "epoll_ctl",
        "epoll_pwait",
        "nanosleep",
        "tgkill",
        "getrandom",
        "prlimit64",
        "faccessat2",
        "faccessat",
        "chdir",
        "madvise",
        "clone",
        "getpgrp",
        "pipe2",
        "epoll_create1",
        "eventfd2",
        "sched_getaffinity",
        "sched_yield",
    ];
    spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_KILL_PROCESS",
        "syscalls": [{ "names": names.as_slice(), "action": "SCMP_ACT_ALLOW" }],
    });
    let ran = lab.run(&spec);
    assert_eq!((ran.ended, ran.output.as_str()), (Ended::Exited(0), "ran\n"));
    spec["process"]["args"] = json!(["mkdir", "/tmp/made"]);
    assert_eq!(lab.run(&spec).ended, Ended::Signaled(Signal::SIGSYS as i32));
}
