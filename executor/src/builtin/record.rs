//! What is kept of a container between two runs of the runtime: one folder, one JSON file, replaced whole.
//!
//! ```text
//! <root>/<id>/state.json   this record            view/   the bundle as libcontainer sees it
//!             lib/<id>/    libcontainer's own     exec-*/ while an exec is being set up
//! ```
//!
//! The status is never stored: it follows from the init process, its freezer and whether it was started.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::ProcessId;
use crate::cgroup::Cgroup;

/// Version of [`Record`] on disk.
const VERSION: u32 = 1;
/// containerd's ids are at most 76 bytes; this only bounds a file name.
const MAX_ID: usize = 128;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) version: u32,
    pub(super) id: String,
    pub(super) bundle: PathBuf,
    pub(super) rootfs: PathBuf,
    pub(super) created: String,
    pub(super) annotations: Map<String, Value>,
    pub(super) init: ProcessId,
    pub(super) cgroup: Cgroup,
    pub(super) started: bool,
    /// Whether `delete` has hooks to run.
    pub(super) has_poststop_hooks: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum RecordError {
    #[error("container does not exist")]
    Missing,
    #[error("container was not created completely")]
    Incomplete,
    #[error("invalid container id: {0:?}")]
    Id(String),
    #[error("state of the container: {0}")]
    Io(#[from] io::Error),
    #[error("state of the container: {0}")]
    Json(#[from] serde_json::Error),
}

/// The folder of a container.
#[derive(Debug, Clone)]
pub(super) struct Home(PathBuf);

impl Home {
    /// Checks the id, which becomes a file name.
    pub(super) fn of(root: &Path, id: &str) -> Result<Self, RecordError> {
        let plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte));
        if !plain || id.is_empty() || id.len() > MAX_ID || id == "." || id == ".." {
            return Err(RecordError::Id(id.to_owned()));
        }
        Ok(Self(root.join(id)))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn view(&self) -> PathBuf {
        self.0.join("view")
    }

    pub(super) fn lib(&self) -> PathBuf {
        self.0.join("lib")
    }

    /// Reads the record.
    pub(super) fn load(&self) -> Result<Record, RecordError> {
        match fs::read(self.0.join("state.json")) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.0.is_dir() => Err(RecordError::Incomplete),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(RecordError::Missing),
            Err(error) => Err(error.into()),
        }
    }

    /// Replaces the record. The folder is on a tmpfs and does not outlive a reboot, so nothing is synced.
    pub(super) fn save(&self, record: &Record) -> Result<(), RecordError> {
        let new = self.0.join(format!("state.json.{}", std::process::id()));
        fs::write(&new, serde_json::to_vec(record)?)?;
        Ok(fs::rename(&new, self.0.join("state.json"))?)
    }
}

impl Record {
    pub(super) fn new(id: &str, bundle: &Path, rootfs: &Path, spec: &Value, init: ProcessId, cgroup: Cgroup) -> Self {
        let annotations = spec.get("annotations").and_then(Value::as_object).cloned().unwrap_or_default();
        Self {
            version: VERSION,
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            rootfs: rootfs.to_owned(),
            created: super::log::rfc3339(std::time::SystemTime::now()),
            annotations,
            init,
            cgroup,
            started: false,
            has_poststop_hooks: spec
                .pointer("/hooks/poststop")
                .and_then(Value::as_array)
                .is_some_and(|hooks| !hooks.is_empty()),
        }
    }

    pub(super) fn status(&self) -> Status {
        if !self.init.is_alive() {
            Status::Stopped
        } else if self.cgroup.is_frozen().unwrap_or(false) {
            Status::Paused
        } else if self.started {
            Status::Running
        } else {
            Status::Created
        }
    }

    /// The OCI state.
    pub(super) fn state(&self) -> Value {
        let status = self.status();
        serde_json::json!({
            "ociVersion": super::OCI_VERSION,
            "id": self.id,
            "pid": if status == Status::Stopped { 0 } else { self.init.pid },
            "status": status.name(),
            "bundle": self.bundle,
            "rootfs": self.rootfs,
            "created": self.created,
            "annotations": self.annotations,
            "owner": "",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_is_not_a_plain_file_name_is_refused() {
        let root = Path::new("/r");
        for id in ["", ".", "..", "a/b", "a b", "ä", &"x".repeat(MAX_ID + 1)] {
            assert!(matches!(Home::of(root, id), Err(RecordError::Id(_))), "{id}");
        }
        assert_eq!(Home::of(root, "a_b+c-d.e").unwrap().path(), Path::new("/r/a_b+c-d.e"));
    }
}
