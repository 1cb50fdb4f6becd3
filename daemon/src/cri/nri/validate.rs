//! The rules of the configuration for what plugins may adjust (`default_validator`). Pure.

use proto::nri as wire;
use toml::{Table, Value};
use wire::security_profile::ProfileType;

/// Annotation of a pod that names further plugins it cannot do without, as a JSON or YAML list.
const REQUIRED: &str = "required-plugins.noderesource.dev";

fn flag(rules: &Table, key: &str) -> bool {
    rules.get(key).and_then(Value::as_bool).unwrap_or(false)
}

/// Whether there is anything to judge even if no plugin adjusts anything.
pub(super) fn is_needed(rules: &Table) -> bool {
    flag(rules, "enable")
}

/// Judges all adjustments of a container together.
///
/// # Errors
/// A rule forbids one, or a plugin is missing; the text says which.
pub(super) fn by_rules(
    rules: &Table,
    pod: &wire::PodSandbox,
    pristine: &wire::Container,
    adjust: &wire::ContainerAdjustment,
    plugins: &[&str],
) -> Result<(), String> {
    if !is_needed(rules) {
        return Ok(());
    }
    let refuse = |what: &str| Err(format!("NRI: the default validator rejects {what} by plugins"));
    let linux = adjust.linux.clone().unwrap_or_default();
    if flag(rules, "reject_oci_hook_adjustment") && adjust.hooks.is_some() {
        return refuse("adjustment of OCI hooks");
    }
    if flag(rules, "reject_namespace_adjustment") && !linux.namespaces.is_empty() {
        return refuse("adjustment of namespaces");
    }
    if flag(rules, "reject_sysctl_adjustment") && !linux.sysctl.is_empty() {
        return refuse("adjustment of sysctls");
    }
    if linux.seccomp_policy.is_some() {
        let profile =
            pristine.linux.as_ref().and_then(|linux| linux.seccomp_profile.as_ref()).map(|of| of.profile_type());
        let (rule, what) = match profile {
            Some(ProfileType::RuntimeDefault) => {
                ("reject_runtime_default_seccomp_adjustment", "the runtime's default seccomp profile")
            }
            Some(ProfileType::Localhost) => ("reject_custom_seccomp_adjustment", "a custom seccomp profile"),
            Some(ProfileType::Unconfined) | None => {
                ("reject_unconfined_seccomp_adjustment", "an unconfined seccomp profile")
            }
        };
        if flag(rules, rule) {
            return refuse(&format!("adjustment of {what}"));
        }
    }
    required(rules, pod, pristine, plugins)
}

fn required(rules: &Table, pod: &wire::PodSandbox, pristine: &wire::Container, plugins: &[&str]) -> Result<(), String> {
    let tolerated = rules.get("tolerate_missing_plugins_annotation").and_then(Value::as_str).unwrap_or_default();
    let annotated = |key: &str| {
        let own = format!("{key}/container.{}", pristine.name);
        let for_pod = format!("{key}/pod");
        [own.as_str(), for_pod.as_str(), key].into_iter().find_map(|key| pod.annotations.get(key))
    };
    if !tolerated.is_empty() && annotated(tolerated).is_some_and(|value| value == "true") {
        return Ok(());
    }
    let global = rules.get("required_plugins").and_then(Value::as_array).into_iter().flatten();
    let mut wanted: Vec<String> = global.filter_map(|name| name.as_str().map(str::to_owned)).collect();
    if let Some(text) = annotated(REQUIRED) {
        // A list of names is the same in JSON and, with a dash before each, in YAML.
        let names =
            text.split(['[', ']', ',', '\n']).map(|name| name.trim().trim_start_matches("- ").trim_matches('"').trim());
        wanted.extend(names.filter(|name| !name.is_empty()).map(str::to_owned));
    }
    match wanted.iter().find(|name| !plugins.contains(&name.as_str())) {
        Some(missing) => Err(format!("NRI: the required plugin {missing:?} is not there")),
        None => Ok(()),
    }
}
