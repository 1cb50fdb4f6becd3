//! Starting the init and added processes.

use std::time::SystemTime;

use executor::{Outcome, executor_for};
use model::task::{Exit, Pid, State};
use proto::events::{TaskExecStarted, TaskStart};

use super::jobs::Then;
use super::process::{Number, Phase};
use super::{Caller, Driver};
use crate::api::Call;
use crate::command::{Answer, Command, Refusal, Status};
use crate::events::Event;

/// What a process that never ran is said to have ended with.
const NEVER_RAN: u32 = 255;

impl Driver {
    pub(super) fn start_init(&mut self, number: Number, caller: Caller) -> Result<(), Refusal> {
        let Some((container, process)) = self.both(number) else { return Err(Refusal::NoContainer) };
        if !matches!(process.phase, Phase::Live(State::Created { .. })) {
            return Err(process.forbids("start"));
        }
        if container.restore.is_some() && process.pid == 0 {
            return self.restore(number, caller);
        }
        process.is_starting = true;
        container.is_changing = true;
        let start = executor_for(container.settings.clone()).start(&process.target.id);
        let begun = self.run_job(&start, Default::default(), Then::Started(number, caller));
        if begun.is_err() {
            self.start_done(number);
        }
        begun
    }

    pub(super) fn started(&mut self, number: Number, caller: Caller, outcome: &Outcome) {
        match self.verdict(number, outcome) {
            Ok(()) => self.runs(number, caller),
            Err(refusal) => self.refuse(caller, &refusal),
        }
        self.start_done(number);
    }

    /// The init runs: event, answer.
    pub(super) fn runs(&mut self, number: Number, caller: Caller) {
        let Some(process) = self.processes.get_mut(&number) else { return };
        let (pid, container_id) = (process.pid, process.target.id.clone());
        process.phase = Phase::Live(State::Running { init: pid });
        if caller.call == Call::StartSandbox {
            self.sandbox_started(&container_id, caller);
        } else {
            self.event(&Event::Start(TaskStart { container_id, pid }));
            self.answer(caller, &Answer::Pid(pid));
        }
    }

    /// An exit during the start is told now, and what has waited for the container goes on.
    pub(super) fn start_done(&mut self, number: Number) {
        let Some((container, process)) = self.both(number) else { return };
        process.is_starting = false;
        container.is_changing = false;
        let id = process.target.id.clone();
        self.tell_untold_oom(number);
        self.settle(number);
        self.next_change(&id);
    }

    /// Start or delete of an added process. These do not wait for one another, nor for the container.
    pub(super) fn change_exec(&mut self, command: Command, caller: Caller) -> Result<(), Refusal> {
        match command {
            Command::Start(target) => {
                let number = self.find(&target)?;
                self.start_exec(number, caller)
            }
            Command::Delete(target) => {
                let number = self.find(&target)?;
                self.delete_exec(number, caller)
            }
            _ => Err(Refusal::NoContainer),
        }
    }

    fn start_exec(&mut self, number: Number, caller: Caller) -> Result<(), Refusal> {
        let init_is_gone = match self.container_of(number) {
            Some(container) if container.dying.is_none() => {
                self.processes.get(&container.init).is_none_or(|init| init.exit().is_some())
            }
            _ => true,
        };
        let init = self.container_of(number).and_then(|container| self.processes.get(&container.init));
        if let Some(init) = init.filter(|init| matches!(init.status(), Status::Pausing | Status::Paused)) {
            return Err(init.forbids("exec in"));
        }
        let Some(process) = self.processes.get_mut(&number) else { return Err(Refusal::NoContainer) };
        if init_is_gone {
            return Err(Refusal::InitNotRunning(process.target.id.clone()));
        }
        let Phase::Added(spec) = &mut process.phase else { return Err(process.forbids("start")) };
        let spec = std::mem::take(spec);
        process.phase = Phase::Launching;
        process.is_starting = true;
        let begun = self.prepare(number, spec, caller);
        if begun.is_err() {
            self.exec_failed(number);
        }
        begun
    }

    pub(super) fn exec_started(&mut self, number: Number, pid: Pid, caller: Caller) {
        let Some(process) = self.processes.get_mut(&number) else { return };
        process.phase = Phase::Live(State::Running { init: pid });
        process.is_starting = false;
        let container_id = process.target.id.clone();
        let exec_id = process.target.exec.clone().unwrap_or_default();
        self.event(&Event::ExecStarted(TaskExecStarted { container_id, exec_id, pid }));
        self.answer(caller, &Answer::Pid(pid));
    }

    /// An added process could not be started: there is no second try, and whoever waits for it must not wait for ever.
    pub(super) fn exec_failed(&mut self, number: Number) {
        self.close_streams(number);
        let Some(process) = self.processes.get_mut(&number) else { return };
        let exit = Exit { status: NEVER_RAN, at: SystemTime::now() };
        process.phase = Phase::Live(State::Stopped(exit));
        process.is_starting = false;
        process.pidfd = None;
        process.launch = None;
        let pid = std::mem::take(&mut process.pid);
        let waiters = std::mem::take(&mut process.waiters);
        self.pids.remove(&pid);
        for waiter in waiters {
            self.answer(waiter, &Answer::Exited { pid, exit: Some(exit) });
        }
        self.rest_may_be_gone(number);
    }
}
