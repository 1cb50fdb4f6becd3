//! Where the programs are.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// The folder with gantryd, gantry and gantry-shim: `GANTRY_BIN`, else where `make build` puts them.
///
/// # Errors
/// Says how to build them when they are not there.
pub fn gantry_bin() -> anyhow::Result<PathBuf> {
    let target = || {
        let own = std::env::current_exe().context("find this program")?;
        // target/debug/deps/e2e-hash
        let target = own.ancestors().nth(3).context("this program is not in a target folder")?;
        anyhow::Ok(target.join("gantry-bin"))
    };
    let folder = match std::env::var_os("GANTRY_BIN") {
        Some(folder) => PathBuf::from(folder),
        None => target()?,
    };
    for program in ["gantryd", "gantry", "gantry-shim"] {
        let path = folder.join(program);
        if !path.is_file() {
            bail!("{} is not there: run `make build` first, or set GANTRY_BIN", path.display());
        }
    }
    Ok(folder)
}

/// A program of the machine, looked up in `PATH`.
///
/// # Errors
/// Names the program, and what installs it.
pub fn find(program: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/bin".into()])
        .map(|folder| folder.join(program))
        .find(|file| is_program(file));
    found.with_context(|| format!("{program} is not installed: `make deps` installs what the tests need"))
}

/// The folder with a package of the next Debian, which is unpacked on first use and never installed: `root` is as it would be
/// installed, `bin` has a starter for each program, with its own libraries.
///
/// # Errors
/// When it cannot be fetched.
pub fn trixie(package: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("find this program")?;
    let target = own
        .ancestors()
        .find(|folder| folder.join("CACHEDIR.TAG").is_file())
        .context("this program is not in a target folder")?;
    let folder = target.join("gantry-trixie");
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("trixie.sh");
    let ran = crate::run(&script, &[folder.as_os_str(), package.as_ref()])?;
    ran.ok().with_context(|| format!("unpack {package} of the next Debian"))?;
    Ok(folder)
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
