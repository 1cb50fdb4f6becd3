//! The few calls for which no safe form exists. One call a function, as in `executor::sys`.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// Readable when a signal has come.
static WAKE: OnceLock<OwnedFd> = OnceLock::new();
/// One bit for each signal that has come and was not asked for yet.
static CAUGHT: AtomicU64 = AtomicU64::new(0);

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

/// Sends any signal to a child that was not reaped yet, so that its pid is certainly its own. For kernels without pidfds.
///
/// # Errors
/// `EINVAL` when there is no such signal.
#[expect(unsafe_code, reason = "the safe wrappers refuse real-time signals")]
pub(crate) fn kill_child(pid: u32, signal: u32) -> io::Result<()> {
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let (pid, signal) = (libc::pid_t::try_from(pid).map_err(invalid)?, i32::try_from(signal).map_err(invalid)?);
    // SAFETY: no memory is involved.
    if unsafe { libc::kill(pid, signal) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Closes every descriptor above standard error but `kept`: what a daemon has left open would go on to each child of ours.
/// To be called before this process has opened anything of its own. Kernels before 5.9 cannot do it, and it is no error.
#[expect(unsafe_code, reason = "descriptors that nobody owns can be closed in no other way")]
pub(crate) fn close_all_but(kept: impl AsFd) {
    let kept = kept.as_fd().as_raw_fd().unsigned_abs();
    for (first, last) in [(3, kept.saturating_sub(1)), (kept.saturating_add(1), libc::c_uint::MAX)] {
        if first <= last {
            // SAFETY: by the caller's word nothing in this process owns any of them.
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
    }
}

/// Removes variables from the environment that all children get.
#[expect(unsafe_code, reason = "another thread might read the environment")]
pub(crate) fn forget_variables(names: &[&str]) {
    for name in names {
        // SAFETY: this process has one thread.
        unsafe { std::env::remove_var(name) };
    }
}

/// Runs `body` in a child and ends that. Of the descriptors of this process it has `stdout`, as its standard output, and
/// standard input and error; signals do there what they do anywhere.
///
/// # Errors
/// There is no child.
#[expect(unsafe_code, reason = "a thread could not be given up, and would cost memory")]
pub(crate) fn in_child(stdout: impl AsFd, body: impl FnOnce()) -> io::Result<u32> {
    // SAFETY: this process has one thread, so the child has all of it in a sane state.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Child => {
            let kept = nix::unistd::dup2_stdout(stdout);
            // SAFETY: nothing that owns any of them is used any more, nor dropped: the child ends below.
            unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
            for signal in [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT] {
                // SAFETY: the default action is no code of this process.
                unsafe { libc::signal(signal, libc::SIG_DFL) };
            }
            if kept.is_ok() {
                body();
            }
            // SAFETY: it ends the process without running anything of the parent's.
            unsafe { libc::_exit(0) }
        }
        nix::unistd::ForkResult::Parent { child } => Ok(child.as_raw().unsigned_abs()),
    }
}

/// Closes standard output of a child that has said what it had to say.
#[expect(unsafe_code, reason = "standard output has no owner that could be dropped")]
pub(crate) fn close_stdout() {
    // SAFETY: in a child of `in_child`, which prints nothing more.
    unsafe { libc::close(1) };
}

/// Gives back the memory of a mapping whose content is in a file; what is needed again comes from there.
///
/// # Errors
/// The kernel refuses.
#[expect(unsafe_code, reason = "there is no safe form, since memory that is not in a file would be lost")]
pub(crate) fn give_back(mapping: &CleanMapping) -> io::Result<()> {
    let (start, length) = (mapping.start as *mut libc::c_void, mapping.length);
    // SAFETY: the mapping is of a file, not writable, and has no page that differs from the file, as the kernel has just
    // said; with one thread nobody changes that in between. So reading it later gives what reading it now would.
    let result = unsafe { libc::madvise(start, length, libc::MADV_DONTNEED) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A part of this process's memory that is the same as in its file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CleanMapping {
    start: usize,
    length: usize,
}

/// The clean mappings in the text of `/proc/self/smaps`.
pub(crate) fn clean_mappings(smaps: &str) -> Vec<CleanMapping> {
    let mut found = Vec::new();
    let mut current = None;
    for line in smaps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [range, permissions, _, _, _, path] if range.contains('-') => {
                let is_file = path.starts_with('/') && permissions.contains('r') && permissions.ends_with('p');
                current = (is_file && !permissions.contains('w')).then(|| parse_range(range)).flatten();
            }
            [range, ..] if range.contains('-') => current = None,
            // Relocated tables are read-only and of the file too, but not the same any more. (`Private_Dirty` would not do:
            // it also counts pages of a file that was written a moment ago.)
            ["Anonymous:" | "Swap:", amount, ..] if *amount != "0" => current = None,
            ["VmFlags:", ..] => found.extend(current.take()),
            _ => {}
        }
    }
    found
}

fn parse_range(range: &str) -> Option<CleanMapping> {
    let (start, end) = range.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    Some(CleanMapping { start, length: end.checked_sub(start)? })
}

/// From now on, these signals are only remembered; the descriptor becomes readable when one comes.
///
/// A handler, not a signalfd: that needs the signals blocked, and every child would start with them blocked too.
///
/// # Errors
/// The kernel refuses the descriptor or the handler.
#[expect(unsafe_code, reason = "a handler can be installed in no other way")]
pub(crate) fn catch_signals(signals: &[libc::c_int]) -> io::Result<&'static OwnedFd> {
    let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
    let wake = WAKE.get_or_init(|| wake);
    let action = nix::sys::signal::SigAction::new(
        nix::sys::signal::SigHandler::Handler(remember),
        nix::sys::signal::SaFlags::SA_RESTART,
        nix::sys::signal::SigSet::empty(),
    );
    for signal in signals {
        let signal = nix::sys::signal::Signal::try_from(*signal)?;
        // SAFETY: `remember` does nothing but atomics and write(2), which are allowed in a handler, and keeps errno.
        unsafe { nix::sys::signal::sigaction(signal, &action) }?;
    }
    Ok(wake)
}

/// Whether `signal` has come since it was last asked for.
pub(crate) fn was_caught(signal: libc::c_int) -> bool {
    let bit = bit(signal);
    CAUGHT.fetch_and(!bit, Ordering::AcqRel) & bit != 0
}

fn bit(signal: libc::c_int) -> u64 {
    1_u64.checked_shl(signal.unsigned_abs()).unwrap_or(0)
}

extern "C" fn remember(signal: libc::c_int) {
    let before = nix::errno::Errno::last_raw();
    CAUGHT.fetch_or(bit(signal), Ordering::AcqRel);
    if let Some(wake) = WAKE.get() {
        // Fails only when the descriptor is readable anyway.
        let _ = rustix::io::write(wake, &1_u64.to_ne_bytes());
    }
    nix::errno::Errno::set_raw(before);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_the_same_as_in_its_file_is_given_back() {
        let entry = |head: &str, own: &str| {
            format!("{head}\nRss: 4 kB\nPrivate_Dirty: 4 kB\nAnonymous: {own} kB\nSwap: 0 kB\nVmFlags: rd mr\n")
        };
        let smaps = [
            entry("1000-3000 r-xp 00000000 00:1f 77 /bin/shim", "0"),
            entry("3000-4000 r--p 00002000 00:1f 77 /bin/shim", "4"),
            entry("4000-5000 rw-p 00003000 00:1f 77 /bin/shim", "0"),
            entry("5000-6000 r--p 00000000 00:00 0 [vvar]", "0"),
            entry("6000-7000 r--p 00000000 00:00 0", "0"),
            entry("7000-8000 r--p 00004000 00:1f 77 /bin/shim", "0"),
        ]
        .concat();
        let wanted = [(0x1000, 0x2000), (0x7000, 0x1000)].map(|(start, length)| CleanMapping { start, length });
        assert_eq!(clean_mappings(&smaps), wanted);
    }

    #[test]
    fn a_program_goes_on_after_its_pages_are_given_back() {
        let mappings = clean_mappings(&std::fs::read_to_string("/proc/self/smaps").unwrap());
        assert!(!mappings.is_empty());
        for mapping in &mappings {
            give_back(mapping).unwrap();
        }
        assert_eq!(format!("{:?}", [1, 2, 3]), "[1, 2, 3]");
    }
}
