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
//! An upload has the name that other tools give it, so it shows as progress to them, and resumes what any of them began. When the
//! digest is wrong it is removed, since resuming it would never end well, and fetched anew if it was resumed. Dropping the future leaves an upload to resume.

use std::io;
use std::time::Duration;

use futures_util::StreamExt;
use model::{Descriptor, Labels};
use proto::bytes::Bytes;
use tokio::sync::mpsc;

use super::document::upload_name;
use super::local::{LABEL_SOURCE, blob_turn};
use super::progress::Item;
use super::registry::{Registry, RegistryError};
use super::{Images, TransferError};
use crate::api::Scope;
use crate::blocking;
use crate::meta::content::ContentError;
use crate::meta::content::write::{Commit, Open, Writer};

/// Pieces that wait to be written; then the registry waits. A piece is what a read from the socket gave, some ten KiB.
const PIECES_AHEAD: usize = 32;

/// How often a blob is asked for again without any byte in between.
const TRIES: u32 = 5;

/// How often it is asked for again at all.
const MAX_TRIES: u32 = 50;

/// The first pause between tries; each is twice as long as the one before.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// The longest pause between tries.
pub(super) const LAST_PAUSE: Duration = Duration::from_secs(5);

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

impl Images {
    /// Makes sure that the namespace sees a blob; whether it had to be fetched. `scope` is without a lease.
    pub(super) async fn fetch(
        &self,
        scope: &Scope,
        registry: &impl Registry,
        blob: &Descriptor,
        item: &Item,
    ) -> Result<bool, TransferError> {
        let _turn = self.locks.take(blob_turn(&scope.namespace, &blob.digest)).await;
        let _permit = self.downloads.acquire().await.expect("it is never closed");
        let (mut idle, mut tries, mut trusting) = (0, 0, true);
        loop {
            let Some(writer) = self.open_upload(scope, blob, item).await? else {
                item.done("already exists");
                return Ok(false);
            };
            let before = writer.status().offset;
            let (reached, outcome) = self.attempt(writer, scope, registry, blob, item).await;
            let error = match outcome {
                Ok(()) => {
                    item.done("complete");
                    return Ok(true);
                }
                Err(error) => error,
            };
            // What an earlier upload left may be what is wrong; it is removed by now.
            if before > 0 && matches!(error, TransferError::Corrupt { .. }) && std::mem::take(&mut trusting) {
                continue;
            }
            idle = if reached > before { 0 } else { idle + 1 };
            tries += 1;
            let transient = matches!(&error, TransferError::Registry(source) if source.is_transient());
            if !transient || idle >= TRIES || tries >= MAX_TRIES {
                return Err(error);
            }
            tracing::debug!(digest = %blob.digest, reached, %error, "fetching again");
            tokio::time::sleep((FIRST_PAUSE * 2_u32.pow(idle)).min(LAST_PAUSE)).await;
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
        blob: &Descriptor,
        item: &Item,
    ) -> (u64, Result<(), TransferError>) {
        let mut at = writer.status().offset;
        if at > blob.size {
            at = 0;
        }
        let (pieces, queue) = mpsc::channel(PIECES_AHEAD);
        // What is complete already, or shared by another namespace, needs no request.
        let incoming = if at == blob.size && blob.size > 0 {
            None
        } else {
            match registry.blob(blob, at).await {
                Ok(incoming) => Some(incoming),
                Err(error) => return (at, Err(error.into())),
            }
        };
        if let Some(incoming) = &incoming {
            at = incoming.offset;
        }
        item.set("downloading", at);
        let writing = {
            let (scope, digest, labels) = (scope.clone(), blob.digest.clone(), source_label(registry));
            let meta = self.meta.clone();
            blocking::run(move || {
                let reference = writer.reference().to_owned();
                match write(writer, at, queue, labels) {
                    // It would be resumed with what made it wrong.
                    Err(error @ ContentError::Digest { .. }) => {
                        if let Err(error) = meta.abort_ingest(scope, &reference) {
                            tracing::warn!(%digest, %error, "upload of the wrong content not removed");
                        }
                        Err(error)
                    }
                    outcome => outcome,
                }
            })
        };
        let receiving = receive(registry, blob, incoming, at, item, pieces);
        let (written, (reached, received)) = tokio::join!(writing, receiving);
        let outcome = match (written, received) {
            (Ok(Written::Whole) | Err(ContentError::AlreadyExists { .. }), _) => Ok(()),
            (Err(ContentError::Digest { got, wanted }), _) => {
                Err(TransferError::Corrupt { host: registry.host().to_owned(), wanted, got })
            }
            (Err(error), _) => Err(error.into()),
            (Ok(Written::Cut), Err(error)) => Err(error),
            (Ok(Written::Cut), Ok(())) => Err(TransferError::Length {
                host: registry.host().to_owned(),
                digest: blob.digest.clone(),
                got: reached,
                wanted: blob.size,
            }),
        };
        (reached, outcome)
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

/// Passes on what comes in; how far that is.
async fn receive(
    registry: &impl Registry,
    blob: &Descriptor,
    incoming: Option<super::registry::Incoming>,
    mut at: u64,
    item: &Item,
    pieces: mpsc::Sender<Piece>,
) -> (u64, Result<(), TransferError>) {
    let wrong_length = |got| TransferError::Length {
        host: registry.host().to_owned(),
        digest: blob.digest.clone(),
        got,
        wanted: blob.size,
    };
    if let Some(mut incoming) = incoming {
        while let Some(piece) = incoming.pieces.next().await {
            let piece = match piece {
                Ok(piece) => piece,
                Err(source) => return (at, Err(broken(registry, blob, &source))),
            };
            let next = at + piece.len() as u64;
            if next > blob.size {
                return (at, Err(wrong_length(next)));
            }
            if pieces.send(Piece::Bytes(piece)).await.is_err() {
                // The writer ended, and says why.
                return (at, Ok(()));
            }
            at = next;
            item.at(at);
        }
    }
    if at < blob.size {
        // A connection that ends too early is not always an error to the HTTP client.
        let source =
            io::Error::new(io::ErrorKind::UnexpectedEof, format!("it ended after {at} of {} bytes", blob.size));
        return (at, Err(broken(registry, blob, &source)));
    }
    // If the writer ended, it says why.
    let _ = pieces.send(Piece::End).await;
    (at, Ok(()))
}

fn broken(registry: &impl Registry, blob: &Descriptor, source: &io::Error) -> TransferError {
    TransferError::Registry(RegistryError::interrupted(registry.host(), format!("blob {}", blob.digest), source))
}

/// Writes what comes, from `at` on.
fn write(
    mut writer: Writer,
    at: u64,
    mut queue: mpsc::Receiver<Piece>,
    labels: Labels,
) -> Result<Written, ContentError> {
    if writer.status().offset != at {
        // The registry began at the beginning.
        writer.seek(0)?;
    }
    loop {
        match queue.blocking_recv() {
            Some(Piece::Bytes(bytes)) => writer.append(&bytes)?,
            Some(Piece::End) => {
                writer.commit(Commit { labels })?;
                return Ok(Written::Whole);
            }
            None => return Ok(Written::Cut),
        }
    }
}
