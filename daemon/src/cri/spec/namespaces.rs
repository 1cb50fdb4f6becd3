//! Which namespaces a container shares with its pod, with another container, with the machine. Pure.

use proto::cri::{IdMapping, LinuxContainerSecurityContext, NamespaceMode, NamespaceOption, UserNamespace};
use serde_json::{Value, json};

use super::SpecError;

/// What is known of the pod and its processes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Around<'a> {
    /// The pod's first process, which holds the pod's namespaces.
    pub pod_pid: u32,
    /// The user namespace of the pod; what a container says must be the same.
    pub pod_users: Option<&'a UserNamespace>,
    /// The first process of the container whose processes are to be seen, if one is.
    pub target_pid: Option<u32>,
    /// Whether the pod has the network of the machine.
    pub host_network: bool,
    /// Cgroups are version 2 only.
    pub cgroup_v2: bool,
}

/// The part of a specification about namespaces.
#[derive(Debug, Clone, PartialEq)]
pub struct Namespaces {
    /// `linux.namespaces`.
    pub list: Vec<Value>,
    /// `linux.uidMappings`, empty without a user namespace.
    pub uids: Vec<Value>,
    /// `linux.gidMappings`.
    pub gids: Vec<Value>,
}

/// Decides it.
///
/// # Errors
/// A mode is not one for this kind of namespace, or the users are not the pod's.
pub fn resolve(security: &LinuxContainerSecurityContext, around: Around<'_>) -> Result<Namespaces, SpecError> {
    let none = NamespaceOption::default();
    let options = security.namespace_options.as_ref().unwrap_or(&none);
    let of_pod = |kind: &str, file: &str| json!({"type": kind, "path": format!("/proc/{}/ns/{file}", around.pod_pid)});
    let mut list = vec![json!({"type": "mount"})];
    let users = users(options.userns_options.as_ref(), around.pod_users)?;
    if users.is_some() {
        list.push(of_pod("user", "user"));
    }
    match mode(options.network, "network")? {
        // The name of the machine goes with its network.
        NamespaceMode::Node => {}
        NamespaceMode::Pod if around.host_network => {}
        NamespaceMode::Pod => list.extend([of_pod("network", "net"), of_pod("uts", "uts")]),
        other => return Err(wrong("network", other)),
    }
    match mode(options.ipc, "ipc")? {
        NamespaceMode::Node => {}
        NamespaceMode::Pod => list.push(of_pod("ipc", "ipc")),
        other => return Err(wrong("ipc", other)),
    }
    match mode(options.pid, "pid")? {
        NamespaceMode::Node => {}
        NamespaceMode::Pod => list.push(of_pod("pid", "pid")),
        NamespaceMode::Container => list.push(json!({"type": "pid"})),
        NamespaceMode::Target => {
            let pid = around.target_pid.ok_or_else(|| {
                SpecError::invalid(format!("target container {:?} does not run in this pod", options.target_id))
            })?;
            list.push(json!({"type": "pid", "path": format!("/proc/{pid}/ns/pid")}));
        }
    }
    if around.cgroup_v2 && !security.privileged {
        list.push(json!({"type": "cgroup"}));
    }
    let (uids, gids) = users.unwrap_or_default();
    Ok(Namespaces { list, uids, gids })
}

fn mode(value: i32, kind: &str) -> Result<NamespaceMode, SpecError> {
    NamespaceMode::try_from(value).map_err(|_| SpecError::invalid(format!("unknown {kind} namespace mode {value}")))
}

fn wrong(kind: &str, mode: NamespaceMode) -> SpecError {
    SpecError::invalid(format!("{} is no mode of the {kind} namespace", mode.as_str_name()))
}

/// Mappings as a specification has them.
type Mappings = (Vec<Value>, Vec<Value>);

fn users(own: Option<&UserNamespace>, pod: Option<&UserNamespace>) -> Result<Option<Mappings>, SpecError> {
    let node = UserNamespace { mode: NamespaceMode::Node.into(), uids: Vec::new(), gids: Vec::new() };
    let own = own.unwrap_or(&node);
    let pod = pod.unwrap_or(&node);
    match mode(own.mode, "user")? {
        NamespaceMode::Node if !own.uids.is_empty() || !own.gids.is_empty() => {
            Err(SpecError::invalid("there are user mappings without a user namespace"))
        }
        NamespaceMode::Node if mode(pod.mode, "user")? == NamespaceMode::Node => Ok(None),
        NamespaceMode::Pod if (own.mode, &own.uids, &own.gids) == (pod.mode, &pod.uids, &pod.gids) => {
            if own.uids.is_empty() || own.gids.is_empty() {
                return Err(SpecError::invalid("a user namespace needs mappings of users and groups"));
            }
            Ok(Some((mappings(&own.uids)?, mappings(&own.gids)?)))
        }
        NamespaceMode::Node | NamespaceMode::Pod => {
            Err(SpecError::invalid("the user namespace of a container must be that of its pod"))
        }
        other => Err(wrong("user", other)),
    }
}

/// Mappings of ids as a specification has them.
///
/// # Errors
/// A mapping is of no ids, or beyond the largest one.
pub fn mappings(mappings: &[IdMapping]) -> Result<Vec<Value>, SpecError> {
    mappings
        .iter()
        .map(|IdMapping { host_id, container_id, length }| {
            let fits =
                *length > 0 && host_id.checked_add(*length).is_some() && container_id.checked_add(*length).is_some();
            match fits {
                true => Ok(json!({"containerID": container_id, "hostID": host_id, "size": length})),
                false => {
                    Err(SpecError::invalid(format!("id mapping of {length} ids from {container_id} to {host_id}")))
                }
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(security: &LinuxContainerSecurityContext, around: Around<'_>) -> Option<Vec<String>> {
        let made = resolve(security, around).ok()?;
        Some(
            made.list
                .iter()
                .map(|one| match one["path"].as_str() {
                    Some(path) => format!("{}={path}", one["type"].as_str().unwrap()),
                    None => one["type"].as_str().unwrap().to_owned(),
                })
                .collect(),
        )
    }

    fn with(options: NamespaceOption) -> LinuxContainerSecurityContext {
        LinuxContainerSecurityContext { namespace_options: Some(options), ..Default::default() }
    }

    #[test]
    fn modes_as_a_table() {
        use NamespaceMode::{Container, Node, Pod, Target};
        let around = Around { pod_pid: 7, ..Around::default() };
        let all = |network: NamespaceMode, pid: NamespaceMode, ipc: NamespaceMode| {
            with(NamespaceOption { network: network.into(), pid: pid.into(), ipc: ipc.into(), ..Default::default() })
        };
        let shared =
            ["mount", "network=/proc/7/ns/net", "uts=/proc/7/ns/uts", "ipc=/proc/7/ns/ipc", "pid=/proc/7/ns/pid"];
        let own_pid = ["mount", "network=/proc/7/ns/net", "uts=/proc/7/ns/uts", "ipc=/proc/7/ns/ipc", "pid"];
        for (security, expected) in [
            (LinuxContainerSecurityContext::default(), Some(&shared[..])),
            (all(Pod, Container, Pod), Some(&own_pid[..])),
            (all(Node, Node, Node), Some(&["mount"][..])),
            (all(Pod, Target, Pod), None),
            (all(Container, Pod, Pod), None),
            (all(Pod, Pod, Container), None),
            (all(Pod, Pod, Target), None),
        ] {
            let expected = expected.map(|list| list.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>());
            assert_eq!(kinds(&security, around), expected, "{security:?}");
        }
        let target = Around { target_pid: Some(9), ..around };
        assert!(kinds(&all(Pod, Target, Pod), target).unwrap().contains(&"pid=/proc/9/ns/pid".to_owned()));
        let host = Around { host_network: true, ..around };
        assert!(kinds(&all(Pod, Node, Node), host).unwrap() == ["mount"]);
        let v2 = Around { cgroup_v2: true, ..around };
        assert!(kinds(&all(Node, Node, Node), v2).unwrap() == ["mount", "cgroup"]);
        let privileged = LinuxContainerSecurityContext { privileged: true, ..all(Node, Node, Node) };
        assert!(kinds(&privileged, v2).unwrap() == ["mount"]);
    }

    #[test]
    fn users_are_the_pods() {
        let map = |host: u32| vec![IdMapping { host_id: host, container_id: 0, length: 65536 }];
        let space = |mode: NamespaceMode, host: &[u32]| UserNamespace {
            mode: mode.into(),
            uids: host.iter().flat_map(|host| map(*host)).collect(),
            gids: host.iter().flat_map(|host| map(*host)).collect(),
        };
        use NamespaceMode::{Container, Node, Pod};
        for (own, pod, good) in [
            (None, None, true),
            (Some(space(Node, &[])), None, true),
            (Some(space(Node, &[1])), None, false),
            (Some(space(Pod, &[1])), Some(space(Pod, &[1])), true),
            (Some(space(Pod, &[1, 9])), Some(space(Pod, &[1, 9])), true),
            (Some(space(Pod, &[1])), Some(space(Pod, &[2])), false),
            (Some(space(Pod, &[1])), None, false),
            (Some(space(Pod, &[])), Some(space(Pod, &[])), false),
            (None, Some(space(Pod, &[1])), false),
            (Some(space(Container, &[1])), Some(space(Container, &[1])), false),
        ] {
            let security = with(NamespaceOption { userns_options: own.clone(), ..Default::default() });
            let made = resolve(&security, Around { pod_users: pod.as_ref(), ..Around::default() });
            assert_eq!(made.is_ok(), good, "{own:?} {pod:?}");
            if let (Ok(made), Some(own)) = (made, own) {
                assert_eq!(made.uids.len(), own.uids.len());
            }
        }
        assert!(mappings(&[IdMapping { host_id: u32::MAX, container_id: 0, length: 2 }]).is_err());
        assert!(mappings(&[IdMapping { host_id: 0, container_id: 0, length: 0 }]).is_err());
    }
}
