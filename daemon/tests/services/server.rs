//! A daemon in this process, in a folder of its own.

use std::path::{Path, PathBuf};

use daemon::app::App;
use daemon::config::{Config, Overrides};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

/// A daemon that ends with this value.
pub(crate) struct Server {
    folder: TempDir,
    stop: CancellationToken,
    running: Option<JoinHandle<Result<(), String>>>,
    pub(crate) channel: Channel,
}

/// A configuration that keeps everything in `folder`.
pub(crate) fn config(folder: &Path) -> Config {
    let flags = Overrides {
        address: Some(folder.join("g.sock")),
        root: Some(folder.join("root")),
        state: Some(folder.join("state")),
        level: None,
    };
    let config = Config::build(Default::default(), &flags).unwrap();
    let owner = |socket: &mut daemon::config::Socket| {
        socket.uid = nix::unistd::geteuid().as_raw();
        socket.gid = nix::unistd::getegid().as_raw();
    };
    let mut config = config;
    owner(&mut config.grpc.socket);
    owner(&mut config.ttrpc);
    config
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }

    pub(crate) async fn start_in(folder: TempDir) -> Self {
        Self::start_with(config(folder.path()), folder).await
    }

    pub(crate) async fn start_with(config: Config, folder: TempDir) -> Self {
        let address = config.grpc.socket.address.clone();
        let stop = CancellationToken::new();
        let app = App::open(config).await.unwrap();
        let token = stop.clone();
        let running = tokio::spawn(async move { app.run(token).await.map_err(|error| error.to_string()) });
        // The socket appears before it is served; who connects in between waits.
        let channel = loop {
            match daemon::publish::connect(&address).await {
                Ok(channel) => break channel,
                Err(error) if running.is_finished() => panic!("the daemon ended: {error}"),
                Err(_) => tokio::task::yield_now().await,
            }
        };
        Self { folder, stop, running: Some(running), channel }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Tells it to stop and waits until it has.
    pub(crate) async fn stop(mut self) -> TempDir {
        self.stop.cancel();
        let running = self.running.take().expect("it is stopped once");
        running.await.unwrap().unwrap();
        std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap())
    }

    pub(crate) fn begin_stop(&self) {
        self.stop.cancel();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A request in the namespace `namespace`.
pub(crate) fn of<T>(namespace: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", AsciiMetadataValue::try_from(namespace).unwrap());
    request
}

/// A request in the namespace `default`.
pub(crate) fn plain<T>(message: T) -> Request<T> {
    of("default", message)
}

/// Checks that an answer is a failure of this kind, with these words in its text.
#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, words: &str) {
    match answer {
        Ok(answer) => panic!("expected {code:?} {words:?}, got {answer:?}"),
        Err(status) => {
            assert_eq!(status.code(), code, "{status:?}");
            assert!(status.message().contains(words), "expected {words:?} in {:?}", status.message());
        }
    }
}
