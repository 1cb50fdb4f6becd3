//! How many files the daemon may have open: as many as the kernel grants it, while its children get what it was started with.
//!
//! Every shim costs the daemon a few descriptors, and 1024 of them, the usual soft limit, are not enough for a busy machine. Containers
//! must not inherit the raised limit: there are programs that walk through all descriptors they might have.

use std::sync::OnceLock;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use tracing::{debug, warn};

/// What the daemon was started with, once that was changed.
static ORIGINAL: OnceLock<Rlimit> = OnceLock::new();

/// Raises the soft limit of open files to the hard one.
pub fn raise_open_files() {
    let now = getrlimit(Resource::Nofile);
    if now.current == now.maximum {
        return;
    }
    let raised = Rlimit { current: now.maximum, maximum: now.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => {
            debug!(from = ?now.current, to = ?now.maximum, "limit of open files raised");
            ORIGINAL.get_or_init(|| now);
        }
        Err(error) => warn!(from = ?now.current, to = ?now.maximum, %error, "cannot raise the limit of open files"),
    }
}

/// Gives a child that was just started the limit that the daemon was started with. It should be called at once: what the child
/// starts before inherits the raised one.
pub fn restore_for_child(pid: Option<u32>) {
    let (Some(original), Some(pid)) = (ORIGINAL.get(), pid) else { return };
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
    if let Err(error) = prlimit(Some(pid), Resource::Nofile, *original) {
        // It has ended already.
        debug!(%error, "cannot restore the limit of open files of a child");
    }
}
