//! Exits: reaping everything, and telling of it in the right order.
//!
//! The rules: an exit is told after the start of its process; those of added processes before the init's; an
//! out-of-memory kill before the exit that it caused.

use std::time::SystemTime;

use executor::Ended;
use executor::cgroup::OomWatch;
use model::task::{Exit, Pid, State};
use proto::events::{TaskExit, TaskOom};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, WaitId, WaitIdOptions, WaitOptions, WaitStatus};

use super::process::{Deleting, Number, Phase};
use super::{DYING, Deadline, Driver, LOGGER_KILL, MAX_EARLY};
use crate::command::Answer;
use crate::events::Event;
use crate::log;
use crate::poll::Key;
use crate::trace::trace;

/// How the kernel's out-of-memory killer leaves a process.
const KILLED: u32 = 128 + 9;

/// The status of a process that was reaped by someone else; nobody can know the real one.
const UNKNOWN_STATUS: u32 = 255;

impl Driver {
    /// Takes every child that has ended.
    pub(super) fn reap(&mut self) {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    self.child_ended(pid.as_raw_nonzero().get().unsigned_abs(), status);
                }
                Err(Errno::INTR) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn child_ended(&mut self, pid: Pid, status: WaitStatus) {
        let exit = Exit { status: exit_status(status), at: SystemTime::now() };
        if let Some(job) = self.jobs.remove(&pid) {
            let ended = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Ended::Exited(code),
                (None, signal) => Ended::Signaled(signal.unwrap_or_default()),
            };
            self.job_ended(job, ended);
        } else if let Some(number) = self.loggers.remove(&pid) {
            self.logger_ended(number, exit);
        } else if let Some(number) = self.pids.remove(&pid) {
            trace!("exit", "{pid}");
            if let Some(process) = self.processes.get_mut(&number) {
                process.pidfd = None;
                process.ended_early = Some(exit);
            }
            self.settle(number);
        } else if self.awaits_pids() {
            // Perhaps one that an executor is just making, and will tell us the pid of.
            if self.early.len() >= MAX_EARLY {
                self.early.pop_front();
            }
            self.early.push_back((pid, exit));
        }
        if !self.awaits_pids() {
            self.early.clear();
        }
    }

    /// A process has its pid. It may be dead already, and even reaped.
    pub(super) fn register(&mut self, number: Number, pid: Pid) {
        let reaped = self.early.iter().rposition(|(early, _)| *early == pid).and_then(|at| self.early.remove(at));
        let Some(process) = self.processes.get_mut(&number) else { return };
        process.pid = pid;
        let known = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let is_child = known.is_some_and(|pid| rustix::process::waitid(WaitId::Pid(pid), options).is_ok());
        if is_child {
            process.pidfd = known.and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
            self.pids.insert(pid, number);
            return;
        }
        let exit = reaped.map_or(Exit { status: UNKNOWN_STATUS, at: SystemTime::now() }, |(_, exit)| exit);
        process.ended_early = Some(exit);
    }

    /// If a process has ended and its start is over, this is the moment at which it has ended for everybody.
    pub(super) fn settle(&mut self, number: Number) {
        let Some((container, process)) = self.both(number) else { return };
        if process.is_starting || process.phase == Phase::Launching {
            return;
        }
        let Some(exit) = process.ended_early.take() else { return };
        if !process.is_init() {
            self.ended(number, exit);
            self.rest_may_be_gone(number);
            return;
        }
        if !container.has_own_pids
            && let Some(cgroup) = &container.cgroup
            && let Err(error) = cgroup.kill()
        {
            log::warning!("what is left of {} cannot be killed: {error}", process.target.id);
        }
        let timer = self.timers.set(DYING, Deadline::Dying(number));
        if let Some(container) = self.container_of_mut(number) {
            container.dying = Some((exit, timer));
        }
        self.rest_may_be_gone(number);
    }

    /// The init's exit is told once no other process of the container is left. `number` is any of its processes.
    pub(super) fn rest_may_be_gone(&mut self, number: Number) {
        let Some(container) = self.container_of(number) else { return };
        if container.dying.is_none() {
            return;
        }
        let is_alive = |exec| self.processes.get(exec).is_some_and(super::process::Process::is_alive);
        if !container.execs.values().any(is_alive) {
            let init = container.init;
            self.init_ended(init);
        }
    }

    /// Something of the container refuses to die: the init's exit is told all the same.
    pub(super) fn give_up_waiting(&mut self, init: Number) {
        log::error!("processes outlive the init of their container by {} s", DYING.as_secs());
        self.init_ended(init);
    }

    fn init_ended(&mut self, init: Number) {
        let Some(container) = self.container_of_mut(init) else { return };
        let Some((exit, timer)) = container.dying.take() else { return };
        if let Some(journal) = &mut container.journal {
            journal.exited(exit);
        }
        self.timers.cancel(timer);
        self.ended(init, exit);
        match self.processes.get(&init).and_then(|process| process.deleting) {
            Some(Deleting::Ending(caller, timer)) => {
                self.timers.cancel(timer);
                self.finish_delete(init, caller);
            }
            _ => {
                if let Some(id) = self.processes.get(&init).map(|process| process.target.id.clone()) {
                    self.next_change(&id);
                }
                self.go_on_with_shutdown(init);
            }
        }
    }

    /// Tells of an exit: event first, then those who wait.
    fn ended(&mut self, number: Number, exit: Exit) {
        self.tell_of_oom(number, exit);
        let Some(process) = self.processes.get_mut(&number) else { return };
        process.phase = Phase::Live(State::Stopped(exit));
        process.pidfd = None;
        process.stdio.drop_input(&self.poll);
        let pid = process.pid;
        let event = TaskExit {
            container_id: process.target.id.clone(),
            id: process.event_id().to_owned(),
            pid,
            exit_status: exit.status,
            exited_at: Some(proto::convert::time::to_wire(exit.at)),
        };
        let waiters = std::mem::take(&mut process.waiters);
        log::info!("process {} of {} ended, pid {pid}, status {}", event.id, event.container_id, exit.status);
        self.event(&Event::Exit(event));
        for waiter in waiters {
            self.answer(waiter, &Answer::Exited { pid, exit: Some(exit) });
        }
        self.end_attached(number);
    }

    /// The kernel may tell us of the exit before it tells of its cause, so the cause is asked for.
    fn tell_of_oom(&mut self, number: Number, exit: Exit) {
        if exit.status == KILLED || self.processes.get(&number).is_some_and(super::process::Process::is_init) {
            self.check_oom(number);
        }
    }

    pub(super) fn on_oom(&mut self, number: Number, key: Key) {
        if !self.check_oom(number)
            && let Some(container) = self.container_of_mut(number)
            && let Some((watch, _)) = container.oom.take()
        {
            self.poll.remove(&watch);
            self.watches.remove(&key);
        }
    }

    /// Publishes what is new. False when the cgroup is gone.
    fn check_oom(&mut self, number: Number) -> bool {
        let Some(container) = self.container_of_mut(number) else { return true };
        let Some((watch, _)) = &mut container.oom else { return true };
        match OomWatch::kills(watch) {
            Ok(0) => true,
            Ok(_) => {
                container.has_untold_oom = true;
                let init = container.init;
                self.tell_untold_oom(init);
                true
            }
            Err(_) => false,
        }
    }

    /// Publishes a kill for memory, unless the start of the container is yet to be told.
    pub(super) fn tell_untold_oom(&mut self, init: Number) {
        let Some((container, process)) = self.both(init) else { return };
        if process.is_starting || !std::mem::take(&mut container.has_untold_oom) {
            return;
        }
        let container_id = process.target.id.clone();
        log::info!("a process of {container_id} was killed for memory");
        self.event(&Event::Oom(TaskOom { container_id }));
    }

    fn logger_ended(&mut self, number: Number, exit: Exit) {
        if exit.status != 0 {
            log::warning!("a logger ended with {}", exit.status);
        }
        if let Some(process) = self.processes.get_mut(&number) {
            process.logger = None;
            self.check_drained(number);
        }
    }

    /// Nobody needs this logger any more.
    pub(super) fn end_logger(&mut self, pid: Pid) {
        if self.loggers.contains_key(&pid) {
            signal(pid, nix::sys::signal::Signal::SIGTERM);
            self.timers.set(LOGGER_KILL, Deadline::LoggerKill(pid));
        }
    }

    pub(super) fn kill_logger(&mut self, pid: Pid) {
        // It may have ended, and another have its pid: only one that is not reaped is in the table.
        if self.loggers.contains_key(&pid) {
            signal(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }

    /// We end: nobody would do it later.
    pub(super) fn kill_loggers(&mut self) {
        for pid in self.loggers.keys() {
            signal(*pid, nix::sys::signal::Signal::SIGKILL);
        }
    }
}

/// Sends a signal to a child that was not reaped yet.
fn signal(pid: Pid, signal: nix::sys::signal::Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
    }
}

/// The exit code, or 128 + the signal.
fn exit_status(status: WaitStatus) -> u32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code.unsigned_abs(),
        (None, Some(signal)) => 128 + signal.unsigned_abs(),
        (None, None) => UNKNOWN_STATUS,
    }
}
