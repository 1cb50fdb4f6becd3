//! Images through the transfer service: a whole daemon in a temporary folder, real registries and hostile ones.

#![allow(clippy::unwrap_used, clippy::type_complexity, unreachable_pub, reason = "helpers of tests are tests")]

mod archives;
mod auth;
mod client;
mod fake;
mod faults;
mod fixtures;
mod hosts;
mod lazy;
mod operations;
mod parts;
mod policy;
mod proxy;
mod pull;
mod push;
mod registry;
#[path = "../services/server.rs"]
#[allow(dead_code, reason = "shared with the tests of services")]
mod server;
mod streams;
mod tls;
mod trixie;
mod umoci;
