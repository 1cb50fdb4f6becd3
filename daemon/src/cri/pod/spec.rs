//! The specification of a pod's first process. Pure.

use std::collections::BTreeMap;

use proto::cri::{NamespaceMode, PodSandboxConfig, Protocol, SecurityProfile};
use serde_json::{Value, json};

use super::super::record::PodRecord;
use super::super::settings::{Handler, Settings};
use super::super::spec::annotations as globs;
use super::super::{CriError, NAMESPACE};
use super::Files;

/// How much the kernel spares the first process when memory is short.
const OOM_SCORE: i64 = -998;

/// What is hidden from a process that needs nothing.
const MASKED: [&str; 9] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
];

/// What it can only read.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What a specification is made from.
pub(super) struct Parts<'a> {
    pub(super) id: &'a str,
    pub(super) record: &'a PodRecord,
    pub(super) files: &'a Files,
    pub(super) handler: &'a Handler,
    pub(super) settings: &'a Settings,
    /// The configuration of the image, JSON.
    pub(super) image: &'a Value,
    /// The name of the image.
    pub(super) image_name: &'a str,
    /// The least OOM score that may be set here.
    pub(super) least_oom_score: i64,
    /// Its seccomp profile, if it has one.
    pub(super) seccomp: Option<Value>,
    /// Its SELinux labels, of the process and of its files, if it has some.
    pub(super) selinux: Option<(String, String)>,
}

/// The folder of a cgroup below the parent that the kubelet made: for systemd `<slice>:cri-containerd:<id>`.
pub fn cgroups_path(parent: &str, id: &str) -> String {
    let base = parent.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    if base.ends_with(".slice") {
        return format!("{base}:cri-containerd:{id}");
    }
    match parent.trim_end_matches('/') {
        "" => format!("/{NAMESPACE}/{id}"),
        parent => format!("{parent}/{id}"),
    }
}

/// Checks what was asked for.
///
/// # Errors
/// It is wrong or not possible; the text says what.
pub(super) fn validate(config: &PodSandboxConfig) -> Result<(), CriError> {
    let invalid = |why: &str| Err(CriError::Invalid(why.to_owned()));
    let Some(metadata) = &config.metadata else { return invalid("sandbox config must include metadata") };
    if metadata.name.is_empty() {
        return invalid("sandbox metadata must have a name");
    }
    if config.hostname.len() > 64 || config.hostname.contains(['\0', '/', '\n']) {
        return invalid("the hostname is not usable: it has at most 64 characters");
    }
    if let Some(dns) = &config.dns_config {
        let all = dns.servers.iter().chain(&dns.searches).chain(&dns.options);
        if all.into_iter().any(|word| word.is_empty() || word.contains(['\n', '\0', ' '])) {
            return invalid("the DNS configuration has an empty word, or one with a space or a newline");
        }
    }
    for mapping in &config.port_mappings {
        let port = |port: i32| (0..=65535).contains(&port);
        if !port(mapping.host_port) || !port(mapping.container_port) {
            return Err(CriError::Invalid(format!("a port is from 0 to 65535: {mapping:?}")));
        }
        if Protocol::try_from(mapping.protocol).is_err() {
            return Err(CriError::Invalid(format!("unknown protocol {}", mapping.protocol)));
        }
        if !mapping.host_ip.is_empty() && mapping.host_ip.parse::<std::net::IpAddr>().is_err() {
            return Err(CriError::Invalid(format!("{:?} is no address", mapping.host_ip)));
        }
    }
    let Some(linux) = &config.linux else { return Ok(()) };
    for name in linux.sysctls.keys() {
        if name.is_empty() || name.contains("..") || name.starts_with('/') || name.contains('\0') {
            return Err(CriError::Invalid(format!("{name:?} is no sysctl")));
        }
    }
    if linux.cgroup_parent.contains("..") || linux.cgroup_parent.contains('\0') {
        return Err(CriError::Invalid(format!("cgroup parent {:?} leads out of its tree", linux.cgroup_parent)));
    }
    let Some(security) = &linux.security_context else { return Ok(()) };
    if security.run_as_group.is_some() && security.run_as_user.is_none() {
        return invalid("user group is specified without user");
    }
    if let Some(options) = &security.namespace_options {
        for (what, mode) in [("network", options.network), ("pid", options.pid), ("ipc", options.ipc)] {
            if NamespaceMode::try_from(mode).is_err() {
                return Err(CriError::Invalid(format!("unknown mode {mode} of the {what} namespace")));
            }
        }
        if options.network() == NamespaceMode::Container || options.network() == NamespaceMode::Target {
            return invalid("the network of a pod is its own or the node's");
        }
        if options.pid() == NamespaceMode::Target {
            return invalid("a pod has no target for its pid namespace, only containers have");
        }
        if let Some(user) = &options.userns_options
            && user.mode() != NamespaceMode::Node
        {
            return Err(CriError::Unsupported(
                "user namespaces are not supported by this version for pods (userns_options.mode must be NODE)".into(),
            ));
        }
    }
    for (what, profile) in [("seccomp", &security.seccomp), ("AppArmor", &security.apparmor)] {
        check_profile(what, profile.as_ref())?;
    }
    Ok(())
}

fn check_profile(what: &str, profile: Option<&SecurityProfile>) -> Result<(), CriError> {
    use proto::cri::security_profile::ProfileType;
    let Some(profile) = profile else { return Ok(()) };
    match (profile.profile_type(), profile.localhost_ref.is_empty()) {
        (ProfileType::Localhost, true) => Err(CriError::Invalid(format!("the {what} profile Localhost names none"))),
        (ProfileType::RuntimeDefault | ProfileType::Unconfined, false) => {
            Err(CriError::Invalid(format!("a {what} profile is named, but its type is not Localhost")))
        }
        _ => Ok(()),
    }
}

/// The specification.
///
/// # Errors
/// The user of the image or of the request cannot be had without its files.
pub(super) fn spec(parts: &Parts<'_>) -> Result<Value, CriError> {
    let Parts { record, files, .. } = *parts;
    let config = record.config.clone().unwrap_or_default();
    let modes = record.namespaces();
    let host_network = modes.network() == NamespaceMode::Node;
    let mut namespaces = vec![json!({ "type": "mount" })];
    if modes.pid() != NamespaceMode::Node {
        namespaces.push(json!({ "type": "pid" }));
    }
    if modes.ipc() != NamespaceMode::Node {
        namespaces.push(json!({ "type": "ipc" }));
    }
    if !host_network {
        namespaces.push(json!({ "type": "network", "path": record.netns }));
        namespaces.push(json!({ "type": "uts" }));
    }
    let security = record.security().cloned().unwrap_or_default();
    let shm = if modes.ipc() == NamespaceMode::Node { "/dev/shm".to_owned() } else { files.shm.display().to_string() };
    let image = &parts.image["config"];
    let strings = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut args = strings(&image["Entrypoint"]);
    args.extend(strings(&image["Cmd"]));
    if args.is_empty() {
        return Err(CriError::Invalid(format!(
            "image {:?} has no command for a pod's first process",
            parts.image_name
        )));
    }
    let (uid, gid) = user(image["User"].as_str().unwrap_or_default(), &security)?;
    let mut env = strings(&image["Env"]);
    if !env.iter().any(|line| line.starts_with("PATH=")) {
        env.push("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
    }
    let cwd = image["WorkingDir"].as_str().filter(|cwd| cwd.starts_with('/')).unwrap_or("/");
    let bind = |source: &str, target: &str, options: &[&str]| {
        let options: Vec<&str> = ["rbind"].iter().chain(options).copied().collect();
        json!({ "destination": target, "type": "bind", "source": source, "options": options })
    };
    // The files of the kernel are of the same namespaces as the process.
    let sysfs = json!({ "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"] });
    let sys = if host_network { bind("/sys", "/sys", &["nosuid", "noexec", "nodev", "ro"]) } else { sysfs };
    let mut spec = json!({
        "ociVersion": "1.2.0",
        "process": {
            "user": { "uid": uid, "gid": gid, "additionalGids": security.supplemental_groups },
            "args": args,
            "env": env,
            "cwd": cwd,
            "capabilities": {},
            "noNewPrivileges": true,
            "oomScoreAdj": OOM_SCORE.max(parts.least_oom_score),
        },
        "root": { "path": "rootfs", "readonly": true },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"] },
            sys,
            bind(&shm, "/dev/shm", &["ro", "nosuid", "nodev", "noexec"]),
            bind(&files.resolv_conf.display().to_string(), "/etc/resolv.conf", &["ro", "nosuid", "nodev", "noexec"]),
        ],
        "annotations": annotations(parts, &config),
        "linux": {
            "namespaces": namespaces,
            "cgroupsPath": record.cgroups_path,
            "resources": { "devices": [{ "allow": false, "access": "rwm" }], "cpu": { "shares": 2 } },
            "sysctl": sysctls(parts.settings, &config, host_network),
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
        },
    });
    if !host_network && !config.hostname.is_empty() {
        spec["hostname"] = config.hostname.into();
    }
    if let Some((process, files)) = &parts.selinux {
        spec["process"]["selinuxLabel"] = process.clone().into();
        spec["linux"]["mountLabel"] = files.clone().into();
    }
    if let Some(profile) = &parts.seccomp {
        spec["linux"]["seccomp"] = profile.clone();
    }
    if modes.ipc() == NamespaceMode::Node
        && let Some(mounts) = spec["mounts"].as_array_mut()
    {
        // A queue filesystem of the host's namespace cannot be mounted from inside.
        mounts.retain(|mount| mount["type"] != "mqueue");
    }
    Ok(spec)
}

/// As whom the first process runs. Names would need the files of the image, which a first process has none of.
fn user(image: &str, security: &proto::cri::LinuxSandboxSecurityContext) -> Result<(i64, i64), CriError> {
    let id = |text: &str| match text {
        "" | "root" => Ok(0),
        text => text.parse::<u32>().map(i64::from).map_err(|_| {
            CriError::Invalid(format!("user {image:?} of the image of the pod's first process is no number"))
        }),
    };
    let (user, group) = image.split_once(':').unwrap_or((image, ""));
    let in_range = |number: i64| {
        u32::try_from(number).map(i64::from).map_err(|_| CriError::Invalid(format!("{number} is no user or group")))
    };
    let uid = match &security.run_as_user {
        Some(user) => in_range(user.value)?,
        None => id(user)?,
    };
    let gid = match &security.run_as_group {
        Some(group) => in_range(group.value)?,
        None if security.run_as_user.is_some() => 0,
        None => id(group)?,
    };
    Ok((uid, gid))
}

/// What is set in the kernel for the pod: what it asks for, over what is usual.
fn sysctls(settings: &Settings, config: &PodSandboxConfig, host_network: bool) -> BTreeMap<String, String> {
    let mut all = config.linux.as_ref().map(|linux| linux.sysctls.clone()).unwrap_or_default();
    // Both ways to write them are known.
    all = all.into_iter().map(|(name, value)| (dotted(&name), value)).collect();
    if !host_network {
        if settings.unprivileged_ports {
            all.entry("net.ipv4.ip_unprivileged_port_start".into()).or_insert_with(|| "0".into());
        }
        if settings.unprivileged_icmp {
            all.entry("net.ipv4.ping_group_range".into()).or_insert_with(|| "0 2147483647".into());
        }
    }
    all
}

/// A name with slashes, as sysctl(8) has them too, with dots: then a dot of an interface's name is a slash.
fn dotted(name: &str) -> String {
    match name.find(['/', '.']) {
        Some(at) if name.as_bytes()[at] == b'/' => name
            .chars()
            .map(|c| {
                if c == '/' {
                    '.'
                } else if c == '.' {
                    '/'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_owned(),
    }
}

fn annotations(parts: &Parts<'_>, config: &PodSandboxConfig) -> BTreeMap<String, String> {
    let metadata = config.metadata.clone().unwrap_or_default();
    let mut all: BTreeMap<String, String> =
        globs::passed(&config.annotations, &parts.handler.pod_annotations).collect();
    let resources = config.linux.as_ref().and_then(|linux| linux.resources.clone()).unwrap_or_default();
    let own = [
        ("container-type", "sandbox".to_owned()),
        ("sandbox-id", parts.id.to_owned()),
        ("sandbox-name", metadata.name),
        ("sandbox-namespace", metadata.namespace),
        ("sandbox-uid", metadata.uid),
        ("sandbox-log-directory", config.log_directory.clone()),
        ("podsandbox.image-name", parts.image_name.to_owned()),
        ("sandbox-cpu-period", resources.cpu_period.to_string()),
        ("sandbox-cpu-quota", resources.cpu_quota.to_string()),
        ("sandbox-cpu-shares", resources.cpu_shares.to_string()),
        ("sandbox-memory", resources.memory_limit_in_bytes.to_string()),
    ];
    all.extend(own.map(|(name, value)| (format!("io.kubernetes.cri.{name}"), value)));
    all
}

#[cfg(test)]
mod tests {
    use proto::cri::{
        DnsConfig, Int64Value, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceOption, PodSandboxMetadata,
        PortMapping, UserNamespace,
    };

    use super::*;

    fn config() -> PodSandboxConfig {
        let metadata = PodSandboxMetadata { name: "n".into(), namespace: "s".into(), uid: "u".into(), attempt: 0 };
        PodSandboxConfig { metadata: Some(metadata), ..PodSandboxConfig::default() }
    }

    fn with(security: LinuxSandboxSecurityContext) -> PodSandboxConfig {
        let linux = LinuxPodSandboxConfig { security_context: Some(security), ..LinuxPodSandboxConfig::default() };
        PodSandboxConfig { linux: Some(linux), ..config() }
    }

    fn made(config: PodSandboxConfig) -> Value {
        let record = PodRecord {
            config: Some(config),
            netns: "/run/n".into(),
            cgroups_path: "/c".into(),
            ..PodRecord::default()
        };
        let files = Files {
            root: "/r".into(),
            state: "/s".into(),
            hostname: "/r/hostname".into(),
            hosts: "/r/hosts".into(),
            resolv_conf: "/r/resolv.conf".into(),
            shm: "/s/shm".into(),
        };
        let image = json!({ "config": { "Entrypoint": ["/pause"], "User": "65535:65535" } });
        let parts = Parts {
            id: "i",
            record: &record,
            files: &files,
            handler: &Handler::default(),
            settings: &Settings::default(),
            image: &image,
            image_name: "pause",
            least_oom_score: -500,
            seccomp: None,
            selinux: None,
        };
        spec(&parts).unwrap()
    }

    fn kinds(spec: &Value) -> Vec<String> {
        let all = spec["linux"]["namespaces"].as_array().unwrap();
        all.iter().map(|each| each["type"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn cgroups_are_below_the_parent() {
        for (parent, path) in [
            ("/kubepods/pod1", "/kubepods/pod1/i"),
            ("/kubepods/pod1/", "/kubepods/pod1/i"),
            ("", "/k8s.io/i"),
            ("/kubepods.slice/kubepods-pod1.slice", "kubepods-pod1.slice:cri-containerd:i"),
            ("kubepods.slice", "kubepods.slice:cri-containerd:i"),
        ] {
            assert_eq!(cgroups_path(parent, "i"), path);
        }
    }

    #[test]
    fn a_pod_has_its_own_namespaces_unless_it_asks_for_the_nodes() {
        let own = made(PodSandboxConfig { hostname: "h".into(), ..config() });
        assert_eq!(kinds(&own), ["mount", "pid", "ipc", "network", "uts"]);
        assert_eq!((own["hostname"].as_str(), own["process"]["user"]["uid"].as_i64()), (Some("h"), Some(65535)));
        assert_eq!(own["process"]["oomScoreAdj"], -500);
        assert_eq!(own["linux"]["sysctl"]["net.ipv4.ip_unprivileged_port_start"], "0");
        let node = NamespaceMode::Node.into();
        let options = NamespaceOption { network: node, pid: node, ipc: node, ..NamespaceOption::default() };
        let host = made(PodSandboxConfig {
            hostname: "h".into(),
            ..with(LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() })
        });
        assert_eq!(kinds(&host), ["mount"]);
        assert!(host.get("hostname").is_none() && host["linux"]["sysctl"].as_object().unwrap().is_empty());
        assert!(host["mounts"].as_array().unwrap().iter().any(|mount| mount["source"] == "/dev/shm"));
    }

    #[test]
    fn the_user_of_the_request_wins() {
        let security = LinuxSandboxSecurityContext { run_as_user: Some(Int64Value { value: 7 }), ..Default::default() };
        assert_eq!(made(with(security))["process"]["user"], json!({ "uid": 7, "gid": 0, "additionalGids": [] }));
    }

    #[test]
    fn wrong_requests_are_refused() {
        let mut cases = vec![PodSandboxConfig::default()];
        for change in [
            |c: &mut PodSandboxConfig| c.hostname = "h".repeat(65),
            |c: &mut PodSandboxConfig| c.metadata.as_mut().unwrap().name.clear(),
            |c: &mut PodSandboxConfig| {
                c.port_mappings = vec![PortMapping { host_port: 65536, ..PortMapping::default() }]
            },
            |c: &mut PodSandboxConfig| c.port_mappings = vec![PortMapping { protocol: 9, ..PortMapping::default() }],
            |c: &mut PodSandboxConfig| {
                c.port_mappings = vec![PortMapping { host_ip: "x".into(), ..PortMapping::default() }]
            },
            |c: &mut PodSandboxConfig| {
                c.dns_config = Some(DnsConfig { servers: vec!["a\nb".into()], ..DnsConfig::default() })
            },
            |c: &mut PodSandboxConfig| {
                c.linux = Some(LinuxPodSandboxConfig { cgroup_parent: "/a/../b".into(), ..Default::default() })
            },
            |c: &mut PodSandboxConfig| {
                let sysctls = BTreeMap::from([("../x".to_owned(), "1".to_owned())]);
                c.linux = Some(LinuxPodSandboxConfig { sysctls, ..Default::default() });
            },
            |c: &mut PodSandboxConfig| {
                *c = with(LinuxSandboxSecurityContext {
                    run_as_group: Some(Int64Value { value: 1 }),
                    ..Default::default()
                })
            },
            |c: &mut PodSandboxConfig| {
                let user = UserNamespace { mode: NamespaceMode::Pod.into(), ..UserNamespace::default() };
                let options = NamespaceOption { userns_options: Some(user), ..NamespaceOption::default() };
                *c = with(LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() });
            },
            |c: &mut PodSandboxConfig| {
                let options = NamespaceOption { network: 9, ..NamespaceOption::default() };
                *c = with(LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() });
            },
            |c: &mut PodSandboxConfig| {
                let profile = SecurityProfile { profile_type: 0, localhost_ref: "x".into() };
                *c = with(LinuxSandboxSecurityContext { seccomp: Some(profile), ..Default::default() });
            },
        ] {
            let mut case = config();
            change(&mut case);
            cases.push(case);
        }
        for case in cases {
            assert!(validate(&case).is_err(), "{case:?}");
        }
        assert_eq!(validate(&config()), Ok(()));
    }

    #[test]
    fn sysctls_may_have_slashes() {
        assert_eq!(dotted("net/ipv4/conf/eth0.1/forwarding"), "net.ipv4.conf.eth0/1.forwarding");
        assert_eq!(dotted("kernel.shmmax"), "kernel.shmmax");
    }
}
