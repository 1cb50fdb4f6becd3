//! The two calls for which no safe form exists. One call a function, as in `executor::sys`.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

/// Takes a descriptor that our parent passed on by its number, told in the environment.
///
/// # Errors
/// Nothing is open under that number, or the number is one that this process uses itself.
#[expect(unsafe_code, reason = "a number from the environment can become a descriptor in no other way")]
pub(crate) fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("descriptor {number} cannot be taken over")));
    }
    std::fs::symlink_metadata(format!("/proc/self/fd/{number}"))?;
    // SAFETY: the number is open (its entry in /proc exists), and it is called before this process has opened anything
    // of its own above 2, so the descriptor is our parent's gift and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Sends any signal, real-time ones too, to the process behind a pidfd.
///
/// # Errors
/// `ESRCH` when it has been reaped, `EINVAL` when there is no such signal.
#[expect(
    unsafe_code,
    reason = "the safe wrappers refuse real-time signals, which systemd in a container is stopped by"
)]
pub(crate) fn pidfd_send_signal(pidfd: impl AsFd, signal: u32) -> io::Result<()> {
    let (fd, info): (_, *const libc::siginfo_t) = (pidfd.as_fd().as_raw_fd(), std::ptr::null());
    // SAFETY: the kernel reads nothing of ours: the only pointer is null, which means "as kill(2) would".
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, info, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
