//! The images service: names for content.

use model::Descriptor;
use model::error::{Classify, Kind};
use proto::convert::time;
use proto::services::images::v1 as wire;
use proto::types;
use tonic::{Request, Response, Status};

use super::fields::{self, UnknownPath};
use super::{Failure, unary};
use crate::blocking;
use crate::meta::Meta;
use crate::meta::images::{Image, ImagePath, ImageUpdate};

/// The service.
#[derive(Debug, Clone)]
pub struct Service {
    meta: Meta,
}

/// A request without something that it must have.
#[derive(Debug, thiserror::Error)]
#[error("{what} must be set")]
struct Missing {
    what: &'static str,
}

impl Classify for Missing {
    fn kind(&self) -> Kind {
        Kind::InvalidArgument
    }
}

impl Service {
    /// Serves the images of `meta`.
    pub fn new(meta: Meta) -> Self {
        Self { meta }
    }
}

fn to_wire(image: Image) -> wire::Image {
    let Image { name, record } = image;
    wire::Image {
        name,
        labels: record.labels,
        target: Some(record.target.into()),
        created_at: Some(time::to_wire(record.created_at)),
        updated_at: Some(time::to_wire(record.updated_at)),
    }
}

fn image_of(image: Option<wire::Image>) -> Result<wire::Image, Failure> {
    Ok(image.ok_or(Missing { what: "image" })?)
}

fn target_of(target: Option<types::Descriptor>) -> Result<Descriptor, Failure> {
    Ok(target.ok_or(Missing { what: "image target" })?.try_into()?)
}

fn epoch(time: Option<prost_types::Timestamp>) -> Result<Option<std::time::SystemTime>, Failure> {
    Ok(time.map(time::from_wire).transpose()?)
}

fn update_paths(name: &str, mask: Option<&prost_types::FieldMask>) -> Result<Option<Vec<ImagePath>>, UnknownPath> {
    let Some(paths) = fields::paths(mask) else { return Ok(None) };
    let read = |path: &fields::Path| {
        Ok(match path.parts() {
            ("labels", None) => ImagePath::Labels,
            ("labels", Some(key)) => ImagePath::Label(key.to_owned()),
            ("target", None) => ImagePath::Target,
            ("annotations", None) => ImagePath::Annotations,
            ("annotations", Some(key)) => ImagePath::Annotation(key.to_owned()),
            _ => return Err(path.unknown(name)),
        })
    };
    paths.iter().map(read).collect::<Result<_, _>>().map(Some)
}

#[tonic::async_trait]
impl wire::images_server::Images for Service {
    async fn get(&self, request: Request<wire::GetImageRequest>) -> Result<Response<wire::GetImageResponse>, Status> {
        unary(request, async |scope, wire::GetImageRequest { name }| {
            let meta = self.meta.clone();
            let image = blocking::run(move || meta.image(&scope.namespace, &name)).await?;
            Ok(wire::GetImageResponse { image: Some(to_wire(image)) })
        })
        .await
    }

    async fn list(
        &self,
        request: Request<wire::ListImagesRequest>,
    ) -> Result<Response<wire::ListImagesResponse>, Status> {
        unary(request, async |scope, wire::ListImagesRequest { filters }| {
            let meta = self.meta.clone();
            let images = blocking::run(move || meta.images(&scope.namespace, &filters)).await?;
            Ok(wire::ListImagesResponse { images: images.into_iter().map(to_wire).collect() })
        })
        .await
    }

    async fn create(
        &self,
        request: Request<wire::CreateImageRequest>,
    ) -> Result<Response<wire::CreateImageResponse>, Status> {
        unary(request, async |scope, wire::CreateImageRequest { image, source_date_epoch }| {
            let wire::Image { name, labels, target, .. } = image_of(image)?;
            let (target, time) = (target_of(target)?, epoch(source_date_epoch)?);
            let image = self.meta.create_image(scope, name, labels, target, time).await?;
            Ok(wire::CreateImageResponse { image: Some(to_wire(image)) })
        })
        .await
    }

    async fn update(
        &self,
        request: Request<wire::UpdateImageRequest>,
    ) -> Result<Response<wire::UpdateImageResponse>, Status> {
        unary(request, async |scope, wire::UpdateImageRequest { image, update_mask, source_date_epoch }| {
            let wire::Image { name, labels, target, .. } = image_of(image)?;
            let paths = update_paths(&name, update_mask.as_ref())?;
            let annotations = target.as_ref().map(|target| target.annotations.clone()).unwrap_or_default();
            // Who changes something else need not send a whole target.
            let means_target = paths.as_ref().is_none_or(|paths| paths.contains(&ImagePath::Target));
            let target = if means_target { Some(target_of(target)?) } else { None };
            let time = epoch(source_date_epoch)?;
            let update = ImageUpdate { name, labels, target, annotations, paths, time };
            let image = self.meta.update_image(scope, update).await?;
            Ok(wire::UpdateImageResponse { image: Some(to_wire(image)) })
        })
        .await
    }

    async fn delete(&self, request: Request<wire::DeleteImageRequest>) -> Result<Response<()>, Status> {
        unary(request, async |scope, wire::DeleteImageRequest { name, sync, target }| {
            let target = target.map(|target| target.digest.parse::<model::Digest>()).transpose()?;
            self.meta.delete_image(scope, name, target).await?;
            if sync { self.meta.trigger().collect().await } else { Ok(()) }
        })
        .await
    }
}
