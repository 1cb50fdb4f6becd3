//! The runtime specification of a container, from an image's configuration and what the user asked for.
//!
//! The defaults are the ones containerd's clients use: fourteen capabilities, the usual mounts, masked and read-only paths, a
//! namespace of every kind, no devices but the standard ones. Nothing of the caller's environment goes in.

use model::capabilities;
use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use crate::ClientError;
use crate::image::ProcessConfig;
use crate::user::User;

/// The `type_url` of a spec on the wire (containerd's contract).
pub const SPEC_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

/// The `type_url` of the process of an exec.
pub const PROCESS_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

/// The microseconds in which `cpus` is counted.
const CPU_PERIOD: u64 = 100_000;

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A folder of the host inside the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// The path on the host, absolute.
    pub source: String,
    /// The path in the container, absolute.
    pub target: String,
    /// Whether writing is refused.
    pub read_only: bool,
}

/// What a user asks of a new container's process and surroundings.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// The command, replacing the image's; empty keeps it.
    pub args: Vec<String>,
    /// `NAME=value` lines that win over the image's; a bare `NAME` is refused.
    pub env: Vec<String>,
    /// The working directory; `None` keeps the image's.
    pub cwd: Option<String>,
    /// A terminal instead of pipes.
    pub terminal: bool,
    /// Folders of the host.
    pub binds: Vec<Bind>,
    /// The host's network instead of one of its own.
    pub host_network: bool,
    /// Whether the root filesystem is read-only.
    pub read_only: bool,
    /// The memory limit in bytes.
    pub memory_limit: Option<i64>,
    /// How many processors it may use, by time.
    pub cpus: Option<f64>,
    /// The most processes.
    pub pids_limit: Option<i64>,
    /// The name it sees as its own.
    pub hostname: Option<String>,
    /// Whether gaining privileges by exec is refused.
    pub no_new_privileges: bool,
}

/// Makes the spec of container `id` in `namespace`.
///
/// # Errors
/// When there is no command, a variable has no value, or a number makes no sense.
pub fn build(
    namespace: &str,
    id: &str,
    image: &ProcessConfig,
    user: &User,
    wanted: &Wanted,
) -> Result<Spec, ClientError> {
    let mut namespaces =
        vec![json!({"type": "pid"}), json!({"type": "ipc"}), json!({"type": "uts"}), json!({"type": "mount"})];
    if !wanted.host_network {
        namespaces.push(json!({"type": "network"}));
    }
    if std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        namespaces.push(json!({"type": "cgroup"}));
    }
    let spec = json!({
        "ociVersion": "1.1.0",
        "process": process(image, user, wanted)?,
        "root": {"path": "rootfs", "readonly": wanted.read_only},
        "hostname": wanted.hostname.clone().unwrap_or_else(|| id.to_owned()),
        "mounts": mounts(wanted),
        "linux": {
            "resources": resources(wanted)?,
            "cgroupsPath": format!("/{namespace}/{id}"),
            "namespaces": namespaces,
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/sys/devices/virtual/powercap", "/proc/scsi",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    });
    serde_json::from_value(spec)
        .map_err(|source| ClientError::Document { what: "the specification just made".into(), source })
}

/// The process of an exec: the container's own, with another command and what else was asked for.
///
/// # Errors
/// When the spec has no process, or as [`build`].
pub fn exec(spec: &Spec, wanted: &Wanted, user: Option<&User>) -> Result<Value, ClientError> {
    let process = spec.process().as_ref().ok_or(ClientError::Incomplete("process in the container's specification"))?;
    let mut value = serde_json::to_value(process)
        .map_err(|source| ClientError::Document { what: "the container's process".into(), source })?;
    let inherited: Vec<String> = process.env().clone().unwrap_or_default();
    value["args"] = json!(wanted.args);
    value["terminal"] = json!(wanted.terminal);
    value["env"] = json!(environment(&inherited, wanted)?);
    if let Some(cwd) = &wanted.cwd {
        value["cwd"] = json!(cwd);
    }
    if let Some(user) = user {
        value["user"] = json!({"uid": user.uid, "gid": user.gid, "additionalGids": user.additional_gids});
    }
    if wanted.args.is_empty() {
        return Err(ClientError::Invalid("no command was given".into()));
    }
    Ok(value)
}

fn process(image: &ProcessConfig, user: &User, wanted: &Wanted) -> Result<Value, ClientError> {
    let rest = if wanted.args.is_empty() { &image.cmd } else { &wanted.args };
    let args: Vec<&String> = image.entrypoint.iter().chain(rest).collect();
    if args.is_empty() {
        return Err(ClientError::Invalid("no command was given, and the image has none".into()));
    }
    let cwd =
        wanted.cwd.as_deref().or((!image.working_dir.is_empty()).then_some(image.working_dir.as_str())).unwrap_or("/");
    if !cwd.starts_with('/') {
        return Err(ClientError::Invalid(format!("the working directory {cwd:?} is not absolute")));
    }
    let mut inherited = vec![PATH.to_owned()];
    inherited.extend(image.env.iter().cloned());
    if wanted.terminal {
        inherited.push("TERM=xterm".to_owned());
    }
    Ok(json!({
        "terminal": wanted.terminal,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": user.additional_gids},
        "args": args,
        "env": environment(&inherited, wanted)?,
        "cwd": cwd,
        "capabilities": {"bounding": capabilities::DEFAULT, "effective": capabilities::DEFAULT, "permitted": capabilities::DEFAULT},
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
        "noNewPrivileges": wanted.no_new_privileges,
    }))
}

/// The variables, each name once, the last value wins.
fn environment(inherited: &[String], wanted: &Wanted) -> Result<Vec<String>, ClientError> {
    let mut lines: Vec<String> = Vec::new();
    for line in inherited.iter().chain(&wanted.env) {
        let name = line.split_once('=').map(|(name, _)| name).filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| ClientError::Invalid(format!("{line:?} is not NAME=value")))?;
        lines.retain(|known| known.split_once('=').is_none_or(|(other, _)| other != name));
        lines.push(line.clone());
    }
    Ok(lines)
}

fn mounts(wanted: &Wanted) -> Vec<Value> {
    let mount = |target: &str, kind: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": kind, "options": options});
    let mut mounts = vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]}),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount("/run", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
    ];
    if wanted.host_network {
        for file in ["/etc/hosts", "/etc/resolv.conf"].into_iter().filter(|file| std::path::Path::new(file).exists()) {
            mounts.push(json!({"destination": file, "type": "bind", "source": file, "options": ["rbind", "ro"]}));
        }
    }
    for bind in &wanted.binds {
        let mode = if bind.read_only { "ro" } else { "rw" };
        mounts.push(
            json!({"destination": bind.target, "type": "bind", "source": bind.source, "options": ["rbind", mode]}),
        );
    }
    mounts
}

fn resources(wanted: &Wanted) -> Result<Value, ClientError> {
    let mut resources = json!({"devices": [{"allow": false, "access": "rwm"}]});
    if let Some(limit) = wanted.memory_limit {
        if limit <= 0 {
            return Err(ClientError::Invalid(format!("a memory limit of {limit} bytes makes no sense")));
        }
        resources["memory"] = json!({"limit": limit});
    }
    if let Some(cpus) = wanted.cpus {
        if !cpus.is_finite() || cpus < 0.01 {
            return Err(ClientError::Invalid(format!("{cpus} processors make no sense: 0.01 is the least")));
        }
        #[expect(clippy::cast_possible_truncation, reason = "checked: finite and positive; a float cast saturates")]
        let quota = (cpus * CPU_PERIOD as f64) as i64;
        resources["cpu"] = json!({"quota": quota, "period": CPU_PERIOD});
    }
    if let Some(limit) = wanted.pids_limit {
        resources["pids"] = json!({"limit": limit});
    }
    Ok(resources)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> ProcessConfig {
        ProcessConfig {
            env: vec!["A=1".into(), "B=2".into()],
            entrypoint: vec!["/e".into()],
            cmd: vec!["c".into()],
            ..Default::default()
        }
    }

    fn made(wanted: &Wanted) -> Result<Value, ClientError> {
        build("ns", "id", &image(), &User::default(), wanted).map(|spec| serde_json::to_value(spec).unwrap())
    }

    #[test]
    fn the_image_and_the_user_are_merged() {
        let wanted = Wanted { args: vec!["x".into()], env: vec!["B=3".into(), "C=4".into()], ..Default::default() };
        let spec = made(&wanted).unwrap();
        assert_eq!(spec["process"]["args"], json!(["/e", "x"]));
        assert_eq!(spec["process"]["env"], json!([PATH, "A=1", "B=3", "C=4"]));
        assert_eq!(spec["process"]["cwd"], "/");
        assert_eq!(spec["linux"]["cgroupsPath"], "/ns/id");
        let capabilities = &spec["process"]["capabilities"];
        for empty in ["inheritable", "ambient"] {
            assert!(capabilities[empty].as_array().is_none_or(Vec::is_empty), "{empty}");
        }
    }

    #[test]
    fn limits_are_in_the_kernels_units() {
        let wanted = Wanted { memory_limit: Some(1 << 20), cpus: Some(1.5), ..Default::default() };
        let resources = &made(&wanted).unwrap()["linux"]["resources"];
        assert_eq!(
            (resources["memory"]["limit"].as_i64(), resources["cpu"]["quota"].as_i64()),
            (Some(1 << 20), Some(150_000))
        );
    }

    #[test]
    fn senseless_wishes_are_refused() {
        for wanted in [
            Wanted { env: vec!["A".into()], ..Default::default() },
            Wanted { env: vec!["=1".into()], ..Default::default() },
            Wanted { cwd: Some("rel".into()), ..Default::default() },
            Wanted { memory_limit: Some(0), ..Default::default() },
            Wanted { cpus: Some(f64::NAN), ..Default::default() },
            Wanted { cpus: Some(0.0), ..Default::default() },
        ] {
            assert!(made(&wanted).is_err(), "{wanted:?}");
        }
        let nothing = build("ns", "id", &ProcessConfig::default(), &User::default(), &Wanted::default());
        assert!(nothing.is_err());
    }
}
