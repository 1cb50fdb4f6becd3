//! What the stories in `e2e/` stand on: private daemons, a registry, images made on the spot, and a census of the machine.
//!
//! Everything lives in a temporary folder and ends with the value that owns it. Nothing here knows a machine: programs are looked
//! up in `PATH`, ours in `GANTRY_BIN`. Containers are really run, so all of it needs root.

pub mod census;
pub mod containerd;
pub mod cri;
pub mod emulator;
pub mod gantryd;
pub mod image;
pub mod programs;
pub mod random;
pub mod registry;
pub mod run;

pub use census::Census;
pub use containerd::Containerd;
pub use cri::Node;
pub use gantryd::Gantryd;
pub use random::Random;
pub use registry::Registry;
pub use run::{Ran, eventually, run};

use std::path::PathBuf;

use anyhow::Context as _;

/// A new folder with a short path: a socket's path may have 104 bytes.
///
/// # Errors
/// When it cannot be made.
pub fn folder(name: &str) -> anyhow::Result<tempfile::TempDir> {
    anyhow::ensure!(
        nix::unistd::geteuid().is_root(),
        "these tests run containers, and only root can: run them as root"
    );
    let prefix = format!("gt-{name}-");
    tempfile::Builder::new().prefix(&prefix).tempdir_in("/tmp").with_context(|| format!("make a folder for {name}"))
}

/// The archive of the small image that the stories run. It is made once and stays in the target folder, beside the programs.
///
/// # Errors
/// When Debian's static busybox is not installed, or the file cannot be written.
pub fn busybox_archive() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("find this program")?;
    let target = own
        .ancestors()
        .find(|folder| folder.join("CACHEDIR.TAG").is_file())
        .context("this program is not in a target folder")?;
    let folder = target.join("gantry-fixtures");
    std::fs::create_dir_all(&folder)?;
    image::busybox(image::BUSYBOX_NAME, &folder)
}
