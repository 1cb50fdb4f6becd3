//! Saving a container to files, and starting one from such files. CRIU does the work, by way of the executor.
//!
//! ```text
//!  Checkpoint: executor checkpoint ─► TaskCheckpointed, answer             with `exit`, the container's end is seen as any other
//!  Create:     mounts, streams ─► TaskCreate, answer (pid 0)               nothing runs, nothing waits: there is no process
//!  Start:      executor restore ─► pid, terminal, journal ─► TaskStart, answer
//! ```

use std::path::{Path, PathBuf};

use executor::{Checkpoint, Create, CriuOptions, Outcome, Restore, executor_for};
use model::task::State;
use proto::events::TaskCheckpointed;

use super::jobs::Then;
use super::process::{Number, Phase};
use super::{Caller, Driver, INIT_PID_FILE};
use crate::command::{CheckpointTask, Refusal};
use crate::events::Event;
use crate::log;

/// Where CRIU keeps its own files if the client does not say.
const WORK_DIR: &str = "criu-work";
/// CRIU's log of saving, in its folder.
const DUMP_LOG: &str = "dump.log";
/// What is kept of it, in the bundle.
const KEPT_LOG: &str = "criu-dump.log";

impl Driver {
    pub(super) fn checkpoint(&mut self, request: CheckpointTask, caller: Caller) -> Result<(), Refusal> {
        let init = self.init_of(&request.id)?;
        let Some((container, process)) = self.both(init) else { return Err(Refusal::NoContainer) };
        if !matches!(process.phase, Phase::Live(State::Running { .. } | State::Paused { .. })) {
            return Err(process.forbids("checkpoint"));
        }
        let options = request.options;
        let named = |path: &str| Some(PathBuf::from(path)).filter(|path| !path.as_os_str().is_empty());
        let work = named(&options.work_path).unwrap_or_else(|| container.bundle.join(WORK_DIR));
        for folder in [&request.path, &work] {
            std::fs::create_dir_all(folder)
                .map_err(|source| Refusal::Io { what: "make the folder of the checkpoint", source })?;
        }
        let checkpoint = Checkpoint {
            id: request.id,
            image_path: request.path.clone(),
            work_path: Some(work),
            parent_path: named(&options.parent_path),
            leave_running: !options.exit,
            options: CriuOptions {
                open_tcp: options.open_tcp,
                external_unix_sockets: options.external_unix_sockets,
                terminal: options.terminal,
                file_locks: options.file_locks,
                lazy_pages: false,
                empty_namespaces: options.empty_namespaces,
                cgroups_mode: options.cgroups_mode,
            },
        };
        let invocation = executor_for(container.settings.clone()).checkpoint(&checkpoint)?;
        self.run_job(&invocation, Default::default(), Then::Checkpointed(init, caller, request.path))?;
        self.set_changing(init);
        Ok(())
    }

    pub(super) fn checkpointed(&mut self, init: Number, caller: Caller, path: &Path, outcome: &Outcome) {
        let verdict = self.verdict(init, outcome);
        let Some((container, _)) = self.both(init) else { return };
        let work = container.bundle.join(WORK_DIR);
        let kept = container.bundle.join(KEPT_LOG);
        let verdict = verdict.map_err(|source| {
            if std::fs::copy(work.join(DUMP_LOG), &kept).is_err() {
                return source;
            }
            Refusal::Checkpoint { log: kept, source: Box::new(source) }
        });
        // Not there when the client has named another.
        let _ = std::fs::remove_dir_all(&work);
        let checkpoint = path.display().to_string();
        self.changed(init, caller, verdict, |container_id| {
            Event::Checkpointed(TaskCheckpointed { container_id, checkpoint })
        });
    }

    /// Starts a container from its checkpoint.
    pub(super) fn restore(&mut self, number: Number, caller: Caller) -> Result<(), Refusal> {
        let Some((container, process)) = self.both(number) else { return Err(Refusal::NoContainer) };
        let (Some(from), Some(launch)) = (container.restore.clone(), process.launch.take()) else {
            return Err(process.forbids("restore"));
        };
        let work = from.work.unwrap_or_else(|| container.bundle.clone());
        let restore = Restore {
            create: Create {
                id: process.target.id.clone(),
                bundle: container.bundle.clone(),
                pid_file: container.bundle.join(INIT_PID_FILE),
                console_socket: process.stdio.console_socket(),
            },
            image_path: from.images,
            work_path: Some(work),
            options: CriuOptions { terminal: process.streams.terminal, ..CriuOptions::default() },
        };
        process.is_starting = true;
        container.is_changing = true;
        let invocation = executor_for(container.settings.clone()).restore(&restore);
        let begun = invocation
            .map_err(Refusal::from)
            .and_then(|invocation| self.run_job(&invocation, launch.ends.as_fds(), Then::Restored(number, caller)));
        // Kept for another try; a process that has its ends must not see ours.
        if begun.is_err() {
            if let Some(process) = self.processes.get_mut(&number) {
                process.launch = Some(launch);
            }
            self.start_done(number);
        }
        begun
    }

    pub(super) fn restored(&mut self, number: Number, caller: Caller, outcome: &Outcome) {
        let restored = self.verdict(number, outcome).and_then(|()| self.take_over(number));
        match restored {
            Ok(()) => {
                let pid = self.processes.get(&number).map_or(0, |process| process.pid);
                self.found(number, pid);
                self.runs(number, caller);
            }
            Err(refusal) => {
                log::warning!("going on from a checkpoint has failed");
                self.refuse(caller, &refusal);
            }
        }
        self.start_done(number);
    }
}
