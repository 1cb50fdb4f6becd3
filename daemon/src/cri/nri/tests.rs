//! Merging and applying, as tables; and a plugin over a real socket, which is a small library of its own here.

use std::collections::BTreeMap;

use proto::nri as wire;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::merge::Merge;
use super::{apply, mux, validate};

fn container() -> wire::Container {
    wire::Container {
        id: "c".into(),
        name: "web".into(),
        env: vec!["A=1".into(), "B=2".into()],
        mounts: vec![wire::Mount { destination: "/data".into(), ..Default::default() }],
        ..Default::default()
    }
}

fn env(key: &str, value: &str) -> wire::KeyValue {
    wire::KeyValue { key: key.into(), value: value.into() }
}

fn limit(bytes: i64) -> wire::LinuxResources {
    let memory = wire::LinuxMemory { limit: Some(wire::OptionalInt64 { value: bytes }), ..Default::default() };
    wire::LinuxResources { memory: Some(memory), ..Default::default() }
}

fn of_linux(resources: wire::LinuxResources) -> wire::ContainerAdjustment {
    let linux = wire::LinuxContainerAdjustment { resources: Some(resources), ..Default::default() };
    wire::ContainerAdjustment { linux: Some(linux), ..Default::default() }
}

#[test]
fn plugins_see_what_those_before_them_did() {
    let mut merge = Merge::new(container());
    let first = wire::ContainerAdjustment { env: vec![env("C", "3"), env("-A", "")], ..Default::default() };
    merge.adjust("one", first).unwrap();
    assert_eq!(merge.container.env, ["B=2", "C=3"]);
    let second = wire::ContainerAdjustment { env: vec![env("B", "4")], args: vec!["sh".into()], ..Default::default() };
    merge.adjust("two", second).unwrap();
    assert_eq!(merge.container.env, ["B=4", "C=3"]);
    let mut spec = json!({"process": {"env": ["A=1", "B=2"], "args": ["true"]}});
    apply::adjust(&mut spec, &merge.adjust).unwrap();
    let mut lines: Vec<_> =
        spec["process"]["env"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    lines.sort_unstable();
    assert_eq!((lines, spec["process"]["args"].clone()), (vec!["B=4", "C=3"], json!(["sh"])));
}

#[test]
fn two_plugins_that_set_the_same_are_in_conflict() {
    let annotation = |value: &str| wire::ContainerAdjustment {
        annotations: BTreeMap::from([("key".to_owned(), value.to_owned())]),
        ..Default::default()
    };
    let mut merge = Merge::new(container());
    merge.adjust("one", annotation("1")).unwrap();
    merge.adjust("one", annotation("2")).unwrap();
    let conflict = merge.adjust("two", annotation("3")).unwrap_err();
    assert_eq!(conflict.to_string(), r#"plugins "one" and "two" both tried to set Annotations "key""#);
    merge.adjust("one", of_linux(limit(1))).unwrap();
    assert!(merge.adjust("two", of_linux(limit(2))).unwrap_err().what.contains("MemLimit"));
    let removal = wire::ContainerAdjustment {
        annotations: BTreeMap::from([("-key".to_owned(), String::new()), ("key".to_owned(), "4".to_owned())]),
        ..Default::default()
    };
    merge.adjust("three", removal).unwrap();
    assert_eq!(merge.container.annotations["key"], "4");
    assert!(
        merge.owners().owners["c"].compound.values().any(|of| of.owners.get("key").is_some_and(|who| who == "three"))
    );
}

#[test]
fn updates_of_others_are_gathered() {
    let mut merge = Merge::new(container());
    let update = |bytes| wire::ContainerUpdate {
        container_id: "other".into(),
        linux: Some(wire::LinuxContainerUpdate { resources: Some(limit(bytes)) }),
        ignore_failure: false,
    };
    merge.update("one", update(5)).unwrap();
    merge.update("two", update(6)).unwrap_err();
    assert_eq!(merge.updates().len(), 1);
}

#[test]
fn mounts_devices_limits_and_namespaces_reach_the_specification() {
    let mut spec = json!({
        "process": {},
        "mounts": [{"destination": "/data"}, {"destination": "/proc"}],
        "linux": {
            "devices": [{"path": "/dev/old", "type": "c", "major": 9, "minor": 9}],
            "resources": {"devices": [{"allow": true, "type": "c", "major": 9, "minor": 9, "access": "rwm"}]},
            "namespaces": [{"type": "network", "path": "/run/netns/x"}, {"type": "mount"}],
        },
    });
    let device = |path: &str| wire::LinuxDevice {
        path: path.into(),
        r#type: "c".into(),
        major: 1,
        minor: 3,
        ..Default::default()
    };
    let namespace = |name: &str| wire::LinuxNamespace { r#type: name.into(), path: String::new() };
    let wanted = wire::ContainerAdjustment {
        mounts: vec![
            wire::Mount { destination: "-/data".into(), ..Default::default() },
            wire::Mount {
                destination: "/a/b".into(),
                source: "/src".into(),
                r#type: "bind".into(),
                options: vec!["ro".into()],
            },
            wire::Mount { destination: "/a".into(), ..Default::default() },
        ],
        hooks: Some(wire::Hooks {
            poststop: vec![wire::Hook { path: "/bin/x".into(), ..Default::default() }],
            ..Default::default()
        }),
        linux: Some(wire::LinuxContainerAdjustment {
            devices: vec![device("-/dev/old"), device("/dev/null2")],
            namespaces: vec![namespace("-network"), namespace("uts")],
            resources: Some(limit(77)),
            oom_score_adj: Some(wire::OptionalInt { value: 5 }),
            io_priority: Some(wire::LinuxIoPriority { class: wire::IoPrioClass::IoprioClassBe.into(), priority: 3 }),
            ..Default::default()
        }),
        ..Default::default()
    };
    apply::adjust(&mut spec, &wanted).unwrap();
    let names: Vec<_> = spec["mounts"].as_array().unwrap().iter().map(|mount| mount["destination"].clone()).collect();
    assert_eq!(names, ["/proc", "/a", "/a/b"]);
    let linux = &spec["linux"];
    assert_eq!(linux["devices"], json!([{"path": "/dev/null2", "type": "c", "major": 1, "minor": 3}]));
    assert_eq!(
        linux["resources"]["devices"],
        json!([{"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"}])
    );
    assert_eq!(linux["namespaces"], json!([{"type": "mount"}, {"type": "uts"}]));
    assert_eq!(linux["resources"]["memory"]["limit"], 77);
    assert_eq!(spec["process"]["ioPriority"], json!({"class": "IOPRIO_CLASS_BE", "priority": 3}));
    assert_eq!(spec["hooks"]["poststop"][0]["path"], "/bin/x");
    let cdi =
        wire::ContainerAdjustment { cdi_devices: vec![wire::CdiDevice { name: "x".into() }], ..Default::default() };
    assert!(apply::adjust(&mut spec, &cdi).unwrap_err().contains("CDI"));
}

#[test]
fn the_rules_of_the_configuration_are_kept() {
    let rules: toml::Table = toml::from_str(
        "enable = true\nreject_oci_hook_adjustment = true\nrequired_plugins = ['a']\ntolerate_missing_plugins_annotation = 'ok'",
    )
    .unwrap();
    let mut pod = wire::PodSandbox::default();
    let nothing = wire::ContainerAdjustment::default();
    let judge = |pod: &wire::PodSandbox, adjust: &wire::ContainerAdjustment, plugins: &[&str]| {
        validate::by_rules(&rules, pod, &container(), adjust, plugins)
    };
    assert!(judge(&pod, &nothing, &["a"]).is_ok());
    assert!(judge(&pod, &nothing, &[]).unwrap_err().contains(r#""a" is not there"#));
    let hooks = wire::ContainerAdjustment { hooks: Some(wire::Hooks::default()), ..Default::default() };
    assert!(judge(&pod, &hooks, &["a"]).unwrap_err().contains("OCI hooks"));
    pod.annotations.insert("required-plugins.noderesource.dev/container.web".into(), r#"["b", "c"]"#.into());
    assert!(judge(&pod, &nothing, &["a", "b"]).unwrap_err().contains(r#""c""#));
    pod.annotations.insert("ok/pod".into(), "true".into());
    assert!(judge(&pod, &nothing, &[]).is_ok());
}

/// A message of ttrpc of `length` bytes, as the other side reads it: in frames of a number and a length.
async fn message(trunk: &mut UnixStream) -> (u32, Vec<usize>, usize) {
    let (mut lengths, mut total, mut wanted, mut connection) = (Vec::new(), 0, usize::MAX, 0);
    while total < wanted {
        connection = trunk.read_u32().await.unwrap();
        let length = trunk.read_u32().await.unwrap() as usize;
        let mut frame = vec![0; length];
        trunk.read_exact(&mut frame).await.unwrap();
        if total == 0 {
            wanted = 10 + u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
        }
        lengths.push(length);
        total += length;
    }
    (connection, lengths, total)
}

#[tokio::test]
async fn messages_go_out_in_frames_that_the_other_side_has_room_for() {
    let (trunk, mut peer) = UnixStream::pair().unwrap();
    let tracker = TaskTracker::new();
    let stop = CancellationToken::new();
    let mut ends = mux::split(trunk, &tracker, &stop).unwrap();
    for (length, frames) in [(5_usize, vec![15_usize]), (20_000, vec![4096, 15_914])] {
        let mut bytes = u32::try_from(length).unwrap().to_be_bytes().to_vec();
        bytes.resize(10 + length, 7);
        ends.plugin.write_all(&bytes).await.unwrap();
        assert_eq!(message(&mut peer).await, (mux::PLUGIN, frames, 10 + length));
    }
    peer.write_all(&[0, 0, 0, 2, 0, 0, 0, 3, b'a', b'b', b'c']).await.unwrap();
    peer.write_all(&[0, 0, 0, 9, 0, 0, 0, 1, b'x']).await.unwrap();
    let mut got = [0; 3];
    ends.runtime.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"abc");
    drop(peer);
    assert_eq!(ends.runtime.read(&mut got).await.unwrap(), 0);
    tracker.close();
    tracker.wait().await;
}
