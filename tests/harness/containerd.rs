//! Debian's containerd, private: the peer whose answers ours are compared with.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::gantryd::{ctr, end_everything};
use crate::run::{Ran, eventually};
use crate::{folder, programs};

/// A private containerd with an empty root.
#[derive(Debug)]
pub struct Containerd {
    folder: tempfile::TempDir,
    child: Child,
}

impl Containerd {
    /// Starts one. Our shim is in its `PATH`, under the name that `io.containerd.gantry.v1` stands for.
    ///
    /// # Errors
    /// When it does not serve.
    pub fn start() -> anyhow::Result<Self> {
        Self::with_config("")
    }

    /// As [`start`](Self::start), with more in its configuration file.
    ///
    /// # Errors
    /// When it does not serve.
    pub fn with_config(text: &str) -> anyhow::Result<Self> {
        let folder = folder("c")?;
        let at = |name: &str| folder.path().join(name);
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n[grpc]\n  address = {:?}\n{text}",
            at("root"),
            at("state"),
            at("s.sock"),
        );
        std::fs::write(at("config.toml"), config)?;
        let mut peer = Self { child: spawn(folder.path())?, folder };
        let served = eventually("containerd serves", || {
            let ended = peer.child.try_wait()?;
            ensure!(ended.is_none(), "containerd ended: {ended:?}");
            ctr(&peer.address(), &["version"])?.ok()
        });
        served.with_context(|| {
            format!(
                "containerd's log:\n{}",
                std::fs::read_to_string(peer.folder.path().join("log")).unwrap_or_default()
            )
        })?;
        Ok(peer)
    }

    /// Kills it as a power cut would.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill9(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts it again after [`kill9`](Self::kill9), and does not wait until it serves.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&mut self) -> anyhow::Result<()> {
        self.child = spawn(self.folder.path())?;
        Ok(())
    }

    /// Its socket.
    pub fn address(&self) -> PathBuf {
        self.folder.path().join("s.sock")
    }

    /// The folder of everything it has.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs Debian's `ctr` against it.
    ///
    /// # Errors
    /// When `ctr` cannot be started or hangs.
    pub fn ctr(&self, arguments: &[&str]) -> anyhow::Result<Ran> {
        ctr(&self.address(), arguments)
    }
}

fn spawn(folder: &Path) -> anyhow::Result<Child> {
    let log = std::fs::File::options().create(true).append(true).open(folder.join("log"))?;
    let path = format!("{}:{}", programs::gantry_bin()?.display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new(programs::find("containerd")?);
    command.arg("--config").arg(folder.join("config.toml")).env("PATH", path).stdin(Stdio::null());
    command.stdout(log.try_clone()?).stderr(log).spawn().context("start containerd")
}

impl Drop for Containerd {
    fn drop(&mut self) {
        end_everything(&self.address());
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        let ended = eventually("containerd ends", || self.child.try_wait()?.context("it still runs"));
        if ended.is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        crate::census::sweep(self.folder.path());
    }
}
