//! Starting a shim, until it listens.
//!
//! ```text
//!  gantry-shim:  we listen, write bootstrap.json, start it with our socket            one process start
//!  any other:    `shim … start` starts the server itself and prints its address       two
//!  a group:      the same with every shim; it prints the address of the group's shim if there is one
//! ```
//!
//! Either way the shim is in a session of its own, gets nothing of ours but what is meant for it, and outlives us.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use model::{Digest, Namespace};
use nix::fcntl::OFlag;
use proto::bootstrap::{BootstrapParams, BootstrapResult, Extension, LogLevel};
use proto::prost::Message;
use proto::prost_types::Any;
use proto::task::v3::DeleteResponse;
use proto::types::RuntimeInfo;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::bundle::Bundle;
use super::error::{LaunchError, RuntimeError};
use super::log::LOG_FILE;
use super::probe::{Probe, StdinForm};
use super::process::{self, Ended, ProcessRef, printable};
use super::record::{Bootstrap, socket_of};
use super::registry::Key;
use super::runtime::{Runtime, RuntimeKind};
use super::settings::Settings;
use super::shim::{NEWEST_VERSION, OLDEST_VERSION, Shim};
use crate::blocking;
use crate::limits;
use crate::ttrpc::Client;

/// Tells gantry-shim under which number it finds the socket that it is to serve.
const LISTEN_FD_VARIABLE: &str = "GANTRY_SHIM_LISTEN_FD";

/// The longest path a socket can have, less its end, as containerd counts it.
const MAX_SOCKET_PATH_BYTES: usize = 106;

/// The spec in the bundle.
const CONFIG_FILE: &str = "config.json";

/// The annotations that put a container into a group (containerd's contract).
const GROUP_ANNOTATIONS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];

/// How long connecting to a shim that said it listens may take.
const CONNECT_TIME: Duration = Duration::from_secs(10);

/// The version of containerd that newer shims are told; they have no use for it yet.
const PEER_VERSION: &str = "2.3.0";

/// Starts shims and runs their other commands.
#[derive(Debug)]
pub(super) struct Launcher {
    settings: Arc<Settings>,
    probe: Probe,
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Launcher {
    /// A launcher whose connections and children are watched on `tracker`.
    pub(super) fn new(settings: Arc<Settings>, tracker: TaskTracker, stop: CancellationToken) -> Self {
        Self { settings, probe: Probe::default(), tracker, stop }
    }

    /// Starts a shim in a bundle that was made for it.
    ///
    /// # Errors
    /// No shim listens. If one was started nevertheless, the `delete` command and the bundle's removal take care of it.
    pub(super) async fn launch(
        &self,
        key: &Key,
        bundle: &Bundle,
        runtime: &Runtime,
        options: Option<&Any>,
    ) -> Result<Shim, LaunchError> {
        let (bootstrap, process) = match runtime.kind {
            RuntimeKind::Gantry if !is_in_group(&bundle.path).await => {
                self.start_with_socket(key, bundle, runtime).await?
            }
            RuntimeKind::Gantry | RuntimeKind::Foreign => {
                (self.start_by_command(key, bundle, runtime, options).await?, None)
            }
        };
        let connected = self.connect(&key.namespace, &bootstrap, CONNECT_TIME).await;
        if let Some(process) = process {
            match &connected {
                Ok(shim) => shim.is_process(process),
                Err(_) => process.kill(),
            }
        }
        connected
    }

    /// Connects to a shim that runs.
    ///
    /// # Errors
    /// Nobody listens there, or it speaks something else.
    pub(super) async fn connect(
        &self,
        namespace: &Namespace,
        bootstrap: &Bootstrap,
        limit: Duration,
    ) -> Result<Shim, LaunchError> {
        let Bootstrap { version, protocol, address } = bootstrap;
        if !(OLDEST_VERSION..=NEWEST_VERSION).contains(version) || protocol != "ttrpc" {
            return Err(LaunchError::Foreign { version: *version, protocol: protocol.clone() });
        }
        let Some(path) = socket_of(address) else {
            return Err(LaunchError::Connect { path: address.into(), source: io::ErrorKind::InvalidInput.into() });
        };
        match Client::connect(&path, limit, &self.tracker).await {
            Ok(client) => Ok(Shim::new(client, namespace.clone(), *version, path)),
            Err(source) => Err(LaunchError::Connect { path, source }),
        }
    }

    /// Cleans up behind a shim that is dead, by its own `delete` command.
    ///
    /// # Errors
    /// The command failed; its output says why.
    pub(super) async fn delete(
        &self,
        key: &Key,
        bundle: &Bundle,
        binary: &Path,
    ) -> Result<DeleteResponse, LaunchError> {
        let mut command = self.command(key, binary);
        command.arg("-bundle").arg(&bundle.path).arg("delete").current_dir(&bundle.path);
        let limit = self.settings.timeouts.cleanup;
        let ended = process::run(command, b"", limit).await.map_err(spawn_error(binary))?;
        check(binary, limit, &ended)?;
        DeleteResponse::decode(ended.stdout.as_slice())
            .map_err(|_| LaunchError::Nonsense { binary: binary.to_owned(), output: printable(&ended.stdout) })
    }

    /// Asks a binary what it is and can do.
    ///
    /// # Errors
    /// It cannot say.
    pub(super) async fn info(&self, binary: &Path, options: Option<&Any>) -> Result<RuntimeInfo, RuntimeError> {
        let failed = |output: String| RuntimeError::Info { binary: binary.to_owned(), output };
        let mut command = Command::new(binary);
        command.arg("-info");
        let input = options.map(Message::encode_to_vec).unwrap_or_default();
        let ended = process::run(command, &input, self.settings.timeouts.cleanup)
            .await
            .map_err(|error| failed(error.to_string()))?;
        if !ended.is_success() {
            return Err(failed(ended.text()));
        }
        RuntimeInfo::decode(ended.stdout.as_slice()).map_err(|error| failed(error.to_string()))
    }

    /// What all commands of a shim have in common.
    fn command(&self, key: &Key, binary: &Path) -> Command {
        let Settings { grpc_address, ttrpc_address, daemon_binary, .. } = &*self.settings;
        let mut command = Command::new(binary);
        command
            .args(["-namespace", key.namespace.as_str(), "-id", key.id.as_str()])
            .arg("-address")
            .arg(grpc_address)
            .arg("-publish-binary")
            .arg(daemon_binary);
        if self.settings.debug {
            command.arg("-debug");
        }
        command
            .env("TTRPC_ADDRESS", ttrpc_address)
            .env("GRPC_ADDRESS", grpc_address)
            .env("NAMESPACE", key.namespace.as_str())
            // The highest version that a daemon of 1.x asked for; shims expect exactly this, as containerd itself sends it.
            .env("MAX_SHIM_VERSION", "2")
            .env("GOMAXPROCS", "2")
            // The service manager talks to us, not to them.
            .env_remove("NOTIFY_SOCKET")
            .env_remove(LISTEN_FD_VARIABLE)
            .envs(self.settings.shim_env.iter().map(|(name, value)| (name, value)));
        command
    }

    async fn start_with_socket(
        &self,
        key: &Key,
        bundle: &Bundle,
        runtime: &Runtime,
    ) -> Result<(Bootstrap, Option<ProcessRef>), LaunchError> {
        let socket = self.socket_path(key);
        let command = self.command(key, &runtime.binary);
        let (folder, binary) = (bundle.path.clone(), runtime.binary.clone());
        let bootstrap = Bootstrap {
            version: NEWEST_VERSION,
            address: format!("unix://{}", socket.display()),
            protocol: "ttrpc".into(),
        };
        let written = bootstrap.clone();
        let mut child = blocking::run(move || {
            let listener = listen(&socket)?;
            // Before the shim is there: whatever happens from here on, a restarted daemon knows where to look.
            written.write(&folder)?;
            spawn_with_socket(command, listener.into(), &folder).map_err(spawn_error(&binary))
        })
        .await?;
        let process = child.id().and_then(ProcessRef::of);
        let stop = self.stop.clone();
        self.tracker.spawn(async move {
            tokio::select! {
                status = child.wait() => debug!(?status, "a shim ended"),
                // It becomes a child of init.
                () = stop.cancelled() => {}
            }
        });
        Ok((bootstrap, process))
    }

    async fn start_by_command(
        &self,
        key: &Key,
        bundle: &Bundle,
        runtime: &Runtime,
        options: Option<&Any>,
    ) -> Result<Bootstrap, LaunchError> {
        let binary = &runtime.binary;
        let form = self.probe.form(binary).await;
        let bootstrap = match form {
            StdinForm::Options => {
                let input = options.map(Message::encode_to_vec).unwrap_or_default();
                self.start(key, bundle, binary, &input).await?
            }
            StdinForm::Params => self.start(key, bundle, binary, &self.params(key, options)).await?,
            StdinForm::Try => match self.start(key, bundle, binary, b"").await {
                Ok(bootstrap) => {
                    self.probe.learn(binary, StdinForm::Try);
                    bootstrap
                }
                Err(error @ LaunchError::Failed { .. }) => {
                    let again = self.start(key, bundle, binary, &self.params(key, options)).await;
                    // The first error is the one of the form that most shims have.
                    let bootstrap = again.map_err(|_| error)?;
                    self.probe.learn(binary, StdinForm::Params);
                    bootstrap
                }
                Err(error) => return Err(error),
            },
        };
        let (written, folder) = (bootstrap.clone(), bundle.path.clone());
        blocking::run(move || written.write(&folder)).await?;
        Ok(bootstrap)
    }

    /// One run of `start`.
    async fn start(&self, key: &Key, bundle: &Bundle, binary: &Path, input: &[u8]) -> Result<Bootstrap, LaunchError> {
        let mut command = self.command(key, binary);
        command.arg("start").current_dir(&bundle.path);
        let limit = self.settings.timeouts.start;
        let ended = process::run(command, input, limit).await.map_err(spawn_error(binary))?;
        check(binary, limit, &ended)?;
        parse_start(&ended.stdout)
            .ok_or_else(|| LaunchError::Nonsense { binary: binary.to_owned(), output: printable(&ended.stdout) })
    }

    fn params(&self, key: &Key, options: Option<&Any>) -> Vec<u8> {
        let text = |path: &Path| path.display().to_string();
        BootstrapParams {
            instance_id: key.id.to_string(),
            namespace: key.namespace.to_string(),
            log_level: if self.settings.debug { LogLevel::Debug } else { LogLevel::Info }.into(),
            containerd_version: PEER_VERSION.into(),
            containerd_ttrpc_address: text(&self.settings.ttrpc_address),
            containerd_grpc_address: text(&self.settings.grpc_address),
            containerd_binary: text(&self.settings.daemon_binary),
            extensions: options.map(|options| Extension { value: Some(options.clone()) }).into_iter().collect(),
            // Where we make sockets ourselves is not told: theirs belong where their own `delete` looks for them.
            socket_dir: None,
        }
        .encode_to_vec()
    }

    /// The socket of a task (containerd's contract). Groups share one, which their shims find; here a task is its own group.
    fn socket_path(&self, key: &Key) -> PathBuf {
        let name = self.settings.grpc_address.join(key.namespace.as_str()).join(key.id.as_str());
        self.settings.socket_dir.join(Digest::sha256(name.as_os_str().as_encoded_bytes()).hex())
    }
}

/// Whether the spec in the bundle names a group whose containers share one shim.
async fn is_in_group(bundle: &Path) -> bool {
    #[derive(serde::Deserialize)]
    struct Spec {
        #[serde(default)]
        annotations: HashMap<String, String>,
    }
    let file = bundle.join(CONFIG_FILE);
    blocking::run(move || {
        let Ok(bytes) = fs::read(file) else { return false };
        // Most specs name none, and need not be parsed for that.
        let names_one = |name: &&str| bytes.windows(name.len()).any(|window| window == name.as_bytes());
        if !GROUP_ANNOTATIONS.iter().any(names_one) {
            return false;
        }
        let spec: Option<Spec> = serde_json::from_slice(&bytes).ok();
        spec.is_some_and(|spec| {
            GROUP_ANNOTATIONS.iter().any(|name| spec.annotations.get(*name).is_some_and(|group| !group.is_empty()))
        })
    })
    .await
}

fn spawn_error(binary: &Path) -> impl FnOnce(io::Error) -> LaunchError {
    let binary = binary.to_owned();
    move |source| LaunchError::Spawn { binary, source }
}

fn check(binary: &Path, limit: Duration, ended: &Ended) -> Result<(), LaunchError> {
    match ended.status {
        Some(status) if status.success() => Ok(()),
        Some(status) => {
            Err(LaunchError::Failed { binary: binary.to_owned(), how: status.to_string(), output: ended.text() })
        }
        None => Err(LaunchError::Slow { binary: binary.to_owned(), limit, output: ended.text() }),
    }
}

/// What `start` printed, in the three forms that there are, the newest first.
fn parse_start(stdout: &[u8]) -> Option<Bootstrap> {
    let or_ttrpc = |protocol: String| if protocol.is_empty() { "ttrpc".to_owned() } else { protocol };
    if let Ok(BootstrapResult { version, address, protocol, .. }) = BootstrapResult::decode(stdout)
        && version > 0
        && !address.is_empty()
    {
        return Some(Bootstrap { version, address, protocol: or_ttrpc(protocol) });
    }
    #[derive(serde::Deserialize)]
    struct Json {
        version: i32,
        address: String,
        #[serde(default)]
        protocol: String,
    }
    if let Ok(Json { version, address, protocol }) = serde_json::from_slice(stdout) {
        return (version >= OLDEST_VERSION).then(|| Bootstrap { version, address, protocol: or_ttrpc(protocol) });
    }
    let address = std::str::from_utf8(stdout).ok()?.trim();
    let is_one_path = socket_of(address).is_some() && !address.contains(char::is_whitespace);
    is_one_path.then(|| Bootstrap { version: OLDEST_VERSION, address: address.to_owned(), protocol: "ttrpc".into() })
}

/// Makes the socket for a shim. One that nobody listens on any more is replaced.
fn listen(path: &Path) -> Result<UnixListener, LaunchError> {
    let failed = |source| LaunchError::Socket { path: path.to_owned(), source };
    if path.as_os_str().len() > MAX_SOCKET_PATH_BYTES {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "the path is longer than a socket's may be")));
    }
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    }
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if UnixStream::connect(path).is_ok() {
                return Err(LaunchError::StillThere { path: path.to_owned() });
            }
            fs::remove_file(path).map_err(failed)?;
            UnixListener::bind(path).map_err(failed)?
        }
        bound => bound.map_err(failed)?,
    };
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Removes the socket of a shim that has ended, which it did itself unless it was killed.
pub(super) fn remove_socket(path: &Path) {
    if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
        && UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    {
        let _ = fs::remove_file(path);
    }
}

/// Starts gantry-shim with a listening socket as its standard input. It makes a session of its own first thing, which it could not do
/// as the leader of a process group; and in our session the kernel would hang it up when we end while it is stopped.
fn spawn_with_socket(mut command: Command, listener: OwnedFd, bundle: &Path) -> io::Result<tokio::process::Child> {
    // What it says before it has its own log, a panic for one, goes there too. Without a reader it gets an error, not a wait.
    let log = fs::OpenOptions::new().write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(bundle.join(LOG_FILE))?;
    // The command holds our copies until it is dropped; were ours left open, connecting to a dead shim would succeed.
    let child = command
        .current_dir(bundle)
        .stdin(Stdio::from(listener))
        .stdout(Stdio::null())
        .stderr(Stdio::from(log))
        .env(LISTEN_FD_VARIABLE, "0")
        .spawn()?;
    limits::restore_for_child(child.id());
    Ok(child)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_three_forms_of_an_answer_are_read() {
        let result = |version, address: &str, protocol: &str| {
            BootstrapResult { version, address: address.into(), protocol: protocol.into(), ..Default::default() }
                .encode_to_vec()
        };
        let is = |version, address: &str, protocol: &str| {
            Some(Bootstrap { version, address: address.into(), protocol: protocol.into() })
        };
        for (stdout, answer) in [
            (result(3, "unix:///s", "ttrpc"), is(3, "unix:///s", "ttrpc")),
            (result(3, "unix:///s", ""), is(3, "unix:///s", "ttrpc")),
            (result(4, "unix:///s", "grpc"), is(4, "unix:///s", "grpc")),
            (br#"{"version":3,"address":"unix:///s","protocol":"ttrpc"}"#.to_vec(), is(3, "unix:///s", "ttrpc")),
            (br#"{"version":2,"address":"unix:///s"}"#.to_vec(), is(2, "unix:///s", "ttrpc")),
            (br#"{"version":1,"address":"unix:///s"}"#.to_vec(), None),
            (b"unix:///run/containerd/s/abc".to_vec(), is(2, "unix:///run/containerd/s/abc", "ttrpc")),
            (b"unix:///run/s/abc\n".to_vec(), is(2, "unix:///run/s/abc", "ttrpc")),
            (b"unix:///run/s/abc\nand more".to_vec(), None),
            (b"".to_vec(), None),
            (b"hello".to_vec(), None),
            (b"unix://\0abstract".to_vec(), None),
            (vec![0xff; 100], None),
        ] {
            assert_eq!(parse_start(&stdout), answer, "{}", String::from_utf8_lossy(&stdout));
        }
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s").join("socket");
        let listener = listen(&path).unwrap();
        for (path, mode) in [(path.as_path(), 0o600), (path.parent().unwrap(), 0o700)] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, mode, "{path:?}");
        }
        assert!(matches!(listen(&path), Err(LaunchError::StillThere { .. })));
        remove_socket(&path);
        assert!(path.exists(), "somebody listens");
        drop(listener);
        drop(listen(&path).unwrap());
        remove_socket(&path);
        assert!(!path.exists());
        let long = folder.path().join("x".repeat(120));
        assert!(matches!(listen(&long), Err(LaunchError::Socket { .. })));
    }

    #[tokio::test]
    async fn the_child_gets_the_socket_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        nix::unistd::mkfifo(&folder.path().join(LOG_FILE), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let _reader =
            tokio::net::unix::pipe::OpenOptions::new().read_write(true).open_receiver(folder.path().join(LOG_FILE));
        let _other = fs::File::open("/dev/null").unwrap();
        let listener = listen(&folder.path().join("s")).unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo $GANTRY_SHIM_LISTEN_FD > number; exec ls -l /proc/self/fd > fds"]);
        let mut child = spawn_with_socket(command, listener.into(), folder.path()).unwrap();
        assert!(child.wait().await.unwrap().success());
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(read("number"), "0\n");
        assert!(UnixStream::connect(folder.path().join("s")).is_err(), "nobody has it any more");
        // What whoever runs the tests leaves open for everybody is not ours.
        let own = |fd: &str| {
            let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap_or("0").trim();
            u32::from_str_radix(flags, 8).unwrap() & 0o2_000_000 != 0
        };
        let fds = read("fds");
        let inherited: Vec<_> = fds
            .lines()
            // `ls` itself holds the folder that it reads.
            .filter(|line| line.contains(" -> ") && !line.contains("/proc/"))
            .filter_map(|line| line.split_whitespace().nth_back(2))
            .filter(|fd| ["0", "1", "2"].contains(fd) || own(fd))
            .collect();
        assert_eq!(inherited, ["0", "1", "2"], "{fds}");
        assert!(fds.contains(" 0 -> socket:"), "{fds}");
    }
}
