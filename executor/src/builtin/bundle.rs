//! What libcontainer gets to see of a bundle: a folder with a link to the root of the real one, and a `config.json` that was changed
//! where this machine or libcontainer needs it. Every change that weakens what was asked for is returned as a warning.
//!
//! Changed are: `linux.cgroupsPath` (default `/<id>`), `process.oomScoreAdj` and `process.rlimits` (clamped where this
//! process may not raise them), mounts of type `cgroup` where cgroups are v1 (libcontainer would mount those writable
//! whatever the options say), and the three things our own [workload](super::workload) does in libcontainer's place:
//! working folder, capabilities, user environment. The capability sets stay in the file under a name that
//! libcontainer overlooks and that hooks written in Go, whose JSON names have no case, still find.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Component, Path};

use nix::sys::resource::{Resource, getrlimit};
use serde_json::{Map, Value, json};

use crate::cgroup::{self, Mode, ROOT};

/// The key under which hooks find the capabilities.
const OVERLOOKED: &str = "Capabilities";
/// The v1 controllers that libcontainer joins.
const CONTROLLERS: [&str; 12] = [
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
];
/// Larger specs are refused; the largest real ones, with thousands of mounts, stay below 1 MiB.
const MAX_SPEC: u64 = 16 << 20;

/// Reads a spec or process file.
pub(super) fn read(path: &Path) -> Result<Value, String> {
    let shown = path.display();
    let meta = fs::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => format!("JSON specification file {shown} not found"),
        _ => format!("{shown}: {error}"),
    })?;
    if meta.len() > MAX_SPEC {
        return Err(format!("{shown} is larger than {MAX_SPEC} bytes"));
    }
    let bytes = fs::read(path).map_err(|error| format!("{shown}: {error}"))?;
    serde_json::from_slice(&bytes).map_err(|error| format!("{shown}: {error}"))
}

/// Makes the view in `folder`, which must not exist: the spec, and a link to what its root path begins with.
pub(super) fn make_view(bundle: &Path, folder: &Path, spec: &Value) -> io::Result<()> {
    fs::create_dir(folder)?;
    let root = Path::new(spec.pointer("/root/path").and_then(Value::as_str).unwrap_or("rootfs"));
    let first = root.components().find_map(|part| match part {
        Component::Normal(name) => Some(name),
        _ => None,
    });
    // One link, not one for each file of the bundle: they are made and removed with every container.
    if let Some(first) = first.filter(|_| root.is_relative()) {
        symlink(bundle.join(first), folder.join(first))?;
    }
    write_json(&folder.join("config.json"), spec)
}

pub(super) fn write_json(path: &Path, value: &Value) -> io::Result<()> {
    fs::write(path, serde_json::to_vec(value).map_err(io::Error::from)?)
}

/// Changes a spec for libcontainer; returns warnings.
pub(super) fn adapt_spec(spec: &mut Value, id: &str) -> Vec<String> {
    if let Some(linux) = spec.get_mut("linux").and_then(Value::as_object_mut) {
        let path = linux.get("cgroupsPath").and_then(Value::as_str).unwrap_or_default();
        if path.is_empty() {
            linux.insert("cgroupsPath".to_owned(), json!(format!("/{id}")));
        }
    }
    if cgroup::probe(Path::new(ROOT)) != Mode::V2 {
        spell_out_cgroup_mounts(spec, Path::new(ROOT));
    }
    match spec.get_mut("process").and_then(Value::as_object_mut) {
        Some(process) => adapt_process(process),
        None => Vec::new(),
    }
}

/// Replaces a mount of type `cgroup` by a tmpfs with a bind mount of the container's own folder per v1 controller.
fn spell_out_cgroup_mounts(spec: &mut Value, root: &Path) {
    let path = spec.pointer("/linux/cgroupsPath").and_then(Value::as_str).unwrap_or_default().to_owned();
    let Some(mounts) = spec.get_mut("mounts").and_then(Value::as_array_mut) else { return };
    let mut spelled = Vec::with_capacity(mounts.len());
    for mount in mounts.drain(..) {
        if mount.get("type").and_then(Value::as_str) != Some("cgroup") {
            spelled.push(mount);
            continue;
        }
        let target = Path::new(mount.get("destination").and_then(Value::as_str).unwrap_or_default());
        let options = ["nosuid", "noexec", "nodev", "mode=755"];
        spelled.push(json!({ "destination": target, "type": "tmpfs", "source": "tmpfs", "options": options }));
        let asked = mount.get("options").and_then(Value::as_array).cloned().unwrap_or_default();
        let is_read_only = asked.iter().any(|option| option == "ro");
        let options = ["bind", "nosuid", "noexec", "nodev", if is_read_only { "ro" } else { "rw" }];
        for controller in CONTROLLERS.into_iter().filter(|controller| root.join(controller).is_dir()) {
            let source = cgroup::below(&root.join(controller), Path::new(&path));
            let target = target.join(controller);
            spelled.push(json!({ "destination": target, "type": "bind", "source": source, "options": options }));
        }
    }
    *mounts = spelled;
}

/// Changes what a process, of a spec or of an exec, asks for and cannot have here; returns warnings.
pub(super) fn restrict_process(process: &mut Map<String, Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    restrict_oom_score(process, &mut warnings);
    restrict_rlimits(process, &mut warnings);
    warnings
}

/// Changes the process of a spec for libcontainer; returns warnings.
pub(super) fn adapt_process(process: &mut Map<String, Value>) -> Vec<String> {
    if let Some(capabilities) = process.remove("capabilities") {
        process.insert(OVERLOOKED.to_owned(), capabilities);
    }
    process.insert("cwd".to_owned(), json!("/"));
    restrict_process(process)
}

/// Lowering the score needs a capability that nested machines lack. Trying is the only reliable question.
fn restrict_oom_score(process: &mut Map<String, Value>, warnings: &mut Vec<String>) {
    const SCORE: &str = "/proc/self/oom_score_adj";
    let Some(wanted) = process.get("oomScoreAdj").and_then(Value::as_i64) else { return };
    let current = fs::read_to_string(SCORE).unwrap_or_default();
    let denied = fs::write(SCORE, wanted.to_string())
        .is_err_and(|error| matches!(error.kind(), io::ErrorKind::PermissionDenied));
    if denied {
        process.remove("oomScoreAdj");
        warnings.push(format!("oom_score_adj {wanted} is not permitted here, it stays at {}", current.trim()));
    }
}

fn restrict_rlimits(process: &mut Map<String, Value>, warnings: &mut Vec<String>) {
    let privileged = rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::SYS_RESOURCE));
    let Some(limits) = process.get_mut("rlimits").and_then(Value::as_array_mut) else { return };
    if privileged {
        return;
    }
    for limit in limits.iter_mut().filter_map(Value::as_object_mut) {
        let name = limit.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        let Some((_, allowed)) = resource(&name).and_then(|resource| getrlimit(resource).ok()) else { continue };
        for bound in ["hard", "soft"] {
            if limit.get(bound).and_then(Value::as_u64).is_some_and(|wanted| wanted > allowed) {
                let wanted = limit.insert(bound.to_owned(), json!(allowed));
                let wanted = wanted.unwrap_or_default();
                warnings.push(format!("{bound} limit {wanted} of {name} is not permitted here, {allowed} is used"));
            }
        }
    }
}

pub(super) fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "RLIMIT_AS" => Resource::RLIMIT_AS,
        "RLIMIT_CORE" => Resource::RLIMIT_CORE,
        "RLIMIT_CPU" => Resource::RLIMIT_CPU,
        "RLIMIT_DATA" => Resource::RLIMIT_DATA,
        "RLIMIT_FSIZE" => Resource::RLIMIT_FSIZE,
        "RLIMIT_LOCKS" => Resource::RLIMIT_LOCKS,
        "RLIMIT_MEMLOCK" => Resource::RLIMIT_MEMLOCK,
        "RLIMIT_MSGQUEUE" => Resource::RLIMIT_MSGQUEUE,
        "RLIMIT_NICE" => Resource::RLIMIT_NICE,
        "RLIMIT_NOFILE" => Resource::RLIMIT_NOFILE,
        "RLIMIT_NPROC" => Resource::RLIMIT_NPROC,
        "RLIMIT_RSS" => Resource::RLIMIT_RSS,
        "RLIMIT_RTPRIO" => Resource::RLIMIT_RTPRIO,
        "RLIMIT_RTTIME" => Resource::RLIMIT_RTTIME,
        "RLIMIT_SIGPENDING" => Resource::RLIMIT_SIGPENDING,
        "RLIMIT_STACK" => Resource::RLIMIT_STACK,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_without_cgroup_path_gets_its_id_as_path() {
        let mut spec =
            json!({ "linux": {}, "process": { "cwd": "/work", "capabilities": { "bounding": ["CAP_KILL"] } } });
        adapt_spec(&mut spec, "web");
        assert_eq!(spec["linux"]["cgroupsPath"], "/web");
        assert_eq!(spec["process"]["cwd"], "/");
        assert!(spec["process"].get("capabilities").is_none());
        assert_eq!(spec["process"][OVERLOOKED]["bounding"][0], "CAP_KILL");
        let mut other = json!({ "linux": { "cgroupsPath": "/a/b" } });
        adapt_spec(&mut other, "web");
        assert_eq!(other["linux"]["cgroupsPath"], "/a/b");
    }

    #[test]
    fn cgroup_mounts_become_one_bind_per_controller_with_the_same_right_to_write() {
        let root = tempfile::tempdir().unwrap();
        for name in ["memory", "pids", "unified", "systemd"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        for (asked, given) in [("ro", "ro"), ("relatime", "rw")] {
            let mut spec = json!({
                "linux": { "cgroupsPath": "/a/../b" },
                "mounts": [{ "destination": "/proc" }, { "destination": "/cg", "type": "cgroup", "options": [asked] }],
            });
            spell_out_cgroup_mounts(&mut spec, root.path());
            let mounts = spec["mounts"].as_array().unwrap();
            let targets: Vec<&str> = mounts.iter().map(|mount| mount["destination"].as_str().unwrap()).collect();
            assert_eq!(targets, ["/proc", "/cg", "/cg/memory", "/cg/pids"]);
            assert_eq!(mounts[2]["source"], json!(root.path().join("memory/a/b")));
            assert_eq!(mounts[2]["options"].as_array().unwrap().last().unwrap(), given);
        }
    }

    #[test]
    fn rlimits_above_ours_are_clamped_with_a_warning_or_left_when_permitted() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let mut process = json!({ "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": hard + 1, "soft": 5 }] });
        let warnings = adapt_process(process.as_object_mut().unwrap());
        let privileged =
            rustix::thread::capabilities(None).unwrap().effective.contains(rustix::thread::CapabilitySet::SYS_RESOURCE);
        assert_eq!(warnings.is_empty(), privileged);
        assert_eq!(process["rlimits"][0]["hard"], if privileged { hard + 1 } else { hard });
        assert_eq!(process["rlimits"][0]["soft"], 5);
    }

    #[test]
    fn the_view_shows_everything_but_its_own_config() {
        let folder = tempfile::tempdir().unwrap();
        let bundle = folder.path().join("bundle");
        fs::create_dir_all(bundle.join("rootfs/etc")).unwrap();
        fs::write(bundle.join("config.json"), "{}").unwrap();
        let view = folder.path().join("view");
        make_view(&bundle, &view, &json!({ "changed": true })).unwrap();
        assert!(view.join("rootfs/etc").is_dir());
        assert_eq!(read(&view.join("config.json")).unwrap(), json!({ "changed": true }));
        assert_eq!(read(&bundle.join("config.json")).unwrap(), json!({}));
    }
}
