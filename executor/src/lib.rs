//! Running containers: external OCI runtimes (runc, crun, youki) and the built-in one, behind one trait.
//!
//! The caller is the shim: one thread, one epoll loop, never blocked by a runtime. So nothing here waits for a
//! runtime. An [`Executor`] only *describes* a command line ([`Invocation`]) and *reads* its result ([`Outcome`]);
//! the shim starts the process with [`spawn()`], waits for it in its own loop and hands back how it ended:
//!
//! ```text
//! executor.create(&create) ─► Invocation ─► spawn(&invocation, stdio) ─► Running { pid }
//!                                                                          ┊ (the shim's loop: SIGCHLD, deadline)
//! executor.interpret(&outcome) ◄─ Outcome ◄─ running.finish(ended) ◄───────┘
//! ```
//!
//! The built-in executor has the same shape: its invocation is our own program (`/proc/self/exe runtime …`), so a
//! container set-up never runs in the shim's memory.
//!
//! This crate must not: keep task states (the caller has those), touch the network or the store, use threads.

pub mod builtin;
pub mod cgroup;
#[cfg(feature = "contract")]
pub mod contract;
mod criu;
mod error;
mod external;
mod invocation;
mod process;
pub mod seccomp;
mod settings;
mod spawn;
pub mod sys;

pub use criu::{CRIU, Checkpoint, CriuOptions, Restore};
pub use error::ExecutorError;
pub use external::External;
pub use invocation::{Create, Exec, Invocation, Verb};
pub use process::ProcessId;
pub use settings::{Runtime, Settings};
pub use spawn::{Ended, MAX_LOG, MAX_OUTPUT, Outcome, Running, StdioFds, spawn};

/// One way to run OCI containers.
///
/// # Contract
///
/// * A method that returns a bare [`Invocation`] does no I/O and cannot fail; problems show when it is spawned or ends.
/// * `create` leaves a process that waits. Its pid is in the pid file before the runtime process ends with 0; it is a
///   child of the nearest subreaper, has inherited the three stdio descriptors given to [`spawn()`] and no other, and
///   runs nothing of the user until `start`.
/// * `start` ends with 0 once the user's program has been executed, or fails with the reason. An exit of the program
///   right afterwards is not a failure of `start`.
/// * `exec` (detached) ends with 0 once the program was executed; its pid is in the pid file, its parent is the subreaper.
/// * `kill` with `all` signals every process of the container, also when its init is gone. Without, the init only.
///   A created container may be killed. A stopped one gives [`ExecutorError::NotFound`].
/// * `delete` of a running container is refused unless `force`. Of an unknown one: [`ExecutorError::NotFound`].
/// * `checkpoint` ends with 0 once all is saved; the init has ended by then unless `leave_running`. `restore` stands in
///   place of `create` and `start`: as after `create` the pid is in the pid file and the process is the subreaper's.
///   Both tell before anything is started when the executor cannot do them, or when CRIU is missing.
/// * Errors keep the runtime's own words: clients match on them.
pub trait Executor {
    /// Sets a container up: namespaces, cgroup, mounts. Its init waits for [`start`](Self::start).
    fn create(&self, create: &Create) -> Invocation;
    /// Lets the init of a created container execute the user's program.
    fn start(&self, id: &str) -> Invocation;
    /// Sends `signal` (a number) to the init, or with `all` to every process of the container.
    fn kill(&self, id: &str, signal: i32, all: bool) -> Invocation;
    /// Removes what `create` made; with `force` it kills first.
    fn delete(&self, id: &str, force: bool) -> Invocation;
    /// Executes one more process in a running container.
    fn exec(&self, exec: &Exec) -> Invocation;
    /// Freezes all processes.
    fn pause(&self, id: &str) -> Invocation;
    /// Thaws them.
    fn resume(&self, id: &str) -> Invocation;
    /// Changes limits; `resources` is the JSON of the OCI `LinuxResources`.
    fn update(&self, id: &str, resources: Vec<u8>) -> Invocation;
    /// Lists the host pids of the container, see [`Outcome::pids`].
    fn ps(&self, id: &str) -> Invocation;
    /// The OCI state, as JSON in [`Outcome::stdout`].
    fn state(&self, id: &str) -> Invocation;
    /// The OCI features document, as JSON in [`Outcome::stdout`].
    fn features(&self) -> Invocation;
    /// Saves a running container to files.
    ///
    /// # Errors
    ///
    /// [`ExecutorError::Unsupported`] (the built-in executor) or [`ExecutorError::NoCriu`].
    fn checkpoint(&self, checkpoint: &Checkpoint) -> Result<Invocation, ExecutorError>;
    /// Makes a container that goes on where a saved one stopped.
    ///
    /// # Errors
    ///
    /// As [`checkpoint`](Self::checkpoint).
    fn restore(&self, restore: &Restore) -> Result<Invocation, ExecutorError>;
    /// Decides whether an ended invocation did its work.
    ///
    /// # Errors
    ///
    /// What the runtime said, word for word, classified (see [`ExecutorError`]).
    fn interpret(&self, outcome: &Outcome) -> Result<(), ExecutorError> {
        error::interpret(outcome)
    }
}

/// The executor that `settings` ask for.
pub fn executor_for(settings: Settings) -> Box<dyn Executor> {
    Box::new(External::new(settings))
}
