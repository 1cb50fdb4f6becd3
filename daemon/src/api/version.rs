//! The version service: as which containerd clients shall treat this daemon.

use proto::services::version::v1::VersionResponse;
use proto::services::version::v1::version_server;
use tonic::{Request, Response, Status};

use super::unscoped;

/// The version that clients see. They choose their ways by the first part, so it is the line of containerd whose calls are
/// served; the rest is ours.
pub const VERSION: &str = concat!("v2.3.0+gantry.", env!("CARGO_PKG_VERSION"));

/// The commit this was built from, if the build was told.
pub const REVISION: &str = match option_env!("GANTRY_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// The service.
#[derive(Debug, Clone, Copy, Default)]
pub struct Version;

#[tonic::async_trait]
impl version_server::Version for Version {
    async fn version(&self, request: Request<()>) -> Result<Response<VersionResponse>, Status> {
        unscoped(request, async |()| Ok(VersionResponse { version: VERSION.into(), revision: REVISION.into() })).await
    }
}
