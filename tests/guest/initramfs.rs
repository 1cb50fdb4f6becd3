//! The guest's first filesystem: busybox, our programs, the runtimes with their libraries, the image and the checks.

use std::path::Path;

use harness::emulator::{Kernel, Root};
use harness::programs;

/// Makes it at `archive`, with `folder` to work in.
pub(crate) fn make(folder: &Path, archive: &Path, kernel: &Kernel) -> anyhow::Result<()> {
    let root = Root::new(&folder.join("root"))?;
    for name in ["images", "new"] {
        root.folder(name)?;
    }
    let ours = programs::gantry_bin()?;
    for program in ["gantryd", "gantry", "gantry-shim"] {
        root.program(&ours.join(program))?;
    }
    root.link("gantry-shim", "bin/containerd-shim-gantry-v1")?;
    for program in ["ctr", "runc", "crun"] {
        root.program(&programs::find(program)?)?;
    }
    root.file(&kernel.module("overlay")?, "lib/modules/overlay.ko")?;
    root.file(&harness::busybox_archive()?, "images/busybox.tar")?;
    for (name, text) in [("init", include_str!("init.sh")), ("checks.sh", include_str!("checks.sh"))] {
        root.script(name, text)?;
    }
    root.script("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")?;
    root.script("etc/group", "root:x:0:\n")?;
    root.pack(archive)
}
