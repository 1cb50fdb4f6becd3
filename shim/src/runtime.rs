//! Which executor a container gets, and how it is told: from the client's options, the environment, and what the spec asks
//! for. Also the files in the bundle by which a later `delete`, without this process, finds the same one.

use std::io;
use std::path::{Path, PathBuf};

use executor::{Runtime, Settings};
use model::error::{Classify, Kind};
use prost_types::Any;
use proto::runc::v1::Options;
use serde_json::{Value, json};

use crate::log;
use crate::spec::Spec;

/// The environment variable with the executor for containers whose client names none: `builtin`, or a name or path.
pub(crate) const EXECUTOR_VARIABLE: &str = "GANTRY_EXECUTOR";

/// The word for the built-in executor.
const BUILT_IN: &str = "builtin";

/// What is used in place of the built-in one when that cannot honour a spec and nobody asked for it by name.
const FALLBACK: &str = "runc";

/// Where executors keep their state when the client does not say; the namespace comes behind.
const DEFAULT_ROOT: &str = "/run/containerd/runc";

/// The file with the name of the executor.
const RUNTIME_FILE: &str = "runtime";
/// The file with the options.
const OPTIONS_FILE: &str = "options.json";
/// The executor's log.
pub(crate) const LOG_FILE: &str = "log.json";

/// Why no executor can be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RuntimeError {
    /// Options of another runtime.
    #[error("runtime options of type {0:?}: this runtime takes containerd.runc.v1.Options")]
    Type(String),
    /// Options that are no message.
    #[error("runtime options")]
    Malformed(#[source] prost::DecodeError),
    /// The built-in executor lacks something, and there is no other.
    #[error("the built-in executor does not support {}, and {FALLBACK} is not installed", .0.join(", "))]
    Unsupported(Vec<String>),
    /// The bundle cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Classify for RuntimeError {
    fn kind(&self) -> Kind {
        match self {
            Self::Type(_) | Self::Malformed(_) => Kind::InvalidArgument,
            Self::Unsupported(_) => Kind::Unimplemented,
            Self::Write { source, .. } => model::error::io_kind(source),
        }
    }
}

/// Opens the options of a request. None, and empty options of other runtimes, are the defaults.
///
/// # Errors
/// Options that we do not know, and so could only ignore.
pub(crate) fn options(any: Option<&Any>) -> Result<Options, RuntimeError> {
    match any {
        None => Ok(Options::default()),
        Some(any) if any.value.is_empty() => Ok(Options::default()),
        Some(any) => proto::any::unpack(any)
            .map_err(RuntimeError::Malformed)?
            .ok_or_else(|| RuntimeError::Type(any.type_url.clone())),
    }
}

/// Chooses the executor, and writes the choice and the options down in the bundle. One that goes on from a checkpoint needs
/// an executor that can do it.
///
/// # Errors
/// See [`RuntimeError`].
pub(crate) fn choose(
    options: &Options,
    namespace: &str,
    bundle: &Path,
    spec: &Spec,
    restores: bool,
) -> Result<Settings, RuntimeError> {
    let runtime = runtime(options, spec, restores)?;
    let name = match &runtime {
        Runtime::BuiltIn => BUILT_IN.to_owned(),
        Runtime::External(program) => program.display().to_string(),
    };
    write(&bundle.join(RUNTIME_FILE), name.as_bytes())?;
    write(&bundle.join(OPTIONS_FILE), to_json(options).to_string().as_bytes())?;
    Ok(settings(runtime, options, namespace, bundle))
}

fn runtime(options: &Options, spec: &Spec, restores: bool) -> Result<Runtime, RuntimeError> {
    if !options.binary_name.is_empty() {
        return Ok(named(&options.binary_name));
    }
    if let Some(name) = std::env::var(EXECUTOR_VARIABLE).ok().filter(|name| !name.is_empty()) {
        return Ok(named(&name));
    }
    let mut missing = executor::builtin::unsupported(spec.document());
    if options.systemd_cgroup {
        missing.push("the option SystemdCgroup".to_owned());
    }
    if restores {
        missing.push("going on from a checkpoint".to_owned());
    }
    if missing.is_empty() {
        return Ok(Runtime::BuiltIn);
    }
    if !is_installed(FALLBACK) {
        return Err(RuntimeError::Unsupported(missing));
    }
    log::info!("the built-in executor does not support {}: {FALLBACK} is used", missing.join(", "));
    Ok(Runtime::External(FALLBACK.into()))
}

fn named(name: &str) -> Runtime {
    if name == BUILT_IN { Runtime::BuiltIn } else { Runtime::External(name.into()) }
}

fn is_installed(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}

fn settings(runtime: Runtime, options: &Options, namespace: &str, bundle: &Path) -> Settings {
    let root = if options.root.is_empty() { Path::new(DEFAULT_ROOT) } else { Path::new(&options.root) };
    Settings {
        runtime,
        root: root.join(namespace),
        systemd_cgroup: options.systemd_cgroup,
        no_pivot_root: options.no_pivot_root,
        no_new_keyring: options.no_new_keyring,
        log: bundle.join(LOG_FILE),
        debug: false,
    }
}

/// The executor that a container with these options would get; nothing is written down.
///
/// # Errors
/// See [`RuntimeError`].
pub(crate) fn for_info(options: &Options, folder: &Path, spec: &Spec) -> Result<Settings, RuntimeError> {
    let mut settings = settings(runtime(options, spec, false)?, options, "info", folder);
    settings.log = "/dev/null".into();
    Ok(settings)
}

/// What [`choose`] has written down in a bundle, as far as it is still there.
pub(crate) fn remembered(namespace: &str, bundle: &Path) -> Settings {
    let options = std::fs::read(bundle.join(OPTIONS_FILE)).ok();
    let options = options.and_then(|json| serde_json::from_slice::<Value>(&json).ok()).unwrap_or_default();
    let options = Options {
        root: options["root"].as_str().unwrap_or_default().to_owned(),
        systemd_cgroup: options["systemd_cgroup"].as_bool().unwrap_or_default(),
        ..Options::default()
    };
    let name = std::fs::read_to_string(bundle.join(RUNTIME_FILE)).unwrap_or_default();
    let runtime = if name.is_empty() { Runtime::BuiltIn } else { named(name.trim()) };
    settings(runtime, &options, namespace, bundle)
}

/// In the form that other shims write, whose fields are left out when they are empty.
fn to_json(options: &Options) -> Value {
    let mut all = json!({
        "no_pivot_root": options.no_pivot_root,
        "no_new_keyring": options.no_new_keyring,
        "shim_cgroup": options.shim_cgroup,
        "io_uid": options.io_uid,
        "io_gid": options.io_gid,
        "binary_name": options.binary_name,
        "root": options.root,
        "systemd_cgroup": options.systemd_cgroup,
        "criu_image_path": options.criu_image_path,
        "criu_work_path": options.criu_work_path,
    });
    if let Some(fields) = all.as_object_mut() {
        fields.retain(|_, value| *value != json!(false) && *value != json!(0) && *value != json!(""));
    }
    all
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), RuntimeError> {
    std::fs::write(path, bytes).map_err(|source| RuntimeError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_chosen_is_remembered() {
        let bundle = tempfile::tempdir().unwrap();
        let options = Options {
            binary_name: "/opt/runc".into(),
            root: "/run/r".into(),
            systemd_cgroup: true,
            no_pivot_root: true,
            ..Options::default()
        };
        let chosen = choose(&options, "ns", bundle.path(), &Spec::default(), false).unwrap();
        assert_eq!(chosen.runtime, Runtime::External("/opt/runc".into()));
        assert_eq!(chosen.root, Path::new("/run/r/ns"));
        assert!(chosen.no_pivot_root);
        let remembered = remembered("ns", bundle.path());
        assert_eq!((remembered.runtime, remembered.root), (chosen.runtime, chosen.root));
        assert!(remembered.systemd_cgroup);
        let json = std::fs::read_to_string(bundle.path().join(OPTIONS_FILE)).unwrap();
        assert!(!json.contains("io_uid") && json.contains("\"no_pivot_root\":true"), "{json}");
    }

    #[test]
    fn an_empty_bundle_has_the_defaults() {
        let bundle = tempfile::tempdir().unwrap();
        let remembered = remembered("ns", bundle.path());
        assert_eq!(remembered.runtime, Runtime::BuiltIn);
        assert_eq!(remembered.root, Path::new("/run/containerd/runc/ns"));
    }

    #[test]
    fn options_of_another_runtime_are_refused_unless_empty() {
        assert_eq!(options(None).unwrap(), Options::default());
        let mut any = Any { type_url: "runtimeoptions.v1.Options".into(), value: Vec::new() };
        assert_eq!(options(Some(&any)).unwrap(), Options::default());
        any.value = vec![10, 1, b'x'];
        assert!(matches!(options(Some(&any)), Err(RuntimeError::Type(_))));
        any.type_url = "containerd.runc.v1.Options".into();
        any.value = vec![0xff];
        assert!(matches!(options(Some(&any)), Err(RuntimeError::Malformed(_))));
    }
}
