//! Garbage collection: finds what nothing holds ([`mod@mark`], pure), then removes it ([`sweep`]).
//!
//! ```text
//!   delete ──► trigger ──► schedule ──► read all records ──► mark ──► remove records ──► remove files
//!                             ▲           others go on working, and say what they touch
//!                             └── sync deletes wait here for a whole run
//! ```

mod files;
pub mod labels;
pub mod mark;
pub mod node;
pub mod schedule;
pub mod sweep;
