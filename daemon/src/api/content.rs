//! The content service: blobs, and uploads that become blobs.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::{FutureExt, Stream, StreamExt, stream};
use model::Digest;
use model::filter::Filters;
use proto::bytes::Bytes;
use proto::convert::time;
use proto::services::content::v1 as wire;
use store::blob::BlobReader;
use tonic::{Request, Response, Status, Streaming};
use wire::WriteAction;

use super::{Failure, Reply, Scope, bidirectional, server_stream, unary};
use crate::blocking;
use crate::meta::Meta;
use crate::meta::content::write::{Commit, Open, Writer};
use crate::meta::content::{self, Content, ContentError};

/// The most blobs in one message of a list.
const LIST_BATCH: usize = 100;

/// The most bytes in one message of a read.
const READ_CHUNK: usize = 1 << 20;

/// The most messages of an upload that are handled together: those that are there already.
const WRITE_BATCH: usize = 64;

/// No message joins those that have this many bytes already.
const WRITE_BATCH_BYTES: usize = 4 << 20;

/// The service.
#[derive(Debug, Clone)]
pub struct Service {
    meta: Meta,
}

impl Service {
    /// Serves the content of `meta`.
    pub fn new(meta: Meta) -> Self {
        Self { meta }
    }
}

fn to_wire(content: Content) -> wire::Info {
    let Content { digest, record } = content;
    wire::Info {
        digest: digest.into(),
        size: size_to_wire(record.size),
        created_at: Some(time::to_wire(record.created_at)),
        updated_at: Some(time::to_wire(record.updated_at)),
        labels: record.labels,
    }
}

fn status_to_wire(status: content::Status) -> wire::Status {
    wire::Status {
        started_at: Some(time::to_wire(status.started_at)),
        updated_at: Some(time::to_wire(status.updated_at)),
        r#ref: status.reference,
        offset: size_to_wire(status.offset),
        total: size_to_wire(status.total),
        expected: status.expected.map(Into::into).unwrap_or_default(),
    }
}

/// No file comes near 8 EiB.
fn size_to_wire(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

fn size_from_wire(size: i64, field: &'static str) -> Result<u64, ContentError> {
    u64::try_from(size).map_err(|_| ContentError::Negative { field })
}

fn digest_from_wire(value: &str) -> Result<Digest, ContentError> {
    value.parse().map_err(|source| ContentError::NoDigest { value: value.to_owned(), source })
}

#[tonic::async_trait]
impl wire::content_server::Content for Service {
    async fn info(&self, request: Request<wire::InfoRequest>) -> Result<Response<wire::InfoResponse>, Status> {
        unary(request, async |scope, wire::InfoRequest { digest }| {
            let (meta, digest) = (self.meta.clone(), digest_from_wire(&digest)?);
            let content = blocking::run(move || meta.content(&scope.namespace, digest)).await?;
            Ok(wire::InfoResponse { info: Some(to_wire(content)) })
        })
        .await
    }

    async fn update(&self, request: Request<wire::UpdateRequest>) -> Result<Response<wire::UpdateResponse>, Status> {
        unary(request, async |scope, wire::UpdateRequest { info, update_mask }| {
            let wire::Info { digest, labels, .. } = info.unwrap_or_default();
            let digest = digest_from_wire(&digest)?;
            let content = self.meta.update_content(scope.namespace, digest, labels, update_mask).await?;
            Ok(wire::UpdateResponse { info: Some(to_wire(content)) })
        })
        .await
    }

    type ListStream = Reply<wire::ListContentResponse>;

    async fn list(&self, request: Request<wire::ListContentRequest>) -> Result<Response<Self::ListStream>, Status> {
        server_stream(request, async |scope, wire::ListContentRequest { filters }| {
            let (meta, filters) = (self.meta.clone(), Filters::parse(&filters)?);
            Ok(blocking::search(move |found| {
                let mut after = None;
                loop {
                    let page = meta.content_page(&scope.namespace, &filters, after.as_deref(), LIST_BATCH);
                    let (message, last) = match page {
                        Ok((page, last)) => {
                            (Ok(wire::ListContentResponse { info: page.into_iter().map(to_wire).collect() }), last)
                        }
                        Err(error) => (Err(Failure::from(error)), None),
                    };
                    let empty = message.as_ref().is_ok_and(|message| message.info.is_empty());
                    if (!empty && found.give(message).is_break()) || last.is_none() {
                        return;
                    }
                    after = last;
                }
            }))
        })
        .await
    }

    async fn delete(&self, request: Request<wire::DeleteContentRequest>) -> Result<Response<()>, Status> {
        unary(request, async |scope, wire::DeleteContentRequest { digest }| {
            Ok(self.meta.delete_content(scope, digest_from_wire(&digest)?).await?)
        })
        .await
    }

    type ReadStream = Reply<wire::ReadContentResponse>;

    async fn read(&self, request: Request<wire::ReadContentRequest>) -> Result<Response<Self::ReadStream>, Status> {
        server_stream(request, async |scope, wire::ReadContentRequest { digest, offset, size }| {
            let (meta, digest) = (self.meta.clone(), digest_from_wire(&digest)?);
            // Clients read a piece per call, so the first one comes along with the opening.
            let opened = blocking::run(move || {
                let blob = meta.content_reader(&scope.namespace, digest)?;
                // A negative offset is the beginning.
                let from = u64::try_from(offset).unwrap_or(0);
                if from > blob.size() {
                    return Err(ContentError::ReadPastEnd { size: blob.size() }.into());
                }
                let rest = blob.size() - from;
                let length = u64::try_from(size).ok().filter(|size| *size > 0).map_or(rest, |size| size.min(rest));
                let reading = Reading { blob: Arc::new(blob), from, length };
                let first = reading.chunk(0)?;
                Ok::<_, Failure>((reading, first))
            });
            let (reading, first) = opened.await?;
            Ok(stream::try_unfold((0, Some(first)), move |(sent, ready)| {
                let reading = reading.clone();
                async move {
                    let data = match ready {
                        Some(data) => data,
                        None if sent < reading.length => blocking::run(move || reading.chunk(sent)).await?,
                        None => return Ok(None),
                    };
                    if data.is_empty() {
                        return Ok(None);
                    }
                    let next = sent + data.len() as u64;
                    // Offsets on the wire are relative to the beginning of the read.
                    Ok(Some((wire::ReadContentResponse { offset: size_to_wire(sent), data }, (next, None))))
                }
            }))
        })
        .await
    }

    async fn status(&self, request: Request<wire::StatusRequest>) -> Result<Response<wire::StatusResponse>, Status> {
        unary(request, async |scope, wire::StatusRequest { r#ref }| {
            let meta = self.meta.clone();
            let status = blocking::run(move || meta.ingest_status(&scope.namespace, &r#ref)).await?;
            Ok(wire::StatusResponse { status: Some(status_to_wire(status)) })
        })
        .await
    }

    async fn list_statuses(
        &self,
        request: Request<wire::ListStatusesRequest>,
    ) -> Result<Response<wire::ListStatusesResponse>, Status> {
        unary(request, async |scope, wire::ListStatusesRequest { filters }| {
            let meta = self.meta.clone();
            let statuses = blocking::run(move || meta.ingest_statuses(&scope.namespace, &filters)).await?;
            Ok(wire::ListStatusesResponse { statuses: statuses.into_iter().map(status_to_wire).collect() })
        })
        .await
    }

    type WriteStream = Reply<wire::WriteContentResponse>;

    async fn write(
        &self,
        request: Request<Streaming<wire::WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        bidirectional(request, async |scope, messages| Ok(upload(self.meta.clone(), scope, messages))).await
    }

    async fn abort(&self, request: Request<wire::AbortRequest>) -> Result<Response<()>, Status> {
        unary(request, async |scope, wire::AbortRequest { r#ref }| {
            let meta = self.meta.clone();
            Ok(blocking::run(move || meta.abort_ingest(scope, &r#ref)).await?)
        })
        .await
    }
}

/// A part of a blob that is being read.
#[derive(Clone)]
struct Reading {
    blob: Arc<BlobReader>,
    /// Where the part begins.
    from: u64,
    /// How long it is.
    length: u64,
}

impl Reading {
    /// The next chunk after `sent` bytes of the part. It blocks.
    fn chunk(&self, sent: u64) -> Result<Bytes, Failure> {
        let wanted = usize::try_from(self.length - sent).unwrap_or(READ_CHUNK).min(READ_CHUNK);
        let mut data = vec![0; wanted];
        let got = self.blob.read_at(&mut data, self.from + sent)?;
        data.truncate(got);
        Ok(Bytes::from(data))
    }
}

/// One session of an upload, between two batches of messages.
struct Upload<M> {
    meta: Meta,
    scope: Scope,
    messages: M,
    /// Opened by the first message.
    writer: Option<Writer>,
    /// Answers that are ready to be sent, at the end perhaps a failure.
    answers: VecDeque<Result<wire::WriteContentResponse, Failure>>,
    over: bool,
}

/// Answers every message of an upload with one; after a commit or a failure there are no more. When the client is gone, what
/// was written is kept.
fn upload<M>(meta: Meta, scope: Scope, messages: M) -> impl Stream<Item = Result<wire::WriteContentResponse, Failure>>
where
    M: Stream<Item = Result<wire::WriteContentRequest, Status>> + Unpin + Send + 'static,
{
    let upload = Upload { meta, scope, messages, writer: None, answers: VecDeque::new(), over: false };
    stream::unfold(upload, |mut upload| async move {
        loop {
            if let Some(answer) = upload.answers.pop_front() {
                return Some((answer, upload));
            }
            if upload.over {
                return None;
            }
            match upload.next_batch().await {
                Some(batch) => upload.handle(batch).await,
                None => {
                    // The session has ended when the client hears so, and may open the next one.
                    let writer = upload.writer.take();
                    blocking::run(move || drop(writer)).await;
                    return None;
                }
            }
        }
    })
}

impl<M> Drop for Upload<M> {
    /// When the client is gone. Closing an upload writes a little, which nobody here may wait for.
    fn drop(&mut self) {
        if let (Some(writer), Ok(runtime)) = (self.writer.take(), tokio::runtime::Handle::try_current()) {
            drop(runtime.spawn_blocking(move || drop(writer)));
        }
    }
}

impl<M> Upload<M>
where
    M: Stream<Item = Result<wire::WriteContentRequest, Status>> + Unpin,
{
    /// Waits for a message and takes those that came with it. `None` when the client is done or gone.
    async fn next_batch(&mut self) -> Option<Vec<wire::WriteContentRequest>> {
        let aborted = self.writer.as_ref().map(|writer| writer.aborted().clone());
        let first = match aborted {
            None => self.messages.next().await,
            Some(aborted) => tokio::select! {
                message = self.messages.next() => message,
                () = aborted.cancelled() => {
                    // Whoever aborts waits for the session to let go.
                    let writer = self.writer.take();
                    let closed = blocking::run(move || writer.map(|writer| writer.reference().to_owned()));
                    let reference = closed.await.unwrap_or_default();
                    self.over = true;
                    self.answers.push_back(Err(ContentError::Aborted { reference }.into()));
                    return Some(Vec::new());
                }
            },
        };
        // A broken stream ends the session like one that was closed: there is nobody to answer.
        let first = first?.ok()?;
        let mut bytes = first.data.len();
        let mut batch = vec![first];
        while batch.len() < WRITE_BATCH && bytes < WRITE_BATCH_BYTES {
            let Some(Some(Ok(message))) = self.messages.next().now_or_never() else { break };
            bytes += message.data.len();
            batch.push(message);
        }
        Some(batch)
    }

    /// Handles messages on the blocking pool, where the files are.
    async fn handle(&mut self, batch: Vec<wire::WriteContentRequest>) {
        if batch.is_empty() {
            return;
        }
        let (meta, scope, mut writer) = (self.meta.clone(), self.scope.clone(), self.writer.take());
        let handled = blocking::run(move || {
            let mut answers = VecDeque::with_capacity(batch.len());
            let mut over = false;
            for message in batch {
                let commits = message.action == WriteAction::Commit as i32;
                let answer = step(&meta, &scope, &mut writer, message);
                over = commits || answer.is_err();
                answers.push_back(answer.map_err(Failure::from));
                if over {
                    // Here, so that the session has ended when the client hears of it.
                    writer = None;
                    break;
                }
            }
            (answers, writer, over)
        });
        (self.answers, self.writer, self.over) = handled.await;
    }
}

/// Handles one message of an upload.
fn step(
    meta: &Meta,
    scope: &Scope,
    writer: &mut Option<Writer>,
    message: wire::WriteContentRequest,
) -> Result<wire::WriteContentResponse, ContentError> {
    let wire::WriteContentRequest { action, r#ref, total, expected, offset, data, labels } = message;
    let action = WriteAction::try_from(action).map_err(|_| ContentError::Action { action })?;
    let (total, offset) = (size_from_wire(total, "total")?, size_from_wire(offset, "offset")?);
    let expected = if expected.is_empty() { None } else { Some(digest_from_wire(&expected)?) };
    let writer = match writer {
        Some(writer) => {
            writer.expect(total, expected)?;
            writer
        }
        None => writer.insert(meta.open_writer(scope.clone(), Open { reference: r#ref, total, expected })?),
    };
    let digest = match action {
        WriteAction::Stat => writer.digest()?,
        WriteAction::Write | WriteAction::Commit => {
            writer.seek(offset)?;
            writer.append(&data)?;
            if action == WriteAction::Commit { Some(writer.commit(Commit { labels })?) } else { writer.digest()? }
        }
    };
    let status = writer.status();
    Ok(wire::WriteContentResponse {
        action: action.into(),
        started_at: Some(time::to_wire(status.started_at)),
        updated_at: Some(time::to_wire(status.updated_at)),
        offset: size_to_wire(status.offset),
        total: size_to_wire(status.total),
        digest: digest.map(Into::into).unwrap_or_default(),
    })
}
