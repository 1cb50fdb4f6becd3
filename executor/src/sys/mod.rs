//! Kernel calls that nix and rustix lack. The only place of the project where `unsafe` is at home; one call a function.
#![allow(unsafe_code, reason = "this module exists to hold it")]

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
