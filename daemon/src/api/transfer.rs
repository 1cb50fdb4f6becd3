//! The transfer service: which pair of ends is which operation on images.

use model::error::{Classify, Kind};
use model::platform::Platform;
use model::reference::Reference;
use prost::Name;
use prost_types::Any;
use proto::services::transfer::v1::TransferRequest;
use proto::services::transfer::v1::transfer_server::Transfer as Server;
use proto::types;
use proto::types::transfer::{
    HttpDebug, ImageExportStream, ImageImportStream, ImageReference, ImageStore, OciRegistry, Progress,
    RegistryResolver, UnpackConfiguration,
};
use tonic::{Request, Response, Status};

use super::{Failure, Scope, unary};
use crate::images::export::LeaveOut;
use crate::images::names::Naming;
use crate::images::operations::Kind as Operation;
use crate::images::progress::Reporter;
use crate::images::registry::auth::Asker;
use crate::images::registry::client::{Purpose, Remote};
use crate::images::registry::scheme::Scheme;
use crate::images::registry::trace::{Level, Trace};
use crate::images::{Door, Images, RegistryAccess, TransferError, Unpack, Wanted};
use crate::streaming::bytes::{Receiver, Sender};
use crate::streaming::{Channel, Streams};

/// The service.
#[derive(Debug, Clone)]
pub struct Service {
    images: Images,
    streams: Streams,
}

/// Why a transfer is not even begun.
#[derive(Debug, thiserror::Error)]
enum Refused {
    /// One end is missing.
    #[error("a transfer needs a {end}")]
    NoEnd { end: &'static str },
    /// An end cannot be read.
    #[error("cannot read {type_url:?}")]
    Malformed { type_url: String, source: prost::DecodeError },
    /// No transfer leads from the one to the other.
    #[error("transfer from {from:?} to {to:?} is not supported")]
    Pair { from: String, to: String },
    /// A scheme that is neither of the two.
    #[error("unknown scheme {scheme:?}, it must be \"http\" or \"https\"")]
    Scheme { scheme: String },
}

impl Classify for Refused {
    fn kind(&self) -> Kind {
        match self {
            Self::NoEnd { .. } | Self::Malformed { .. } | Self::Scheme { .. } => Kind::InvalidArgument,
            Self::Pair { .. } => Kind::Unimplemented,
        }
    }
}

/// One end of a transfer.
enum End {
    Registry(OciRegistry),
    Store(ImageStore),
    Import(ImageImportStream),
    Export(ImageExportStream),
    /// Something that images are not moved from or to.
    Other,
}

impl End {
    fn read(any: &Any) -> Result<Self, Refused> {
        fn open<M: Name + Default>(any: &Any) -> Result<M, Refused> {
            let malformed = |source| Refused::Malformed { type_url: any.type_url.clone(), source };
            Ok(proto::any::unpack(any).map_err(malformed)?.unwrap_or_default())
        }
        Ok(if proto::any::is::<OciRegistry>(any) {
            Self::Registry(open(any)?)
        } else if proto::any::is::<ImageStore>(any) {
            Self::Store(open(any)?)
        } else if proto::any::is::<ImageImportStream>(any) {
            Self::Import(open(any)?)
        } else if proto::any::is::<ImageExportStream>(any) {
            Self::Export(open(any)?)
        } else {
            Self::Other
        })
    }
}

impl Service {
    /// Moves images with `images`, over `streams` where clients take part.
    pub fn new(images: Images, streams: Streams) -> Self {
        Self { images, streams }
    }

    async fn run(&self, scope: Scope, request: TransferRequest) -> Result<(), Failure> {
        let source = request.source.ok_or(Refused::NoEnd { end: "source" })?;
        let destination = request.destination.ok_or(Refused::NoEnd { end: "destination" })?;
        let ends = (End::read(&source)?, End::read(&destination)?);
        let progress = match request.options.unwrap_or_default().progress_stream.as_str() {
            "" => None,
            id => Some(self.streams.claim(&scope.namespace, id)?),
        };
        match ends {
            (End::Registry(registry), End::Store(store)) => self.pull(scope, registry, store, progress).await,
            (End::Store(store), End::Registry(registry)) => self.push(scope, store, registry, progress).await,
            (End::Import(stream), End::Store(store)) => self.import(scope, stream, store, progress).await,
            (End::Store(store), End::Export(stream)) => self.export(scope, store, stream, progress).await,
            (End::Store(from), End::Store(to)) => Ok(self.images.tag(scope, &from.name, &wanted(to)).await?),
            _ => Err(Refused::Pair { from: source.type_url, to: destination.type_url }.into()),
        }
    }

    async fn pull(
        &self,
        scope: Scope,
        registry: OciRegistry,
        store: ImageStore,
        progress: Option<Channel>,
    ) -> Result<(), Failure> {
        let wanted = wanted(store);
        let (reference, remote) = self.remote(&scope, registry, Purpose::Pull).await?;
        let name = if wanted.name.is_empty() { reference.to_string() } else { wanted.name.clone() };
        let operation = self.images.operations().begin(Operation::Pull, &scope.namespace, &name);
        let work = async |reporter: Reporter| self.images.pull(scope, &remote, &reference, &wanted, &reporter).await;
        let last =
            |outcome: &Result<_, _>| last_word(outcome, &format!("Completed pull from OCI Registry ({reference})"));
        operation.run(progress, work, last).await?;
        Ok(())
    }

    async fn push(
        &self,
        scope: Scope,
        store: ImageStore,
        registry: OciRegistry,
        progress: Option<Channel>,
    ) -> Result<(), Failure> {
        let wanted = wanted(store);
        let (reference, remote) = self.remote(&scope, registry, Purpose::Push).await?;
        let operation = self.images.operations().begin(Operation::Push, &scope.namespace, &reference.to_string());
        let work = async |reporter: Reporter| self.images.push(scope, &wanted, &remote, &reference, &reporter).await;
        let last =
            |outcome: &Result<_, _>| last_word(outcome, &format!("Completed push to OCI Registry ({reference})"));
        operation.run(progress, work, last).await?;
        Ok(())
    }

    async fn import(
        &self,
        scope: Scope,
        stream: ImageImportStream,
        store: ImageStore,
        progress: Option<Channel>,
    ) -> Result<(), Failure> {
        let wanted = Wanted { compress: stream.force_compress, ..wanted(store) };
        let operation = self.images.operations().begin(Operation::Import, &scope.namespace, &wanted.name);
        let source = Receiver::new(self.streams.claim(&scope.namespace, &stream.stream)?);
        let work = async |reporter: Reporter| self.images.import(scope, source, &wanted, &reporter).await;
        operation.run(progress, work, |outcome| last_word(outcome, "Completed import")).await?;
        Ok(())
    }

    async fn export(
        &self,
        scope: Scope,
        store: ImageStore,
        stream: ImageExportStream,
        progress: Option<Channel>,
    ) -> Result<(), Failure> {
        let mut wanted = wanted(store);
        if stream.all_platforms {
            wanted.platforms.clear();
        } else if !stream.platforms.is_empty() {
            wanted.platforms = stream.platforms.into_iter().map(platform).collect();
        } else if wanted.platforms.is_empty() {
            wanted.platforms.push(Platform::host());
        }
        let leave_out = LeaveOut {
            compatibility: stream.skip_compatibility_manifest,
            non_distributable: stream.skip_non_distributable,
        };
        let target = Sender::new(self.streams.claim(&scope.namespace, &stream.stream)?);
        let operation = self.images.operations().begin(Operation::Export, &scope.namespace, &wanted.name);
        let work = async |reporter: Reporter| self.images.export(scope, &wanted, leave_out, target, &reporter).await;
        operation.run(progress, work, |outcome| last_word(outcome, "Completed export")).await?;
        Ok(())
    }

    async fn remote(
        &self,
        scope: &Scope,
        registry: OciRegistry,
        purpose: Purpose,
    ) -> Result<(Reference, Remote), Failure> {
        let OciRegistry { reference, resolver } = registry;
        let resolver = resolver.unwrap_or_default();
        let level = match resolver.http_debug() {
            HttpDebug::Disabled => Level::Off,
            HttpDebug::Debug => Level::Debug,
            HttpDebug::Trace => Level::Trace,
            HttpDebug::Both => Level::Both,
        };
        let RegistryResolver { auth_stream, headers, host_dir, default_scheme, http_debug: _, logs_stream } = resolver;
        let scheme = match default_scheme.as_str() {
            "" => None,
            "http" => Some(Scheme::Http),
            "https" => Some(Scheme::Https),
            _ => return Err(Refused::Scheme { scheme: default_scheme }.into()),
        };
        let reference: Reference = reference.parse().map_err(TransferError::from)?;
        let stream = |id: &str| match id {
            "" => Ok(None),
            id => self.streams.claim(&scope.namespace, id).map(Some),
        };
        let access = RegistryAccess {
            scheme,
            asker: Asker::new(stream(&auth_stream)?),
            host_dir,
            headers: headers.into_iter().collect(),
            trace: Trace::new(level, stream(&logs_stream)?),
            door: Door::Transfer,
        };
        let remote = self.images.remote(reference.clone(), purpose, access).await?;
        Ok((reference, remote))
    }
}

#[tonic::async_trait]
impl Server for Service {
    async fn transfer(&self, request: Request<TransferRequest>) -> Result<Response<()>, Status> {
        unary(request, async |scope, message| self.run(scope, message).await).await
    }
}

/// What to say at the end if it went well.
fn last_word<T>(outcome: &Result<T, TransferError>, word: &str) -> Vec<Progress> {
    let word = |_: &T| Progress { event: word.to_owned(), ..Progress::default() };
    outcome.as_ref().map(word).into_iter().collect()
}

fn wanted(store: ImageStore) -> Wanted {
    let ImageStore { name, labels, platforms, all_metadata, manifest_limit, extra_references, unpacks } = store;
    Wanted {
        name,
        labels,
        platforms: platforms.into_iter().map(platform).collect(),
        references: extra_references.into_iter().map(naming).collect(),
        unpacks: unpacks.into_iter().map(unpack).collect(),
        all_metadata,
        manifest_limit: Some(manifest_limit).filter(|limit| *limit > 0).and_then(|limit| usize::try_from(limit).ok()),
        compress: false,
    }
}

fn naming(reference: ImageReference) -> Naming {
    let ImageReference { name, is_prefix, allow_overwrite, add_digest, skip_named_digest } = reference;
    Naming { name, is_prefix, allow_overwrite, add_digest, skip_named_digest }
}

fn unpack(unpack: UnpackConfiguration) -> Unpack {
    let UnpackConfiguration { platform: wanted, snapshotter } = unpack;
    Unpack { platform: wanted.map_or_else(Platform::host, platform), snapshotter }
}

fn platform(platform: types::Platform) -> Platform {
    let types::Platform { os, architecture, variant, .. } = platform;
    Platform { os, architecture, variant }
}
