//! Compares definitions: names, numbers, types, and the methods of services.

use std::collections::BTreeSet;

use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, ServiceDescriptor};

use crate::{
    ALONE, OWN,
    contract::{CONTRACT, Definitions, OURS},
    our_name,
};

/// What the sources have and we leave out.
const LEFT_OUT: [(&str, &str); 1] = [("ttrpc.Code/", "codes are plain numbers here; `proto::status` has their names")];

/// What we have and the sources, older than the contract, lack. Fields are `message/field`, methods `service/method`.
const ADDED: [(&str, &str); 29] = [
    ("containerd.events.ContentCreate/mediaType", "newer than the crates"),
    ("containerd.runc.v1.CheckpointOptions/parent_path", "newer than the crates"),
    ("containerd.services.sandbox.v1.ControllerStartResponse/spec", "newer than the crates"),
    ("containerd.services.snapshots.v1.CommitSnapshotRequest/parent", "2.2 and later, for parallel unpacking"),
    ("containerd.services.tasks.v1.CreateTaskRequest/task_api_address", "2.3 and later"),
    ("containerd.services.tasks.v1.CreateTaskRequest/task_api_version", "2.3 and later"),
    ("containerd.services.mounts.v1.", "a service of 2.2 and later"),
    ("containerd.types.transfer.ReadStream", "newer than the crates, and types only"),
    ("containerd.types.transfer.WriteStream", "newer than the crates, and types only"),
    ("containerd.types.transfer.ContainerPath", "newer than the crates, and types only"),
    ("runtime.v1.Stream", "lists as streams, Kubernetes 1.36"),
    ("runtime.v1.RuntimeService/Stream", "lists as streams, Kubernetes 1.36"),
    ("runtime.v1.ImageService/Stream", "lists as streams, Kubernetes 1.36"),
    ("runtime.v1.RuntimeService/UpdatePodSandboxResources", "Kubernetes 1.33 and later"),
    ("runtime.v1.UpdatePodSandboxResources", "Kubernetes 1.33 and later"),
    ("runtime.v1.Mount/image_sub_path", "Kubernetes 1.33 and later"),
    ("runtime.v1.ImageSpec/image_ref", "newer than the crate"),
    ("runtime.v1.Signal/", "stop signals, Kubernetes 1.33 and later"),
    ("runtime.v1.ContainerConfig/stop_signal", "stop signals"),
    ("runtime.v1.ContainerStatus/stop_signal", "stop signals"),
    ("runtime.v1.Psi", "pressure, newer than the crate"),
    ("runtime.v1.IoUsage", "pressure"),
    ("runtime.v1.CpuUsage/psi", "pressure"),
    ("runtime.v1.MemoryUsage/psi", "pressure"),
    ("runtime.v1.ContainerStats/io", "pressure"),
    ("runtime.v1.LinuxPodSandboxStats/io", "pressure"),
    ("runtime.v1.RuntimeFeatures/user_namespaces_host_network", "newer than the crate"),
    (OWN, "our own package"),
    (ALONE, "no crate carries these definitions"),
];

/// Where a source says the same in other words.
const SAME_ON_THE_WIRE: [(&str, &str); 2] = [
    ("google.rpc.Status/code", "an enum in ttrpc's copy, an int32 in Google's: the same varint"),
    ("runtime.v1.KeyValue/value", "a string once, bytes now"),
];

fn is_listed(list: &[(&str, &str)], name: &str) -> bool {
    list.iter().any(|(prefix, _)| name.starts_with(prefix))
}

/// Everything about a field that shows on the wire, and its name.
fn field(field: &FieldDescriptor) -> String {
    let kind = match field.kind() {
        Kind::Message(of) if of.is_map_entry() => {
            let (key, value) = (of.map_entry_key_field(), of.map_entry_value_field());
            format!("map<{}, {}>", self::kind(&key.kind()), self::kind(&value.kind()))
        }
        other => kind(&other),
    };
    let oneof = field.containing_oneof().map_or_else(String::new, |oneof| format!(" in {}", oneof.name()));
    format!(
        "{} = {} {:?} {kind} packed={} presence={} json={}{oneof}",
        field.name(),
        field.number(),
        field.cardinality(),
        field.is_packed(),
        field.supports_presence(),
        field.json_name(),
    )
}

fn kind(kind: &Kind) -> String {
    match kind {
        Kind::Message(of) => our_name(of.full_name()),
        Kind::Enum(of) => our_name(of.full_name()),
        other => format!("{other:?}"),
    }
}

fn fields(message: &MessageDescriptor) -> BTreeSet<String> {
    let name = our_name(message.full_name());
    message
        .fields()
        .filter(|field| !is_listed(&SAME_ON_THE_WIRE, &format!("{name}/{}", field.name())))
        .map(|each| format!("{name}/{}", field(&each)))
        .collect()
}

fn values(of: &EnumDescriptor) -> BTreeSet<String> {
    let name = our_name(of.full_name());
    of.values().map(|value| format!("{name}/{} = {}", value.name(), value.number())).collect()
}

fn methods(service: &ServiceDescriptor) -> BTreeSet<String> {
    let name = our_name(service.full_name());
    service
        .methods()
        .map(|method| {
            let stream = |yes| if yes { "stream " } else { "" };
            format!(
                "{name}/{}({}{}) returns ({}{})",
                method.name(),
                stream(method.is_client_streaming()),
                method.input().full_name(),
                stream(method.is_server_streaming()),
                method.output().full_name(),
            )
        })
        .collect()
}

/// Every line that a set of definitions amounts to.
fn lines(definitions: &Definitions) -> BTreeSet<String> {
    let pool = &definitions.pool;
    let mut all = BTreeSet::new();
    for message in pool.all_messages().filter(|message| !message.is_map_entry()) {
        all.insert(format!("message {}", our_name(message.full_name())));
        all.extend(fields(&message));
    }
    for each in pool.all_enums() {
        all.extend(values(&each));
    }
    for service in pool.services() {
        all.extend(methods(&service));
    }
    all.retain(|line| !line.trim_start_matches("message ").starts_with("google.protobuf."));
    all
}

#[test]
fn we_lack_nothing_of_the_contract_and_have_nothing_differently() {
    let ours = lines(&OURS);
    for source in CONTRACT.iter() {
        let missing: Vec<_> = lines(source)
            .into_iter()
            .filter(|line| !ours.contains(line) && !is_listed(&LEFT_OUT, line.trim_start_matches("message ")))
            .collect();
        assert!(missing.is_empty(), "{} has and we have not:\n{}", source.from, missing.join("\n"));
    }
}

#[test]
fn what_only_we_have_is_named_with_a_reason() {
    let theirs: BTreeSet<_> = CONTRACT.iter().flat_map(lines).collect();
    let ours = lines(&OURS);
    let added: Vec<_> = ours.difference(&theirs).map(|line| line.trim_start_matches("message ")).collect();
    let unnamed: Vec<_> =
        added.iter().filter(|line| !is_listed(&ADDED, line) && !is_listed(&SAME_ON_THE_WIRE, line)).copied().collect();
    assert!(unnamed.is_empty(), "only we have:\n{}", unnamed.join("\n"));
    for (name, _) in ADDED.iter().filter(|(name, _)| *name != OWN) {
        assert!(added.iter().any(|line| line.starts_with(name)), "{name} is no addition any more");
    }
}

#[test]
fn the_names_of_ttrpc_services_are_those_of_the_contract() {
    let known: BTreeSet<_> = CONTRACT
        .iter()
        .flat_map(|source| source.pool.services())
        .map(|service| service.full_name().to_owned())
        .collect();
    for name in [proto::service::TASK_V3, proto::service::EVENTS, proto::service::SANDBOX] {
        assert!(known.contains(name), "{name}");
    }
    // The definition of version 2 is that of version 3 under another name, so nobody ships it.
    assert_eq!(proto::service::TASK_V2.replace("v2", "v3"), proto::service::TASK_V3);
}
