//! Running a program to its end, with a bound, and waiting for what happens soon.

use std::ffi::OsStr;
use std::io::Read;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// How long any command of a story may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);

/// How long [`eventually`] waits.
const PATIENCE: Duration = Duration::from_secs(30);

/// A program that has ended.
#[derive(Debug, Clone)]
pub struct Ran {
    /// The command line, for messages.
    pub command: String,
    /// Its exit code, or 128 + the signal's number.
    pub code: i32,
    /// What it wrote.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

impl Ran {
    /// Standard output, if it ended well.
    ///
    /// # Errors
    /// Tells all about it if it did not.
    pub fn ok(self) -> anyhow::Result<String> {
        if self.code != 0 {
            bail!("{self}");
        }
        Ok(self.stdout)
    }

    /// Standard error, if it ended badly.
    ///
    /// # Errors
    /// Tells all about it if it ended well.
    pub fn failed(self) -> anyhow::Result<String> {
        if self.code == 0 {
            bail!("should have failed: {self}");
        }
        Ok(self.stderr)
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` ended with {}\nstdout: {}\nstderr: {}", self.command, self.code, self.stdout, self.stderr)
    }
}

/// Runs `program` without input and waits for its end.
///
/// # Errors
/// When it cannot be started, or takes longer than any command of a story may.
pub fn run<S: AsRef<OsStr>>(program: &Path, arguments: &[S]) -> anyhow::Result<Ran> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    run_command(command)
}

/// As [`run`], for a command that was set up by the caller; its output is taken.
///
/// # Errors
/// As [`run`].
pub fn run_command(mut command: Command) -> anyhow::Result<Ran> {
    let line = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|part| part.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ");
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().with_context(|| format!("start `{line}`"))?;
    let read = |mut from: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            from.read_to_end(&mut bytes).map(|_| String::from_utf8_lossy(&bytes).into_owned())
        })
    };
    let stdout = read(Box::new(child.stdout.take().context("its output is a pipe")?));
    let stderr = read(Box::new(child.stderr.take().context("its errors are a pipe")?));
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > COMMAND_LIMIT {
            child.kill()?;
            child.wait()?;
            bail!("`{line}` took longer than {COMMAND_LIMIT:?} and was ended");
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let text =
        |reader: std::thread::JoinHandle<std::io::Result<String>>| reader.join().expect("reading does not panic");
    Ok(Ran { command: line, code: code(status), stdout: text(stdout)?, stderr: text(stderr)? })
}

fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Tries again until `work` succeeds, for a bounded time.
///
/// # Errors
/// The last error, when it never did.
pub fn eventually<T>(what: &str, work: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    within(PATIENCE, what, work)
}

/// As [`eventually`], with a bound of the caller's.
///
/// # Errors
/// The last error, when it never did.
pub fn within<T>(limit: Duration, what: &str, mut work: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        match work() {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() > limit => return Err(error.context(format!("{what}: not within {limit:?}"))),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}
