//! The services: that of tasks, under the names of its versions 2 and 3, and that of logs. Decodes a request into a
//! [`Command`], encodes an [`Answer`]. Holds no state and decides nothing.

use model::task::Exit;
use model::{Classify, ContainerId, ExecId, Kind};
use prost::Message;
use prost_types::Any;
use proto::gantry::shim::v1 as logs;
use proto::google::rpc::Status as RpcStatus;
use proto::process;
use proto::runc::v1::ProcessDetails;
use proto::task::v3 as wire;
use proto::ttrpc::{Request, Response};

use crate::command::{AddExec, Answer, Attach, Command, CreateTask, ProcessState, Refusal, Status, Target};
use crate::io::Streams;
use crate::runtime;

/// The type of an OCI process in an `Any`, without the version of the spec's package.
const PROCESS_TYPE: &str = "opencontainers/runtime-spec/1/Process";

/// What a request asks for.
///
/// # Errors
/// The status to answer with: no such service or method, or a request that makes no sense.
pub(crate) fn decode(request: &Request) -> Result<Command, RpcStatus> {
    match request.service.as_str() {
        proto::service::TASK_V2 | proto::service::TASK_V3 => task(request),
        proto::service::LOGS => logs(request),
        other => Err(proto::status::new(Kind::Unimplemented, format!("service {other} not found"))),
    }
}

fn unimplemented(request: &Request) -> RpcStatus {
    Response::unimplemented(&request.service, &request.method).status.unwrap_or_default()
}

fn logs(request: &Request) -> Result<Command, RpcStatus> {
    Ok(match request.method.as_str() {
        "Reopen" => {
            let logs::ReopenRequest { id, exec_id } = message(request)?;
            Command::Reopen(target(id, exec_id))
        }
        "Attach" => {
            let logs::AttachRequest { id, exec_id, stdin, stdout, stderr } = message(request)?;
            Command::Attach(Attach { target: target(id, exec_id), stdin, stdout, stderr })
        }
        _ => return Err(unimplemented(request)),
    })
}

fn task(request: &Request) -> Result<Command, RpcStatus> {
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

fn message<M: Message + Default>(request: &Request) -> Result<M, RpcStatus> {
    request.message().map_err(|error| {
        proto::status::new(Kind::InvalidArgument, format!("malformed {} request: {error}", request.method))
    })
}

fn target(id: String, exec: String) -> Target {
    Target { id, exec: Some(exec).filter(|exec| !exec.is_empty()) }
}

fn create(request: wire::CreateTaskRequest) -> Result<CreateTask, Refusal> {
    if !request.checkpoint.is_empty() || !request.parent_checkpoint.is_empty() {
        return Err(Refusal::Unsupported("restoring from a checkpoint"));
    }
    if !request.bundle.starts_with('/') {
        return Err(Refusal::Invalid(format!("bundle {:?} is no absolute path", request.bundle)));
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
        options: runtime::options(request.options.as_ref())?,
    })
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
pub(crate) fn encode(answer: &Answer, call: Call) -> Response {
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
        (Answer::Stats(metrics), _) => {
            Response::ok(&wire::StatsResponse { stats: Some(crate::stats::to_wire(metrics)) })
        }
        (Answer::Connected { shim, task }, _) => Response::ok(&wire::ConnectResponse {
            shim_pid: *shim,
            task_pid: *task,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }),
        (Answer::Done, _) => Response::ok(&()),
    }
}

/// Which call an answer is for, where two calls have the same answer in different messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// Create: its pid is in a message of its own.
    Create,
    /// Wait: its exit has no pid.
    Wait,
    /// Every other.
    Other,
}

impl Call {
    /// The call that `command` came by.
    pub(crate) fn of(command: &Command) -> Self {
        match command {
            Command::Create(_) => Self::Create,
            Command::Wait(_) => Self::Wait,
            _ => Self::Other,
        }
    }
}

/// The response that says why not.
pub(crate) fn refuse(refusal: &Refusal) -> Response {
    debug_assert!(!refusal.wire_message().is_empty());
    Response::failed(proto::status::of(refusal))
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

#[cfg(test)]
mod tests {
    use proto::service::{TASK_V2, TASK_V3};

    use super::*;

    #[test]
    fn both_versions_have_the_same_calls() {
        let message = wire::KillRequest { id: "c".into(), exec_id: "e".into(), signal: 9, all: true };
        let wanted = Command::Kill { target: Target { id: "c".into(), exec: Some("e".into()) }, signal: 9, all: true };
        for service in [TASK_V2, TASK_V3] {
            assert_eq!(decode(&Request::new(service, "Kill", &message)), Ok(wanted.clone()));
        }
    }

    #[test]
    fn what_is_not_served_is_unimplemented() {
        for (service, method) in [(TASK_V3, "Checkpoint"), (TASK_V2, "Nonsense"), ("containerd.task.v9.Task", "State")]
        {
            let status = decode(&Request::new(service, method, &())).unwrap_err();
            assert_eq!(proto::status::kind(status.code), Kind::Unimplemented, "{service}/{method}");
        }
    }

    #[test]
    fn nonsense_is_refused_before_it_reaches_the_driver() {
        let mut broken = Request::new(TASK_V3, "State", &());
        broken.payload = vec![0xff, 0xff].into();
        let exec = |exec_id: &str, type_url: &str| {
            let spec = Some(Any { type_url: type_url.into(), value: Vec::new() });
            Request::new(
                TASK_V3,
                "Exec",
                &wire::ExecProcessRequest { id: "c".into(), exec_id: exec_id.into(), spec, ..Default::default() },
            )
        };
        let create = Request::new(
            TASK_V3,
            "Create",
            &wire::CreateTaskRequest { id: "../x".into(), bundle: "/b".into(), ..Default::default() },
        );
        for request in [broken, exec("", ""), exec("../x", ""), exec("e", "some.other.Type"), create] {
            let status = decode(&request).unwrap_err();
            assert_eq!(proto::status::kind(status.code), Kind::InvalidArgument, "{request:?}: {status:?}");
        }
        assert!(decode(&exec("e", "types.containerd.io/opencontainers/runtime-spec/1/Process")).is_ok());
    }

    #[test]
    fn a_pid_is_in_the_message_of_its_call() {
        let answer = Answer::Pid(7);
        let created: wire::CreateTaskResponse = encode(&answer, Call::Create).into_result().unwrap();
        let started: wire::StartResponse = encode(&answer, Call::Other).into_result().unwrap();
        assert_eq!((created.pid, started.pid), (7, 7));
        let exit = Exit { status: 137, at: std::time::SystemTime::UNIX_EPOCH };
        let answer = Answer::Exited { pid: 7, exit: Some(exit) };
        let waited: wire::WaitResponse = encode(&answer, Call::Wait).into_result().unwrap();
        let deleted: wire::DeleteResponse = encode(&answer, Call::Other).into_result().unwrap();
        assert_eq!((waited.exit_status, deleted.exit_status, deleted.pid), (137, 137, 7));
    }

    #[test]
    fn refusals_have_the_texts_that_clients_search_for() {
        let text = |refusal: &Refusal| refuse(refusal).status.unwrap();
        let finished = text(&Refusal::Finished);
        assert_eq!((finished.code, finished.message.as_str()), (5, "process already finished: not found"));
        assert_eq!(text(&Refusal::ProcessExists("e".into())).message, "id e: already exists");
    }
}
