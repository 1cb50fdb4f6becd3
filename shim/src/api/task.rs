//! The task service: requests into [`Command`]s, [`Answer`]s into responses.

use model::task::Exit;
use model::{ContainerId, ExecId};
use prost_types::Any;
use proto::google::rpc::Status as RpcStatus;
use proto::process;
use proto::runc::v1::{CheckpointOptions, ProcessDetails};
use proto::task::v3 as wire;
use proto::ttrpc::{Request, Response};

use super::{Call, message, target, unimplemented};
use crate::command::{AddExec, Answer, CheckpointTask, Command, CreateTask, ProcessState, Refusal, Status};
use crate::io::Streams;
use crate::runtime;

/// The type of an OCI process in an `Any`, without the version of the spec's package.
const PROCESS_TYPE: &str = "opencontainers/runtime-spec/1/Process";

/// A request of this service.
pub(super) fn decode(request: &Request) -> Result<Command, RpcStatus> {
    let command = match request.method.as_str() {
        "State" => {
            let wire::StateRequest { id, exec_id } = message(request)?;
            Command::State(target(id, exec_id))
        }
        "Create" => {
            Command::Create(Box::new(create(message(request)?).map_err(|refusal| proto::status::of(&refusal))?))
        }
        "Start" => {
            let wire::StartRequest { id, exec_id } = message(request)?;
            Command::Start(target(id, exec_id))
        }
        "Delete" => {
            let wire::DeleteRequest { id, exec_id } = message(request)?;
            Command::Delete(target(id, exec_id))
        }
        "Pids" => Command::Pids(message::<wire::PidsRequest>(request)?.id),
        "Pause" => Command::Pause(message::<wire::PauseRequest>(request)?.id),
        "Resume" => Command::Resume(message::<wire::ResumeRequest>(request)?.id),
        "Checkpoint" => {
            Command::Checkpoint(Box::new(checkpoint(message(request)?).map_err(|refusal| proto::status::of(&refusal))?))
        }
        "Kill" => {
            let wire::KillRequest { id, exec_id, signal, all } = message(request)?;
            Command::Kill { target: target(id, exec_id), signal, all }
        }
        "Exec" => Command::Exec(Box::new(add_exec(message(request)?).map_err(|refusal| proto::status::of(&refusal))?)),
        "ResizePty" => {
            let wire::ResizePtyRequest { id, exec_id, width, height } = message(request)?;
            Command::Resize { target: target(id, exec_id), width, height }
        }
        "CloseIO" => {
            let wire::CloseIoRequest { id, exec_id, stdin } = message(request)?;
            Command::CloseInput { target: target(id, exec_id), stdin }
        }
        "Update" => {
            let wire::UpdateTaskRequest { id, resources, .. } = message(request)?;
            Command::Update(id, resources.unwrap_or_default().value)
        }
        "Wait" => {
            let wire::WaitRequest { id, exec_id } = message(request)?;
            Command::Wait(target(id, exec_id))
        }
        "Stats" => Command::Stats(message::<wire::StatsRequest>(request)?.id),
        "Connect" => Command::Connect(message::<wire::ConnectRequest>(request)?.id),
        "Shutdown" => Command::Shutdown,
        _ => return Err(unimplemented(request)),
    };
    Ok(command)
}

fn create(request: wire::CreateTaskRequest) -> Result<CreateTask, Refusal> {
    if !request.bundle.starts_with('/') {
        return Err(Refusal::Invalid(format!("bundle {:?} is no absolute path", request.bundle)));
    }
    let options = runtime::options(request.options.as_ref())?;
    // Daemons pass the option on as the checkpoint; one that does not means the same.
    let checkpoint = [request.checkpoint, options.criu_image_path.clone()].into_iter().find(|path| !path.is_empty());
    if let Some(path) = checkpoint.as_ref().filter(|path| !path.starts_with('/')) {
        return Err(Refusal::Invalid(format!("checkpoint {path:?} is no absolute path")));
    }
    Ok(CreateTask {
        id: ContainerId::new(request.id).map_err(|error| Refusal::Invalid(error.to_string()))?,
        bundle: request.bundle.into(),
        rootfs: proto::convert::mount::from_wire(request.rootfs),
        streams: Streams {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        },
        options,
        // The images name their parent themselves.
        checkpoint: checkpoint.map(Into::into),
    })
}

fn checkpoint(request: wire::CheckpointTaskRequest) -> Result<CheckpointTask, Refusal> {
    let options: CheckpointOptions = match &request.options {
        Some(any) if !any.value.is_empty() => proto::any::unpack(any)
            .map_err(|error| Refusal::Invalid(format!("checkpoint options: {error}")))?
            .ok_or_else(|| Refusal::Invalid(format!("checkpoint options of type {:?}", any.type_url)))?,
        _ => CheckpointOptions::default(),
    };
    let path = [request.path, options.image_path.clone()].into_iter().find(|path| !path.is_empty()).unwrap_or_default();
    if !path.starts_with('/') {
        return Err(Refusal::Invalid(format!("checkpoint path {path:?} is no absolute path")));
    }
    Ok(CheckpointTask { id: request.id, path: path.into(), options })
}

fn add_exec(request: wire::ExecProcessRequest) -> Result<AddExec, Refusal> {
    let spec = request.spec.unwrap_or_default();
    if !spec.type_url.is_empty() && !spec.type_url.ends_with(PROCESS_TYPE) {
        return Err(Refusal::Invalid(format!("exec spec of type {:?}", spec.type_url)));
    }
    Ok(AddExec {
        id: request.id,
        exec: ExecId::new(request.exec_id).map_err(|error| Refusal::Invalid(error.to_string()))?,
        streams: Streams {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        },
        process: spec.value,
    })
}

/// The response that carries `answer`. One message has all the forms an answer needs: which it is follows from the answer
/// alone, because each call has but one.
pub(super) fn encode(answer: &Answer, call: Call) -> Response {
    match (answer, call) {
        (Answer::Pid(pid), Call::Create) => Response::ok(&wire::CreateTaskResponse { pid: *pid }),
        (Answer::Pid(pid), _) => Response::ok(&wire::StartResponse { pid: *pid }),
        (Answer::Exited { exit, .. }, Call::Wait) => {
            let (exit_status, exited_at) = exited(*exit);
            Response::ok(&wire::WaitResponse { exit_status, exited_at })
        }
        (Answer::Exited { pid, exit }, _) => {
            let (exit_status, exited_at) = exited(*exit);
            Response::ok(&wire::DeleteResponse { pid: *pid, exit_status, exited_at })
        }
        (Answer::State(state), _) => Response::ok(&state_response(state)),
        (Answer::Pids(pids), _) => {
            let processes = pids.iter().map(|(pid, exec)| process_info(*pid, exec.as_deref())).collect();
            Response::ok(&wire::PidsResponse { processes })
        }
        (Answer::Stats(usage), _) => Response::ok(&wire::StatsResponse { stats: Some(crate::stats::to_wire(usage)) }),
        (Answer::Connected { shim, task }, _) => Response::ok(&wire::ConnectResponse {
            shim_pid: *shim,
            task_pid: *task,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }),
        // The sandbox's have been encoded already.
        (Answer::Done | Answer::Sandbox(_) | Answer::Platform | Answer::SandboxMetrics(..), _) => Response::ok(&()),
    }
}

fn exited(exit: Option<Exit>) -> (u32, Option<prost_types::Timestamp>) {
    (exit.map_or(0, |exit| exit.status), exit.map(|exit| proto::convert::time::to_wire(exit.at)))
}

fn state_response(state: &ProcessState) -> wire::StateResponse {
    let (exit_status, exited_at) = exited(state.exit);
    let status = match state.status {
        Status::Created => process::Status::Created,
        Status::Running => process::Status::Running,
        Status::Pausing => process::Status::Pausing,
        Status::Paused => process::Status::Paused,
        Status::Stopped => process::Status::Stopped,
    };
    wire::StateResponse {
        id: state.target.id.clone(),
        bundle: state.bundle.display().to_string(),
        pid: state.pid,
        status: status.into(),
        stdin: state.streams.stdin.clone(),
        stdout: state.streams.stdout.clone(),
        stderr: state.streams.stderr.clone(),
        terminal: state.streams.terminal,
        exit_status,
        exited_at,
        exec_id: state.target.exec.clone().unwrap_or_default(),
    }
}

fn process_info(pid: u32, exec: Option<&str>) -> process::ProcessInfo {
    let details = |exec: &str| -> Any { proto::any::pack(&ProcessDetails { exec_id: exec.to_owned() }) };
    process::ProcessInfo { pid, info: exec.map(details) }
}
