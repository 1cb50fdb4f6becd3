//! The verbs. Setting a container or an exec up is libcontainer's work; everything else acts on the [record](super::record)
//! and the cgroup, and knows processes by pid and start time.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libcgroups::common::{CgroupConfig, CgroupManager, ControllerOpt, create_cgroup_manager};
use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::oci_spec::runtime::LinuxResources;
use libcontainer::syscall::syscall::SyscallType;
use serde_json::{Value, json};

use super::args::{CreateOptions, ExecOptions, Global};
use super::bundle;
use super::caps::Capabilities;
use super::log::{Log, Reason, Trail};
use super::record::{Home, Record, RecordError, Status};
use super::refuse::unsupported;
use super::workload::Workload;
use crate::ProcessId;
use crate::cgroup::{Cgroup, CgroupError, ROOT};
use crate::seccomp;

/// How long processes may take to stop in the freezer; one in uninterruptible sleep may never.
const FREEZE_DEADLINE: Duration = Duration::from_secs(10);
/// How long killed processes may take to be gone.
const KILL_DEADLINE: Duration = Duration::from_secs(10);
/// How long the processes of a failed set-up may take to end; they have nothing left to do.
const REAP_DEADLINE: Duration = Duration::from_secs(2);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(2);
/// The most read of `update --resources`.
const MAX_RESOURCES: u64 = 1 << 20;

/// Why a verb failed; `Display` goes to the log, and from there to the client.
#[derive(Debug, thiserror::Error)]
pub(super) enum VerbError {
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("{}", chain(.0))]
    Cgroup(#[from] CgroupError),
    #[error("{}", chain(.0))]
    Libcontainer(#[from] LibcontainerError),
    #[error("{0}")]
    Refused(String),
    #[error("{what}: {source}")]
    Io { what: &'static str, source: std::io::Error },
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

fn io(what: &'static str) -> impl Fn(std::io::Error) -> VerbError {
    move |source| VerbError::Io { what, source }
}

fn refused<T>(text: impl Into<String>) -> Result<T, VerbError> {
    Err(VerbError::Refused(text.into()))
}

pub(super) struct Context<'run> {
    pub(super) global: &'run Global,
    pub(super) log: &'run Log,
    pub(super) trail: &'run mut Trail,
}

impl Context<'_> {
    fn home(&self, id: &str) -> Result<Home, VerbError> {
        Ok(Home::of(&self.global.root, id)?)
    }

    fn load(&self, id: &str) -> Result<(Home, Record), VerbError> {
        let home = self.home(id)?;
        let record = home.load()?;
        Ok((home, record))
    }

    fn warn(&self, warnings: &[String]) {
        for warning in warnings {
            self.log.line("warning", warning);
        }
    }

    pub(super) fn create(&mut self, id: &str, options: &CreateOptions) -> Result<(), VerbError> {
        let home = self.home(id)?;
        if self.global.systemd_cgroup {
            return refused("the built-in runtime does not support --systemd-cgroup");
        }
        let bundle = fs::canonicalize(&options.bundle).map_err(io("bundle"))?;
        let mut spec = bundle::read(&bundle.join("config.json")).map_err(VerbError::Refused)?;
        let fields = unsupported(&spec);
        if !fields.is_empty() {
            return refused(format!("the built-in runtime does not support {}", fields.join(", ")));
        }
        let rootfs = bundle.join(spec.pointer("/root/path").and_then(Value::as_str).unwrap_or("rootfs"));
        // libcontainer makes devices and links by path, so a link of the image would lead it to the host.
        if fs::symlink_metadata(rootfs.join("dev")).is_ok_and(|meta| meta.is_symlink()) {
            return refused("/dev of the root filesystem is a symbolic link");
        }
        let workload = self.workload(&spec, spec.get("process").unwrap_or(&Value::Null), true)?;
        let warnings = bundle::adapt_spec(&mut spec, id);
        self.warn(&warnings);
        fs::create_dir_all(&self.global.root).map_err(io("state root"))?;
        match fs::DirBuilder::new().mode(0o711).create(home.path()) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return refused("container with given ID already exists");
            }
            result => result.map_err(io("state folder"))?,
        }
        let result = self.set_up(id, options, &home, &bundle, &spec, workload);
        if result.is_err() {
            let _ = remove_leftovers(&home, &spec);
        }
        result
    }

    fn set_up(
        &mut self,
        id: &str,
        options: &CreateOptions,
        home: &Home,
        bundle: &Path,
        spec: &Value,
        workload: Workload,
    ) -> Result<(), VerbError> {
        bundle::make_view(bundle, &home.view(), spec).map_err(io("view of the bundle"))?;
        fs::DirBuilder::new().mode(0o700).create(home.lib()).map_err(io("state folder"))?;
        if !options.no_new_keyring {
            self.join_keyring(id);
        }
        let built = ContainerBuilder::new(id.to_owned(), SyscallType::default())
            .with_executor(workload)
            .with_root_path(home.lib())?
            .with_pid_file(options.pid_file.clone())?
            .with_console_socket(options.console_socket.clone())
            .as_init(home.view())
            .with_systemd(false)
            .with_detach(true)
            .with_no_pivot(options.no_pivot)
            .build();
        let container = built.map_err(|error| self.explain("unable to start container process", &error))?;
        let pid = container.pid().map_or(0, |pid| pid.as_raw());
        let Some(init) = ProcessId::of(pid) else { return refused("container init died during set-up") };
        let suffix = spec.pointer("/linux/cgroupsPath").and_then(Value::as_str).unwrap_or_default();
        let cgroup = Cgroup::of_pid(pid)?.only(Path::new(suffix));
        let rootfs =
            fs::canonicalize(home.view().join(spec.pointer("/root/path").and_then(Value::as_str).unwrap_or("rootfs")));
        let record = Record::new(id, bundle, &rootfs.unwrap_or_default(), spec, init, cgroup);
        Ok(home.save(&record)?)
    }

    /// Everything our part of the init must know, from a `process` of spec or exec.
    fn workload(&self, spec: &Value, process: &Value, is_init: bool) -> Result<Workload, VerbError> {
        let (mut capabilities, unknown) = Capabilities::from_spec(process.get("capabilities"));
        let missing =
            capabilities.restrict().map_err(|errno| VerbError::Io { what: "capabilities", source: errno.into() })?;
        for name in unknown {
            self.log.line("warning", &format!("capability {name} is not known and not granted"));
        }
        if !missing.is_empty() {
            self.log
                .line("warning", &format!("capabilities not available here and not granted: {}", missing.join(", ")));
        }
        let filter = match seccomp::compile(spec.pointer("/linux/seccomp")) {
            Ok(None) => None,
            Ok(Some((program, unknown))) => {
                for name in unknown {
                    self.log.line("warning", &format!("seccomp: call {name} is not known, its rule is not in force"));
                }
                Some(program)
            }
            Err(error) => return refused(chain(&error)),
        };
        let side =
            |name: &str| process.get("consoleSize")?.get(name)?.as_u64().and_then(|side| u16::try_from(side).ok());
        let console = side("height").zip(side("width")).filter(|size| *size != (0, 0));
        let cwd = process.get("cwd").and_then(Value::as_str).filter(|cwd| !cwd.is_empty()).unwrap_or("/");
        Ok(Workload { capabilities, cwd: PathBuf::from(cwd), filter, console, is_init })
    }

    /// A session keyring of the container's own, so that it does not hold the keys of whoever started us.
    fn join_keyring(&self, id: &str) {
        if let Err(errno) = crate::sys::join_session_keyring(&format!("_ses.{id}")) {
            self.log.line("warning", &format!("no session keyring: {errno}"));
        }
    }

    /// libcontainer's error with the reason that its forked processes left in the trail.
    fn explain(&mut self, what: &str, error: &LibcontainerError) -> VerbError {
        reap();
        let outer = chain(error);
        VerbError::Refused(match self.trail.reason() {
            Some(Reason::Workload(words)) => format!("{what}: {words}"),
            Some(Reason::Inner(event)) => format!("{what}: {outer} ({event})"),
            None => format!("{what}: {outer}"),
        })
    }

    pub(super) fn start(&mut self, id: &str) -> Result<(), VerbError> {
        let (home, mut record) = self.load(id)?;
        match record.status() {
            Status::Created => {}
            Status::Stopped => return refused("cannot start a container that has stopped"),
            Status::Running | Status::Paused => return refused("cannot start an already running container"),
        }
        let mut container = Container::load(home.lib().join(id))?;
        if let Err(error) = container.start() {
            return Err(self.explain("start", &error));
        }
        record.started = true;
        Ok(home.save(&record)?)
    }

    pub(super) fn kill(&self, id: &str, signal: i32, all: bool) -> Result<(), VerbError> {
        let (_, record) = self.load(id)?;
        if all {
            return Ok(record.cgroup.signal_all(signal)?);
        }
        let status = record.status();
        if status == Status::Stopped {
            return refused("container not running");
        }
        match crate::sys::kill(record.init.pid, signal) {
            Ok(()) => {}
            Err(nix::errno::Errno::ESRCH) => return refused("container not running"),
            Err(errno) => return Err(VerbError::Io { what: "kill", source: errno.into() }),
        }
        // With cgroup v1 a frozen process does not even die.
        if status == Status::Paused && signal == libc::SIGKILL {
            record.cgroup.freeze(false)?;
        }
        Ok(())
    }

    pub(super) fn delete(&self, id: &str, force: bool) -> Result<(), VerbError> {
        let home = self.home(id)?;
        let record = match home.load() {
            Ok(record) => record,
            // Its `create` was killed half-way; nothing of the user's ran.
            Err(RecordError::Incomplete) => {
                let spec = bundle::read(&home.view().join("config.json")).unwrap_or_default();
                return remove_leftovers(&home, &spec);
            }
            Err(RecordError::Missing) if force => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let status = record.status();
        if matches!(status, Status::Running | Status::Paused) && !force {
            return refused(format!("cannot delete container {id} that is not stopped: {}", status.name()));
        }
        empty(&record)?;
        record.cgroup.remove()?;
        if record.has_poststop_hooks {
            self.run_poststop_hooks(&home, id);
        }
        fs::remove_dir_all(home.path()).map_err(io("state folder"))
    }

    /// A failing hook does not keep a container from being deleted.
    fn run_poststop_hooks(&self, home: &Home, id: &str) {
        let run = || -> Result<(), LibcontainerError> {
            let mut container = Container::load(home.lib().join(id))?;
            // Its pid may be another process's by now; without one the container counts as stopped.
            container.state.pid = None;
            container.delete(false)
        };
        if let Err(error) = run() {
            self.log.line("warning", &format!("poststop: {}", chain(&error)));
        }
    }

    pub(super) fn exec(&mut self, id: &str, options: &ExecOptions) -> Result<(), VerbError> {
        let (home, record) = self.load(id)?;
        match record.status() {
            Status::Running => {}
            Status::Stopped => return refused("cannot exec in a stopped container"),
            Status::Paused => return refused("cannot exec in a paused container"),
            Status::Created => return refused("cannot exec in a container that was not started"),
        }
        let mut process = bundle::read(&options.process).map_err(VerbError::Refused)?;
        let fields = unsupported(&json!({ "process": process }));
        if !fields.is_empty() {
            return refused(format!("the built-in runtime does not support {}", fields.join(", ")));
        }
        let spec = bundle::read(&home.view().join("config.json")).map_err(VerbError::Refused)?;
        let workload = self.workload(&spec, &process, false)?;
        let Some(object) = process.as_object_mut() else { return refused("process is not a JSON object") };
        let warnings = bundle::adapt_process(object);
        self.warn(&warnings);
        // libcontainer leaves sockets in the folder it takes for the container's, so each exec has one to throw away.
        let scratch = Scratch::new(&home, id).map_err(io("folder for exec"))?;
        let file = scratch.0.join("process.json");
        bundle::write_json(&file, &process).map_err(io("process"))?;
        self.join_keyring(id);
        let built = ContainerBuilder::new(id.to_owned(), SyscallType::default())
            .with_executor(workload)
            .with_root_path(&scratch.0)?
            .with_pid_file(options.pid_file.clone())?
            .with_console_socket(options.console_socket.clone())
            .as_tenant()
            .with_detach(true)
            .with_process(Some(file))
            .build();
        built.map(drop).map_err(|error| self.explain("exec failed: unable to start container process", &error))
    }

    pub(super) fn pause(&self, id: &str) -> Result<(), VerbError> {
        let (_, record) = self.load(id)?;
        match record.status() {
            Status::Running | Status::Created => {}
            other => return refused(format!("container not running or created: {}", other.name())),
        }
        let end = Instant::now() + FREEZE_DEADLINE;
        // A process that forks while the kernel freezes may slip through: ask again until all have stopped.
        loop {
            record.cgroup.freeze(true)?;
            if record.cgroup.is_frozen()? {
                return Ok(());
            }
            if Instant::now() > end {
                record.cgroup.freeze(false)?;
                return refused("unable to freeze: processes did not stop in time");
            }
            std::thread::sleep(PAUSE);
        }
    }

    pub(super) fn resume(&self, id: &str) -> Result<(), VerbError> {
        let (_, record) = self.load(id)?;
        if record.status() != Status::Paused {
            return refused("container not paused");
        }
        Ok(record.cgroup.freeze(false)?)
    }

    pub(super) fn update(&self, id: &str, resources: &Path) -> Result<(), VerbError> {
        let (home, record) = self.load(id)?;
        if record.status() == Status::Stopped {
            return refused("cannot update a stopped container");
        }
        let mut bytes = Vec::new();
        let read = if resources == Path::new("-") {
            std::io::stdin().take(MAX_RESOURCES).read_to_end(&mut bytes)
        } else {
            fs::File::open(resources).and_then(|file| file.take(MAX_RESOURCES).read_to_end(&mut bytes))
        };
        read.map_err(io("resources"))?;
        let json: Value =
            serde_json::from_slice(&bytes).map_err(|error| VerbError::Refused(format!("resources: {error}")))?;
        let fields = unsupported(&json!({ "linux": { "resources": json } }));
        if !fields.is_empty() {
            return refused(format!("the built-in runtime does not support {}", fields.join(", ")));
        }
        let resources: LinuxResources =
            serde_json::from_value(json).map_err(|error| VerbError::Refused(format!("resources: {error}")))?;
        let spec = bundle::read(&home.view().join("config.json")).map_err(VerbError::Refused)?;
        let path = spec.pointer("/linux/cgroupsPath").and_then(Value::as_str).unwrap_or_default();
        let config = CgroupConfig { cgroup_path: path.into(), systemd_cgroup: false, container_name: id.to_owned() };
        let manager = create_cgroup_manager(config).map_err(|error| VerbError::Refused(chain(&error)))?;
        let options = ControllerOpt {
            resources: &resources,
            disable_oom_killer: false,
            oom_score_adj: None,
            freezer_state: None,
        };
        manager.apply(&options).map_err(|error| VerbError::Refused(chain(&error)))
    }

    pub(super) fn ps(&self, id: &str) -> Result<String, VerbError> {
        let (_, record) = self.load(id)?;
        let pids = match record.cgroup.pids() {
            Ok(pids) => pids,
            Err(CgroupError::Gone { .. }) => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        Ok(json!(pids).to_string())
    }

    pub(super) fn state(&self, id: &str) -> Result<String, VerbError> {
        let (_, record) = self.load(id)?;
        Ok(record.state().to_string())
    }
}

/// A folder that libcontainer takes for its root during one exec: `exec-<pid>/<id>/state.json`. Removed on drop.
struct Scratch(PathBuf);

impl Scratch {
    fn new(home: &Home, id: &str) -> std::io::Result<Self> {
        let scratch = Self(home.path().join(format!("exec-{}", std::process::id())));
        let inner = scratch.0.join(id);
        fs::create_dir_all(&inner)?;
        fs::set_permissions(&scratch.0, fs::Permissions::from_mode(0o700))?;
        fs::copy(home.lib().join(id).join("state.json"), inner.join("state.json"))?;
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Waits for the processes that a failed set-up has left. One that stays unreaped in a container's pid namespace would
/// keep the container's init from ending.
fn reap() {
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    let end = Instant::now() + REAP_DEADLINE;
    while Instant::now() < end {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => std::thread::sleep(PAUSE),
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

/// Kills what is left in the container and waits until it is gone. A dead init that its parent has not reaped yet is no
/// process of the cgroup any more.
fn empty(record: &Record) -> Result<(), VerbError> {
    let end = Instant::now() + KILL_DEADLINE;
    loop {
        match record.cgroup.pids() {
            Err(CgroupError::Gone { .. }) => return Ok(()),
            Ok(pids) if pids.is_empty() => return Ok(()),
            Ok(_) => record.cgroup.kill()?,
            Err(error) => return Err(error.into()),
        }
        if Instant::now() > end {
            return refused("processes of the container do not die");
        }
        std::thread::sleep(PAUSE);
    }
}

/// Removes what a `create` that did not succeed has left, without a record to go by.
fn remove_leftovers(home: &Home, spec: &Value) -> Result<(), VerbError> {
    let path = spec.pointer("/linux/cgroupsPath").and_then(Value::as_str).unwrap_or_default();
    if !path.trim_matches('/').is_empty() {
        let cgroup = Cgroup::at(Path::new(ROOT), Path::new(path));
        let _ = cgroup.kill();
        let _ = cgroup.remove();
    }
    fs::remove_dir_all(home.path()).map_err(io("state folder"))
}
