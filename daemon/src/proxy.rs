//! Plugins that are processes of their own and serve a part of the daemon over a socket: `[proxy_plugins]`.
//!
//! A plugin may start after the daemon and may be started again: the connection is made when it is needed, and a plugin that is
//! not there makes a call fail with `Unavailable`, nothing else. Every call has a deadline. It must not know what a plugin does.

mod snapshots;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use model::platform::Platform;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

pub use snapshots::Snapshots;

/// How long a plugin may take to accept a connection.
const CONNECT_TIME: Duration = Duration::from_secs(10);

/// What a plugin stands in for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A snapshotter.
    Snapshot,
    /// A content store.
    Content,
    /// A differ.
    Diff,
    /// A controller of sandboxes.
    Sandbox,
}

impl Kind {
    /// Its name in the configuration.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "snapshot" => Self::Snapshot,
            "content" => Self::Content,
            "diff" => Self::Diff,
            "sandbox" => Self::Sandbox,
            _ => return None,
        })
    }

    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Content => "content",
            Self::Diff => "diff",
            Self::Sandbox => "sandbox",
        }
    }

    /// The type of its row for clients.
    pub fn plugin_type(self) -> &'static str {
        match self {
            Self::Snapshot => "io.containerd.snapshotter.v1",
            Self::Content => "io.containerd.content.v1",
            Self::Diff => "io.containerd.differ.v1",
            Self::Sandbox => "io.containerd.sandbox.controller.v1",
        }
    }

    /// Why such a plugin is not used, if it is not.
    pub fn refusal(self) -> Option<&'static str> {
        match self {
            Self::Snapshot => None,
            Self::Content => Some("content is kept by the daemon itself; proxies of type content are not used"),
            Self::Diff => Some("layers are applied and made by the daemon itself; proxies of type diff are not used"),
            Self::Sandbox => Some("proxies of type sandbox are not used by this version"),
        }
    }
}

/// A plugin, as it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plugin {
    /// What it stands in for.
    pub kind: Kind,
    /// Its socket.
    pub address: PathBuf,
    /// The platform it works for; the one of this machine if none is given.
    pub platform: Option<Platform>,
    /// Facts for clients.
    pub exports: BTreeMap<String, String>,
    /// What it can do beyond the basics.
    pub capabilities: Vec<String>,
}

/// A connection to the plugin at `address`, made when it is first needed and again when it broke. Call it inside a runtime.
pub fn connect(address: &Path) -> Channel {
    let path = address.to_owned();
    // The name is never looked up: the connector dials the socket.
    Endpoint::from_static("http://plugin.invalid").connect_timeout(CONNECT_TIME).connect_with_connector_lazy(
        tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        }),
    )
}

#[cfg(test)]
mod tests;
