//! Tasks: the running side of a container.

use std::time::{Duration, SystemTime};

use proto::prost_types::Any;
use proto::services::containers::v1::Container;
use proto::services::snapshots::v1::MountsRequest;
use proto::services::tasks::v1::{
    CloseIoRequest, CreateTaskRequest, DeleteProcessRequest, DeleteTaskRequest, ExecProcessRequest, GetRequest,
    KillRequest, ResizePtyRequest, StartRequest, WaitRequest,
};

use crate::{Client, ClientError};

/// Where a process's input and output go, as paths of pipes or URIs; empty is nowhere.
#[derive(Debug, Clone, Default)]
pub struct Stdio {
    /// Input.
    pub stdin: String,
    /// Output.
    pub stdout: String,
    /// Errors.
    pub stderr: String,
    /// A terminal instead of pipes.
    pub terminal: bool,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// The exit code, or 128 + the signal's number.
    pub status: u32,
    /// When, if the daemon said so.
    pub at: Option<SystemTime>,
}

/// One process of a container: the first one, or one added by an exec.
#[derive(Debug, Clone)]
pub struct Process {
    client: Client,
    container: String,
    /// Empty for the first process.
    exec: String,
}

impl Client {
    /// Makes the task of a container: set up, not running yet.
    ///
    /// # Errors
    /// What the runtime says.
    pub async fn create_task(&self, container: &Container, stdio: Stdio) -> Result<Process, ClientError> {
        let rootfs = if container.snapshot_key.is_empty() {
            Vec::new()
        } else {
            let request =
                MountsRequest { snapshotter: container.snapshotter.clone(), key: container.snapshot_key.clone() };
            self.snapshots().mounts(request).await?.into_inner().mounts
        };
        let request = CreateTaskRequest {
            container_id: container.id.clone(),
            rootfs,
            stdin: stdio.stdin,
            stdout: stdio.stdout,
            stderr: stdio.stderr,
            terminal: stdio.terminal,
            ..Default::default()
        };
        self.tasks().create(request).await?;
        Ok(self.process(&container.id, ""))
    }

    /// Adds a process to a running container: known, not running yet.
    ///
    /// # Errors
    /// Not found when the container does not run; already exists when the exec id is taken.
    pub async fn add_process(
        &self,
        container: &str,
        exec: &str,
        process: Any,
        stdio: Stdio,
    ) -> Result<Process, ClientError> {
        let request = ExecProcessRequest {
            container_id: container.into(),
            exec_id: exec.into(),
            stdin: stdio.stdin,
            stdout: stdio.stdout,
            stderr: stdio.stderr,
            terminal: stdio.terminal,
            spec: Some(process),
        };
        self.tasks().exec(request).await?;
        Ok(self.process(container, exec))
    }

    /// A process by its ids; whether it exists shows with the first call.
    pub fn process(&self, container: &str, exec: &str) -> Process {
        Process { client: self.clone(), container: container.into(), exec: exec.into() }
    }
}

impl Process {
    /// Runs it. Returns its process id.
    ///
    /// # Errors
    /// What the runtime says, a missing command for one.
    pub async fn start(&self) -> Result<u32, ClientError> {
        let request = StartRequest { container_id: self.container.clone(), exec_id: self.exec.clone() };
        Ok(self.client.tasks().start(request).await?.into_inner().pid)
    }

    /// Waits for its end, however long that takes.
    ///
    /// # Errors
    /// Not found when there is no such process.
    pub async fn wait(&self) -> Result<Exit, ClientError> {
        let request = WaitRequest { container_id: self.container.clone(), exec_id: self.exec.clone() };
        let answer = self.client.tasks().wait(request).await?.into_inner();
        Ok(Exit { status: answer.exit_status, at: time(answer.exited_at) })
    }

    /// Forgets it, once it has ended.
    ///
    /// # Errors
    /// Failed precondition while it runs.
    pub async fn delete(&self) -> Result<Exit, ClientError> {
        let mut tasks = self.client.tasks();
        let answer = if self.exec.is_empty() {
            tasks.delete(DeleteTaskRequest { container_id: self.container.clone() }).await?
        } else {
            tasks
                .delete_process(DeleteProcessRequest {
                    container_id: self.container.clone(),
                    exec_id: self.exec.clone(),
                })
                .await?
        };
        let answer = answer.into_inner();
        Ok(Exit { status: answer.exit_status, at: time(answer.exited_at) })
    }

    /// Sends it a signal, or sends it to all processes of the container.
    ///
    /// # Errors
    /// Not found when it has ended.
    pub async fn kill(&self, signal: u32, all: bool) -> Result<(), ClientError> {
        let request = KillRequest { container_id: self.container.clone(), exec_id: self.exec.clone(), signal, all };
        self.client.tasks().kill(request).await?;
        Ok(())
    }

    /// Asks it to end with `signal`, and ends it with SIGKILL if it has not after `grace`.
    ///
    /// # Errors
    /// Not found when there is no such process. That it ended in between is success.
    pub async fn stop(&self, signal: u32, grace: Duration) -> Result<Exit, ClientError> {
        self.ended_is_fine(self.kill(signal, false).await)?;
        if let Ok(exit) = tokio::time::timeout(grace, self.wait()).await {
            return exit;
        }
        self.ended_is_fine(self.kill(nix::libc::SIGKILL as u32, true).await)?;
        self.wait().await
    }

    fn ended_is_fine(&self, outcome: Result<(), ClientError>) -> Result<(), ClientError> {
        match outcome {
            Err(error) if error.is_not_found() && error.to_string().contains("process already finished") => Ok(()),
            outcome => outcome,
        }
    }

    /// Tells its terminal how large it is.
    ///
    /// # Errors
    /// Not found when it has ended.
    pub async fn resize(&self, width: u32, height: u32) -> Result<(), ClientError> {
        let request =
            ResizePtyRequest { container_id: self.container.clone(), exec_id: self.exec.clone(), width, height };
        self.client.tasks().resize_pty(request).await?;
        Ok(())
    }

    /// Ends its input.
    ///
    /// # Errors
    /// Not found when it has ended.
    pub async fn close_stdin(&self) -> Result<(), ClientError> {
        let request = CloseIoRequest { container_id: self.container.clone(), exec_id: self.exec.clone(), stdin: true };
        self.client.tasks().close_io(request).await?;
        Ok(())
    }

    /// What the daemon knows of it.
    ///
    /// # Errors
    /// Not found when there is no such process.
    pub async fn state(&self) -> Result<proto::process::Process, ClientError> {
        let request = GetRequest { container_id: self.container.clone(), exec_id: self.exec.clone() };
        self.client.tasks().get(request).await?.into_inner().process.ok_or(ClientError::Incomplete("process"))
    }
}

fn time(timestamp: Option<proto::prost_types::Timestamp>) -> Option<SystemTime> {
    timestamp.and_then(|timestamp| proto::convert::time::from_wire(timestamp).ok())
}
