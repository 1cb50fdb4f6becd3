//! The shim's own log: lines into the fifo `log` of the bundle, which the daemon copies into its log.
//!
//! It never blocks and never fails: when nobody reads, lines are dropped. A daemon that comes back finds the next line.

use std::fmt::{self, Write as _};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::SystemTime;

/// The name of the fifo in the bundle.
pub(crate) const FILE_NAME: &str = "log";

/// The longest line; what is beyond is cut. Below `PIPE_BUF`, so lines of several writers do not mix.
const MAX_LINE_BYTES: usize = 4000;

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// A step.
    Debug,
    /// A state has changed.
    Info,
    /// Odd, but handled.
    Warning,
    /// A person must act.
    Error,
}

struct Target {
    path: PathBuf,
    file: Mutex<Option<std::fs::File>>,
}

static TARGET: OnceLock<Target> = OnceLock::new();
static DEBUG: AtomicBool = AtomicBool::new(false);

/// Sets where lines go and whether those of [`Level::Debug`] do; before this they go nowhere.
pub(crate) fn init(bundle: &Path, debug: bool) {
    DEBUG.store(debug, Ordering::Relaxed);
    let _ = TARGET.set(Target { path: bundle.join(FILE_NAME), file: Mutex::new(None) });
}

/// Opens the fifo again for the next line, without closing it: in a child, the descriptor may be another's by now.
pub(crate) fn forget_file() {
    if let Some(target) = TARGET.get() {
        std::mem::forget(target.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take());
    }
}

/// Writes one line.
pub(crate) fn write(level: Level, message: fmt::Arguments<'_>) {
    let Some(target) = TARGET.get() else { return };
    if level == Level::Debug && !DEBUG.load(Ordering::Relaxed) {
        return;
    }
    let line = line(SystemTime::now(), level, message);
    let mut file = target.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if file.is_none() {
        // Without a reader this fails at once (ENXIO) and the line is dropped.
        *file = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&target.path).ok();
    }
    if let Some(open) = file.as_mut()
        && open.write_all(line.as_bytes()).is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock)
    {
        *file = None;
    }
}

/// Logs a step.
macro_rules! debug { ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Debug, format_args!($($arg)*)) } }
/// Logs a change of state.
macro_rules! info { ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Info, format_args!($($arg)*)) } }
/// Logs what is odd but handled.
macro_rules! warning { ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Warning, format_args!($($arg)*)) } }
/// Logs what a person must see to.
macro_rules! error { ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Error, format_args!($($arg)*)) } }
pub(crate) use {debug, error, info, warning};

/// One line of `key=value`, as daemons' own logs have it.
fn line(now: SystemTime, level: Level, message: fmt::Arguments<'_>) -> String {
    let level = match level {
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warning => "warning",
        Level::Error => "error",
    };
    let mut line = format!("time=\"{}\" level={level} msg=", timestamp(now));
    let _ = write!(line, "{:?}", message.to_string());
    if line.len() > MAX_LINE_BYTES {
        let cut = (0..=MAX_LINE_BYTES).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
        line.truncate(cut);
        line.push('"');
    }
    line.push('\n');
    line
}

/// RFC 3339 in UTC, with milliseconds.
pub(crate) fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{}.{:03}Z", date(since.as_secs()), since.subsec_millis())
}

/// The same with nanoseconds.
pub(crate) fn exact_timestamp(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{}.{:09}Z", date(since.as_secs()), since.subsec_nanos())
}

/// The date and the time of day.
fn date(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days to a date in the Gregorian calendar, counting years from March so that the leap day comes last.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn timestamps_are_dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000Z"),
            (4_102_444_800, "2100-01-01T00:00:00.000Z"),
        ] {
            assert_eq!(timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn a_line_is_one_line_and_short_enough() {
        let text = format!("a\n\"b\" {}", "é".repeat(5000));
        let line = line(SystemTime::UNIX_EPOCH, Level::Warning, format_args!("{text}"));
        assert!(line.starts_with("time=\"1970-01-01T00:00:00.000Z\" level=warning msg=\"a\\n\\\"b\\\" é"), "{line}");
        assert_eq!(line.matches('\n').count(), 1);
        assert!(line.len() <= MAX_LINE_BYTES + 2 && line.ends_with("\"\n"));
    }
}
