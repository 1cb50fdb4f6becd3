//! Executors at work: started, bounded by a deadline, and what was to come after, kept until they end.

use std::path::PathBuf;

use executor::{Ended, Invocation, Outcome, Running, StdioFds, executor_for, spawn};
use model::task::Pid;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid as UnixPid;

use super::process::Number;
use super::{Caller, Deadline, Driver};
use crate::command::Refusal;
use crate::log;
use crate::poll::TimerId;
use crate::trace::trace;

/// What comes after an executor has ended.
#[derive(Debug)]
pub(super) enum Then {
    /// The process was made (`create`, `exec`).
    Launched(Number, Caller),
    /// The init runs.
    Started(Number, Caller),
    /// It goes on from where it was saved.
    Restored(Number, Caller),
    /// It is saved.
    Checkpointed(Number, Caller, PathBuf),
    /// The container is frozen.
    Paused(Number, Caller),
    /// It is thawed.
    Resumed(Number, Caller),
    /// Its limits are changed.
    Updated(Number, Caller),
    /// A signal was sent to all.
    Signalled(Number, Caller),
    /// It is removed.
    Deleted(Number),
    /// What was left of a container that could not be made is removed.
    Abandoned(Number, Caller, Box<Refusal>),
}

/// An executor at work.
#[derive(Debug)]
pub(super) struct Job {
    running: Running,
    then: Then,
    timer: TimerId,
    timed_out: bool,
}

impl Driver {
    /// Starts an executor; `then` comes when it has ended. An error is told at once, and `then` never comes.
    pub(super) fn run_job(&mut self, invocation: &Invocation, stdio: StdioFds<'_>, then: Then) -> Result<(), Refusal> {
        trace!("job.begin", "{}", invocation.verb.name());
        let running = spawn(invocation, stdio)?;
        trace!("job.spawned", "{}", invocation.verb.name());
        let pid = Pid::try_from(running.pid).expect("a pid is positive");
        let timer = self.timers.set(running.deadline, Deadline::Job(pid));
        self.jobs.insert(pid, Job { running, then, timer, timed_out: false });
        Ok(())
    }

    /// The executor takes too long: it is killed, and its exit will be seen as any other.
    pub(super) fn kill_job(&mut self, pid: Pid) {
        let Some(job) = self.jobs.get_mut(&pid) else { return };
        log::error!("executor {pid} does not answer and is killed");
        job.timed_out = true;
        // Not reaped yet, so the pid is still its own.
        let _ = kill(UnixPid::from_raw(job.running.pid), Signal::SIGKILL);
    }

    /// The executor has ended.
    pub(super) fn job_ended(&mut self, job: Job, ended: Ended) {
        self.timers.cancel(job.timer);
        self.not_quiet();
        let ended = if job.timed_out { Ended::TimedOut } else { ended };
        let outcome = job.running.finish(ended);
        trace!("job.end", "{}", outcome.verb.name());
        match job.then {
            Then::Launched(number, caller) => self.launched(number, caller, &outcome),
            Then::Started(number, caller) => self.started(number, caller, &outcome),
            Then::Restored(number, caller) => self.restored(number, caller, &outcome),
            Then::Checkpointed(number, caller, path) => self.checkpointed(number, caller, &path, &outcome),
            Then::Paused(number, caller) => self.paused(number, caller, &outcome),
            Then::Resumed(number, caller) => self.resumed(number, caller, &outcome),
            Then::Updated(number, caller) => self.updated(number, caller, &outcome),
            Then::Signalled(number, caller) => self.signalled(number, caller, &outcome),
            Then::Deleted(number) => self.removed(number, &outcome),
            Then::Abandoned(number, caller, refusal) => self.abandoned(number, caller, *refusal),
        }
    }

    /// Whether a process that nobody knows yet may appear.
    pub(super) fn awaits_pids(&self) -> bool {
        self.jobs.values().any(|job| matches!(job.then, Then::Launched(..) | Then::Restored(..)))
    }

    /// Whether the executor did its work; if not, why.
    pub(super) fn verdict(&self, number: Number, outcome: &Outcome) -> Result<(), Refusal> {
        let settings = self.container_of(number).map(|container| container.settings.clone());
        match settings {
            Some(settings) => Ok(executor_for(settings).interpret(outcome)?),
            None => Err(Refusal::NoContainer),
        }
    }
}
