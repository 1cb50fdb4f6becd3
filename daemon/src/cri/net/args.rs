//! What plugins are told about a pod. Pure.

use std::collections::BTreeMap;

use proto::cri::{PodSandboxConfig, PodSandboxMetadata, Protocol};
use serde_json::{Value, json};

/// The annotation with a bound for what comes in.
const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
/// The annotation with a bound for what goes out.
const EGRESS: &str = "kubernetes.io/egress-bandwidth";
/// How much may pass at once under such a bound, in bits.
const BURST: u64 = i32::MAX as u64;

/// `CNI_ARGS`: who the pod is.
pub fn cni_args(id: &str, metadata: &PodSandboxMetadata) -> String {
    let PodSandboxMetadata { name, uid, namespace, .. } = metadata;
    [
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", namespace),
        ("K8S_POD_NAME", name),
        ("K8S_POD_INFRA_CONTAINER_ID", id),
        ("K8S_POD_UID", uid),
    ]
    .map(|(key, value)| format!("{key}={value}"))
    .join(";")
}

/// The arguments for capabilities; a plugin gets those it declares.
///
/// # Errors
/// A bandwidth is no quantity; the text says which.
pub fn capabilities(config: &PodSandboxConfig, cgroups_path: &str) -> Result<Value, String> {
    let mut all = serde_json::Map::new();
    let ports: Vec<Value> = config
        .port_mappings
        .iter()
        // A port of 0 is none.
        .filter(|mapping| mapping.host_port > 0)
        .map(|mapping| {
            let protocol = match mapping.protocol() {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
                Protocol::Sctp => "sctp",
            };
            json!({
                "hostPort": mapping.host_port,
                "containerPort": mapping.container_port,
                "protocol": protocol,
                "hostIP": mapping.host_ip,
            })
        })
        .collect();
    if !ports.is_empty() {
        all.insert("portMappings".into(), ports.into());
    }
    if let Some(bandwidth) = bandwidth(&config.annotations)? {
        all.insert("bandwidth".into(), bandwidth);
    }
    if let Some(dns) = &config.dns_config {
        let dns = json!({ "servers": dns.servers, "searches": dns.searches, "options": dns.options });
        all.insert("dns".into(), dns);
    }
    if !cgroups_path.is_empty() {
        all.insert("cgroupPath".into(), cgroups_path.into());
    }
    all.insert("io.kubernetes.cri.pod-annotations".into(), json!(config.annotations));
    Ok(all.into())
}

fn bandwidth(annotations: &BTreeMap<String, String>) -> Result<Option<Value>, String> {
    let mut all = serde_json::Map::new();
    for (annotation, rate, burst) in [(INGRESS, "ingressRate", "ingressBurst"), (EGRESS, "egressRate", "egressBurst")] {
        let Some(text) = annotations.get(annotation) else { continue };
        let bits = quantity(text).ok_or_else(|| format!("annotation {annotation}: {text:?} is no bandwidth"))?;
        all.insert(rate.into(), bits.into());
        all.insert(burst.into(), BURST.into());
    }
    Ok((!all.is_empty()).then(|| all.into()))
}

/// A whole number with a suffix as Kubernetes writes it: `10M`, `1Gi`, `500k`.
fn quantity(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let factor: u64 = match suffix {
        "" => 1,
        "k" => 1000,
        "M" => 1000_u64.pow(2),
        "G" => 1000_u64.pow(3),
        "T" => 1000_u64.pow(4),
        "P" => 1000_u64.pow(5),
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// The port mappings and all else that a list's plugin declares, as its `runtimeConfig`.
pub fn for_plugin(plugin: &Value, arguments: &Value) -> Option<Value> {
    let declared = plugin["capabilities"].as_object()?;
    let wanted = declared.iter().filter(|(_, value)| value.as_bool() == Some(true));
    let given: serde_json::Map<String, Value> =
        wanted.filter_map(|(name, _)| Some((name.clone(), arguments.get(name)?.clone()))).collect();
    (!given.is_empty()).then(|| given.into())
}

#[cfg(test)]
mod tests {
    use proto::cri::PortMapping;

    use super::*;

    #[test]
    fn plugins_get_what_they_declare() {
        let config = PodSandboxConfig {
            port_mappings: vec![
                PortMapping { container_port: 80, host_port: 8080, ..PortMapping::default() },
                PortMapping { container_port: 81, ..PortMapping::default() },
            ],
            annotations: BTreeMap::from([(INGRESS.to_owned(), "10M".to_owned())]),
            ..PodSandboxConfig::default()
        };
        let all = capabilities(&config, "/a").unwrap();
        assert_eq!(all["portMappings"].as_array().unwrap().len(), 1, "a host port of 0 is none");
        assert_eq!(all["bandwidth"], json!({ "ingressRate": 10_000_000, "ingressBurst": BURST }));
        let plugin =
            json!({ "type": "portmap", "capabilities": { "portMappings": true, "bandwidth": false, "ips": true } });
        let given = for_plugin(&plugin, &all).unwrap();
        assert_eq!(given.as_object().unwrap().keys().collect::<Vec<_>>(), ["portMappings"]);
        assert_eq!(for_plugin(&json!({ "type": "bridge" }), &all), None);
    }

    #[test]
    fn quantities() {
        for (text, value) in [
            ("10", Some(10)),
            ("10M", Some(10_000_000)),
            ("1Ki", Some(1024)),
            ("M", None),
            ("1.5M", None),
            ("1X", None),
            ("99999999P", None),
            ("", None),
        ] {
            assert_eq!(quantity(text), value, "{text:?}");
        }
    }
}
