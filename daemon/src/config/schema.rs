//! Every key of the configuration file: its type, and whether it is honoured.
//!
//! The table is the whole knowledge; [`judge`] looks a key up in it. Pure.

use std::time::Duration;

use toml::Value;

use super::Level;

/// What a value must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// A string.
    Text,
    /// A list of strings.
    Texts,
    /// A boolean.
    Flag,
    /// A whole number that is not negative.
    Count,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// A duration as Go writes it: `1m30s`, `250ms`.
    Duration,
    /// A log level.
    Level,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Anything, a table included.
    Any,
}

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It does what it says.
    Honoured(Type),
    /// It is containerd's, and does nothing here for this reason.
    Unsupported(&'static str),
    /// It leads to keys, but is none.
    Table,
    /// Nobody knows it.
    Unknown,
}

/// One row: the path (`*` for any one part, and below a last `**` for anything), and what becomes of it.
type Row = (&'static [&'static str], Fate);

use Fate::{Honoured, Unsupported};

const NO_CRI: &str = "the Kubernetes runtime interface is not served by this version";
const NO_DEBUG: &str = "there is no debug socket; SIGUSR1 writes the state to the log";
const NO_METRICS: &str = "metrics are not served by this version";
const NO_TCP: &str = "only the unix socket is served";
const NO_PROXY: &str = "proxy plugins are not supported by this version";
const ALWAYS_DURABLE: &str = "the store is always durable";
const OVERLAY: &str = "this option of the overlay snapshotter is not supported by this version";

const SCHEDULER: &str = "io.containerd.gc.v1.scheduler";
const SNAPSHOTTER: &str = "io.containerd.snapshotter.v1.overlayfs";
const TRANSFER: &str = "io.containerd.transfer.v1.local";

/// All keys. The first row that fits counts.
const ROWS: &[Row] = &[
    (&["version"], Honoured(Type::Count)),
    (&["root"], Honoured(Type::Text)),
    (&["state"], Honoured(Type::Text)),
    (&["imports"], Honoured(Type::Texts)),
    (&["disabled_plugins"], Honoured(Type::Texts)),
    (&["required_plugins"], Honoured(Type::Texts)),
    (&["oom_score"], Honoured(Type::Integer)),
    (&["temp"], Unsupported("temporary files are kept below root, where they can be renamed into place")),
    (&["plugin_dir"], Unsupported("plugins cannot be loaded into the daemon")),
    (&["cgroup", "path"], Unsupported("the daemon stays in the cgroup it is started in")),
    (&["grpc", "address"], Honoured(Type::Text)),
    (&["grpc", "uid"], Honoured(Type::Count)),
    (&["grpc", "gid"], Honoured(Type::Count)),
    (&["grpc", "max_recv_message_size"], Honoured(Type::Count)),
    (&["grpc", "max_send_message_size"], Honoured(Type::Count)),
    (&["grpc", "tcp_address"], Unsupported(NO_TCP)),
    (&["grpc", "tcp_tls_ca"], Unsupported(NO_TCP)),
    (&["grpc", "tcp_tls_cert"], Unsupported(NO_TCP)),
    (&["grpc", "tcp_tls_key"], Unsupported(NO_TCP)),
    (&["grpc", "tcp_tls_common_name"], Unsupported(NO_TCP)),
    (&["ttrpc", "address"], Honoured(Type::Text)),
    (&["ttrpc", "uid"], Honoured(Type::Count)),
    (&["ttrpc", "gid"], Honoured(Type::Count)),
    (&["debug", "level"], Honoured(Type::Level)),
    (&["debug", "format"], Honoured(Type::OneOf(&["", "text", "json"]))),
    (&["debug", "address"], Unsupported(NO_DEBUG)),
    (&["debug", "uid"], Unsupported(NO_DEBUG)),
    (&["debug", "gid"], Unsupported(NO_DEBUG)),
    (&["metrics", "address"], Unsupported(NO_METRICS)),
    (&["metrics", "grpc_histogram"], Unsupported(NO_METRICS)),
    (&["timeouts", "*"], Honoured(Type::Duration)),
    (&["metadata", "engine"], Honoured(Type::OneOf(&["sled", "redb"]))),
    (&["runtimes", "*", "path"], Honoured(Type::Text)),
    (&["proxy_plugins", "**"], Unsupported(NO_PROXY)),
    (&["stream_processors", "**"], Unsupported("stream processors are not supported by this version")),
    (&["plugins", SCHEDULER, "pause_threshold"], Honoured(Type::Number)),
    (&["plugins", SCHEDULER, "deletion_threshold"], Honoured(Type::Count)),
    (&["plugins", SCHEDULER, "mutation_threshold"], Honoured(Type::Count)),
    (&["plugins", SCHEDULER, "schedule_delay"], Honoured(Type::Duration)),
    (&["plugins", SCHEDULER, "startup_delay"], Honoured(Type::Duration)),
    (&["plugins", SNAPSHOTTER, "root_path"], Honoured(Type::Text)),
    (&["plugins", SNAPSHOTTER, "upperdir_label"], Unsupported(OVERLAY)),
    (&["plugins", SNAPSHOTTER, "sync_remove"], Unsupported("removal is always complete when it is answered")),
    (&["plugins", SNAPSHOTTER, "slow_chown"], Unsupported(OVERLAY)),
    (&["plugins", SNAPSHOTTER, "mount_options"], Honoured(Type::Texts)),
    (&["plugins", "io.containerd.shim.v1.manager", "env"], Honoured(Type::Texts)),
    (&["plugins", "io.containerd.shim.v1.manager", "socket_dir"], Honoured(Type::Text)),
    (&["plugins", "io.containerd.internal.v1.opt", "path"], Honoured(Type::Text)),
    (
        &["plugins", "io.containerd.metadata.v1.bolt", "content_sharing_policy"],
        Honoured(Type::OneOf(&["", "shared", "isolated"])),
    ),
    (&["plugins", "io.containerd.metadata.v1.bolt", "no_sync"], Unsupported(ALWAYS_DURABLE)),
    (&["plugins", TRANSFER, "max_concurrent_downloads"], Honoured(Type::Count)),
    (&["plugins", TRANSFER, "max_concurrent_uploaded_layers"], Honoured(Type::Count)),
    (&["plugins", "io.containerd.service.v1.diff-service", "default"], Unsupported("there is one differ, walking")),
    (&["plugins", "io.containerd.runtime.v2.task", "platforms"], Unsupported("it runs what this machine runs")),
    (&["plugins", "io.containerd.grpc.v1.cri", "**"], Unsupported(NO_CRI)),
    (&["plugins", "io.containerd.cri.v1.images", "**"], Unsupported(NO_CRI)),
    (&["plugins", "io.containerd.cri.v1.runtime", "**"], Unsupported(NO_CRI)),
    (
        &["plugins", "io.containerd.runtime.v1.linux", "**"],
        Unsupported("shims of the first protocol are not supported"),
    ),
    (&["plugins", "*", "**"], Unsupported("there is no such plugin in this daemon, or it has no such option")),
];

/// Plugins that files of version 1 name by their id.
const WHOLE_NAMES: [&str; 12] = [
    "io.containerd.grpc.v1.cri",
    "io.containerd.runtime.v1.linux",
    "io.containerd.runtime.v2.task",
    SCHEDULER,
    SNAPSHOTTER,
    "io.containerd.snapshotter.v1.native",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.internal.v1.opt",
    "io.containerd.internal.v1.restart",
    "io.containerd.metadata.v1.bolt",
    "io.containerd.service.v1.diff-service",
];

/// The whole name of a plugin that is named by its id alone, if it is one of those that had configuration then.
pub fn whole_name(id: &str) -> Option<&'static str> {
    WHOLE_NAMES.into_iter().find(|name| name.rsplit_once('.').is_some_and(|(_, last)| last == id))
}

/// What becomes of the key at `path`.
pub fn judge(path: &[String]) -> Fate {
    ROWS.iter().find_map(|(row, fate)| fits(row, path).then_some(*fate)).unwrap_or_else(|| {
        let leads = ROWS.iter().any(|(row, _)| row.len() > path.len() && fits(&row[..path.len()], path));
        if leads { Fate::Table } else { Fate::Unknown }
    })
}

fn fits(row: &[&str], path: &[String]) -> bool {
    match (row, path) {
        (["**"], [_, ..]) => true,
        ([first, row @ ..], [part, path @ ..]) => (*first == "*" || first == part) && fits(row, path),
        ([], []) => true,
        _ => false,
    }
}

/// Whether a value asks for nothing, as the generated files of other programs are full of.
pub fn asks_for_nothing(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Integer(number) => *number == 0,
        Value::Boolean(flag) => !flag,
        Value::Array(list) => list.is_empty(),
        Value::Table(table) => table.values().all(asks_for_nothing),
        Value::Float(number) => *number == 0.0,
        Value::Datetime(_) => false,
    }
}

/// Checks a value against its type; the error completes the sentence "must be …".
pub fn check(wanted: Type, value: &Value) -> Result<(), String> {
    let text = value.as_str();
    let good = match wanted {
        Type::Text => text.is_some(),
        Type::Texts => value.as_array().is_some_and(|list| list.iter().all(Value::is_str)),
        Type::Flag => value.is_bool(),
        Type::Count => value.as_integer().is_some_and(|number| (0..=i64::from(u32::MAX)).contains(&number)),
        Type::Integer => value.as_integer().is_some_and(|number| i32::try_from(number).is_ok()),
        Type::Number => value.is_integer() || value.is_float(),
        Type::Duration => text.is_some_and(|text| duration(text).is_some()),
        Type::Level => text.is_some_and(|text| text.is_empty() || Level::parse(text).is_some()),
        Type::OneOf(words) => text.is_some_and(|text| words.contains(&text)),
        Type::Any => true,
    };
    if good { Ok(()) } else { Err(format!("{}, not {}", describe(wanted), shown(value))) }
}

fn describe(wanted: Type) -> String {
    match wanted {
        Type::Text => "a string".into(),
        Type::Texts => "a list of strings".into(),
        Type::Flag => "true or false".into(),
        Type::Count => format!("a whole number from 0 to {}", u32::MAX),
        Type::Integer => "a whole number".into(),
        Type::Number => "a number".into(),
        Type::Duration => "a duration like \"1m30s\"".into(),
        Type::Level => "one of trace, debug, info, warn, error, fatal, panic".into(),
        Type::OneOf(words) => {
            format!("one of {}", words.iter().filter(|word| !word.is_empty()).copied().collect::<Vec<_>>().join(", "))
        }
        Type::Any => "anything".into(),
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Table(_) => "a table".into(),
        Value::Array(_) => "a list".into(),
        value => value.to_string(),
    }
}

/// Reads a duration as Go writes it: numbers with units, the largest first; a bare `0` is allowed. Not negative here.
pub fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let (number, after) = rest.split_at(digits);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        total = total.checked_add(part)?;
        rest = after;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(parts: &[&str]) -> Vec<String> {
        parts.iter().map(|part| (*part).to_owned()).collect()
    }

    #[test]
    fn keys_are_judged_by_the_first_row_that_fits() {
        for (parts, fate) in [
            (&["root"][..], Honoured(Type::Text)),
            (&["grpc"], Fate::Table),
            (&["grpc", "address"], Honoured(Type::Text)),
            (&["grpc", "adress"], Fate::Unknown),
            (&["nothing"], Fate::Unknown),
            (&["plugins"], Fate::Table),
            (&["plugins", "x"], Fate::Table),
            (&["plugins", "x", "y"], Unsupported("there is no such plugin in this daemon, or it has no such option")),
            (&["plugins", "io.containerd.grpc.v1.cri", "cni", "bin_dir"], Unsupported(NO_CRI)),
            (&["timeouts", "io.containerd.timeout.task.state"], Honoured(Type::Duration)),
        ] {
            assert_eq!(judge(&path(parts)), fate, "{parts:?}");
        }
    }

    #[test]
    fn durations_as_go_writes_them() {
        for (text, millis) in [
            ("0", Some(0)),
            ("0s", Some(0)),
            ("1m30s", Some(90_000)),
            ("4h0m0s", Some(14_400_000)),
            ("250ms", Some(250)),
            ("1.5s", Some(1500)),
            ("", None),
            ("5", None),
            ("5x", None),
            ("-1s", None),
            ("s", None),
            ("99999999999999999999h", None),
        ] {
            assert_eq!(duration(text), millis.map(Duration::from_millis), "{text}");
        }
    }
}
