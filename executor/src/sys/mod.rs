//! Kernel calls that nix and rustix lack. The only place of the project where `unsafe` is at home; one call a function.
#![allow(unsafe_code, reason = "this module exists to hold it")]

pub(crate) mod bpf;

use nix::errno::Errno;

/// `kill(2)` with any signal number, real-time ones included.
pub(crate) fn kill(pid: i32, signal: i32) -> nix::Result<()> {
    // SAFETY: kill takes two integers and touches no memory of ours.
    Errno::result(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Joins, or makes, the session keyring of that name.
pub(crate) fn join_session_keyring(name: &str) -> nix::Result<()> {
    let name = std::ffi::CString::new(name).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the kernel reads the string, which is terminated and outlives the call.
    Errno::result(unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) })
        .map(drop)
}

/// Removes a variable from the environment of this process.
pub(crate) fn unset_variable(name: &std::ffi::CStr) {
    // SAFETY: the string is terminated; the runtime's process has one thread, so nobody reads the environment meanwhile.
    unsafe { libc::unsetenv(name.as_ptr()) };
}

/// Makes a detached mount read-only (`mount_setattr(2)`).
pub(crate) fn mount_set_read_only(mount: std::os::fd::BorrowedFd<'_>) -> nix::Result<()> {
    use std::os::fd::AsRawFd;
    let attributes = libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let size = size_of::<libc::mount_attr>();
    // SAFETY: the kernel reads `size` bytes of the structure, which outlives the call; the path is a terminated string.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size,
        )
    };
    Errno::result(result).map(drop)
}

/// Gives every signal its default action, as a container's process expects it: actions that are "ignore" and blocked signals
/// would outlive `execve`.
pub(crate) fn default_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: no handler is installed, only the default action. That it is refused for SIGKILL, SIGSTOP and the two that
        // the C library keeps for itself changes nothing.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Writing to a pipe that nobody reads becomes an error, as Rust programs have it, in place of the end of the process.
pub(crate) fn ignore_broken_pipes() {
    // SAFETY: no handler is installed, the signal is ignored.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Puts a seccomp filter on this process and all it will execute.
pub(crate) fn load_seccomp(program: &crate::seccomp::Program) -> nix::Result<()> {
    #[repr(C)]
    struct Filter {
        length: u16,
        instructions: *const crate::seccomp::Instruction,
    }
    let length = u16::try_from(program.instructions.len()).map_err(|_| Errno::E2BIG)?;
    let filter = Filter { length, instructions: program.instructions.as_ptr() };
    // SAFETY: `Filter` and `Instruction` have the layout of `sock_fprog` and `sock_filter`; the kernel reads `length`
    // instructions, which outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::c_ulong::from(program.flags),
            &raw const filter,
        )
    };
    Errno::result(result).map(drop)
}

/// Sets what a signal does to this process, to the default or to nothing.
#[cfg(feature = "contract")]
pub(crate) fn set_disposition(signal: nix::sys::signal::Signal, to: nix::sys::signal::SigHandler) -> nix::Result<()> {
    // SAFETY: the callers set the default or to ignore; no handler is installed that could run.
    unsafe { nix::sys::signal::signal(signal, to) }.map(drop)
}

/// Gives every signal its default disposition, those too that the C library keeps for itself.
pub(crate) fn reset_signals() {
    /// The kernel's `struct sigaction` is at most this long; all zero is `SIG_DFL` without flags.
    const DEFAULT: [u64; 4] = [0; 4];
    /// Bytes of the kernel's signal set.
    const SET_SIZE: usize = 8;
    for signal in 1..=64 {
        // SAFETY: the kernel reads a `struct sigaction` from `DEFAULT`, which is long enough. It refuses SIGKILL and
        // SIGSTOP, which have their default anyway.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, DEFAULT.as_ptr(), std::ptr::null::<u64>(), SET_SIZE) };
    }
}

/// Joins namespaces of a process, by its descriptor (`setns(2)`).
pub(crate) fn join_namespaces(process: std::os::fd::BorrowedFd<'_>, flags: i32) -> nix::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: setns takes two integers; the runtime's process has one thread.
    Errno::result(unsafe { libc::setns(process.as_raw_fd(), flags) }).map(drop)
}

/// `fork(2)`.
pub(crate) fn fork() -> nix::Result<nix::unistd::ForkResult> {
    // SAFETY: the runtime's process has one thread, so the child may do whatever this process may.
    unsafe { nix::unistd::fork() }
}

/// Ends this process without running what is registered for its end.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` takes an integer and does not return.
    unsafe { libc::_exit(code) }
}

/// Marks every descriptor from `first` on to be closed by `execve`.
pub(crate) fn close_on_exec_from(first: u32) -> nix::Result<()> {
    // SAFETY: the call takes integers, and closes nothing.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Errno::result(result).map(drop)
}

/// `ioprio_set(2)`.
pub(crate) fn set_io_priority(which: i32, who: i32, priority: u32) -> nix::Result<()> {
    // SAFETY: the call takes integers.
    Errno::result(unsafe { libc::syscall(libc::SYS_ioprio_set, which, who, priority) }).map(drop)
}

/// What `sched_setattr(2)` takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SchedulerAttributes {
    pub(crate) policy: u32,
    pub(crate) flags: u64,
    pub(crate) nice: i32,
    pub(crate) priority: u32,
    pub(crate) runtime: u64,
    pub(crate) deadline: u64,
    pub(crate) period: u64,
}

/// Sets how this process is scheduled.
pub(crate) fn set_scheduler(to: &SchedulerAttributes) -> nix::Result<()> {
    #[repr(C)]
    struct Kernel {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    let attributes = Kernel {
        size: u32::try_from(size_of::<Kernel>()).unwrap_or_default(),
        policy: to.policy,
        flags: to.flags,
        nice: to.nice,
        priority: to.priority,
        runtime: to.runtime,
        deadline: to.deadline,
        period: to.period,
    };
    // SAFETY: the kernel reads `size` bytes of the structure, which has the layout of its first version and outlives the call.
    Errno::result(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) }).map(drop)
}

/// `personality(2)`.
pub(crate) fn set_personality(to: libc::c_ulong) -> nix::Result<()> {
    // SAFETY: the call takes an integer.
    Errno::result(unsafe { libc::personality(to) }).map(drop)
}

/// `ioprio_get(2)` of a process.
#[cfg(feature = "contract")]
pub(crate) fn io_priority(pid: i32) -> nix::Result<i64> {
    const PROCESS: i32 = 1;
    // SAFETY: the call takes integers.
    Errno::result(unsafe { libc::syscall(libc::SYS_ioprio_get, PROCESS, pid) })
}
