//! The vocabulary every part of gantry shares.
//!
//! Everything here is memory only: no files, clocks, sockets or environment. A string that came from outside is checked
//! once, here, and travels as a type from then on.

pub mod capabilities;
pub mod digest;
pub mod error;
pub mod filter;
pub mod id;
pub mod journal;
pub mod labels;
pub mod mount;
pub mod mount_options;
pub mod platform;
pub mod reference;
pub mod snapshot;
pub mod task;

pub use digest::{Algorithm, Descriptor, Digest, Hasher};
pub use error::{Classify, Kind};
pub use id::{ContainerId, ExecId, Namespace};
pub use labels::Labels;
pub use mount::Mount;
