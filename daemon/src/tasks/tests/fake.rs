//! A shim in two halves: a script for its command line, and a server in this process for its task service.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use model::error::Kind;
use proto::convert::time;
use proto::process::Status;
use proto::prost::Message;
use proto::status;
use proto::task::v3 as shim;
use proto::ttrpc::{Decoder, FrameKind, encode};
use proto::ttrpc::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// The first process that it pretends to have.
pub(super) const PID: u32 = 4242;

/// How the server behaves.
#[derive(Debug, Clone, Default)]
pub(super) struct Behaviour {
    /// Methods that are never answered.
    pub hangs_in: Vec<&'static str>,
    /// Methods that fail, and how.
    pub fails_in: HashMap<&'static str, (Kind, String)>,
    /// Whether there is no version 3.
    pub only_v2: bool,
    /// The exit of its process, once it has one.
    pub exit: Option<u32>,
    /// Whether it has no task.
    pub is_empty: bool,
}

impl Drop for FakeShim {
    fn drop(&mut self) {
        // A runtime may not be dropped inside of another one; the last handle that a test has ends it.
        if Arc::strong_count(&self.process) <= 1
            && let Some(process) = self.process.lock().unwrap().take()
        {
            process.shutdown_background();
        }
    }
}

/// The server half.
#[derive(Clone)]
pub(super) struct FakeShim {
    pub behaviour: Arc<Mutex<Behaviour>>,
    pub calls: Arc<Mutex<Vec<String>>>,
    /// Cancelled when it has shut down.
    pub down: CancellationToken,
    socket: PathBuf,
    /// Its own threads, so that its death takes effect as that of a process does.
    process: Arc<Mutex<Option<Runtime>>>,
}

impl FakeShim {
    /// Listens as the shim of `id`, whose address the script prints.
    pub(super) fn start(folder: &Path, id: &str) -> Self {
        let process = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let fake = Self {
            behaviour: Arc::default(),
            calls: Arc::default(),
            down: CancellationToken::new(),
            socket: folder.join(format!("{id}.sock")),
            process: Arc::default(),
        };
        let listener = {
            let _inside = process.enter();
            UnixListener::bind(&fake.socket).unwrap()
        };
        process.spawn(fake.clone().accept(listener));
        *fake.process.lock().unwrap() = Some(process);
        fake
    }

    async fn accept(self, listener: UnixListener) {
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    tokio::spawn(self.clone().converse(accepted.unwrap().0));
                }
                () = self.down.cancelled() => return,
            }
        }
    }

    /// Answers calls as they come, all at once, as shims do.
    async fn converse(self, stream: UnixStream) {
        let (mut reader, writer) = stream.into_split();
        let writer = Arc::new(tokio::sync::Mutex::new(writer));
        let mut decoder = Decoder::new();
        let mut buffer = [0; 4096];
        loop {
            let length = tokio::select! {
                read = reader.read(&mut buffer) => read.unwrap_or(0),
                () = self.down.cancelled() => 0,
            };
            if length == 0 {
                return;
            }
            decoder.extend(&buffer[..length]);
            while let Some(frame) = decoder.decode().unwrap() {
                let (fake, writer) = (self.clone(), writer.clone());
                tokio::spawn(async move {
                    let request = Request::decode(frame.payload).unwrap();
                    let is_last = request.method == "Shutdown";
                    let response = fake.answer(request).await;
                    let mut out = Vec::new();
                    encode(FrameKind::Response, frame.stream_id, &response, &mut out).unwrap();
                    let _ = writer.lock().await.write_all(&out).await;
                    if is_last {
                        fake.down.cancel();
                    }
                });
            }
        }
    }

    pub(super) fn set(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.behaviour.lock().unwrap());
    }

    /// Dies, as by a kill: connections end, nobody listens.
    pub(super) fn die(&self) {
        let process = self.process.lock().unwrap().take();
        process.unwrap().shutdown_background();
    }

    pub(super) fn was_called(&self, method: &str) -> usize {
        self.calls.lock().unwrap().iter().filter(|call| call.ends_with(method)).count()
    }
}

impl FakeShim {
    async fn answer(&self, request: Request) -> Response {
        let method = request.method.clone();
        self.calls.lock().unwrap().push(format!("{}/{method}", request.service));
        let now = self.behaviour.lock().unwrap().clone();
        if now.hangs_in.iter().any(|hangs| *hangs == method) {
            return std::future::pending().await;
        }
        if now.only_v2 && request.service != proto::service::TASK_V2 {
            return Response::unimplemented(&request.service, &method);
        }
        if let Some((kind, text)) = now.fails_in.get(method.as_str()) {
            return Response::failed(status::new(*kind, text.as_str()));
        }
        let exited_at = now.exit.map(|_| time::to_wire(SystemTime::now()));
        match method.as_str() {
            "Connect" => Response::ok(&shim::ConnectResponse::default()),
            "Create" => Response::ok(&shim::CreateTaskResponse { pid: PID }),
            "Start" => Response::ok(&shim::StartResponse { pid: PID }),
            "State" if now.is_empty => Response::failed(status::new(Kind::NotFound, "container not created")),
            "State" => {
                let status = if now.exit.is_some() { Status::Stopped } else { Status::Running };
                Response::ok(&shim::StateResponse {
                    pid: PID,
                    status: status.into(),
                    exit_status: now.exit.unwrap_or_default(),
                    exited_at,
                    ..Default::default()
                })
            }
            "Delete" => {
                Response::ok(&shim::DeleteResponse { pid: PID, exit_status: now.exit.unwrap_or_default(), exited_at })
            }
            "Wait" => std::future::pending().await,
            "Shutdown" => {
                let _ = fs::remove_file(&self.socket);
                Response::ok(&())
            }
            _ => Response::ok(&()),
        }
    }
}

/// Installs the command half: `start` runs `start`, a piece of shell that may use `$ID` and `$SOCKET`; `delete` reports
/// pid 7 and status 137 and leaves a mark.
pub(super) fn install(folder: &Path, start: &str) -> PathBuf {
    let path = folder.join("containerd-shim-fake-v1");
    let fresh = folder.join("fresh");
    let script = format!(
        r#"#!/bin/sh
while [ $# -gt 0 ]; do
  case "$1" in
    -id) ID="$2"; shift;;
    -namespace|-address|-publish-binary|-bundle) shift;;
    start|delete) ACTION="$1";;
  esac
  shift
done
SOCKET="{folder}/$ID.sock"
echo "$ACTION $ID" >> "{folder}/commands"
case "$ACTION" in
  start) {start} ;;
  delete) printf '\010\007\020\211\001' ;;
esac
"#,
        folder = folder.display(),
    );
    fs::write(&fresh, script).unwrap();
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&fresh, &path).unwrap();
    path
}

/// The `start` of a shim that does what it should.
pub(super) const GOOD_START: &str = r#"printf 'unix://%s' "$SOCKET""#;

/// How often the command half was run for an action.
pub(super) fn commands(folder: &Path, action: &str) -> usize {
    let all = fs::read_to_string(folder.join("commands")).unwrap_or_default();
    all.lines().filter(|line| line.starts_with(action)).count()
}
