//! The runtime itself: version, status, configuration.

use std::collections::BTreeMap;
use std::path::PathBuf;

use proto::cri as wire;
use serde_json::{Value, json};
use tracing::{info, warn};

use super::{Cri, CriError};
use crate::api::Failure;
use crate::blocking;

/// The version of the kubelet's side of the interface, which never changed.
const KUBE_VERSION: &str = "0.1.0";
/// What kubelets and tests take us for.
const NAME: &str = "containerd";
/// The version that clients see: of the line of containerd whose interface this is; they look at the first part. The rest is ours.
const VERSION: &str = concat!("v2.3.0+gantry.", env!("CARGO_PKG_VERSION"));
/// The version of the interface.
const API_VERSION: &str = "v1";
/// The largest template of a network that is read, in bytes.
const MAX_TEMPLATE: usize = 1 << 20;
/// The name of the file that is made from it, containerd's.
const CNI_FILE: &str = "10-containerd-net.conflist";

impl Cri {
    pub(super) async fn version(&self, _request: wire::VersionRequest) -> Result<wire::VersionResponse, Failure> {
        Ok(wire::VersionResponse {
            version: KUBE_VERSION.into(),
            runtime_name: NAME.into(),
            runtime_version: VERSION.into(),
            runtime_api_version: API_VERSION.into(),
        })
    }

    pub(super) async fn status(&self, request: wire::StatusRequest) -> Result<wire::StatusResponse, Failure> {
        let network = self.network_status().await;
        let condition = |kind: &str, status: bool, reason: &str, message: &str| wire::RuntimeCondition {
            r#type: kind.into(),
            status,
            reason: reason.into(),
            message: message.into(),
        };
        let network_ready = match &network {
            Ok(()) => condition("NetworkReady", true, "", ""),
            Err(why) => {
                let message = format!("Network plugin returns error: cni plugin not initialized: {why}");
                condition("NetworkReady", false, "NetworkPluginNotReady", &message)
            }
        };
        let runtime_ready = match self.inner.store.stopped() {
            None => condition("RuntimeReady", true, "", ""),
            Some(why) => condition("RuntimeReady", false, "StoreStopped", &why.to_string()),
        };
        let conditions =
            vec![runtime_ready, network_ready, condition("ContainerdHasNoDeprecationWarnings", true, "", "")];
        let info = if request.verbose { self.details_of_node(&network) } else { BTreeMap::new() };
        Ok(wire::StatusResponse {
            status: Some(wire::RuntimeStatus { conditions }),
            info,
            runtime_handlers: self.handlers_to_wire().await,
            features: Some(wire::RuntimeFeatures {
                supplemental_groups_policy: true,
                user_namespaces_host_network: false,
            }),
        })
    }

    /// Whether a pod could get its network now.
    async fn network_status(&self) -> Result<(), String> {
        let cri = self.clone();
        let lists = blocking::run(move || cri.inner.net.lists(None)).await.map_err(|error| error.to_string())?;
        self.inner.net.ready(&lists).await.map_err(|error| error.to_string())
    }

    /// All handlers, the default one by the empty name as well.
    async fn handlers_to_wire(&self) -> Vec<wire::RuntimeHandler> {
        let mut all = Vec::new();
        for name in self.inner.settings.handlers.keys() {
            let features = self.features_of(name).await;
            all.push(wire::RuntimeHandler { name: name.clone(), features: Some(features) });
            if *name == self.inner.settings.default_handler {
                all.push(wire::RuntimeHandler { name: String::new(), features: Some(features) });
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    fn details_of_node(&self, network: &Result<(), String>) -> BTreeMap<String, String> {
        let settings = &self.inner.settings;
        let handlers: BTreeMap<_, _> = settings
            .handlers
            .iter()
            .map(|(name, handler)| {
                let value = json!({
                    "runtimeType": handler.runtime_type,
                    "runtimePath": handler.runtime_path,
                    "podAnnotations": handler.pod_annotations,
                    "containerAnnotations": handler.container_annotations,
                    "options": { "BinaryName": handler.options.binary_name, "SystemdCgroup": handler.options.systemd_cgroup, "Root": handler.options.root },
                    "privilegedWithoutHostDevices": handler.privileged_without_host_devices,
                    "baseRuntimeSpec": handler.base_runtime_spec,
                    "snapshotter": handler.snapshotter,
                    "sandboxer": handler.sandboxer,
                });
                (name, value)
            })
            .collect();
        let config = json!({
            "containerd": {
                "snapshotter": settings.snapshotter,
                "defaultRuntimeName": settings.default_handler,
                "runtimes": handlers,
                "ignoreBlockIONotEnabledErrors": settings.ignore_blockio,
                "ignoreRdtNotEnabledErrors": settings.ignore_rdt,
            },
            "cni": {
                "binDirs": settings.cni.bin_dirs,
                "confDir": settings.cni.conf_dir,
                "maxConfNum": settings.cni.max_conf_num,
                "setupSerially": settings.cni.serially,
                "confTemplate": settings.cni.conf_template,
                "ipPref": settings.cni.ip_pref,
            },
            "sandboxImage": settings.sandbox_image.as_deref().unwrap_or(super::pause::NAME),
            "enableSelinux": settings.selinux,
            "selinuxCategoryRange": settings.selinux_categories,
            "maxContainerLogLineSize": settings.max_log_line,
            "disableApparmor": settings.disable_apparmor,
            "restrictOOMScoreAdj": settings.restrict_oom_score_adj,
            "disableProcMount": settings.disable_proc_mount,
            "unsetSeccompProfile": settings.unset_seccomp_profile,
            "tolerateMissingHugetlbController": settings.tolerate_missing_hugetlb,
            "disableHugetlbController": settings.disable_hugetlb,
            "deviceOwnershipFromSecurityContext": settings.device_ownership,
            "ignoreImageDefinedVolumes": settings.ignore_image_volumes,
            "netnsMountsUnderStateDir": settings.netns_under_state,
            "enableUnprivilegedPorts": settings.unprivileged_ports,
            "enableUnprivilegedICMP": settings.unprivileged_icmp,
            "enableCDI": settings.cdi,
            "cdiSpecDirs": settings.cdi_dirs,
            "drainExecSyncIOTimeout": format!("{:?}", settings.drain_exec),
            "containerdRootDir": settings.root,
            "containerdEndpoint": settings.address,
            "rootDir": self.root(),
            "stateDir": self.state(),
        });
        let loaded = network.as_ref().map_or_else(Clone::clone, |()| "OK".to_owned());
        let lists = self.inner.net.lists(None).unwrap_or_default();
        let networks: Vec<Value> = lists
            .iter()
            .enumerate()
            .map(|(at, list)| json!({ "Config": { "Name": list.name, "CNIVersion": list.version, "Source": list.document.to_string() }, "IFName": format!("eth{at}") }))
            .collect();
        let dirs: Vec<&PathBuf> = settings.cni.bin_dirs.iter().collect();
        let cni = json!({ "PluginDirs": dirs, "PluginConfDir": settings.cni.conf_dir, "PluginMaxConfNum": settings.cni.max_conf_num, "Prefix": "eth", "Networks": networks });
        BTreeMap::from([
            ("config".to_owned(), config.to_string()),
            ("cniconfig".to_owned(), cni.to_string()),
            ("golang".to_owned(), "none: gantry is written in Rust".to_owned()),
            ("lastCNILoadStatus".to_owned(), loaded.clone()),
            ("lastCNILoadStatus.default".to_owned(), loaded),
        ])
    }

    pub(super) async fn runtime_config(
        &self,
        _request: wire::RuntimeConfigRequest,
    ) -> Result<wire::RuntimeConfigResponse, Failure> {
        let systemd = self.handler("")?.options.systemd_cgroup;
        let driver = if systemd { wire::CgroupDriver::Systemd } else { wire::CgroupDriver::Cgroupfs };
        let linux = wire::LinuxRuntimeConfiguration { cgroup_driver: driver.into() };
        Ok(wire::RuntimeConfigResponse { linux: Some(linux) })
    }

    /// The cluster says which addresses the node's pods get. That matters only if the network is made from a template.
    pub(super) async fn update_runtime_config(
        &self,
        request: wire::UpdateRuntimeConfigRequest,
    ) -> Result<wire::UpdateRuntimeConfigResponse, Failure> {
        let network = request.runtime_config.and_then(|config| config.network_config);
        let cidr = network.map(|network| network.pod_cidr).unwrap_or_default();
        if cidr.is_empty() {
            return Ok(wire::UpdateRuntimeConfigResponse {});
        }
        let cidrs: Vec<String> = cidr.split(',').map(|one| one.trim().to_owned()).collect();
        if let Some(wrong) = cidrs.iter().find(|one| !is_cidr(one)) {
            return Err(CriError::Invalid(format!("{wrong:?} is no range of addresses")).into());
        }
        let Some(template) = self.inner.settings.cni.conf_template.clone() else {
            return Ok(wire::UpdateRuntimeConfigResponse {});
        };
        if self.network_status().await.is_ok() {
            // Whoever made it knows better.
            return Ok(wire::UpdateRuntimeConfigResponse {});
        }
        let folder = self.inner.net.conf_dir().to_owned();
        let written = blocking::run(move || {
            let text = std::fs::read(&template)?;
            if text.len() > MAX_TEMPLATE {
                return Err(std::io::Error::other("the template is too large"));
            }
            let text = fill(&String::from_utf8_lossy(&text), &cidrs).map_err(std::io::Error::other)?;
            std::fs::create_dir_all(&folder)?;
            let (made, whole) = (folder.join(".new"), folder.join(CNI_FILE));
            std::fs::write(&made, text)?;
            std::fs::rename(made, whole)
        })
        .await;
        if let Err(error) = written {
            warn!(%error, "the configuration of the network cannot be made from its template");
            return Err(
                CriError::Failed(format!("cannot make the network configuration from its template: {error}")).into()
            );
        }
        info!(pods = cidr, "the configuration of the network was made from its template");
        Ok(wire::UpdateRuntimeConfigResponse {})
    }
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let most = match address.parse() {
        Ok(std::net::IpAddr::V4(_)) => 32,
        Ok(std::net::IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    bits.parse::<u8>().is_ok_and(|bits| bits <= most)
}

/// Fills a template: `{{.PodCIDR}}`, and `{{range $i, $range := .PodCIDRRanges}}…{{$range}}…{{end}}` once for each range, with
/// `{{if $i}}…{{end}}` in it for all but the first. That is what templates for this consist of.
fn fill(template: &str, cidrs: &[String]) -> Result<String, String> {
    let mut text = String::new();
    let mut rest = template;
    while let Some(at) = rest.find("{{") {
        text.push_str(&rest[..at]);
        let (tag, after) = rest[at + 2..].split_once("}}").ok_or("a {{ has no }}")?;
        let tag = tag.trim_matches(|c: char| c == '-' || c.is_whitespace());
        rest = after;
        if tag == ".PodCIDR" {
            text.push_str(cidrs.first().map_or("", String::as_str));
        } else if tag.starts_with("range") && tag.ends_with(".PodCIDRRanges") {
            let (body, after) = body(rest)?;
            for (at, cidr) in cidrs.iter().enumerate() {
                text.push_str(&one(body, at, cidr)?);
            }
            rest = after;
        } else {
            return Err(format!("the template has {{{{{tag}}}}}, which is not known"));
        }
    }
    text.push_str(rest);
    Ok(text)
}

/// What is before the `end` that belongs here, and what is behind it.
fn body(text: &str) -> Result<(&str, &str), String> {
    let (mut depth, mut at) = (0, 0);
    while let Some(open) = text[at..].find("{{").map(|found| at + found) {
        let close = text[open..].find("}}").map(|found| open + found + 2).ok_or("a {{ has no }}")?;
        let tag = text[open + 2..close - 2].trim_matches(|c: char| c == '-' || c.is_whitespace());
        if tag == "end" {
            if depth == 0 {
                return Ok((&text[..open], &text[close..]));
            }
            depth -= 1;
        } else if tag.starts_with("if") || tag.starts_with("range") {
            depth += 1;
        }
        at = close;
    }
    Err("a {{range}} or {{if}} has no {{end}}".into())
}

fn one(template: &str, at: usize, cidr: &str) -> Result<String, String> {
    let mut text = String::new();
    let mut rest = template;
    while let Some(open) = rest.find("{{") {
        text.push_str(&rest[..open]);
        let (tag, after) = rest[open + 2..].split_once("}}").ok_or("a {{ has no }}")?;
        let tag = tag.trim_matches(|c: char| c == '-' || c.is_whitespace());
        rest = after;
        match tag {
            "$range" | "." => text.push_str(cidr),
            "if $i" => {
                let (inner, after) = body(rest)?;
                if at > 0 {
                    text.push_str(inner);
                }
                rest = after;
            }
            other => return Err(format!("the template has {{{{{other}}}}}, which is not known")),
        }
    }
    text.push_str(rest);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_filled() {
        let cidrs = ["10.0.0.0/24".to_owned(), "fd00::/64".to_owned()];
        let ranges = r#"[{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$range}}"}]{{end}}]"#;
        assert_eq!(fill(ranges, &cidrs).unwrap(), r#"[[{"subnet": "10.0.0.0/24"}], [{"subnet": "fd00::/64"}]]"#);
        assert_eq!(fill(r#"{"subnet":"{{ .PodCIDR }}"}"#, &cidrs).unwrap(), r#"{"subnet":"10.0.0.0/24"}"#);
        assert_eq!(fill("plain", &cidrs).unwrap(), "plain");
        for wrong in
            ["{{", "{{.Other}}", "{{range $i, $range := .PodCIDRRanges}}x", "{{range .PodCIDRRanges}}{{$x}}{{end}}"]
        {
            assert!(fill(wrong, &cidrs).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ranges_of_addresses() {
        for (text, good) in
            [("10.0.0.0/24", true), ("fd00::/64", true), ("10.0.0.0", false), ("10.0.0.0/33", false), ("x/1", false)]
        {
            assert_eq!(is_cidr(text), good, "{text}");
        }
    }
}
