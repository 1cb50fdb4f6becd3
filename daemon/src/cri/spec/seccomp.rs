//! The seccomp profile that `RuntimeDefault` means: which system calls a container may use, given its capabilities. Data.
//!
//! The set of calls is the one that container runtimes agreed on; new tables of calls (io_uring), other machines' sockets (vsock) and the
//! kernel's own cryptography (AF_ALG) stay closed. Everything else answers `EPERM`, and `clone3` `ENOSYS`, so that the C library falls
//! back to `clone`, whose flags can be looked at.

use serde_json::{Value, json};

use super::capabilities::Capabilities;

/// What anybody may call.
const ALWAYS: &str = "accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32 \
    clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep \
    clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl \
    epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat \
    faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl \
    fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync \
    ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat getcpu getcwd getdents \
    getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp \
    getpid getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit get_robust_list getrusage getsid \
    getsockname getsockopt get_thread_area gettid gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch \
    inotify_init inotify_init1 inotify_rm_watch io_cancel ioctl io_destroy io_getevents io_pgetevents io_pgetevents_time64 \
    ioprio_get ioprio_set io_setup io_submit ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown \
    lchown32 lgetxattr link linkat listen listmount listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat \
    lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 \
    mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend \
    mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at \
    nanosleep newfstatat _newselect open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free \
    pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 pselect6_time64 \
    pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg \
    remap_file_pages removexattr removexattrat rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending \
    rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo \
    sched_getaffinity sched_getattr sched_getparam sched_get_priority_max sched_get_priority_min sched_getscheduler \
    sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler \
    sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto \
    setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid \
    setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit set_robust_list setsid setsockopt \
    set_thread_area set_tid_address setuid setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd \
    signalfd4 sigprocmask sigreturn socketpair splice stat stat64 statfs statfs64 statmount statx symlink symlinkat sync \
    sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 \
    timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill \
    truncate truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice \
    wait4 waitid waitpid write writev process_vm_readv process_vm_writev ptrace";

/// What a capability opens.
const BY_CAPABILITY: [(&str, &str); 14] = [
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr lsm_list_modules \
         lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname \
         setns syslog umount umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module finit_module init_module"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
    ("CAP_SYS_RAWIO", "ioperm iopl"),
    ("CAP_SYS_TIME", "clock_settime clock_settime64 settimeofday stime"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ("CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYSLOG", "syslog"),
    ("CAP_BPF", "bpf"),
    ("CAP_PERFMON", "perf_event_open"),
];

/// The personalities that change nothing that matters: Linux, and its 32-bit and old-uname forms.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// Sockets into the kernel's cryptography.
const AF_ALG: u64 = 38;
/// Sockets to the host of a virtual machine.
const AF_VSOCK: u64 = 40;
/// The flags of `clone` that make namespaces.
const NEW_NAMESPACES: u64 = 0x7e02_0000;
/// The error that says that a call does not exist.
const ENOSYS: u32 = 38;

/// The profile for a container with these capabilities, for the architecture this program was built for.
pub(crate) fn default_profile(capabilities: &Capabilities) -> Value {
    let allow = |names: &str| json!({"names": words(names), "action": "SCMP_ACT_ALLOW"});
    let with = |name: &str, index: u32, op: &str, value: u64, second: u64| {
        json!({"names": [name], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": index, "op": op, "value": value, "valueTwo": second}]})
    };
    let mut rules = vec![allow(ALWAYS), allow(machine_calls())];
    rules.extend(PERSONALITIES.iter().map(|value| with("personality", 0, "SCMP_CMP_EQ", *value, 0)));
    // One condition each: conditions on one argument within a rule are not understood alike everywhere.
    rules.push(with("socket", 0, "SCMP_CMP_LT", AF_ALG, 0));
    rules.push(with("socket", 0, "SCMP_CMP_EQ", AF_ALG + 1, 0));
    rules.push(with("socket", 0, "SCMP_CMP_GT", AF_VSOCK, 0));
    for (capability, names) in BY_CAPABILITY {
        if capabilities.has(capability) {
            rules.push(allow(names));
        }
    }
    if !capabilities.has("CAP_SYS_ADMIN") {
        let flags = u32::from(cfg!(target_arch = "s390x"));
        rules.push(with("clone", flags, "SCMP_CMP_MASKED_EQ", NEW_NAMESPACES, 0));
        rules.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS}));
    }
    json!({"defaultAction": "SCMP_ACT_ERRNO", "architectures": architectures(), "syscalls": rules})
}

fn words(text: &str) -> Vec<&str> {
    text.split_ascii_whitespace().collect()
}

/// The calls that only this architecture has.
fn machine_calls() -> &'static str {
    if cfg!(target_arch = "x86_64") {
        "arch_prctl modify_ldt"
    } else if cfg!(any(target_arch = "aarch64", target_arch = "arm")) {
        "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls"
    } else if cfg!(target_arch = "powerpc64") {
        "sync_file_range2 swapcontext"
    } else if cfg!(target_arch = "s390x") {
        "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr"
    } else if cfg!(target_arch = "riscv64") {
        "riscv_flush_icache"
    } else {
        "sync_file_range2"
    }
}

fn architectures() -> &'static [&'static str] {
    if cfg!(target_arch = "x86_64") {
        &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    } else if cfg!(target_arch = "aarch64") {
        &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    } else if cfg!(target_arch = "riscv64") {
        &["SCMP_ARCH_RISCV64"]
    } else if cfg!(target_arch = "s390x") {
        &["SCMP_ARCH_S390X", "SCMP_ARCH_S390"]
    } else {
        &[]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::capabilities;
    use super::*;

    fn allowed(profile: &Value) -> BTreeSet<String> {
        let rules = profile["syscalls"].as_array().unwrap().iter();
        let plain = rules.filter(|rule| rule["action"] == "SCMP_ACT_ALLOW" && rule.get("args").is_none());
        plain.flat_map(|rule| rule["names"].as_array().unwrap()).map(|name| name.as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn no_call_is_listed_twice() {
        let all = words(ALWAYS);
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    }

    #[test]
    fn what_is_dangerous_needs_a_capability() {
        let plain = default_profile(&capabilities::resolve(None, false, u64::MAX).unwrap());
        let open = default_profile(&capabilities::resolve(None, true, u64::MAX).unwrap());
        let (plain_calls, open_calls) = (allowed(&plain), allowed(&open));
        for call in ["mount", "bpf", "setns", "unshare", "reboot", "init_module", "open_by_handle_at", "kcmp"] {
            assert!(!plain_calls.contains(call), "{call}");
            assert!(open_calls.contains(call), "{call}");
        }
        // For nobody: what they reach cannot be looked at by a filter.
        for call in ["io_uring_setup", "io_uring_enter", "io_uring_register", "userfaultfd", "kexec_load", "socketcall"]
        {
            assert!(!open_calls.contains(call), "{call}");
        }
        // A default container has it.
        assert!(plain_calls.contains("chroot"));
    }

    #[test]
    fn closed_socket_families_match_no_rule() {
        let profile = default_profile(&Capabilities::default());
        let rules = profile["syscalls"].as_array().unwrap();
        let passes = |family: u64| {
            rules.iter().filter(|rule| rule["names"][0] == "socket").any(|rule| {
                let (op, value) = (rule["args"][0]["op"].as_str().unwrap(), rule["args"][0]["value"].as_u64().unwrap());
                match op {
                    "SCMP_CMP_LT" => family < value,
                    "SCMP_CMP_EQ" => family == value,
                    "SCMP_CMP_GT" => family > value,
                    _ => panic!("{op}"),
                }
            })
        };
        let closed: Vec<u64> = (0..64).filter(|family| !passes(*family)).collect();
        assert_eq!(closed, [AF_ALG, AF_VSOCK]);
    }
}
