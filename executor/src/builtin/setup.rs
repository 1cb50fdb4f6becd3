//! Setting up a container or an exec: what libcontainer is told, and what is made of its errors.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::oci_spec::runtime::Process;
use libcontainer::syscall::syscall::SyscallType;
use serde_json::{Value, json};

use super::args::{CreateOptions, ExecOptions};
use super::bundle;
use super::caps::Capabilities;
use super::join::Joining;
use super::log::Reason;
use super::loopback;
use super::record::{Home, Record, Status};
use super::refuse::unsupported;
use super::start_hooks::StartHooks;
use super::verbs::{Context, VerbError, chain, io, refused, remove_leftovers};
use super::workload::{Workload, go_text};
use crate::ProcessId;
use crate::cgroup::{self, Cgroup};
use crate::seccomp;

/// How long the processes of a failed set-up may take to end; they have nothing left to do.
const REAP_DEADLINE: Duration = Duration::from_secs(2);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(2);

impl Context<'_> {
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
        if let Err(error) = fs::metadata(&rootfs) {
            return refused(format!("invalid rootfs: stat {}: {}", rootfs.display(), go_text(&error)));
        }
        // libcontainer makes devices and links by path, so a link of the image would lead it to the host.
        if fs::symlink_metadata(rootfs.join("dev")).is_ok_and(|meta| meta.is_symlink()) {
            return refused("/dev of the root filesystem is a symbolic link");
        }
        let mut workload = self.workload(&spec, spec.get("process").unwrap_or(&Value::Null), true)?;
        workload.start_hooks = StartHooks::take_from(&mut spec, id, &bundle);
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
        // Now, not before: libcontainer has made the cgroup, and nothing of the user's runs before `start`.
        let rules = spec.pointer("/linux/resources/devices");
        if let Some(program) = cgroup::device_program(rules).map_err(VerbError::Refused)? {
            cgroup.set_device_rules(&program)?;
        }
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
        let has_own_loopback = is_init && loopback::is_wanted(spec);
        Ok(Workload {
            capabilities,
            cwd: PathBuf::from(cwd),
            filter,
            console,
            is_init,
            has_own_loopback,
            start_hooks: StartHooks::default(),
        })
    }

    /// A session keyring of the container's own, so that it does not hold the keys of whoever started us.
    fn join_keyring(&self, id: &str) {
        if let Err(errno) = crate::sys::join_session_keyring(&format!("_ses.{id}")) {
            self.log.line("warning", &format!("no session keyring: {errno}"));
        }
    }

    /// libcontainer's error with the reason that its forked processes left in the trail.
    pub(super) fn explain(&mut self, what: &str, error: &LibcontainerError) -> VerbError {
        reap();
        let outer = chain(error);
        VerbError::Refused(match self.trail.reason() {
            Some(Reason::Workload(words)) => format!("{what}: {words}"),
            Some(Reason::Inner(event)) => format!("{what}: {outer} ({event})"),
            None => format!("{what}: {outer}"),
        })
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
        let warnings = bundle::restrict_process(object);
        self.warn(&warnings);
        let process: Process =
            serde_json::from_value(process).map_err(|error| VerbError::Refused(format!("process: {error}")))?;
        if process.terminal() == Some(true) && options.console_socket.is_none() {
            return refused("cannot allocate tty for a detached process without a console socket");
        }
        self.join_keyring(id);
        let joining = Joining {
            init: record.init,
            cgroup: &record.cgroup,
            spec: &spec,
            console_socket: options.console_socket.as_deref().filter(|_| process.terminal() == Some(true)),
            pid_file: options.pid_file.as_deref(),
            process,
            workload,
        };
        joining
            .run()
            .map_err(|text| VerbError::Refused(format!("exec failed: unable to start container process: {text}")))
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
