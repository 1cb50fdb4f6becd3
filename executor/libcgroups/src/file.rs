//! The files of a cgroup: small, virtual, written at once.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Why something could not be done with a cgroup.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or a folder refuses.
    #[error("cannot {what} {}", .path.display())]
    Step {
        /// What was done.
        what: String,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A limit needs a controller that this machine does not have.
    #[error("the cgroup controller {controller} is not there")]
    Missing {
        /// The controller.
        controller: &'static str,
    },
    /// Something that this crate does not do.
    #[error("{what} is not supported")]
    Unsupported {
        /// What.
        what: &'static str,
    },
    /// Limits that contradict each other.
    #[error("{what}")]
    Invalid {
        /// Which.
        what: &'static str,
    },
}

impl Error {
    /// For `map_err` on a step.
    pub(crate) fn at(what: impl Into<String>, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let (what, path) = (what.into(), path.to_owned());
        move |source| Self::Step { what, path, source }
    }

    /// Whether the kernel gave this answer.
    pub(crate) fn is(&self, errno: nix::errno::Errno) -> bool {
        matches!(self, Self::Step { source, .. } if source.raw_os_error() == Some(errno as i32))
    }

    /// Whether the file is not there.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Step { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Writes a value; the file must be there.
pub(crate) fn write(folder: &Path, file: &str, value: impl ToString) -> Result<(), Error> {
    let (path, value) = (folder.join(file), value.to_string());
    let written = fs::OpenOptions::new().write(true).open(&path).and_then(|mut file| file.write_all(value.as_bytes()));
    written.map_err(|source| Error::Step { what: format!("write {value:?} to"), path, source })
}

/// Reads a value.
pub(crate) fn read(folder: &Path, file: &str) -> Result<String, Error> {
    let path = folder.join(file);
    fs::read_to_string(&path).map_err(Error::at("read", &path))
}
