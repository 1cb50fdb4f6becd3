//! Exec, attach and port-forward as calls: what is checked before a URL is given out, and commands that run to their end.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use proto::cri as wire;
use proto::gantry::shim::v1::AttachRequest;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::exec::Command;
use super::state::{Act, Verdict, judge, of_container};
use super::streaming::{self, Backend, Io, Server, Session, Wanted};
use super::{Container, Cri, CriError, Inner};
use crate::api::Failure;
use crate::blocking;
use crate::ttrpc::attach;

/// The most of each output that ExecSync gives back; what is more is read and thrown away.
const MAX_OUTPUT: usize = 16 << 20;
/// The most of both together: a message of 16 MiB is the largest that kubelets take, and it has a few bytes of its own.
const MAX_MESSAGE: usize = (16 << 20) - 1024;
/// How long a shim may take to attach a client.
const ATTACHING: Duration = Duration::from_secs(10);
/// What is read from a client at once.
const PIECE: usize = 16 << 10;

impl Cri {
    pub(super) async fn exec_sync(&self, request: wire::ExecSyncRequest) -> Result<wire::ExecSyncResponse, Failure> {
        let container = self.usable(&request.container_id)?;
        let command = command(request.cmd, false, self.inner.settings.drain_exec)?;
        let (stdout, stderr) = (Kept::default(), Kept::default());
        let io = Io { stdin: None, stdout: Some(stdout.output()), stderr: Some(stderr.output()), resize: None };
        let running = self.run_command(&container, command, io);
        let exit_code = match u64::try_from(request.timeout).unwrap_or_default() {
            0 => running.await?,
            seconds => {
                let limit = Duration::from_secs(seconds);
                tokio::time::timeout(limit, running)
                    .await
                    .map_err(|_| CriError::Deadline(format!("timeout {limit:?} exceeded: the command was killed")))??
            }
        };
        let exit_code = i32::try_from(exit_code).unwrap_or(i32::MAX);
        let (stdout, stderr) = fitting(stdout.take(), stderr.take());
        Ok(wire::ExecSyncResponse { stdout, stderr, exit_code })
    }

    pub(super) async fn exec(&self, request: wire::ExecRequest) -> Result<wire::ExecResponse, Failure> {
        let wire::ExecRequest { container_id, cmd, tty, stdin, stdout, stderr } = request;
        let wanted = wanted(Wanted { stdin, stdout, stderr, tty })?;
        let container = self.usable(&container_id)?;
        let Command { args, .. } = command(cmd, tty, Duration::ZERO)?;
        let url = self.url(Session::Exec { container: container.id.clone(), command: args, wanted })?;
        Ok(wire::ExecResponse { url })
    }

    pub(super) async fn attach(&self, request: wire::AttachRequest) -> Result<wire::AttachResponse, Failure> {
        let wire::AttachRequest { container_id, stdin, tty, stdout, stderr } = request;
        let wanted = wanted(Wanted { stdin, stdout, stderr, tty })?;
        let container = self.usable(&container_id)?;
        let url = self.url(Session::Attach { container: container.id.clone(), wanted })?;
        Ok(wire::AttachResponse { url })
    }

    pub(super) async fn port_forward(
        &self,
        request: wire::PortForwardRequest,
    ) -> Result<wire::PortForwardResponse, Failure> {
        let pod = self.pod(&request.pod_sandbox_id)?;
        if super::state::of_pod(&pod.record()) != wire::PodSandboxState::SandboxReady {
            return Err(CriError::State(format!("sandbox {:?} is not running", pod.id)).into());
        }
        let port = |port: i32| match u16::try_from(port) {
            Ok(port) if port != 0 => Ok(port),
            _ => Err(CriError::Invalid(format!("{port} is not a port number"))),
        };
        let ports = request.port.into_iter().map(port).collect::<Result<_, _>>()?;
        Ok(wire::PortForwardResponse { url: self.url(Session::Forward { pod: pod.id.clone(), ports })? })
    }

    /// Starts the streaming server. Called once, before clients are served; without it the three calls above fail.
    pub(super) async fn start_streaming(&self) -> Result<(), Failure> {
        let stream = &self.inner.settings.stream;
        let failed = |what: &str, error: &dyn std::fmt::Display| CriError::Failed(format!("{what}: {error}"));
        let tls = match stream.tls {
            true => {
                let (cert, key) = (stream.cert_file.clone(), stream.key_file.clone());
                let config = blocking::run(move || streaming::tls(&cert, &key)).await;
                Some(config.map_err(|error| failed("TLS for streaming", &error))?)
            }
            false => None,
        };
        // A kubelet connects to the address in the URL, so it must be one that can be connected to.
        let host = if stream.address.is_empty() { "127.0.0.1" } else { &stream.address };
        let listener = TcpListener::bind((host, stream.port))
            .await
            .map_err(|error| failed(&format!("cannot listen on {host}:{} for streaming", stream.port), &error))?;
        let settings = streaming::Settings { tls, idle: stream.idle };
        let (tracker, stop) = (self.inner.tracker.clone(), self.inner.stop.clone());
        let server = Server::start(listener, settings, Arc::new(Behind(Arc::downgrade(&self.inner))), tracker, stop)
            .map_err(|error| failed("streaming", &error))?;
        tracing::info!(server = ?server, "streaming is served");
        // Called once; a second server would be dropped with its listener.
        drop(self.inner.streaming.set(server));
        Ok(())
    }

    /// A container in which commands can be run.
    fn usable(&self, id: &str) -> Result<Arc<Container>, CriError> {
        let container = self.container(id)?;
        let record = container.record();
        let state = of_container(&record);
        match judge(state, record.removing, Act::Use) {
            Verdict::Go | Verdict::Done => Ok(container),
            Verdict::No => {
                Err(CriError::State(format!("container {:?} is in {} state", container.id, state.as_str_name())))
            }
        }
    }

    fn url(&self, session: Session) -> Result<String, CriError> {
        let server = self.inner.streaming.get();
        let server = server
            .ok_or_else(|| CriError::Unavailable("the streaming server could not be started: see the log".into()))?;
        server.url(session).map_err(|error| CriError::Exhausted(error.to_string()))
    }

    /// Connects a client to the first process of a container, until it ends or the client has gone.
    async fn attach_to(&self, container: String, wanted: Wanted, io: Io) -> Result<(), String> {
        let task =
            self.inner.tasks.socket(&self.inner.namespace, &container).ok_or("the container does not run any more")?;
        let terminal = wanted.tty;
        let request = AttachRequest {
            id: container.clone(),
            exec_id: String::new(),
            stdin: wanted.stdin,
            stdout: wanted.stdout,
            stderr: wanted.stderr && !terminal,
        };
        let (mut output, mut input) =
            attach::attach(&task, &request, ATTACHING).await.map_err(|error| error.to_string())?;
        let Io { stdin, mut stdout, mut stderr, resize } = io;
        if let Some(sizes) = resize {
            let resizing = self.clone().resize(container, String::new(), sizes);
            self.inner.tracker.spawn(resizing);
        }
        let feeding = async {
            let Some(mut stdin) = stdin else { return std::future::pending().await };
            let mut piece = vec![0; PIECE];
            while let Ok(read) = stdin.read(&mut piece).await {
                if read == 0 || input.write(&piece[..read]).await.is_err() {
                    break;
                }
            }
            drop(input.close().await);
            std::future::pending().await
        };
        let reading = async {
            while let Some(piece) = output.next().await.map_err(|error| error.to_string())? {
                let to = if piece.stream == 2 { stderr.as_mut() } else { stdout.as_mut() };
                if let Some(to) = to
                    && to.write_all(&piece.data).await.is_err()
                {
                    break;
                }
            }
            Ok(())
        };
        tokio::select! {
            result = reading => result,
            never = feeding => never,
        }
    }
}

/// The CRI as the streaming server sees it, which is a part of it: it must not keep it alive.
struct Behind(Weak<Inner>);

impl Behind {
    fn cri(&self) -> Result<Cri, String> {
        self.0.upgrade().map(|inner| Cri { inner }).ok_or_else(|| "the daemon is stopping".to_owned())
    }
}

impl Backend for Behind {
    fn exec(
        &self,
        container: String,
        command: Vec<String>,
        wanted: Wanted,
        io: Io,
    ) -> BoxFuture<'static, Result<u32, String>> {
        let cri = self.cri();
        Box::pin(async move {
            let cri = cri?;
            let container = cri.usable(&container).map_err(|error| error.to_string())?;
            let command = Command { args: command, terminal: wanted.tty, drain: cri.inner.settings.drain_exec };
            cri.run_command(&container, command, io).await.map_err(|failure| failure.message().to_owned())
        })
    }

    fn attach(&self, container: String, wanted: Wanted, io: Io) -> BoxFuture<'static, Result<(), String>> {
        let cri = self.cri();
        Box::pin(async move { cri?.attach_to(container, wanted, io).await })
    }

    fn connect(&self, pod: String, port: u16) -> BoxFuture<'static, Result<TcpStream, String>> {
        let cri = self.cri();
        Box::pin(async move {
            let netns = cri?.pod(&pod).map_err(|error| error.to_string())?.record().netns.clone();
            let netns = Some(PathBuf::from(netns)).filter(|path| !path.as_os_str().is_empty());
            let dialling = blocking::run(move || streaming::localhost(netns.as_deref(), port)).await;
            let socket = dialling.map_err(|error| error.to_string())?;
            socket.set_nonblocking(true).and_then(|()| TcpStream::from_std(socket)).map_err(|error| error.to_string())
        })
    }
}

/// A command that can be run.
fn command(args: Vec<String>, terminal: bool, drain: Duration) -> Result<Command, CriError> {
    if args.first().is_none_or(String::is_empty) {
        return Err(CriError::Invalid("no command to run was given".into()));
    }
    Ok(Command { args, terminal, drain })
}

/// Both outputs cut to what kubelets take in one message: the shorter one stays whole if it leaves half of the room.
fn fitting(mut stdout: Vec<u8>, mut stderr: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    let half = MAX_MESSAGE / 2;
    stdout.truncate(MAX_MESSAGE - stderr.len().min(half));
    stderr.truncate(MAX_MESSAGE - stdout.len());
    (stdout, stderr)
}

/// Streams that can be had together.
fn wanted(wanted: Wanted) -> Result<Wanted, CriError> {
    if wanted.tty && wanted.stderr {
        return Err(CriError::Invalid("tty and stderr cannot both be true: a terminal has one output".into()));
    }
    if !wanted.stdin && !wanted.stdout && !wanted.stderr {
        return Err(CriError::Invalid("one of stdin, stdout, or stderr must be set".into()));
    }
    Ok(wanted)
}

/// Output that is kept, up to a bound.
#[derive(Debug, Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Kept {
    fn output(&self) -> streaming::Output {
        Box::new(self.clone())
    }

    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl AsyncWrite for Kept {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MAX_OUTPUT - kept.len();
        kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_that_cannot_be_had_are_refused() {
        let all = Wanted { stdin: true, stdout: true, stderr: true, tty: false };
        assert!(wanted(all).is_ok());
        assert!(wanted(Wanted { tty: true, ..all }).unwrap_err().to_string().contains("tty and stderr"));
        assert!(wanted(Wanted::default()).unwrap_err().to_string().contains("one of stdin"));
        assert!(command(Vec::new(), false, Duration::ZERO).is_err());
    }

    #[test]
    fn both_outputs_fit_into_a_message() {
        for (out, err, expected) in [
            (1, 2, (1, 2)),
            (MAX_OUTPUT, 0, (MAX_MESSAGE, 0)),
            (MAX_OUTPUT, 10, (MAX_MESSAGE - 10, 10)),
            (10, MAX_OUTPUT, (10, MAX_MESSAGE - 10)),
            (MAX_OUTPUT, MAX_OUTPUT, (MAX_MESSAGE / 2, MAX_MESSAGE / 2)),
        ] {
            let (stdout, stderr) = fitting(vec![0; out], vec![0; err]);
            assert_eq!((stdout.len(), stderr.len()), expected, "{out} {err}");
        }
    }

    #[tokio::test]
    async fn output_is_kept_up_to_its_bound() {
        let kept = Kept::default();
        let mut output = kept.output();
        output.write_all(&vec![1; MAX_OUTPUT - 1]).await.unwrap();
        output.write_all(&[2; 10]).await.unwrap();
        let bytes = kept.take();
        assert_eq!((bytes.len(), bytes.last()), (MAX_OUTPUT, Some(&2)));
    }
}
