//! Saving a container to files and making it go on from them: what a caller may ask of CRIU through an OCI runtime.
//! Pure data, but for one question: whether CRIU is installed. Without it a runtime would fail late, and in words that
//! name neither CRIU nor the package.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::Create;

/// The program that runtimes start to save and restore processes.
pub const CRIU: &str = "criu";

/// What CRIU is to do with things that reach beyond the container. The same for saving and restoring.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CriuOptions {
    /// Keep established TCP connections (`--tcp-established`).
    pub open_tcp: bool,
    /// Unix sockets whose other end is outside (`--ext-unix-sk`).
    pub external_unix_sockets: bool,
    /// Processes that have a terminal of the outside (`--shell-job`).
    pub terminal: bool,
    /// Keep file locks (`--file-locks`).
    pub file_locks: bool,
    /// Fetch memory on demand from the side that saved it (`--lazy-pages`).
    pub lazy_pages: bool,
    /// Namespaces that are made again but empty, by the names CRIU knows: `network`.
    pub empty_namespaces: Vec<String>,
    /// What happens to cgroups: `soft`, `full`, `strict`, or whatever else the runtime knows. Empty: its default.
    pub cgroups_mode: String,
}

/// Arguments of [`Executor::checkpoint`](crate::Executor::checkpoint).
#[derive(Debug, Clone, Default)]
pub struct Checkpoint {
    /// The container.
    pub id: String,
    /// The folder for the images.
    pub image_path: PathBuf,
    /// The folder for CRIU's own files and logs (`dump.log`), if another.
    pub work_path: Option<PathBuf>,
    /// The images of an earlier dump; relative to `image_path`, as CRIU wants it.
    pub parent_path: Option<PathBuf>,
    /// The container goes on afterwards.
    pub leave_running: bool,
    /// Everything else.
    pub options: CriuOptions,
}

/// Arguments of [`Executor::restore`](crate::Executor::restore). The container runs at once: there is no `start` after it.
#[derive(Debug, Clone)]
pub struct Restore {
    /// As for a new container.
    pub create: Create,
    /// The folder with the images; a parent's are found through the link that is in there.
    pub image_path: PathBuf,
    /// The folder for CRIU's own files and logs (`restore.log`), if another.
    pub work_path: Option<PathBuf>,
    /// Everything else.
    pub options: CriuOptions,
}

impl CriuOptions {
    fn words(&self) -> Vec<OsString> {
        let flags = [
            (self.open_tcp, "--tcp-established"),
            (self.external_unix_sockets, "--ext-unix-sk"),
            (self.terminal, "--shell-job"),
            (self.file_locks, "--file-locks"),
            (self.lazy_pages, "--lazy-pages"),
        ];
        let mut words: Vec<OsString> =
            flags.into_iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| flag.into()).collect();
        if !self.cgroups_mode.is_empty() {
            words.extend(["--manage-cgroups-mode".into(), OsString::from(&self.cgroups_mode)]);
        }
        for namespace in &self.empty_namespaces {
            words.extend(["--empty-ns".into(), OsString::from(namespace)]);
        }
        words
    }
}

impl Checkpoint {
    /// What stands behind the verb.
    pub(crate) fn words(&self) -> Vec<OsString> {
        let mut words = vec!["--image-path".into(), self.image_path.clone().into()];
        for (flag, path) in [("--work-path", &self.work_path), ("--parent-path", &self.parent_path)] {
            if let Some(path) = path {
                words.extend([flag.into(), path.clone().into()]);
            }
        }
        if self.leave_running {
            words.push("--leave-running".into());
        }
        words.extend(self.options.words());
        words.push(self.id.clone().into());
        words
    }
}

impl Restore {
    /// What stands between the verb's common part and the id.
    pub(crate) fn words(&self) -> Vec<OsString> {
        let mut words = vec!["--image-path".into(), self.image_path.clone().into()];
        if let Some(path) = &self.work_path {
            words.extend(["--work-path".into(), path.clone().into()]);
        }
        words.push("--detach".into());
        words.extend(self.options.words());
        words
    }
}

/// Whether CRIU is in one of the folders of `path`, the value of `$PATH`.
pub(crate) fn is_installed(path: Option<&OsStr>) -> bool {
    std::env::split_paths(path.unwrap_or_default()).any(|folder| {
        std::fs::metadata(folder.join(CRIU)).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    })
}
