//! Wire ⇄ model, one file per noun.
//!
//! What always succeeds is a `From`, what may be refused a `TryFrom` with its own error. Nothing here opens files, asks
//! the clock or fills in defaults that the sender did not mean.

pub mod descriptor;
pub mod mount;
pub mod platform;
pub mod snapshot;
pub mod task;
pub mod time;
