//! Images moved by the daemon: pulled, pushed, imported, exported and named, with their progress.

use std::collections::BTreeMap;
use std::time::Duration;

use model::platform::Platform;
use proto::prost_types::Any;
use proto::services::streaming::v1::StreamInit;
use proto::services::transfer::v1::{TransferOptions, TransferRequest};
use proto::types::transfer::{
    AuthRequest, Data, HttpDebug, ImageExportStream, ImageImportStream, ImageStore, OciRegistry, Progress,
    RegistryResolver, UnpackConfiguration, WindowUpdate,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::credentials::Credentials;
use crate::image::unique;
use crate::{Client, ClientError};

/// The most bytes sent in one message of a stream (containerd's contract).
const PIECE_BYTES: usize = 32 * 1024;

/// How many bytes may come ahead of what is written (containerd's contract).
const WINDOW_BYTES: usize = 64 * 1024;

/// Messages of ours that may wait for the transport.
const QUEUE: usize = 4;

/// How long the last words of a progress stream are waited for once the transfer has ended.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A stream beside a call: messages both ways, closed when dropped.
struct Stream {
    id: String,
    send: mpsc::Sender<Any>,
    receive: Streaming<Any>,
}

/// How to speak to a registry.
#[derive(Debug, Clone, Default)]
pub struct RegistryOptions {
    /// Speak plain HTTP where nothing else is configured.
    pub plain_http: bool,
    /// Folders of `hosts.toml` files on the daemon's machine, instead of the configured ones; empty for those.
    pub hosts_dir: String,
    /// Headers to send along.
    pub headers: BTreeMap<String, String>,
    /// Who we are.
    pub credentials: Credentials,
    /// Show what goes to the registry and comes back.
    pub debug: bool,
    /// Show connections and times.
    pub trace: bool,
}

/// How to pull.
#[derive(Debug, Clone, Default)]
pub struct PullOptions {
    /// How to speak to the registry.
    pub registry: RegistryOptions,
    /// For which platforms; none is the daemon's own.
    pub platforms: Vec<Platform>,
    /// For all platforms.
    pub all_platforms: bool,
    /// Fetch the documents of other platforms, too.
    pub all_metadata: bool,
    /// The snapshotter to unpack for; `None` fetches only.
    pub unpack: Option<String>,
}

/// How to import.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// The beginning of the names of what has only a tag.
    pub base_name: String,
    /// For all platforms.
    pub all_platforms: bool,
    /// Compress layers that are not.
    pub compress: bool,
    /// The snapshotter to unpack for; `None` does not unpack.
    pub unpack: Option<String>,
}

/// How to export.
#[derive(Debug, Clone, Default)]
pub struct ExportOptions {
    /// For which platforms; none is the daemon's own.
    pub platforms: Vec<Platform>,
    /// For all platforms.
    pub all_platforms: bool,
    /// Leave out what old Docker needs.
    pub skip_compatibility: bool,
    /// Leave out layers that may not be passed on.
    pub skip_non_distributable: bool,
}

/// The streams beside a transfer.
#[derive(Default)]
struct Beside<'a> {
    /// Asks who we are.
    auth: Option<(Stream, &'a Credentials)>,
    /// Tells what goes over the wire.
    logs: Option<Stream>,
}

impl Client {
    /// Pulls an image: the daemon fetches and unpacks it, `progress` hears how far it is.
    ///
    /// # Errors
    /// What the daemon says, which names the registry and its answer.
    pub async fn pull(
        &self,
        reference: &str,
        options: &PullOptions,
        progress: impl FnMut(Progress),
    ) -> Result<(), ClientError> {
        let (source, beside) = self.registry(reference, &options.registry).await?;
        let platforms = match (&options.platforms[..], options.all_platforms) {
            (_, true) => Vec::new(),
            ([], false) => vec![host_platform()],
            (platforms, false) => platforms.iter().map(platform).collect(),
        };
        let destination = ImageStore {
            name: reference.into(),
            unpacks: unpacks(options.unpack.as_deref(), &options.platforms),
            platforms,
            all_metadata: options.all_metadata,
            ..Default::default()
        };
        self.transferring(proto::any::pack(&source), proto::any::pack(&destination), beside, progress).await
    }

    /// Pushes the image `name` to `reference`.
    ///
    /// # Errors
    /// What the daemon says, which names the registry and its answer.
    pub async fn push(
        &self,
        name: &str,
        reference: &str,
        platforms: &[Platform],
        options: &RegistryOptions,
        progress: impl FnMut(Progress),
    ) -> Result<(), ClientError> {
        let (destination, beside) = self.registry(reference, options).await?;
        let platforms = platforms.iter().map(platform).collect();
        let source = ImageStore { name: name.into(), platforms, ..Default::default() };
        self.transferring(proto::any::pack(&source), proto::any::pack(&destination), beside, progress).await
    }

    /// Gives the image `name` another name, which loses what it had before.
    ///
    /// # Errors
    /// There is no such image.
    pub async fn tag(&self, name: &str, other: &str) -> Result<(), ClientError> {
        let store = |name: &str| proto::any::pack(&ImageStore { name: name.into(), ..Default::default() });
        self.transferring(store(name), store(other), Beside::default(), |_| {}).await
    }

    /// Writes an archive of `names` to `target`: an OCI layout that `docker load` reads, too.
    ///
    /// # Errors
    /// An image is not here as a whole, or `target` cannot be written.
    pub async fn export(
        &self,
        names: &[String],
        target: impl AsyncWrite + Unpin,
        options: &ExportOptions,
        progress: impl FnMut(Progress),
    ) -> Result<(), ClientError> {
        let stream = self.stream("export").await?;
        let more = names
            .iter()
            .skip(1)
            .map(|name| proto::types::transfer::ImageReference { name: name.clone(), ..Default::default() });
        let source = ImageStore {
            name: names.first().cloned().unwrap_or_default(),
            extra_references: more.collect(),
            ..Default::default()
        };
        let destination = ImageExportStream {
            stream: stream.id.clone(),
            platforms: options.platforms.iter().map(platform).collect(),
            all_platforms: options.all_platforms,
            skip_compatibility_manifest: options.skip_compatibility,
            skip_non_distributable: options.skip_non_distributable,
            ..Default::default()
        };
        let (source, destination) = (proto::any::pack(&source), proto::any::pack(&destination));
        let transfer = self.transferring(source, destination, Beside::default(), progress);
        let drain = drain(stream, target);
        tokio::pin!(transfer, drain);
        tokio::select! {
            done = &mut transfer => {
                done?;
                drain.await
            }
            drained = &mut drain => {
                // The daemon's word counts, unless writing failed here.
                if let Err(error @ ClientError::Io { .. }) = drained {
                    return Err(error);
                }
                transfer.await?;
                drained
            }
        }
    }

    /// A registry as the daemon is told of it, with the streams that go with it.
    async fn registry<'a>(
        &self,
        reference: &str,
        options: &'a RegistryOptions,
    ) -> Result<(OciRegistry, Beside<'a>), ClientError> {
        let debug = match (options.debug, options.trace) {
            (false, false) => HttpDebug::Disabled,
            (true, false) => HttpDebug::Debug,
            (false, true) => HttpDebug::Trace,
            (true, true) => HttpDebug::Both,
        };
        let mut beside = Beside::default();
        let mut resolver = RegistryResolver {
            default_scheme: if options.plain_http { "http" } else { "" }.into(),
            host_dir: options.hosts_dir.clone(),
            headers: options.headers.clone(),
            http_debug: debug.into(),
            ..Default::default()
        };
        if !matches!(options.credentials, Credentials::None) {
            let stream = self.stream("auth").await?;
            resolver.auth_stream.clone_from(&stream.id);
            beside.auth = Some((stream, &options.credentials));
        }
        if debug != HttpDebug::Disabled {
            let stream = self.stream("logs").await?;
            resolver.logs_stream.clone_from(&stream.id);
            beside.logs = Some(stream);
        }
        Ok((OciRegistry { reference: reference.into(), resolver: Some(resolver) }, beside))
    }

    /// Imports a docker or OCI archive from `archive`.
    ///
    /// # Errors
    /// What the daemon says of the archive, or the error of reading it.
    pub async fn import(
        &self,
        archive: impl AsyncRead + Unpin,
        options: &ImportOptions,
        progress: impl FnMut(Progress),
    ) -> Result<(), ClientError> {
        let stream = self.stream("import").await?;
        let source =
            ImageImportStream { stream: stream.id.clone(), force_compress: options.compress, ..Default::default() };
        let base = proto::types::transfer::ImageReference {
            name: options.base_name.clone(),
            is_prefix: true,
            allow_overwrite: true,
            ..Default::default()
        };
        let destination = ImageStore {
            platforms: if options.all_platforms { Vec::new() } else { vec![host_platform()] },
            unpacks: unpacks(options.unpack.as_deref(), &[]),
            extra_references: if options.base_name.is_empty() { Vec::new() } else { vec![base] },
            ..Default::default()
        };
        let (source, destination) = (proto::any::pack(&source), proto::any::pack(&destination));
        let transfer = self.transferring(source, destination, Beside::default(), progress);
        let feed = feed(stream, archive);
        tokio::pin!(transfer, feed);
        // The daemon's word counts: it may end early, with an error that says more than a closed stream does.
        let mut fed = None;
        loop {
            tokio::select! {
                done = &mut transfer => return fed.unwrap_or(Ok(())).and(done),
                outcome = &mut feed, if fed.is_none() => match outcome {
                    Err(error @ ClientError::Io { .. }) => return Err(error),
                    _ => fed = Some(Ok(())),
                },
            }
        }
    }

    async fn transferring(
        &self,
        source: Any,
        destination: Any,
        beside: Beside<'_>,
        mut progress: impl FnMut(Progress),
    ) -> Result<(), ClientError> {
        let mut stream = self.stream("progress").await?;
        let options = TransferOptions { progress_stream: stream.id.clone() };
        let request = TransferRequest { source: Some(source), destination: Some(destination), options: Some(options) };
        let mut tell = |any: Any| {
            if let Ok(Some(message)) = proto::any::unpack::<Progress>(&any) {
                progress(message);
            }
        };
        let mut client = self.transfer();
        let call = client.transfer(request);
        tokio::pin!(call);
        let mut open = true;
        let (answering, showing) = (answering(beside.auth), showing(beside.logs));
        tokio::pin!(answering, showing);
        let outcome = loop {
            tokio::select! {
                biased;
                error = &mut answering => return Err(error),
                () = &mut showing => {}
                message = stream.receive.message(), if open => match message {
                    Ok(Some(any)) => tell(any),
                    _ => open = false,
                },
                outcome = &mut call => break outcome,
            }
        };
        let rest = async {
            while let Ok(Some(any)) = stream.receive.message().await {
                tell(any);
            }
        };
        if open {
            drop(stream.send);
            // A daemon that leaves the stream open has said all it has to say.
            let _ = tokio::time::timeout(LAST_WORDS, rest).await;
        }
        outcome?;
        Ok(())
    }

    async fn stream(&self, what: &str) -> Result<Stream, ClientError> {
        let id = format!("gantry-{what}-{}", unique());
        let (send, queue) = mpsc::channel(QUEUE);
        let first = proto::any::pack(&StreamInit { id: id.clone() });
        send.send(first).await.map_err(|_| ClientError::Incomplete("stream"))?;
        let mut receive = self.streaming().stream(ReceiverStream::new(queue)).await?.into_inner();
        // The answer to the first message says that the daemon knows the stream by now.
        receive.message().await?.ok_or(ClientError::Incomplete("answer to the first message of a stream"))?;
        Ok(Stream { id, send, receive })
    }
}

/// Sends all of `source` as fast as the daemon grants credit for it, then closes the stream.
async fn feed(mut stream: Stream, mut source: impl AsyncRead + Unpin) -> Result<(), ClientError> {
    let mut credit: usize = 0;
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        while credit == 0 {
            let message = stream.receive.message().await?.ok_or(ClientError::Incomplete("credit on the stream"))?;
            if let Ok(Some(WindowUpdate { update })) = proto::any::unpack(&message) {
                credit += usize::try_from(update).unwrap_or(0);
            }
        }
        let length =
            source.read(&mut buffer[..PIECE_BYTES.min(credit)]).await.map_err(ClientError::io("read the archive"))?;
        if length == 0 {
            break;
        }
        credit -= length;
        let data = proto::bytes::Bytes::copy_from_slice(&buffer[..length]);
        let sent = stream.send.send(proto::any::pack(&Data { data })).await;
        sent.map_err(|_| ClientError::Incomplete("open stream"))?;
    }
    // Only our end is closed: to drop the other one as well would cancel what is still on its way.
    drop(stream.send);
    while stream.receive.message().await?.is_some() {}
    Ok(())
}

/// Takes all that comes over the stream, as fast as `target` takes it.
async fn drain(mut stream: Stream, mut target: impl AsyncWrite + Unpin) -> Result<(), ClientError> {
    let grant = async |stream: &Stream, update: usize| {
        let update = WindowUpdate { update: i32::try_from(update).unwrap_or(i32::MAX) };
        // A daemon that sent all does not wait for it.
        let _ = stream.send.send(proto::any::pack(&update)).await;
    };
    grant(&stream, WINDOW_BYTES).await;
    while let Some(message) = stream.receive.message().await? {
        if let Ok(Some(Data { data })) = proto::any::unpack(&message) {
            target.write_all(&data).await.map_err(ClientError::io("write the archive"))?;
            grant(&stream, data.len()).await;
        }
    }
    target.flush().await.map_err(ClientError::io("write the archive"))
}

/// Answers the daemon whenever it asks who we are. Ends only with what keeps us from answering.
async fn answering(auth: Option<(Stream, &Credentials)>) -> ClientError {
    if let Some((mut stream, credentials)) = auth {
        while let Ok(Some(any)) = stream.receive.message().await {
            let Ok(Some(AuthRequest { host, .. })) = proto::any::unpack(&any) else { continue };
            match credentials.answer(&host).await {
                Ok(answer) => drop(stream.send.send(proto::any::pack(&answer)).await),
                Err(error) => return error,
            }
        }
    }
    std::future::pending().await
}

/// Shows what goes to the registry and comes back, on standard error. Never ends.
async fn showing(logs: Option<Stream>) {
    if let Some(stream) = logs {
        // When nobody reads it any more, the transfer goes on.
        let _ = drain(stream, tokio::io::stderr()).await;
    }
    std::future::pending::<()>().await;
}

fn platform(platform: &Platform) -> proto::types::Platform {
    proto::types::Platform {
        os: platform.os.clone(),
        architecture: platform.architecture.clone(),
        variant: platform.variant.clone(),
        ..Default::default()
    }
}

fn host_platform() -> proto::types::Platform {
    platform(&Platform::host())
}

/// What to unpack: images for the platforms that are asked for, else for this machine.
fn unpacks(snapshotter: Option<&str>, platforms: &[Platform]) -> Vec<UnpackConfiguration> {
    let Some(snapshotter) = snapshotter else { return Vec::new() };
    let all: Vec<_> =
        if platforms.is_empty() { vec![host_platform()] } else { platforms.iter().map(platform).collect() };
    all.into_iter().map(|one| UnpackConfiguration { platform: Some(one), snapshotter: snapshotter.into() }).collect()
}
