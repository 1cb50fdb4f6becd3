//! Making a container, and launching processes in general: streams, logger, executor, and what has to be undone.

use std::io;
use std::path::{Path, PathBuf};

use executor::cgroup::Cgroup;
use executor::{Create, Exec, Invocation, Outcome, executor_for};
use model::task::{Pid, State};
use proto::events::{TaskCreate, TaskExecAdded, TaskIo};

use super::errands::Gone;
use super::jobs::Then;
use super::process::{Container, Launch, Number, Phase, Process, RestoreFrom};
use super::{Caller, Deadline, Driver, LOGGER_READY, Watch};
use crate::command::{AddExec, Answer, CreateTask, Refusal, Target};
use crate::events::Event;
use crate::io::{Owner, Stdio, StdioError};
use crate::place::join_cgroup;
use crate::poll::{EventFlags, Key};
use crate::spec::Spec;
use crate::{journal, log, runtime};

/// The folder in the bundle on which the root filesystem is mounted.
pub(crate) const ROOTFS_DIR: &str = "rootfs";
/// The file with the init's pid.
pub(crate) const INIT_PID_FILE: &str = "init.pid";

impl Driver {
    pub(super) fn create(&mut self, request: CreateTask, caller: Caller) -> Result<(), Refusal> {
        let id = request.id.to_string();
        if self.is_ending {
            return Err(Refusal::Ending);
        }
        if self.containers.contains_key(&id) {
            return Err(Refusal::ContainerExists(id));
        }
        let spec = Spec::read(&request.bundle)?;
        // A daemon that hands us a socket has no earlier moment to tell of this.
        let shim_cgroup = &request.options.shim_cgroup;
        if !shim_cgroup.is_empty() {
            join_cgroup(std::process::id(), shim_cgroup)
                .map_err(|source| Refusal::Io { what: "join the shim cgroup", source })?;
        }
        let restores = request.checkpoint.is_some();
        let settings = runtime::choose(&request.options, &self.namespace, &request.bundle, &spec, restores)?;
        let is_mounted = !request.rootfs.is_empty();
        if is_mounted {
            let rootfs = request.bundle.join(ROOTFS_DIR);
            if let Err(source) = std::fs::create_dir(&rootfs)
                && source.kind() != io::ErrorKind::AlreadyExists
            {
                return Err(Refusal::Io { what: "make the root folder", source });
            }
        }
        let work = Some(PathBuf::from(&request.options.criu_work_path)).filter(|path| !path.as_os_str().is_empty());
        let restore = request.checkpoint.map(|images| RestoreFrom { images, work });
        let init = self.number();
        let target = Target { id: id.clone(), exec: None };
        self.processes.insert(init, Process::new(target, request.streams.clone(), Phase::Launching));
        self.containers.insert(
            id,
            Container {
                bundle: request.bundle,
                is_mounted,
                settings,
                io_owner: (request.options.io_uid, request.options.io_gid),
                restore,
                init,
                execs: Default::default(),
                is_created: false,
                has_own_pids: spec.has_own_pids(),
                cgroup: None,
                oom: None,
                has_untold_oom: false,
                journal: None,
                is_changing: false,
                queue: Default::default(),
                dying: None,
            },
        );
        self.mounts_of_create.insert(init, request.rootfs.clone());
        let begun = if is_mounted {
            let begun = self.mount(init, request.rootfs, caller);
            if begun.is_err()
                && let Some(container) = self.container_of_mut(init)
            {
                container.is_mounted = false;
            }
            begun
        } else {
            self.prepare(init, Vec::new(), caller)
        };
        if let Err(refusal) = begun {
            self.launch_failed(init, caller, refusal);
        }
        Ok(())
    }

    /// Registers a process; it is launched by its start.
    pub(super) fn add_exec(&mut self, request: AddExec, caller: Caller) -> Result<(), Refusal> {
        let container =
            self.containers.get(&request.id).filter(|container| container.is_created).ok_or(Refusal::NoContainer)?;
        let exec = request.exec.to_string();
        if container.execs.contains_key(&exec) {
            return Err(Refusal::ProcessExists(exec));
        }
        match self.processes.get(&container.init) {
            Some(init) if !matches!(init.phase, Phase::Live(State::Created { .. } | State::Running { .. })) => {
                return Err(init.forbids("exec in"));
            }
            _ => {}
        }
        let number = self.number();
        let target = Target { id: request.id.clone(), exec: Some(exec.clone()) };
        self.processes.insert(number, Process::new(target, request.streams, Phase::Added(request.process)));
        if let Some(container) = self.containers.get_mut(&request.id) {
            container.execs.insert(exec.clone(), number);
        }
        self.event(&Event::ExecAdded(TaskExecAdded { container_id: request.id, exec_id: exec }));
        self.answer(caller, &Answer::Done);
        Ok(())
    }

    /// Makes the streams of a process, and launches it at once or when its logger is ready.
    pub(super) fn prepare(&mut self, number: Number, process_spec: Vec<u8>, caller: Caller) -> Result<(), Refusal> {
        let Some((container, process)) = self.both(number) else { return Err(Refusal::NoContainer) };
        let socket_name = format!("console-{}.sock", number.0);
        let (bundle, (uid, gid)) = (container.bundle.clone(), container.io_owner);
        let (streams, id) = (process.streams.clone(), process.target.id.clone());
        let owner = Owner { uid, gid, id: &id, namespace: &self.namespace, bundle: &bundle, socket_name: &socket_name };
        let (stdio, ends) = Stdio::prepare(&streams, owner, &mut self.slots, &mut self.poll)?;
        let logger = stdio.logger().map(|logger| logger.pid);
        let logger_key = stdio.logger_key();
        if let Some(pid) = logger {
            self.loggers.insert(pid, number);
        }
        let timer = logger_key.map(|key| {
            self.watches.insert(key, Watch::LoggerReady(number));
            self.timers.set(LOGGER_READY, Deadline::LoggerReady(number))
        });
        let Some(process) = self.processes.get_mut(&number) else { return Err(Refusal::NoContainer) };
        process.stdio = stdio;
        process.logger = logger;
        process.launch = Some(Launch { ends, process_spec, caller, timer });
        if timer.is_none() {
            self.launch(number)?;
        }
        Ok(())
    }

    pub(super) fn on_logger_ready(&mut self, number: Number, key: Key) {
        self.watches.remove(&key);
        let Some(process) = self.processes.get_mut(&number) else { return };
        let reported = process.stdio.logger_reported();
        let Some(launch) = process.launch.as_mut() else { return };
        let caller = launch.caller;
        if let Some(timer) = launch.timer.take() {
            self.timers.cancel(timer);
        }
        if let Err(refusal) = reported.map_err(Refusal::from).and_then(|()| self.launch(number)) {
            self.launch_failed(number, caller, refusal);
        }
    }

    pub(super) fn logger_is_silent(&mut self, number: Number) {
        let Some(process) = self.processes.get_mut(&number) else { return };
        if let Some(key) = process.stdio.logger_key() {
            self.watches.remove(&key);
        }
        let Some(launch) = process.launch.take() else { return };
        self.launch_failed(number, launch.caller, StdioError::Silent.into());
    }

    /// Has the executor make the process.
    fn launch(&mut self, number: Number) -> Result<(), Refusal> {
        let Some((container, process)) = self.both(number) else { return Err(Refusal::NoContainer) };
        let waits_for_start = process.is_init() && container.restore.is_some();
        if waits_for_start && let Some(launch) = &process.launch {
            let caller = launch.caller;
            process.phase = Phase::Live(State::Created { init: 0 });
            self.created(number, 0, caller);
            return Ok(());
        }
        let Some(launch) = process.launch.take() else { return Ok(()) };
        let invocation = self.launch_invocation(number, &launch.process_spec)?;
        self.run_job(&invocation, launch.ends.as_fds(), Then::Launched(number, launch.caller))?;
        // The process has its ends now; with ours open too, nobody would ever see the end of its output. What comes out is
        // taken when the process is made: if it is not, that is the executor's complaint, which the caller gets as the error.
        drop(launch);
        Ok(())
    }

    fn launch_invocation(&mut self, number: Number, process_spec: &[u8]) -> Result<Invocation, Refusal> {
        let Some((container, process)) = self.both(number) else { return Err(Refusal::NoContainer) };
        let console_socket = process.stdio.console_socket();
        let id = process.target.id.clone();
        let mut settings = container.settings.clone();
        let Some(exec) = &process.target.exec else {
            let pid_file = container.bundle.join(INIT_PID_FILE);
            let create = Create { id, bundle: container.bundle.clone(), pid_file, console_socket };
            return Ok(executor_for(settings).create(&create));
        };
        let files = ExecFiles::new(&container.bundle, exec);
        let mut document: serde_json::Value = serde_json::from_slice(process_spec)
            .map_err(|error| Refusal::Invalid(format!("exec spec is no OCI process: {error}")))?;
        // The call decides, as with every other shim.
        document["terminal"] = process.streams.terminal.into();
        std::fs::write(&files.process, document.to_string())
            .map_err(|source| Refusal::Io { what: "write the exec spec", source })?;
        settings.log = files.log;
        let exec = Exec { id, process_json: files.process, pid_file: files.pid, console_socket };
        Ok(executor_for(settings).exec(&exec))
    }

    /// The executor that was to make a process has ended.
    pub(super) fn launched(&mut self, number: Number, caller: Caller, outcome: &Outcome) {
        let verdict = self.verdict(number, outcome);
        let made = verdict.and_then(|()| self.take_over(number));
        self.remove_exec_files(number);
        if let Err(refusal) = made {
            if Self::leaves_something(outcome.ended) && self.abandon(number, caller, &refusal) {
                return;
            }
            self.launch_failed(number, caller, refusal);
            return;
        }
        let Some(process) = self.processes.get_mut(&number) else { return };
        let (pid, is_init) = (process.pid, process.is_init());
        let state = State::Created { init: pid };
        process.phase = Phase::Live(state);
        if is_init {
            self.created(number, pid, caller);
        } else {
            self.exec_started(number, pid, caller);
        }
        self.settle(number);
    }

    /// Takes over what the executor has made: the pid, and the terminal if there is one.
    pub(super) fn take_over(&mut self, number: Number) -> Result<(), Refusal> {
        let Some((container, process)) = self.both(number) else { return Err(Refusal::NoContainer) };
        let file = match &process.target.exec {
            None => container.bundle.join(INIT_PID_FILE),
            Some(exec) => ExecFiles::new(&container.bundle, exec).pid,
        };
        let pid = read_pid(&file)?;
        self.register(number, pid);
        if let Some(process) = self.processes.get_mut(&number) {
            process.stdio.attach_terminal(&mut self.poll)?;
        }
        self.start_pumps(number);
        Ok(())
    }

    fn created(&mut self, number: Number, pid: Pid, caller: Caller) {
        let Some((container, process)) = self.both(number) else { return };
        let (target, streams) = (process.target.clone(), process.streams.clone());
        container.is_created = true;
        let bundle = container.bundle.display().to_string();
        let checkpoint =
            container.restore.as_ref().map(|restore| restore.images.display().to_string()).unwrap_or_default();
        if pid != 0 {
            self.found(number, pid);
        }
        let rootfs = self.mounts_of_create.remove(&number).unwrap_or_default();
        log::info!("container {} created, pid {pid}", target.id);
        self.event(&Event::Create(TaskCreate {
            container_id: target.id,
            bundle,
            rootfs: proto::convert::mount::to_wire(rootfs),
            io: Some(TaskIo {
                stdin: streams.stdin,
                stdout: streams.stdout,
                stderr: streams.stderr,
                terminal: streams.terminal,
            }),
            checkpoint,
            pid,
        }));
        self.answer(caller, &Answer::Pid(pid));
    }

    /// The init of a container is there: writes it down, and finds its cgroup.
    pub(super) fn found(&mut self, number: Number, pid: Pid) {
        let namespace = self.namespace.clone();
        let Some((container, process)) = self.both(number) else { return };
        let id = &process.target.id;
        container.journal = Some(journal::Writer::start(&container.bundle, &namespace, id, pid));
        container.cgroup = i32::try_from(pid).ok().and_then(|pid| match Cgroup::of_pid(pid) {
            Ok(cgroup) => Some(cgroup),
            Err(error) => {
                log::warning!("no cgroup of {id}: {error}");
                None
            }
        });
        self.watch_oom(number);
    }

    fn watch_oom(&mut self, number: Number) {
        let key = self.poll.key();
        let Some(container) = self.container_of_mut(number) else { return };
        let Some(cgroup) = &container.cgroup else { return };
        match cgroup.watch_oom() {
            Ok(watch) => {
                container.oom = Some((watch, key));
                let watched = self
                    .container_of(number)
                    .and_then(|container| container.oom.as_ref())
                    .is_some_and(|(watch, key)| self.poll.add(watch, *key, EventFlags::IN).is_ok());
                if watched {
                    self.watches.insert(key, Watch::Oom(number));
                }
            }
            Err(error) => log::warning!("out-of-memory events will not be told: {error}"),
        }
    }

    /// Has the executor remove what it has made although the launch has failed. False if there is nothing to remove.
    fn abandon(&mut self, number: Number, caller: Caller, refusal: &Refusal) -> bool {
        let Some((container, process)) = self.both(number) else { return false };
        if !process.is_init() {
            if let Some(pidfd) = &process.pidfd {
                let _ = crate::sys::pidfd_send_signal(pidfd, libc::SIGKILL.unsigned_abs());
            }
            return false;
        }
        let delete = executor_for(container.settings.clone()).delete(&process.target.id, true);
        let told = Refusal::Told(model::Classify::kind(refusal), refusal_text(refusal));
        self.run_job(&delete, Default::default(), Then::Abandoned(number, caller, Box::new(told))).is_ok()
    }

    pub(super) fn abandoned(&mut self, number: Number, caller: Caller, refusal: Refusal) {
        self.sandbox_failed(number);
        self.forget_container(number, Gone::Failed(caller, refusal));
    }

    /// A process could not be made: everything made for it goes, and its caller is told.
    pub(super) fn launch_failed(&mut self, number: Number, caller: Caller, refusal: Refusal) {
        let is_init = self.processes.get(&number).is_none_or(Process::is_init);
        if is_init {
            self.sandbox_failed(number);
            self.forget_container(number, Gone::Failed(caller, refusal));
        } else {
            self.exec_failed(number);
            self.refuse(caller, &refusal);
        }
    }

    /// If it was the sandbox that could not be made, there is none.
    fn sandbox_failed(&mut self, number: Number) {
        if self.processes.get(&number).is_some_and(|process| self.is_sandbox(&process.target.id)) {
            self.sandbox = None;
        }
    }

    /// Removes every trace of a container that was never there for anybody, or is no longer; `gone` comes when all of it is.
    pub(super) fn forget_container(&mut self, init: Number, gone: Gone) {
        self.mounts_of_create.remove(&init);
        let id = self.processes.get(&init).map(|process| process.target.id.clone());
        let Some(mut container) = id.and_then(|id| self.containers.remove(&id)) else {
            return self.unmount(None, gone);
        };
        if let Some((watch, key)) = container.oom.take() {
            self.poll.remove(&watch);
            self.watches.remove(&key);
        }
        for number in container.execs.values().copied().chain([init]) {
            self.forget_process(number);
        }
        for (_, caller) in container.queue {
            self.refuse(caller, &Refusal::NoContainer);
        }
        self.unmount(container.is_mounted.then(|| container.bundle.join(ROOTFS_DIR)), gone);
    }

    /// Removes a process with its streams; those who wait for it are told that there is none.
    pub(super) fn forget_process(&mut self, number: Number) {
        self.close_streams(number);
        self.end_all_attached(number);
        self.remove_exec_files(number);
        let Some(process) = self.processes.remove(&number) else { return };
        self.pids.remove(&process.pid);
        if let Some(timer) = process.launch.and_then(|launch| launch.timer) {
            self.timers.cancel(timer);
        }
        if let Some(pid) = process.logger {
            self.end_logger(pid);
        }
        for waiter in process.waiters {
            self.refuse(waiter, &Refusal::NoProcess(process.target.exec.clone().unwrap_or_default()));
        }
    }

    /// Closes all streams of a process, drained or not.
    pub(super) fn close_streams(&mut self, number: Number) {
        let Some(process) = self.processes.get_mut(&number) else { return };
        let feed = process.stdio.feed().map(|feed| feed.key());
        for key in process.stdio.pump_keys().into_iter().chain(process.stdio.logger_key()).chain(feed) {
            self.watches.remove(&key);
        }
        process.stdio.close(&self.poll);
    }

    fn remove_exec_files(&self, number: Number) {
        if let (Some(container), Some(exec)) =
            (self.container_of(number), self.processes.get(&number).and_then(|process| process.target.exec.as_deref()))
        {
            ExecFiles::new(&container.bundle, exec).remove();
        }
    }

    /// A container together with one of its processes.
    pub(super) fn both(&mut self, number: Number) -> Option<(&mut Container, &mut Process)> {
        let process = self.processes.get_mut(&number)?;
        let container = self.containers.get_mut(&process.target.id)?;
        Some((container, process))
    }

    pub(super) fn container_of(&self, number: Number) -> Option<&Container> {
        self.containers.get(&self.processes.get(&number)?.target.id)
    }

    pub(super) fn container_of_mut(&mut self, number: Number) -> Option<&mut Container> {
        self.containers.get_mut(&self.processes.get(&number)?.target.id)
    }
}

/// The files of an added process while it is being launched.
struct ExecFiles {
    process: PathBuf,
    pid: PathBuf,
    log: PathBuf,
}

impl ExecFiles {
    fn new(bundle: &Path, exec: &str) -> Self {
        // `init.pid` is taken.
        let name = if exec == "init" { "exec-init" } else { exec };
        Self {
            process: bundle.join(format!("{name}.process.json")),
            pid: bundle.join(format!("{name}.pid")),
            log: bundle.join(format!("{name}.log.json")),
        }
    }

    fn remove(&self) {
        for file in [&self.process, &self.pid, &self.log] {
            let _ = std::fs::remove_file(file);
        }
    }
}

fn read_pid(path: &Path) -> Result<Pid, Refusal> {
    let failed = |source| Refusal::Io { what: "read the pid that the executor wrote", source };
    let text = std::fs::read_to_string(path).map_err(failed)?;
    text.trim().parse().ok().filter(|pid| *pid > 0).ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))
}

/// The text of a refusal with its causes, without the suffix that its kind adds on the wire.
fn refusal_text(refusal: &Refusal) -> String {
    let mut text = refusal.to_string();
    let mut cause = std::error::Error::source(refusal);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
