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
    /// An IP address and a port, or nothing.
    Address,
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

const NO_CRI_KEY: &str = "this key of the Kubernetes runtime interface does nothing in this version";
const NO_REMOTE_LAYERS: &str = "annotations for remote snapshotters are always passed on";
const NO_TCP: &str = "only the unix socket is served";
const ALWAYS_DURABLE: &str = "the store is always durable";
const OVERLAY: &str = "this option of the overlay snapshotter is not supported by this version";

const CRI: &str = "io.containerd.grpc.v1.cri";
const CRI_RUNTIME: &str = "io.containerd.cri.v1.runtime";
const CRI_IMAGES: &str = "io.containerd.cri.v1.images";
const NRI: &str = "io.containerd.nri.v1.nri";
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
    (&["debug", "address"], Honoured(Type::Text)),
    (&["debug", "uid"], Honoured(Type::Count)),
    (&["debug", "gid"], Honoured(Type::Count)),
    (&["metrics", "address"], Honoured(Type::Address)),
    (&["metrics", "grpc_histogram"], Honoured(Type::Flag)),
    (&["plugins", "io.containerd.monitor.container.v1.restart", "interval"], Honoured(Type::Duration)),
    (&["plugins", "io.containerd.internal.v1.restart", "interval"], Honoured(Type::Duration)),
    (&["timeouts", "*"], Honoured(Type::Duration)),
    (&["metadata", "engine"], Honoured(Type::OneOf(&["sled", "redb"]))),
    (&["content", "verify_on_read"], Honoured(Type::Flag)),
    (
        &["content", "fs_verity"],
        Unsupported("blobs are not sealed by fs-verity; content.verify_on_read compares them with their digests"),
    ),
    (&["journal", "enabled"], Honoured(Type::Flag)),
    (&["journal", "max_age"], Honoured(Type::Duration)),
    (&["journal", "max_events"], Honoured(Type::Count)),
    (&["journal", "max_bytes"], Honoured(Type::Count)),
    (&["runtimes", "*", "path"], Honoured(Type::Text)),
    (&["proxy_plugins", "*", "type"], Honoured(Type::OneOf(&["snapshot", "content", "diff", "sandbox"]))),
    (&["proxy_plugins", "*", "address"], Honoured(Type::Text)),
    (&["proxy_plugins", "*", "platform"], Honoured(Type::Text)),
    (&["proxy_plugins", "*", "exports", "*"], Honoured(Type::Text)),
    (&["proxy_plugins", "*", "capabilities"], Honoured(Type::Texts)),
    (&["stream_processors", "*", "accepts"], Honoured(Type::Texts)),
    (&["stream_processors", "*", "returns"], Honoured(Type::Text)),
    (&["stream_processors", "*", "path"], Honoured(Type::Text)),
    (&["stream_processors", "*", "args"], Honoured(Type::Texts)),
    (&["stream_processors", "*", "env"], Honoured(Type::Texts)),
    (&["plugins", SCHEDULER, "pause_threshold"], Honoured(Type::Number)),
    (&["plugins", SCHEDULER, "deletion_threshold"], Honoured(Type::Count)),
    (&["plugins", SCHEDULER, "mutation_threshold"], Honoured(Type::Count)),
    (&["plugins", SCHEDULER, "schedule_delay"], Honoured(Type::Duration)),
    (&["plugins", SCHEDULER, "startup_delay"], Honoured(Type::Duration)),
    (&["plugins", SNAPSHOTTER, "root_path"], Honoured(Type::Text)),
    (&["plugins", SNAPSHOTTER, "upperdir_label"], Unsupported(OVERLAY)),
    (&["plugins", SNAPSHOTTER, "sync_remove"], Unsupported("removal is always complete when it is answered")),
    (&["plugins", SNAPSHOTTER, "slow_chown"], Unsupported(OVERLAY)),
    (&["plugins", SNAPSHOTTER, "layer_format"], Honoured(Type::OneOf(&["", "auto", "erofs", "dir"]))),
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
    (&["plugins", TRANSFER, "concurrent_layer_fetch_buffer"], Honoured(Type::Count)),
    (&["plugins", TRANSFER, "config_path"], Honoured(Type::Text)),
    (
        &["plugins", TRANSFER, "max_concurrent_unpacks"],
        Unsupported("as many layers are unpacked at a time as there are processors"),
    ),
    (&["plugins", TRANSFER, "check_platform_supported"], Unsupported("what is unpacked is what the request asks for")),
    (&["plugins", TRANSFER, "unpack_config"], Unsupported("what is unpacked is what the request asks for")),
    (&["plugins", "io.containerd.image-verifier.v1.bindir", "bin_dir"], Honoured(Type::Text)),
    (&["plugins", "io.containerd.image-verifier.v1.bindir", "max_verifiers"], Honoured(Type::Integer)),
    (&["plugins", "io.containerd.image-verifier.v1.bindir", "per_verifier_timeout"], Honoured(Type::Duration)),
    (&["images", "silence"], Honoured(Type::Duration)),
    (&["images", "parallel_chunks"], Honoured(Type::Count)),
    (&["plugins", "io.containerd.service.v1.diff-service", "default"], Unsupported("there is one differ, walking")),
    (&["plugins", "io.containerd.runtime.v2.task", "platforms"], Unsupported("it runs what this machine runs")),
    (&["plugins", CRI_RUNTIME, "enable_selinux"], Honoured(Type::Flag)),
    (&["plugins", CRI_RUNTIME, "selinux_category_range"], Honoured(Type::Count)),
    (&["plugins", CRI_RUNTIME, "max_container_log_line_size"], Honoured(Type::Integer)),
    (&["plugins", CRI_RUNTIME, "disable_apparmor"], Honoured(Type::Flag)),
    (&["plugins", CRI_RUNTIME, "restrict_oom_score_adj"], Honoured(Type::Flag)),
    (&["plugins", CRI_RUNTIME, "disable_proc_mount"], Honoured(Type::Flag)),
    (&["plugins", CRI_RUNTIME, "unset_seccomp_profile"], Honoured(Type::Text)),
    (&["plugins", CRI_RUNTIME, "tolerate_missing_hugetlb_controller"], Honoured(Type::Flag)),
    (&["plugins", CRI_RUNTIME, "disable_hugetlb_controller"], Honoured(Type::Flag)),
    (&["plugins", CRI_RUNTIME, "device_ownership_from_security_context"], Honoured(Type::Flag)),
    (&["plugins", CRI_RUNTIME, "ignore_image_defined_volumes"], Honoured(Type::Flag)),
    (&["plugins", CRI_RUNTIME, "netns_mounts_under_state_dir"], Honoured(Type::Flag)),
    (&["plugins", CRI_RUNTIME, "enable_unprivileged_ports"], Honoured(Type::Flag)),
    (&["plugins", CRI_RUNTIME, "enable_unprivileged_icmp"], Honoured(Type::Flag)),
    (&["plugins", CRI_RUNTIME, "enable_cdi"], Honoured(Type::Flag)),
    (&["plugins", CRI_RUNTIME, "cdi_spec_dirs"], Honoured(Type::Texts)),
    (&["plugins", CRI_RUNTIME, "drain_exec_sync_io_timeout"], Honoured(Type::Duration)),
    (&["plugins", CRI_RUNTIME, "stats_retention_period"], Honoured(Type::Duration)),
    (&["plugins", CRI_RUNTIME, "enable_criu"], Honoured(Type::Flag)),
    (&["plugins", CRI_RUNTIME, "containerd", "default_runtime_name"], Honoured(Type::Text)),
    (&["plugins", CRI_RUNTIME, "containerd", "ignore_blockio_not_enabled_errors"], Honoured(Type::Flag)),
    (&["plugins", CRI_RUNTIME, "containerd", "ignore_rdt_not_enabled_errors"], Honoured(Type::Flag)),
    (&["plugins", CRI_RUNTIME, "cni", "bin_dir"], Honoured(Type::Text)),
    (&["plugins", CRI_RUNTIME, "cni", "bin_dirs"], Honoured(Type::Texts)),
    (&["plugins", CRI_RUNTIME, "cni", "conf_dir"], Honoured(Type::Text)),
    (&["plugins", CRI_RUNTIME, "cni", "max_conf_num"], Honoured(Type::Count)),
    (&["plugins", CRI_RUNTIME, "cni", "setup_serially"], Honoured(Type::Flag)),
    (&["plugins", CRI_RUNTIME, "cni", "conf_template"], Honoured(Type::Text)),
    (&["plugins", CRI_RUNTIME, "cni", "ip_pref"], Honoured(Type::OneOf(&["", "ipv4", "ipv6", "cni"]))),
    (&["plugins", CRI_RUNTIME, "cni", "use_internal_loopback"], Honoured(Type::Flag)),
    (&["plugins", CRI_RUNTIME, "containerd", "runtimes", "*", "runtime_type"], Honoured(Type::Text)),
    (&["plugins", CRI_RUNTIME, "containerd", "runtimes", "*", "runtime_path"], Honoured(Type::Text)),
    (&["plugins", CRI_RUNTIME, "containerd", "runtimes", "*", "runtime_engine"], Honoured(Type::Text)),
    (&["plugins", CRI_RUNTIME, "containerd", "runtimes", "*", "runtime_root"], Honoured(Type::Text)),
    (&["plugins", CRI_RUNTIME, "containerd", "runtimes", "*", "pod_annotations"], Honoured(Type::Texts)),
    (&["plugins", CRI_RUNTIME, "containerd", "runtimes", "*", "container_annotations"], Honoured(Type::Texts)),
    (&["plugins", CRI_RUNTIME, "containerd", "runtimes", "*", "privileged_without_host_devices"], Honoured(Type::Flag)),
    (
        &["plugins", CRI_RUNTIME, "containerd", "runtimes", "*", "privileged_without_host_devices_all_devices_allowed"],
        Honoured(Type::Flag),
    ),
    (&["plugins", CRI_RUNTIME, "containerd", "runtimes", "*", "cgroup_writable"], Honoured(Type::Flag)),
    (&["plugins", CRI_RUNTIME, "containerd", "runtimes", "*", "base_runtime_spec"], Honoured(Type::Text)),
    (&["plugins", CRI_RUNTIME, "containerd", "runtimes", "*", "cni_conf_dir"], Honoured(Type::Text)),
    (&["plugins", CRI_RUNTIME, "containerd", "runtimes", "*", "cni_max_conf_num"], Honoured(Type::Count)),
    (&["plugins", CRI_RUNTIME, "containerd", "runtimes", "*", "snapshotter"], Honoured(Type::Text)),
    (&["plugins", CRI_RUNTIME, "containerd", "runtimes", "*", "sandboxer"], Honoured(Type::OneOf(&["", "podsandbox"]))),
    (&["plugins", CRI_RUNTIME, "containerd", "runtimes", "*", "io_type"], Honoured(Type::OneOf(&["", "fifo"]))),
    (&["plugins", CRI_RUNTIME, "containerd", "runtimes", "*", "options", "**"], Honoured(Type::Any)),
    (&["plugins", CRI_RUNTIME, "ignore_deprecation_warnings"], Unsupported("there are no such warnings")),
    (
        &["plugins", CRI_RUNTIME, "containerd", "runtimes", "*", "disable_pause_image_pull"],
        Unsupported("the image is pulled only if it is configured"),
    ),
    (&["plugins", CRI, "enable_selinux"], Honoured(Type::Flag)),
    (&["plugins", CRI, "selinux_category_range"], Honoured(Type::Count)),
    (&["plugins", CRI, "max_container_log_line_size"], Honoured(Type::Integer)),
    (&["plugins", CRI, "disable_apparmor"], Honoured(Type::Flag)),
    (&["plugins", CRI, "restrict_oom_score_adj"], Honoured(Type::Flag)),
    (&["plugins", CRI, "disable_proc_mount"], Honoured(Type::Flag)),
    (&["plugins", CRI, "unset_seccomp_profile"], Honoured(Type::Text)),
    (&["plugins", CRI, "tolerate_missing_hugetlb_controller"], Honoured(Type::Flag)),
    (&["plugins", CRI, "disable_hugetlb_controller"], Honoured(Type::Flag)),
    (&["plugins", CRI, "device_ownership_from_security_context"], Honoured(Type::Flag)),
    (&["plugins", CRI, "ignore_image_defined_volumes"], Honoured(Type::Flag)),
    (&["plugins", CRI, "netns_mounts_under_state_dir"], Honoured(Type::Flag)),
    (&["plugins", CRI, "enable_unprivileged_ports"], Honoured(Type::Flag)),
    (&["plugins", CRI, "enable_unprivileged_icmp"], Honoured(Type::Flag)),
    (&["plugins", CRI, "enable_cdi"], Honoured(Type::Flag)),
    (&["plugins", CRI, "cdi_spec_dirs"], Honoured(Type::Texts)),
    (&["plugins", CRI, "drain_exec_sync_io_timeout"], Honoured(Type::Duration)),
    (&["plugins", CRI, "stats_retention_period"], Honoured(Type::Duration)),
    (&["plugins", CRI, "enable_criu"], Honoured(Type::Flag)),
    (&["plugins", CRI, "containerd", "default_runtime_name"], Honoured(Type::Text)),
    (&["plugins", CRI, "containerd", "ignore_blockio_not_enabled_errors"], Honoured(Type::Flag)),
    (&["plugins", CRI, "containerd", "ignore_rdt_not_enabled_errors"], Honoured(Type::Flag)),
    (&["plugins", CRI, "cni", "bin_dir"], Honoured(Type::Text)),
    (&["plugins", CRI, "cni", "bin_dirs"], Honoured(Type::Texts)),
    (&["plugins", CRI, "cni", "conf_dir"], Honoured(Type::Text)),
    (&["plugins", CRI, "cni", "max_conf_num"], Honoured(Type::Count)),
    (&["plugins", CRI, "cni", "setup_serially"], Honoured(Type::Flag)),
    (&["plugins", CRI, "cni", "conf_template"], Honoured(Type::Text)),
    (&["plugins", CRI, "cni", "ip_pref"], Honoured(Type::OneOf(&["", "ipv4", "ipv6", "cni"]))),
    (&["plugins", CRI, "cni", "use_internal_loopback"], Honoured(Type::Flag)),
    (&["plugins", CRI, "containerd", "runtimes", "*", "runtime_type"], Honoured(Type::Text)),
    (&["plugins", CRI, "containerd", "runtimes", "*", "runtime_path"], Honoured(Type::Text)),
    (&["plugins", CRI, "containerd", "runtimes", "*", "runtime_engine"], Honoured(Type::Text)),
    (&["plugins", CRI, "containerd", "runtimes", "*", "runtime_root"], Honoured(Type::Text)),
    (&["plugins", CRI, "containerd", "runtimes", "*", "pod_annotations"], Honoured(Type::Texts)),
    (&["plugins", CRI, "containerd", "runtimes", "*", "container_annotations"], Honoured(Type::Texts)),
    (&["plugins", CRI, "containerd", "runtimes", "*", "privileged_without_host_devices"], Honoured(Type::Flag)),
    (
        &["plugins", CRI, "containerd", "runtimes", "*", "privileged_without_host_devices_all_devices_allowed"],
        Honoured(Type::Flag),
    ),
    (&["plugins", CRI, "containerd", "runtimes", "*", "cgroup_writable"], Honoured(Type::Flag)),
    (&["plugins", CRI, "containerd", "runtimes", "*", "base_runtime_spec"], Honoured(Type::Text)),
    (&["plugins", CRI, "containerd", "runtimes", "*", "cni_conf_dir"], Honoured(Type::Text)),
    (&["plugins", CRI, "containerd", "runtimes", "*", "cni_max_conf_num"], Honoured(Type::Count)),
    (&["plugins", CRI, "containerd", "runtimes", "*", "snapshotter"], Honoured(Type::Text)),
    (&["plugins", CRI, "containerd", "runtimes", "*", "sandboxer"], Honoured(Type::OneOf(&["", "podsandbox"]))),
    (&["plugins", CRI, "containerd", "runtimes", "*", "io_type"], Honoured(Type::OneOf(&["", "fifo"]))),
    (&["plugins", CRI, "containerd", "runtimes", "*", "options", "**"], Honoured(Type::Any)),
    (&["plugins", CRI, "ignore_deprecation_warnings"], Unsupported("there are no such warnings")),
    (
        &["plugins", CRI, "containerd", "runtimes", "*", "disable_pause_image_pull"],
        Unsupported("the image is pulled only if it is configured"),
    ),
    (&["plugins", CRI_RUNTIME, "stats_collect_period"], Honoured(Type::Duration)),
    (&["plugins", CRI, "stats_collect_period"], Unsupported("figures are sampled once a second")),
    (&["plugins", CRI, "stream_server_address"], Honoured(Type::Text)),
    (&["plugins", CRI, "stream_server_port"], Honoured(Type::Text)),
    (&["plugins", CRI, "stream_idle_timeout"], Honoured(Type::Duration)),
    (&["plugins", CRI, "enable_tls_streaming"], Honoured(Type::Flag)),
    (&["plugins", CRI, "x509_key_pair_streaming", "tls_cert_file"], Honoured(Type::Text)),
    (&["plugins", CRI, "x509_key_pair_streaming", "tls_key_file"], Honoured(Type::Text)),
    (&["plugins", CRI, "disable_tcp_service"], Unsupported(NO_TCP)),
    (&["plugins", CRI, "sandbox_image"], Honoured(Type::Text)),
    (&["plugins", CRI, "containerd", "snapshotter"], Honoured(Type::Text)),
    (&["plugins", CRI, "image_pull_progress_timeout"], Honoured(Type::Duration)),
    (&["plugins", CRI_IMAGES, "snapshotter"], Honoured(Type::Text)),
    (&["plugins", CRI_IMAGES, "pinned_images", "sandbox"], Honoured(Type::Text)),
    (&["plugins", CRI_IMAGES, "image_pull_progress_timeout"], Honoured(Type::Duration)),
    (&["plugins", CRI_IMAGES, "stats_collect_period"], Unsupported("the use of disk is asked for when it is needed")),
    (&["plugins", CRI_IMAGES, "registry", "config_path"], Honoured(Type::Text)),
    (&["plugins", CRI_IMAGES, "registry", "headers", "*"], Honoured(Type::Texts)),
    (&["plugins", CRI_IMAGES, "registry", "mirrors", "*", "endpoint"], Honoured(Type::Texts)),
    (&["plugins", CRI_IMAGES, "registry", "configs", "**"], Honoured(Type::Any)),
    (&["plugins", CRI_IMAGES, "registry", "auths", "**"], Honoured(Type::Any)),
    (
        &["plugins", CRI_IMAGES, "max_concurrent_downloads"],
        Unsupported("it is max_concurrent_downloads of io.containerd.transfer.v1.local"),
    ),
    (&["plugins", CRI, "registry", "config_path"], Honoured(Type::Text)),
    (&["plugins", CRI, "registry", "headers", "*"], Honoured(Type::Texts)),
    (&["plugins", CRI, "registry", "mirrors", "*", "endpoint"], Honoured(Type::Texts)),
    (&["plugins", CRI, "registry", "configs", "**"], Honoured(Type::Any)),
    (&["plugins", CRI, "registry", "auths", "**"], Honoured(Type::Any)),
    (
        &["plugins", CRI, "max_concurrent_downloads"],
        Unsupported("it is max_concurrent_downloads of io.containerd.transfer.v1.local"),
    ),
    (&["plugins", CRI_IMAGES, "disable_snapshot_annotations"], Unsupported(NO_REMOTE_LAYERS)),
    (&["plugins", CRI, "containerd", "disable_snapshot_annotations"], Unsupported(NO_REMOTE_LAYERS)),
    (&["plugins", CRI_IMAGES, "use_local_image_pull"], Unsupported("there is one way to pull")),
    (&["plugins", CRI_IMAGES, "**"], Unsupported(NO_CRI_KEY)),
    (&["plugins", CRI_RUNTIME, "**"], Unsupported(NO_CRI_KEY)),
    (&["plugins", CRI, "**"], Unsupported(NO_CRI_KEY)),
    (&["plugins", NRI, "disable"], Honoured(Type::Flag)),
    (&["plugins", NRI, "disable_connections"], Honoured(Type::Flag)),
    (&["plugins", NRI, "plugin_config_path"], Honoured(Type::Text)),
    (&["plugins", NRI, "plugin_path"], Honoured(Type::Text)),
    (&["plugins", NRI, "plugin_registration_timeout"], Honoured(Type::Duration)),
    (&["plugins", NRI, "plugin_request_timeout"], Honoured(Type::Duration)),
    (&["plugins", NRI, "socket_path"], Honoured(Type::Text)),
    (&["plugins", NRI, "default_validator", "**"], Honoured(Type::Any)),
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

/// What becomes of the key at `path`: what the first row says that fits it, or leads on from it.
pub fn judge(path: &[String]) -> Fate {
    let says = |(row, fate): &Row| {
        let leads = row.len() > path.len() && fits(&row[..path.len()], path);
        if leads { Some(Fate::Table) } else { fits(row, path).then_some(*fate) }
    };
    ROWS.iter().find_map(says).unwrap_or(Fate::Unknown)
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
        Type::Address => text.is_some_and(|text| text.is_empty() || address(text).is_some()),
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
        Type::Address => "an IP address and a port like 127.0.0.1:1338".into(),
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

/// Reads an address as Go writes it: without a host it is any.
pub fn address(text: &str) -> Option<std::net::SocketAddr> {
    match text.strip_prefix(':') {
        Some(port) => Some((std::net::Ipv4Addr::UNSPECIFIED, port.parse().ok()?).into()),
        None => text.replacen("localhost:", "127.0.0.1:", 1).parse().ok(),
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
            (&["plugins", "io.containerd.grpc.v1.cri", "cni", "bin_dir"], Honoured(Type::Text)),
            (&["plugins", "io.containerd.grpc.v1.cri", "cni"], Fate::Table),
            (&["plugins", "io.containerd.grpc.v1.cri", "cni", "bin"], Unsupported(NO_CRI_KEY)),
            (&["plugins", CRI, "containerd", "runtimes", "mine", "options"], Fate::Table),
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
