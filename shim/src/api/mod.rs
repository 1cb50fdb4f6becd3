//! The services on the socket: tasks, under the names of their versions 2 and 3, the sandbox, logs. Decodes a request into a
//! [`Command`], encodes an [`Answer`]. Holds no state and decides nothing.

mod logs;
mod sandbox;
mod task;

use model::{Classify, Kind};
use prost::Message;
use proto::google::rpc::Status as RpcStatus;
use proto::ttrpc::{Request, Response};

use crate::command::{Answer, Command, Refusal, SandboxCommand, Target};

/// What a request asks for.
///
/// # Errors
/// The status to answer with: no such service or method, or a request that makes no sense.
pub(crate) fn decode(request: &Request) -> Result<Command, RpcStatus> {
    match request.service.as_str() {
        proto::service::TASK_V2 | proto::service::TASK_V3 => task::decode(request),
        proto::service::SANDBOX => sandbox::decode(request),
        proto::service::LOGS => logs::decode(request),
        other => Err(proto::status::new(Kind::Unimplemented, format!("service {other} not found"))),
    }
}

fn unimplemented(request: &Request) -> RpcStatus {
    Response::unimplemented(&request.service, &request.method).status.unwrap_or_default()
}

fn message<M: Message + Default>(request: &Request) -> Result<M, RpcStatus> {
    request.message().map_err(|error| {
        proto::status::new(Kind::InvalidArgument, format!("malformed {} request: {error}", request.method))
    })
}

fn target(id: String, exec: String) -> Target {
    Target { id, exec: Some(exec).filter(|exec| !exec.is_empty()) }
}

/// The response that carries `answer`. Which message it is follows from the answer, and where several have the same answer,
/// from the call.
pub(crate) fn encode(answer: &Answer, call: Call) -> Response {
    match (answer, call) {
        (_, Call::Empty) => Response::ok(&()),
        (Answer::Exited { exit, .. }, Call::WaitSandbox) => sandbox::waited(*exit),
        (Answer::Sandbox(state), Call::StartSandbox) => sandbox::started(state),
        (Answer::Sandbox(state), _) => sandbox::status(state),
        (Answer::Platform, _) => sandbox::platform(),
        (Answer::SandboxMetrics(id, metrics), _) => sandbox::metrics(id, metrics.as_deref()),
        _ => task::encode(answer, call),
    }
}

/// Which call an answer is for, where several calls have the same answer in different messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// Create: its pid is in a message of its own.
    Create,
    /// Wait: its exit has no pid.
    Wait,
    /// The start of a sandbox.
    StartSandbox,
    /// The end of a sandbox.
    WaitSandbox,
    /// One that only says that it is done.
    Empty,
    /// Every other.
    Other,
}

impl Call {
    /// The call that `command` came by.
    pub(crate) fn of(command: &Command) -> Self {
        match command {
            Command::Create(_) => Self::Create,
            Command::Wait(_) => Self::Wait,
            Command::Sandbox(SandboxCommand::Start(_)) => Self::StartSandbox,
            Command::Sandbox(SandboxCommand::Wait(_)) => Self::WaitSandbox,
            Command::Sandbox(
                SandboxCommand::Create(_)
                | SandboxCommand::Stop(..)
                | SandboxCommand::Ping(_)
                | SandboxCommand::Shutdown(_),
            ) => Self::Empty,
            _ => Self::Other,
        }
    }
}

/// The response that says why not.
pub(crate) fn refuse(refusal: &Refusal) -> Response {
    debug_assert!(!refusal.wire_message().is_empty());
    Response::failed(proto::status::of(refusal))
}

#[cfg(test)]
mod tests {
    use model::task::Exit;
    use prost_types::Any;
    use proto::service::{TASK_V2, TASK_V3};
    use proto::task::v3 as wire;

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
        for (service, method) in [(TASK_V3, "Reopen"), (TASK_V2, "Nonsense"), ("containerd.task.v9.Task", "State")] {
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
