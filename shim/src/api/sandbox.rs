//! The sandbox service: requests into [`Command`]s, answers into responses.

use std::time::Duration;

use model::ContainerId;
use model::platform::Platform;
use proto::google::rpc::Status as RpcStatus;
use proto::sandbox as wire;
use proto::ttrpc::{Request, Response};

use super::{message, unimplemented};
use crate::command::{Command, CreateSandbox, Refusal, SandboxCommand, SandboxState};
use crate::runtime;

/// A request of this service.
pub(super) fn decode(request: &Request) -> Result<Command, RpcStatus> {
    let command = match request.method.as_str() {
        "CreateSandbox" => SandboxCommand::Create(Box::new(
            create(message(request)?).map_err(|refusal: Refusal| proto::status::of(&refusal))?,
        )),
        "StartSandbox" => SandboxCommand::Start(message::<wire::StartSandboxRequest>(request)?.sandbox_id),
        "Platform" => SandboxCommand::Platform(message::<wire::PlatformRequest>(request)?.sandbox_id),
        "StopSandbox" => {
            let wire::StopSandboxRequest { sandbox_id, timeout_secs } = message(request)?;
            SandboxCommand::Stop(sandbox_id, Duration::from_secs(timeout_secs.into()))
        }
        "WaitSandbox" => SandboxCommand::Wait(message::<wire::WaitSandboxRequest>(request)?.sandbox_id),
        "SandboxStatus" => {
            let wire::SandboxStatusRequest { sandbox_id, verbose } = message(request)?;
            SandboxCommand::Status { id: sandbox_id, is_verbose: verbose }
        }
        "PingSandbox" => SandboxCommand::Ping(message::<wire::PingRequest>(request)?.sandbox_id),
        "ShutdownSandbox" => SandboxCommand::Shutdown(message::<wire::ShutdownSandboxRequest>(request)?.sandbox_id),
        "SandboxMetrics" => SandboxCommand::Metrics(message::<wire::SandboxMetricsRequest>(request)?.sandbox_id),
        _ => return Err(unimplemented(request)),
    };
    Ok(Command::Sandbox(command))
}

fn create(request: wire::CreateSandboxRequest) -> Result<CreateSandbox, Refusal> {
    if !request.bundle_path.starts_with('/') {
        return Err(Refusal::Invalid(format!("bundle {:?} is no absolute path", request.bundle_path)));
    }
    Ok(CreateSandbox {
        id: ContainerId::new(request.sandbox_id).map_err(|error| Refusal::Invalid(error.to_string()))?,
        bundle: request.bundle_path.into(),
        rootfs: proto::convert::mount::from_wire(request.rootfs),
        // Also used for what a client knows of its sandbox, in types of its own.
        options: runtime::options(request.options.as_ref()).unwrap_or_default(),
        netns: request.netns_path,
    })
}

/// The response to `StartSandbox`.
pub(super) fn started(state: &SandboxState) -> Response {
    Response::ok(&wire::StartSandboxResponse {
        pid: state.pid,
        created_at: Some(proto::convert::time::to_wire(state.created_at)),
        spec: None,
    })
}

/// The response to `SandboxStatus`.
pub(super) fn status(state: &SandboxState) -> Response {
    Response::ok(&wire::SandboxStatusResponse {
        sandbox_id: state.id.clone(),
        pid: state.pid,
        state: if state.is_ready { "SANDBOX_READY" } else { "SANDBOX_NOTREADY" }.to_owned(),
        info: state.info.clone(),
        created_at: Some(proto::convert::time::to_wire(state.created_at)),
        exited_at: state.exit.map(|exit| proto::convert::time::to_wire(exit.at)),
        extra: None,
    })
}

/// The response to `WaitSandbox`.
pub(super) fn waited(exit: Option<model::task::Exit>) -> Response {
    Response::ok(&wire::WaitSandboxResponse {
        exit_status: exit.map_or(0, |exit| exit.status),
        exited_at: exit.map(|exit| proto::convert::time::to_wire(exit.at)),
    })
}

/// The response to `Platform`.
pub(super) fn platform() -> Response {
    Response::ok(&wire::PlatformResponse { platform: Some(Platform::host().into()) })
}

/// The response to `SandboxMetrics`.
pub(super) fn metrics(id: &str, usage: Option<&crate::usage::Usage>) -> Response {
    Response::ok(&wire::SandboxMetricsResponse {
        metrics: Some(proto::types::Metric {
            timestamp: Some(std::time::SystemTime::now().into()),
            id: id.to_owned(),
            data: usage.map(crate::stats::to_wire),
        }),
    })
}
