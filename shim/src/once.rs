//! Runs one executor to its end, for the subcommands that do nothing else. Must not be used by the server, which never
//! waits.

use std::time::{Duration, Instant};

use executor::{Ended, ExecutorError, Invocation, Outcome, spawn};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};

/// Starts `invocation` without streams and waits for it, as long as it may take.
///
/// # Errors
/// It cannot be started. How it ended is in the outcome.
pub(crate) fn run(invocation: &Invocation) -> Result<Outcome, ExecutorError> {
    let running = spawn(invocation, Default::default())?;
    let pid = Pid::from_raw(running.pid).expect("a pid is positive");
    let timed_out = !wait_gone(pid, running.deadline);
    if timed_out {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
    let ended = match rustix::process::waitpid(Some(pid), WaitOptions::empty()) {
        _ if timed_out => Ended::TimedOut,
        Ok(Some((_, status))) => match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Ended::Exited(code),
            (None, signal) => Ended::Signaled(signal.unwrap_or_default()),
        },
        Ok(None) | Err(_) => Ended::Exited(0),
    };
    Ok(running.finish(ended))
}

/// Waits until a process has ended, child or not. False when it lives on after `limit`.
pub(crate) fn wait_gone(pid: Pid, limit: Duration) -> bool {
    let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return true };
    let until = Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout =
            Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}
