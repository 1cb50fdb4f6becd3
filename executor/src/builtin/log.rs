//! What the runtime writes down: JSON lines for the caller, and a trail of libcontainer's own error events, from which
//! the reason of a failure is taken. The trail is shared with the processes libcontainer forks, because an error text
//! that crosses its channels has lost its causes.

use std::fmt::{Debug, Write as _};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{MemfdFlags, memfd_create};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};

/// The most that is kept of the trail.
const MAX_TRAIL: u64 = 64 << 10;
/// Target of the events by which our own workload says why it cannot run; their text is the reason, word for word.
pub(super) const WORKLOAD: &str = "workload";

/// The caller's log.
#[derive(Debug)]
pub(super) struct Log {
    file: Option<File>,
    json: bool,
}

impl Log {
    /// Opens the log for appending; standard error without one.
    pub(super) fn open(path: Option<&Path>, json: bool) -> std::io::Result<Self> {
        let file = path.map(|path| File::options().append(true).create(true).open(path)).transpose()?;
        Ok(Self { file, json })
    }

    /// Appends one line in one write.
    pub(super) fn line(&self, level: &str, message: &str) {
        let time = rfc3339(SystemTime::now());
        let mut line = if self.json && self.file.is_some() {
            serde_json::json!({ "level": level, "msg": message, "time": time }).to_string()
        } else {
            format!("time=\"{time}\" level={level} msg={message:?}")
        };
        line.push('\n');
        // There is nobody to tell that the log cannot be written.
        let _ = match &self.file {
            Some(file) => (&*file).write_all(line.as_bytes()),
            None => std::io::stderr().write_all(line.as_bytes()),
        };
    }

    fn duplicate(&self) -> std::io::Result<Self> {
        Ok(Self { file: self.file.as_ref().map(File::try_clone).transpose()?, json: self.json })
    }
}

/// The errors that libcontainer reported on its way out, innermost first.
#[derive(Debug)]
pub(super) struct Trail(File);

impl Trail {
    /// Starts to record; events below `error` go to `log` when `debug`.
    pub(super) fn record(log: &Log, debug: bool) -> std::io::Result<Self> {
        let file = File::from(memfd_create(c"trail", MemfdFlags::CLOEXEC)?);
        let recorder = Recorder { trail: file.try_clone()?, log: log.duplicate()?, debug };
        // Only the first call in a process takes effect, and there is only one.
        let _ = tracing::subscriber::set_global_default(recorder);
        Ok(Self(file))
    }

    /// The reason of the failure: our workload's own words, else the innermost error. Empty when none was recorded.
    pub(super) fn reason(&mut self) -> Option<Reason> {
        let mut text = String::new();
        self.0.seek(SeekFrom::Start(0)).ok()?;
        (&mut self.0).take(MAX_TRAIL).read_to_string(&mut text).ok()?;
        let mut lines = text.lines();
        let marked = |line: &str| line.strip_prefix(WORKLOAD)?.strip_prefix(' ').map(str::to_owned);
        if let Some(words) = lines.clone().find_map(marked) {
            return Some(Reason::Workload(words));
        }
        lines.next().map(|line| Reason::Inner(line.trim_start().to_owned()))
    }
}

/// Why a container could not be set up.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// The words of our workload.
    Workload(String),
    /// The innermost event of libcontainer, with its fields.
    Inner(String),
}

struct Recorder {
    trail: File,
    log: Log,
    debug: bool,
}

impl Subscriber for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR || self.debug && *metadata.level() <= Level::DEBUG
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let line = format!("{}{}", text.message, text.fields).replace('\n', " ");
        if *event.metadata().level() == Level::ERROR {
            let mark = if event.metadata().target() == WORKLOAD { WORKLOAD } else { "" };
            let _ = (&self.trail).write_all(format!("{mark} {line}\n").as_bytes());
        }
        if self.debug {
            // Never `error`: readers take the last error line of the log for the reason, and that is written at the end.
            self.log.line("debug", &line);
        }
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

/// A time as `2026-01-02T03:04:05Z`.
pub(super) fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    // Years are counted from March, so that a leap day is the last of its year; eras are 400 years.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_calendar_times() {
        let table = [
            (0, "1970-01-01T00:00:00Z"),
            (951_827_696, "2000-02-29T12:34:56Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
        ];
        for (seconds, text) in table {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}
