//! One of the two daemons, and the surroundings in which its steps run.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context as _;
use harness::image::{self, BUSYBOX_NAME, Entry, layer};
use harness::run::run_command;
use harness::{Containerd, Gantryd, Registry, busybox_archive, folder};
use serde_json::json;

use super::normal::Normal;
use super::script::{self, Script};

/// Both collect only when a client waits for it. When they do by themselves depends on how long the last time took.
const COLLECT_WHEN_TOLD: &str = "[plugins.\"io.containerd.gc.v1.scheduler\"]\n  pause_threshold = 0.0\n  deletion_threshold = 1000000\n  mutation_threshold = 0\n  startup_delay = \"1h\"\n";

#[derive(Debug)]
enum Daemon {
    Theirs(Containerd),
    Ours(Gantryd),
}

/// A daemon, a registry and a folder for files, all its own.
#[derive(Debug)]
pub(super) struct Side {
    // First, so that its containers end while the rest is there.
    daemon: Daemon,
    registry: Registry,
    scratch: tempfile::TempDir,
    namespace: String,
}

impl Side {
    /// Debian's containerd.
    pub(super) fn containerd(script: &str) -> anyhow::Result<Self> {
        Self::new(Daemon::Theirs(Containerd::with_config(COLLECT_WHEN_TOLD)?), script)
    }

    /// Ours.
    pub(super) fn gantryd(script: &str) -> anyhow::Result<Self> {
        Self::new(Daemon::Ours(Gantryd::with_config(COLLECT_WHEN_TOLD)?), script)
    }

    fn new(daemon: Daemon, script: &str) -> anyhow::Result<Self> {
        let namespace = format!("cmp-{}-{}", script.replace('_', "-"), std::process::id());
        Ok(Self { daemon, registry: Registry::start()?, scratch: folder("s")?, namespace })
    }

    /// Runs every step and returns, for each, its exit code and what it said.
    pub(super) fn play(&self, script: &Script) -> anyhow::Result<Vec<String>> {
        let layered = self.scratch.path().join("layered.tar");
        layered_archive(&layered)?;
        let archive = self.scratch.path().join("busybox.tar");
        std::fs::copy(busybox_archive()?, &archive).context("copy the archive of the small image")?;
        let normal = Normal::new(&[
            (self.folder(), "<daemon>"),
            (&self.scratch.path().display().to_string(), "<scratch>"),
            (&self.registry.host(), "<registry>"),
            (&self.namespace, "<namespace>"),
        ])?;
        let steps = script.steps.iter().map(|step| {
            let mut shell = Command::new("sh");
            shell.arg("-c").arg(format!(". \"$PRELUDE\"; {}", step.command)).stdin(Stdio::null());
            shell.current_dir(self.scratch.path());
            shell
                .env("PRELUDE", script::folder().join("prelude.sh"))
                .env("CONTAINERD_ADDRESS", format!("{}/s.sock", self.folder()))
                .env("CONTAINERD_NAMESPACE", &self.namespace)
                .env("NS", &self.namespace)
                .env("STEP", step.line.to_string())
                .env("DAEMON", self.folder())
                .env("REGISTRY", self.registry.host())
                .env("IMAGE", BUSYBOX_NAME)
                .env("ARCHIVE", &archive)
                .env("LAYERED", &layered);
            let ran = run_command(shell).with_context(|| format!("line {}", step.line))?;
            Ok(normal.outcome(&ran))
        });
        steps.collect()
    }

    fn folder(&self) -> &str {
        let folder = match &self.daemon {
            Daemon::Theirs(daemon) => daemon.folder(),
            Daemon::Ours(daemon) => daemon.folder(),
        };
        folder.to_str().expect("temporary folders have plain names")
    }
}

impl Drop for Side {
    /// The cgroup of a namespace stays when its last container goes, and `ctr images unmount` undoes only one of two mounts.
    fn drop(&mut self) {
        let scratch = self.scratch.path().display().to_string();
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for point in table.lines().rev().filter_map(|line| line.split(' ').nth(4)).filter(|at| at.starts_with(&scratch))
        {
            let _ = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH);
        }
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            // Not there in most, and not empty after a step that failed.
            let _ = std::fs::remove_dir(hierarchy.path().join(&self.namespace));
        }
    }
}

/// An image of three small layers that change and remove what is below, with no program in it.
fn layered_archive(path: &Path) -> anyhow::Result<()> {
    let folder = |path: &str, mode| Entry::Folder(path.to_owned(), mode);
    let file = |path: &str, text: &str| Entry::File(path.to_owned(), 0o644, text.as_bytes().to_vec());
    let lowest = layer(&[
        folder("etc", 0o755),
        file("etc/name", "lowest\n"),
        file("etc/gone", "soon\n"),
        folder("data", 0o700),
        file("data/a", "a\n"),
        file("data/b", "b\n"),
        Entry::Symlink("link".to_owned(), "etc/name".to_owned()),
    ])?;
    let middle = layer(&[
        folder("etc", 0o755),
        file("etc/name", "middle\n"),
        file("etc/.wh.gone", ""),
        folder("data", 0o750),
        file("data/.wh..wh..opq", ""),
        file("data/c", "c\n"),
        Entry::Hardlink("data/d".to_owned(), "data/c".to_owned()),
    ])?;
    let top = layer(&[file("top", &"0123456789\n".repeat(1000))])?;
    let process = json!({"Env": ["PATH=/bin", "WHO=layered"], "Cmd": ["/none"], "Labels": {"maker": "tests"}, "WorkingDir": "/data"});
    image::archive("docker.io/library/layered:1", path, &[lowest, middle, top], &process)
}
