//! Tasks against shims that misbehave, and against real ones where they are installed.

use std::path::Path;

use super::settings::{Settings, Timeouts};

/// Settings with everything below `folder`.
pub(super) fn settings(folder: &Path) -> Settings {
    Settings {
        root: folder.join("root"),
        state: folder.join("state"),
        grpc_address: folder.join("g.sock"),
        ttrpc_address: folder.join("g.sock.ttrpc"),
        daemon_binary: folder.join("gantryd"),
        gantry_shim: folder.join("gantry-shim"),
        runtimes: Default::default(),
        socket_dir: folder.join("s"),
        shim_env: Vec::new(),
        debug: false,
        timeouts: Timeouts::default(),
    }
}
