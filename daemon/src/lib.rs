//! gantryd: the supervisor that serves containerd's API.
//!
//! [`app`] wires the parts together and runs them; [`config`] says with which values. A request enters through [`api`],
//! which decodes it, calls one of the parts ([`meta`], [`tasks`], [`events`], [`gc`]) and encodes the answer. Nothing here
//! mounts, forks without executing, or knows how the store keeps its tables.

pub mod api;
pub mod app;
pub mod args;
pub mod blocking;
pub mod checkpoints;
pub mod config;
pub mod containers;
pub mod cri;
pub mod doctor;
pub mod events;
pub mod gc;
pub mod home;
pub mod images;
pub mod journal;
pub mod limits;
pub mod meta;
pub mod metrics;
pub mod migrate;
pub mod mounts;
pub mod namespaces;
pub mod plugins;
pub mod proxy;
pub mod publish;
pub mod restart;
pub mod sandboxes;
pub mod serve;
pub mod settings;
pub mod signals;
pub mod socket;
pub mod streaming;
pub mod tasks;
pub mod ttrpc;
