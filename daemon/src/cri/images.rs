//! Images.

use proto::cri as wire;

use super::{Cri, CriError};
use crate::api::Failure;

/// Facts about images that are costly to find out, by id.
#[derive(Debug, Default)]
pub struct Facts {}

fn missing(what: &str) -> Failure {
    CriError::Unimplemented(format!("{what} is not there yet")).into()
}

impl Cri {
    pub(super) async fn list_images(&self, _r: wire::ListImagesRequest) -> Result<wire::ListImagesResponse, Failure> {
        Err(missing("ListImages"))
    }
    pub(super) async fn image_status(
        &self,
        _r: wire::ImageStatusRequest,
    ) -> Result<wire::ImageStatusResponse, Failure> {
        Err(missing("ImageStatus"))
    }
    pub(super) async fn pull_image(&self, _r: wire::PullImageRequest) -> Result<wire::PullImageResponse, Failure> {
        Err(missing("PullImage"))
    }
    pub(super) async fn remove_image(
        &self,
        _r: wire::RemoveImageRequest,
    ) -> Result<wire::RemoveImageResponse, Failure> {
        Err(missing("RemoveImage"))
    }
    pub(super) async fn image_fs_info(
        &self,
        _r: wire::ImageFsInfoRequest,
    ) -> Result<wire::ImageFsInfoResponse, Failure> {
        Err(missing("ImageFsInfo"))
    }
}
