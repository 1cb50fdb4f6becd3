//! The shim under real daemons of others: Debian's containerd 1.6 as it is installed and 1.7 of the next Debian, with
//! their own `ctr`, and dockerd above it.
//!
//! Needs root; without it every test says so and passes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod ctr;
mod docker;
mod peer;
