//! What emulated machines are made of: Debian's kernel, and first filesystems of programs with their libraries.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use crate::{programs, run};

/// Debian's cloud kernel, unpacked in the target folder.
#[derive(Debug)]
pub struct Kernel {
    /// What the emulator boots.
    pub image: PathBuf,
    modules: PathBuf,
}

impl Kernel {
    /// Fetches it, unless it is there already.
    ///
    /// # Errors
    /// It cannot be downloaded; the text says why.
    pub fn fetch() -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("find this program")?;
        // target/debug/deps/name-hash
        let folder = own.ancestors().nth(3).context("this program is not in a target folder")?.join("guest");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest/kernel.sh");
        run(&script, &[&folder])?.ok().context("the guest's kernel cannot be had")?;
        let modules = folder.join("kernel/lib/modules");
        Ok(Self { image: first(&folder.join("kernel/boot"), "vmlinuz-*")?, modules })
    }

    /// The file of a module, `overlay` for one.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn module(&self, name: &str) -> anyhow::Result<PathBuf> {
        first(&self.modules, &format!("{name}.ko"))
    }
}

fn first(place: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let found = run(&programs::find("find")?, &[place.as_os_str(), "-name".as_ref(), OsStr::new(name)])?.ok()?;
    let line = found.lines().next().with_context(|| format!("no {name} in {}", place.display()))?;
    Ok(PathBuf::from(line))
}

/// A first filesystem in the making.
#[derive(Debug)]
pub struct Root {
    folder: PathBuf,
}

impl Root {
    /// One with busybox in `bin`, made in `folder`.
    ///
    /// # Errors
    /// There is no static busybox, or the folder cannot be written.
    pub fn new(folder: &Path) -> anyhow::Result<Self> {
        for name in ["bin", "dev", "etc", "lib", "lib/modules", "lib64", "proc", "run", "sys", "tmp"] {
            std::fs::create_dir_all(folder.join(name))?;
        }
        let busybox = programs::find("busybox")?;
        ensure!(libraries(&busybox)?.is_empty(), "{} is not static: install busybox-static", busybox.display());
        let root = Self { folder: folder.to_owned() };
        root.file(&busybox, "bin/busybox")?;
        for applet in run(&busybox, &["--list"])?.ok()?.lines().filter(|applet| *applet != "busybox") {
            symlink("busybox", folder.join("bin").join(applet))?;
        }
        Ok(root)
    }

    /// Makes a folder.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn folder(&self, place: &str) -> anyhow::Result<()> {
        Ok(std::fs::create_dir_all(self.folder.join(place))?)
    }

    /// Makes a symbolic link at `place`.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn link(&self, target: &str, place: &str) -> anyhow::Result<()> {
        Ok(symlink(target, self.folder.join(place))?)
    }

    /// Copies a file to `place`.
    ///
    /// # Errors
    /// It cannot be copied.
    pub fn file(&self, from: &Path, place: &str) -> anyhow::Result<()> {
        let to = self.folder.join(place);
        std::fs::copy(from, &to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
        Ok(())
    }

    /// Writes a file that can be executed.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn script(&self, place: &str, text: &str) -> anyhow::Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::write(self.folder.join(place), text)?;
        Ok(std::fs::set_permissions(self.folder.join(place), std::fs::Permissions::from_mode(0o755))?)
    }

    /// Copies a program into `bin`, without the names of its functions (most of a debug build, and all of it has to pass
    /// through the guest's memory), and the libraries that it is linked with.
    ///
    /// # Errors
    /// It or one of its libraries is not there.
    pub fn program(&self, from: &Path) -> anyhow::Result<()> {
        let inside = self.folder.join("bin").join(from.file_name().context("a program has a name")?);
        run(&programs::find("strip")?, &[Path::new("-o"), &inside, from])?.ok()?;
        for library in libraries(from)? {
            let name = library.file_name().context("a library has a name")?;
            // By its own name, in the two folders where the loader looks without being told.
            let place = if library.starts_with("/lib64") { "lib64" } else { "lib" };
            let to = self.folder.join(place).join(name);
            std::fs::copy(&library, &to).with_context(|| format!("copy {}", library.display()))?;
        }
        Ok(())
    }

    /// Packs it into `archive`, as the kernel reads it.
    ///
    /// # Errors
    /// `cpio` failed.
    pub fn pack(&self, archive: &Path) -> anyhow::Result<()> {
        pack(&self.folder, archive)
    }
}

/// Packs a folder as the kernel reads it: `cpio`'s `newc`, not compressed, since unpacking is slow in an emulated machine.
/// Several such archives, one after the other, are one filesystem.
///
/// # Errors
/// `cpio` failed.
pub fn pack(folder: &Path, archive: &Path) -> anyhow::Result<()> {
    let names = run(
        &programs::find("find")?,
        &[folder.as_os_str(), "-mindepth".as_ref(), "1".as_ref(), "-printf".as_ref(), "%P\n".as_ref()],
    )?
    .ok()?;
    let mut cpio = Command::new(programs::find("cpio")?)
        .args(["--create", "--format=newc", "--owner=0:0", "--quiet"])
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(File::create(archive)?)
        .spawn()
        .context("start cpio")?;
    cpio.stdin.take().context("its input is a pipe")?.write_all(names.as_bytes())?;
    let status = cpio.wait()?;
    ensure!(status.success(), "cpio ended with {status}");
    Ok(())
}

/// The libraries that a program is linked with, and its loader; none for a static one.
fn libraries(program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    // It ends badly for a static program, and says nothing of libraries then.
    let listed = run(&programs::find("ldd")?, &[program])?;
    ensure!(!listed.stdout.contains("not found"), "a library of {} is missing: {listed}", program.display());
    let paths = listed.stdout.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(paths.map(|path| PathBuf::from(path.trim_end_matches(':'))).filter(|path| path != program).collect())
}
