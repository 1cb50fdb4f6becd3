//! What one process gets: user, groups, environment, folder, terminal, limits; and what is said when it cannot run.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use model::error::{Classify, Kind};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::KILL;
use crate::Ended;
use crate::contract::Lab;
use crate::contract::lab::{eventually, read_until, receive_terminal, wait};

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

/// `process.rlimits`.
pub fn resource_limits_are_set(lab: &Lab) {
    let mut spec = lab.script("ulimit -Hn; ulimit -Sn; ulimit -Sc");
    spec["process"]["rlimits"] = json!([
        { "type": "RLIMIT_NOFILE", "hard": 300, "soft": 200 },
        { "type": "RLIMIT_CORE", "hard": 0, "soft": 0 },
    ]);
    assert_eq!(lab.run(&spec).output, "300\n200\n0\n");
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

/// A user that is not a number from 0 to 2^32-2 never becomes root.
pub fn a_malformed_user_is_an_error(lab: &Lab) {
    for user in [json!(-1), json!("0x0"), json!("+0"), json!(" 0"), json!(4_294_967_296_u64)] {
        let mut spec = lab.script("id");
        spec["process"]["user"] = json!({ "uid": user, "gid": 0 });
        let error = lab.try_create(&spec).err().unwrap_or_else(|| panic!("{user} is refused"));
        assert_eq!(error.kind(), Kind::Unknown, "{error}");
    }
}

/// `noNewPrivileges`, both ways.
pub fn no_new_privileges_is_as_asked(lab: &Lab) {
    for (asked, value) in [(json!(true), 1), (json!(false), 0), (Value::Null, 0)] {
        let mut spec = lab.script("grep NoNewPrivs /proc/self/status");
        spec["process"]["noNewPrivileges"] = asked;
        assert_eq!(lab.run(&spec).output, format!("NoNewPrivs:\t{value}\n"));
    }
}

/// No signal is ignored or blocked that the program did not ignore or block itself, whatever the runtime's caller does.
pub fn signals_have_their_defaults(lab: &Lab) {
    use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, sigprocmask};
    let ignored = [Signal::SIGUSR2, Signal::SIGPIPE];
    for name in ignored {
        crate::sys::set_disposition(name, SigHandler::SigIgn).unwrap();
    }
    let blocked = SigSet::from(Signal::SIGTERM);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&blocked), None).unwrap();
    let container = lab.start(&lab.spec(&["sleep", "1000"]));
    let mut process = container.script("");
    process["args"] = json!(["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"]);
    let exec = container.exec("one", &process).unwrap().output;
    let init = std::fs::read_to_string(format!("/proc/{}/status", container.pid)).unwrap();
    sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&blocked), None).unwrap();
    for status in [exec, init] {
        for field in ["SigBlk:\t", "SigIgn:\t"] {
            let value = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
            // 32 and 33 are the C library's own; some versions leave them ignored in what they spawn.
            assert_eq!(u64::from_str_radix(value, 16).unwrap() & !(0b11 << 31), 0, "{status}");
        }
    }
}
