//! Pods and containers through the generated client, as a kubelet asks for them: one file for each subject.

mod container;
mod events;
mod images;
mod input;
mod logs;
mod many;
mod network;
mod node;
mod pods;
mod recovery;
mod rig;
mod security;
mod stats;
mod streaming;
