//! A private gantryd: own root, own state, own socket, gone with its value.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::run::{Ran, eventually, run, within};
use crate::{busybox_archive, folder, image, programs};

/// A private gantryd.
#[derive(Debug)]
pub struct Gantryd {
    folder: tempfile::TempDir,
    bin: PathBuf,
    config: Option<PathBuf>,
    log_level: &'static str,
    /// The network namespace it runs in, if not that of the test.
    netns: Option<PathBuf>,
    child: Option<Child>,
}

impl Gantryd {
    /// Starts one with an empty root.
    ///
    /// # Errors
    /// When it does not serve; its log is in the message.
    pub fn start() -> anyhow::Result<Self> {
        Self::with_config("")
    }

    /// Starts one with an empty root and a configuration file beside the flags.
    ///
    /// # Errors
    /// When it does not serve; its log is in the message.
    pub fn with_config(text: &str) -> anyhow::Result<Self> {
        Self::prepare(text, "debug")
    }

    /// Starts one that logs as little as it does where it is installed, for measuring.
    ///
    /// # Errors
    /// When it does not serve; its log is in the message.
    pub fn quiet() -> anyhow::Result<Self> {
        Self::prepare("", "info")
    }

    fn prepare(text: &str, log_level: &'static str) -> anyhow::Result<Self> {
        let folder = folder("d")?;
        let config = folder.path().join("config.toml");
        std::fs::write(&config, format!("version = 2\n{text}"))?;
        let mut daemon =
            Self { folder, bin: programs::gantry_bin()?, config: Some(config), log_level, netns: None, child: None };
        daemon.launch()?;
        Ok(daemon)
    }

    /// Starts one with a configuration file made for its folder, in a network namespace of its own, which stays over restarts.
    ///
    /// # Errors
    /// When it does not serve; its log is in the message.
    pub fn in_private_network(config: impl FnOnce(&Path) -> anyhow::Result<String>) -> anyhow::Result<Self> {
        let folder = folder("n")?;
        let file = folder.path().join("config.toml");
        std::fs::write(&file, format!("version = 3\n{}", config(folder.path())?))?;
        let netns = folder.path().join("netns");
        std::fs::File::create(&netns)?;
        let unshare =
            [format!("--net={}", netns.display()), "ip".into(), "link".into(), "set".into(), "lo".into(), "up".into()];
        run(&programs::find("unshare")?, &unshare)?.ok()?;
        let mut daemon = Self {
            folder,
            bin: programs::gantry_bin()?,
            config: Some(file),
            log_level: "debug",
            netns: Some(netns),
            child: None,
        };
        daemon.launch()?;
        Ok(daemon)
    }

    /// The network namespace it runs in, if it has one of its own.
    pub fn netns(&self) -> Option<&Path> {
        self.netns.as_deref()
    }

    /// Starts one, with the small image imported and unpacked.
    ///
    /// # Errors
    /// When it does not serve, or refuses the image.
    pub fn with_busybox() -> anyhow::Result<Self> {
        let daemon = Self::start()?;
        daemon.ctr(&["images", "import", &busybox_archive()?.display().to_string()])?.ok()?;
        Ok(daemon)
    }

    /// Starts the program again, on the same root and state.
    ///
    /// # Errors
    /// When it runs already, or does not serve.
    pub fn launch(&mut self) -> anyhow::Result<()> {
        self.spawn()?;
        let served = eventually("gantryd serves", || {
            let ended = self.child.as_mut().map(|child| child.try_wait()).transpose()?.flatten();
            ensure!(ended.is_none() || self.child.is_none(), "gantryd ended: {ended:?}");
            self.ctr(&["version"])?.ok()
        });
        served.map(|_| ()).with_context(|| format!("gantryd's log:\n{}", self.log()))
    }

    /// Starts the program again, as [`launch`](Self::launch) does, and does not wait until it serves.
    ///
    /// # Errors
    /// When it runs already, or cannot be started.
    pub fn spawn(&mut self) -> anyhow::Result<()> {
        ensure!(self.child.is_none(), "it runs already");
        let log = std::fs::File::options().create(true).append(true).open(self.log_path())?;
        let mut command = match &self.netns {
            // It becomes the daemon, so the process is the same.
            Some(netns) => {
                let mut command = Command::new(programs::find("nsenter")?);
                command.arg(format!("--net={}", netns.display())).arg("--").arg(self.bin.join("gantryd"));
                command
            }
            None => Command::new(self.bin.join("gantryd")),
        };
        if let Some(config) = &self.config {
            command.arg("--config").arg(config);
        }
        command.arg("--address").arg(self.address()).arg("--root").arg(self.root()).arg("--state").arg(self.state());
        command.args(["--log-level", self.log_level]).env("PATH", self.path_variable()).stdin(Stdio::null());
        self.child = Some(command.stdout(log.try_clone()?).stderr(log).spawn().context("start gantryd")?);
        Ok(())
    }

    /// `PATH` with our programs first.
    fn path_variable(&self) -> String {
        format!("{}:{}", self.bin.display(), std::env::var("PATH").unwrap_or_default())
    }

    /// Kills it as a power cut would: nothing is told.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill9(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().context("it does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Asks it to end, and waits. Containers stay.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn terminate(&mut self) -> anyhow::Result<std::process::ExitStatus> {
        let mut child = self.child.take().context("it does not run")?;
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM)?;
        let ended = within(Duration::from_secs(20), "gantryd ends", || child.try_wait()?.context("it still runs"));
        if ended.is_err() {
            child.kill()?;
            child.wait()?;
        }
        ended
    }

    /// Its process id.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pid(&self) -> anyhow::Result<u32> {
        Ok(self.child.as_ref().context("it does not run")?.id())
    }

    /// Its socket.
    pub fn address(&self) -> PathBuf {
        self.folder.path().join("s.sock")
    }

    /// What it keeps for ever.
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// What it keeps until the machine restarts.
    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// The folder of everything it has.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read(self.log_path()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Runs Debian's `ctr` against it.
    ///
    /// # Errors
    /// When `ctr` cannot be started or hangs.
    pub fn ctr(&self, arguments: &[&str]) -> anyhow::Result<Ran> {
        ctr(&self.address(), arguments)
    }

    /// Runs `ctr run --rm` with the small image.
    ///
    /// # Errors
    /// When `ctr` cannot be started or hangs.
    pub fn ctr_run(&self, id: &str, command: &[&str]) -> anyhow::Result<Ran> {
        let mut arguments = vec!["run", "--rm", image::BUSYBOX_NAME, id];
        arguments.extend(command);
        self.ctr(&arguments)
    }

    /// Runs our own command line against it.
    ///
    /// # Errors
    /// When it cannot be started or hangs.
    pub fn gantry(&self, arguments: &[&str]) -> anyhow::Result<Ran> {
        run(&self.bin.join("gantry"), &self.gantry_arguments(arguments))
    }

    /// Runs the daemon's own program with its folders and another command than serving.
    ///
    /// # Errors
    /// When it cannot be started or hangs.
    pub fn gantryd(&self, arguments: &[&str]) -> anyhow::Result<Ran> {
        let (root, state) = (self.root().display().to_string(), self.state().display().to_string());
        let mut all = vec!["--root", &root, "--state", &state];
        all.extend(arguments);
        run(&self.bin.join("gantryd"), &all)
    }

    /// A command of ours against it, to be started by the caller.
    pub fn gantry_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.bin.join("gantry"));
        command.args(self.gantry_arguments(arguments));
        command
    }

    fn gantry_arguments(&self, arguments: &[&str]) -> Vec<String> {
        let address = self.address().display().to_string();
        ["--address", &address].iter().chain(arguments).map(|&part| part.to_owned()).collect()
    }
}

impl Drop for Gantryd {
    fn drop(&mut self) {
        // Containers outlive the daemon, so they are ended first, while it can still do it.
        if self.child.is_some() {
            end_everything(&self.address());
        }
        if std::thread::panicking() {
            eprintln!("gantryd's log, the end of it:\n{}", tail(&self.log(), 60));
        }
        if self.child.is_some() {
            // A daemon that does not end in time was killed; the test that wants it to end says so itself.
            let _ = self.terminate();
        }
        crate::census::sweep(self.folder.path());
    }
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Runs Debian's `ctr` against the daemon at `address`.
///
/// # Errors
/// When `ctr` cannot be started or hangs.
pub fn ctr(address: &Path, arguments: &[&str]) -> anyhow::Result<Ran> {
    let address = address.display().to_string();
    let all: Vec<&str> = ["--address", &address].iter().chain(arguments).copied().collect();
    run(&programs::find("ctr")?, &all)
}

/// Removes the task `id` with Debian's `ctr`, which tells its exit code in a warning.
///
/// # Errors
/// When it cannot be removed, or ended with another code than `code`.
pub fn removed_with(address: &Path, id: &str, code: u32) -> anyhow::Result<()> {
    let removed = ctr(address, &["tasks", "rm", id])?;
    ensure!(removed.code == 0 && removed.stderr.contains(&format!("exit code {code}")), "{removed}");
    Ok(())
}

/// Ends and removes every container of every namespace, as well as that goes: for cleaning up after a story.
pub(crate) fn end_everything(address: &Path) {
    let lines = |arguments: &[&str]| {
        ctr(address, arguments)
            .and_then(Ran::ok)
            .map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
            .unwrap_or_default()
    };
    for namespace in lines(&["namespaces", "ls", "-q"]) {
        let tasks = lines(&["-n", &namespace, "tasks", "ls", "-q"]);
        for task in &tasks {
            let _ = ctr(address, &["-n", &namespace, "tasks", "rm", "-f", task]);
        }
        for container in lines(&["-n", &namespace, "containers", "ls", "-q"]) {
            let _ = ctr(address, &["-n", &namespace, "containers", "rm", &container]);
        }
    }
}
