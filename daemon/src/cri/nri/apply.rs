//! Adjustments into a specification. Pure. What there is no place for is an error that names it.

use proto::nri as wire;
use serde_json::{Map, Value, json};

/// Marks a removal.
const REMOVE: char = '-';
/// The scheduling policies, as both sides count and name them.
const POLICIES: [&str; 8] =
    ["", "SCHED_OTHER", "SCHED_FIFO", "SCHED_RR", "SCHED_BATCH", "SCHED_ISO", "SCHED_IDLE", "SCHED_DEADLINE"];

/// Makes `spec` what the plugins want.
///
/// # Errors
/// They want what cannot be done here; the text says what.
pub(super) fn adjust(spec: &mut Value, wanted: &wire::ContainerAdjustment) -> Result<(), String> {
    if !wanted.cdi_devices.is_empty() {
        return Err("NRI: devices by their CDI names cannot be added by plugins".to_owned());
    }
    for (key, value) in &wanted.annotations {
        match key.strip_prefix(REMOVE) {
            Some(name) => drop(object(spec, "annotations").remove(name)),
            None => drop(object(spec, "annotations").insert(key.clone(), json!(value))),
        }
    }
    let mounts = wanted.mounts.iter().map(|mount| {
        let value = json!({"destination": mount.destination, "type": mount.r#type, "source": mount.source, "options": mount.options});
        (mount.destination.as_str(), value)
    });
    entries(spec, "mounts", "destination", mounts);
    // A mount over another must come after it.
    if let Some(all) = spec["mounts"].as_array_mut() {
        all.sort_by_key(|mount| mount["destination"].as_str().unwrap_or_default().matches('/').count());
    }
    if !wanted.args.is_empty() {
        spec["process"]["args"] = json!(wanted.args);
    }
    env(spec, &wanted.env);
    if let Some(hooks) = &wanted.hooks {
        add_hooks(spec, hooks);
    }
    let limits = wanted
        .rlimits
        .iter()
        .map(|limit| (limit.r#type.as_str(), json!({"type": limit.r#type, "hard": limit.hard, "soft": limit.soft})));
    entries(&mut spec["process"], "rlimits", "type", limits);
    wanted.linux.as_ref().map_or(Ok(()), |linux| adjust_linux(spec, linux))
}

fn adjust_linux(spec: &mut Value, wanted: &wire::LinuxContainerAdjustment) -> Result<(), String> {
    if !wanted.net_devices.is_empty() {
        return Err("NRI: network devices cannot be moved into containers".to_owned());
    }
    if wanted.memory_policy.is_some() {
        return Err("NRI: memory policies cannot be set".to_owned());
    }
    if wanted.rdt.as_ref().is_some_and(|rdt| !rdt.remove) {
        return Err("NRI: RDT is not supported".to_owned());
    }
    devices(spec, &wanted.devices);
    let namespaces = wanted.namespaces.iter().map(|namespace| {
        let mut value = json!({"type": namespace.r#type});
        if !namespace.path.is_empty() {
            value["path"] = json!(namespace.path);
        }
        (namespace.r#type.as_str(), value)
    });
    entries(&mut spec["linux"], "namespaces", "type", namespaces);
    for (key, value) in &wanted.sysctl {
        match key.strip_prefix(REMOVE) {
            Some(name) => drop(object(&mut spec["linux"], "sysctl").remove(name)),
            None => drop(object(&mut spec["linux"], "sysctl").insert(key.clone(), json!(value))),
        }
    }
    if let Some(all) = &wanted.resources {
        if all.blockio_class.is_some() || all.rdt_class.is_some() {
            return Err("NRI: blockio and RDT classes are not supported".to_owned());
        }
        resources(&mut spec["linux"]["resources"], all);
    }
    if !wanted.cgroups_path.is_empty() {
        spec["linux"]["cgroupsPath"] = json!(wanted.cgroups_path);
    }
    if let Some(score) = &wanted.oom_score_adj {
        spec["process"]["oomScoreAdj"] = json!(score.value);
    }
    if let Some(priority) = &wanted.io_priority {
        spec["process"]["ioPriority"] = json!({"class": priority.class().as_str_name(), "priority": priority.priority});
    }
    if let Some(scheduler) = &wanted.scheduler {
        spec["process"]["scheduler"] = self::scheduler(scheduler);
    }
    if let Some(policy) = &wanted.seccomp_policy {
        spec["linux"]["seccomp"] = seccomp(policy);
    }
    Ok(())
}

/// Sets in `all` what `wanted` has.
pub(super) fn resources(all: &mut Value, wanted: &wire::LinuxResources) {
    macro_rules! set {
        ($part:literal, $of:expr; $($field:ident $name:literal),*) => {$(
            if let Some(value) = &$of.$field {
                all[$part][$name] = json!(value.value);
            }
        )*};
    }
    if let Some(memory) = &wanted.memory {
        set!("memory", memory; limit "limit", reservation "reservation", swap "swap", kernel "kernel", kernel_tcp "kernelTCP",
            swappiness "swappiness", disable_oom_killer "disableOOMKiller", use_hierarchy "useHierarchy");
    }
    if let Some(cpu) = &wanted.cpu {
        set!("cpu", cpu; shares "shares", quota "quota", period "period", realtime_runtime "realtimeRuntime",
            realtime_period "realtimePeriod");
        for (name, value) in [("cpus", &cpu.cpus), ("mems", &cpu.mems)] {
            if !value.is_empty() {
                all["cpu"][name] = json!(value);
            }
        }
    }
    if let Some(pids) = &wanted.pids {
        all["pids"]["limit"] = json!(pids.limit);
    }
    for (key, value) in &wanted.unified {
        object(all, "unified").insert(key.clone(), json!(value));
    }
    let limits = wanted
        .hugepage_limits
        .iter()
        .map(|limit| (limit.page_size.as_str(), json!({"pageSize": limit.page_size, "limit": limit.limit})));
    entries(all, "hugepageLimits", "pageSize", limits);
}

/// Devices, and the rules that let the container use them.
fn devices(spec: &mut Value, wanted: &[wire::LinuxDevice]) {
    let device = |device: &wire::LinuxDevice| {
        let mut value =
            json!({"path": device.path, "type": device.r#type, "major": device.major, "minor": device.minor});
        if let Some(mode) = &device.file_mode {
            value["fileMode"] = json!(mode.value);
        }
        if let Some(uid) = &device.uid {
            value["uid"] = json!(uid.value);
        }
        if let Some(gid) = &device.gid {
            value["gid"] = json!(gid.value);
        }
        value
    };
    for removed in wanted.iter().filter_map(|one| one.path.strip_prefix(REMOVE)) {
        let known =
            spec["linux"]["devices"].as_array().into_iter().flatten().find(|known| known["path"] == removed).cloned();
        if let (Some(known), Some(rules)) = (known, spec["linux"]["resources"]["devices"].as_array_mut()) {
            rules.retain(|rule| {
                rule["type"] != known["type"] || rule["major"] != known["major"] || rule["minor"] != known["minor"]
            });
        }
    }
    for added in wanted.iter().filter(|one| !one.path.starts_with(REMOVE)) {
        let rule =
            json!({"allow": true, "type": added.r#type, "major": added.major, "minor": added.minor, "access": "rwm"});
        array(&mut spec["linux"]["resources"], "devices").push(rule);
    }
    entries(&mut spec["linux"], "devices", "path", wanted.iter().map(|one| (one.path.as_str(), device(one))));
}

fn env(spec: &mut Value, wanted: &[wire::KeyValue]) {
    for variable in wanted {
        let name = variable.key.trim_start_matches(REMOVE);
        let all = array(&mut spec["process"], "env");
        all.retain(|line| line.as_str().is_none_or(|line| line.split('=').next() != Some(name)));
        if !variable.key.starts_with(REMOVE) {
            all.push(json!(format!("{}={}", variable.key, variable.value)));
        }
    }
}

fn add_hooks(spec: &mut Value, wanted: &wire::Hooks) {
    let all = [
        ("prestart", &wanted.prestart),
        ("createRuntime", &wanted.create_runtime),
        ("createContainer", &wanted.create_container),
        ("startContainer", &wanted.start_container),
        ("poststart", &wanted.poststart),
        ("poststop", &wanted.poststop),
    ];
    for (name, hooks) in all {
        for hook in hooks {
            let mut value = json!({"path": hook.path, "args": hook.args, "env": hook.env});
            if let Some(timeout) = &hook.timeout {
                value["timeout"] = json!(timeout.value);
            }
            array(&mut spec["hooks"], name).push(value);
        }
    }
}

fn scheduler(wanted: &wire::LinuxScheduler) -> Value {
    let policy = usize::try_from(wanted.policy).ok().and_then(|number| POLICIES.get(number)).unwrap_or(&"");
    let flags: Vec<_> = wanted.flags().map(|flag| flag.as_str_name()).collect();
    json!({
        "policy": policy, "nice": wanted.nice, "priority": wanted.priority, "flags": flags,
        "runtime": wanted.runtime, "deadline": wanted.deadline, "period": wanted.period,
    })
}

fn seccomp(wanted: &wire::LinuxSeccomp) -> Value {
    let argument = |of: &wire::LinuxSeccompArg| json!({"index": of.index, "value": of.value, "valueTwo": of.value_two, "op": of.op});
    let call = |of: &wire::LinuxSyscall| {
        let mut value =
            json!({"names": of.names, "action": of.action, "args": of.args.iter().map(argument).collect::<Vec<_>>()});
        if let Some(errno) = &of.errno_ret {
            value["errnoRet"] = json!(errno.value);
        }
        value
    };
    let mut value = json!({
        "defaultAction": wanted.default_action, "architectures": wanted.architectures, "flags": wanted.flags,
        "syscalls": wanted.syscalls.iter().map(call).collect::<Vec<_>>(),
    });
    if let Some(errno) = &wanted.default_errno {
        value["defaultErrnoRet"] = json!(errno.value);
    }
    if !wanted.listener_path.is_empty() {
        value["listenerPath"] = json!(wanted.listener_path);
        value["listenerMetadata"] = json!(wanted.listener_metadata);
    }
    value
}

/// Replaces, adds and removes entries of the list `name` in `parent`, which have their own names in `key`.
fn entries<'a>(parent: &mut Value, name: &str, key: &str, wanted: impl Iterator<Item = (&'a str, Value)>) {
    for (entry, value) in wanted {
        let all = array(parent, name);
        match entry.strip_prefix(REMOVE) {
            Some(removed) => all.retain(|known| known[key] != removed),
            None => match all.iter_mut().find(|known| known[key] == entry) {
                Some(known) => *known = value,
                None => all.push(value),
            },
        }
    }
}

/// The list `name` in `parent`; it is made if there is none.
fn array<'a>(parent: &'a mut Value, name: &str) -> &'a mut Vec<Value> {
    if !parent[name].is_array() {
        parent[name] = json!([]);
    }
    parent[name].as_array_mut().expect("made just now")
}

/// The map `name` in `parent`; it is made if there is none.
fn object<'a>(parent: &'a mut Value, name: &str) -> &'a mut Map<String, Value> {
    if !parent[name].is_object() {
        parent[name] = json!({});
    }
    parent[name].as_object_mut().expect("made just now")
}
