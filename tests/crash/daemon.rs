//! A gantryd that may be killed before it serves, which the harness's one may not.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use client::Client;
use model::Namespace;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long it may take to serve or to end.
const LIMIT: Duration = Duration::from_secs(30);

pub(crate) struct Daemon {
    child: Child,
    folder: PathBuf,
}

impl Daemon {
    /// Starts it on the root and state below `folder`; it does not serve yet.
    pub(crate) fn spawn(folder: &Path) -> anyhow::Result<Self> {
        Self::spawn_with(folder, None)
    }

    /// Starts it, to end as if it were killed when it comes to `point` for the nth time (`name:n`).
    pub(crate) fn spawn_until(folder: &Path, point: &str) -> anyhow::Result<Self> {
        Self::spawn_with(folder, Some(point))
    }

    fn spawn_with(folder: &Path, point: Option<&str>) -> anyhow::Result<Self> {
        // Only the log of the last life is of interest.
        let log = std::fs::File::create(folder.join("log"))?;
        let mut command = Command::new(harness::programs::gantry_bin()?.join("gantryd"));
        if let Some(point) = point {
            command.env("GANTRY_FAILPOINT", point);
        }
        let child = command
            .arg("--address")
            .arg(folder.join("s.sock"))
            .arg("--root")
            .arg(folder.join("root"))
            .arg("--state")
            .arg(folder.join("state"))
            .args(["--log-level", "debug"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start gantryd")?;
        Ok(Self { child, folder: folder.to_owned() })
    }

    /// Returns when it serves.
    pub(crate) async fn ready(&mut self) -> anyhow::Result<()> {
        let limit = Instant::now() + LIMIT;
        loop {
            let asked = async {
                let client = Client::connect(&self.address(), Namespace::new("default")?).await?;
                client.version().version(()).await?;
                anyhow::Ok(())
            };
            let Err(error) = asked.await else { return Ok(()) };
            let ended = self.child.try_wait()?;
            ensure!(ended.is_none(), "gantryd ended: {ended:?}");
            ensure!(Instant::now() < limit, "gantryd does not serve: {error:#}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ended(&mut self, limit: Duration) -> anyhow::Result<std::process::ExitStatus> {
        let limit = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(Instant::now() < limit, "it has not ended");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        let ended = self.child.try_wait()?;
        ensure!(ended.is_none(), "gantryd ended by itself: {ended:?}\n{}", Self::log(&self.folder));
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end, and waits.
    pub(crate) fn terminate(&mut self) -> anyhow::Result<()> {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM)?;
        let limit = Instant::now() + LIMIT;
        while self.child.try_wait()?.is_none() {
            ensure!(Instant::now() < limit, "gantryd does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    pub(crate) fn address(&self) -> PathBuf {
        self.folder.join("s.sock")
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    pub(crate) fn log(folder: &Path) -> String {
        std::fs::read(folder.join("log")).map(|log| String::from_utf8_lossy(&log).into_owned()).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended; either way nothing of it is to be left.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
