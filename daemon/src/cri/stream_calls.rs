//! Exec, attach and port-forward as calls: what is checked before a URL is given out, and commands that run to their end.

use proto::cri as wire;

use super::{Cri, CriError};
use crate::api::Failure;

fn missing(what: &str) -> Failure {
    CriError::Unimplemented(format!("{what} is not there yet")).into()
}

impl Cri {
    pub(super) async fn exec_sync(&self, _request: wire::ExecSyncRequest) -> Result<wire::ExecSyncResponse, Failure> {
        Err(missing("ExecSync"))
    }

    pub(super) async fn exec(&self, _request: wire::ExecRequest) -> Result<wire::ExecResponse, Failure> {
        Err(missing("Exec"))
    }

    pub(super) async fn attach(&self, _request: wire::AttachRequest) -> Result<wire::AttachResponse, Failure> {
        Err(missing("Attach"))
    }

    pub(super) async fn port_forward(
        &self,
        _request: wire::PortForwardRequest,
    ) -> Result<wire::PortForwardResponse, Failure> {
        Err(missing("PortForward"))
    }

    /// Starts the streaming server. Called once, before clients are served; without it the three calls above fail.
    pub(super) async fn start_streaming(&self) -> Result<(), Failure> {
        Ok(())
    }
}
