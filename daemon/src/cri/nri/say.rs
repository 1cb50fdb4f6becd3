//! Pods and containers as plugins see them. Pure: records and specifications in, messages out.

use proto::cri::ContainerState;
use proto::nri as wire;
use serde_json::Value;

use crate::cri::Pod;
use crate::cri::record::{ContainerRecord, PodRecord};
use crate::cri::state::of_container;

/// A pod.
pub(super) fn pod(pod: &Pod) -> wire::PodSandbox {
    of_record(&pod.id, &pod.record())
}

fn of_record(id: &str, record: &PodRecord) -> wire::PodSandbox {
    let metadata = record.metadata();
    let config = record.config.clone().unwrap_or_default();
    let linux = config.linux.unwrap_or_default();
    let resources = |of: Option<&proto::cri::LinuxContainerResources>| of.map(cri_resources);
    wire::PodSandbox {
        id: id.to_owned(),
        name: metadata.name,
        uid: metadata.uid,
        namespace: metadata.namespace,
        labels: config.labels,
        annotations: config.annotations,
        runtime_handler: record.handler.clone(),
        linux: Some(wire::LinuxPodSandbox {
            pod_overhead: resources(record.overhead.as_ref().or(linux.overhead.as_ref())),
            pod_resources: resources(record.resources.as_ref().or(linux.resources.as_ref())),
            cgroup_parent: linux.cgroup_parent,
            cgroups_path: record.cgroups_path.clone(),
            ..Default::default()
        }),
        pid: record.pid,
        ips: record.addresses.clone(),
    }
}

/// A container with its specification.
pub(super) fn container(id: &str, record: &ContainerRecord, spec: &Value) -> wire::Container {
    let config = record.config.clone().unwrap_or_default();
    let process = &spec["process"];
    let state = match of_container(record) {
        _ if record.created_at == 0 => wire::ContainerState::ContainerUnknown,
        ContainerState::ContainerCreated => wire::ContainerState::ContainerCreated,
        ContainerState::ContainerRunning => wire::ContainerState::ContainerRunning,
        ContainerState::ContainerExited => wire::ContainerState::ContainerStopped,
        ContainerState::ContainerUnknown => wire::ContainerState::ContainerUnknown,
    };
    wire::Container {
        id: id.to_owned(),
        pod_sandbox_id: record.pod.clone(),
        name: config.metadata.map(|metadata| metadata.name).unwrap_or_default(),
        state: state.into(),
        labels: config.labels,
        annotations: config.annotations,
        args: texts(&process["args"]),
        env: texts(&process["env"]),
        mounts: list(&spec["mounts"], mount),
        hooks: spec["hooks"].is_object().then(|| hooks(&spec["hooks"])),
        linux: Some(linux(spec)),
        pid: record.pid,
        rlimits: list(&process["rlimits"], |limit| wire::PosixRlimit {
            r#type: text(&limit["type"]),
            hard: limit["hard"].as_u64().unwrap_or_default(),
            soft: limit["soft"].as_u64().unwrap_or_default(),
        }),
        created_at: record.created_at,
        started_at: record.started_at,
        finished_at: record.finished_at,
        exit_code: record.exit_code,
        status_reason: record.reason.clone(),
        status_message: record.message.clone(),
        cdi_devices: config.cdi_devices.into_iter().map(|device| wire::CdiDevice { name: device.name }).collect(),
        user: Some(wire::User {
            uid: number(&process["user"]["uid"]),
            gid: number(&process["user"]["gid"]),
            additional_gids: list(&process["user"]["additionalGids"], number),
        }),
    }
}

fn linux(spec: &Value) -> wire::LinuxContainer {
    let of = &spec["linux"];
    wire::LinuxContainer {
        namespaces: list(&of["namespaces"], |namespace| wire::LinuxNamespace {
            r#type: text(&namespace["type"]),
            path: text(&namespace["path"]),
        }),
        devices: list(&of["devices"], |device| wire::LinuxDevice {
            path: text(&device["path"]),
            r#type: text(&device["type"]),
            major: device["major"].as_i64().unwrap_or_default(),
            minor: device["minor"].as_i64().unwrap_or_default(),
            file_mode: device["fileMode"]
                .as_u64()
                .map(|_| wire::OptionalFileMode { value: number(&device["fileMode"]) }),
            uid: device["uid"].as_u64().map(|_| wire::OptionalUInt32 { value: number(&device["uid"]) }),
            gid: device["gid"].as_u64().map(|_| wire::OptionalUInt32 { value: number(&device["gid"]) }),
        }),
        resources: Some(resources(&of["resources"])),
        oom_score_adj: spec["process"]["oomScoreAdj"].as_i64().map(|value| wire::OptionalInt { value }),
        cgroups_path: text(&of["cgroupsPath"]),
        sysctl: map(&of["sysctl"]),
        ..Default::default()
    }
}

fn mount(mount: &Value) -> wire::Mount {
    wire::Mount {
        destination: text(&mount["destination"]),
        r#type: text(&mount["type"]),
        source: text(&mount["source"]),
        options: texts(&mount["options"]),
    }
}

fn hooks(hooks: &Value) -> wire::Hooks {
    let hook = |hook: &Value| wire::Hook {
        path: text(&hook["path"]),
        args: texts(&hook["args"]),
        env: texts(&hook["env"]),
        timeout: hook["timeout"].as_i64().map(|value| wire::OptionalInt { value }),
    };
    wire::Hooks {
        prestart: list(&hooks["prestart"], hook),
        create_runtime: list(&hooks["createRuntime"], hook),
        create_container: list(&hooks["createContainer"], hook),
        start_container: list(&hooks["startContainer"], hook),
        poststart: list(&hooks["poststart"], hook),
        poststop: list(&hooks["poststop"], hook),
    }
}

/// Resources in the form of the runtime specification.
pub(super) fn resources(of: &Value) -> wire::LinuxResources {
    let (memory, cpu) = (&of["memory"], &of["cpu"]);
    let signed = |value: &Value| value.as_i64().map(|value| wire::OptionalInt64 { value });
    let unsigned = |value: &Value| value.as_u64().map(|value| wire::OptionalUInt64 { value });
    let flag = |value: &Value| value.as_bool().map(|value| wire::OptionalBool { value });
    wire::LinuxResources {
        memory: memory.is_object().then(|| wire::LinuxMemory {
            limit: signed(&memory["limit"]),
            reservation: signed(&memory["reservation"]),
            swap: signed(&memory["swap"]),
            kernel: signed(&memory["kernel"]),
            kernel_tcp: signed(&memory["kernelTCP"]),
            swappiness: unsigned(&memory["swappiness"]),
            disable_oom_killer: flag(&memory["disableOOMKiller"]),
            use_hierarchy: flag(&memory["useHierarchy"]),
        }),
        cpu: cpu.is_object().then(|| wire::LinuxCpu {
            shares: unsigned(&cpu["shares"]),
            quota: signed(&cpu["quota"]),
            period: unsigned(&cpu["period"]),
            realtime_runtime: signed(&cpu["realtimeRuntime"]),
            realtime_period: unsigned(&cpu["realtimePeriod"]),
            cpus: text(&cpu["cpus"]),
            mems: text(&cpu["mems"]),
        }),
        hugepage_limits: list(&of["hugepageLimits"], |limit| wire::HugepageLimit {
            page_size: text(&limit["pageSize"]),
            limit: limit["limit"].as_u64().unwrap_or_default(),
        }),
        unified: map(&of["unified"]),
        devices: list(&of["devices"], |rule| wire::LinuxDeviceCgroup {
            allow: rule["allow"].as_bool().unwrap_or_default(),
            r#type: text(&rule["type"]),
            major: signed(&rule["major"]),
            minor: signed(&rule["minor"]),
            access: text(&rule["access"]),
        }),
        pids: of["pids"]["limit"].as_i64().map(|limit| wire::LinuxPids { limit }),
        ..Default::default()
    }
}

/// Resources as a kubelet asks for them.
pub(in crate::cri) fn cri_resources(of: &proto::cri::LinuxContainerResources) -> wire::LinuxResources {
    let signed = |value: i64| (value != 0).then_some(wire::OptionalInt64 { value });
    let unsigned =
        |value: i64| u64::try_from(value).ok().filter(|value| *value != 0).map(|value| wire::OptionalUInt64 { value });
    wire::LinuxResources {
        memory: Some(wire::LinuxMemory {
            limit: signed(of.memory_limit_in_bytes),
            swap: signed(of.memory_swap_limit_in_bytes),
            ..Default::default()
        }),
        cpu: Some(wire::LinuxCpu {
            shares: unsigned(of.cpu_shares),
            quota: signed(of.cpu_quota),
            period: unsigned(of.cpu_period),
            cpus: of.cpuset_cpus.clone(),
            mems: of.cpuset_mems.clone(),
            ..Default::default()
        }),
        hugepage_limits: of
            .hugepage_limits
            .iter()
            .map(|limit| wire::HugepageLimit { page_size: limit.page_size.clone(), limit: limit.limit })
            .collect(),
        unified: of.unified.clone(),
        ..Default::default()
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    list(value, text)
}

fn number(value: &Value) -> u32 {
    value.as_u64().and_then(|value| u32::try_from(value).ok()).unwrap_or_default()
}

fn list<T>(value: &Value, item: impl Fn(&Value) -> T) -> Vec<T> {
    value.as_array().into_iter().flatten().map(item).collect()
}

fn map(value: &Value) -> std::collections::BTreeMap<String, String> {
    value.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), text(value))).collect()
}
