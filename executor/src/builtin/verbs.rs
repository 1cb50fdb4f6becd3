//! The verbs. Setting a container or an exec up is libcontainer's work; everything else acts on the [record](super::record)
//! and the cgroup, and knows processes by pid and start time.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use libcgroups::common::{CgroupConfig, CgroupManager, ControllerOpt, create_cgroup_manager};
use libcontainer::container::Container;
use libcontainer::error::LibcontainerError;
use libcontainer::oci_spec::runtime::LinuxResources;
use serde_json::{Value, json};

use super::args::Global;
use super::bundle;
use super::log::{Log, Trail};
use super::record::{Home, Record, RecordError, Status};
use super::refuse::unsupported;
use crate::cgroup::{self, Cgroup, CgroupError, ROOT};

/// How long processes may take to stop in the freezer; one in uninterruptible sleep may never.
const FREEZE_DEADLINE: Duration = Duration::from_secs(10);
/// How long killed processes may take to be gone.
const KILL_DEADLINE: Duration = Duration::from_secs(10);
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

pub(super) fn chain(error: &dyn std::error::Error) -> String {
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

pub(super) fn io(what: &'static str) -> impl Fn(std::io::Error) -> VerbError {
    move |source| VerbError::Io { what, source }
}

pub(super) fn refused<T>(text: impl Into<String>) -> Result<T, VerbError> {
    Err(VerbError::Refused(text.into()))
}

pub(super) struct Context<'run> {
    pub(super) global: &'run Global,
    pub(super) log: &'run Log,
    pub(super) trail: &'run mut Trail,
}

impl Context<'_> {
    pub(super) fn home(&self, id: &str) -> Result<Home, VerbError> {
        Ok(Home::of(&self.global.root, id)?)
    }

    pub(super) fn load(&self, id: &str) -> Result<(Home, Record), VerbError> {
        let home = self.home(id)?;
        let record = home.load()?;
        Ok((home, record))
    }

    pub(super) fn warn(&self, warnings: &[String]) {
        for warning in warnings {
            self.log.line("warning", warning);
        }
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
        if let Some(program) = cgroup::device_program(json.get("devices")).map_err(VerbError::Refused)? {
            record.cgroup.set_device_rules(&program)?;
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
pub(super) fn remove_leftovers(home: &Home, spec: &Value) -> Result<(), VerbError> {
    let path = spec.pointer("/linux/cgroupsPath").and_then(Value::as_str).unwrap_or_default();
    if !path.trim_matches('/').is_empty() {
        let cgroup = Cgroup::at(Path::new(ROOT), Path::new(path));
        let _ = cgroup.kill();
        let _ = cgroup.remove();
    }
    fs::remove_dir_all(home.path()).map_err(io("state folder"))
}
