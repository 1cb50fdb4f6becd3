//! The program as an operator meets it: its command line, its log, its signals.
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::io::Read as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The longest to wait for anything.
const WAIT: Duration = Duration::from_secs(20);

fn gantryd(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gantryd"));
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    std::fs::write(folder.join("owner.toml"), format!("version = 2\n[grpc]\nuid = {uid}\ngid = {gid}\n")).unwrap();
    command.env_remove("NOTIFY_SOCKET").arg("--config").arg(folder.join("owner.toml"));
    for (flag, name) in [("--root", "root"), ("--state", "state"), ("--address", "g.sock")] {
        command.arg(flag).arg(folder.join(name));
    }
    command
}

fn output(command: &mut Command) -> (bool, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.success(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// A process that does not outlive the test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(command.stderr(Stdio::piped()).spawn().unwrap())
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.0.id().try_into().unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// Waits for the end; the exit code and all that was logged.
    #[track_caller]
    fn end(mut self) -> (Option<i32>, String) {
        let until = Instant::now() + WAIT;
        while self.0.try_wait().unwrap().is_none() {
            assert!(Instant::now() < until, "the daemon does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut log = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (self.0.wait().unwrap().code(), log)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Says to a supervisor's socket what a daemon says to systemd's.
struct Supervisor(UnixDatagram);

impl Supervisor {
    fn listen(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        Self(socket)
    }

    fn hear(&self) -> String {
        let mut buffer = [0; 256];
        let until = Instant::now() + WAIT;
        let length = loop {
            match self.0.recv(&mut buffer) {
                Ok(length) => break length,
                // Neither a signal nor a busy machine is an answer.
                Err(error) => assert!(Instant::now() < until, "the daemon says nothing: {error}"),
            }
        };
        String::from_utf8(buffer[..length].to_vec()).unwrap().trim_end().to_owned()
    }
}

#[test]
fn the_version_is_printed() {
    let (succeeded, text, _) = output(Command::new(env!("CARGO_BIN_EXE_gantryd")).arg("-v"));
    assert!(succeeded && text.starts_with("gantryd 0.") && text.contains("containerd API v"), "{text}");
}

#[test]
fn configurations_are_printed_and_wrong_ones_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (succeeded, text, _) = output(Command::new(env!("CARGO_BIN_EXE_gantryd")).args(["config", "default"]));
    assert!(succeeded && text.contains("root = \"/var/lib/gantry\""), "{text}");
    let (succeeded, text, _) = output(gantryd(folder.path()).args(["config", "dump"]));
    assert!(succeeded && text.contains(&format!("root = \"{}/root\"", folder.path().display())), "{text}");
    let bad = folder.path().join("bad.toml");
    std::fs::write(&bad, "version = 2\n[grpc]\nuid = 'me'\n").unwrap();
    let (succeeded, _, text) = output(Command::new(env!("CARGO_BIN_EXE_gantryd")).arg("-config").arg(&bad));
    assert!(!succeeded);
    assert!(text.contains(&format!("{}: key grpc.uid must be a whole number", bad.display())), "{text}");
    let (succeeded, _, text) =
        output(Command::new(env!("CARGO_BIN_EXE_gantryd")).args(["-c", "/nonexistent.toml", "config", "dump"]));
    assert!(!succeeded && text.contains("cannot read configuration file /nonexistent.toml"), "{text}");
}

#[test]
fn a_supervisor_hears_of_start_and_stop() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let supervisor = Supervisor::listen(&path);
    let running = Running::start(gantryd(folder.path()).env("NOTIFY_SOCKET", &path));
    assert_eq!(supervisor.hear(), "READY=1");
    std::os::unix::net::UnixStream::connect(folder.path().join("g.sock")).expect("ready means it can be dialled");
    running.signal(nix::sys::signal::Signal::SIGUSR1);
    running.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(supervisor.hear(), "STOPPING=1");
    let (code, log) = running.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("stopped"), "{log}");
}

#[test]
fn the_state_is_logged_on_demand_and_lines_can_be_json() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let supervisor = Supervisor::listen(&path);
    let file = folder.path().join("json.toml");
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let text = format!("version = 2\nnonsense = 1\n[debug]\nformat = 'json'\n[grpc]\nuid = {uid}\ngid = {gid}");
    std::fs::write(&file, text).unwrap();
    let running = Running::start(gantryd(folder.path()).env("NOTIFY_SOCKET", &path).arg("--config").arg(&file));
    assert_eq!(supervisor.hear(), "READY=1");
    running.signal(nix::sys::signal::Signal::SIGUSR1);
    // Signals of different kinds are not ordered, so it needs a moment before it is told to end.
    std::thread::sleep(Duration::from_millis(100));
    running.signal(nix::sys::signal::Signal::SIGINT);
    let (code, log) = running.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.lines().all(|line| line.starts_with('{')), "{log}");
    assert!(log.contains("\"message\":\"state\"") && log.contains("\"in_flight\":0"), "{log}");
    assert!(log.contains("configuration key ignored") && log.contains("nonsense"), "{log}");
}

#[test]
fn the_second_daemon_says_why_it_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let supervisor = Supervisor::listen(&path);
    let _first = Running::start(gantryd(folder.path()).env("NOTIFY_SOCKET", &path));
    assert_eq!(supervisor.hear(), "READY=1");
    let (code, log) = Running::start(&mut gantryd(folder.path())).end();
    assert_eq!(code, Some(1));
    assert!(log.contains("another daemon uses") && log.contains("root"), "{log}");
}

#[test]
fn the_limit_of_open_files_is_raised_as_far_as_it_goes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let supervisor = Supervisor::listen(&path);
    let daemon = gantryd(folder.path());
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -Sn 256 && exec \"$0\" \"$@\""]).arg(daemon.get_program()).args(daemon.get_args());
    let running = Running::start(shell.env("NOTIFY_SOCKET", &path));
    assert_eq!(supervisor.hear(), "READY=1");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", running.0.id())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let numbers: Vec<_> = line.split_whitespace().skip(3).take(2).collect();
    assert!(numbers[0] == numbers[1] && numbers[0] != "256", "{line}");
}
