//! The machine: mounts, cgroups, shims and network namespaces that are ours, and tasks that do not answer.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use model::Namespace;
use proto::gantry::v1::finding::Kind;
use store::{Read, tables};

use super::{Doctor, Flow, Found, Report};

/// The folder of bundles below the state folder.
const BUNDLES: &str = "io.containerd.runtime.v2.task";

/// Where hierarchies of cgroups are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

pub(super) fn look(doctor: &Doctor, report: &mut Report<'_>) -> Flow {
    mounts(doctor, report)?;
    shims(doctor, report)?;
    sockets(doctor, report)?;
    cgroups(doctor, report)?;
    wedged(doctor, report)
}

fn mounts(doctor: &Doctor, report: &mut Report<'_>) -> Flow {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let (root, state) = (&doctor.config.root, &doctor.config.state);
    let tasks = doctor.tasks();
    for line in table.lines() {
        let mut fields = line.split(' ');
        let Some(point) = fields.nth(4).map(unescape) else { continue };
        if !point.starts_with(root) && !point.starts_with(state) || point == *root || point == *state {
            continue;
        }
        let kind = line.split(" - ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_default();
        let below = |top: &Path| point.strip_prefix(top).ok().map(Path::to_owned);
        if let Some(rest) = below(&state.join(BUNDLES)) {
            let task: Vec<_> =
                rest.components().take(2).map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
            let task = task.join("/");
            let is_owned = tasks.as_ref().is_none_or(|tasks| tasks.contains(&task));
            report.resource("mount", point.display(), if is_owned { format!("task {task}") } else { String::new() })?;
            if !is_owned && doctor.tasks().is_some_and(|tasks| !tasks.contains(&task)) {
                let sentence = format!("Something is still mounted for task {task}, which does not exist any more.");
                report.finding(Found::new(Kind::Orphaned, point.display(), sentence))?;
            }
        } else if kind == "nsfs" {
            let owner = netns_owner(doctor, &point);
            report.resource("netns", point.display(), owner.clone().unwrap_or_default())?;
            if owner.is_none() {
                let sentence =
                    "No pod and no container names this network namespace; its addresses may still be taken.";
                report.finding(Found::new(Kind::Orphaned, point.display(), sentence))?;
            }
        } else if let Some(rest) = below(&root.join("snapshots")) {
            let parts: Vec<_> = rest.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
            let number = parts.get(2).cloned().unwrap_or_default();
            let owner = parts.first().map(|driver| format!("snapshot {number} of {driver}"));
            report.resource("mount", point.display(), owner.unwrap_or_default())?;
        } else {
            report.resource("mount", point.display(), "the daemon")?;
        }
    }
    Flow::Continue(())
}

/// A path as the kernel writes it: `\040` is a space.
fn unescape(text: &str) -> PathBuf {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&first, more)) = rest.split_first() {
        let octal = (first == b'\\').then(|| more.get(..3)).flatten();
        let byte = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match byte {
            Some(byte) => {
                bytes.push(byte);
                rest = &more[3..];
            }
            None => {
                bytes.push(first);
                rest = more;
            }
        }
    }
    use std::os::unix::ffi::OsStringExt;
    std::ffi::OsString::from_vec(bytes).into()
}

/// The pod or container whose records name a network namespace.
fn netns_owner(doctor: &Doctor, path: &Path) -> Option<String> {
    let wanted = path.display().to_string();
    let names = |any: &store::record::Any| any.value.windows(wanted.len()).any(|window| window == wanted.as_bytes());
    let read = doctor.store.read();
    let shown = |key: &[u8]| store::key_parts(key).map(|parts| parts.join("/")).unwrap_or_default();
    for (key, record) in read.scan(&tables::SANDBOXES, b"").unwrap_or_default() {
        if record.spec.iter().chain(record.extensions.values()).any(names) {
            return Some(format!("sandbox {}", shown(&key)));
        }
    }
    for (key, record) in read.scan(&tables::CONTAINERS, b"").unwrap_or_default() {
        if record.spec.iter().chain(record.extensions.values()).any(names) {
            return Some(format!("container {}", shown(&key)));
        }
    }
    None
}

/// A process that serves tasks for this daemon.
struct ShimProcess {
    pid: u32,
    task: String,
}

/// The shims of this daemon: processes that were told its address.
fn running_shims(doctor: &Doctor) -> Vec<ShimProcess> {
    let addresses =
        [&doctor.config.grpc.socket.address, &doctor.config.ttrpc.address].map(|path| path.display().to_string());
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
        let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        let is_shim = words.first().is_some_and(|program| {
            Path::new(&**program).file_name().is_some_and(|name| name.to_string_lossy().contains("shim"))
        });
        let after = |flag: &str| {
            let at = words.iter().position(|word| word.trim_start_matches('-') == flag && word.starts_with('-'))?;
            words.get(at + 1).map(|word| word.to_string())
        };
        if is_shim && after("address").is_some_and(|address| addresses.contains(&address)) {
            let task = format!("{}/{}", after("namespace").unwrap_or_default(), after("id").unwrap_or_default());
            found.push(ShimProcess { pid, task });
        }
    }
    found
}

fn shims(doctor: &Doctor, report: &mut Report<'_>) -> Flow {
    let tasks = doctor.tasks();
    for ShimProcess { pid, task } in running_shims(doctor) {
        let is_sandbox = doctor.config.state.join("io.containerd.sandbox.controller.v1.shim").join(&task).exists();
        let is_owned = is_sandbox || tasks.as_ref().is_none_or(|tasks| tasks.contains(&task));
        let owner = if is_owned { format!("task {task}") } else { String::new() };
        report.resource("shim", format!("process {pid}"), owner)?;
        if !is_owned && doctor.tasks().is_some_and(|tasks| !tasks.contains(&task)) && is_alive(pid) {
            let sentence = format!(
                "The shim of {task} runs, but there is no such task; the next start of the daemon adopts it or ends it."
            );
            report.finding(Found::new(Kind::Orphaned, format!("process {pid}"), sentence))?;
        }
    }
    Flow::Continue(())
}

fn is_alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// Sockets of shims that nobody listens on any more.
fn sockets(doctor: &Doctor, report: &mut Report<'_>) -> Flow {
    let folder = doctor.config.shim_socket_dir();
    // A short folder may be shared with other daemons, whose sockets are none of our business.
    if !folder.starts_with(&doctor.config.state) {
        return Flow::Continue(());
    }
    let owners: BTreeMap<PathBuf, String> = doctor
        .tasks
        .iter()
        .flat_map(|tasks| tasks.live().into_iter().map(move |task| (tasks.clone(), task)))
        .filter_map(|(tasks, task)| {
            let socket = tasks.socket(&task.namespace, task.id.as_str())?;
            Some((socket, format!("task {}/{}", task.namespace, task.id)))
        })
        .collect();
    for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if let Some(owner) = owners.get(&path) {
            report.resource("shim", path.display(), owner.clone())?;
            continue;
        }
        let refused = |path: &Path| {
            UnixStream::connect(path).is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
        };
        if doctor.tasks.is_some() && refused(&path) && refused(&path) {
            let sentence = "Nobody listens on this socket any more: its shim is gone.";
            let found = Found::new(Kind::Orphaned, path.display(), sentence);
            report.finding(found.mended_by("remove the socket", || {
                if !refused(&path) {
                    return Err("somebody listens on it now".to_owned());
                }
                fs::remove_file(&path).map_err(|error| error.to_string())?;
                Ok("removed".to_owned())
            }))?;
        }
    }
    Flow::Continue(())
}

/// The cgroups of containers: those of tasks, and empty ones of containers that are not running.
fn cgroups(doctor: &Doctor, report: &mut Report<'_>) -> Flow {
    let live = doctor.tasks.as_ref().map(Tasks::live).unwrap_or_default();
    for task in &live {
        let lines = fs::read_to_string(format!("/proc/{}/cgroup", task.pid)).unwrap_or_default();
        let mut paths: Vec<&str> = lines.lines().filter_map(|line| line.splitn(3, ':').nth(2)).collect();
        paths.sort_unstable();
        paths.dedup();
        for path in paths.into_iter().filter(|path| *path != "/" && !path.contains("..")) {
            report.resource("cgroup", path, format!("task {}/{}", task.namespace, task.id))?;
        }
    }
    let Some(tasks) = doctor.tasks() else { return Flow::Continue(()) };
    let containers = doctor.store.read().keys(&tables::CONTAINERS, b"").unwrap_or_default();
    let names = containers.iter().filter_map(|key| store::key_parts(key).map(|parts| parts.join("/")));
    for name in names.filter(|name| !tasks.contains(name)) {
        for folder in hierarchies().into_iter().map(|top| top.join(&name)).filter(|folder| folder.is_dir()) {
            let members = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            if !members.trim().is_empty() || doctor.tasks().is_none_or(|tasks| tasks.contains(&name)) {
                continue;
            }
            let sentence = format!("The empty cgroup of container {name} is left over: it has no task.");
            let found = Found::new(Kind::Orphaned, folder.display(), sentence);
            report.finding(found.mended_by(
                "remove the cgroup, which the kernel allows only while it is empty",
                || {
                    fs::remove_dir(&folder).map_err(|error| error.to_string())?;
                    Ok("removed".to_owned())
                },
            ))?;
        }
    }
    Flow::Continue(())
}

use crate::tasks::Tasks;

/// The roots of all hierarchies.
fn hierarchies() -> Vec<PathBuf> {
    let top = PathBuf::from(CGROUPS);
    if top.join("cgroup.controllers").exists() {
        return vec![top];
    }
    let entries = fs::read_dir(&top).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

/// Tasks whose shim does not say what state they are in.
fn wedged(doctor: &Doctor, report: &mut Report<'_>) -> Flow {
    let Some(tasks) = &doctor.tasks else { return Flow::Continue(()) };
    let namespaces: std::collections::BTreeSet<Namespace> =
        tasks.live().into_iter().map(|task| task.namespace).collect();
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return Flow::Continue(()) };
    for namespace in namespaces {
        for process in runtime.block_on(tasks.list(&namespace)) {
            if process.status() == proto::process::Status::Unknown {
                let name = format!("task {namespace}/{}", process.id);
                let sentence = format!(
                    "The shim of {name} does not answer; the container may still run, but cannot be controlled."
                );
                report.finding(Found::new(Kind::Wedged, name, sentence))?;
            }
        }
    }
    Flow::Continue(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_kernel_are_read() {
        assert_eq!(unescape("/a\\040b\\134"), Path::new("/a b\\"));
        assert_eq!(unescape("/a\\9"), Path::new("/a\\9"));
    }
}
