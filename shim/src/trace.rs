//! Trace points: when each step was reached, for whoever measures where the time goes. Off, a point costs a look at a flag.
//!
//! `GANTRY_TRACE` names a file to append to, by one write each, so that several processes may share it:
//!
//! ```text
//! <nanoseconds of CLOCK_MONOTONIC> <pid> <point> <detail>
//! 81273645091823 4711 call.begin Create 1           a request was read: method, stream
//! 81273645181290 4711 job.begin create              an executor was started; job.end: it was reaped
//! 81273645181290 4711 event /tasks/create           an event was queued; event.known: the daemon has acknowledged it
//! 81273645191211 4711 call.end 1                    an answer was written: stream
//! ```

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::sync::OnceLock;

use nix::time::{ClockId, clock_gettime};

/// The environment variable with the file.
pub(crate) const VARIABLE: &str = "GANTRY_TRACE";

static FILE: OnceLock<File> = OnceLock::new();

/// Begins to trace if the environment says so.
pub(crate) fn init() {
    if let Some(path) = std::env::var_os(VARIABLE)
        && let Ok(file) = OpenOptions::new().append(true).create(true).open(path)
    {
        let _ = FILE.set(file);
    }
}

/// Marks a point.
pub(crate) fn point(name: &str, detail: fmt::Arguments<'_>) {
    let Some(mut file) = FILE.get() else { return };
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |now| i128::from(now.tv_sec()) * 1_000_000_000 + i128::from(now.tv_nsec()));
    let _ = file.write_all(format!("{now} {} {name} {detail}\n", std::process::id()).as_bytes());
}

/// Marks a point, with a detail in the manner of `format!`.
macro_rules! trace {
    ($name:literal) => { $crate::trace::point($name, format_args!("-")) };
    ($name:literal, $($arg:tt)*) => { $crate::trace::point($name, format_args!($($arg)*)) };
}
pub(crate) use trace;
