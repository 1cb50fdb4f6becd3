//! What a shim's `start` wants to read (containerd's contract): the protocol changed, and neither form works with all shims.
//!
//! The version of containerd's own shim decides. Others are tried: first with nothing, which all but the newest take, then with
//! the new parameters. What was found out is kept for as long as the binary is the same.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::process::Command;

use super::process;

/// What a shim's `start` reads from its standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StdinForm {
    /// The runtime's options in an `Any`, or nothing.
    Options,
    /// `BootstrapParams`.
    Params,
    /// Not known: nothing, then the parameters.
    Try,
}

/// How long `-v` may take.
const VERSION_TIME: Duration = Duration::from_secs(5);

/// Binaries that are remembered. Few machines have more than three; all are forgotten when there are more than this.
const MAX_KNOWN: usize = 64;

/// The first version whose shim reads parameters.
const PARAMS_SINCE: (u32, u32) = (2, 3);

/// Remembers what each binary wants.
#[derive(Debug, Default)]
pub(super) struct Probe {
    known: Mutex<HashMap<PathBuf, (Identity, StdinForm)>>,
}

/// Tells a binary from one that was installed over it.
type Identity = (SystemTime, u64);

impl Probe {
    /// What `binary` wants, asking it if it is not known.
    pub(super) async fn form(&self, binary: &Path) -> StdinForm {
        let identity = identity(binary);
        if let Some((known, form)) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(binary)
            && Some(*known) == identity
        {
            return *form;
        }
        let form = ask(binary).await;
        self.learn(binary, form);
        form
    }

    /// Remembers what worked.
    pub(super) fn learn(&self, binary: &Path, form: StdinForm) {
        let Some(identity) = identity(binary) else { return };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(binary.to_owned(), (identity, form));
    }
}

fn identity(binary: &Path) -> Option<Identity> {
    let metadata = binary.metadata().ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

async fn ask(binary: &Path) -> StdinForm {
    // The versions of other vendors' shims say nothing about the protocol.
    let is_containerds =
        binary.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with("containerd-shim-runc-"));
    if !is_containerds {
        return StdinForm::Try;
    }
    let mut command = Command::new(binary);
    command.arg("-v");
    let Ok(ended) = process::run(command, b"", VERSION_TIME).await else { return StdinForm::Try };
    match version(&String::from_utf8_lossy(&ended.stdout)) {
        Some(version) if version >= PARAMS_SINCE => StdinForm::Params,
        Some(_) => StdinForm::Options,
        None => StdinForm::Try,
    }
}

/// The major and minor number in what `-v` prints.
fn version(output: &str) -> Option<(u32, u32)> {
    let text = output.lines().find_map(|line| line.trim().strip_prefix("Version:"))?.trim();
    let mut numbers = text.strip_prefix('v').unwrap_or(text).split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn versions_are_read() {
        for (output, answer) in [
            ("containerd-shim-runc-v2:\n  Version:  1.6.20~ds1\n  Revision: x\n", Some((1, 6))),
            ("x:\n  Version: v2.3.4\n", Some((2, 3))),
            ("x:\n  Version: 2.4.0-beta.0\n", Some((2, 4))),
            ("x:\n  Version: 12.34\n", Some((12, 34))),
            ("x:\n  Version: devel\n", None),
            ("kata 3.2", None),
            ("", None),
        ] {
            assert_eq!(version(output), answer, "{output:?}");
        }
    }

    #[tokio::test]
    async fn a_binary_is_asked_once_and_again_when_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let binary = folder.path().join("containerd-shim-runc-v2");
        let count = folder.path().join("count");
        let install = |version: &str| {
            // In another file first: a file that is written to cannot be run.
            let fresh = folder.path().join("fresh");
            fs::write(&fresh, format!("#!/bin/sh\necho >>{}\necho '  Version: {version}'\n", count.display())).unwrap();
            fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).unwrap();
            fs::rename(&fresh, &binary).unwrap();
        };
        let probe = Probe::default();
        install("1.6.20~ds1");
        assert_eq!(probe.form(&binary).await, StdinForm::Options);
        assert_eq!(probe.form(&binary).await, StdinForm::Options);
        assert_eq!(fs::read(&count).unwrap().len(), 1);
        install("2.3");
        assert_eq!(probe.form(&binary).await, StdinForm::Params);
        assert_eq!(fs::read(&count).unwrap().len(), 2);
        probe.learn(&binary, StdinForm::Options);
        assert_eq!(probe.form(&binary).await, StdinForm::Options);
    }

    #[tokio::test]
    async fn other_vendors_are_tried() {
        assert_eq!(Probe::default().form(Path::new("/bin/containerd-shim-kata-v2")).await, StdinForm::Try);
    }
}
