//! Images moved by the daemon: pulls and imports, with their progress.

use std::time::Duration;

use proto::prost_types::Any;
use proto::services::streaming::v1::StreamInit;
use proto::services::transfer::v1::{TransferOptions, TransferRequest};
use proto::types::transfer::{
    Data, ImageImportStream, ImageStore, OciRegistry, Progress, RegistryResolver, UnpackConfiguration, WindowUpdate,
};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::image::unique;
use crate::{Client, ClientError};

/// The most bytes sent in one message of a stream (containerd's contract).
const PIECE_BYTES: usize = 32 * 1024;

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

/// How to pull.
#[derive(Debug, Clone, Default)]
pub struct PullOptions {
    /// Speak plain HTTP to the registry.
    pub plain_http: bool,
    /// The snapshotter to unpack for; `None` fetches only.
    pub unpack: Option<String>,
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
        let scheme = if options.plain_http { "http" } else { "" };
        let resolver = RegistryResolver { default_scheme: scheme.into(), ..Default::default() };
        let source = OciRegistry { reference: reference.into(), resolver: Some(resolver) };
        let destination = ImageStore {
            name: reference.into(),
            platforms: vec![host_platform()],
            unpacks: unpacks(options.unpack.as_deref()),
            ..Default::default()
        };
        self.transferring(proto::any::pack(&source), proto::any::pack(&destination), progress).await
    }

    /// Imports a docker or OCI archive from `archive`.
    ///
    /// # Errors
    /// What the daemon says of the archive, or the error of reading it.
    pub async fn import(
        &self,
        archive: impl AsyncRead + Unpin,
        unpack: Option<&str>,
        progress: impl FnMut(Progress),
    ) -> Result<(), ClientError> {
        let stream = self.stream("import").await?;
        let source = ImageImportStream { stream: stream.id.clone(), ..Default::default() };
        let destination =
            ImageStore { platforms: vec![host_platform()], unpacks: unpacks(unpack), ..Default::default() };
        let transfer = self.transferring(proto::any::pack(&source), proto::any::pack(&destination), progress);
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
        let outcome = loop {
            tokio::select! {
                biased;
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

fn host_platform() -> proto::types::Platform {
    let host = model::platform::Platform::host();
    proto::types::Platform { os: host.os, architecture: host.architecture, variant: host.variant, ..Default::default() }
}

fn unpacks(snapshotter: Option<&str>) -> Vec<UnpackConfiguration> {
    let configuration = |name: &str| UnpackConfiguration { platform: Some(host_platform()), snapshotter: name.into() };
    snapshotter.map(configuration).into_iter().collect()
}
