//! The gRPC services: one file per service, one short method per call.
//!
//! A method decodes, calls one part of the daemon and encodes; it decides nothing. What all methods have in common is in
//! [`call`]: the namespace and the lease of a request, and the way a failure becomes a status. Rules of update masks
//! are in [`fields`].

pub mod call;
pub mod containers;
pub mod content;
pub mod diff;
pub mod doctor;
pub mod events;
pub mod fields;
pub mod health;
pub mod images;
pub mod introspection;
pub mod journal;
pub mod layers;
pub mod leases;
pub mod namespaces;
pub mod operations;
pub mod sandboxes;
pub mod snapshots;
pub mod streaming;
pub mod tasks;
pub mod transfer;
pub mod version;

pub use call::{Failure, Reply, Scope, bidirectional, scope_of, server_stream, unary, unscoped};
