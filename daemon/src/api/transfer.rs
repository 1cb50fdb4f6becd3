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
use crate::images::progress::{Reporter, reporting};
use crate::images::registry::auth::Asker;
use crate::images::registry::client::{Purpose, Remote};
use crate::images::registry::scheme::Scheme;
use crate::images::{Images, TransferError, Unpack, Wanted};
use crate::streaming::bytes::{Receiver, Sender};
use crate::streaming::{Channel, StreamError, Streams};

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
    /// A field that is not honoured yet.
    #[error("{field} is not supported yet")]
    Field { field: &'static str },
    /// A scheme that is neither of the two.
    #[error("unknown scheme {scheme:?}, it must be \"http\" or \"https\"")]
    Scheme { scheme: String },
}

impl Classify for Refused {
    fn kind(&self) -> Kind {
        match self {
            Self::NoEnd { .. } | Self::Malformed { .. } | Self::Scheme { .. } => Kind::InvalidArgument,
            Self::Pair { .. } | Self::Field { .. } => Kind::Unimplemented,
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
            (End::Store(from), End::Store(to)) => Ok(self.images.tag(scope, &from.name, &wanted(to)?).await?),
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
        let wanted = wanted(store)?;
        let (reference, remote) = self.remote(&scope, registry, Purpose::Pull)?;
        let work = async |reporter: Reporter| self.images.pull(scope, &remote, &reference, &wanted, &reporter).await;
        let last =
            |outcome: &Result<_, _>| last_word(outcome, &format!("Completed pull from OCI Registry ({reference})"));
        reporting(progress, work, last).await?;
        Ok(())
    }

    async fn push(
        &self,
        scope: Scope,
        store: ImageStore,
        registry: OciRegistry,
        progress: Option<Channel>,
    ) -> Result<(), Failure> {
        let wanted = wanted(store)?;
        let (reference, remote) = self.remote(&scope, registry, Purpose::Push)?;
        let work = async |reporter: Reporter| self.images.push(scope, &wanted, &remote, &reference, &reporter).await;
        let last =
            |outcome: &Result<_, _>| last_word(outcome, &format!("Completed push to OCI Registry ({reference})"));
        reporting(progress, work, last).await?;
        Ok(())
    }

    async fn import(
        &self,
        scope: Scope,
        stream: ImageImportStream,
        store: ImageStore,
        progress: Option<Channel>,
    ) -> Result<(), Failure> {
        if stream.force_compress {
            return Err(Refused::Field { field: "compressing layers on import" }.into());
        }
        let wanted = wanted(store)?;
        let source = Receiver::new(self.streams.claim(&scope.namespace, &stream.stream)?);
        let work = async |reporter: Reporter| self.images.import(scope, source, &wanted, &reporter).await;
        reporting(progress, work, |outcome| last_word(outcome, "Completed import")).await?;
        Ok(())
    }

    async fn export(
        &self,
        scope: Scope,
        store: ImageStore,
        stream: ImageExportStream,
        progress: Option<Channel>,
    ) -> Result<(), Failure> {
        let mut wanted = wanted(store)?;
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
        let work = async |reporter: Reporter| self.images.export(scope, &wanted, leave_out, target, &reporter).await;
        reporting(progress, work, |outcome| last_word(outcome, "Completed export")).await?;
        Ok(())
    }

    fn remote(&self, scope: &Scope, registry: OciRegistry, purpose: Purpose) -> Result<(Reference, Remote), Failure> {
        let OciRegistry { reference, resolver } = registry;
        let RegistryResolver { auth_stream, headers, host_dir, default_scheme, http_debug, logs_stream } =
            resolver.unwrap_or_default();
        for (field, given) in [
            ("a folder of hosts.toml files", !host_dir.is_empty()),
            ("sending headers to the registry", !headers.is_empty()),
            ("logging what goes to the registry", http_debug != HttpDebug::Disabled as i32 || !logs_stream.is_empty()),
        ] {
            if given {
                return Err(Refused::Field { field }.into());
            }
        }
        let scheme = match default_scheme.as_str() {
            "" => None,
            "http" => Some(Scheme::Http),
            "https" => Some(Scheme::Https),
            _ => return Err(Refused::Scheme { scheme: default_scheme }.into()),
        };
        let reference: Reference = reference.parse().map_err(TransferError::from)?;
        let asks = match auth_stream.as_str() {
            "" => None,
            id => Some(self.streams.claim(&scope.namespace, id).map_err(|error: StreamError| Failure::from(error))?),
        };
        let remote = Remote::new(reference.clone(), scheme, purpose, Asker::new(asks)).map_err(TransferError::from)?;
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

fn wanted(store: ImageStore) -> Result<Wanted, Refused> {
    let ImageStore { name, labels, platforms, all_metadata, manifest_limit, extra_references, unpacks } = store;
    if all_metadata {
        return Err(Refused::Field { field: "fetching the metadata of all platforms" });
    }
    let mut platforms: Vec<Platform> = platforms.into_iter().map(platform).collect();
    match (manifest_limit, platforms.len()) {
        (0, _) => {}
        (_, 0) => return Err(Refused::Field { field: "a limit of manifests without platforms" }),
        // One is chosen for each platform.
        (limit, _) => platforms.truncate(usize::try_from(limit).unwrap_or(usize::MAX)),
    }
    Ok(Wanted {
        name,
        labels,
        platforms,
        references: extra_references.into_iter().map(naming).collect(),
        unpacks: unpacks.into_iter().map(unpack).collect(),
    })
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
