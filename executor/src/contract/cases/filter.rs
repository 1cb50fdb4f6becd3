//! Seccomp.

use nix::sys::signal::Signal;
use serde_json::json;

use crate::Ended;
use crate::contract::Lab;

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
