//! From the name of a runtime to the binary of a shim (containerd's contract).

use std::env;
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::error::RuntimeError;
use super::settings::Settings;

/// Names that mean gantry-shim unless the configuration says otherwise. The first is what every client sends.
const OUR_NAMES: [&str; 2] = ["io.containerd.runc.v2", "io.containerd.gantry.v1"];

/// Runtimes of a time before shims spoke this protocol.
const DEPRECATED: [&str; 2] = ["io.containerd.runtime.v1.linux", "io.containerd.runc.v1"];

/// File names under which gantry-shim is installed; the second is how a real containerd finds it.
const OUR_BINARIES: [&str; 2] = ["gantry-shim", "containerd-shim-gantry-v1"];

/// Which program runs a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Runtime {
    /// The binary.
    pub binary: PathBuf,
    /// How it is started.
    pub kind: RuntimeKind,
}

/// How a shim is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RuntimeKind {
    /// One process that is handed its socket.
    Gantry,
    /// By the command `start`, which any shim has.
    Foreign,
}

impl Runtime {
    /// The runtime that a binary is.
    pub(super) fn of(binary: PathBuf, settings: &Settings) -> Self {
        let ours = binary == settings.gantry_shim
            || binary.file_name().is_some_and(|name| OUR_BINARIES.iter().any(|ours| name == OsStr::new(ours)));
        Self { binary, kind: if ours { RuntimeKind::Gantry } else { RuntimeKind::Foreign } }
    }
}

/// Finds the binary for the name in a container's record. `path`, if not empty, comes from the request and wins.
///
/// # Errors
/// There is no such name or no such binary.
pub(super) fn resolve(name: &str, path: &str, settings: &Settings) -> Result<Runtime, RuntimeError> {
    let search: Vec<PathBuf> = env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default();
    resolve_in(name, path, settings, &search)
}

fn resolve_in(name: &str, path: &str, settings: &Settings, search: &[PathBuf]) -> Result<Runtime, RuntimeError> {
    let wanted = if path.is_empty() { name } else { path };
    if wanted.is_empty() {
        return Err(RuntimeError::Empty);
    }
    let installed = |binary: PathBuf| {
        if is_program(&binary) {
            return Ok(Runtime::of(binary, settings));
        }
        Err(RuntimeError::Missing { name: name.to_owned(), binary: binary.display().to_string() })
    };
    if let Some(binary) = settings.runtimes.get(wanted) {
        return installed(binary.clone());
    }
    if wanted.starts_with('/') {
        return installed(PathBuf::from(wanted));
    }
    if DEPRECATED.contains(&wanted) {
        return Err(RuntimeError::Deprecated { name: wanted.to_owned() });
    }
    if OUR_NAMES.contains(&wanted) {
        return installed(settings.gantry_shim.clone());
    }
    let binary = binary_name(wanted).ok_or_else(|| RuntimeError::Malformed { name: wanted.to_owned() })?;
    let beside = settings.daemon_binary.parent().map(Path::to_path_buf);
    search
        .iter()
        .cloned()
        .chain(beside)
        // An empty or relative entry of PATH would mean whatever folder the daemon was started in.
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(&binary))
        .find(|binary| is_program(binary))
        .map(|binary| Runtime::of(binary, settings))
        .ok_or_else(|| RuntimeError::Missing { name: wanted.to_owned(), binary: binary.clone() })
}

/// `io.containerd.runc.v2` → `containerd-shim-runc-v2`.
fn binary_name(name: &str) -> Option<String> {
    if name.contains('/') {
        return None;
    }
    let mut parts = name.rsplit('.');
    let (version, kind) = (parts.next()?, parts.next()?);
    (!version.is_empty() && !kind.is_empty()).then(|| format!("containerd-shim-{kind}-{version}"))
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use model::error::{Classify, Kind};

    use super::super::tests::settings;
    use super::*;

    fn program(path: PathBuf) -> PathBuf {
        fs::write(&path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn the_rule_of_names_as_a_table() {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = settings(folder.path());
        settings.gantry_shim = program(folder.path().join("gantry-shim"));
        settings.daemon_binary = folder.path().join("gantryd");
        let in_path = folder.path().join("path");
        fs::create_dir(&in_path).unwrap();
        let kata = program(in_path.join("containerd-shim-kata-v2"));
        let beside = program(folder.path().join("containerd-shim-beside-v1"));
        let special = program(folder.path().join("special"));
        settings.runtimes.insert("my.own".into(), special.clone());
        fs::write(in_path.join("containerd-shim-plain-v1"), "not executable").unwrap();
        let search = [PathBuf::from(""), in_path];

        let gantry = Ok((settings.gantry_shim.clone(), RuntimeKind::Gantry));
        for (name, path, answer) in [
            ("io.containerd.runc.v2", "", gantry.clone()),
            ("io.containerd.gantry.v1", "", gantry),
            ("io.containerd.kata.v2", "", Ok((kata.clone(), RuntimeKind::Foreign))),
            ("kata.v2", "", Ok((kata.clone(), RuntimeKind::Foreign))),
            ("io.containerd.beside.v1", "", Ok((beside, RuntimeKind::Foreign))),
            ("my.own", "", Ok((special, RuntimeKind::Foreign))),
            (kata.to_str().unwrap(), "", Ok((kata.clone(), RuntimeKind::Foreign))),
            ("io.containerd.runc.v2", kata.to_str().unwrap(), Ok((kata.clone(), RuntimeKind::Foreign))),
            ("", "", Err(Kind::InvalidArgument)),
            ("runc", "", Err(Kind::InvalidArgument)),
            ("a/b.c", "", Err(Kind::InvalidArgument)),
            ("../x.y", "", Err(Kind::InvalidArgument)),
            ("x.", "", Err(Kind::InvalidArgument)),
            ("io.containerd.runtime.v1.linux", "", Err(Kind::NotFound)),
            ("io.containerd.runc.v1", "", Err(Kind::NotFound)),
            ("io.containerd.none.v1", "", Err(Kind::Unknown)),
            ("io.containerd.plain.v1", "", Err(Kind::Unknown)),
            ("/no/such/binary", "", Err(Kind::Unknown)),
        ] {
            let got = resolve_in(name, path, &settings, &search)
                .map(|runtime| (runtime.binary, runtime.kind))
                .map_err(|error| error.kind());
            assert_eq!(got, answer, "{name:?} {path:?}");
        }
        settings.runtimes.insert("io.containerd.runc.v2".into(), search[1].join("containerd-shim-kata-v2"));
        let runtime = resolve_in("io.containerd.runc.v2", "", &settings, &search).unwrap();
        assert_eq!(runtime.kind, RuntimeKind::Foreign, "the configuration wins");
    }
}
