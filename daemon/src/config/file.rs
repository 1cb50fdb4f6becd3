//! Reading configuration files: the main one and what it imports, checked key by key and merged into one document.
//!
//! Merging is containerd's: a value replaces, a list at the top level appends, tables are merged. Files are read once each.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use model::platform::Platform;
use snapshotter::overlay::LayerFormat;
use toml::{Table, Value};

use crate::meta::layers::{Processor, Processors};

use super::schema::{self, Fate};
use crate::proxy;

use super::{Config, Engine, Format, Level, Socket};

/// The most files one configuration may consist of.
const MAX_FILES: usize = 256;

/// The largest configuration file, in bytes.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read configuration file {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not TOML.
    #[error("{} is not valid TOML", file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A key has a value that it cannot have.
    #[error("{}: key {key} must be {reason}", file.display())]
    Value {
        /// The file.
        file: PathBuf,
        /// The key.
        key: String,
        /// What it must be, and what it is.
        reason: String,
    },
    /// The version of a file is not one that is understood.
    #[error("{}: version {version} is not supported, this daemon reads versions up to 4", file.display())]
    Version {
        /// The file.
        file: PathBuf,
        /// Its version.
        version: i64,
    },
    /// An `imports` entry is not a usable pattern.
    #[error("{}: import {pattern:?}: {reason}", file.display())]
    Import {
        /// The file.
        file: PathBuf,
        /// The entry.
        pattern: String,
        /// Why.
        reason: String,
    },
    /// Values that are good alone do not go together.
    #[error("configuration key {key}: {reason}")]
    Combination {
        /// The key.
        key: &'static str,
        /// Why.
        reason: String,
    },
}

/// A key that was read but does nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The file.
    pub file: PathBuf,
    /// The key.
    pub key: String,
    /// Why it does nothing.
    pub reason: &'static str,
}

/// The merged content of all files.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Document {
    table: Table,
    warnings: Vec<Warning>,
}

impl Document {
    /// Reads `file` and everything it imports.
    ///
    /// # Errors
    /// The first thing that is wrong, with its file and key.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let mut document = Self::default();
        document.merge_file(file, &mut BTreeSet::new())?;
        Ok(document)
    }

    /// The keys that do nothing.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// What was in the files.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// What the files say as one file of version 3, the tables of the Kubernetes interface in their new places.
    pub fn migrated(&self) -> String {
        let mut table = self.table.clone();
        table.remove("imports");
        table.insert("version".into(), Value::Integer(3));
        if let Some(Value::Table(plugins)) = table.get_mut("plugins") {
            split_cri(plugins);
        }
        toml::to_string(&table).expect("a table of plain values can be written")
    }

    fn merge_file(&mut self, file: &Path, seen: &mut BTreeSet<PathBuf>) -> Result<(), ConfigError> {
        if !seen.insert(file.to_owned()) {
            return Ok(());
        }
        if seen.len() > MAX_FILES {
            let reason = format!("more than {MAX_FILES} files");
            return Err(ConfigError::Import { file: file.to_owned(), pattern: String::new(), reason });
        }
        let mut table = parse(file)?;
        migrate(file, &mut table)?;
        self.check_keys(file, &mut Vec::new(), &table)?;
        let imports: Vec<String> =
            texts(table.get("imports")).into_iter().filter(|pattern| !pattern.is_empty()).collect();
        merge(&mut self.table, table, true);
        for pattern in imports {
            for import in expand(file, &pattern)? {
                self.merge_file(&import, seen)?;
            }
        }
        Ok(())
    }

    fn check_keys(&mut self, file: &Path, path: &mut Vec<String>, table: &Table) -> Result<(), ConfigError> {
        for (key, value) in table {
            path.push(key.clone());
            match schema::judge(path) {
                Fate::Honoured(wanted) => schema::check(wanted, value).map_err(|reason| ConfigError::Value {
                    file: file.to_owned(),
                    key: dotted(path),
                    reason,
                })?,
                Fate::Table => match value {
                    Value::Table(table) => self.check_keys(file, path, table)?,
                    _ => {
                        let (file, key) = (file.to_owned(), dotted(path));
                        return Err(ConfigError::Value { file, key, reason: "a table".into() });
                    }
                },
                Fate::Unsupported(_) if schema::asks_for_nothing(value) => {}
                Fate::Unsupported(reason) => self.warn(file, path, reason),
                Fate::Unknown => self.warn(file, path, "this key is not known"),
            }
            path.pop();
        }
        Ok(())
    }

    fn warn(&mut self, file: &Path, path: &[String], reason: &'static str) {
        self.warnings.push(Warning { file: file.to_owned(), key: dotted(path), reason });
    }

    /// The value at `path`.
    pub fn value(&self, path: &[&str]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(self.table.get(*first)?, |value, part| value.as_table()?.get(*part))
    }

    /// The text at `path`; an empty one counts as none.
    pub fn text(&self, path: &[&str]) -> Option<&str> {
        self.value(path)?.as_str().filter(|text| !text.is_empty())
    }

    fn count(&self, path: &[&str]) -> Option<u32> {
        self.value(path)?.as_integer().and_then(|number| u32::try_from(number).ok())
    }

    /// Writes what the files say over the defaults. Types were checked when the files were read.
    pub(super) fn fill(&self, config: &mut Config) {
        let set = |to: &mut PathBuf, path: &[&str]| {
            if let Some(text) = self.text(path) {
                *to = text.into();
            }
        };
        set(&mut config.root, &["root"]);
        set(&mut config.state, &["state"]);
        set(&mut config.grpc.socket.address, &["grpc", "address"]);
        set(&mut config.ttrpc.address, &["ttrpc", "address"]);
        set(&mut config.opt_path, &["plugins", "io.containerd.internal.v1.opt", "path"]);
        let set = |to: &mut u32, path: &[&str]| *to = self.count(path).unwrap_or(*to);
        set(&mut config.grpc.socket.uid, &["grpc", "uid"]);
        set(&mut config.grpc.socket.gid, &["grpc", "gid"]);
        set(&mut config.ttrpc.uid, &["ttrpc", "uid"]);
        set(&mut config.ttrpc.gid, &["ttrpc", "gid"]);
        // Zero means the default, as in containerd.
        let set = |to: &mut usize, path: &[&str]| {
            *to = self.count(path).filter(|size| *size > 0).map_or(*to, |size| size as usize);
        };
        set(&mut config.grpc.max_receive_bytes, &["grpc", "max_recv_message_size"]);
        set(&mut config.grpc.max_send_bytes, &["grpc", "max_send_message_size"]);
        self.fill_log(config);
        self.fill_plugins(config);
        if let Some(score) = self.value(&["oom_score"]).and_then(Value::as_integer) {
            config.oom_score = i32::try_from(score).unwrap_or(0);
        }
        config.disabled_plugins.extend(texts(self.table.get("disabled_plugins")));
        config.required_plugins.extend(texts(self.table.get("required_plugins")));
        if self.text(&["metadata", "engine"]) == Some("redb") {
            config.engine = Engine::Redb;
        }
        config.metrics.address = self.text(&["metrics", "address"]).and_then(schema::address);
        let histogram = self.value(&["metrics", "grpc_histogram"]).and_then(Value::as_bool);
        config.metrics.grpc_histogram = histogram.unwrap_or_default();
        config.debug = self.text(&["debug", "address"]).map(|address| Socket {
            address: address.into(),
            uid: self.count(&["debug", "uid"]).unwrap_or_default(),
            gid: self.count(&["debug", "gid"]).unwrap_or_default(),
        });
        for plugin in ["io.containerd.internal.v1.restart", "io.containerd.monitor.container.v1.restart"] {
            let interval = self.text(&["plugins", plugin, "interval"]).and_then(schema::duration);
            if let Some(interval) = interval.filter(|interval| !interval.is_zero()) {
                config.restart_interval = interval;
            }
        }
        config.verify_on_read = self.value(&["content", "verify_on_read"]).and_then(Value::as_bool).unwrap_or_default();
        let journal = |key| self.value(&["journal", key]);
        let whole = |key| journal(key).and_then(Value::as_integer).and_then(|number| u64::try_from(number).ok());
        let keep = &mut config.journal;
        keep.enabled = journal("enabled").and_then(Value::as_bool).unwrap_or(keep.enabled);
        keep.max_age = journal("max_age").and_then(Value::as_str).and_then(schema::duration).unwrap_or(keep.max_age);
        keep.max_events = whole("max_events").unwrap_or(keep.max_events);
        keep.max_bytes = whole("max_bytes").unwrap_or(keep.max_bytes);
        for (name, value) in self.entries(&["timeouts"]) {
            if let Some(limit) = value.as_str().and_then(schema::duration) {
                config.timeouts.insert(name.clone(), limit);
            }
        }
        for (name, value) in self.entries(&["proxy_plugins"]) {
            let word = |key| value.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
            let Some(kind) = word("type").and_then(proxy::Kind::parse) else { continue };
            // Some write the address as a URL.
            let address = word("address").unwrap_or_default();
            let exports = value.get("exports").and_then(Value::as_table).into_iter().flatten();
            let plugin = proxy::Plugin {
                kind,
                address: address.strip_prefix("unix://").unwrap_or(address).into(),
                platform: word("platform").map(platform),
                exports: exports.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect(),
                capabilities: texts(value.get("capabilities")),
            };
            config.proxies.insert(name.clone(), plugin);
        }
        let processor = |(name, value): (&String, &Value)| {
            let word = |key| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            let processor = Processor {
                accepts: texts(value.get("accepts")),
                returns: word("returns"),
                path: word("path").into(),
                args: texts(value.get("args")),
                env: texts(value.get("env")),
            };
            (name.clone(), processor)
        };
        config.processors = Processors::new(self.entries(&["stream_processors"]).map(processor).collect());
        for (name, value) in self.entries(&["runtimes"]) {
            if let Some(path) = value.get("path").and_then(Value::as_str).filter(|path| !path.is_empty()) {
                config.runtimes.insert(name.clone(), path.into());
            }
        }
    }

    fn fill_log(&self, config: &mut Config) {
        if let Some(level) = self.text(&["debug", "level"]).and_then(Level::parse) {
            config.log.level = level;
        }
        if self.text(&["debug", "format"]) == Some("json") {
            config.log.format = Format::Json;
        }
    }

    fn fill_plugins(&self, config: &mut Config) {
        let scheduler = |key| self.value(&["plugins", "io.containerd.gc.v1.scheduler", key]);
        let count = |key| scheduler(key).and_then(Value::as_integer).and_then(|number| u64::try_from(number).ok());
        let duration = |key| scheduler(key).and_then(Value::as_str).and_then(schema::duration);
        let gc = &mut config.gc;
        if let Some(threshold) = scheduler("pause_threshold") {
            gc.pause_threshold = threshold.as_float().or(threshold.as_integer().map(|n| n as f64)).unwrap_or(0.0);
        }
        gc.deletion_threshold = count("deletion_threshold").unwrap_or(gc.deletion_threshold);
        gc.mutation_threshold = count("mutation_threshold").unwrap_or(gc.mutation_threshold);
        gc.schedule_delay = duration("schedule_delay").unwrap_or(gc.schedule_delay);
        gc.startup_delay = duration("startup_delay").unwrap_or(gc.startup_delay);
        // Zero means the default, here too.
        let parallel = |key| self.count(&["plugins", "io.containerd.transfer.v1.local", key]).filter(|n| *n > 0);
        let transfer = &mut config.transfer;
        transfer.downloads = parallel("max_concurrent_downloads").unwrap_or(transfer.downloads);
        transfer.uploads = parallel("max_concurrent_uploaded_layers").unwrap_or(transfer.uploads);
        let overlay = self.text(&["plugins", "io.containerd.snapshotter.v1.overlayfs", "root_path"]);
        config.overlay.root_path = overlay.map(PathBuf::from);
        let options = self.value(&["plugins", "io.containerd.snapshotter.v1.overlayfs", "mount_options"]);
        config.overlay.mount_options = texts(options);
        config.overlay.layer_format =
            match self.text(&["plugins", "io.containerd.snapshotter.v1.overlayfs", "layer_format"]) {
                Some("erofs") => LayerFormat::Erofs,
                Some("dir") => LayerFormat::Dir,
                _ => LayerFormat::Auto,
            };
        let sharing = self.text(&["plugins", "io.containerd.metadata.v1.bolt", "content_sharing_policy"]);
        config.isolated_content = sharing == Some("isolated");
        let sockets = self.text(&["plugins", "io.containerd.shim.v1.manager", "socket_dir"]);
        config.shims.socket_dir = sockets.map(PathBuf::from);
        config.shims.env = texts(self.value(&["plugins", "io.containerd.shim.v1.manager", "env"]));
    }

    fn entries(&self, path: &[&str]) -> impl Iterator<Item = (&String, &Value)> {
        self.value(path).and_then(Value::as_table).into_iter().flatten()
    }
}

fn parse(file: &Path) -> Result<Table, ConfigError> {
    let read = |source| ConfigError::Read { file: file.to_owned(), source };
    let size = std::fs::metadata(file).map_err(read)?.len();
    if size > MAX_FILE_BYTES {
        return Err(read(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has {size} bytes"))));
    }
    let text = std::fs::read_to_string(file).map_err(read)?;
    text.parse().map_err(|source| ConfigError::Syntax { file: file.to_owned(), source: Box::new(source) })
}

/// Brings a file to the form of versions 2 and 3. Versions 0 (none given, or as dockerd writes) and 1 name plugins by their id alone.
fn migrate(file: &Path, table: &mut Table) -> Result<(), ConfigError> {
    let version = match table.get("version") {
        None => 1,
        Some(value) => value.as_integer().unwrap_or(-1),
    };
    match version {
        2 | 3 => return Ok(()),
        4 => {
            take_listeners_out(table);
            return Ok(());
        }
        0 | 1 => {}
        _ => return Err(ConfigError::Version { file: file.to_owned(), version }),
    }
    table.insert("version".into(), Value::Integer(2));
    let whole = |name: &str| schema::whole_name(name).unwrap_or(name).to_owned();
    for list in ["disabled_plugins", "required_plugins"] {
        for name in table.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Value::String(name) = name {
                *name = whole(name);
            }
        }
    }
    if let Some(Value::Table(plugins)) = table.get_mut("plugins") {
        *plugins = std::mem::take(plugins).into_iter().map(|(name, value)| (whole(&name), value)).collect();
    }
    Ok(())
}

/// Before version 3 the Kubernetes interface was one plugin; its keys are those of three now.
fn split_cri(plugins: &mut Table) {
    const OLD: &str = "io.containerd.grpc.v1.cri";
    const OF_STREAMS: [&str; 6] = [
        "disable_tcp_service",
        "stream_server_address",
        "stream_server_port",
        "stream_idle_timeout",
        "enable_tls_streaming",
        "x509_key_pair_streaming",
    ];
    const OF_IMAGES: [&str; 6] = [
        "registry",
        "max_concurrent_downloads",
        "image_pull_progress_timeout",
        "image_pull_with_sync_fs",
        "image_decryption",
        "stats_collect_period",
    ];
    let Some(Value::Table(old)) = plugins.remove(OLD) else { return };
    let (mut own, mut images, mut runtime) = (Table::new(), Table::new(), Table::new());
    for (key, value) in old {
        match (key.as_str(), value) {
            ("sandbox_image", value) => {
                images.insert("pinned_images".into(), Value::Table(Table::from_iter([("sandbox".to_owned(), value)])));
            }
            ("containerd", Value::Table(mut inner)) => {
                for of_images in ["snapshotter", "disable_snapshot_annotations", "discard_unpacked_layers"] {
                    images.extend(inner.remove(of_images).map(|value| (of_images.to_owned(), value)));
                }
                runtime.insert(key, Value::Table(inner));
            }
            (name, value) if OF_STREAMS.contains(&name) => {
                own.insert(key, value);
            }
            (name, value) if OF_IMAGES.contains(&name) => {
                images.insert(key, value);
            }
            (_, value) => {
                runtime.insert(key, value);
            }
        }
    }
    for (name, keys) in [(OLD, own), ("io.containerd.cri.v1.images", images), ("io.containerd.cri.v1.runtime", runtime)]
    {
        if keys.is_empty() {
            continue;
        }
        let table = plugins.entry(name).or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(table) = table {
            // What is said in the new place counts.
            let said = std::mem::replace(table, keys);
            merge(table, said, false);
        }
    }
}

/// Version 4 has a plugin for each socket; here they are tables of the top level, as in the versions before. What a plugin has
/// under another name than such a table stays where it is, and is named as unknown.
fn take_listeners_out(table: &mut Table) {
    table.insert("version".into(), Value::Integer(3));
    let Some(Value::Table(plugins)) = table.get_mut("plugins") else { return };
    let mut taken = Vec::new();
    for (plugin, name) in LISTENERS {
        if let Some(Value::Table(settings)) = plugins.remove(plugin) {
            taken.push((name, settings));
        }
    }
    let tcp = plugins.remove("io.containerd.server.v1.grpc-tcp");
    for (name, settings) in taken {
        let own = table.entry(name).or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(own) = own {
            merge(own, settings, false);
        }
    }
    if let Some(Value::Table(tcp)) = tcp {
        let own = table.entry("grpc").or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(own) = own {
            own.extend(tcp.into_iter().map(|(key, value)| (format!("tcp_{key}"), value)));
        }
    }
}

/// The plugins of version 4 that are sockets, and the tables they are in before.
const LISTENERS: [(&str, &str); 4] = [
    ("io.containerd.server.v1.grpc", "grpc"),
    ("io.containerd.server.v1.ttrpc", "ttrpc"),
    ("io.containerd.server.v1.debug", "debug"),
    ("io.containerd.server.v1.metrics", "metrics"),
];

/// Puts `from` over `into`: values replace, tables merge, lists at the top level append.
fn merge(into: &mut Table, from: Table, top: bool) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new, false),
            (Some(Value::Array(old)), Value::Array(new)) if top => old.extend(new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// The files an `imports` entry means, relative to the folder of the file that has it, in order. A plain name must exist; a
/// pattern may match nothing.
fn expand(file: &Path, pattern: &str) -> Result<Vec<PathBuf>, ConfigError> {
    let refused = |reason: &str| ConfigError::Import {
        file: file.to_owned(),
        pattern: pattern.to_owned(),
        reason: reason.to_owned(),
    };
    let full = file.parent().unwrap_or(Path::new("/")).join(pattern);
    if !pattern.contains(['*', '?', '[']) {
        return Ok(vec![full]);
    }
    let name = full.file_name().and_then(|name| name.to_str()).ok_or_else(|| refused("it has no file name"))?;
    let folder = full.parent().unwrap_or(Path::new("/"));
    if folder.to_string_lossy().contains(['*', '?', '[']) {
        return Err(refused("a pattern is only possible in the last part of the path"));
    }
    if name.contains('[') {
        return Err(refused("only * and ? are possible"));
    }
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(ConfigError::Read { file: folder.to_owned(), source }),
        Ok(entries) => entries,
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_str().is_some_and(|entry| glob(name.as_bytes(), entry.as_bytes())))
        .map(|entry| entry.path())
        .collect();
    files.sort();
    Ok(files)
}

/// Whether `name` is one that a pattern of `*` and `?` means.
fn glob(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern, name) {
        ([b'*', rest @ ..], _) => glob(rest, name) || (!name.is_empty() && glob(pattern, &name[1..])),
        ([b'?', rest @ ..], [_, name @ ..]) => glob(rest, name),
        ([first, rest @ ..], [byte, name @ ..]) => first == byte && glob(rest, name),
        ([], []) => true,
        _ => false,
    }
}

/// A platform as it is written: `os/architecture[/variant]`.
fn platform(text: &str) -> Platform {
    let mut parts = text.splitn(3, '/').map(str::to_owned);
    let (os, architecture) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    Platform { os, architecture, variant: parts.next().unwrap_or_default() }.normalized()
}

fn texts(value: Option<&Value>) -> Vec<String> {
    let list = value.and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// A path as TOML writes it: parts with dots are quoted.
fn dotted(path: &[String]) -> String {
    let plain = |part: &String| part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    path.iter().map(|part| if plain(part) { part.clone() } else { format!("{part:?}") }).collect::<Vec<_>>().join(".")
}
