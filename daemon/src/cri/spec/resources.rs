//! What a container may use. Pure over the facts of the machine; turning shares into weights is the executor's.

use std::collections::BTreeMap;

use proto::cri::LinuxContainerResources;
use serde_json::{Map, Value, json};

use super::SpecError;
use super::host::Host;

/// The least and the largest score there is (proc(5)).
const OOM_SCORES: std::ops::RangeInclusive<i64> = -1000..=1000;

/// What the daemon's configuration says about limits.
#[derive(Debug, Clone, Copy, Default)]
pub struct Policy {
    /// Limits for huge pages are not set at all.
    pub disable_hugetlb: bool,
    /// They are ignored where they cannot be set.
    pub tolerate_missing_hugetlb: bool,
    /// Scores below the daemon's own are raised to it.
    pub restrict_oom_score: Option<i32>,
    /// Block I/O classes are ignored where they cannot be set.
    pub ignore_blockio: bool,
    /// RDT classes are ignored where they cannot be set.
    pub ignore_rdt: bool,
}

/// `linux.resources` without the rules for devices.
///
/// # Errors
/// A limit makes no sense or cannot be set here.
pub fn to_json(wanted: &LinuxContainerResources, policy: Policy, host: &Host) -> Result<Map<String, Value>, SpecError> {
    let mut resources = Map::new();
    let mut cpu = Map::new();
    let mut number = |name: &str, field: &str, value: i64, least: i64| {
        if value < least {
            return Err(SpecError::invalid(format!("{field} {value} makes no sense")));
        }
        if value != 0 {
            cpu.insert(name.to_owned(), json!(value));
        }
        Ok(())
    };
    number("shares", "cpu_shares", wanted.cpu_shares, 0)?;
    // -1 is no quota.
    number("quota", "cpu_quota", wanted.cpu_quota, -1)?;
    number("period", "cpu_period", wanted.cpu_period, 0)?;
    for (name, field, text) in
        [("cpus", "cpuset_cpus", &wanted.cpuset_cpus), ("mems", "cpuset_mems", &wanted.cpuset_mems)]
    {
        if !text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b',' | b'-' | b' ')) {
            return Err(SpecError::invalid(format!("{field} {text:?} is no list of numbers")));
        }
        if !text.is_empty() {
            cpu.insert(name.to_owned(), json!(text));
        }
    }
    if !cpu.is_empty() {
        resources.insert("cpu".into(), cpu.into());
    }
    if let Some(memory) = memory(wanted, host)? {
        resources.insert("memory".into(), memory);
    }
    if let Some(limits) = hugepages(wanted, policy, host)? {
        resources.insert("hugepageLimits".into(), limits);
    }
    if !wanted.unified.is_empty() {
        if let Some(key) = wanted.unified.keys().find(|key| !is_cgroup_file(key)) {
            return Err(SpecError::invalid(format!("unified key {key:?} is no file of a cgroup")));
        }
        if !host.cgroup_v2 {
            return Err(SpecError::unsupported(
                "unified resources need cgroups of version 2, this machine has version 1",
            ));
        }
        resources.insert("unified".into(), json!(wanted.unified));
    }
    Ok(resources)
}

fn is_cgroup_file(key: &str) -> bool {
    key.contains('.') && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

fn memory(wanted: &LinuxContainerResources, host: &Host) -> Result<Option<Value>, SpecError> {
    let (limit, swap) = (wanted.memory_limit_in_bytes, wanted.memory_swap_limit_in_bytes);
    if limit < -1 || swap < -1 {
        return Err(SpecError::invalid(format!("a memory limit of {limit} and {swap} with swap makes no sense")));
    }
    let mut memory = Map::new();
    if limit != 0 {
        memory.insert("limit".into(), json!(limit));
    }
    // Without a word about swap there is none: the two limits are one.
    let swap = if swap == 0 { limit } else { swap };
    if swap != 0 && host.swap_controller {
        memory.insert("swap".into(), json!(swap));
    }
    Ok((!memory.is_empty()).then(|| memory.into()))
}

fn hugepages(wanted: &LinuxContainerResources, policy: Policy, host: &Host) -> Result<Option<Value>, SpecError> {
    if policy.disable_hugetlb || wanted.hugepage_limits.is_empty() {
        return Ok(None);
    }
    if host.hugepage_sizes.is_empty() {
        return match policy.tolerate_missing_hugetlb {
            true => Ok(None),
            false => Err(SpecError::unsupported("huge pages are limited, but this machine has no hugetlb controller")),
        };
    }
    let limits = wanted.hugepage_limits.iter().filter(|limit| {
        // Kubelets name every size with a limit of zero, whether or not the machine has it.
        limit.limit != 0 || host.hugepage_sizes.contains(&limit.page_size)
    });
    let mut values = Vec::new();
    for limit in limits {
        if !host.hugepage_sizes.contains(&limit.page_size) {
            return Err(SpecError::invalid(format!("this machine has no huge pages of size {:?}", limit.page_size)));
        }
        values.push(json!({"pageSize": limit.page_size, "limit": limit.limit}));
    }
    Ok((!values.is_empty()).then(|| values.into()))
}

/// How ready the container is to be killed for memory; `None` leaves it as it is.
///
/// # Errors
/// There is no such score.
pub fn oom_score(wanted: i64, policy: Policy, host: &Host) -> Result<i32, SpecError> {
    if !OOM_SCORES.contains(&wanted) {
        return Err(SpecError::invalid(format!("oom_score_adj {wanted} is not from -1000 to 1000")));
    }
    let wanted = i32::try_from(wanted).unwrap_or_default();
    let least = [policy.restrict_oom_score, host.least_oom_score].into_iter().flatten().max();
    Ok(least.map_or(wanted, |least| wanted.max(least)))
}

/// The class of block I/O or of cache and memory bandwidth that annotations name, the container's own first.
fn class(
    kind: &str,
    container_name: &str,
    container: &BTreeMap<String, String>,
    pod: &BTreeMap<String, String>,
) -> Option<String> {
    let own = container.get(&format!("io.kubernetes.cri.{kind}-class"));
    let prefix = format!("{kind}.resources.beta.kubernetes.io");
    let of_pod =
        || pod.get(&format!("{prefix}/container.{container_name}")).or_else(|| pod.get(&format!("{prefix}/pod")));
    own.or_else(of_pod).filter(|class| !class.is_empty()).cloned()
}

/// `linux.intelRdt`, if a class is named.
///
/// # Errors
/// The class cannot be had here.
pub fn rdt(
    container_name: &str,
    container: &BTreeMap<String, String>,
    pod: &BTreeMap<String, String>,
    policy: Policy,
    host: &Host,
) -> Result<Option<Value>, SpecError> {
    let Some(class) = class("rdt", container_name, container, pod) else { return Ok(None) };
    if !class.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
        || class.starts_with('.')
    {
        return Err(SpecError::invalid(format!("{class:?} is no name of an RDT class")));
    }
    match host.resctrl {
        true => Ok(Some(json!({"closID": class}))),
        false if policy.ignore_rdt => Ok(None),
        false => Err(SpecError::unsupported(format!(
            "RDT class {class:?} is asked for, but RDT is not enabled on this machine"
        ))),
    }
}

/// Block I/O classes are not served.
///
/// # Errors
/// A class is named, and to ignore that is not configured.
pub fn blockio(
    container_name: &str,
    container: &BTreeMap<String, String>,
    pod: &BTreeMap<String, String>,
    policy: Policy,
) -> Result<(), SpecError> {
    match class("blockio", container_name, container, pod) {
        Some(class) if !policy.ignore_blockio => Err(SpecError::unsupported(format!(
            "blockio class {class:?} is asked for, but blockio classes are not supported"
        ))),
        _ => Ok(()),
    }
}

/// Resources after an update: what it names replaces what was, the rest stays.
pub fn merged(old: &LinuxContainerResources, update: &LinuxContainerResources) -> LinuxContainerResources {
    let number = |old: i64, new: i64| if new == 0 { old } else { new };
    let text = |old: &str, new: &str| if new.is_empty() { old.to_owned() } else { new.to_owned() };
    let mut hugepages = old.hugepage_limits.clone();
    for limit in &update.hugepage_limits {
        hugepages.retain(|known| known.page_size != limit.page_size);
        hugepages.push(limit.clone());
    }
    let mut unified = old.unified.clone();
    unified.extend(update.unified.iter().map(|(key, value)| (key.clone(), value.clone())));
    LinuxContainerResources {
        cpu_period: number(old.cpu_period, update.cpu_period),
        cpu_quota: number(old.cpu_quota, update.cpu_quota),
        cpu_shares: number(old.cpu_shares, update.cpu_shares),
        memory_limit_in_bytes: number(old.memory_limit_in_bytes, update.memory_limit_in_bytes),
        oom_score_adj: number(old.oom_score_adj, update.oom_score_adj),
        cpuset_cpus: text(&old.cpuset_cpus, &update.cpuset_cpus),
        cpuset_mems: text(&old.cpuset_mems, &update.cpuset_mems),
        hugepage_limits: hugepages,
        unified,
        memory_swap_limit_in_bytes: number(old.memory_swap_limit_in_bytes, update.memory_swap_limit_in_bytes),
    }
}

#[cfg(test)]
mod tests {
    use proto::cri::HugepageLimit;

    use super::*;

    fn made(wanted: &LinuxContainerResources, host: &Host) -> Result<Value, SpecError> {
        to_json(wanted, Policy::default(), host).map(Value::Object)
    }

    fn host() -> Host {
        Host { swap_controller: true, hugepage_sizes: vec!["2MB".into()], cgroup_v2: true, ..Host::default() }
    }

    #[test]
    fn each_limit_has_its_place() {
        let base = LinuxContainerResources::default;
        for (wanted, expected) in [
            (base(), json!({})),
            (
                LinuxContainerResources { cpu_period: 1000, cpu_quota: 500, cpu_shares: 2, ..base() },
                json!({"cpu": {"period": 1000, "quota": 500, "shares": 2}}),
            ),
            (
                LinuxContainerResources { cpuset_cpus: "0-1".into(), cpuset_mems: "0".into(), ..base() },
                json!({"cpu": {"cpus": "0-1", "mems": "0"}}),
            ),
            (
                LinuxContainerResources { memory_limit_in_bytes: 9, ..base() },
                json!({"memory": {"limit": 9, "swap": 9}}),
            ),
            (
                LinuxContainerResources { memory_limit_in_bytes: 9, memory_swap_limit_in_bytes: 12, ..base() },
                json!({"memory": {"limit": 9, "swap": 12}}),
            ),
            (
                LinuxContainerResources { memory_limit_in_bytes: 9, memory_swap_limit_in_bytes: -1, ..base() },
                json!({"memory": {"limit": 9, "swap": -1}}),
            ),
            (
                LinuxContainerResources {
                    hugepage_limits: vec![
                        HugepageLimit { page_size: "2MB".into(), limit: 4 },
                        HugepageLimit { page_size: "1GB".into(), limit: 0 },
                    ],
                    ..base()
                },
                json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4}]}),
            ),
            (
                LinuxContainerResources { unified: [("memory.high".into(), "5".into())].into(), ..base() },
                json!({"unified": {"memory.high": "5"}}),
            ),
        ] {
            assert_eq!(made(&wanted, &host()).unwrap(), expected, "{wanted:?}");
        }
    }

    #[test]
    fn what_makes_no_sense_or_cannot_be_set_is_refused() {
        let base = LinuxContainerResources::default;
        let one = |size: &str| vec![HugepageLimit { page_size: size.into(), limit: 4 }];
        for (wanted, host) in [
            (LinuxContainerResources { cpu_period: -1, ..base() }, host()),
            (LinuxContainerResources { cpu_quota: -2, ..base() }, host()),
            (LinuxContainerResources { cpu_shares: -1, ..base() }, host()),
            (LinuxContainerResources { cpuset_cpus: "all".into(), ..base() }, host()),
            (LinuxContainerResources { memory_limit_in_bytes: -5, ..base() }, host()),
            (LinuxContainerResources { hugepage_limits: one("1GB"), ..base() }, host()),
            (LinuxContainerResources { hugepage_limits: one("2MB"), ..base() }, Host::default()),
            (LinuxContainerResources { unified: [("../x.y".into(), "5".into())].into(), ..base() }, host()),
            (LinuxContainerResources { unified: [("a.b".into(), "5".into())].into(), ..base() }, Host::default()),
        ] {
            assert!(made(&wanted, &host).is_err(), "{wanted:?}");
        }
        let limited = LinuxContainerResources { memory_limit_in_bytes: 9, ..base() };
        assert_eq!(made(&limited, &Host::default()).unwrap(), json!({"memory": {"limit": 9}}));
        let tolerant = Policy { tolerate_missing_hugetlb: true, ..Policy::default() };
        let wanted = LinuxContainerResources { hugepage_limits: one("2MB"), ..base() };
        assert!(to_json(&wanted, tolerant, &Host::default()).unwrap().is_empty());
    }

    #[test]
    fn scores_are_raised_to_what_is_permitted() {
        let bound = Host { least_oom_score: Some(-5), ..Host::default() };
        let restricted = Policy { restrict_oom_score: Some(10), ..Policy::default() };
        for (wanted, policy, host, expected) in [
            (0, Policy::default(), &Host::default(), Some(0)),
            (-998, Policy::default(), &Host::default(), Some(-998)),
            (-998, Policy::default(), &bound, Some(-5)),
            (500, Policy::default(), &bound, Some(500)),
            (-998, restricted, &bound, Some(10)),
            (1001, Policy::default(), &bound, None),
            (-1001, Policy::default(), &bound, None),
        ] {
            assert_eq!(oom_score(wanted, policy, host).ok(), expected, "{wanted} {policy:?}");
        }
    }

    #[test]
    fn classes_are_taken_or_refused_by_name() {
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let host = Host { resctrl: true, ..Host::default() };
        let pod = map(&[
            ("rdt.resources.beta.kubernetes.io/pod", "p"),
            ("rdt.resources.beta.kubernetes.io/container.c", "q"),
        ]);
        let own = map(&[("io.kubernetes.cri.rdt-class", "o")]);
        let (none, plain) = (BTreeMap::new(), Policy::default());
        let found = |name: &str, container: &BTreeMap<String, String>| {
            rdt(name, container, &pod, plain, &host).unwrap().map(|value| value["closID"].as_str().unwrap().to_owned())
        };
        assert_eq!(
            [found("c", &own), found("c", &none), found("d", &none)],
            ["o", "q", "p"].map(|s| Some(s.to_owned()))
        );
        let error = rdt("c", &own, &none, plain, &Host::default()).unwrap_err();
        assert!(error.to_string().contains("\"o\""), "{error}");
        assert_eq!(rdt("c", &own, &none, Policy { ignore_rdt: true, ..plain }, &Host::default()).unwrap(), None);
        assert!(rdt("c", &map(&[("io.kubernetes.cri.rdt-class", "../x")]), &none, plain, &host).is_err());
        let slow = map(&[("blockio.resources.beta.kubernetes.io/pod", "slow")]);
        let error = blockio("c", &none, &slow, plain).unwrap_err();
        assert!(error.to_string().contains("\"slow\""), "{error}");
        assert!(blockio("c", &none, &slow, Policy { ignore_blockio: true, ..plain }).is_ok());
    }

    #[test]
    fn an_update_changes_what_it_names() {
        let old = LinuxContainerResources {
            cpu_shares: 2,
            memory_limit_in_bytes: 9,
            cpuset_cpus: "0".into(),
            hugepage_limits: vec![HugepageLimit { page_size: "2MB".into(), limit: 4 }],
            unified: [("a.b".into(), "1".into())].into(),
            ..Default::default()
        };
        let update = LinuxContainerResources {
            cpu_shares: 3,
            hugepage_limits: vec![HugepageLimit { page_size: "2MB".into(), limit: 5 }],
            unified: [("c.d".into(), "2".into())].into(),
            ..Default::default()
        };
        let merged = merged(&old, &update);
        assert_eq!((merged.cpu_shares, merged.memory_limit_in_bytes, merged.cpuset_cpus.as_str()), (3, 9, "0"));
        assert_eq!(merged.hugepage_limits, update.hugepage_limits);
        assert_eq!(merged.unified.len(), 2);
    }
}
