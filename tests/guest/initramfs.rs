//! The guest's first filesystem: busybox, our programs, the runtimes with their libraries, the image and the checks.

use std::collections::BTreeSet;
use std::fs::{File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use harness::{programs, run};

/// The folders of the root.
const FOLDERS: [&str; 10] = ["bin", "dev", "etc", "images", "lib", "lib/modules", "lib64", "new", "proc", "sys"];

/// Makes it at `archive`, with `folder` to work in.
pub(crate) fn make(folder: &Path, archive: &Path, module: &Path) -> anyhow::Result<()> {
    let root = folder.join("root");
    for name in FOLDERS {
        std::fs::create_dir_all(root.join(name))?;
    }
    busybox(&root)?;
    let ours = programs::gantry_bin()?;
    let mut libraries = BTreeSet::new();
    for program in ["gantryd", "gantry", "gantry-shim"] {
        let inside = root.join("bin").join(program);
        // The names of functions are most of a debug build, and all of it has to pass through the guest's memory.
        run(&programs::find("strip")?, &[Path::new("-o"), &inside, &ours.join(program)])?.ok()?;
        libraries.extend(needs(&inside)?);
    }
    symlink("gantry-shim", root.join("bin/containerd-shim-gantry-v1"))?;
    for program in ["ctr", "runc", "crun"] {
        let path = programs::find(program)?;
        copy(&path, &root.join("bin").join(program))?;
        libraries.extend(needs(&path)?);
    }
    for library in libraries {
        // By its own name, in the two folders where the loader looks without being told.
        let name = library.file_name().context("a library has a name")?;
        let place = if library.starts_with("/lib64") { "lib64" } else { "lib" };
        copy(&library, &root.join(place).join(name))?;
    }
    copy(module, &root.join("lib/modules/overlay.ko"))?;
    copy(&harness::busybox_archive()?, &root.join("images/busybox.tar"))?;
    for (name, text) in [("init", include_str!("init.sh")), ("checks.sh", include_str!("checks.sh"))] {
        std::fs::write(root.join(name), text)?;
        std::fs::set_permissions(root.join(name), Permissions::from_mode(0o755))?;
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    std::fs::write(root.join("etc/group"), "root:x:0:\n")?;
    pack(&root, archive)
}

fn busybox(root: &Path) -> anyhow::Result<()> {
    let busybox = programs::find("busybox")?;
    ensure!(needs(&busybox)?.is_empty(), "{} is not static: install busybox-static", busybox.display());
    copy(&busybox, &root.join("bin/busybox"))?;
    for applet in run(&busybox, &["--list"])?.ok()?.lines().filter(|applet| *applet != "busybox") {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::copy(from, to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// The libraries that a program is linked with, and its loader; none for a static one.
fn needs(program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    // It ends badly for a static program, and says nothing of libraries then.
    let listed = run(&programs::find("ldd")?, &[program])?;
    ensure!(!listed.stdout.contains("not found"), "a library of {} is missing: {listed}", program.display());
    let paths = listed.stdout.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(paths.map(|path| PathBuf::from(path.trim_end_matches(':'))).filter(|path| path != program).collect())
}

/// As the kernel reads it: `cpio`'s `newc`, not compressed, since unpacking is slow in an emulated machine.
fn pack(root: &Path, archive: &Path) -> anyhow::Result<()> {
    let names = run(
        &programs::find("find")?,
        &[root.as_os_str(), "-mindepth".as_ref(), "1".as_ref(), "-printf".as_ref(), "%P\n".as_ref()],
    )?
    .ok()?;
    let mut cpio = Command::new(programs::find("cpio")?)
        .args(["--create", "--format=newc", "--owner=0:0", "--quiet"])
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(File::create(archive)?)
        .spawn()
        .context("start cpio")?;
    cpio.stdin.take().context("its input is a pipe")?.write_all(names.as_bytes())?;
    let status = cpio.wait()?;
    ensure!(status.success(), "cpio ended with {status}");
    Ok(())
}
