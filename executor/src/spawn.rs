//! Starting an [`Invocation`] cheaply, and gathering what is left when it has ended. Never waits.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};

use crate::error::{ExecutorError, last_error};
use crate::{Invocation, Verb};

/// The most that is kept of a runtime's stdout (`ps` of a container with many processes is the largest).
pub const MAX_OUTPUT: u64 = 4 << 20;
/// The most that is read of a runtime's log per invocation; the last error is at its end.
pub const MAX_LOG: u64 = 1 << 20;

/// Descriptors for the new process; `None` is `/dev/null`. Only `create` and `exec` hand them on to the container.
#[derive(Debug, Default, Clone, Copy)]
pub struct StdioFds<'fd> {
    /// Becomes descriptor 0; ignored when the invocation brings its own input.
    pub stdin: Option<BorrowedFd<'fd>>,
    /// Becomes descriptor 1; ignored when the verb's output is captured.
    pub stdout: Option<BorrowedFd<'fd>>,
    /// Becomes descriptor 2; ignored when the verb's output is captured.
    pub stderr: Option<BorrowedFd<'fd>>,
}

/// How a runtime process ended, from its wait status or from the caller's timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It returned this code.
    Exited(i32),
    /// This signal killed it.
    Signaled(i32),
    /// The caller killed it after [`Invocation::deadline`].
    TimedOut,
}

impl Ended {
    /// Reads a raw status of `wait4`.
    pub fn from_wait_status(status: i32) -> Self {
        if libc::WIFSIGNALED(status) {
            Self::Signaled(libc::WTERMSIG(status))
        } else {
            Self::Exited(libc::WEXITSTATUS(status))
        }
    }
}

/// A runtime process that was started. It is the caller's child: the caller reaps it.
#[derive(Debug)]
pub struct Running {
    /// The process.
    pub pid: i32,
    /// When to kill it, counted from now.
    pub deadline: Duration,
    verb: Verb,
    stdout: Option<File>,
    stderr: Option<File>,
    log: PathBuf,
    log_from: u64,
}

/// All that an ended runtime process left to read.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What it was to do.
    pub verb: Verb,
    /// How it ended.
    pub ended: Ended,
    /// Captured output, at most [`MAX_OUTPUT`] bytes (verbs that capture).
    pub stdout: Vec<u8>,
    /// The runtime's reason: the last error in its log of this invocation, else its captured stderr.
    pub message: Option<String>,
}

/// Starts `invocation`. The descriptors given become 0, 1, 2; all others of the caller must be close-on-exec, as
/// everywhere in this project.
///
/// # Errors
///
/// [`ExecutorError::Spawn`] when the program is missing (the text then contains `executable file not found in $PATH`
/// for a bare name) or cannot be executed.
pub fn spawn(invocation: &Invocation, stdio: StdioFds<'_>) -> Result<Running, ExecutorError> {
    let failed = |text: String| ExecutorError::Spawn { verb: invocation.verb, log: invocation.log.clone(), text };
    let io = |error: std::io::Error| failed(error.to_string());
    let program = find(&invocation.program, std::env::var_os("PATH").as_deref()).map_err(failed)?;
    let mut command = Command::new(&program);
    command.args(&invocation.args).envs(invocation.env.iter().map(|(name, value)| (name, value)));
    if let Some(cwd) = &invocation.cwd {
        command.current_dir(cwd);
    }
    command.stdin(match &invocation.stdin {
        Some(bytes) => Stdio::from(memory_file(bytes).map_err(io)?),
        None => descriptor(stdio.stdin).map_err(io)?,
    });
    let (mut stdout, mut stderr) = (None, None);
    if invocation.verb.captures() {
        for (slot, is_out) in [(&mut stdout, true), (&mut stderr, false)] {
            let file = memory_file(&[]).map_err(io)?;
            let copy = Stdio::from(file.try_clone().map_err(io)?);
            if is_out {
                command.stdout(copy)
            } else {
                command.stderr(copy)
            };
            *slot = Some(file);
        }
    } else {
        command.stdout(descriptor(stdio.stdout).map_err(io)?).stderr(descriptor(stdio.stderr).map_err(io)?);
    }
    let log_from = std::fs::metadata(&invocation.log).map_or(0, |meta| meta.len());
    let child =
        command.spawn().map_err(|error| failed(format!("fork/exec {}: {}", program.display(), reason(&error))))?;
    let pid = i32::try_from(child.id()).expect("a pid is a positive i32");
    Ok(Running {
        pid,
        deadline: invocation.deadline,
        verb: invocation.verb,
        stdout,
        stderr,
        log: invocation.log.clone(),
        log_from,
    })
}

impl Running {
    /// Gathers output and log once the process has been reaped (or killed for its deadline).
    pub fn finish(self, ended: Ended) -> Outcome {
        let stdout = self.stdout.map(captured).unwrap_or_default();
        let message = if ended == Ended::Exited(0) {
            None
        } else {
            last_error(&tail(&self.log, self.log_from)).or_else(|| {
                let text = String::from_utf8_lossy(&self.stderr.map(captured).unwrap_or_default()).trim().to_owned();
                (!text.is_empty()).then_some(text)
            })
        };
        Outcome { verb: self.verb, ended, stdout, message }
    }
}

impl Outcome {
    /// The pids that [`Executor::ps`](crate::Executor::ps) printed.
    ///
    /// # Errors
    ///
    /// [`ExecutorError::Output`] when it is not a JSON list of numbers.
    pub fn pids(&self) -> Result<Vec<i32>, ExecutorError> {
        let output = |source| ExecutorError::Output { verb: self.verb, source };
        // runc prints `null` for a container without processes.
        serde_json::from_slice::<Option<Vec<i32>>>(&self.stdout).map(Option::unwrap_or_default).map_err(output)
    }
}

/// Resolves a bare name as a shell would; the texts are those of Go's `os/exec`, which clients match on.
fn find(program: &Path, path: Option<&OsStr>) -> Result<PathBuf, String> {
    let name = program.display();
    if program.as_os_str().as_encoded_bytes().contains(&b'/') {
        return Ok(program.to_owned());
    }
    for folder in std::env::split_paths(path.unwrap_or_default()) {
        let candidate = folder.join(program);
        let executable =
            std::fs::metadata(&candidate).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
        if executable && candidate.is_absolute() {
            return Ok(candidate);
        }
    }
    Err(format!("exec: \"{name}\": executable file not found in $PATH"))
}

fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}

fn descriptor(fd: Option<BorrowedFd<'_>>) -> std::io::Result<Stdio> {
    Ok(match fd {
        Some(fd) => Stdio::from(fd.try_clone_to_owned()?),
        None => Stdio::null(),
    })
}

/// Anonymous memory: a regular file to the runtime, nothing to poll for us.
fn memory_file(bytes: &[u8]) -> std::io::Result<File> {
    let fd: OwnedFd = memfd_create(c"executor", MemfdFlags::CLOEXEC)?;
    let mut file = File::from(fd);
    file.write_all(bytes)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

fn captured(mut file: File) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = file.seek(SeekFrom::Start(0)).and_then(|_| file.take(MAX_OUTPUT).read_to_end(&mut bytes));
    bytes
}

/// What was appended to the log since `from`, at most the last [`MAX_LOG`] bytes.
fn tail(log: &Path, from: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        // Shorter than before: someone replaced it, all of it is news.
        let from = if length < from { 0 } else { from };
        file.seek(SeekFrom::Start(from.max(length.saturating_sub(MAX_LOG))))?;
        let mut bytes = Vec::new();
        file.take(MAX_LOG).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}
