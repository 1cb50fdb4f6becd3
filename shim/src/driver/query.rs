//! Questions, which change nothing and never wait; but for `Wait`, which is nothing but waiting.

use model::task::Pid;

use super::process::{Container, Number};
use super::{Caller, Driver};
use crate::command::{Answer, ProcessState, Refusal, Target};

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
        let pids = container.cgroup.as_ref().ok_or(Refusal::NoCgroup)?.pids()?;
        let name = |pid: Pid| -> Option<String> {
            let number = self.pids.get(&pid)?;
            self.processes.get(number)?.target.exec.clone()
        };
        let pids = pids.into_iter().filter_map(|pid| Pid::try_from(pid).ok()).map(|pid| (pid, name(pid))).collect();
        Ok(Answer::Pids(pids))
    }

    pub(super) fn stats(&self, id: &str) -> Result<Answer, Refusal> {
        let container = self.container(id)?;
        Ok(Answer::Stats(container.cgroup.as_ref().ok_or(Refusal::NoCgroup)?.metrics()?))
    }

    pub(super) fn connect(&self, id: &str) -> Answer {
        // Asked before there is a container, too: the answer tells that the server is there.
        let init = self.containers.get(id).map(|container| container.init);
        let task = init.and_then(|init| self.processes.get(&init)).map_or(0, |process| process.pid);
        Answer::Connected { shim: std::process::id(), task }
    }
}
