//! Each service over a real socket: a whole daemon in a temporary folder, asked by a gRPC client.

mod containers;
mod events;
mod health;
mod introspection;
mod life;
mod namespaces;
mod server;
