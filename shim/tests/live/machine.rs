//! Bundles with a root filesystem of busybox, and shims over them. Everything is gone when a [`Machine`] is.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use prost::Message as _;
use proto::bootstrap::{BootstrapParams, BootstrapResult};
use proto::status::Failure;
use proto::task::v3 as wire;
use proto::types::Mount;
use serde_json::{Value, json};

use crate::client::Client;
use crate::daemon::Daemon;

pub(crate) const NAMESPACE: &str = "shim-test";

/// The program under test: the one just built, or another build of it.
fn shim() -> PathBuf {
    std::env::var_os("GANTRY_TEST_SHIM").map_or_else(|| env!("CARGO_BIN_EXE_gantry-shim").into(), PathBuf::from)
}

/// The program as it is installed, small and static, where the whole suite runs.
pub(crate) fn installed_shim() -> Option<PathBuf> {
    let folder = std::env::var_os("GANTRY_BIN").map(PathBuf::from)?;
    Some(folder.join("gantry-shim")).filter(|shim| shim.exists())
}

/// Which executors there are to test. Empty, with a word, when containers cannot run.
pub(crate) fn executors() -> Vec<&'static str> {
    if !rustix::process::geteuid().is_root() || !Path::new("/bin/busybox").exists() {
        eprintln!("skipped: needs root and a static busybox");
        return Vec::new();
    }
    let mut all = vec!["builtin"];
    if ["/usr/sbin/runc", "/usr/bin/runc", "/usr/local/sbin/runc"].iter().any(|path| Path::new(path).exists()) {
        all.push("runc");
    }
    all
}

/// A program of the next Debian, with a starter; the package is unpacked first if need be.
pub(crate) fn trixie(package: &str, program: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("trixie");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/trixie.sh");
    let output = Command::new(script).arg(&target).arg(package).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    target.join("bin").join(program)
}

/// A folder for one test, a daemon's events, and the shims started.
pub(crate) struct Machine {
    folder: tempfile::TempDir,
    pub daemon: Daemon,
    executor: &'static str,
    shim: PathBuf,
    ids: Vec<String>,
}

/// What a container is to be like.
#[derive(Clone)]
pub(crate) struct Container {
    pub id: String,
    pub bundle: PathBuf,
    pub spec: Value,
    pub request: wire::CreateTaskRequest,
}

impl Machine {
    pub(crate) fn new(executor: &'static str) -> Self {
        let folder = tempfile::Builder::new().prefix("gs").tempdir().unwrap();
        let base = folder.path().join("base");
        for name in ["bin", "proc", "sys", "dev", "tmp", "etc"] {
            fs::create_dir_all(base.join(name)).unwrap();
        }
        fs::copy("/bin/busybox", base.join("bin/busybox")).unwrap();
        for applet in
            ["sh", "cat", "echo", "sleep", "true", "false", "stty", "head", "seq", "tty", "setsid", "kill", "dd"]
        {
            symlink("busybox", base.join("bin").join(applet)).unwrap();
        }
        let daemon = Daemon::new(folder.path());
        Self { folder, daemon, executor, shim: shim(), ids: Vec::new() }
    }

    /// The same with another program.
    pub(crate) fn of_shim(executor: &'static str, shim: PathBuf) -> Self {
        let mut machine = Self::new(executor);
        machine.shim = shim;
        machine
    }

    /// A container that runs `args`, with its shim, started.
    #[track_caller]
    pub(crate) fn running(&mut self, args: &[&str]) -> (Container, Client) {
        let container = self.container(args);
        let mut client = self.create(&container);
        client.start(&container.id, "").unwrap();
        (container, client)
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A container that runs `args` with busybox's programs, not created yet.
    pub(crate) fn container(&mut self, args: &[&str]) -> Container {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = format!("st-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        self.ids.push(id.clone());
        let bundle = self.path().join(&id);
        for name in ["rootfs", "upper", "work"] {
            fs::create_dir_all(bundle.join(name)).unwrap();
        }
        let spec = spec(&id, args);
        let layers = format!(
            "lowerdir={},upperdir={},workdir={}",
            self.path().join("base").display(),
            bundle.join("upper").display(),
            bundle.join("work").display()
        );
        let overlay = Mount {
            r#type: "overlay".into(),
            source: "overlay".into(),
            options: layers.split(',').map(ToOwned::to_owned).collect(),
            ..Default::default()
        };
        let request = wire::CreateTaskRequest {
            id: id.clone(),
            bundle: bundle.display().to_string(),
            rootfs: vec![overlay],
            ..Default::default()
        };
        Container { id, bundle, spec, request }
    }

    fn command(&self, container: &Container) -> Command {
        fs::write(container.bundle.join("config.json"), container.spec.to_string()).unwrap();
        let mut command = Command::new(&self.shim);
        command.current_dir(&container.bundle);
        command.args(["-namespace", NAMESPACE, "-id", &container.id, "-address", "/run/shim-test.sock"]);
        command.args(["-publish-binary", "/bin/false", "-debug", "-some-new-flag=1"]);
        command.env("TTRPC_ADDRESS", &self.daemon.address).env("GANTRY_EXECUTOR", self.executor);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs `start` in the new form, and gives the socket.
    pub(crate) fn start(&self, container: &Container) -> PathBuf {
        let params = BootstrapParams {
            instance_id: container.id.clone(),
            namespace: NAMESPACE.into(),
            socket_dir: Some(self.path().join("s").display().to_string()),
            ..Default::default()
        };
        let output = self.run_start(container, &params.encode_to_vec());
        assert!(output.status.success(), "{output:?}");
        let result = BootstrapResult::decode(output.stdout.as_slice()).unwrap();
        assert_eq!((result.version, result.protocol.as_str()), (3, "ttrpc"));
        result.address.strip_prefix("unix://").unwrap().into()
    }

    /// Runs `start` with these bytes as its input.
    pub(crate) fn run_start(&self, container: &Container, input: &[u8]) -> Output {
        let mut child = self.command(container).arg("start").stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    }

    /// Starts the server without `start`: its socket is handed over.
    pub(crate) fn serve(&self, container: &Container) -> PathBuf {
        self.serve_with(container, &[])
    }

    /// The same with more in the environment.
    pub(crate) fn serve_with(&self, container: &Container, variables: &[(&str, &str)]) -> PathBuf {
        let socket = self.path().join(format!("{}.sock", container.id));
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let mut command = self.command(container);
        command
            .envs(variables.iter().copied())
            .env("GANTRY_SHIM_LISTEN_FD", "0")
            .stdin(std::os::fd::OwnedFd::from(listener))
            .process_group(0);
        let mut server = command.spawn().unwrap();
        std::thread::spawn(move || server.wait());
        socket
    }

    /// Runs `start` with these folders before the others in `PATH`, and gives the socket.
    pub(crate) fn start_with_path(&self, container: &Container, folder: &Path) -> PathBuf {
        let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
        let output = self.command(container).arg("start").stdin(Stdio::null()).env("PATH", path).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().strip_prefix("unix://").unwrap().into()
    }

    /// A shim with a created container.
    #[track_caller]
    pub(crate) fn create(&self, container: &Container) -> Client {
        self.try_create(container).expect("the container is created")
    }

    pub(crate) fn try_create(&self, container: &Container) -> Result<Client, Failure> {
        let mut client = Client::connect(&self.start(container));
        let created: Result<wire::CreateTaskResponse, _> = client.call("Create", &container.request);
        if created.is_err() {
            client.shut_down();
        }
        created.map(|_| client)
    }

    /// Runs `delete`.
    pub(crate) fn run_delete(&self, container: &Container) -> wire::DeleteResponse {
        let output =
            self.command(container).arg("-bundle").arg(&container.bundle).arg("delete").stdin(Stdio::null()).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{output:?}");
        wire::DeleteResponse::decode(output.stdout.as_slice()).unwrap()
    }

    pub(crate) fn fifo(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        path
    }
}

impl Drop for Machine {
    /// After a failure there may be anything left.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for id in &self.ids {
            let pattern = format!("-id {id} ");
            for pid in pids_with(&pattern) {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
            }
            let bundle = self.path().join(id);
            eprintln!("log of {id}: {}", fs::read_to_string(bundle.join("log.json")).unwrap_or_default());
            let mut command = Command::new(&self.shim);
            command.args(["-namespace", NAMESPACE, "-id", id, "-address", "x", "-bundle"]).arg(&bundle).arg("delete");
            let _ = command.stdin(Stdio::null()).output();
        }
    }
}

/// Ends a container, deletes it, ends its shim; nothing of any is left.
#[track_caller]
pub(crate) fn finish(container: &Container, mut client: Client) {
    // It may have ended by itself.
    let _ = client.kill(&container.id, "", 9);
    client.wait(&container.id, "").unwrap();
    client.delete(&container.id, "").unwrap();
    client.shut_down();
    assert_gone(container);
}

/// A container that is finished and gone: nothing of it is left anywhere.
#[track_caller]
pub(crate) fn assert_gone(container: &Container) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&container.id), "still mounted: {mounts}");
    eventually("no process", || pids_with(&container.id).is_empty());
    eventually("no cgroup", || !Path::new("/sys/fs/cgroup/memory/shim-test").join(&container.id).exists());
}

/// Processes whose command line has these words.
pub(crate) fn pids_with(words: &str) -> Vec<i32> {
    let has_words = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains(words) && i32::try_from(std::process::id()) != Ok(*pid)
    };
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.filter(has_words).collect()
}

#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < until, "still not: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Opens the reading end of a fifo and reads it to its end, elsewhere.
pub(crate) fn read_in_background(path: &Path) -> std::thread::JoinHandle<String> {
    let path = path.to_owned();
    std::thread::spawn(move || {
        let mut text = String::new();
        fs::File::open(path).unwrap().read_to_string(&mut text).unwrap();
        text
    })
}

pub(crate) fn process(args: &[&str]) -> Value {
    json!({
        "terminal": false,
        "user": {"uid": 0, "gid": 0},
        "args": args,
        "env": ["PATH=/bin", "TERM=xterm"],
        "cwd": "/",
        "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]},
        "noNewPrivileges": true
    })
}

pub(crate) fn exec_request(container: &Container, exec: &str, args: &[&str]) -> wire::ExecProcessRequest {
    wire::ExecProcessRequest {
        id: container.id.clone(),
        exec_id: exec.into(),
        spec: Some(prost_types::Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
            value: process(args).to_string().into_bytes(),
        }),
        ..Default::default()
    }
}

fn spec(id: &str, args: &[&str]) -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": process(args),
        "root": {"path": "rootfs"},
        "hostname": "shim-test",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]}
        ],
        "linux": {
            "cgroupsPath": format!("/shim-test/{id}"),
            "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"}],
            "resources": {"devices": [{"allow": true, "access": "rwm"}]}
        }
    })
}
