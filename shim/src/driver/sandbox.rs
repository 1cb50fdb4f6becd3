//! The sandbox: the place of a pod's containers in this process.
//!
//! ```text
//!          StartSandbox          StopSandbox, or its process ends          ShutdownSandbox
//!  Created ────────────► Ready ──────────────────────────────────► Stopped ────────────────► gone, and with it this server
//! ```
//!
//! If its bundle says what to run, a sandbox is that process: a container under the sandbox's id, of whose life no task event
//! tells. If not, it is no more than its state. There is one at most; containers come and go beside it as ever, and while
//! any is there the server goes on.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use model::task::{Exit, State};

use super::process::{Number, Phase};
use super::{Caller, Deadline, Driver};
use crate::command::{Answer, CreateSandbox, CreateTask, Refusal, SandboxCommand, SandboxState, Target};
use crate::io::Streams;
use crate::log;
use crate::poll::TimerId;
use crate::spec::{self, Spec};

/// How long a process may take to end after it was asked to, if the client does not say.
const STOP: Duration = Duration::from_secs(10);

/// The sandbox of this server.
#[derive(Debug)]
pub(super) struct Sandbox {
    pub id: String,
    bundle: PathBuf,
    netns: String,
    created_at: SystemTime,
    /// Whether it is a container of this server.
    has_process: bool,
    /// Without a process: where it is in its life.
    is_ready: bool,
    exit: Option<Exit>,
    waiters: Vec<Caller>,
    /// Set once it is to be forgotten.
    shutdown: Option<Caller>,
    stopping: Option<TimerId>,
}

impl Driver {
    pub(super) fn sandbox(&mut self, command: SandboxCommand, caller: Caller) -> Result<(), Refusal> {
        match command {
            SandboxCommand::Create(request) => self.create_sandbox(*request, caller),
            SandboxCommand::Start(id) => self.start_sandbox(&id, caller),
            SandboxCommand::Stop(id, limit) => self.stop_sandbox(&id, limit, caller),
            SandboxCommand::Wait(id) => self.wait_for_sandbox(&id, caller),
            SandboxCommand::Shutdown(id) => self.shut_sandbox_down(&id, caller),
            SandboxCommand::Platform(id) => self.known(&id).map(drop).map(|()| self.answer(caller, &Answer::Platform)),
            SandboxCommand::Ping(id) => self.known(&id).map(drop).map(|()| self.answer(caller, &Answer::Done)),
            SandboxCommand::Status { id, is_verbose } => {
                let state = self.sandbox_state(&id, is_verbose)?;
                self.answer(caller, &Answer::Sandbox(Box::new(state)));
                Ok(())
            }
            SandboxCommand::Metrics(id) => {
                let has_process = self.known(&id)?.has_process;
                let usage = if has_process { Some(Box::new(self.usage(&id)?)) } else { None };
                self.answer(caller, &Answer::SandboxMetrics(id, usage));
                Ok(())
            }
        }
    }

    /// The sandbox, if that is its id.
    fn known(&mut self, id: &str) -> Result<&mut Sandbox, Refusal> {
        self.sandbox.as_mut().filter(|sandbox| sandbox.id == id).ok_or_else(|| Refusal::NoSandbox(id.to_owned()))
    }

    /// Whether the container of that id is the sandbox itself.
    pub(super) fn is_sandbox(&self, id: &str) -> bool {
        self.sandbox.as_ref().is_some_and(|sandbox| sandbox.has_process && sandbox.id == id)
    }

    fn create_sandbox(&mut self, request: CreateSandbox, caller: Caller) -> Result<(), Refusal> {
        let id = request.id.to_string();
        if let Some(sandbox) = &self.sandbox {
            return Err(Refusal::SandboxExists(sandbox.id.clone()));
        }
        let has_process = match Spec::read(&request.bundle) {
            Ok(spec) => spec.has_process(),
            Err(_) if !request.bundle.join(spec::FILE_NAME).exists() => false,
            Err(error) => return Err(error.into()),
        };
        if has_process && self.containers.contains_key(&id) {
            return Err(Refusal::ContainerExists(id));
        }
        self.sandbox = Some(Sandbox {
            id,
            bundle: request.bundle.clone(),
            netns: request.netns,
            created_at: SystemTime::now(),
            has_process,
            is_ready: false,
            exit: None,
            waiters: Vec::new(),
            shutdown: None,
            stopping: None,
        });
        if !has_process {
            self.answer(caller, &Answer::Done);
            return Ok(());
        }
        let create = CreateTask {
            id: request.id,
            bundle: request.bundle,
            rootfs: request.rootfs,
            streams: Streams::default(),
            options: request.options,
            checkpoint: None,
        };
        let created = self.create(create, caller);
        if created.is_err() {
            self.sandbox = None;
        }
        created
    }

    fn start_sandbox(&mut self, id: &str, caller: Caller) -> Result<(), Refusal> {
        let sandbox = self.known(id)?;
        if sandbox.has_process {
            let target = Target { id: id.to_owned(), exec: None };
            return self.change(crate::command::Command::Start(target), caller);
        }
        if sandbox.is_ready || sandbox.exit.is_some() {
            let state = if sandbox.is_ready { "running" } else { "stopped" };
            return Err(Refusal::SandboxState { id: id.to_owned(), state });
        }
        sandbox.is_ready = true;
        self.sandbox_started(id, caller);
        Ok(())
    }

    pub(super) fn sandbox_started(&mut self, id: &str, caller: Caller) {
        log::info!("sandbox {id} started");
        match self.sandbox_state(id, false) {
            Ok(state) => self.answer(caller, &Answer::Sandbox(Box::new(state))),
            Err(refusal) => self.refuse(caller, &refusal),
        }
    }

    fn sandbox_state(&mut self, id: &str, is_verbose: bool) -> Result<SandboxState, Refusal> {
        let containers = self.containers.len();
        let sandbox = self.known(id)?;
        let mut info = BTreeMap::new();
        if is_verbose {
            info.insert("bundle".to_owned(), sandbox.bundle.display().to_string());
            info.insert("netns".to_owned(), sandbox.netns.clone());
            info.insert("containers".to_owned(), (containers - usize::from(sandbox.has_process)).to_string());
        }
        let mut state = SandboxState {
            id: id.to_owned(),
            pid: 0,
            is_ready: sandbox.is_ready,
            created_at: sandbox.created_at,
            exit: sandbox.exit,
            info,
        };
        if sandbox.has_process
            && let Some(process) = self.containers.get(id).and_then(|container| self.processes.get(&container.init))
        {
            state.pid = process.pid;
            state.exit = process.exit();
            state.is_ready = matches!(process.phase, Phase::Live(State::Running { .. } | State::Paused { .. }));
        }
        Ok(state)
    }

    fn stop_sandbox(&mut self, id: &str, limit: Duration, caller: Caller) -> Result<(), Refusal> {
        let sandbox = self.known(id)?;
        if !sandbox.has_process {
            self.end_stateless_sandbox();
            self.answer(caller, &Answer::Done);
            return Ok(());
        }
        let Ok(number) = self.init_of(id) else {
            self.answer(caller, &Answer::Done);
            return Ok(());
        };
        let Some(process) = self.processes.get_mut(&number) else { return Err(Refusal::NoContainer) };
        if process.exit().is_some() {
            self.answer(caller, &Answer::Done);
            return Ok(());
        }
        process.waiters.push(caller);
        let is_running = matches!(process.phase, Phase::Live(State::Running { .. }));
        self.signal_init(number, if is_running { libc::SIGTERM } else { libc::SIGKILL });
        let limit = if limit.is_zero() { STOP } else { limit };
        let timer = self.timers.set(limit, Deadline::StopSandbox(number));
        if let Some(earlier) = self.sandbox.as_mut().and_then(|sandbox| sandbox.stopping.replace(timer)) {
            self.timers.cancel(earlier);
        }
        Ok(())
    }

    /// The sandbox was asked to end, and has not.
    pub(super) fn kill_sandbox(&mut self, number: Number) {
        if let Some(sandbox) = &mut self.sandbox {
            sandbox.stopping = None;
        }
        log::warning!("the sandbox does not end by itself");
        self.signal_init(number, libc::SIGKILL);
    }

    fn signal_init(&mut self, number: Number, signal: libc::c_int) {
        let Some(process) = self.processes.get(&number) else { return };
        let sent = match &process.pidfd {
            Some(pidfd) => crate::sys::pidfd_send_signal(pidfd, signal.unsigned_abs()),
            None if self.pids.contains_key(&process.pid) => crate::sys::kill_child(process.pid, signal.unsigned_abs()),
            None => Ok(()),
        };
        if let Err(error) = sent {
            log::debug!("signal {signal}: {error}");
        }
    }

    fn wait_for_sandbox(&mut self, id: &str, caller: Caller) -> Result<(), Refusal> {
        let sandbox = self.known(id)?;
        if sandbox.has_process {
            return self.wait(&Target { id: id.to_owned(), exec: None }, caller);
        }
        match sandbox.exit {
            Some(_) => {
                let answer = Answer::Exited { pid: 0, exit: sandbox.exit };
                self.answer(caller, &answer);
            }
            None => sandbox.waiters.push(caller),
        }
        Ok(())
    }

    fn end_stateless_sandbox(&mut self) {
        let Some(sandbox) = &mut self.sandbox else { return };
        sandbox.is_ready = false;
        let exit = *sandbox.exit.get_or_insert_with(|| Exit { status: 0, at: SystemTime::now() });
        for waiter in std::mem::take(&mut sandbox.waiters) {
            self.answer(waiter, &Answer::Exited { pid: 0, exit: Some(exit) });
        }
    }

    fn shut_sandbox_down(&mut self, id: &str, caller: Caller) -> Result<(), Refusal> {
        let has_container = self.containers.contains_key(id);
        let sandbox = self.known(id)?;
        if !sandbox.has_process || !has_container {
            self.end_stateless_sandbox();
            self.forget_sandbox();
            self.answer(caller, &Answer::Done);
            return Ok(());
        }
        if sandbox.shutdown.is_some() {
            return Err(Refusal::SandboxState { id: id.to_owned(), state: "being shut down" });
        }
        sandbox.shutdown = Some(caller);
        let number = self.init_of(id)?;
        self.signal_init(number, libc::SIGKILL);
        self.go_on_with_shutdown(number);
        Ok(())
    }

    /// Deletes the sandbox's container once it has ended, if the sandbox is to be forgotten.
    pub(super) fn go_on_with_shutdown(&mut self, number: Number) {
        let Some(process) = self.processes.get(&number) else { return };
        let (id, has_ended) = (process.target.id.clone(), process.exit().is_some());
        let Some(sandbox) = self.sandbox.as_mut().filter(|sandbox| sandbox.id == id && has_ended) else { return };
        let Some(caller) = sandbox.shutdown.take() else { return };
        if let Err(refusal) = self.change(crate::command::Command::Delete(Target { id, exec: None }), caller) {
            self.refuse(caller, &refusal);
        }
    }

    /// There is no sandbox any more: without containers, there is no reason for this server either.
    pub(super) fn forget_sandbox(&mut self) {
        let Some(sandbox) = self.sandbox.take() else { return };
        if let Some(timer) = sandbox.stopping {
            self.timers.cancel(timer);
        }
        self.shut_down("the end of the sandbox");
    }
}
