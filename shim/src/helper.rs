//! Work that may hang in the kernel, mounting and unmounting, done by a child: whoever waits for it can stop waiting.
//!
//! ```text
//!  start(work) ─► child: work ─► report ─► what takes long and nobody waits for ─► end
//!       └─► Helper: readable ─► result         given up: the child is killed, and ends when the kernel lets it
//! ```
//!
//! The child keeps no descriptor of ours but the one it reports by: nobody may take it for us.

use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use model::Kind;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::pipe::PipeFlags;

use crate::{log, sys};

/// The longest text of a failure; a pipe takes so much at once.
const MAX_TEXT_BYTES: usize = 4000;

/// What became of the work.
pub(crate) type Done = Result<(), (Kind, String)>;

/// A child at work.
#[derive(Debug)]
pub(crate) struct Helper {
    /// The child.
    pub pid: u32,
    report: OwnedFd,
}

impl AsFd for Helper {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.report.as_fd()
    }
}

/// Starts `work`. What it returns beside the result is dropped after the report.
///
/// # Errors
/// There is no child.
pub(crate) fn start<T>(work: impl FnOnce() -> (Done, T)) -> io::Result<Helper> {
    let (report, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let pid = sys::in_child(&writer, || {
        // The descriptor behind it is not this process's.
        log::forget_file();
        let (done, rest) = work();
        let _ = io::stdout().write_all(&encode(&done)).and_then(|()| io::stdout().flush());
        sys::close_stdout();
        drop(rest);
    })?;
    Ok(Helper { pid, report })
}

impl Helper {
    /// The result, once the helper is readable; `None` before.
    pub(crate) fn result(&self) -> Option<Done> {
        let mut buffer = [0; MAX_TEXT_BYTES + 1];
        match rustix::io::read(&self.report, &mut buffer) {
            Ok(count) => Some(decode(&buffer[..count])),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => None,
            Err(error) => Some(Err((Kind::Unknown, error.to_string()))),
        }
    }

    /// Waits for the result, for processes that have nothing else to do; `None` after `limit`.
    pub(crate) fn wait(&self, limit: Duration) -> Option<Done> {
        let timeout = Timespec { tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX), tv_nsec: 0 };
        let mut fds = [PollFd::new(&self.report, PollFlags::IN)];
        rustix::event::poll(&mut fds, Some(&timeout)).ok().filter(|ready| *ready > 0)?;
        self.result()
    }

    /// Nobody waits any longer.
    pub(crate) fn give_up(&self) {
        if let Ok(pid) = i32::try_from(self.pid) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

fn encode(done: &Done) -> Vec<u8> {
    match done {
        Ok(()) => vec![0],
        Err((kind, text)) => {
            let code = proto::status::new(*kind, String::new()).code;
            let mut bytes = vec![u8::try_from(code).unwrap_or(u8::MAX)];
            let end = (0..=text.len().min(MAX_TEXT_BYTES)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            bytes.extend_from_slice(&text.as_bytes()[..end]);
            bytes
        }
    }
}

fn decode(bytes: &[u8]) -> Done {
    match bytes.split_first() {
        Some((0, _)) => Ok(()),
        Some((code, text)) => Err((proto::status::kind(i32::from(*code)), String::from_utf8_lossy(text).into_owned())),
        None => Err((Kind::Unknown, "the process that was to do it has died".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_back_as_they_were() {
        for done in [Ok(()), Err((Kind::NotFound, "no such thing".to_owned())), Err((Kind::Unknown, String::new()))] {
            let helper = start(|| (done.clone(), ())).unwrap();
            assert_eq!(helper.wait(Duration::from_secs(10)), Some(done));
        }
    }

    #[test]
    fn one_that_hangs_is_given_up_and_one_that_dies_is_noticed() {
        let helper = start(|| {
            std::thread::sleep(Duration::from_secs(1000));
            (Ok(()), ())
        })
        .unwrap();
        assert_eq!(helper.result(), None);
        assert_eq!(helper.wait(Duration::ZERO), None);
        helper.give_up();
        assert!(matches!(helper.wait(Duration::from_secs(10)), Some(Err((Kind::Unknown, _)))));
    }

    #[test]
    fn what_takes_long_comes_after_the_report() {
        struct Slow;
        impl Drop for Slow {
            fn drop(&mut self) {
                std::thread::sleep(Duration::from_secs(1000));
            }
        }
        let helper = start(|| (Ok(()), Slow)).unwrap();
        assert_eq!(helper.wait(Duration::from_secs(10)), Some(Ok(())));
        helper.give_up();
    }
}
