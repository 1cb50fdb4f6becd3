//! Kernel calls that nix and rustix lack. The only place of the project where `unsafe` is at home; one call a function.
#![allow(unsafe_code, reason = "this module exists to hold it")]

use nix::errno::Errno;

/// `kill(2)` with any signal number, real-time ones included.
pub(crate) fn kill(pid: i32, signal: i32) -> nix::Result<()> {
    // SAFETY: kill takes two integers and touches no memory of ours.
    Errno::result(unsafe { libc::kill(pid, signal) }).map(drop)
}
