//! What the daemon is told to be: containerd's configuration file in versions up to 4, and the flags that override it.
//!
//! [`mod@file`] reads and merges files, [`schema`] knows every key and says which are honoured; here is what comes out: one value
//! with types, never changed after the start. A key that is not honoured is named in a warning, a wrong value is an error that
//! names file, key and reason.

pub mod file;
pub mod schema;
mod show;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use snapshotter::overlay::LayerFormat;

use crate::meta::layers::Processors;

pub use file::{ConfigError, Document, Warning};

/// The longest path of a socket that every client can dial, in bytes.
pub const MAX_SOCKET_PATH_BYTES: usize = 104;

/// The longest path of the folder of the shims' sockets, in bytes: a socket's name there has 64, and its path at most 106.
pub const MAX_SHIM_SOCKET_DIR_BYTES: usize = 41;

/// Where the sockets of shims are when the state folder has too long a path for them. Their names differ from daemon to daemon.
const SHORT_SHIM_SOCKET_DIR: &str = "/run/gantry/s";

/// The largest message in either direction unless configured, in bytes; Go clients have the same bound.
pub const DEFAULT_MESSAGE_BYTES: usize = 16 << 20;

/// The configuration in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where everything durable is.
    pub root: PathBuf,
    /// Where everything is that dies with the machine: bundles, sockets.
    pub state: PathBuf,
    /// The gRPC socket.
    pub grpc: Grpc,
    /// The socket that shims call.
    pub ttrpc: Socket,
    /// The log.
    pub log: Log,
    /// What the kernel adds to the daemon's badness when memory is short; 0 leaves it alone.
    pub oom_score: i32,
    /// Plugins that must not run, by `type.id`.
    pub disabled_plugins: BTreeSet<String>,
    /// Plugins without which the daemon must not start, by `type.id`.
    pub required_plugins: BTreeSet<String>,
    /// Named deadlines.
    pub timeouts: BTreeMap<String, Duration>,
    /// The engine of the metadata store.
    pub engine: Engine,
    /// Figures for Prometheus.
    pub metrics: Metrics,
    /// The socket for a person who wants to know more, if there is to be one.
    pub debug: Option<Socket>,
    /// How often the restart monitor looks after containers.
    pub restart_interval: Duration,
    /// Plugins that are processes of their own, by name.
    pub proxies: BTreeMap<String, crate::proxy::Plugin>,
    /// The journal of events.
    pub journal: crate::journal::Settings,
    /// Which shim binary a runtime name means, where it is not the usual one.
    pub runtimes: BTreeMap<String, PathBuf>,
    /// Whether a namespace must send content that another one has.
    pub isolated_content: bool,
    /// Whether blobs are compared with their digests before they are read.
    pub verify_on_read: bool,
    /// Garbage collection.
    pub gc: Gc,
    /// Moving images.
    pub transfer: Transfer,
    /// The snapshotter `overlayfs`.
    pub overlay: Overlay,
    /// Programs that make layers readable.
    pub processors: Processors,
    /// How shims are started.
    pub shims: Shims,
    /// Where clients install optional software.
    pub opt_path: PathBuf,
    /// Everything that was in the files, for showing.
    pub document: Document,
}

/// A unix socket and who owns it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// Its path.
    pub address: PathBuf,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// The gRPC socket and its bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grpc {
    /// Where it is.
    pub socket: Socket,
    /// The largest message that is read, in bytes.
    pub max_receive_bytes: usize,
    /// The largest message that is sent, in bytes.
    pub max_send_bytes: usize,
}

/// Figures for Prometheus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Metrics {
    /// Where they are served; nowhere if there is no address.
    pub address: Option<std::net::SocketAddr>,
    /// Whether they say how long requests took.
    pub grpc_histogram: bool,
}

/// How the daemon logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// The least important level that is written.
    pub level: Level,
    /// The form of a line.
    pub format: Format,
}

/// A log level by containerd's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Everything.
    Trace,
    /// Steps.
    Debug,
    /// Changes of state.
    Info,
    /// Odd but handled.
    Warn,
    /// A person must act. `fatal` and `panic` mean this too.
    Error,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

/// The engine of the metadata store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// sled.
    Sled,
    /// redb.
    Redb,
}

/// When garbage is collected; containerd's scheduler keys.
#[derive(Debug, Clone, PartialEq)]
pub struct Gc {
    /// The part of the time that collection may take.
    pub pause_threshold: f64,
    /// Deletions that start a collection at once; 0 for none.
    pub deletion_threshold: u64,
    /// Changes after which the next tick collects.
    pub mutation_threshold: u64,
    /// How long after its cause a collection starts.
    pub schedule_delay: Duration,
    /// How long after the start the first collection is.
    pub startup_delay: Duration,
}

/// Moving images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    /// Blobs that one pull fetches at a time; not 0.
    pub downloads: u32,
    /// Blobs that one push sends at a time; not 0.
    pub uploads: u32,
}

/// The snapshotter `overlayfs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// Its folder, where it is not below the daemon's root.
    pub root_path: Option<PathBuf>,
    /// More options for each overlay mount.
    pub mount_options: Vec<String>,
    /// How the layers of images are kept.
    pub layer_format: LayerFormat,
}

impl Default for Overlay {
    fn default() -> Self {
        Self { root_path: None, mount_options: Vec::new(), layer_format: LayerFormat::Auto }
    }
}

/// How shims are started.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shims {
    /// More environment, as `KEY=value`.
    pub env: Vec<String>,
    /// Where their sockets are, if not in the usual place ([`Config::shim_socket_dir`]).
    pub socket_dir: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        let grpc = PathBuf::from("/run/gantry/gantry.sock");
        Self {
            root: "/var/lib/gantry".into(),
            state: "/run/gantry".into(),
            ttrpc: Socket { address: ttrpc_beside(&grpc), uid: 0, gid: 0 },
            grpc: Grpc {
                socket: Socket { address: grpc, uid: 0, gid: 0 },
                max_receive_bytes: DEFAULT_MESSAGE_BYTES,
                max_send_bytes: DEFAULT_MESSAGE_BYTES,
            },
            log: Log { level: Level::Info, format: Format::Text },
            oom_score: 0,
            disabled_plugins: BTreeSet::new(),
            required_plugins: BTreeSet::new(),
            timeouts: default_timeouts(),
            engine: Engine::Sled,
            metrics: Metrics::default(),
            debug: None,
            restart_interval: Duration::from_secs(10),
            proxies: BTreeMap::new(),
            journal: crate::journal::Settings::default(),
            runtimes: BTreeMap::new(),
            isolated_content: false,
            verify_on_read: false,
            gc: Gc {
                pause_threshold: 0.02,
                deletion_threshold: 0,
                mutation_threshold: 100,
                schedule_delay: Duration::ZERO,
                startup_delay: Duration::from_millis(100),
            },
            transfer: Transfer { downloads: 3, uploads: 3 },
            overlay: Overlay::default(),
            processors: Processors::default(),
            shims: Shims::default(),
            opt_path: "/opt/containerd".into(),
            document: Document::default(),
        }
    }
}

/// The names of the deadlines, and containerd's values.
fn default_timeouts() -> BTreeMap<String, Duration> {
    [
        ("io.containerd.timeout.bolt.open", 0),
        ("io.containerd.timeout.metrics.shimstats", 2),
        ("io.containerd.timeout.shim.cleanup", 5),
        ("io.containerd.timeout.shim.load", 5),
        ("io.containerd.timeout.shim.shutdown", 3),
        ("io.containerd.timeout.task.state", 2),
    ]
    .map(|(name, seconds)| (name.to_owned(), Duration::from_secs(seconds)))
    .into()
}

/// The path of the ttrpc socket that goes with a gRPC socket.
fn ttrpc_beside(grpc: &Path) -> PathBuf {
    let mut path = grpc.as_os_str().to_owned();
    path.push(".ttrpc");
    path.into()
}

/// What flags say; it counts more than the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// The gRPC socket.
    pub address: Option<PathBuf>,
    /// Where everything durable is.
    pub root: Option<PathBuf>,
    /// Where the state of this boot is.
    pub state: Option<PathBuf>,
    /// The log level.
    pub level: Option<Level>,
}

impl Config {
    /// The configuration that a document and flags make. What neither says has its default; the ttrpc socket is beside the
    /// gRPC socket unless it has a place of its own.
    ///
    /// # Errors
    /// The parts do not go together: no absolute path, a socket path too long for clients.
    pub fn build(document: Document, flags: &Overrides) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        document.fill(&mut config);
        if let Some(address) = &flags.address {
            config.grpc.socket.address = address.clone();
        }
        if let Some(root) = &flags.root {
            config.root = root.clone();
        }
        if let Some(state) = &flags.state {
            config.state = state.clone();
        }
        if let Some(level) = flags.level {
            config.log.level = level;
        }
        if document.text(&["ttrpc", "address"]).is_none() {
            let owner = &config.grpc.socket;
            config.ttrpc = Socket { address: ttrpc_beside(&owner.address), uid: owner.uid, gid: owner.gid };
        }
        config.document = document;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let paths = [
            ("root", &self.root),
            ("state", &self.state),
            ("grpc.address", &self.grpc.socket.address),
            ("ttrpc.address", &self.ttrpc.address),
        ];
        for (key, path) in paths {
            if !path.is_absolute() {
                let reason = format!("{} is not an absolute path", path.display());
                return Err(ConfigError::Combination { key, reason });
            }
        }
        if self.root == self.state {
            let reason = format!("root and state must not be the same folder ({})", self.root.display());
            return Err(ConfigError::Combination { key: "root", reason });
        }
        for (key, path) in &paths[2..] {
            let length = path.as_os_str().len();
            if length > MAX_SOCKET_PATH_BYTES {
                let path = path.display();
                let reason = format!("path {path} has {length} bytes, a socket's at most {MAX_SOCKET_PATH_BYTES}");
                return Err(ConfigError::Combination { key, reason });
            }
        }
        let length = self.shim_socket_dir().as_os_str().len();
        if length > MAX_SHIM_SOCKET_DIR_BYTES {
            let path = self.shim_socket_dir();
            let reason =
                format!("path {} has {length} bytes, at most {MAX_SHIM_SOCKET_DIR_BYTES} are possible", path.display());
            return Err(ConfigError::Combination { key: "socket_dir", reason });
        }
        for (name, proxy) in &self.proxies {
            if !proxy.address.is_absolute() {
                let reason = format!("plugin {name} needs the path of its socket, not {:?}", proxy.address);
                return Err(ConfigError::Combination { key: "proxy_plugins", reason });
            }
        }
        if !(0.0..=0.5).contains(&self.gc.pause_threshold) {
            let reason = format!("{} is not between 0 and 0.5", self.gc.pause_threshold);
            return Err(ConfigError::Combination { key: "pause_threshold", reason });
        }
        Ok(())
    }

    /// The folder of the shims' sockets: as configured, else in the state folder if that leaves room for their names.
    pub fn shim_socket_dir(&self) -> PathBuf {
        self.shims.socket_dir.clone().unwrap_or_else(|| {
            let usual = self.state.join("s");
            if usual.as_os_str().len() > MAX_SHIM_SOCKET_DIR_BYTES { SHORT_SHIM_SOCKET_DIR.into() } else { usual }
        })
    }

    /// Whether `type.id` is switched off.
    pub fn is_disabled(&self, kind: &str, id: &str) -> bool {
        self.disabled_plugins.contains(&format!("{kind}.{id}"))
    }

    /// A named deadline; zero stands for none.
    pub fn timeout(&self, name: &str) -> Option<Duration> {
        self.timeouts.get(name).copied().filter(|limit| !limit.is_zero())
    }

    /// The log filter: the level for our own code, and nothing below `info` of libraries unless everything is asked for.
    pub fn log_filter(&self) -> &'static str {
        match self.log.level {
            Level::Trace => "trace",
            Level::Debug => "info,daemon=debug,gantryd=debug,store=debug,snapshotter=debug,proto=debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        }
    }
}

impl Level {
    /// Reads a level by containerd's names.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "trace" => Self::Trace,
            "debug" => Self::Debug,
            "info" => Self::Info,
            "warn" | "warning" => Self::Warn,
            "error" | "fatal" | "panic" => Self::Error,
            _ => return None,
        })
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

#[cfg(test)]
mod tests;
