//! What the CRI is told of the configuration: containerd's keys, wherever its versions have put them.
//!
//! In files of version 2 all keys are below the plugin `io.containerd.grpc.v1.cri`; since version 3 they are below
//! `io.containerd.cri.v1.runtime` and `io.containerd.cri.v1.images`, and only streaming has stayed. Both are read, the newer place
//! first. Types were checked when the file was read.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use proto::runc::v1::Options;
use toml::{Table, Value};

use crate::config::{Config, Document, schema};

/// Where files of version 2 have everything.
const OLD: &str = "io.containerd.grpc.v1.cri";
/// Where later ones have what is about containers.
const RUNTIME: &str = "io.containerd.cri.v1.runtime";
/// Where later ones have what is about images.
const IMAGES: &str = "io.containerd.cri.v1.images";
/// Where NRI is.
const NRI: &str = "io.containerd.nri.v1.nri";

/// The handler that is meant where none is named, unless configured.
const DEFAULT_HANDLER: &str = "runc";

/// All of it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The daemon's root folder.
    pub root: PathBuf,
    /// The daemon's state folder.
    pub state: PathBuf,
    /// The daemon's socket.
    pub address: PathBuf,
    /// The snapshotter for handlers that have none of their own.
    pub snapshotter: String,
    /// The image of pods' first processes, if one is configured; else it is made here.
    pub sandbox_image: Option<String>,
    /// The handler that is meant where none is named.
    pub default_handler: String,
    /// Runtime handlers by name; the default one is always among them.
    pub handlers: BTreeMap<String, Handler>,
    /// Networks.
    pub cni: Cni,
    /// Streaming.
    pub stream: Stream,
    /// NRI.
    pub nri: Nri,
    /// The longest line of a log in bytes; 0 for no bound.
    pub max_log_line: u64,
    /// Whether SELinux labels are set.
    pub selinux: bool,
    /// From how many categories SELinux labels are drawn.
    pub selinux_categories: u32,
    /// Whether AppArmor is left alone.
    pub disable_apparmor: bool,
    /// Whether OOM scores below the daemon's own are raised to it.
    pub restrict_oom_score_adj: bool,
    /// Whether nothing of /proc is masked.
    pub disable_proc_mount: bool,
    /// The seccomp profile of containers that ask for none: empty, `runtime/default`, `unconfined` or `localhost/` and a path.
    pub unset_seccomp_profile: String,
    /// Whether limits for huge pages are ignored where they cannot be set.
    pub tolerate_missing_hugetlb: bool,
    /// Whether limits for huge pages are never set.
    pub disable_hugetlb: bool,
    /// Whether devices belong to the user of the container.
    pub device_ownership: bool,
    /// Whether volumes that images declare are ignored.
    pub ignore_image_volumes: bool,
    /// Whether network namespaces are below the state folder.
    pub netns_under_state: bool,
    /// Whether ports below 1024 are for everybody in pods with their own network.
    pub unprivileged_ports: bool,
    /// Whether everybody may ping in such pods.
    pub unprivileged_icmp: bool,
    /// Whether devices can be asked for by their CDI names.
    pub cdi: bool,
    /// Where specifications of CDI devices are.
    pub cdi_dirs: Vec<PathBuf>,
    /// How long output of an ended command is waited for; zero is for ever.
    pub drain_exec: Duration,
    /// How often figures are sampled.
    pub stats_period: Duration,
    /// How long samples are kept.
    pub stats_retention: Duration,
    /// How long a pull may make no progress; zero is for ever.
    pub pull_progress: Duration,
    /// Whether blockio classes are ignored where they cannot be set.
    pub ignore_blockio: bool,
    /// Whether RDT classes are ignored where they cannot be set.
    pub ignore_rdt: bool,
    /// Whether checkpoints may be made.
    pub criu: bool,
}

/// A runtime handler.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Handler {
    /// The runtime's name, for one `io.containerd.runc.v2`.
    pub runtime_type: String,
    /// The binary of its shim, if not the usual one.
    pub runtime_path: String,
    /// Options for shims that run OCI runtimes.
    pub options: Options,
    /// The type of other options, and the file they are in.
    pub other_options: Option<(String, String)>,
    /// Annotations of pods that the runtime gets to see, as globs.
    pub pod_annotations: Vec<String>,
    /// Annotations of containers that the runtime gets to see, as globs.
    pub container_annotations: Vec<String>,
    /// Whether privileged containers get no devices of the host.
    pub privileged_without_host_devices: bool,
    /// Whether those may use all devices all the same.
    pub privileged_without_host_devices_all_devices_allowed: bool,
    /// Whether containers may write to their cgroup.
    pub cgroup_writable: bool,
    /// A file with the specification that all others start from.
    pub base_runtime_spec: String,
    /// Where its networks are configured, if not in the usual place.
    pub cni_conf_dir: Option<PathBuf>,
    /// How many of them are used, if not the usual number.
    pub cni_max_conf_num: Option<usize>,
    /// Its snapshotter, if not the usual one.
    pub snapshotter: Option<String>,
    /// Whether pods have no first process of their own: `shim`, else `podsandbox`.
    pub sandboxer: String,
}

/// Networks of pods.
#[derive(Debug, Clone, PartialEq)]
pub struct Cni {
    /// Where plugins are.
    pub bin_dirs: Vec<PathBuf>,
    /// Where networks are configured.
    pub conf_dir: PathBuf,
    /// How many of them are used, in the order of their file names; 0 for all.
    pub max_conf_num: usize,
    /// Whether they are set up one after the other.
    pub serially: bool,
    /// A template from which a configuration is written when the cluster says the node's pod network.
    pub conf_template: Option<PathBuf>,
    /// Which address of a pod comes first: `ipv4`, `ipv6`, or `cni` for the order of the plugins.
    pub ip_pref: String,
}

/// The streaming server.
#[derive(Debug, Clone, PartialEq)]
pub struct Stream {
    /// Its address.
    pub address: String,
    /// Its port; 0 for any.
    pub port: u16,
    /// How long a session may be silent.
    pub idle: Duration,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Its certificate; empty for one that it makes.
    pub cert_file: String,
    /// The key of the certificate.
    pub key_file: String,
}

/// NRI.
#[derive(Debug, Clone, PartialEq)]
pub struct Nri {
    /// Whether there is none.
    pub disable: bool,
    /// Whether plugins cannot connect by themselves.
    pub disable_connections: bool,
    /// Where plugins connect.
    pub socket_path: PathBuf,
    /// Plugins that are started.
    pub plugin_path: PathBuf,
    /// Configurations of these plugins.
    pub plugin_config_path: PathBuf,
    /// How long a plugin may take to register.
    pub registration_timeout: Duration,
    /// How long a plugin may take to answer.
    pub request_timeout: Duration,
    /// Rules for what plugins may adjust, as they are configured.
    pub validator: Table,
}

/// Looks keys up in both places.
struct Keys<'a>(&'a Document);

impl<'a> Keys<'a> {
    fn value(&self, newer: &str, path: &[&str]) -> Option<&'a Value> {
        let at = |plugin: &str| {
            let whole: Vec<&str> = ["plugins", plugin].iter().chain(path).copied().collect();
            self.0.value(&whole)
        };
        at(newer).or_else(|| at(OLD))
    }

    fn text(&self, newer: &str, path: &[&str]) -> Option<String> {
        self.value(newer, path)?.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
    }

    fn flag(&self, path: &[&str], default: bool) -> bool {
        self.value(RUNTIME, path).and_then(Value::as_bool).unwrap_or(default)
    }

    fn duration(&self, newer: &str, path: &[&str], default: Duration) -> Duration {
        self.value(newer, path).and_then(Value::as_str).and_then(schema::duration).unwrap_or(default)
    }

    fn count(&self, newer: &str, path: &[&str], default: usize) -> usize {
        let number = self.value(newer, path).and_then(Value::as_integer);
        number.and_then(|number| usize::try_from(number).ok()).unwrap_or(default)
    }

    fn paths(&self, newer: &str, path: &[&str]) -> Vec<PathBuf> {
        texts(self.value(newer, path)).into_iter().map(PathBuf::from).collect()
    }
}

impl Settings {
    /// What the configuration says.
    pub fn of(config: &Config) -> Self {
        let keys = Keys(&config.document);
        let seconds = Duration::from_secs;
        let mut default_handler = keys.text(RUNTIME, &["containerd", "default_runtime_name"]);
        let default_handler = default_handler.take().unwrap_or_else(|| DEFAULT_HANDLER.to_owned());
        let line = keys.value(RUNTIME, &["max_container_log_line_size"]).and_then(Value::as_integer).unwrap_or(16384);
        let dirs = |found: Vec<PathBuf>, usual: &[&str]| {
            if found.is_empty() { usual.iter().map(PathBuf::from).collect() } else { found }
        };
        let mut bin_dirs = keys.paths(RUNTIME, &["cni", "bin_dirs"]);
        bin_dirs.extend(keys.text(RUNTIME, &["cni", "bin_dir"]).map(PathBuf::from).filter(|_| bin_dirs.is_empty()));
        let snapshotter =
            keys.text(IMAGES, &["snapshotter"]).or_else(|| keys.text(OLD, &["containerd", "snapshotter"]));
        let sandbox_image =
            keys.text(IMAGES, &["pinned_images", "sandbox"]).or_else(|| keys.text(OLD, &["sandbox_image"]));
        Self {
            root: config.root.clone(),
            state: config.state.clone(),
            address: config.grpc.socket.address.clone(),
            snapshotter: snapshotter.unwrap_or_else(|| "overlayfs".to_owned()),
            sandbox_image,
            handlers: handlers(&keys, &default_handler),
            default_handler,
            cni: Cni {
                bin_dirs: dirs(bin_dirs, &["/opt/cni/bin", "/usr/lib/cni"]),
                conf_dir: keys.text(RUNTIME, &["cni", "conf_dir"]).unwrap_or_else(|| "/etc/cni/net.d".into()).into(),
                max_conf_num: keys.count(RUNTIME, &["cni", "max_conf_num"], 1),
                serially: keys.flag(&["cni", "setup_serially"], false),
                conf_template: keys.text(RUNTIME, &["cni", "conf_template"]).map(PathBuf::from),
                ip_pref: keys.text(RUNTIME, &["cni", "ip_pref"]).unwrap_or_else(|| "ipv4".into()),
            },
            stream: stream(&keys),
            nri: nri(&config.document),
            max_log_line: u64::try_from(line).unwrap_or(0),
            selinux: keys.flag(&["enable_selinux"], false),
            selinux_categories: u32::try_from(keys.count(RUNTIME, &["selinux_category_range"], 1024)).unwrap_or(1024),
            disable_apparmor: keys.flag(&["disable_apparmor"], false),
            restrict_oom_score_adj: keys.flag(&["restrict_oom_score_adj"], false),
            disable_proc_mount: keys.flag(&["disable_proc_mount"], false),
            unset_seccomp_profile: keys.text(RUNTIME, &["unset_seccomp_profile"]).unwrap_or_default(),
            tolerate_missing_hugetlb: keys.flag(&["tolerate_missing_hugetlb_controller"], true),
            disable_hugetlb: keys.flag(&["disable_hugetlb_controller"], true),
            device_ownership: keys.flag(&["device_ownership_from_security_context"], false),
            ignore_image_volumes: keys.flag(&["ignore_image_defined_volumes"], false),
            netns_under_state: keys.flag(&["netns_mounts_under_state_dir"], false),
            unprivileged_ports: keys.flag(&["enable_unprivileged_ports"], true),
            unprivileged_icmp: keys.flag(&["enable_unprivileged_icmp"], true),
            cdi: keys.flag(&["enable_cdi"], true),
            cdi_dirs: dirs(keys.paths(RUNTIME, &["cdi_spec_dirs"]), &["/etc/cdi", "/var/run/cdi"]),
            drain_exec: keys.duration(RUNTIME, &["drain_exec_sync_io_timeout"], Duration::ZERO),
            stats_period: keys.duration(RUNTIME, &["stats_collect_period"], seconds(1)),
            stats_retention: keys.duration(RUNTIME, &["stats_retention_period"], seconds(120)),
            pull_progress: keys.duration(IMAGES, &["image_pull_progress_timeout"], seconds(300)),
            ignore_blockio: keys.flag(&["containerd", "ignore_blockio_not_enabled_errors"], false)
                || keys.flag(&["ignore_blockio_not_enabled_errors"], false),
            ignore_rdt: keys.flag(&["containerd", "ignore_rdt_not_enabled_errors"], false)
                || keys.flag(&["ignore_rdt_not_enabled_errors"], false),
            criu: keys.flag(&["enable_criu"], true),
        }
    }

    /// A handler by its name; the empty one is the default.
    pub fn handler(&self, name: &str) -> Option<&Handler> {
        self.handlers.get(if name.is_empty() { self.default_handler.as_str() } else { name })
    }

    /// The snapshotter of a handler.
    pub fn snapshotter_of(&self, handler: &str) -> &str {
        let own = self.handler(handler).and_then(|handler| handler.snapshotter.as_deref());
        own.filter(|name| !name.is_empty()).unwrap_or(&self.snapshotter)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::of(&Config::default())
    }
}

fn stream(keys: &Keys<'_>) -> Stream {
    let text = |path: &[&str]| keys.text(OLD, path);
    let port = keys.value(OLD, &["stream_server_port"]);
    let port = port.and_then(|port| port.as_str().map_or(port.as_integer(), |text| text.parse().ok()));
    Stream {
        address: text(&["stream_server_address"]).unwrap_or_else(|| "127.0.0.1".into()),
        port: port.and_then(|port| u16::try_from(port).ok()).unwrap_or(0),
        idle: keys.duration(OLD, &["stream_idle_timeout"], Duration::from_secs(4 * 60 * 60)),
        tls: keys.value(OLD, &["enable_tls_streaming"]).and_then(Value::as_bool).unwrap_or(false),
        cert_file: text(&["x509_key_pair_streaming", "tls_cert_file"]).unwrap_or_default(),
        key_file: text(&["x509_key_pair_streaming", "tls_key_file"]).unwrap_or_default(),
    }
}

fn nri(document: &Document) -> Nri {
    let value = |key: &str| document.value(&["plugins", NRI, key]);
    let flag = |key: &str| value(key).and_then(Value::as_bool).unwrap_or(false);
    let path = |key: &str, usual: &str| {
        value(key).and_then(Value::as_str).filter(|text| !text.is_empty()).unwrap_or(usual).into()
    };
    let time = |key: &str, usual| {
        let found = value(key).and_then(Value::as_str).and_then(schema::duration);
        found.filter(|time| !time.is_zero()).unwrap_or(Duration::from_secs(usual))
    };
    Nri {
        disable: flag("disable"),
        disable_connections: flag("disable_connections"),
        socket_path: path("socket_path", "/var/run/nri/nri.sock"),
        plugin_path: path("plugin_path", "/opt/nri/plugins"),
        plugin_config_path: path("plugin_config_path", "/etc/nri/conf.d"),
        registration_timeout: time("plugin_registration_timeout", 5),
        request_timeout: time("plugin_request_timeout", 2),
        validator: value("default_validator").and_then(Value::as_table).cloned().unwrap_or_default(),
    }
}

/// Handlers that are there without being configured, if what they need is: name, runtime, the binary that makes it useful.
const USUAL: [(&str, &str, &str); 6] = [
    ("crun", "io.containerd.runc.v2", "crun"),
    ("youki", "io.containerd.runc.v2", "youki"),
    ("kata", "io.containerd.kata.v2", "containerd-shim-kata-v2"),
    ("runsc", "io.containerd.runsc.v1", "containerd-shim-runsc-v1"),
    ("wasmtime", "io.containerd.wasmtime.v1", "containerd-shim-wasmtime-v1"),
    ("wasmedge", "io.containerd.wasmedge.v1", "containerd-shim-wasmedge-v1"),
];

fn handlers(keys: &Keys<'_>, default: &str) -> BTreeMap<String, Handler> {
    let configured = keys.value(RUNTIME, &["containerd", "runtimes"]).and_then(Value::as_table);
    let mut all: BTreeMap<String, Handler> = configured
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name.clone(), handler(value.as_table()?))))
        .collect();
    let runc = || Handler { runtime_type: "io.containerd.runc.v2".into(), ..Handler::default() };
    all.entry(DEFAULT_HANDLER.to_owned()).or_insert_with(runc);
    for (name, runtime_type, binary) in USUAL {
        if !all.contains_key(name) && is_installed(binary) {
            let mut options = Options::default();
            if runtime_type == "io.containerd.runc.v2" {
                options.binary_name = binary.to_owned();
            }
            all.insert(name.to_owned(), Handler { runtime_type: runtime_type.into(), options, ..Handler::default() });
        }
    }
    if !all.contains_key(default) {
        tracing::warn!(handler = default, "the default runtime handler is not configured: it is taken for runc");
        all.insert(default.to_owned(), runc());
    }
    all
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.is_absolute() && folder.join(program).is_file())
}

fn handler(table: &Table) -> Handler {
    let text = |key: &str| table.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let flag = |key: &str| table.get(key).and_then(Value::as_bool).unwrap_or(false);
    let optional = |key: &str| Some(text(key)).filter(|text| !text.is_empty());
    let options = table.get("options").and_then(Value::as_table);
    let option = |key: &str| options.and_then(|options| options.get(key));
    let option_text = |key: &str| option(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let option_flag = |key: &str| option(key).and_then(Value::as_bool).unwrap_or(false);
    let number = |key: &str| option(key).and_then(Value::as_integer).and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    let runtime_type = optional("runtime_type").unwrap_or_else(|| "io.containerd.runc.v2".into());
    // In version 1 the binary was named beside the options.
    let binary_name = match option_text("BinaryName") {
        name if name.is_empty() => text("runtime_engine"),
        name => name,
    };
    let root = if option_text("Root").is_empty() { text("runtime_root") } else { option_text("Root") };
    Handler {
        runtime_path: text("runtime_path"),
        options: Options {
            binary_name,
            root,
            systemd_cgroup: option_flag("SystemdCgroup"),
            no_new_keyring: option_flag("NoNewKeyring"),
            no_pivot_root: option_flag("NoPivotRoot"),
            shim_cgroup: option_text("ShimCgroup"),
            io_uid: number("IoUid"),
            io_gid: number("IoGid"),
            criu_image_path: option_text("CriuImagePath"),
            criu_work_path: option_text("CriuWorkPath"),
            ..Options::default()
        },
        other_options: (!option_text("TypeUrl").is_empty() || !option_text("ConfigPath").is_empty())
            .then(|| (option_text("TypeUrl"), option_text("ConfigPath"))),
        pod_annotations: texts(table.get("pod_annotations")),
        container_annotations: texts(table.get("container_annotations")),
        privileged_without_host_devices: flag("privileged_without_host_devices"),
        privileged_without_host_devices_all_devices_allowed: flag(
            "privileged_without_host_devices_all_devices_allowed",
        ),
        cgroup_writable: flag("cgroup_writable"),
        base_runtime_spec: text("base_runtime_spec"),
        cni_conf_dir: optional("cni_conf_dir").map(PathBuf::from),
        cni_max_conf_num: table
            .get("cni_max_conf_num")
            .and_then(Value::as_integer)
            .and_then(|n| usize::try_from(n).ok()),
        snapshotter: optional("snapshotter"),
        sandboxer: text("sandboxer"),
        runtime_type,
    }
}

fn texts(value: Option<&Value>) -> Vec<String> {
    let list = value.and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;

    fn settings(text: &str) -> Settings {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.toml");
        std::fs::write(&file, text).unwrap();
        let document = Document::load(&file).unwrap();
        assert_eq!(document.warnings(), []);
        Settings::of(&Config::build(document, &Overrides::default()).unwrap())
    }

    #[test]
    fn both_layouts_say_the_same() {
        let old = settings(
            r#"
            version = 2
            [plugins."io.containerd.grpc.v1.cri"]
            sandbox_image = "a/pause:1"
            max_container_log_line_size = -1
            stream_server_port = "1234"
            [plugins."io.containerd.grpc.v1.cri".containerd]
            snapshotter = "native"
            default_runtime_name = "mine"
            [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.mine]
            runtime_type = "io.containerd.runc.v2"
            [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.mine.options]
            SystemdCgroup = true
            BinaryName = "/usr/bin/crun"
            [plugins."io.containerd.grpc.v1.cri".cni]
            bin_dir = "/b"
            conf_dir = "/c"
            "#,
        );
        let new = settings(
            r#"
            version = 3
            [plugins."io.containerd.grpc.v1.cri"]
            stream_server_port = "1234"
            [plugins."io.containerd.cri.v1.images"]
            snapshotter = "native"
            [plugins."io.containerd.cri.v1.images".pinned_images]
            sandbox = "a/pause:1"
            [plugins."io.containerd.cri.v1.runtime"]
            max_container_log_line_size = -1
            [plugins."io.containerd.cri.v1.runtime".containerd]
            default_runtime_name = "mine"
            [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.mine]
            runtime_type = "io.containerd.runc.v2"
            [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.mine.options]
            SystemdCgroup = true
            BinaryName = "/usr/bin/crun"
            [plugins."io.containerd.cri.v1.runtime".cni]
            bin_dirs = ["/b"]
            conf_dir = "/c"
            "#,
        );
        assert_eq!(format!("{old:?}"), format!("{new:?}"));
        let mine = old.handler("").unwrap();
        assert!(mine.options.systemd_cgroup && mine.options.binary_name == "/usr/bin/crun", "{mine:?}");
        assert_eq!((old.snapshotter.as_str(), old.sandbox_image.as_deref()), ("native", Some("a/pause:1")));
        assert_eq!((old.max_log_line, old.stream.port), (0, 1234));
        assert_eq!((old.cni.bin_dirs, old.cni.conf_dir), (vec![PathBuf::from("/b")], "/c".into()));
    }

    #[test]
    fn without_configuration_there_is_runc() {
        let settings = Settings::default();
        assert_eq!(settings.handler(""), settings.handler("runc"));
        assert!(settings.handler("nothing").is_none());
        assert_eq!(settings.snapshotter_of("runc"), "overlayfs");
        assert_eq!(settings.max_log_line, 16384);
    }
}
