//! ImageService on the wire: each call goes to the method of [`Cri`] with its name.

use futures_util::{StreamExt, stream};
use proto::cri as wire;
use proto::cri::image_service_server::ImageService;
use tonic::{Request, Response, Status};

use super::Cri;
use crate::api::Reply;

#[tonic::async_trait]
impl ImageService for Cri {
    async fn list_images(
        &self,
        request: Request<wire::ListImagesRequest>,
    ) -> Result<Response<wire::ListImagesResponse>, Status> {
        Ok(Response::new(Self::list_images(self, request.into_inner()).await?))
    }

    async fn image_status(
        &self,
        request: Request<wire::ImageStatusRequest>,
    ) -> Result<Response<wire::ImageStatusResponse>, Status> {
        Ok(Response::new(Self::image_status(self, request.into_inner()).await?))
    }

    async fn pull_image(
        &self,
        request: Request<wire::PullImageRequest>,
    ) -> Result<Response<wire::PullImageResponse>, Status> {
        Ok(Response::new(Self::pull_image(self, request.into_inner()).await?))
    }

    async fn remove_image(
        &self,
        request: Request<wire::RemoveImageRequest>,
    ) -> Result<Response<wire::RemoveImageResponse>, Status> {
        Ok(Response::new(Self::remove_image(self, request.into_inner()).await?))
    }

    async fn image_fs_info(
        &self,
        request: Request<wire::ImageFsInfoRequest>,
    ) -> Result<Response<wire::ImageFsInfoResponse>, Status> {
        Ok(Response::new(Self::image_fs_info(self, request.into_inner()).await?))
    }

    type StreamImagesStream = Reply<wire::StreamImagesResponse>;

    async fn stream_images(
        &self,
        request: Request<wire::StreamImagesRequest>,
    ) -> Result<Response<Self::StreamImagesStream>, Status> {
        let list = Self::list_images(self, wire::ListImagesRequest { filter: request.into_inner().filter }).await?;
        let items = stream::iter(list.images).map(|image| Ok(wire::StreamImagesResponse { images: vec![image] }));
        Ok(Response::new(items.boxed()))
    }
}
