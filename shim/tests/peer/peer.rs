//! Private daemons. Everything is gone when a [`Peer`] is.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The name by which daemons look for the program.
pub(crate) const RUNTIME: &str = "io.containerd.gantry.v1";

/// Where the programs of one containerd are.
pub(crate) struct Programs {
    pub name: &'static str,
    containerd: PathBuf,
    ctr: PathBuf,
}

/// Every containerd to test with. Empty, with a word, when containers cannot run.
pub(crate) fn containerds() -> Vec<Programs> {
    if !is_possible() {
        return Vec::new();
    }
    let next = trixie("containerd");
    vec![
        Programs { name: "1.6", containerd: "/usr/bin/containerd".into(), ctr: "/usr/bin/ctr".into() },
        Programs { name: "1.7", containerd: next.join("usr/bin/containerd"), ctr: next.join("usr/bin/ctr") },
    ]
}

fn is_possible() -> bool {
    let possible = rustix::process::geteuid().is_root() && Path::new("/bin/busybox").exists();
    if !possible {
        eprintln!("skipped: needs root and a static busybox");
    }
    possible
}

/// The root of the programs of the next Debian, where this package is unpacked. They run as they are.
pub(crate) fn trixie(package: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("trixie");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/trixie.sh");
    let output = Command::new(script).arg(&target).arg(package).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    target.join("root")
}

/// A containerd with an empty root, our shim in its `PATH`, and a root filesystem of busybox.
pub(crate) struct Peer {
    folder: tempfile::TempDir,
    programs: Programs,
    child: Child,
}

impl Peer {
    pub(crate) fn start(programs: Programs) -> Self {
        let folder = tempfile::Builder::new().prefix("gp").tempdir().unwrap();
        let path = folder.path();
        fs::create_dir_all(path.join("bin")).unwrap();
        symlink(env!("CARGO_BIN_EXE_gantry-shim"), path.join("bin/containerd-shim-gantry-v1")).unwrap();
        let bin = path.join("rootfs/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::copy("/bin/busybox", bin.join("busybox")).unwrap();
        for applet in ["sh", "cat", "echo", "sleep", "true"] {
            symlink("busybox", bin.join(applet)).unwrap();
        }
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n[grpc]\n  address = {:?}\n",
            path.join("root"),
            path.join("state"),
            path.join("c.sock")
        );
        fs::write(path.join("config.toml"), config).unwrap();
        let child = spawn(&programs, path);
        let peer = Self { programs, child, folder };
        peer.await_service();
        peer
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn address(&self) -> PathBuf {
        self.path().join("c.sock")
    }

    pub(crate) fn namespace(&self) -> String {
        format!("peer-{}", std::process::id())
    }

    fn await_service(&self) {
        eventually("containerd serves", || self.try_ctr(&["version"]).status.success());
    }

    pub(crate) fn kill9(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn come_back(&mut self) {
        self.child = spawn(&self.programs, self.folder.path());
        self.await_service();
    }

    pub(crate) fn try_ctr(&self, words: &[&str]) -> Output {
        let mut command = Command::new(&self.programs.ctr);
        command.arg("-a").arg(self.address()).arg("-n").arg(self.namespace()).args(words);
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// What `ctr` prints, which must succeed.
    #[track_caller]
    pub(crate) fn ctr(&self, words: &[&str]) -> String {
        let output = self.try_ctr(words);
        assert!(output.status.success(), "ctr {words:?} of {}: {output:?}\n{}", self.programs.name, self.log());
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a container in the background.
    pub(crate) fn run(&self, id: &str, flags: &[&str], command: &[&str]) {
        let rootfs = self.path().join("rootfs").display().to_string();
        let words = [&["run", "-d", "--runtime", RUNTIME][..], flags, &["--rootfs", &rootfs, id], command].concat();
        self.ctr(&words);
    }

    /// The status of a task; empty when there is none.
    pub(crate) fn status(&self, id: &str) -> String {
        let list = self.ctr(&["task", "ls"]);
        let line = list.lines().find(|line| line.split_whitespace().next() == Some(id));
        line.and_then(|line| line.split_whitespace().nth(2)).unwrap_or_default().to_owned()
    }

    /// Kills a container and removes it.
    pub(crate) fn remove(&self, id: &str) {
        let _ = self.try_ctr(&["task", "kill", "-s", "SIGKILL", id]);
        eventually("it has ended", || self.status(id) != "RUNNING");
        // Its end is told by the status of this command.
        let _ = self.try_ctr(&["task", "rm", id]);
        assert_eq!(self.status(id), "");
        self.ctr(&["container", "rm", id]);
    }

    /// The bundle of a container.
    pub(crate) fn bundle(&self, id: &str) -> PathBuf {
        self.path().join("state/io.containerd.runtime.v2.task").join(self.namespace()).join(id)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path().join("log")).unwrap_or_default()
    }

    /// Nothing of ours is left.
    #[track_caller]
    pub(crate) fn assert_clean(&self) {
        eventually("no shim is left", || {
            pids_with(&self.address().display().to_string(), "-publish-binary").is_empty()
        });
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&self.path().display().to_string()), "{mounts}");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("log of containerd {}:\n{}", self.programs.name, self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        for pid in pids_with(&self.address().display().to_string(), "-publish-binary") {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

fn spawn(programs: &Programs, folder: &Path) -> Child {
    let log = File::options().append(true).create(true).open(folder.join("log")).unwrap();
    let path = format!("{}:{}", folder.join("bin").display(), std::env::var("PATH").unwrap());
    let mut command = Command::new(&programs.containerd);
    command.arg("-c").arg(folder.join("config.toml")).env("PATH", path);
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

/// Processes whose command line has both.
pub(crate) fn pids_with(one: &str, other: &str) -> Vec<i32> {
    let has_both = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.contains(one) && line.contains(other)
    };
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.filter(has_both).collect()
}

#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(40);
    while !holds() {
        assert!(Instant::now() < until, "still not: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
