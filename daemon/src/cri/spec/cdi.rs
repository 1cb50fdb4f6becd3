//! Devices by name: what vendors wrote down about them (Container Device Interface), put into a specification.
//!
//! A name is `vendor/class=device`. Specifications are files in a few folders of the host, of which later ones win; two of one folder
//! that define the same device make it unusable. They are the administrator's, so what they say is done, but they are bounded.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::devices::Device;
use super::{SpecError, mounts};

/// The prefix of annotations whose values are names of devices.
const ANNOTATION: &str = "cdi.k8s.io/";
/// The most names of one container.
const MAX_NAMES: usize = 1024;
/// The most files that are read.
const MAX_FILES: usize = 1024;
/// The largest file.
const MAX_FILE_BYTES: u64 = 4 << 20;

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    cdi_version: String,
    kind: String,
    #[serde(default)]
    devices: Vec<Named>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named {
    name: String,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Edits {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    net_devices: Vec<Value>,
    hooks: Vec<Hook>,
    mounts: Vec<Mount>,
    intel_rdt: Option<Value>,
    #[serde(rename = "additionalGids")]
    additional_gids: Vec<u32>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Node {
    path: String,
    host_path: String,
    #[serde(rename = "type")]
    kind: String,
    major: u64,
    minor: u64,
    file_mode: Option<u32>,
    permissions: String,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hook {
    hook_name: String,
    path: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
    timeout: Option<i64>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mount {
    host_path: String,
    container_path: String,
    #[serde(default)]
    options: Vec<String>,
    #[serde(default, rename = "type")]
    kind: String,
}

/// The devices that a container asks for, by its field and by its annotations; each once.
///
/// # Errors
/// Something is no name of a device.
pub(crate) fn names(
    field: &[proto::cri::CdiDevice],
    annotations: &BTreeMap<String, String>,
) -> Result<Vec<String>, SpecError> {
    let in_annotations = annotations.iter().filter(|(key, _)| key.starts_with(ANNOTATION));
    let in_annotations = in_annotations.flat_map(|(_, value)| value.split(',')).map(str::trim);
    let mut names: Vec<String> = Vec::new();
    for name in field.iter().map(|device| device.name.as_str()).chain(in_annotations) {
        let (kind, device) = name.split_once('=').unwrap_or_default();
        let (vendor, class) = kind.split_once('/').unwrap_or_default();
        if !is_word(vendor, "._-") || !is_word(class, "_-") || !is_word(device, "._-:") {
            return Err(SpecError::invalid(format!("{name:?} is no name of a CDI device")));
        }
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    match names.len() > MAX_NAMES {
        true => Err(SpecError::invalid(format!("{} CDI devices, {MAX_NAMES} are allowed", names.len()))),
        false => Ok(names),
    }
}

fn is_word(text: &str, also: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || also.as_bytes().contains(&byte))
}

/// What was found about each device, or why it cannot be used.
type Devices = BTreeMap<String, Result<(PathBuf, Edits), String>>;

/// Puts devices into a specification.
///
/// # Errors
/// A device is not known, or what is written about it cannot be done.
pub(crate) fn inject(spec: &mut Value, names: &[String], folders: &[PathBuf]) -> Result<(), SpecError> {
    if names.is_empty() {
        return Ok(());
    }
    let (files, mut problems) = read_all(folders);
    let devices = index(&files, &mut problems);
    let mut whole: Vec<&Path> = Vec::new();
    for name in names {
        let (path, edits) = match devices.get(name) {
            Some(Ok((path, edits))) => (path.as_path(), edits),
            Some(Err(why)) => return Err(SpecError::invalid(format!("CDI device {name:?}: {why}"))),
            None => {
                let why = if problems.is_empty() { String::new() } else { format!(" ({})", problems.join("; ")) };
                return Err(SpecError::Missing(format!("unresolvable CDI device {name:?}{why}")));
            }
        };
        // What a file says of all its devices comes once, before the first one.
        if !whole.contains(&path) {
            whole.push(path);
            if let Some((_, file)) = files.iter().flatten().find(|(known, _)| known == path) {
                apply(spec, &file.container_edits)?;
            }
        }
        apply(spec, edits)?;
    }
    Ok(())
}

/// The files by folder, the most important folder last, and what could not be read.
fn read_all(folders: &[PathBuf]) -> (Vec<Vec<(PathBuf, File)>>, Vec<String>) {
    let (mut all, mut problems, mut count) = (Vec::new(), Vec::new(), 0);
    for folder in folders {
        let Ok(entries) = fs::read_dir(folder) else { continue };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        let mut files = Vec::new();
        for path in paths {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("json") => {}
                Some("yaml" | "yml") => {
                    problems.push(format!("{} is YAML, which is not read: write it as JSON", path.display()));
                    continue;
                }
                _ => continue,
            }
            count += 1;
            if count > MAX_FILES {
                problems.push(format!("only {MAX_FILES} files are read"));
                break;
            }
            match read(&path) {
                Ok(file) => files.push((path, file)),
                Err(why) => problems.push(format!("{}: {why}", path.display())),
            }
        }
        all.push(files);
    }
    (all, problems)
}

fn read(path: &Path) -> Result<File, String> {
    let mut bytes = Vec::new();
    let opened = fs::File::open(path).map_err(|error| error.to_string())?;
    opened.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("larger than {MAX_FILE_BYTES} bytes"));
    }
    let file: File = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    // All of the versions until now differ in what they add.
    match file.cdi_version.split('.').next() {
        Some("0" | "1") => {}
        _ => return Err(format!("version {:?} is not known", file.cdi_version)),
    }
    match file.kind.split_once('/') {
        Some((vendor, class)) if is_word(vendor, "._-") && is_word(class, "_-") => Ok(file),
        _ => Err(format!("{:?} is no kind of device", file.kind)),
    }
}

fn index(files: &[Vec<(PathBuf, File)>], problems: &mut Vec<String>) -> Devices {
    let mut devices = Devices::new();
    for folder in files {
        let mut here = Devices::new();
        for (path, file) in folder {
            for device in &file.devices {
                let name = format!("{}={}", file.kind, device.name);
                let twice = format!("{name} is defined twice");
                match here.entry(name) {
                    Entry::Occupied(mut known) => {
                        problems.push(twice);
                        *known.get_mut() = Err("it is defined twice in one folder".into());
                    }
                    Entry::Vacant(free) => {
                        free.insert(Ok((path.clone(), device.container_edits.clone())));
                    }
                }
            }
        }
        devices.extend(here);
    }
    devices
}

fn apply(spec: &mut Value, edits: &Edits) -> Result<(), SpecError> {
    if !edits.net_devices.is_empty() {
        return Err(SpecError::unsupported("CDI devices that move network interfaces are not supported"));
    }
    for line in &edits.env {
        let name = line.split_once('=').map(|(name, _)| name).filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| SpecError::invalid(format!("CDI environment {line:?} is not NAME=value")))?;
        let list = list(spec, &["process", "env"])?;
        let has_name = |known: &Value| {
            known.as_str().and_then(|line| line.split_once('=')).is_some_and(|(other, _)| other == name)
        };
        list.retain(|known| !has_name(known));
        list.push(json!(line));
    }
    for node in &edits.device_nodes {
        add_node(spec, node)?;
    }
    for hook in &edits.hooks {
        let known = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
        if !known.contains(&hook.hook_name.as_str()) || !hook.path.starts_with('/') {
            return Err(SpecError::invalid(format!("CDI hook {:?} of {:?}", hook.path, hook.hook_name)));
        }
        let mut value = json!({"path": hook.path});
        if !hook.args.is_empty() {
            value["args"] = json!(hook.args);
        }
        if !hook.env.is_empty() {
            value["env"] = json!(hook.env);
        }
        if let Some(timeout) = hook.timeout {
            value["timeout"] = json!(timeout);
        }
        list(spec, &["hooks", &hook.hook_name])?.push(value);
    }
    if !edits.mounts.is_empty() {
        let list = list(spec, &["mounts"])?;
        for mount in &edits.mounts {
            let options = if mount.options.is_empty() { vec!["rbind".to_owned()] } else { mount.options.clone() };
            let kind = if mount.kind.is_empty() { "bind" } else { &mount.kind };
            list.retain(|known| known["destination"] != mount.container_path.as_str());
            list.push(json!({"destination": mount.container_path, "type": kind, "source": mount.host_path, "options": options}));
        }
        mounts::sort(list);
    }
    if let Some(rdt) = &edits.intel_rdt {
        object(spec, &["linux"])?.insert("intelRdt".into(), rdt.clone());
    }
    for gid in edits.additional_gids.iter().filter(|gid| **gid != 0) {
        let list = list(spec, &["process", "user", "additionalGids"])?;
        if !list.contains(&json!(gid)) {
            list.push(json!(gid));
        }
    }
    Ok(())
}

fn add_node(spec: &mut Value, node: &Node) -> Result<(), SpecError> {
    let host = if node.host_path.is_empty() { &node.path } else { &node.host_path };
    let access = if node.permissions.is_empty() { "rwm" } else { &node.permissions };
    let wish = proto::cri::Device {
        container_path: node.path.clone(),
        host_path: host.clone(),
        permissions: access.to_owned(),
    };
    let mut device = match (node.kind.as_str(), node.major) {
        // What the file leaves open, the host says.
        ("", _) | (_, 0) => {
            let found = super::devices::wanted(std::slice::from_ref(&wish))?;
            found.into_iter().next().ok_or_else(|| SpecError::invalid(format!("{host:?} is not a device node")))?
        }
        ("c" | "u" | "b", major) => Device {
            path: node.path.clone(),
            kind: if node.kind == "b" { 'b' } else { 'c' },
            major,
            minor: node.minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
            access: access.to_owned(),
        },
        (other, _) => return Err(SpecError::unsupported(format!("CDI device node of type {other:?}"))),
    };
    // The user of the container can use what is given to it.
    let own = |field: &str| {
        spec["process"]["user"][field].as_u64().and_then(|id| u32::try_from(id).ok()).filter(|id| *id != 0)
    };
    device.uid = node.uid.or_else(|| own("uid")).unwrap_or(device.uid);
    device.gid = node.gid.or_else(|| own("gid")).unwrap_or(device.gid);
    device.mode = node.file_mode.unwrap_or(device.mode);
    let nodes = list(spec, &["linux", "devices"])?;
    nodes.retain(|known| known["path"] != device.path.as_str());
    nodes.push(device.node());
    list(spec, &["linux", "resources", "devices"])?.push(device.rule());
    Ok(())
}

fn object<'a>(spec: &'a mut Value, path: &[&str]) -> Result<&'a mut Map<String, Value>, SpecError> {
    let mut at = spec;
    for name in path {
        if at.is_null() {
            *at = json!({});
        }
        at = at
            .as_object_mut()
            .ok_or_else(|| SpecError::invalid(format!("{name} of the specification is not in an object")))?
            .entry(*name)
            .or_insert(Value::Null);
    }
    if at.is_null() {
        *at = json!({});
    }
    at.as_object_mut().ok_or_else(|| SpecError::invalid(format!("{path:?} of the specification is no object")))
}

fn list<'a>(spec: &'a mut Value, path: &[&str]) -> Result<&'a mut Vec<Value>, SpecError> {
    let (last, before) = path.split_last().expect("a path has a last part");
    let entry = object(spec, before)?.entry(*last).or_insert(Value::Null);
    if entry.is_null() {
        *entry = json!([]);
    }
    entry.as_array_mut().ok_or_else(|| SpecError::invalid(format!("{path:?} of the specification is no list")))
}

#[cfg(test)]
mod tests {
    use proto::cri::CdiDevice;

    use super::*;

    fn folders(files: &[(&str, &str)]) -> (tempfile::TempDir, Vec<PathBuf>) {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let paths = vec![folder.path().join("low"), folder.path().join("high")];
        (folder, paths)
    }

    #[test]
    fn names_come_from_the_field_and_from_annotations() {
        let field = [CdiDevice { name: "v.com/gpu=0".into() }];
        let map = |value: &str| -> BTreeMap<String, String> {
            [("cdi.k8s.io/x".to_owned(), value.to_owned()), ("other".to_owned(), "junk".to_owned())].into()
        };
        assert_eq!(names(&field, &map("v.com/gpu=0,v.com/gpu=all")).unwrap(), ["v.com/gpu=0", "v.com/gpu=all"]);
        for wrong in ["", "gpu=0", "v.com/gpu", "v.com/gpu=", "/gpu=0", "v.com/g/h=0", "v.com/gpu=../0"] {
            assert!(names(&[], &map(wrong)).is_err(), "{wrong:?}");
        }
        assert!(names(&[], &BTreeMap::new()).unwrap().is_empty());
    }

    #[test]
    fn everything_that_is_written_is_done() {
        let (_folder, paths) = folders(&[(
            "low/v.json",
            r#"{"cdiVersion":"0.6.0","kind":"v.com/gpu","containerEdits":{"env":["ALL=1"]},
               "devices":[{"name":"0","containerEdits":{
                 "env":["A=2"],
                 "deviceNodes":[{"path":"/dev/gpu0","hostPath":"/dev/null","permissions":"rw"},
                                {"path":"/dev/gpu1","type":"c","major":9,"minor":8,"fileMode":416,"uid":3}],
                 "hooks":[{"hookName":"createContainer","path":"/bin/h","args":["h"],"timeout":3}],
                 "mounts":[{"hostPath":"/lib","containerPath":"/l","options":["ro","bind"]}],
                 "additionalGids":[44,0],"intelRdt":{"closID":"x"}}}]}"#,
        )]);
        let mut spec = json!({
            "process": {"env": ["A=1", "B=1"], "user": {"uid": 7, "gid": 0, "additionalGids": [1]}},
            "mounts": [{"destination": "/l/deeper"}, {"destination": "/l"}],
            "linux": {"resources": {"devices": [{"allow": false, "access": "rwm"}]}},
        });
        inject(&mut spec, &["v.com/gpu=0".into()], &paths).unwrap();
        assert_eq!(spec["process"]["env"], json!(["B=1", "ALL=1", "A=2"]));
        let node = &spec["linux"]["devices"][0];
        assert_eq!((&node["path"], &node["minor"], &node["uid"]), (&json!("/dev/gpu0"), &json!(3), &json!(7)));
        let node = &spec["linux"]["devices"][1];
        assert_eq!((&node["major"], &node["fileMode"], &node["uid"]), (&json!(9), &json!(416), &json!(3)));
        assert_eq!(spec["linux"]["resources"]["devices"].as_array().unwrap().len(), 3);
        assert_eq!(spec["hooks"]["createContainer"], json!([{"path": "/bin/h", "args": ["h"], "timeout": 3}]));
        assert_eq!(spec["mounts"][0]["source"], "/lib");
        assert_eq!(spec["mounts"][1]["destination"], "/l/deeper");
        assert_eq!(spec["process"]["user"]["additionalGids"], json!([1, 44]));
        assert_eq!(spec["linux"]["intelRdt"]["closID"], "x");
    }

    #[test]
    fn later_folders_win_and_doubles_are_unusable() {
        let file = |value: &str| {
            format!(
                r#"{{"cdiVersion":"0.5.0","kind":"v.com/x","devices":[{{"name":"0","containerEdits":{{"env":["V={value}"]}}}}]}}"#
            )
        };
        let (_folder, paths) = folders(&[("low/a.json", &file("low")), ("high/a.json", &file("high"))]);
        let mut spec = json!({});
        inject(&mut spec, &["v.com/x=0".into()], &paths).unwrap();
        assert_eq!(spec["process"]["env"], json!(["V=high"]));
        let (_folder, paths) = folders(&[("low/a.json", &file("1")), ("low/b.json", &file("2"))]);
        assert!(inject(&mut json!({}), &["v.com/x=0".into()], &paths).is_err());
    }

    #[test]
    fn what_is_not_known_or_not_possible_is_refused_by_name() {
        let moved = r#"{"cdiVersion":"1.1.0","kind":"v.com/n","devices":[{"name":"0","containerEdits":{"netDevices":[{"hostInterfaceName":"a"}]}}]}"#;
        let (_folder, paths) = folders(&[
            ("low/a.json", "{"),
            ("low/b.yaml", ""),
            ("low/n.json", moved),
            ("low/v.json", r#"{"cdiVersion":"9","kind":"v.com/x"}"#),
        ]);
        let error = inject(&mut json!({}), &["v.com/x=0".into()], &paths).unwrap_err().to_string();
        for part in ["v.com/x=0", "a.json", "b.yaml", "v.json"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(inject(&mut json!({}), &["v.com/n=0".into()], &paths).is_err());
        inject(&mut json!({}), &[], &paths).unwrap();
    }
}
