//! Blobs from a registry: socket → bounded channel → a thread that hashes and writes → a blob.
//!
//! ```text
//!   my turn? ──► there already: done
//!      │
//!      └► open the upload, at its offset ──► ask the registry from there ──► write ──► whole: verify, commit
//!                 ▲                                                            │
//!                 └───────────── broke: wait a little, go on where it stands ──┘
//! ```
//!
//! A large blob comes in parts, several at a time, from a registry that can do that; they are written in order, and what waits for its
//! turn is bounded for all transfers together. One that sends all instead, or fails at it, sends one stream.
//!
//! An upload has the name that other tools give it, so it shows as progress to them, and resumes what any of them began. When the
//! digest is wrong it is removed, since resuming it would never end well, and fetched anew if it was resumed. Dropping the future leaves an upload to resume.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use model::{Descriptor, Labels};
use proto::bytes::Bytes;
use tokio::sync::mpsc;

use super::arrivals::Arriving;
use super::document::upload_name;
use super::local::{LABEL_SOURCE, blob_turn};
use super::progress::Item;
use super::registry::{Incoming, Registry, RegistryError};
use super::{Images, MAX_CHUNK_KIB, TransferError};
use crate::api::Scope;
use crate::blocking;
use crate::meta::content::ContentError;
use crate::meta::content::write::{Commit, Open, Writer};

/// Pieces that wait to be written; then the registry waits. A piece is what a read from the socket gave, some ten KiB.
const PIECES_AHEAD: usize = 32;

/// How often a blob is asked for again without anything to speak of in between.
const TRIES: u32 = 5;

/// How often it is asked for again at all.
const MAX_TRIES: u32 = 50;

/// The first pause between tries; each is twice as long as the one before.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// The longest pause between tries.
pub(super) const LAST_PAUSE: Duration = Duration::from_secs(5);

/// What a registry has to send within the time that it may be silent, in bytes; less is no progress.
const LEAST_BYTES: u64 = 4096;

/// What is sent to the thread that writes.
enum Piece {
    Bytes(Bytes),
    /// All were sent: commit.
    End,
}

/// How writing ended.
enum Written {
    Whole,
    /// What came before it is kept.
    Cut,
}

/// A blob that is wanted.
pub(super) struct Fetch<'a> {
    pub(super) blob: &'a Descriptor,
    /// Where else it may be.
    pub(super) urls: &'a [String],
    /// Who hears how far it is.
    pub(super) item: &'a Item,
    /// Who reads it while it comes.
    pub(super) follower: Option<Arriving>,
}

impl Images {
    /// Makes sure that the namespace sees a blob; whether it had to be fetched. `scope` is without a lease.
    pub(super) async fn fetch(
        &self,
        scope: &Scope,
        registry: &impl Registry,
        fetch: Fetch<'_>,
    ) -> Result<bool, TransferError> {
        let Fetch { blob, item, .. } = fetch;
        // For all namespaces: what one of them has another one need not fetch.
        let _turn = self.locks.take(blob_turn(&blob.digest)).await;
        let _permit = self.downloads.acquire().await.expect("it is never closed");
        let mut tell = Tell { follower: fetch.follower.clone(), file: None };
        let (mut idle, mut tries, mut trusting, mut chunks) = (0, 0, true, true);
        loop {
            let Some(writer) = self.open_upload(scope, blob, item).await? else {
                item.done("already exists");
                return Ok(false);
            };
            let before = writer.status().offset;
            let attempt = self.attempt(writer, scope, registry, &fetch, std::mem::take(&mut tell), chunks).await;
            let Attempt { reached, source, outcome } = attempt.0;
            tell = attempt.1;
            let error = match outcome {
                Ok(()) => {
                    item.done("complete");
                    return Ok(true);
                }
                Err(error) => error,
            };
            if matches!(error, TransferError::Corrupt { .. }) {
                tell.starts_over();
                // A mirror may be wrong where the registry is right. What an earlier upload left may be what is wrong, too; it is
                // removed by now.
                if source.is_some_and(|source| registry.distrust(source))
                    || (before > 0 && std::mem::take(&mut trusting))
                {
                    continue;
                }
                return Err(error);
            }
            idle = if reached >= before + LEAST_BYTES { 0 } else { idle + 1 };
            tries += 1;
            let TransferError::Registry(source_error) = &error else { return Err(error) };
            if idle > 1 && source.is_some_and(|source| registry.distrust(source)) {
                idle = 0;
                continue;
            }
            if !source_error.is_transient() || idle >= TRIES || tries >= MAX_TRIES {
                return Err(error);
            }
            // Whatever went wrong, one stream is the simpler way.
            chunks = false;
            tracing::debug!(digest = %blob.digest, reached, %error, "fetching again");
            let pause = (FIRST_PAUSE * 2_u32.pow(idle)).min(LAST_PAUSE);
            tokio::time::sleep(source_error.retry_after().unwrap_or(pause).max(pause)).await;
        }
    }

    /// Opens the upload of a blob; waits while somebody else has it open. `None` when the namespace sees the blob.
    async fn open_upload(
        &self,
        scope: &Scope,
        blob: &Descriptor,
        item: &Item,
    ) -> Result<Option<Writer>, TransferError> {
        let mut pause = FIRST_PAUSE;
        loop {
            let (meta, scope) = (self.meta.clone(), scope.clone());
            let (reference, total, expected) = (upload_name(blob), blob.size, Some(blob.digest.clone()));
            let opened = blocking::run(move || meta.open_writer(scope, Open { reference, total, expected })).await;
            match opened {
                Ok(writer) => return Ok(Some(writer)),
                Err(ContentError::AlreadyExists { .. }) => return Ok(None),
                // Another client is fetching it into the store; that one is as good.
                Err(ContentError::Locked { .. }) => item.set("waiting", 0),
                Err(error) => return Err(error.into()),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    /// Fetches what is missing of an upload; how far it came, and how it ended.
    async fn attempt(
        &self,
        writer: Writer,
        scope: &Scope,
        registry: &impl Registry,
        fetch: &Fetch<'_>,
        tell: Tell,
        chunks: bool,
    ) -> (Attempt, Tell) {
        let Fetch { blob, urls, item, .. } = fetch;
        let mut at = writer.status().offset;
        if at > blob.size {
            at = 0;
        }
        let (pieces, queue) = mpsc::channel(PIECES_AHEAD);
        // What is complete already, or shared by another namespace, needs no request.
        let incoming = if at == blob.size && blob.size > 0 {
            None
        } else {
            let part = self.settings.chunks.part(chunks, at, blob.size);
            match registry.blob(blob, urls, at, part).await {
                Ok(incoming) => Some(incoming),
                Err(error) => {
                    return (Attempt { reached: at, source: None, outcome: Err(error.into()) }, tell);
                }
            }
        };
        if let Some(incoming) = &incoming {
            at = incoming.offset;
        }
        let source = incoming.as_ref().map(|incoming| incoming.source);
        let host = incoming.as_ref().map_or_else(|| registry.host().to_owned(), |incoming| incoming.host.clone());
        item.set("downloading", at);
        let writing = {
            let (scope, digest, labels) = (scope.clone(), blob.digest.clone(), source_label(registry));
            let meta = self.meta.clone();
            blocking::run(move || {
                let (reference, mut tell) = (writer.reference().to_owned(), tell);
                let written = match write(writer, at, queue, labels, &mut tell) {
                    // It would be resumed with what made it wrong.
                    Err(error @ ContentError::Digest { .. }) => {
                        if let Err(error) = meta.abort_ingest(scope, &reference) {
                            tracing::warn!(%digest, %error, "upload of the wrong content not removed");
                        }
                        Err(error)
                    }
                    outcome => outcome,
                };
                (written, tell)
            })
        };
        let receiving = async {
            let mut receiver = Receiver { registry, blob, at, item, pieces };
            let received = match incoming {
                None => Ok(()),
                Some(incoming)
                    if incoming.is_part && chunks && self.settings.chunks.part(true, at, blob.size).is_some() =>
                {
                    receiver.chunks(self, urls, incoming).await
                }
                Some(incoming) => receiver.whole(incoming).await,
            };
            let received = match received {
                Ok(()) => receiver.end(&host).await,
                Err(error) => Err(error),
            };
            (receiver.at, received)
        };
        let ((written, tell), (reached, received)) = tokio::join!(writing, receiving);
        let outcome = match (written, received) {
            (Ok(Written::Whole) | Err(ContentError::AlreadyExists { .. }), _) => Ok(()),
            (Err(ContentError::Digest { got, wanted }), _) => Err(TransferError::Corrupt { host, wanted, got }),
            (Err(error), _) => Err(error.into()),
            (Ok(Written::Cut), Err(error)) => Err(error),
            (Ok(Written::Cut), Ok(())) => {
                Err(TransferError::Length { host, digest: blob.digest.clone(), got: reached, wanted: blob.size })
            }
        };
        (Attempt { reached, source, outcome }, tell)
    }

    /// Notes where a blob came from, so that a push to the same registry need not send it.
    pub(super) async fn note_source(
        &self,
        scope: &Scope,
        digest: &model::Digest,
        registry: &impl Registry,
    ) -> Result<(), ContentError> {
        let (key, repository) = (source_key(registry), registry.repository());
        let known = self.meta.content(&scope.namespace, digest.clone())?.record.labels.get(&key).cloned();
        let mut all: Vec<&str> =
            known.as_deref().unwrap_or_default().split(',').filter(|one| !one.is_empty()).collect();
        if all.contains(&repository) {
            return Ok(());
        }
        all.push(repository);
        let value = all.join(",");
        if key.len() + value.len() > model::labels::MAX_LABEL_BYTES {
            // Enough repositories are known.
            return Ok(());
        }
        self.label(&scope.namespace, digest, Labels::from([(key, value)])).await
    }
}

fn source_key(registry: &impl Registry) -> String {
    format!("{LABEL_SOURCE}{}", registry.host())
}

/// The label of what comes from a registry, unless it is too long for one.
pub(super) fn source_label(registry: &impl Registry) -> Labels {
    let label = Labels::from([(source_key(registry), registry.repository().to_owned())]);
    if model::labels::check(&label).is_ok() { label } else { Labels::new() }
}

/// How an attempt ended.
struct Attempt {
    /// How far it came.
    reached: u64,
    /// Who sent it.
    source: Option<usize>,
    outcome: Result<(), TransferError>,
}

/// Tells who follows the blob how far it is.
#[derive(Default)]
struct Tell {
    follower: Option<Arriving>,
    /// The file that was told last. It stays the same when an upload is resumed.
    file: Option<Arc<File>>,
}

impl Tell {
    fn starts_over(&mut self) {
        if self.file.take().is_some()
            && let Some(follower) = &self.follower
        {
            follower.starts_over();
        }
    }

    /// Tells that `writer` has written.
    fn grown(&mut self, writer: &Writer) {
        let Some(follower) = &self.follower else { return };
        if self.file.is_none() {
            // Without a file to follow, the blob is waited for.
            self.file = writer.file().ok().flatten().map(Arc::new);
        }
        if let Some(file) = &self.file {
            follower.grows(file, writer.status().offset);
        }
    }
}

/// Passes on what comes in.
struct Receiver<'a, R> {
    registry: &'a R,
    blob: &'a Descriptor,
    /// How far that is.
    at: u64,
    item: &'a Item,
    pieces: mpsc::Sender<Piece>,
}

impl<R: Registry> Receiver<'_, R> {
    /// Takes all that one answer brings.
    async fn whole(&mut self, incoming: Incoming) -> Result<(), TransferError> {
        let mut steady = Steady::new(incoming, self.registry.patience().silence, self.blob);
        while let Some(piece) = steady.next().await? {
            if !self.pass(piece, &steady.host).await? {
                break;
            }
        }
        Ok(())
    }

    /// Takes the rest of the blob in parts, several at a time; `first` is the first one.
    async fn chunks(&mut self, images: &Images, urls: &[String], first: Incoming) -> Result<(), TransferError> {
        let (registry, blob, silence) = (self.registry, self.blob, self.registry.patience().silence);
        let chunk = images.settings.chunks.bytes;
        let begins = std::iter::successors(Some(self.at), move |at| at.checked_add(chunk));
        let begins = begins.take_while(|at| *at < blob.size);
        let mut first = Some(first);
        let parts = begins.map(move |at| (at, first.take()));
        let one = |(at, begun): (u64, Option<Incoming>)| async move {
            let length = chunk.min(blob.size - at);
            let permits = u32::try_from(length.div_ceil(1 << 10)).unwrap_or(u32::MAX);
            // Held until its bytes are passed on.
            let permit = images.chunk_kib.acquire_many(permits.min(MAX_CHUNK_KIB)).await.expect("it is never closed");
            let incoming = match begun {
                Some(incoming) => incoming,
                None => registry.blob(blob, urls, at, Some(length)).await?,
            };
            if !incoming.is_part {
                let source = io::Error::other("it no longer sends parts");
                return Err(broken(&incoming.host, blob, &source));
            }
            let mut steady = Steady::new(incoming, silence, blob);
            let (mut pieces, mut got) = (Vec::new(), 0);
            while let Some(piece) = steady.next().await? {
                got += piece.len() as u64;
                if got > length {
                    return Err(broken(&steady.host, blob, &io::Error::other("a part has more bytes than it should")));
                }
                pieces.push(piece);
            }
            if got < length {
                let source =
                    io::Error::new(io::ErrorKind::UnexpectedEof, format!("a part ended after {got} of {length} bytes"));
                return Err(broken(&steady.host, blob, &source));
            }
            Ok((steady.host, pieces, permit))
        };
        let mut parts = futures_util::stream::iter(parts).map(one).buffered(images.settings.chunks.parallel.max(1));
        while let Some(part) = parts.next().await {
            let (host, pieces, _permit) = part?;
            for piece in pieces {
                if !self.pass(piece, &host).await? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Passes a piece on; whether somebody takes it.
    async fn pass(&mut self, piece: Bytes, host: &str) -> Result<bool, TransferError> {
        let next = self.at + piece.len() as u64;
        if next > self.blob.size {
            return Err(TransferError::Length {
                host: host.to_owned(),
                digest: self.blob.digest.clone(),
                got: next,
                wanted: self.blob.size,
            });
        }
        // If the writer ended, it says why.
        if self.pieces.send(Piece::Bytes(piece)).await.is_err() {
            return Ok(false);
        }
        self.at = next;
        self.item.at(next);
        Ok(true)
    }

    /// Says that this was all, if it was.
    async fn end(&self, host: &str) -> Result<(), TransferError> {
        if self.at < self.blob.size {
            // A connection that ends too early is not always an error to the HTTP client.
            let what = format!("it ended after {} of {} bytes", self.at, self.blob.size);
            return Err(broken(host, self.blob, &io::Error::new(io::ErrorKind::UnexpectedEof, what)));
        }
        // If the writer ended, it says why.
        let _ = self.pieces.send(Piece::End).await;
        Ok(())
    }
}

/// Bytes that come in, as long as enough of them do. Only the time is counted that they are waited for.
struct Steady<'a> {
    host: String,
    blob: &'a Descriptor,
    pieces: BoxStream<'static, io::Result<Bytes>>,
    silence: Duration,
    waited: Duration,
    got: u64,
}

impl<'a> Steady<'a> {
    fn new(incoming: Incoming, silence: Duration, blob: &'a Descriptor) -> Self {
        let Incoming { host, pieces, .. } = incoming;
        Self { host, blob, pieces, silence, waited: Duration::ZERO, got: 0 }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, TransferError> {
        let begun = Instant::now();
        let piece = self.pieces.next().await;
        self.waited += begun.elapsed();
        let piece = match piece {
            None => return Ok(None),
            Some(Ok(piece)) => piece,
            Some(Err(source)) => return Err(broken(&self.host, self.blob, &source)),
        };
        self.got += piece.len() as u64;
        if self.waited >= self.silence {
            if self.got < LEAST_BYTES {
                return Err(TransferError::Registry(RegistryError::Slow {
                    host: self.host.clone(),
                    what: format!("blob {}", self.blob.digest),
                    bytes: self.got,
                    within: self.waited,
                }));
            }
            (self.waited, self.got) = (Duration::ZERO, 0);
        }
        Ok(Some(piece))
    }
}

fn broken(host: &str, blob: &Descriptor, source: &io::Error) -> TransferError {
    TransferError::Registry(RegistryError::interrupted(host, format!("blob {}", blob.digest), source))
}

/// Writes what comes, from `at` on.
fn write(
    mut writer: Writer,
    at: u64,
    mut queue: mpsc::Receiver<Piece>,
    labels: Labels,
    tell: &mut Tell,
) -> Result<Written, ContentError> {
    if writer.status().offset != at {
        // The registry began at the beginning.
        tell.starts_over();
        writer.seek(0)?;
    }
    loop {
        match queue.blocking_recv() {
            Some(Piece::Bytes(bytes)) => {
                writer.append(&bytes)?;
                tell.grown(&writer);
            }
            Some(Piece::End) => {
                writer.commit(Commit { labels })?;
                return Ok(Written::Whole);
            }
            None => return Ok(Written::Cut),
        }
    }
}
