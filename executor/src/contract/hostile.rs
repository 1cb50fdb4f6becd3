//! Images and specs that try to reach the host. Each case is a class of known attacks on runtimes; refusing to run is
//! always right, running without harm too.
#![expect(clippy::unwrap_used, reason = "these are tests, compiled as a library for other crates' tests")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};

use super::{Lab, Ran};
use crate::Ended;

/// Every case with its name.
#[expect(clippy::type_complexity, reason = "a table of names and functions")]
pub(super) const ALL: [(&str, fn(&Lab)); 8] = [
    ("a_redirected_proc_is_harmless", a_redirected_proc_is_harmless),
    ("a_proc_that_is_no_procfs_is_noticed", a_proc_that_is_no_procfs_is_noticed),
    ("a_redirected_dev_is_harmless", a_redirected_dev_is_harmless),
    ("devices_are_not_made_through_a_redirected_dev", devices_are_not_made_through_a_redirected_dev),
    ("a_mount_target_behind_a_link_stays_inside", a_mount_target_behind_a_link_stays_inside),
    ("a_false_dev_null_unmasks_nothing", a_false_dev_null_unmasks_nothing),
    ("a_linked_working_folder_stays_inside", a_linked_working_folder_stays_inside),
    ("a_relative_root_is_taken_from_the_bundle", a_relative_root_is_taken_from_the_bundle),
];

/// Runs, or says that it was refused.
fn try_run(lab: &Lab, spec: &Value) -> Option<Ran> {
    let container = lab.try_create(spec).ok()?;
    container.start();
    Some(container.wait())
}

fn outside(lab: &Lab) -> std::path::PathBuf {
    let folder = lab.path().join("outside");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("file"), "host").unwrap();
    folder
}

fn assert_untouched(outside: &Path) {
    let names: Vec<_> = fs::read_dir(outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["file"]);
    assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "host");
}

/// `/proc` of the image leads elsewhere: writes for sysctls and labels must not follow.
pub fn a_redirected_proc_is_harmless(lab: &Lab) {
    let outside = outside(lab);
    fs::remove_dir(lab.rootfs().join("proc")).unwrap();
    symlink(&outside, lab.rootfs().join("proc")).unwrap();
    let mut spec = lab.script("cat /proc/version");
    spec["linux"]["sysctl"] = json!({ "net.ipv4.ip_unprivileged_port_start": "0" });
    if let Some(ran) = try_run(lab, &spec) {
        assert!(ran.output.contains("Linux version"), "{ran:?}");
    }
    assert_untouched(&outside);
}

/// `/proc` is not procfs at all.
pub fn a_proc_that_is_no_procfs_is_noticed(lab: &Lab) {
    let mut spec = lab.script("exit 0");
    for mount in spec["mounts"].as_array_mut().unwrap() {
        if mount["destination"] == "/proc" {
            *mount = json!({ "destination": "/proc", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"] });
        }
    }
    spec["linux"]["sysctl"] = json!({ "net.ipv4.ip_unprivileged_port_start": "0" });
    spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "network");
    assert_eq!(try_run(lab, &spec), None, "a sysctl of the host's network is refused, and a false /proc too");
}

/// `/dev` of the image leads to the host: no device, no link appears there.
pub fn a_redirected_dev_is_harmless(lab: &Lab) {
    let outside = outside(lab);
    fs::remove_dir(lab.rootfs().join("dev")).unwrap();
    symlink(&outside, lab.rootfs().join("dev")).unwrap();
    try_run(lab, &lab.script("exit 0"));
    assert_untouched(&outside);
}

/// The same where no filesystem of its own is mounted there, so that the runtime makes devices in the image's folder.
pub fn devices_are_not_made_through_a_redirected_dev(lab: &Lab) {
    let outside = outside(lab);
    fs::remove_dir(lab.rootfs().join("dev")).unwrap();
    symlink(&outside, lab.rootfs().join("dev")).unwrap();
    let mut spec = lab.script("exit 0");
    spec["mounts"].as_array_mut().unwrap().retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    try_run(lab, &spec);
    assert_untouched(&outside);
}

/// A mount target below a link of the image: nothing is made on the host.
pub fn a_mount_target_behind_a_link_stays_inside(lab: &Lab) {
    let outside = outside(lab);
    symlink(&outside, lab.rootfs().join("link")).unwrap();
    symlink("../../../../../../../../../../tmp", lab.rootfs().join("up")).unwrap();
    let mut spec = lab.script("exit 0");
    let name = format!("executor-lab-made-{}", std::process::id());
    for target in ["/link/made".to_owned(), format!("/up/{name}"), format!("/run/../../../../tmp/{name}")] {
        let mount = json!({ "destination": target, "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"] });
        spec["mounts"].as_array_mut().unwrap().push(mount);
    }
    try_run(lab, &spec);
    assert_untouched(&outside);
    assert!(!Path::new("/tmp").join(name).exists());
}

/// The image's `/dev/null`, which is put over masked files, is something else.
pub fn a_false_dev_null_unmasks_nothing(lab: &Lab) {
    fs::write(lab.rootfs().join("secret"), "the secret").unwrap();
    fs::write(lab.rootfs().join("other"), "other").unwrap();
    symlink("/other", lab.rootfs().join("dev/null")).unwrap();
    let mut spec = lab.script("cat /secret; echo changed > /secret; cat /other");
    spec["mounts"].as_array_mut().unwrap().retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    spec["linux"]["maskedPaths"].as_array_mut().unwrap().push(json!("/secret"));
    if let Some(ran) = try_run(lab, &spec) {
        assert!(!ran.output.contains("the secret") && !ran.output.contains("changed"), "{ran:?}");
    }
    assert_eq!(fs::read_to_string(lab.rootfs().join("secret")).unwrap(), "the secret");
}

/// A working folder that is a link to the host's tree resolves inside.
pub fn a_linked_working_folder_stays_inside(lab: &Lab) {
    let outside = outside(lab);
    symlink(&outside, lab.rootfs().join("cwd")).unwrap();
    let mut spec = lab.script("ls; touch made");
    spec["process"]["cwd"] = json!("/cwd");
    if let Some(ran) = try_run(lab, &spec) {
        assert!(!ran.output.contains("file"), "{ran:?}");
    }
    assert_untouched(&outside);
}

/// The root itself is a link, as some clients make it: it is followed once, on the host, and the container is inside.
pub fn a_relative_root_is_taken_from_the_bundle(lab: &Lab) {
    symlink("rootfs", lab.path().join("bundle/alias")).unwrap();
    let mut spec = lab.script("test -x /bin/busybox && test ! -e /usr/sbin && echo inside");
    spec["root"]["path"] = json!("alias");
    if let Some(ran) = try_run(lab, &spec) {
        assert_eq!((ran.ended, ran.output.as_str()), (Ended::Exited(0), "inside\n"));
    }
}
