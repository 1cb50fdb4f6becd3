//! Garbage collection: finds what nothing holds ([`mark`], pure), then removes it.
//!
//! ```text
//!   delete ──► notice ──► [scheduler] ──► read all records at once ──► mark ──► remove records ──► remove files
//!                             ▲                      others go on working, and say what they touch
//!                             └── sync deletes wait here for a whole run
//! ```

pub mod labels;
pub mod mark;
pub mod node;
