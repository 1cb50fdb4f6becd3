//! Tasks: who owns an id, how a shim is started, found again after a restart, and given up.
//!
//! ```text
//!              reserve          start shim, Create            Delete, or the shim is lost
//!   (nothing) ────────► Creating ────────────────► Live ───────────────────────────► Leaving ──► (nothing)
//!                          │ fails: undone                        ▲                                ▲
//!                          └──────────────────────────────────────┼────────────────────────────────┘
//!                                             found after a restart
//! ```
//!
//! A task is a container's life in one shim process, which outlives this daemon. The daemon keeps nothing about it that it
//! cannot find again: the folder of the task (`bundle`) says where the shim listens, the shim says how the task is, and
//! a small record in the folder says whether its end was told to the clients.
//!
//! Nothing here mounts, opens images or talks to clients. Every wait on a shim has a limit ([`Timeouts`]); a shim that does not
//! answer is reported as such and holds up nobody but its own callers.

mod adopt;
mod bundle;
mod create;
mod end;
mod error;
mod launch;
mod log;
mod outbox;
mod probe;
mod process;
mod record;
mod registry;
mod runtime;
mod sandbox;
mod service;
mod settings;
mod shim;
mod task;
mod unmount;

pub use adopt::Recovery;
pub use create::CreateTask;
pub use error::{BundleError, LaunchError, RuntimeError, TaskError};
pub use sandbox::{CreateSandbox, SandboxError, Sandboxes};
pub use service::{LiveTask, Tasks};
pub use settings::{Settings, Timeouts};

#[cfg(test)]
mod tests;
