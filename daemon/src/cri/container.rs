//! Containers of pods: made, started, ended, removed, told of.
//!
//! ```text
//!                    StartContainer              ends, or StopContainer
//!   CreateContainer ────────────────► running ─────────────────────────► exited ──RemoveContainer──► (nothing)
//!     created ──────────────────────────────────── StartError ─────────────▲
//! ```
//!
//! A container is a container of namespace `k8s.io` with a snapshot of the same name, a folder below the root for what is its
//! own ([`volumes`]), and while it runs a task. It comes into being by one write of its record, which is the last step of its
//! creation: what a crash leaves before that is swept up by the next start. Its log is written by its shim, or beside it, never by
//! this process ([`log`]).
//!
//! The turn of a container is held by whoever changes its record, never while somebody waits for its end: the end itself needs the
//! turn to be recorded.

mod accounts;
mod create;
mod end;
mod image_volumes;
mod known;
mod log;
mod recover;
mod remove;
mod start;
mod status;
mod stop;
mod update;
mod volumes;

use std::path::PathBuf;

use super::{Cri, Pod};

pub use known::Known;

/// How a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// The code or 128 and the signal.
    pub code: u32,
    /// When, in nanoseconds since 1970.
    pub at: i64,
    /// The first process.
    pub pid: u32,
}

impl Cri {
    /// The folder of what is a container's own, with its volumes. It is kept across a reboot.
    fn folder_of_container(&self, id: &str) -> PathBuf {
        self.folder_of_containers().join(id)
    }

    fn folder_of_containers(&self) -> PathBuf {
        self.root().join("containers")
    }

    /// The snapshotter that has a container's root filesystem.
    fn snapshotter_of_pod(&self, pod: &Pod) -> String {
        self.inner.settings.snapshotter_of(&pod.record().handler).to_owned()
    }
}
