//! One plugin: how it is started, how it registers, and how it is called.
//!
//! ```text
//!   started, or connected ──► RegisterPlugin ──► Configure ──► Synchronize ──► hears of what it subscribed to
//!         │                        │ late          │ fails        │ fails            │ does not answer, or leaves
//!         └────────────────────────┴───────────────┴──────────────┴──────────────────┴──► gone
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use model::error::Kind;
use proto::nri as wire;
use proto::prost::Message;
use proto::status;
use proto::ttrpc::{Request, Response};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::mux;
use crate::cri::Cri;
use crate::ttrpc::{CallError, Client, Server, Service};

/// What the runtime calls.
const PLUGIN_SERVICE: &str = "nri.pkg.api.v1alpha1.Plugin";
/// What plugins call.
const RUNTIME_SERVICE: &str = "nri.pkg.api.v1alpha1.Runtime";
/// All events there are.
const ALL_EVENTS: i32 = (1 << (wire::Event::Last as i32 - 1)) - 1;
/// Connects the descriptor on which a started plugin finds its socket, as the plugins' library expects it.
const START: &str = r#"exec "$0" 3<&0 </dev/null"#;

/// A plugin that was configured.
#[derive(Debug)]
pub(super) struct Plugin {
    /// Its name, as it gave it, or as its file is called.
    pub name: String,
    /// Two digits: plugins are called in the order of these.
    pub index: String,
    events: AtomicI32,
    client: Client,
    limit: Duration,
    _stop: DropGuard,
}

impl Plugin {
    /// What it is called in messages.
    pub(super) fn full_name(&self) -> String {
        format!("{}-{}", self.index, self.name)
    }

    /// Whether it wants to hear of `event`.
    pub(super) fn hears(&self, event: wire::Event) -> bool {
        self.events.load(Ordering::Relaxed) & 1 << (event as i32 - 1) != 0
    }

    /// Calls it.
    ///
    /// # Errors
    /// It refused, or it does not answer; see [`is_lost`].
    pub(super) async fn call<R: Message + Default>(
        &self,
        method: &str,
        message: &impl Message,
    ) -> Result<R, CallError> {
        let request = Request::new(PLUGIN_SERVICE, method, message).within(self.limit);
        self.client.call(&request).await
    }

    /// Ends its connection.
    pub(super) fn close(&self) {
        self.client.close();
    }

    /// Cancelled once it has gone.
    pub(super) fn gone(&self) -> CancellationToken {
        self.client.closed_token()
    }
}

/// Whether after this error nothing more is to be expected of a plugin.
pub(super) fn is_lost(error: &CallError) -> bool {
    !matches!(error, CallError::Failed(_) | CallError::TooLong(_))
}

/// Who a plugin says it is.
type Name = (String, String);

/// What a plugin can call.
struct Runtime {
    cri: Cri,
    registered: Mutex<Option<oneshot::Sender<Name>>>,
}

impl Service for Runtime {
    async fn call(&self, request: Request) -> Response {
        if request.service != RUNTIME_SERVICE {
            return Response::unimplemented(&request.service, &request.method);
        }
        match request.method.as_str() {
            "RegisterPlugin" => self.register(&request),
            "UpdateContainers" => match request.message::<wire::UpdateContainersRequest>() {
                Ok(wire::UpdateContainersRequest { update, evict }) => {
                    let failed = self.cri.update_for_plugin(update, evict).await;
                    Response::ok(&wire::UpdateContainersResponse { failed })
                }
                Err(error) => undecodable(&error),
            },
            _ => Response::unimplemented(&request.service, &request.method),
        }
    }
}

impl Runtime {
    fn register(&self, request: &Request) -> Response {
        let message = match request.message::<wire::RegisterPluginRequest>() {
            Ok(message) => message,
            Err(error) => return undecodable(&error),
        };
        let registered = self.registered.lock().expect("nobody panics with it held").take();
        match registered.map(|registered| registered.send((message.plugin_name, message.plugin_idx))) {
            Some(Ok(())) => Response::ok(&wire::Empty {}),
            Some(Err(_)) | None => {
                let why = "the plugin is registered already, or took too long";
                Response::failed(status::new(Kind::FailedPrecondition, why.to_owned()))
            }
        }
    }
}

fn undecodable(error: &proto::prost::DecodeError) -> Response {
    Response::failed(status::new(Kind::InvalidArgument, format!("cannot decode the request: {error}")))
}

/// Why a plugin is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum PluginError {
    #[error("cannot start it")]
    Start(#[source] io::Error),
    #[error("cannot set its connection up")]
    Connection(#[source] io::Error),
    #[error("it did not register within {0:?}")]
    Silent(Duration),
    #[error("it calls itself {name:?} with index {index:?}: a name and two digits are needed")]
    Name { name: String, index: String },
    #[error("it does not take its configuration")]
    Configure(#[source] CallError),
    #[error("it subscribes to events that there are not: {0:#x}")]
    Events(i32),
    #[error("it cannot be told of the pods and containers there are")]
    Synchronize(#[source] CallError),
}

/// A plugin's file, by whose name it is called: `10-name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Installed {
    pub path: PathBuf,
    pub name: String,
    pub index: String,
}

/// The plugins in a folder, in order. A folder that is not there has none.
pub(super) fn installed(folder: &Path) -> Vec<Installed> {
    use std::os::unix::fs::PermissionsExt as _;
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut all: Vec<_> = entries
        .filter(|entry| {
            std::fs::metadata(entry.path()).is_ok_and(|of| of.is_file() && of.permissions().mode() & 0o111 != 0)
        })
        .filter_map(|entry| {
            let file = entry.file_name().into_string().ok()?;
            let (index, name) = file.split_once('-')?;
            let found = Installed { path: entry.path(), name: name.to_owned(), index: index.to_owned() };
            is_index(index).then_some(found)
        })
        .collect();
    all.sort_by(|one, other| (&one.index, &one.name).cmp(&(&other.index, &other.name)));
    all
}

fn is_index(text: &str) -> bool {
    text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Starts an installed plugin; gives our end of its socket. The process is waited for in the background.
fn start(installed: &Installed, tracker: &TaskTracker, gone: CancellationToken) -> io::Result<UnixStream> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let mut child = tokio::process::Command::new("/bin/sh")
        .args(["-c", START])
        .arg(&installed.path)
        .env("NRI_PLUGIN_NAME", &installed.name)
        .env("NRI_PLUGIN_IDX", &installed.index)
        .env("NRI_PLUGIN_SOCKET", "3")
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
        .kill_on_drop(true)
        .spawn()?;
    let name = installed.name.clone();
    tracker.spawn(async move {
        tokio::select! {
            ended = child.wait() => info!(plugin = name, status = ?ended.ok(), "NRI plugin ended"),
            // Its connection is over: it has nothing more to do here.
            () = gone.cancelled() => drop(child.kill().await),
        }
    });
    UnixStream::from_std(ours)
}

impl Cri {
    /// Starts an installed plugin and makes it part of all that follows.
    pub(super) async fn start_plugin(&self, installed: &Installed) -> Result<(), PluginError> {
        let gone = CancellationToken::new();
        let trunk = start(installed, &self.inner.tracker, gone.clone()).map_err(PluginError::Start)?;
        let known = Some((installed.name.clone(), installed.index.clone()));
        let plugin = self.take_in(trunk, known, gone.clone()).await;
        if plugin.is_err() {
            gone.cancel();
        }
        plugin
    }

    /// Makes the plugin at the other end of `trunk` part of all that follows. `gone` is cancelled when it has left.
    pub(super) async fn take_in(
        &self,
        trunk: UnixStream,
        known: Option<Name>,
        gone: CancellationToken,
    ) -> Result<(), PluginError> {
        let settings = &self.inner.settings.nri;
        let stop = self.inner.stop.child_token();
        let mux::Ends { plugin, runtime } =
            mux::split(trunk, &self.inner.tracker, &stop).map_err(PluginError::Connection)?;
        let client = Client::over(plugin, &self.inner.tracker);
        let (registered, registration) = oneshot::channel();
        let service = Runtime { cri: self.clone(), registered: Mutex::new(Some(registered)) };
        Server::new(service, self.inner.tracker.clone(), stop.clone()).serve_one(runtime);
        let guard = stop.drop_guard();
        let silent = PluginError::Silent(settings.registration_timeout);
        let Ok(Ok(said)) = tokio::time::timeout(settings.registration_timeout, registration).await else {
            return Err(silent);
        };
        let (name, index) = known.unwrap_or(said);
        if name.is_empty() || !is_index(&index) {
            return Err(PluginError::Name { name, index });
        }
        let plugin =
            Plugin { name, index, events: AtomicI32::new(0), client, limit: settings.request_timeout, _stop: guard };
        self.configure(&plugin).await?;
        self.join(plugin, gone).await.map_err(PluginError::Synchronize)
    }

    async fn configure(&self, plugin: &Plugin) -> Result<(), PluginError> {
        let settings = &self.inner.settings.nri;
        let milliseconds = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let request = wire::ConfigureRequest {
            config: configuration(&settings.plugin_config_path, &plugin.index, &plugin.name),
            runtime_name: "containerd".to_owned(),
            runtime_version: crate::api::version::VERSION.to_owned(),
            registration_timeout: milliseconds(settings.registration_timeout),
            request_timeout: milliseconds(settings.request_timeout),
            nri_version: String::new(),
        };
        let answer: wire::ConfigureResponse =
            plugin.call("Configure", &request).await.map_err(PluginError::Configure)?;
        let events = if answer.events == 0 { ALL_EVENTS } else { answer.events };
        if events & !ALL_EVENTS != 0 {
            return Err(PluginError::Events(events));
        }
        plugin.events.store(events, Ordering::Relaxed);
        Ok(())
    }
}

/// The text of a plugin's configuration; empty if it has none.
fn configuration(folder: &Path, index: &str, name: &str) -> String {
    for file in [format!("{index}-{name}.conf"), format!("{name}.conf")] {
        match std::fs::read_to_string(folder.join(&file)) {
            Ok(text) => return text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => warn!(file, %error, "the configuration of an NRI plugin cannot be read"),
        }
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installed_plugins_are_programs_with_two_digits() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        for (name, mode) in [("20-b", 0o755), ("10-a-c", 0o755), ("x-y", 0o755), ("30-text", 0o644), ("1-z", 0o755)] {
            std::fs::write(folder.path().join(name), "").unwrap();
            std::fs::set_permissions(folder.path().join(name), std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let found = installed(folder.path());
        let names: Vec<_> = found.iter().map(|one| (one.index.as_str(), one.name.as_str())).collect();
        assert_eq!(names, [("10", "a-c"), ("20", "b")]);
        assert_eq!(installed(Path::new("/nonexistent")), []);
    }
}
