//! Each service over a real socket: a whole daemon in a temporary folder, asked by a gRPC client.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod containers;
mod events;
mod health;
mod introspection;
mod life;
mod namespaces;
mod server;
