//! Pods: what containers share, held by a first process that does nothing.
//!
//! ```text
//!   run:   name ─► record (Making) ─► { network namespace ─► plugins } { image ─► root filesystem } ─► files ─► task ─► record (Running)
//!   stop:  containers ─► task ─► plugins, namespace ─► record (Stopped)
//!   end:   the first process ended by itself: Stopped, its network stays until the pod is stopped
//!   remove: stop ─► record (Removing) ─► containers ─► root filesystem, files ─► record gone ─► name
//! ```
//!
//! The record comes first and says all that is needed to undo the rest, so whatever is interrupted, by a failure, by a client that goes
//! away or by the end of the daemon, is undone by the same function ([`undo`]). Making a pod runs on its own, not in the client's
//! request; a request that ends tells it to stop.

mod files;
mod list;
mod resources;
mod run;
mod spec;
mod stop;
mod undo;

pub use files::Files;
pub use spec::cgroups_path;
