//! The configuration as a file: what `config default` and `config dump` print.

use snapshotter::overlay::LayerFormat;
use toml::{Table, Value};

use super::{Config, Engine, Format, Socket};

impl Config {
    /// The configuration as TOML of version 2: what the files said, with every honoured key in its effective form.
    pub fn to_toml(&self) -> String {
        let mut table = self.document.table().clone();
        table.remove("imports");
        set(&mut table, &["version"], Value::Integer(version(&self.document)));
        set(&mut table, &["root"], text(&self.root.display()));
        set(&mut table, &["state"], text(&self.state.display()));
        set(&mut table, &["oom_score"], Value::Integer(self.oom_score.into()));
        set(&mut table, &["disabled_plugins"], texts(&self.disabled_plugins));
        set(&mut table, &["required_plugins"], texts(&self.required_plugins));
        set_socket(&mut table, "grpc", &self.grpc.socket);
        set(&mut table, &["grpc", "max_recv_message_size"], count(self.grpc.max_receive_bytes as u64));
        set(&mut table, &["grpc", "max_send_message_size"], count(self.grpc.max_send_bytes as u64));
        set_socket(&mut table, "ttrpc", &self.ttrpc);
        set(&mut table, &["debug", "level"], text(&self.log.level.name()));
        let format = if self.log.format == Format::Json { "json" } else { "text" };
        set(&mut table, &["debug", "format"], text(&format));
        let metrics = self.metrics.address.map(|address| address.to_string()).unwrap_or_default();
        set(&mut table, &["metrics", "address"], text(&metrics));
        set(&mut table, &["metrics", "grpc_histogram"], Value::Boolean(self.metrics.grpc_histogram));
        let debug = self.debug.as_ref().map(|socket| socket.address.display().to_string()).unwrap_or_default();
        set(&mut table, &["debug", "address"], text(&debug));
        let restart = "io.containerd.monitor.container.v1.restart";
        set(&mut table, &["plugins", restart, "interval"], text(&go_duration(self.restart_interval)));
        let engine = if self.engine == Engine::Redb { "redb" } else { "sled" };
        set(&mut table, &["metadata", "engine"], text(&engine));
        set(&mut table, &["content", "verify_on_read"], Value::Boolean(self.verify_on_read));
        set(&mut table, &["journal", "enabled"], Value::Boolean(self.journal.enabled));
        set(&mut table, &["journal", "max_age"], text(&go_duration(self.journal.max_age)));
        set(&mut table, &["journal", "max_events"], count(self.journal.max_events));
        set(&mut table, &["journal", "max_bytes"], count(self.journal.max_bytes));
        for (name, limit) in &self.timeouts {
            set(&mut table, &["timeouts", name], text(&go_duration(*limit)));
        }
        for (name, path) in &self.runtimes {
            set(&mut table, &["runtimes", name, "path"], text(&path.display()));
        }
        self.show_plugins(&mut table);
        toml::to_string(&table).expect("a table of plain values can be written")
    }

    fn show_plugins(&self, table: &mut Table) {
        let gc = "io.containerd.gc.v1.scheduler";
        set(table, &["plugins", gc, "pause_threshold"], Value::Float(self.gc.pause_threshold));
        set(table, &["plugins", gc, "deletion_threshold"], count(self.gc.deletion_threshold));
        set(table, &["plugins", gc, "mutation_threshold"], count(self.gc.mutation_threshold));
        set(table, &["plugins", gc, "schedule_delay"], text(&go_duration(self.gc.schedule_delay)));
        set(table, &["plugins", gc, "startup_delay"], text(&go_duration(self.gc.startup_delay)));
        let transfer = "io.containerd.transfer.v1.local";
        set(table, &["plugins", transfer, "max_concurrent_downloads"], count(self.transfer.downloads.into()));
        set(table, &["plugins", transfer, "max_concurrent_uploaded_layers"], count(self.transfer.uploads.into()));
        let root = self.overlay.root_path.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        set(table, &["plugins", "io.containerd.snapshotter.v1.overlayfs", "root_path"], text(&root));
        let options = texts(&self.overlay.mount_options);
        set(table, &["plugins", "io.containerd.snapshotter.v1.overlayfs", "mount_options"], options);
        let format = match self.overlay.layer_format {
            LayerFormat::Auto => "auto",
            LayerFormat::Erofs => "erofs",
            LayerFormat::Dir => "dir",
        };
        set(table, &["plugins", "io.containerd.snapshotter.v1.overlayfs", "layer_format"], text(&format));
        let sharing = if self.isolated_content { "isolated" } else { "shared" };
        set(table, &["plugins", "io.containerd.metadata.v1.bolt", "content_sharing_policy"], text(&sharing));
        set(table, &["plugins", "io.containerd.shim.v1.manager", "env"], texts(&self.shims.env));
        let sockets = self.shims.socket_dir.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        set(table, &["plugins", "io.containerd.shim.v1.manager", "socket_dir"], text(&sockets));
        set(table, &["plugins", "io.containerd.internal.v1.opt", "path"], text(&self.opt_path.display()));
    }
}

fn version(document: &super::Document) -> i64 {
    document.value(&["version"]).and_then(Value::as_integer).unwrap_or(2)
}

fn set_socket(table: &mut Table, name: &str, socket: &Socket) {
    set(table, &[name, "address"], text(&socket.address.display()));
    set(table, &[name, "uid"], Value::Integer(socket.uid.into()));
    set(table, &[name, "gid"], Value::Integer(socket.gid.into()));
}

/// Sets the value at `path`, making tables on the way.
fn set(table: &mut Table, path: &[&str], value: Value) {
    match path {
        [] => {}
        [key] => {
            table.insert((*key).to_owned(), value);
        }
        [key, rest @ ..] => {
            let inner = table.entry(*key).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                set(inner, rest, value);
            }
        }
    }
}

fn text(value: &impl ToString) -> Value {
    Value::String(value.to_string())
}

fn texts<'a>(values: impl IntoIterator<Item = &'a String>) -> Value {
    Value::Array(values.into_iter().map(text).collect())
}

fn count(number: u64) -> Value {
    Value::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}

/// A duration as Go writes it.
fn go_duration(duration: std::time::Duration) -> String {
    let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
    if seconds == 0 && nanos > 0 {
        return if nanos % 1_000_000 == 0 { format!("{}ms", nanos / 1_000_000) } else { format!("{nanos}ns") };
    }
    let fraction = if nanos == 0 { String::new() } else { format!("{nanos:09}").trim_end_matches('0').to_owned() };
    let dot = if fraction.is_empty() { "" } else { "." };
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}{dot}{fraction}s"),
        (0, m, s) => format!("{m}m{s}{dot}{fraction}s"),
        (h, m, s) => format!("{h}h{m}m{s}{dot}{fraction}s"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn durations_are_written_so_that_they_are_read_again() {
        for millis in [0, 100, 1000, 1500, 60_000, 90_000, 14_400_000] {
            let duration = Duration::from_millis(millis);
            assert_eq!(crate::config::schema::duration(&go_duration(duration)), Some(duration), "{millis}");
        }
        assert_eq!(go_duration(Duration::from_secs(14_400)), "4h0m0s");
        assert_eq!(go_duration(Duration::ZERO), "0s");
    }
}
