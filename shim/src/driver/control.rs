//! Signals, freezing, limits, terminals, standard input.

use std::io;

use executor::{Outcome, executor_for};
use model::task::State;
use proto::events::{TaskPaused, TaskResumed};

use super::jobs::Then;
use super::process::{Number, Phase};
use super::{Caller, Driver};
use crate::command::{Answer, Refusal, Target};
use crate::events::Event;
use crate::sys;

/// The highest signal there is.
const MAX_SIGNAL: u32 = 64;

impl Driver {
    pub(super) fn kill(&mut self, target: &Target, signal: u32, all: bool, caller: Caller) -> Result<(), Refusal> {
        let number = self.find(target)?;
        if signal > MAX_SIGNAL {
            return Err(Refusal::Signal(signal));
        }
        if all && target.exec.is_none() {
            return self.kill_all(number, signal, caller);
        }
        let is_reaped = self.processes.get(&number).is_none_or(|process| !self.pids.contains_key(&process.pid));
        let Some((container, process)) = self.both(number) else { return Err(Refusal::NoContainer) };
        match process.phase {
            Phase::Added(_) | Phase::Launching => return Err(Refusal::NotStarted),
            Phase::Live(State::Stopped(_)) => return Err(Refusal::Finished),
            Phase::Live(_) | Phase::Pausing(_) => {}
        }
        let sent = match &process.pidfd {
            Some(pidfd) => sys::pidfd_send_signal(pidfd, signal),
            // It has ended, and is only not told of yet.
            None if is_reaped => return Err(Refusal::Finished),
            None => sys::kill_child(process.pid, signal),
        };
        sent.map_err(|source| match source.raw_os_error() {
            Some(libc::ESRCH) => Refusal::Finished,
            _ => Refusal::Io { what: "send the signal", source },
        })?;
        let is_frozen = matches!(process.phase, Phase::Live(State::Paused { .. }));
        // A frozen process of a v1 cgroup does not even die.
        if is_frozen
            && signal == libc::SIGKILL.unsigned_abs()
            && let Some(cgroup) = &container.cgroup
        {
            cgroup.freeze(false)?;
        }
        self.answer(caller, &Answer::Done);
        Ok(())
    }

    fn kill_all(&mut self, init: Number, signal: u32, caller: Caller) -> Result<(), Refusal> {
        let Some((container, process)) = self.both(init) else { return Err(Refusal::NoContainer) };
        if process.exit().is_some() && container.has_own_pids {
            return Err(Refusal::Finished);
        }
        if signal == libc::SIGKILL.unsigned_abs()
            && let Some(cgroup) = &container.cgroup
        {
            cgroup.kill()?;
            self.answer(caller, &Answer::Done);
            return Ok(());
        }
        let number = i32::try_from(signal).map_err(|_| Refusal::Signal(signal))?;
        let kill = executor_for(container.settings.clone()).kill(&process.target.id, number, true);
        self.run_job(&kill, Default::default(), Then::Signalled(init, caller))
    }

    pub(super) fn signalled(&mut self, number: Number, caller: Caller, outcome: &Outcome) {
        match self.verdict(number, outcome) {
            Ok(()) => self.answer(caller, &Answer::Done),
            Err(refusal) => self.refuse(caller, &refusal),
        }
    }

    pub(super) fn pause(&mut self, id: &str, caller: Caller) -> Result<(), Refusal> {
        let init = self.init_of(id)?;
        let Some((container, process)) = self.both(init) else { return Err(Refusal::NoContainer) };
        let Phase::Live(State::Running { init: pid }) = process.phase else { return Err(process.forbids("pause")) };
        let pause = executor_for(container.settings.clone()).pause(id);
        self.run_job(&pause, Default::default(), Then::Paused(init, caller))?;
        if let Some((container, process)) = self.both(init) {
            container.is_changing = true;
            process.phase = Phase::Pausing(pid);
        }
        Ok(())
    }

    pub(super) fn paused(&mut self, init: Number, caller: Caller, outcome: &Outcome) {
        let verdict = self.verdict(init, outcome);
        if let Some(process) = self.processes.get_mut(&init)
            && let Phase::Pausing(pid) = process.phase
        {
            process.phase =
                Phase::Live(if verdict.is_ok() { State::Paused { init: pid } } else { State::Running { init: pid } });
        }
        self.changed(init, caller, verdict, |container_id| Event::Paused(TaskPaused { container_id }));
    }

    pub(super) fn resume(&mut self, id: &str, caller: Caller) -> Result<(), Refusal> {
        let init = self.init_of(id)?;
        let Some((container, process)) = self.both(init) else { return Err(Refusal::NoContainer) };
        if !matches!(process.phase, Phase::Live(State::Paused { .. })) {
            return Err(process.forbids("resume"));
        }
        let resume = executor_for(container.settings.clone()).resume(id);
        self.run_job(&resume, Default::default(), Then::Resumed(init, caller))?;
        self.set_changing(init);
        Ok(())
    }

    pub(super) fn resumed(&mut self, init: Number, caller: Caller, outcome: &Outcome) {
        let verdict = self.verdict(init, outcome);
        if verdict.is_ok()
            && let Some(process) = self.processes.get_mut(&init)
            && let Phase::Live(State::Paused { init: pid }) = process.phase
        {
            process.phase = Phase::Live(State::Running { init: pid });
        }
        self.changed(init, caller, verdict, |container_id| Event::Resumed(TaskResumed { container_id }));
    }

    pub(super) fn update(&mut self, id: &str, resources: Vec<u8>, caller: Caller) -> Result<(), Refusal> {
        let init = self.init_of(id)?;
        let Some((container, process)) = self.both(init) else { return Err(Refusal::NoContainer) };
        if process.exit().is_some() {
            return Err(process.forbids("update"));
        }
        if resources.is_empty() {
            return Err(Refusal::Invalid("no resources".to_owned()));
        }
        let update = executor_for(container.settings.clone()).update(id, resources);
        self.run_job(&update, Default::default(), Then::Updated(init, caller))?;
        self.set_changing(init);
        Ok(())
    }

    pub(super) fn updated(&mut self, init: Number, caller: Caller, outcome: &Outcome) {
        let verdict = self.verdict(init, outcome);
        self.end_change(init, caller, verdict);
    }

    pub(super) fn set_changing(&mut self, init: Number) {
        if let Some(container) = self.container_of_mut(init) {
            container.is_changing = true;
        }
    }

    /// A change is over: event, answer, and the next one.
    pub(super) fn changed(
        &mut self,
        init: Number,
        caller: Caller,
        verdict: Result<(), Refusal>,
        event: impl FnOnce(String) -> Event,
    ) {
        if verdict.is_ok()
            && let Some(process) = self.processes.get(&init)
        {
            let event = event(process.target.id.clone());
            self.event(&event);
        }
        self.end_change(init, caller, verdict);
    }

    fn end_change(&mut self, init: Number, caller: Caller, verdict: Result<(), Refusal>) {
        match verdict {
            Ok(()) => self.answer(caller, &Answer::Done),
            Err(refusal) => self.refuse(caller, &refusal),
        }
        let Some((container, process)) = self.both(init) else { return };
        container.is_changing = false;
        let id = process.target.id.clone();
        self.next_change(&id);
    }

    pub(super) fn resize(&mut self, target: &Target, width: u32, height: u32) -> Result<(), Refusal> {
        let number = self.find(target)?;
        let Some(process) = self.processes.get(&number) else { return Err(Refusal::NoContainer) };
        match process.stdio.resize(width, height) {
            // The process has ended and its terminal with it: nothing to see.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(()),
            result => result.map_err(|source: io::Error| Refusal::Io { what: "resize the terminal", source }),
        }
    }

    pub(super) fn close_input(&mut self, target: &Target, stdin: bool) -> Result<(), Refusal> {
        let number = self.find(target)?;
        if stdin && let Some(process) = self.processes.get_mut(&number) {
            process.stdio.close_input(&self.poll);
        }
        Ok(())
    }
}
