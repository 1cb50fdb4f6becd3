//! Seccomp, AppArmor and SELinux: what the pod asks for, what the machine can do, and what comes of both.
//!
//! A profile that is asked for by name and cannot be had is refused. What Kubernetes defines as "if the node can" (the runtime's
//! default profile, SELinux labels) is left out where the machine cannot.

use std::path::Path;

use proto::cri::security_profile::ProfileType;
use proto::cri::{LinuxContainerSecurityContext, SeLinuxOption, SecurityProfile};
use serde_json::Value;

use super::capabilities::Capabilities;
use super::host::Host;
use super::{SpecError, seccomp};

/// The largest seccomp profile that is read, in bytes.
const MAX_PROFILE_BYTES: u64 = 4 << 20;
/// The AppArmor profile that is used when none is named.
pub(crate) const DEFAULT_APPARMOR: &str = "cri-containerd.apparmor.d";

/// What a profile field says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Profile {
    Unset,
    RuntimeDefault,
    Unconfined,
    Localhost(String),
}

fn profile(field: Option<&SecurityProfile>, old: &str, kind: &str) -> Result<Profile, SpecError> {
    let Some(field) = field else { return old_profile(old, kind) };
    let profile = ProfileType::try_from(field.profile_type)
        .map_err(|_| SpecError::invalid(format!("unknown {kind} profile type {}", field.profile_type)))?;
    match profile {
        ProfileType::Localhost if field.localhost_ref.is_empty() => {
            Err(SpecError::invalid(format!("{kind} profile is Localhost, but localhost_ref is empty")))
        }
        ProfileType::Localhost => {
            let name = field.localhost_ref.strip_prefix("localhost/").unwrap_or(&field.localhost_ref);
            Ok(Profile::Localhost(name.to_owned()))
        }
        _ if !field.localhost_ref.is_empty() => {
            Err(SpecError::invalid(format!("{kind} profile is not Localhost, but localhost_ref is set")))
        }
        ProfileType::RuntimeDefault => Ok(Profile::RuntimeDefault),
        ProfileType::Unconfined => Ok(Profile::Unconfined),
    }
}

/// The form of the deprecated text fields.
fn old_profile(text: &str, kind: &str) -> Result<Profile, SpecError> {
    match text {
        "" => Ok(Profile::Unset),
        "runtime/default" | "docker/default" => Ok(Profile::RuntimeDefault),
        "unconfined" => Ok(Profile::Unconfined),
        other => match other.strip_prefix("localhost/") {
            Some(name) if !name.is_empty() => Ok(Profile::Localhost(name.to_owned())),
            _ => Err(SpecError::invalid(format!("invalid {kind} profile {other:?}"))),
        },
    }
}

/// The seccomp profile; `None` for none. `unset` is what a pod means that says nothing: empty for no profile, or a path or
/// `runtime/default`, as configured.
///
/// # Errors
/// A profile is asked for and cannot be had.
#[expect(deprecated, reason = "clients older than the new field")]
pub(crate) fn seccomp(
    security: &LinuxContainerSecurityContext,
    unset: &str,
    capabilities: &Capabilities,
    host: &Host,
) -> Result<Option<Value>, SpecError> {
    if security.privileged {
        return Ok(None);
    }
    let mut wanted = profile(security.seccomp.as_ref(), &security.seccomp_profile_path, "seccomp")?;
    if wanted == Profile::Unset {
        wanted = old_profile(unset, "seccomp")?;
    }
    if matches!(wanted, Profile::RuntimeDefault | Profile::Localhost(_)) && !host.seccomp {
        return Err(SpecError::unsupported("seccomp is not supported by this kernel"));
    }
    match wanted {
        Profile::Unset | Profile::Unconfined => Ok(None),
        Profile::RuntimeDefault => Ok(Some(seccomp::default_profile(capabilities))),
        Profile::Localhost(path) => read_profile(Path::new(&path)).map(Some),
    }
}

fn read_profile(path: &Path) -> Result<Value, SpecError> {
    use std::io::Read;
    if !path.is_absolute() {
        return Err(SpecError::invalid(format!("the seccomp profile {path:?} is not an absolute path")));
    }
    let failed = || SpecError::host("read the seccomp profile", path);
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed())?;
    file.take(MAX_PROFILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed())?;
    if bytes.len() as u64 > MAX_PROFILE_BYTES {
        return Err(SpecError::invalid(format!(
            "the seccomp profile {path:?} is larger than {MAX_PROFILE_BYTES} bytes"
        )));
    }
    let value: Value = serde_json::from_slice(&bytes)
        .map_err(|error| SpecError::invalid(format!("the seccomp profile {path:?}: {error}")))?;
    // A document of another kind would be a profile that allows or forbids everything.
    if !value["defaultAction"].is_string() {
        return Err(SpecError::invalid(format!("the seccomp profile {path:?} has no defaultAction")));
    }
    Ok(value)
}

/// The AppArmor profile; `None` for none.
///
/// # Errors
/// A profile is asked for by name and cannot be had.
#[expect(deprecated, reason = "clients older than the new field")]
pub(crate) fn apparmor(security: &LinuxContainerSecurityContext, host: &Host) -> Result<Option<String>, SpecError> {
    let wanted = profile(security.apparmor.as_ref(), &security.apparmor_profile, "apparmor")?;
    match wanted {
        Profile::Unconfined => Ok(None),
        Profile::Localhost(name) if !host.apparmor => Err(SpecError::unsupported(format!(
            "apparmor profile {name:?} is asked for, but AppArmor is not supported by this kernel"
        ))),
        Profile::Localhost(name) if !host.has_apparmor_profile(&name) => {
            Err(SpecError::invalid(format!("apparmor profile not found {name:?}")))
        }
        Profile::Localhost(name) => Ok(Some(name)),
        // The runtime's own: if the node has it. It is not for a container that may do everything.
        Profile::Unset | Profile::RuntimeDefault if !host.apparmor || security.privileged => Ok(None),
        Profile::Unset if !host.has_apparmor_profile(DEFAULT_APPARMOR) => Ok(None),
        Profile::RuntimeDefault if !host.has_apparmor_profile(DEFAULT_APPARMOR) => {
            Err(SpecError::unsupported(format!("apparmor profile {DEFAULT_APPARMOR:?} is not loaded on this machine")))
        }
        Profile::Unset | Profile::RuntimeDefault => Ok(Some(DEFAULT_APPARMOR.to_owned())),
    }
}

/// The SELinux label of the process and that of its files; `None` where the kernel has no SELinux or it is not switched on.
///
/// # Errors
/// The options make no label.
pub(crate) fn selinux(options: Option<&SeLinuxOption>, enabled: bool) -> Result<Option<(String, String)>, SpecError> {
    let Some(options) = options else { return Ok(None) };
    let SeLinuxOption { user, role, r#type: kind, level } = options;
    if !level.is_empty() && !is_level(level) {
        return Err(SpecError::invalid(format!("the format of SELinux level {level:?} is not correct")));
    }
    let word = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
    if let Some(wrong) = [user, role, kind].into_iter().find(|text| !word(text)) {
        return Err(SpecError::invalid(format!("{wrong:?} is no part of an SELinux label")));
    }
    if !enabled {
        return Ok(None);
    }
    let or = |text: &String, default: &str| if text.is_empty() { default.to_owned() } else { text.clone() };
    let (user, level) = (or(user, "system_u"), or(level, "s0"));
    let process = format!("{user}:{}:{}:{level}", or(role, "system_r"), or(kind, "container_t"));
    Ok(Some((process, format!("{user}:object_r:container_file_t:{level}"))))
}

/// `s<n>` with a range and categories: `s0`, `s0-s15:c0.c1023`, `s0:c1,c2`.
fn is_level(text: &str) -> bool {
    let number = |text: &str, letter: char| {
        text.strip_prefix(letter).is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
    };
    let categories = |text: &str| text.split([',', '.']).all(|one| number(one, 'c'));
    text.split('-').count() <= 2
        && text.split('-').all(|one| match one.split_once(':') {
            Some((level, rest)) => number(level, 's') && categories(rest),
            None => number(one, 's'),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(kind: ProfileType, name: &str) -> LinuxContainerSecurityContext {
        let profile = SecurityProfile { profile_type: kind.into(), localhost_ref: name.into() };
        LinuxContainerSecurityContext { seccomp: Some(profile.clone()), apparmor: Some(profile), ..Default::default() }
    }

    #[test]
    fn seccomp_as_a_table() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let good = file("good", r#"{"defaultAction":"SCMP_ACT_LOG"}"#);
        let (empty, broken) = (file("empty", "{}"), file("broken", "{"));
        let host = Host { seccomp: true, ..Host::default() };
        let action = |security: &LinuxContainerSecurityContext, unset: &str| {
            seccomp(security, unset, &Capabilities::default(), &host)
                .map(|profile| profile.map(|profile| profile["defaultAction"].as_str().unwrap().to_owned()))
                .map_err(drop)
        };
        let (errno, log) = (Ok(Some("SCMP_ACT_ERRNO".to_owned())), Ok(Some("SCMP_ACT_LOG".to_owned())));
        for (security, unset, expected) in [
            (LinuxContainerSecurityContext::default(), "", Ok(None)),
            (LinuxContainerSecurityContext::default(), "runtime/default", errno.clone()),
            (LinuxContainerSecurityContext::default(), "nonsense", Err(())),
            (context(ProfileType::RuntimeDefault, ""), "", errno),
            (context(ProfileType::RuntimeDefault, "x"), "", Err(())),
            (context(ProfileType::Unconfined, ""), "runtime/default", Ok(None)),
            (context(ProfileType::Localhost, &good), "", log.clone()),
            (context(ProfileType::Localhost, &format!("localhost/{good}")), "", log),
            (context(ProfileType::Localhost, ""), "", Err(())),
            (context(ProfileType::Localhost, "relative"), "", Err(())),
            (context(ProfileType::Localhost, "/nonexistent"), "", Err(())),
            (context(ProfileType::Localhost, &empty), "", Err(())),
            (context(ProfileType::Localhost, &broken), "", Err(())),
            (
                LinuxContainerSecurityContext { privileged: true, ..context(ProfileType::RuntimeDefault, "") },
                "",
                Ok(None),
            ),
        ] {
            assert_eq!(action(&security, unset), expected, "{security:?} {unset}");
        }
        let old = Host::default();
        let asked = context(ProfileType::RuntimeDefault, "");
        assert!(seccomp(&asked, "", &Capabilities::default(), &old).is_err());
    }

    #[test]
    fn apparmor_as_a_table() {
        let with =
            Host { apparmor: true, apparmor_profiles: vec!["mine".into(), DEFAULT_APPARMOR.into()], ..Host::default() };
        let without = Host::default();
        let bare = Host { apparmor: true, ..Host::default() };
        let unset = LinuxContainerSecurityContext::default();
        let default = context(ProfileType::RuntimeDefault, "");
        for (security, host, expected) in [
            (&unset, &without, Ok(None)),
            (&unset, &with, Ok(Some(DEFAULT_APPARMOR))),
            (&unset, &bare, Ok(None)),
            (&default, &without, Ok(None)),
            (&default, &with, Ok(Some(DEFAULT_APPARMOR))),
            (&default, &bare, Err(())),
            (&context(ProfileType::Unconfined, ""), &with, Ok(None)),
            (&context(ProfileType::Localhost, "mine"), &with, Ok(Some("mine"))),
            (&context(ProfileType::Localhost, "localhost/mine"), &with, Ok(Some("mine"))),
            (&context(ProfileType::Localhost, "other"), &with, Err(())),
            (&context(ProfileType::Localhost, "mine"), &without, Err(())),
            (&LinuxContainerSecurityContext { privileged: true, ..default.clone() }, &with, Ok(None)),
        ] {
            let found = apparmor(security, host).map_err(drop);
            assert_eq!(
                found.as_ref().map(|name| name.as_deref()).map_err(|nothing| *nothing),
                expected,
                "{security:?}"
            );
        }
    }

    #[test]
    fn selinux_as_a_table() {
        let options = |level: &str| SeLinuxOption { level: level.into(), ..Default::default() };
        for (level, good) in [
            ("", true),
            ("s0", true),
            ("s0:c1,c2", true),
            ("s0-s15:c0.c1023", true),
            ("s", false),
            ("0", false),
            ("s0:", false),
            ("s0:1", false),
            ("s0-s1-s2", false),
            ("s0\n", false),
        ] {
            assert_eq!(selinux(Some(&options(level)), true).is_ok(), good, "{level:?}");
            assert_eq!(selinux(Some(&options(level)), false).is_ok(), good, "{level:?}");
        }
        assert_eq!(selinux(None, true).unwrap(), None);
        assert_eq!(selinux(Some(&options("s0")), false).unwrap(), None);
        let (process, files) = selinux(Some(&options("s0:c1,c2")), true).unwrap().unwrap();
        assert_eq!(process, "system_u:system_r:container_t:s0:c1,c2");
        assert_eq!(files, "system_u:object_r:container_file_t:s0:c1,c2");
        assert!(selinux(Some(&SeLinuxOption { user: "a:b".into(), ..Default::default() }), true).is_err());
    }
}
