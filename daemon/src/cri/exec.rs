//! Commands in running containers: one more process of the task, with pipes to whoever asked for it.
//!
//! The pipes are named ones in a folder of their own, so every kind of shim can open them. A command belongs to its caller: when
//! the caller goes away, the process is killed, waited for and deleted in the background, and the folder goes with it.

use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::stat::Mode;
use proto::prost_types::Any;
use proto::services::tasks::v1 as api;
use tokio::io::{AsyncWriteExt, copy};
use tokio::net::unix::pipe;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, warn};

use super::id::new_id;
use super::streaming::{Io, Size};
use super::{Container, Cri, CriError, NAMESPACE};
use crate::api::Failure;

/// The type of the specification of a process.
const PROCESS_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// The signal that cannot be ignored.
const SIGKILL: u32 = 9;
/// How long a killed process may take to end before it is left to the shim.
const KILLED: Duration = Duration::from_secs(10);

/// What is to be run.
#[derive(Debug)]
pub(super) struct Command {
    /// The command and its arguments.
    pub args: Vec<String>,
    /// Whether it gets a terminal.
    pub terminal: bool,
    /// How long its output is waited for once it has ended; for ever if zero.
    pub drain: Duration,
}

impl Cri {
    /// Runs a command to its end, all its output written to `io`; gives its exit code.
    ///
    /// # Errors
    /// It could not be started; nothing is left then.
    ///
    /// # Cancel safety
    /// If the future is dropped, the process is killed, and all is cleaned up in the background.
    pub(super) async fn run_command(&self, container: &Container, command: Command, io: Io) -> Result<u32, Failure> {
        let given_up = CancellationToken::new();
        let guard = given_up.clone().drop_guard();
        let run = Run {
            cri: self.clone(),
            container: container.id.clone(),
            id: new_id(),
            spec: self.process_of(container, &command).await?,
            terminal: command.terminal,
            drain: Some(command.drain).filter(|drain| !drain.is_zero()),
            given_up,
        };
        let running = self.inner.tracker.spawn(run.until_the_end(io).in_current_span());
        let result = running.await.map_err(|_| CriError::Cancelled);
        // It has ended: there is nothing left to give up.
        drop(guard.disarm());
        result?
    }

    /// The specification of the container's first process, with another command.
    async fn process_of(&self, container: &Container, command: &Command) -> Result<Any, Failure> {
        let record = self.inner.containers.get(&self.inner.namespace, &container.id).await?.record;
        let spec = record.spec.map(|spec| spec.value).unwrap_or_default();
        let mut spec: serde_json::Value = serde_json::from_slice(&spec).map_err(|error| {
            CriError::Failed(format!("the spec of container {:?} cannot be read: {error}", container.id))
        })?;
        let mut process = spec["process"].take();
        process["args"] = command.args.clone().into();
        process["terminal"] = command.terminal.into();
        if let Some(process) = process.as_object_mut() {
            process.remove("consoleSize");
        }
        if command.terminal
            && let Some(env) = process["env"].as_array_mut()
            && !env.iter().any(|line| line.as_str().is_some_and(|line| line.starts_with("TERM=")))
        {
            env.push("TERM=xterm".into());
        }
        Ok(Any { type_url: PROCESS_TYPE.to_owned(), value: process.to_string().into_bytes() })
    }
}

/// One command under way.
struct Run {
    cri: Cri,
    container: String,
    id: String,
    spec: Any,
    terminal: bool,
    drain: Option<Duration>,
    given_up: CancellationToken,
}

impl Run {
    async fn until_the_end(self, io: Io) -> Result<u32, Failure> {
        let parent = self.cri.state().join("exec");
        let pipes = Pipes::make(&parent.join(&self.id), io.stdin.is_some(), self.terminal)
            .map_err(|error| CriError::Failed(format!("cannot make pipes for a command: {error}")))?;
        let tasks = &self.cri.inner.tasks;
        let namespace = || self.cri.inner.namespace.clone();
        let request = api::ExecProcessRequest {
            container_id: self.container.clone(),
            stdin: pipes.path(&pipes.stdin),
            stdout: pipes.path(&pipes.stdout),
            stderr: pipes.path(&pipes.stderr),
            terminal: self.terminal,
            spec: Some(self.spec.clone()),
            exec_id: self.id.clone(),
        };
        let (stdout, stderr) =
            pipes.outputs().map_err(|error| CriError::Failed(format!("cannot open pipes for a command: {error}")))?;
        tasks.exec(namespace(), request).await?;
        let started = self.with_io(io, &pipes, stdout, stderr).await;
        let request = api::DeleteProcessRequest { container_id: self.container.clone(), exec_id: self.id.clone() };
        if let Err(error) = tasks.delete_process(namespace(), request).await {
            debug!(container = self.container, exec = self.id, %error, "an ended command cannot be deleted");
        }
        started
    }

    /// From the start of the process to its end.
    async fn with_io(
        &self,
        io: Io,
        pipes: &Pipes,
        stdout: Option<pipe::Receiver>,
        stderr: Option<pipe::Receiver>,
    ) -> Result<u32, Failure> {
        let tasks = &self.cri.inner.tasks;
        let request = api::StartRequest { container_id: self.container.clone(), exec_id: self.id.clone() };
        tasks.start(self.cri.inner.namespace.clone(), request).await?;
        let Io { stdin, stdout: to_stdout, stderr: to_stderr, resize } = io;
        // Input and sizes end with the process, whatever the client does.
        let over = CancellationToken::new();
        let _over = over.clone().drop_guard();
        if let Some(stdin) = stdin {
            let (cri, container, id) = (self.cri.clone(), self.container.clone(), self.id.clone());
            let feeding = feed(cri, container, id, stdin, pipes.stdin.clone().unwrap_or_default());
            let over = over.clone();
            self.cri.inner.tracker.spawn(async move { over.run_until_cancelled(feeding).await });
        }
        if let Some(sizes) = resize {
            let (cri, container, id) = (self.cri.clone(), self.container.clone(), self.id.clone());
            self.cri
                .inner
                .tracker
                .spawn(async move { over.run_until_cancelled(cri.resize(container, id, sizes)).await });
        }
        let copying = async { tokio::join!(drain(stdout, to_stdout), drain(stderr, to_stderr)) };
        let mut copying = std::pin::pin!(copying);
        let mut ended = std::pin::pin!(self.ended());
        let mut drained = false;
        let code = loop {
            tokio::select! {
                code = &mut ended => break code?,
                _ = &mut copying, if !drained => drained = true,
            }
        };
        if !drained {
            // A child that was left behind may hold the pipes open for ever.
            match self.drain {
                Some(limit) => drop(tokio::time::timeout(limit, copying).await),
                None => drop(self.given_up.run_until_cancelled(copying).await),
            }
        }
        Ok(code)
    }

    /// Until the process has ended, by itself or because its caller has gone.
    async fn ended(&self) -> Result<u32, Failure> {
        let tasks = &self.cri.inner.tasks;
        let request = || api::WaitRequest { container_id: self.container.clone(), exec_id: self.id.clone() };
        let namespace = || self.cri.inner.namespace.clone();
        if let Some(ended) = self.given_up.run_until_cancelled(tasks.wait(namespace(), request())).await {
            return Ok(ended?.exit_status);
        }
        let kill = api::KillRequest {
            container_id: self.container.clone(),
            exec_id: self.id.clone(),
            signal: SIGKILL,
            all: false,
        };
        if let Err(error) = tasks.kill(namespace(), kill).await {
            debug!(container = self.container, exec = self.id, %error, "a given up command cannot be killed");
        }
        match tokio::time::timeout(KILLED, tasks.wait(namespace(), request())).await {
            Ok(ended) => Ok(ended?.exit_status),
            Err(_) => {
                warn!(ns = NAMESPACE, container = self.container, exec = self.id, "a killed command does not end");
                Err(CriError::Deadline(format!("the command in container {:?} does not end", self.container)).into())
            }
        }
    }
}

impl Cri {
    /// Sets sizes of a terminal as they come.
    pub(super) async fn resize(self, container: String, exec: String, mut sizes: tokio::sync::mpsc::Receiver<Size>) {
        while let Some(Size { width, height }) = sizes.recv().await {
            let request = api::ResizePtyRequest {
                container_id: container.clone(),
                exec_id: exec.clone(),
                width: width.into(),
                height: height.into(),
            };
            if let Err(error) = self.inner.tasks.resize_pty(self.inner.namespace.clone(), request).await {
                debug!(container, exec, %error, "the size of a terminal cannot be set");
            }
        }
    }
}

/// Copies what the client sends, and then says that there is no more.
async fn feed(cri: Cri, container: String, exec: String, mut from: super::streaming::Input, path: PathBuf) {
    // The shim has its end open: the process was started.
    match pipe::OpenOptions::new().open_sender(&path) {
        Ok(mut to) => drop(copy(&mut from, &mut to).await),
        Err(error) => debug!(container, exec, %error, "input of a command cannot be opened"),
    }
    let request = api::CloseIoRequest { container_id: container.clone(), exec_id: exec.clone(), stdin: true };
    if let Err(error) = cri.inner.tasks.close_io(cri.inner.namespace.clone(), request).await {
        debug!(container, exec, %error, "input of a command cannot be closed");
    }
}

/// Copies output to its end. When the client takes no more, the rest is read and thrown away, so that the process does not hang.
async fn drain(from: Option<pipe::Receiver>, to: Option<super::streaming::Output>) {
    let Some(mut from) = from else { return };
    if let Some(mut to) = to
        && copy(&mut from, &mut to).await.is_ok()
    {
        drop(to.shutdown().await);
        return;
    }
    drop(copy(&mut from, &mut tokio::io::sink()).await);
}

/// Named pipes in a folder of their own, which goes with them.
struct Pipes {
    folder: PathBuf,
    stdin: Option<PathBuf>,
    stdout: Option<PathBuf>,
    stderr: Option<PathBuf>,
}

impl Pipes {
    fn make(folder: &Path, with_stdin: bool, terminal: bool) -> io::Result<Self> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let mut pipes = Self { folder: folder.to_owned(), stdin: None, stdout: None, stderr: None };
        let make = |name: &str| {
            let path = folder.join(name);
            nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
            Ok::<_, io::Error>(Some(path))
        };
        if with_stdin {
            pipes.stdin = make("stdin")?;
        }
        pipes.stdout = make("stdout")?;
        if !terminal {
            pipes.stderr = make("stderr")?;
        }
        Ok(pipes)
    }

    fn path(&self, of: &Option<PathBuf>) -> String {
        of.as_ref().map(|path| path.display().to_string()).unwrap_or_default()
    }

    /// The reading ends, open before the shim opens the others: nothing is lost, and nobody waits.
    fn outputs(&self) -> io::Result<(Option<pipe::Receiver>, Option<pipe::Receiver>)> {
        let open =
            |path: &Option<PathBuf>| path.as_ref().map(|path| pipe::OpenOptions::new().open_receiver(path)).transpose();
        Ok((open(&self.stdout)?, open(&self.stderr)?))
    }
}

impl Drop for Pipes {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            debug!(folder = %self.folder.display(), %error, "pipes of a command are left behind");
        }
    }
}
