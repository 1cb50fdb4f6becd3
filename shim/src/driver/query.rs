//! Questions, which change nothing and never wait; but for `Wait`, which is nothing but waiting.

use executor::cgroup::CgroupError;
use model::task::Pid;

use super::process::{Container, Number};
use super::{Caller, Driver};
use crate::command::{Answer, ProcessState, Refusal, Target};
use crate::usage::{self, Usage};

impl Driver {
    /// The container of that id, once it was made.
    fn container(&self, id: &str) -> Result<&Container, Refusal> {
        self.containers.get(id).filter(|container| container.is_created).ok_or(Refusal::NoContainer)
    }

    pub(super) fn init_of(&self, id: &str) -> Result<Number, Refusal> {
        Ok(self.container(id)?.init)
    }

    /// The process that a client means.
    pub(super) fn find(&self, target: &Target) -> Result<Number, Refusal> {
        let container = self.container(&target.id)?;
        match &target.exec {
            None => Ok(container.init),
            Some(exec) => container.execs.get(exec).copied().ok_or_else(|| Refusal::NoProcess(exec.clone())),
        }
    }

    pub(super) fn state(&self, target: &Target) -> Result<Answer, Refusal> {
        let number = self.find(target)?;
        let container = self.container(&target.id)?;
        let process = self.processes.get(&number).ok_or(Refusal::NoContainer)?;
        Ok(Answer::State(Box::new(ProcessState {
            target: process.target.clone(),
            bundle: container.bundle.clone(),
            pid: process.pid,
            status: process.status(),
            streams: process.streams.clone(),
            exit: process.exit(),
        })))
    }

    pub(super) fn wait(&mut self, target: &Target, caller: Caller) -> Result<(), Refusal> {
        let number = self.find(target)?;
        let process = self.processes.get_mut(&number).ok_or(Refusal::NoContainer)?;
        match process.exit() {
            Some(exit) => {
                let answer = Answer::Exited { pid: process.pid, exit: Some(exit) };
                self.answer(caller, &answer);
            }
            None => process.waiters.push(caller),
        }
        Ok(())
    }

    pub(super) fn pids_of(&self, id: &str) -> Result<Answer, Refusal> {
        let container = self.container(id)?;
        let mut pids = match container.cgroup.as_ref().map(executor::cgroup::Cgroup::pids) {
            Some(Ok(pids)) => pids.into_iter().filter_map(|pid| Pid::try_from(pid).ok()).collect(),
            Some(Err(CgroupError::Gone { .. })) | None => self.tracked(container),
            Some(Err(error)) => return Err(error.into()),
        };
        // A containerd that comes back asks this first, and throws a container without processes away, with its exit. So the
        // init is counted until its exit is known.
        let exit_is_unknown = container.journal.as_ref().is_some_and(|journal| !journal.is_published());
        if pids.is_empty()
            && exit_is_unknown
            && let Some(init) = self.processes.get(&container.init)
        {
            pids.push(init.pid);
        }
        let name = |pid: Pid| -> Option<String> {
            let number = self.pids.get(&pid)?;
            self.processes.get(number)?.target.exec.clone()
        };
        Ok(Answer::Pids(pids.into_iter().map(|pid| (pid, name(pid))).collect()))
    }

    /// The processes of a container that this one has started and that have not ended.
    fn tracked(&self, container: &Container) -> Vec<Pid> {
        let numbers = container.execs.values().copied().chain([container.init]);
        let alive = numbers.filter_map(|number| self.processes.get(&number)).filter(|process| process.is_alive());
        alive.map(|process| process.pid).filter(|pid| *pid != 0).collect()
    }

    pub(super) fn stats(&self, id: &str) -> Result<Answer, Refusal> {
        Ok(Answer::Stats(Box::new(self.usage(id)?)))
    }

    pub(super) fn usage(&self, id: &str) -> Result<Usage, Refusal> {
        let container = self.container(id)?;
        let cgroup = container.cgroup.as_ref().ok_or(Refusal::NoCgroup)?;
        let init = self.processes.get(&container.init).filter(|init| init.is_alive()).map(|init| init.pid);
        Ok(usage::read(cgroup, init)?)
    }

    pub(super) fn connect(&self, id: &str) -> Answer {
        // Asked before there is a container, too: the answer tells that the server is there.
        let init = self.containers.get(id).map(|container| container.init);
        let task = init.and_then(|init| self.processes.get(&init)).map_or(0, |process| process.pid);
        Answer::Connected { shim: std::process::id(), task }
    }
}
