//! Processes that are not tasks: running a shim's commands, and ending a shim that does not end by itself.
//!
//! Children are started without code of ours between fork and exec, so all that a child gets is what its descriptors 0, 1
//! and 2 are; every other descriptor of the daemon is closed on exec.

use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use crate::limits;

/// How much of each output of a command is kept; the rest is read and dropped.
const MAX_OUTPUT_BYTES: usize = 256 << 10;

/// How long to wait for the rest of the output after a command has ended: a child of it may hold the pipe for ever.
const OUTPUT_GRACE: Duration = Duration::from_millis(100);

/// How a command ended, and what it printed.
#[derive(Debug)]
pub(super) struct Ended {
    /// `None` if it was killed because it took too long.
    pub status: Option<ExitStatus>,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

impl Ended {
    /// Whether it ended well.
    pub(super) fn is_success(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// What it printed, errors first, for an error text.
    pub(super) fn text(&self) -> String {
        let both = [&self.stderr, &self.stdout].map(|bytes| printable(bytes));
        both.iter().filter(|text| !text.is_empty()).map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

/// The longest output in an error text.
const MAX_TEXT_BYTES: usize = 4 << 10;

/// Output as text: the end of it if it is long, without control characters that would garble a terminal.
pub(super) fn printable(bytes: &[u8]) -> String {
    let tail = &bytes[bytes.len().saturating_sub(MAX_TEXT_BYTES)..];
    let text = String::from_utf8_lossy(tail);
    text.trim().chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// Runs a command to its end in a process group of its own, with `input` as its standard input.
///
/// # Errors
/// It cannot be run at all.
///
/// # Cancel safety
/// The command is killed if the future is dropped.
pub(super) async fn run(mut command: Command, input: &[u8], limit: Duration) -> io::Result<Ended> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
    command.stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() });
    let mut child = command.spawn()?;
    limits::restore_for_child(child.id());
    let (stdout, stderr) = (Kept::default(), Kept::default());
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async {
        if let Some(mut stdin) = pipes.0 {
            // A shim that does not read its input is right, too.
            let _ = stdin.write_all(input).await;
        }
    };
    let copy = async { tokio::join!(feed, stdout.keep(pipes.1), stderr.keep(pipes.2)) };
    tokio::pin!(copy);
    let waited = tokio::time::timeout(limit, async {
        tokio::select! {
            status = child.wait() => (status, false),
            _ = &mut copy => (child.wait().await, true),
        }
    })
    .await;
    let status = match waited {
        Ok((status, copied)) => {
            if !copied {
                let _ = tokio::time::timeout(OUTPUT_GRACE, &mut copy).await;
            }
            Some(status?)
        }
        Err(_) => {
            let _ = child.start_kill();
            // A process in an uninterruptible wait does not even die of KILL; it is reaped in the background then.
            let _ = tokio::time::timeout(OUTPUT_GRACE, child.wait()).await;
            None
        }
    };
    Ok(Ended { status, stdout: stdout.take(), stderr: stderr.take() })
}

/// The beginning of an output, shared so that it is there even if its pipe never ends.
#[derive(Default, Clone)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Kept {
    async fn keep(&self, pipe: Option<impl AsyncRead + Unpin>) {
        let Some(mut pipe) = pipe else { return };
        let mut buffer = vec![0; 4 << 10];
        while let Ok(length @ 1..) = pipe.read(&mut buffer).await {
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let room = MAX_OUTPUT_BYTES - kept.len();
            kept.extend_from_slice(&buffer[..length.min(room)]);
        }
    }

    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A process that is not our child: its id and when it started, so that a later process with the same id is not taken for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ProcessRef {
    pid: u32,
    started: u64,
}

impl ProcessRef {
    /// The process that has this id now; `None` if there is none.
    pub(super) fn of(pid: u32) -> Option<Self> {
        Some(Self { pid, started: started(pid)? })
    }

    /// Kills it if it is still there.
    pub(super) fn kill(self) {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return };
        let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty()) else { return };
        // Compared after it is held: from here on the id cannot come to mean another process.
        if started(self.pid) == Some(self.started) {
            let _ = pidfd_send_signal(&descriptor, Signal::KILL);
        }
    }
}

/// Field 22 of `/proc/PID/stat`; the second one is a name in brackets that may hold anything.
fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    let (_, after) = stat.rsplit_once(')')?;
    after.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn output_and_status_of_a_command() {
        let ended = run(shell("cat; echo bad >&2; exit 3"), b"in", Duration::from_secs(10)).await.unwrap();
        assert_eq!(ended.status.unwrap().code(), Some(3));
        assert_eq!((ended.stdout.as_slice(), ended.stderr.as_slice()), (&b"in"[..], &b"bad\n"[..]));
        assert_eq!(ended.text(), "bad\nin");
    }

    #[tokio::test]
    async fn a_child_that_keeps_the_pipe_does_not_hold_us() {
        let begun = std::time::Instant::now();
        let ended = run(shell("echo here; sleep 5 &"), b"", Duration::from_secs(10)).await.unwrap();
        assert!(ended.is_success());
        assert_eq!(ended.stdout, b"here\n");
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn a_command_that_takes_too_long_is_killed() {
        let ended = run(shell("echo begun; exec sleep 20"), b"", Duration::from_millis(300)).await.unwrap();
        assert!(ended.status.is_none());
        assert_eq!(ended.stdout, b"begun\n");
    }

    #[tokio::test]
    async fn endless_output_is_cut() {
        let ended = run(shell("head -c 1000000 /dev/zero"), b"", Duration::from_secs(10)).await.unwrap();
        assert_eq!(ended.stdout.len(), MAX_OUTPUT_BYTES);
        assert!(ended.text().len() <= 4 * MAX_TEXT_BYTES);
    }

    #[test]
    fn a_process_is_told_from_a_later_one() {
        let own = ProcessRef::of(std::process::id()).unwrap();
        assert_eq!(ProcessRef::of(std::process::id()), Some(own));
        // Were the start not compared, this would end the test.
        ProcessRef { started: own.started + 1, ..own }.kill();
    }
}
