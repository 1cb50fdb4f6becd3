//! The real program, driven over its socket as a daemon does, with containers that really run.
//!
//! Needs root; without it every test says so and passes. Each runs with the built-in executor and, where it is installed,
//! with runc.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod client;
mod daemon;
mod machine;

mod bounds;
mod checkpoint;
mod cleanup;
mod execs;
mod life;
mod logs;
mod mounts;
mod options;
mod order;
mod random;
mod refusals;
mod sandbox;
mod streams;
