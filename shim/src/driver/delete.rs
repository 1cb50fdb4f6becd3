//! Deleting what has ended: its output first, then the executor's part, then ours.

use std::time::SystemTime;

use executor::{ExecutorError, Outcome, executor_for};
use model::task::{Exit, Pid, State};
use proto::events::TaskDelete;

use super::errands::Gone;
use super::jobs::Then;
use super::process::{Deleting, Number, Phase};
use super::{Caller, DRAIN, DRAIN_EXEC, DYING, Deadline, Driver};
use crate::command::{Answer, Refusal};
use crate::events::Event;
use crate::log;

impl Driver {
    pub(super) fn delete_init(&mut self, number: Number, caller: Caller) -> Result<(), Refusal> {
        let Some((container, process)) = self.both(number) else { return Err(Refusal::NoContainer) };
        if !matches!(process.phase, Phase::Live(State::Created { .. } | State::Stopped(_))) {
            return Err(process.forbids("delete"));
        }
        container.is_changing = true;
        let timer = self.timers.set(DRAIN, Deadline::Drain(number));
        self.begin_draining(number, Deleting::Draining(caller, timer));
        Ok(())
    }

    pub(super) fn delete_exec(&mut self, number: Number, caller: Caller) -> Result<(), Refusal> {
        let Some(process) = self.processes.get_mut(&number) else { return Err(Refusal::NoContainer) };
        if process.is_alive() || process.deleting.is_some() {
            return Err(process.forbids("delete"));
        }
        let timer = self.timers.set(DRAIN_EXEC, Deadline::Drain(number));
        self.begin_draining(number, Deleting::Draining(caller, timer));
        Ok(())
    }

    fn begin_draining(&mut self, number: Number, deleting: Deleting) {
        let Some(process) = self.processes.get_mut(&number) else { return };
        process.deleting = Some(deleting);
        if process.exit().is_some() {
            process.stdio.release(&self.poll);
        }
        self.check_drained(number);
    }

    /// Goes on with a delete that has waited for the last of the output.
    pub(super) fn check_drained(&mut self, number: Number) {
        let Some(process) = self.processes.get(&number) else { return };
        // One that was only created has a logger and streams that end with it, not before.
        let has_ended = process.exit().is_some();
        if !has_ended || (process.stdio.is_drained() && process.logger.is_none()) {
            self.drained(number);
        }
    }

    /// The output is complete, or has been waited for long enough.
    pub(super) fn drained(&mut self, number: Number) {
        let Some(process) = self.processes.get_mut(&number) else { return };
        let caller = match process.deleting {
            Some(Deleting::Draining(caller, timer)) => {
                self.timers.cancel(timer);
                caller
            }
            // The created process does not end although it was killed.
            Some(Deleting::Ending(caller, _)) => return self.finish_delete(number, caller),
            Some(Deleting::Removing(_)) | None => return,
        };
        if !process.stdio.is_drained() && process.exit().is_some() {
            log::warning!("output of {} is given up: nobody reads it, or someone keeps it open", process.event_id());
        }
        if !process.is_init() {
            return self.finish_exec_delete(number, caller);
        }
        process.deleting = Some(Deleting::Removing(caller));
        let Some((container, process)) = self.both(number) else { return };
        let delete = executor_for(container.settings.clone()).delete(&process.target.id, false);
        if let Err(refusal) = self.run_job(&delete, Default::default(), Then::Deleted(number)) {
            self.delete_failed(number, caller, &refusal);
        }
    }

    /// The executor has removed its part of the container.
    pub(super) fn removed(&mut self, number: Number, outcome: &Outcome) {
        let Some(Deleting::Removing(caller)) = self.processes.get(&number).and_then(|process| process.deleting) else {
            return;
        };
        match self.verdict(number, outcome) {
            Ok(()) | Err(Refusal::Executor(ExecutorError::NotFound { .. })) => {}
            Err(refusal) => return self.delete_failed(number, caller, &refusal),
        }
        let Some(process) = self.processes.get_mut(&number) else { return };
        // One that was to go on from a checkpoint, and was never started, has no process.
        if process.exit().is_some() || process.pid == 0 {
            return self.finish_delete(number, caller);
        }
        // It was only created: the executor has killed it, and its exit will come.
        if let Some(pidfd) = &process.pidfd {
            let _ = crate::sys::pidfd_send_signal(pidfd, libc::SIGKILL.unsigned_abs());
        }
        let timer = self.timers.set(DYING, Deadline::Drain(number));
        process.deleting = Some(Deleting::Ending(caller, timer));
    }

    fn delete_failed(&mut self, number: Number, caller: Caller, refusal: &Refusal) {
        let Some((container, process)) = self.both(number) else { return };
        process.deleting = None;
        container.is_changing = false;
        let id = process.target.id.clone();
        self.refuse(caller, refusal);
        self.next_change(&id);
    }

    /// Our part: streams, mounts, the container itself.
    pub(super) fn finish_delete(&mut self, number: Number, caller: Caller) {
        let Some(process) = self.processes.get(&number) else { return };
        let (id, pid, exit) = (process.target.id.clone(), process.pid, process.exit());
        self.forget_container(number, Gone::Deleted { id, pid, exit, caller });
    }

    /// All of it is gone: event, answer.
    pub(super) fn deleted(&mut self, id: &str, pid: Pid, exit: Option<Exit>, caller: Caller) {
        let exited_at = exit.map_or_else(SystemTime::now, |exit| exit.at);
        self.event(&Event::Delete(TaskDelete {
            container_id: id.to_owned(),
            pid,
            exit_status: exit.map_or(0, |exit| exit.status),
            exited_at: Some(proto::convert::time::to_wire(exited_at)),
            id: String::new(),
        }));
        log::info!("container {id} deleted");
        self.answer(caller, &Answer::Exited { pid, exit });
        if self.is_sandbox(id) {
            self.forget_sandbox();
        }
    }

    fn finish_exec_delete(&mut self, number: Number, caller: Caller) {
        let Some((container, process)) = self.both(number) else { return };
        let (pid, exit) = (process.pid, process.exit());
        if let Some(exec) = &process.target.exec {
            container.execs.remove(exec);
        }
        self.forget_process(number);
        self.answer(caller, &Answer::Exited { pid, exit });
    }
}
