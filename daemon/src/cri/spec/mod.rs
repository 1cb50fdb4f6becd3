//! The runtime specification of a container: what was asked for, the image, the pod and the machine in, one document out.
//!
//! Everything that the machine has to be asked is asked before ([`host`], [`mounts::bind`], [`mod@devices`]) and comes in as a value, so
//! each field of a request is a row of a table in the tests. A field that cannot be honoured is refused by name; what Kubernetes
//! defines as "where the node can" is left out where it cannot. It starts nothing, mounts nothing and keeps nothing.

pub(super) mod annotations;
mod capabilities;
mod cdi;
mod devices;
mod error;
pub mod host;
mod image;
pub mod mounts;
pub mod namespaces;
mod process;
pub mod resources;
mod seccomp;
pub(super) mod security;
pub mod signal;
pub mod user;

use std::path::PathBuf;

use proto::cri::{ContainerConfig, LinuxContainerConfig, LinuxContainerSecurityContext, PodSandboxConfig};
use serde_json::{Value, json};

pub use capabilities::Capabilities;
pub use error::SpecError;
pub use host::Host;
pub use image::ImageConfig;
pub use mounts::PodFiles;
pub use user::{Accounts, User};

use self::mounts::{Bind, Kernel, Place};
use self::namespaces::Around;
use super::settings::{Handler, Settings};

/// The `type_url` of a specification in a container's record (containerd's contract).
pub const SPEC_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

/// The `type_url` of the process of an exec.
pub const PROCESS_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

/// What is masked and what is read-only where the daemon is told not to let pods decide that.
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
    "/proc/scsi",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// All that a specification is made of.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// The container.
    pub id: &'a str,
    /// Its pod.
    pub pod: &'a str,
    /// What is asked for, with image volumes as mounts of where they are.
    pub config: &'a ContainerConfig,
    /// What was asked for its pod.
    pub pod_config: &'a PodSandboxConfig,
    /// The image's configuration.
    pub image: &'a ImageConfig,
    /// The name of the image, as the user said it.
    pub image_name: &'a str,
    /// The user files of the image.
    pub accounts: &'a Accounts,
    /// The first process of the pod.
    pub pod_pid: u32,
    /// The first process of the container whose processes it shall see.
    pub target_pid: Option<u32>,
    /// The files that the pod's containers share.
    pub files: &'a PodFiles,
    /// Volumes that the image declares: where they are, and where they go.
    pub volumes: &'a [(PathBuf, String)],
    /// `/proc/self/mountinfo`.
    pub mountinfo: &'a str,
    /// What the runtime handler is told.
    pub handler: &'a Handler,
    /// Whether the handler can make whole trees of mounts read-only.
    pub recursive_read_only: bool,
    /// Whether the handler can map the owners of mounts.
    pub idmap: bool,
    /// The daemon's configuration.
    pub settings: &'a Settings,
    /// Facts about the machine.
    pub host: &'a Host,
    /// The daemon's own score, for [`Settings::restrict_oom_score_adj`].
    pub own_oom_score: i32,
}

/// A specification, and what of it is reported to clients.
#[derive(Debug, Clone, PartialEq)]
pub struct Made {
    /// The document.
    pub spec: Value,
    /// Who the process runs as.
    pub user: User,
}

/// Makes the specification.
///
/// # Errors
/// A field of the request makes no sense or cannot be honoured.
pub fn build(input: &Input<'_>) -> Result<Made, SpecError> {
    let Input { config, pod_config, image, settings, host, handler, .. } = *input;
    if config.windows.is_some() {
        return Err(SpecError::invalid("the container is configured for Windows"));
    }
    let default = LinuxContainerConfig::default();
    let linux = config.linux.as_ref().unwrap_or(&default);
    let no_security = LinuxContainerSecurityContext::default();
    let security = linux.security_context.as_ref().unwrap_or(&no_security);
    let pod_linux = pod_config.linux.clone().unwrap_or_default();
    let pod_security = pod_linux.security_context.unwrap_or_default();
    if security.privileged && !pod_security.privileged {
        return Err(SpecError::invalid("no privileged container allowed in sandbox"));
    }
    let pod_options = pod_security.namespace_options.unwrap_or_default();
    let host_network = pod_options.network == proto::cri::NamespaceMode::Node as i32;
    let around = Around {
        pod_pid: input.pod_pid,
        pod_users: pod_options.userns_options.as_ref(),
        target_pid: input.target_pid,
        host_network,
        cgroup_v2: host.cgroup_v2,
    };
    let namespaces = namespaces::resolve(security, around)?;
    let has_users = !namespaces.uids.is_empty();
    let user = user::resolve(security, &image.user, input.accounts)?;
    let capabilities = capabilities::resolve(security.capabilities.as_ref(), security.privileged, host.capabilities)?;
    let selinux = security.selinux_options.as_ref().or(pod_security.selinux_options.as_ref());
    let selinux = security::selinux(selinux, host.selinux && settings.selinux)?;

    let kernel = Kernel {
        sys_writable: security.privileged,
        cgroup_writable: security.privileged || handler.cgroup_writable,
        bind_sys: host_network && has_users,
    };
    let (mounts, propagation) = mounts(input, security, kernel)?;

    let hostname = if pod_config.hostname.is_empty() { &host.hostname } else { &pod_config.hostname };
    let mut process = json!({
        "terminal": config.tty,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": user.groups},
        "args": process::args(config, image)?,
        "env": process::env(config, image, hostname)?,
        "cwd": process::cwd(config, image)?,
        "capabilities": capabilities.to_json(),
        "noNewPrivileges": security.no_new_privs,
    });
    let policy = resources::Policy {
        disable_hugetlb: settings.disable_hugetlb && host.hugepage_sizes.is_empty(),
        tolerate_missing_hugetlb: settings.tolerate_missing_hugetlb,
        restrict_oom_score: settings.restrict_oom_score_adj.then_some(input.own_oom_score),
        ignore_blockio: settings.ignore_blockio,
        ignore_rdt: settings.ignore_rdt,
    };
    let no_limits = proto::cri::LinuxContainerResources::default();
    let limits = linux.resources.as_ref().unwrap_or(&no_limits);
    process["oomScoreAdj"] = json!(resources::oom_score(limits.oom_score_adj, policy, host)?);
    if !settings.disable_apparmor
        && let Some(profile) = security::apparmor(security, host)?
    {
        process["apparmorProfile"] = json!(profile);
    }
    let mut document = json!({
        "ociVersion": "1.1.0",
        "root": {"path": "rootfs", "readonly": security.readonly_rootfs},
        "mounts": mounts,
        "annotations": spec_annotations(input),
    });
    let mut limits = resources::to_json(limits, policy, host)?;
    let (nodes, rules) = devices(input, security, &user)?;
    limits.insert("devices".into(), rules.into());
    let mut part = json!({
        "resources": limits,
        "cgroupsPath": cgroups_path(&pod_linux.cgroup_parent, input.id),
        "namespaces": namespaces.list,
        "devices": nodes,
    });
    if has_users {
        part["uidMappings"] = namespaces.uids.into();
        part["gidMappings"] = namespaces.gids.into();
    }
    if let Some(propagation) = propagation {
        part["rootfsPropagation"] = json!(propagation);
    }
    if let Some(profile) = security::seccomp(security, &settings.unset_seccomp_profile, &capabilities, host)? {
        part["seccomp"] = profile;
    }
    let (masked, read_only) = guarded(security, settings.disable_proc_mount);
    part["maskedPaths"] = json!(masked);
    part["readonlyPaths"] = json!(read_only);
    if let Some((label, mount_label)) = selinux {
        if !security.privileged {
            process["selinuxLabel"] = json!(label);
        }
        part["mountLabel"] = json!(mount_label);
    }
    let name = config.metadata.as_ref().map(|metadata| metadata.name.as_str()).unwrap_or_default();
    if let Some(rdt) = resources::rdt(name, &config.annotations, &pod_config.annotations, policy, host)? {
        part["intelRdt"] = rdt;
    }
    resources::blockio(name, &config.annotations, &pod_config.annotations, policy)?;
    document["process"] = process;
    document["linux"] = part;
    let names = cdi::names(&config.cdi_devices, &config.annotations)?;
    if !names.is_empty() && !settings.cdi {
        return Err(SpecError::unsupported("CDI devices are asked for, but CDI is switched off"));
    }
    cdi::inject(&mut document, &names, &settings.cdi_dirs)?;
    Ok(Made { spec: document, user })
}

fn mounts(
    input: &Input<'_>,
    security: &LinuxContainerSecurityContext,
    kernel: Kernel,
) -> Result<(Vec<Value>, Option<&'static str>), SpecError> {
    let wanted = &input.config.mounts;
    let place =
        Place { mountinfo: input.mountinfo, recursive_read_only: input.recursive_read_only, idmap: input.idmap };
    let given = mounts::of_pod(input.files, wanted, security.readonly_rootfs);
    let volumes = input.volumes.iter().map(|(source, target)| proto::cri::Mount {
        container_path: target.clone(),
        host_path: source.display().to_string(),
        ..Default::default()
    });
    let volumes: Vec<proto::cri::Mount> = volumes.collect();
    let binds: Result<Vec<Bind>, SpecError> =
        volumes.iter().chain(&given).chain(wanted).map(|mount| mounts::bind(mount, place)).collect();
    mounts::assemble(mounts::standard(kernel), binds?)
}

fn devices(
    input: &Input<'_>,
    security: &LinuxContainerSecurityContext,
    user: &User,
) -> Result<(Vec<Value>, Vec<Value>), SpecError> {
    let Input { config, handler, settings, .. } = *input;
    let mut found = devices::wanted(&config.devices)?;
    if settings.device_ownership && (security.run_as_user.is_some() || security.run_as_group.is_some()) {
        for device in &mut found {
            if security.run_as_user.is_some() {
                device.uid = user.uid;
            }
            if security.run_as_group.is_some() {
                device.gid = user.gid;
            }
        }
    }
    let mut rules = vec![json!({"allow": false, "access": "rwm"})];
    if security.privileged && !handler.privileged_without_host_devices {
        for device in devices::of_host()? {
            if !found.iter().any(|known| known.path == device.path) {
                found.push(device);
            }
        }
        rules = vec![json!({"allow": true, "access": "rwm"})];
    } else if security.privileged && handler.privileged_without_host_devices_all_devices_allowed {
        rules = vec![json!({"allow": true, "access": "rwm"})];
    } else {
        rules.extend(found.iter().map(devices::Device::rule));
    }
    Ok((found.iter().map(devices::Device::node).collect(), rules))
}

/// What is hidden, and what cannot be written to.
fn guarded(security: &LinuxContainerSecurityContext, disabled: bool) -> (Vec<String>, Vec<String>) {
    let own = |list: &[&str]| list.iter().map(|path| (*path).to_owned()).collect();
    match (security.privileged, disabled) {
        (true, _) => (Vec::new(), Vec::new()),
        (false, true) => (own(&MASKED), own(&READ_ONLY)),
        (false, false) => (security.masked_paths.clone(), security.readonly_paths.clone()),
    }
}

fn spec_annotations(input: &Input<'_>) -> std::collections::BTreeMap<String, String> {
    let Input { config, pod_config, handler, .. } = *input;
    let mut all = std::collections::BTreeMap::new();
    all.extend(annotations::passed(&pod_config.annotations, &handler.pod_annotations));
    all.extend(annotations::passed(&config.annotations, &handler.container_annotations));
    all.extend(annotations::standard(input.pod, pod_config, config, input.image_name));
    all
}

/// Where the cgroup of a container or a pod's first process is: systemd's form if the parent is a slice.
pub fn cgroups_path(parent: &str, id: &str) -> String {
    let last = parent.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    if last.ends_with(".slice") {
        return format!("{last}:cri-containerd:{id}");
    }
    match parent.trim_end_matches('/') {
        "" => format!("/{}/{id}", super::NAMESPACE),
        parent => format!("{parent}/{id}"),
    }
}

#[cfg(test)]
mod tests;
