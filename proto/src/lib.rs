//! The wire: what clients, shims and plugins say to gantry and hear from it.
//!
//! It owns containerd's contract as Rust types (generated from the `.proto` files beside this folder), the frames of ttrpc,
//! and every conversion between wire and [`model`]. It decides nothing, does no I/O and keeps no state.
//!
//! Without the feature `grpc` there are only messages and the ttrpc codec, which is all a shim needs; with it there are
//! servers (`*_server`) and clients (`*_client`) in the module of each service as well.

#[expect(missing_docs, reason = "generated; what is worth saying is said in the .proto files")]
#[allow(clippy::all, clippy::unwrap_used, unreachable_pub, reason = "generated")]
#[allow(rustdoc::all, reason = "comments of .proto files are not Markdown")]
mod wire {
    include!(concat!(env!("OUT_DIR"), "/wire.rs"));
}

pub mod any;
pub mod convert;
pub mod status;
pub mod ttrpc;

pub use prost;
pub use prost::bytes;
pub use prost_types;
pub use wire::{google, grpc, runtimeoptions};

/// What gantry's own programs say to each other.
pub use wire::gantry;

/// Figures about cgroups, one module per version of cgroups.
pub use wire::io::containerd::cgroups;

/// The node resource interface: plugins of Kubernetes nodes.
pub use wire::nri::pkg::api::v1alpha1 as nri;

/// The Kubernetes container runtime interface, v1.
pub use wire::runtime::v1 as cri;

/// Everything of containerd, in modules named as its packages.
pub mod containerd {
    pub use crate::wire::containerd::{events, runc, runtime, services, types, v1};

    /// The service of a shim. Both versions have the same messages under another package name.
    pub mod task {
        pub use crate::wire::containerd::task::v3;
        /// The same messages as [`v3`]; only the name of the service differs.
        pub use crate::wire::containerd::task::v3 as v2;
    }
}

/// Options and answers of `shim start`.
pub use containerd::runtime::bootstrap::v1 as bootstrap;
/// The sandbox service of a shim.
pub use containerd::runtime::sandbox::v1 as sandbox;
/// States and lists of processes, shared by the services of tasks and of shims.
pub use containerd::v1::types as process;
pub use containerd::{events, runc, services, task, types};

/// Full names of the services that are spoken over ttrpc.
pub mod service {
    /// The task service as shims up to 1.7 have it.
    pub const TASK_V2: &str = "containerd.task.v2.Task";
    /// The task service as shims from 2.0 on have it.
    pub const TASK_V3: &str = "containerd.task.v3.Task";
    /// Where shims send their events.
    pub const EVENTS: &str = "containerd.services.events.ttrpc.v1.Events";
    /// The sandbox service of a shim.
    pub const SANDBOX: &str = "containerd.runtime.sandbox.v1.Sandbox";
    /// Logs and live streams of a task, by gantry's own shim.
    pub const LOGS: &str = "gantry.shim.v1.Logs";
}
