//! The service of logs and attached clients.

use proto::gantry::shim::v1 as wire;
use proto::google::rpc::Status as RpcStatus;
use proto::ttrpc::Request;

use super::{message, target, unimplemented};
use crate::command::{Attach, Command};

/// A request of this service. All of its answers are empty.
pub(super) fn decode(request: &Request) -> Result<Command, RpcStatus> {
    Ok(match request.method.as_str() {
        "Reopen" => {
            let wire::ReopenRequest { id, exec_id } = message(request)?;
            Command::Reopen(target(id, exec_id))
        }
        "Attach" => {
            let wire::AttachRequest { id, exec_id, stdin, stdout, stderr } = message(request)?;
            Command::Attach(Attach { target: target(id, exec_id), stdin, stdout, stderr })
        }
        _ => return Err(unimplemented(request)),
    })
}
