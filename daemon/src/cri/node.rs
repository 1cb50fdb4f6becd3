//! The runtime itself: version, status, configuration.

use proto::cri as wire;

use super::{Cri, CriError};
use crate::api::Failure;

fn missing(what: &str) -> Failure {
    CriError::Unimplemented(format!("{what} is not there yet")).into()
}

impl Cri {
    pub(super) async fn version(&self, _r: wire::VersionRequest) -> Result<wire::VersionResponse, Failure> {
        Err(missing("Version"))
    }
    pub(super) async fn status(&self, _r: wire::StatusRequest) -> Result<wire::StatusResponse, Failure> {
        Err(missing("Status"))
    }
    pub(super) async fn runtime_config(
        &self,
        _r: wire::RuntimeConfigRequest,
    ) -> Result<wire::RuntimeConfigResponse, Failure> {
        Err(missing("RuntimeConfig"))
    }
    pub(super) async fn update_runtime_config(
        &self,
        _r: wire::UpdateRuntimeConfigRequest,
    ) -> Result<wire::UpdateRuntimeConfigResponse, Failure> {
        Err(missing("UpdateRuntimeConfig"))
    }
}
