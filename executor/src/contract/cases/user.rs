//! User namespaces and mounts with other owners.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

use serde_json::{Value, json};

use crate::Ended;
use crate::contract::Lab;

/// The user of the host who is root in the container.
const HOST_ROOT: u32 = 100_000;

fn mapping() -> Value {
    json!([{ "containerID": 0, "hostID": HOST_ROOT, "size": 65_536 }])
}

/// Gives the root filesystem to the container's root and lets it pass the folders above.
fn give(lab: &Lab) {
    fn all(path: &Path) {
        lchown(path, Some(HOST_ROOT), Some(HOST_ROOT)).unwrap();
        if fs::symlink_metadata(path).unwrap().is_dir() {
            fs::read_dir(path).unwrap().for_each(|entry| all(&entry.unwrap().path()));
        }
    }
    all(&lab.rootfs());
    for folder in [lab.path().to_owned(), lab.path().join("bundle")] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o711)).unwrap();
    }
}

fn in_user_namespace(mut spec: Value) -> Value {
    spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
    spec["linux"]["uidMappings"] = mapping();
    spec["linux"]["gidMappings"] = mapping();
    spec
}

/// Root in the container is somebody else outside, for the init and for execs; files belong to that one; `/proc` is there.
pub fn a_user_namespace_maps_users(lab: &Lab) {
    give(lab);
    let spec = in_user_namespace(lab.script("id -u; cat /proc/self/uid_map; touch /made; sleep 1000"));
    let container = lab.start(&spec);
    container.wait_for("65536\n");
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(&container.streams.text()), ["0", "0", "100000", "65536"]);
    let mut process = container.script("id -u; cat /proc/self/uid_map; touch /by-exec");
    let ran = container.exec("one", &process).unwrap();
    assert_eq!(words(&ran.output), ["0", "0", "100000", "65536"]);
    process = container.script("id -u; echo x > /proc/self/fd/1; touch /not-allowed");
    process["user"] = json!({ "uid": 1000, "gid": 1000 });
    let ran = container.exec("two", &process).unwrap();
    assert!(ran.output.contains("1000") && ran.output.contains("Permission denied"), "{ran:?}");
    for name in ["made", "by-exec"] {
        assert_eq!(fs::metadata(lab.rootfs().join(name)).unwrap().uid(), HOST_ROOT, "{name}");
    }
    let status = fs::read_to_string(format!("/proc/{}/status", container.pid)).unwrap();
    assert!(status.contains("Uid:\t100000\t100000"), "{status}");
}

/// A user namespace given by path is joined.
pub fn a_user_namespace_is_joined_by_path(lab: &Lab) {
    give(lab);
    let first = lab.start(&in_user_namespace(lab.spec(&["sleep", "1000"])));
    let mut spec = lab.script("cat /proc/self/uid_map");
    spec["linux"]["cgroupsPath"] = json!(format!("{}-second", spec["linux"]["cgroupsPath"].as_str().unwrap()));
    let path = format!("/proc/{}/ns/user", first.pid);
    spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user", "path": path }));
    let second = lab.create_with(&spec, "second", None).unwrap();
    second.start();
    let ran = second.wait();
    assert_eq!(ran.ended, Ended::Exited(0), "{ran:?}");
    assert!(ran.output.contains("100000"), "{ran:?}");
}

/// A bind mount with mappings of its own shows other owners.
pub fn an_idmapped_mount_shows_other_owners(lab: &Lab) {
    let outside = lab.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "").unwrap();
    let mut spec = lab.script("ls -ln /data");
    spec["mounts"].as_array_mut().unwrap().push(json!({
        "destination": "/data", "type": "bind", "source": outside, "options": ["bind", "idmap"],
        "uidMappings": [{ "containerID": 0, "hostID": 5000, "size": 10 }],
        "gidMappings": [{ "containerID": 0, "hostID": 6000, "size": 10 }],
    }));
    let ran = lab.run(&spec);
    assert!(ran.output.contains("5000") && ran.output.contains("6000"), "{ran:?}");
}
