//! What the built-in runtime does not do. A spec that asks for it is refused by the name of the field, never run without.

use serde_json::Value;

use crate::cgroup::{self, Mode, ROOT};
use crate::seccomp;

/// The fields of an OCI spec that the built-in runtime cannot honour, by their JSON path (`linux.seccomp`). Empty: it
/// can run this spec. Otherwise `create` refuses it, and a caller that did not ask for the built-in runtime by name may
/// fall back to an installed one.
pub fn unsupported(spec: &Value) -> Vec<String> {
    let mut fields = Vec::new();
    let mut refuse = |path: &str, is_asked: bool| {
        if is_asked {
            fields.push(path.to_owned());
        }
    };
    let at = |path: &str| spec.pointer(path).filter(|value| !is_empty(value));
    refuse("vm", at("/vm").is_some());
    refuse("windows", at("/windows").is_some());
    refuse("process.selinuxLabel", at("/process/selinuxLabel").is_some());
    refuse("linux.mountLabel", at("/linux/mountLabel").is_some());
    refuse("process.apparmorProfile", at("/process/apparmorProfile").is_some_and(|_| !apparmor_enabled()));
    refuse("linux.seccomp", seccomp::compile(at("/linux/seccomp")).is_err());
    refuse("linux.intelRdt", at("/linux/intelRdt").is_some());
    refuse("mounts[idmap]", has_idmapped_mount(spec));
    refuse("linux.personality.flags", at("/linux/personality/flags").is_some());
    refuse("linux.resources.rdma", at("/linux/resources/rdma").is_some());
    refuse(
        "linux.resources.unified",
        at("/linux/resources/unified").is_some() && cgroup::probe(ROOT.as_ref()) != Mode::V2,
    );
    refuse("linux.resources.devices", cgroup::device_program(spec.pointer("/linux/resources/devices")).is_err());
    fields
}

/// A mount that shows other owners than the files have.
fn has_idmapped_mount(spec: &Value) -> bool {
    let mounts = spec.get("mounts").and_then(Value::as_array);
    mounts.into_iter().flatten().any(|mount| {
        let options = mount.get("options").and_then(Value::as_array);
        let maps = |name: &str| mount.get(name).is_some_and(|value| !is_empty(value));
        let asked = options.into_iter().flatten().any(|option| matches!(option.as_str(), Some("idmap" | "ridmap")));
        asked || maps("uidMappings") || maps("gidMappings")
    })
}

fn apparmor_enabled() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y'))
}

/// JSON's ways to say nothing.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_field_is_named_and_empty_ones_ask_for_nothing() {
        let spec = json!({
            "process": { "selinuxLabel": "a:b:c", "apparmorProfile": "" },
            "linux": { "intelRdt": { "closID": "x" }, "mountLabel": "", "namespaces": [{ "type": "pid" }, { "type": "user" }], "seccomp": null },
        });
        assert_eq!(unsupported(&spec), ["process.selinuxLabel", "linux.intelRdt"]);
        assert_eq!(unsupported(&json!({ "linux": { "namespaces": [{ "type": "pid" }] } })), [""; 0]);
    }

    #[test]
    fn a_mount_with_mappings_is_named() {
        let refused = |mount: Value| unsupported(&json!({ "mounts": [mount] }));
        assert_eq!(refused(json!({ "options": ["bind", "ridmap"] })), ["mounts[idmap]"]);
        assert_eq!(refused(json!({ "uidMappings": [{ "containerID": 0 }] })), ["mounts[idmap]"]);
        assert_eq!(refused(json!({ "options": ["rbind"], "uidMappings": [] })), [""; 0]);
    }

    #[test]
    fn device_rules_that_cannot_be_understood_are_refused() {
        let rules = |rules: Value| unsupported(&json!({ "linux": { "resources": { "devices": rules } } }));
        assert_eq!(rules(json!([{ "allow": false, "access": "rwm" }, { "allow": true, "type": "c" }])), [""; 0]);
        assert_eq!(rules(json!([{ "allow": true, "type": "x" }])), ["linux.resources.devices"]);
    }
}
