//! A place to run containers in and the few moves the cases are made of. Everything made is removed on drop.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{BUSYBOX, plain_spec};
use crate::cgroup::Cgroup;
use crate::{
    Create, Ended, Exec, Executor, ExecutorError, Invocation, Outcome, Runtime, Settings, StdioFds, executor_for, spawn,
};

/// How long anything in a case may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);
const APPLETS: [&str; 22] = [
    "sh", "sleep", "cat", "id", "echo", "ls", "true", "env", "pwd", "touch", "readlink", "hostname", "dd", "stty",
    "tty", "kill", "ps", "grep", "mount", "head", "date", "sed",
];

/// A temporary folder with a root filesystem, and an executor.
pub struct Lab {
    folder: TempDir,
    /// The executor under test.
    pub executor: Box<dyn Executor>,
    name: String,
}

/// What a process printed and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// How it ended.
    pub ended: Ended,
    /// Standard output and error together.
    pub output: String,
}

/// Where a process's standard streams go.
pub struct Streams {
    output: File,
    path: PathBuf,
}

impl Streams {
    /// What was written so far.
    pub fn text(&self) -> String {
        fs::read_to_string(&self.path).expect("the file is ours")
    }
}

/// A container of a lab; killed and deleted on drop.
pub struct Container<'lab> {
    lab: &'lab Lab,
    /// Its id.
    pub id: String,
    /// Its init on the host.
    pub pid: i32,
    /// Its output.
    pub streams: Streams,
    ended: Cell<Option<Ended>>,
}

impl Lab {
    /// Makes the folder and its root filesystem, and makes this process the reaper of orphans, as a shim is.
    pub fn new(runtime: Runtime) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        nix::sys::prctl::set_child_subreaper(true).expect("always allowed");
        let folder = tempfile::Builder::new().prefix("executor-lab").tempdir().expect("a temporary folder");
        let bin = folder.path().join("bundle/rootfs/bin");
        fs::create_dir_all(&bin).expect("a fresh folder");
        fs::copy(BUSYBOX, bin.join("busybox")).expect("package busybox-static is installed");
        for applet in APPLETS {
            symlink("busybox", bin.join(applet)).expect("a fresh folder");
        }
        for name in ["proc", "dev", "sys", "run", "etc", "tmp"] {
            fs::create_dir(folder.path().join("bundle/rootfs").join(name)).expect("a fresh folder");
        }
        fs::write(
            folder.path().join("bundle/rootfs/etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n",
        )
        .expect("a fresh folder");
        let settings = Settings {
            runtime,
            root: folder.path().join("state/lab"),
            systemd_cgroup: false,
            no_pivot_root: false,
            no_new_keyring: false,
            log: folder.path().join("log.json"),
            debug: false,
        };
        let name = format!("executor-lab-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        Self { folder, executor: executor_for(settings), name }
    }

    /// The lab's folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The container's root filesystem on the host.
    pub fn rootfs(&self) -> PathBuf {
        self.path().join("bundle/rootfs")
    }

    /// A spec that runs a shell script.
    pub fn script(&self, script: &str) -> Value {
        self.spec(&["sh", "-c", script])
    }

    /// A spec that runs `args`, its cgroup named after the lab.
    pub fn spec(&self, args: &[&str]) -> Value {
        plain_spec(args, &format!("/{}", self.name))
    }

    /// Creates a container from `spec`.
    ///
    /// # Errors
    ///
    /// The executor's.
    pub fn try_create(&self, spec: &Value) -> Result<Container<'_>, ExecutorError> {
        self.create_with(spec, &self.name, None)
    }

    /// Creates a container from `spec` under `id`, with a console socket if it has a terminal.
    ///
    /// # Errors
    ///
    /// The executor's.
    pub fn create_with(
        &self,
        spec: &Value,
        id: &str,
        console_socket: Option<PathBuf>,
    ) -> Result<Container<'_>, ExecutorError> {
        let bundle = self.path().join("bundle");
        fs::write(bundle.join("config.json"), spec.to_string()).expect("the folder is ours");
        let pid_file = self.path().join(format!("{id}.pid"));
        let create = Create { id: id.to_owned(), bundle, pid_file: pid_file.clone(), console_socket };
        let streams = self.streams(id);
        self.finish(&self.executor.create(&create), Some(&streams))?;
        let pid = read_pid(&pid_file);
        Ok(Container { lab: self, id: id.to_owned(), pid, streams, ended: Cell::new(None) })
    }

    /// Creates and starts.
    #[track_caller]
    pub fn start(&self, spec: &Value) -> Container<'_> {
        let container = self.try_create(spec).expect("create");
        container.start();
        container
    }

    /// Creates, starts, waits and deletes.
    #[track_caller]
    pub fn run(&self, spec: &Value) -> Ran {
        let container = self.start(spec);
        container.wait()
    }

    /// Runs one invocation to its end.
    ///
    /// # Errors
    ///
    /// The executor's.
    pub fn finish(&self, invocation: &Invocation, streams: Option<&Streams>) -> Result<Outcome, ExecutorError> {
        let output = streams.map(|streams| streams.output.as_fd());
        let running = spawn(invocation, StdioFds { stdin: None, stdout: output, stderr: output })?;
        let ended = wait(running.pid).unwrap_or(Ended::TimedOut);
        let outcome = running.finish(ended);
        self.executor.interpret(&outcome)?;
        Ok(outcome)
    }

    fn streams(&self, name: &str) -> Streams {
        let path = self.path().join(format!("{name}.out"));
        Streams { output: File::create(&path).expect("the folder is ours"), path }
    }

    /// A socket to receive a terminal on.
    pub fn console(&self, name: &str) -> (UnixListener, PathBuf) {
        let path = self.path().join(name);
        (UnixListener::bind(&path).expect("the folder is ours"), path)
    }
}

impl Container<'_> {
    /// Lets the program run.
    #[track_caller]
    pub fn start(&self) {
        self.lab.finish(&self.lab.executor.start(&self.id), None).expect("start");
    }

    /// Sends a signal.
    ///
    /// # Errors
    ///
    /// The executor's.
    pub fn kill(&self, signal: i32, all: bool) -> Result<(), ExecutorError> {
        self.lab.finish(&self.lab.executor.kill(&self.id, signal, all), None).map(drop)
    }

    /// Deletes it.
    ///
    /// # Errors
    ///
    /// The executor's.
    pub fn delete(&self, force: bool) -> Result<(), ExecutorError> {
        let running = spawn(&self.lab.executor.delete(&self.id, force), StdioFds::default())?;
        // Some runtimes wait for the init to be reaped, as a shim would do meanwhile.
        let ended = wait_with(running.pid, || {
            if force && self.ended.get().is_none() {
                self.ended.set(try_wait(self.pid));
            }
        });
        self.lab.executor.interpret(&running.finish(ended.unwrap_or(Ended::TimedOut)))
    }

    /// Waits for the init.
    #[track_caller]
    pub fn wait(&self) -> Ran {
        let ended = self.ended.get().or_else(|| wait(self.pid)).expect("the init ends");
        self.ended.set(Some(ended));
        Ran { ended, output: self.streams.text() }
    }

    /// The OCI status.
    #[track_caller]
    pub fn status(&self) -> String {
        let outcome = self.lab.finish(&self.lab.executor.state(&self.id), None).expect("state");
        let state: Value = serde_json::from_slice(&outcome.stdout).expect("state is JSON");
        state["status"].as_str().expect("state has a status").to_owned()
    }

    /// Its cgroup.
    #[track_caller]
    pub fn cgroup(&self) -> Cgroup {
        Cgroup::of_pid(self.pid).expect("the init lives")
    }

    /// Runs `process` (changes to the spec's process) in it to the end.
    ///
    /// # Errors
    ///
    /// The executor's.
    pub fn exec(&self, name: &str, process: &Value) -> Result<Ran, ExecutorError> {
        let (pid, streams) = self.exec_detached(name, process, None)?;
        Ok(Ran { ended: wait(pid).expect("the exec ends"), output: streams.text() })
    }

    /// Starts `process` in it.
    ///
    /// # Errors
    ///
    /// The executor's.
    pub fn exec_detached(
        &self,
        name: &str,
        process: &Value,
        console_socket: Option<PathBuf>,
    ) -> Result<(i32, Streams), ExecutorError> {
        let lab = self.lab;
        let process_json = lab.path().join(format!("{name}.json"));
        fs::write(&process_json, process.to_string()).expect("the folder is ours");
        let pid_file = lab.path().join(format!("{name}.pid"));
        let exec = Exec { id: self.id.clone(), process_json, pid_file: pid_file.clone(), console_socket };
        let streams = lab.streams(name);
        lab.finish(&lab.executor.exec(&exec), Some(&streams))?;
        Ok((read_pid(&pid_file), streams))
    }

    /// The process of a plain exec of a shell script.
    pub fn script(&self, script: &str) -> Value {
        let mut process = self.lab.script(script)["process"].take();
        process["env"] = json!(["PATH=/bin"]);
        process
    }

    /// Waits until the output contains `text`.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        assert!(eventually(|| self.streams.text().contains(text)), "no {text:?} in {:?}", self.streams.text());
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let _ = self.delete(true);
        if self.ended.get().is_none() {
            wait(self.pid);
        }
    }
}

/// Waits for a child, at most [`PATIENCE`]; then it is killed.
pub(super) fn wait(pid: i32) -> Option<Ended> {
    wait_with(pid, || {})
}

fn wait_with(pid: i32, meanwhile: impl Fn()) -> Option<Ended> {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if let Some(ended) = try_wait(pid) {
            return Some(ended);
        }
        meanwhile();
        std::thread::sleep(Duration::from_millis(1));
    }
    let _ = nix::sys::signal::kill(Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    None
}

fn try_wait(pid: i32) -> Option<Ended> {
    match waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::Exited(_, code)) => Some(Ended::Exited(code)),
        Ok(WaitStatus::Signaled(_, signal, _)) => Some(Ended::Signaled(signal as i32)),
        // Not ended, or not our child yet: the runtime that was its parent may not have ended.
        Ok(_) | Err(_) => None,
    }
}

/// Whether `condition` comes true within [`PATIENCE`].
pub(super) fn eventually(mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    condition()
}

/// Receives a terminal's master.
pub(super) fn receive_terminal(listener: &UnixListener) -> OwnedFd {
    let (stream, _): (UnixStream, _) = listener.accept().expect("the runtime connects");
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    // The data beside the descriptor is the terminal's name, up to a few hundred bytes.
    let mut data = [0; 4096];
    let flags = RecvFlags::CMSG_CLOEXEC;
    recvmsg(&stream, &mut [std::io::IoSliceMut::new(&mut data)], &mut ancillary, flags).expect("a message comes");
    let mut descriptors = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    descriptors.next().and_then(|mut descriptors| descriptors.next()).expect("it carries a descriptor")
}

/// Reads from a terminal until `text` comes.
pub(super) fn read_until(terminal: &OwnedFd, text: &str) -> String {
    let mut file = File::from(terminal.try_clone().expect("descriptors are left"));
    let mut read = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        match file.read(&mut buffer) {
            Ok(count) if count > 0 => read.extend(&buffer[..count]),
            // A terminal whose last user is gone answers EIO.
            _ => break,
        }
        if String::from_utf8_lossy(&read).contains(text) {
            break;
        }
    }
    String::from_utf8_lossy(&read).into_owned()
}

fn read_pid(path: &Path) -> i32 {
    fs::read_to_string(path).expect("the runtime wrote a pid file").trim().parse().expect("a pid file holds a pid")
}
