//! Blobs on their way: how far each has come, for whoever waits for it, and their bytes while they still come.
//!
//! ```text
//!   Expected ──grows──► Growing { file, bytes } ──grows──► … ──arrived──► Whole
//!      ▲                    │
//!      └───starts_over──────┘   what was read before is void
//! ```
//!
//! Whoever fetches a blob says how far it is with [`Arriving`]; whoever unpacks it waits, or follows the file with [`Follow`].
//! Bytes that are followed are not verified yet: what is made of them counts only once the blob is [`Arrival::Whole`].

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use model::Digest;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::progress::Item;

/// How far a blob has come.
#[derive(Debug, Clone)]
pub(super) enum Arrival {
    /// Nothing of it can be read yet.
    Expected,
    /// The first `bytes` bytes can be read from `file`, which more is added to.
    Growing {
        /// Where the bytes are. It is read by position only.
        file: Arc<File>,
        /// How many there are.
        bytes: u64,
    },
    /// It is whole, verified, and in the store.
    Whole,
}

/// Which blobs are here by now, and how far the others are. What is not listed was here all the time.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    blobs: HashMap<Digest, Arriving>,
}

/// One blob on its way. Clones are the same blob; the one who fetches it may take one into any thread.
#[derive(Debug, Clone)]
pub(super) struct Arriving {
    item: Item,
    at: Arc<watch::Sender<Arrival>>,
}

impl Arrivals {
    /// Lists a blob as not here yet.
    pub(super) fn expect(&mut self, digest: &Digest, item: Item) {
        let at = Arc::new(watch::Sender::new(Arrival::Expected));
        self.blobs.insert(digest.clone(), Arriving { item, at });
    }

    /// Notes that a blob is here.
    pub(super) fn arrived(&self, digest: &Digest) {
        if let Some(blob) = self.blobs.get(digest) {
            blob.arrived();
        }
    }

    /// What is reported of a blob.
    pub(super) fn item(&self, digest: &Digest) -> Option<Item> {
        self.blobs.get(digest).map(|blob| blob.item.clone())
    }

    /// A blob that is listed.
    pub(super) fn arriving(&self, digest: &Digest) -> Option<Arriving> {
        self.blobs.get(digest).cloned()
    }

    /// Waits until a blob is here.
    pub(super) async fn wait(&self, digest: &Digest) {
        if let Some(blob) = self.blobs.get(digest) {
            // The sender lives as long as this.
            let _ = blob.at.subscribe().wait_for(|at| matches!(at, Arrival::Whole)).await;
        }
    }
}

impl Arriving {
    /// The first `bytes` bytes of it are in `file` by now. The same file is to be given each time, but after a new start.
    pub(super) fn grows(&self, file: &Arc<File>, bytes: u64) {
        self.at.send_if_modified(|at| {
            match at {
                Arrival::Whole => return false,
                Arrival::Growing { file: known, bytes: there } if Arc::ptr_eq(known, file) => *there = bytes,
                Arrival::Growing { .. } | Arrival::Expected => {
                    *at = Arrival::Growing { file: Arc::clone(file), bytes };
                }
            }
            true
        });
    }

    /// What came until now is void, and it begins anew.
    pub(super) fn starts_over(&self) {
        self.at.send_replace(Arrival::Expected);
    }

    /// It is whole, verified, and in the store.
    pub(super) fn arrived(&self) {
        self.at.send_replace(Arrival::Whole);
    }

    /// How far it is now, and from now on.
    pub(super) fn watch(&self) -> watch::Receiver<Arrival> {
        self.at.subscribe()
    }
}

/// How to read a blob while it arrives.
pub(super) struct Follow {
    at: watch::Receiver<Arrival>,
    runtime: Handle,
    size_bytes: u64,
    given_up: CancellationToken,
}

impl Follow {
    /// Follows a blob of `size_bytes`, until `given_up` is cancelled. To be called within the runtime.
    pub(super) fn new(at: watch::Receiver<Arrival>, size_bytes: u64, given_up: CancellationToken) -> Self {
        Self { at, runtime: Handle::current(), size_bytes, given_up }
    }

    /// Begins at the first byte.
    pub(super) fn reader(&self) -> Follower {
        Follower {
            at: self.at.clone(),
            runtime: self.runtime.clone(),
            size_bytes: self.size_bytes,
            next: 0,
            file: None,
            there: 0,
            given_up: self.given_up.clone(),
        }
    }
}

/// Reads a blob while it arrives. It blocks; not for a thread of the runtime.
pub(super) struct Follower {
    at: watch::Receiver<Arrival>,
    runtime: Handle,
    size_bytes: u64,
    /// The next byte to read.
    next: u64,
    file: Option<Arc<File>>,
    /// How much of the file is there.
    there: u64,
    given_up: CancellationToken,
}

impl Follower {
    /// Waits until there is more to read.
    fn wait(&mut self) -> io::Result<()> {
        while self.next >= self.there {
            let arrival = self.at.borrow_and_update().clone();
            match arrival {
                Arrival::Growing { file, bytes } => {
                    if bytes < self.next || self.file.as_ref().is_some_and(|known| !Arc::ptr_eq(known, &file)) {
                        return Err(io::Error::other("the transfer began anew"));
                    }
                    self.there = bytes;
                    self.file = Some(file);
                }
                // The file that was followed is the blob.
                Arrival::Whole if self.file.is_some() => self.there = self.size_bytes,
                Arrival::Whole => return Err(io::Error::other("the blob came another way")),
                Arrival::Expected if self.file.is_some() => return Err(io::Error::other("the transfer began anew")),
                Arrival::Expected => {}
            }
            if self.next < self.there {
                return Ok(());
            }
            let (at, given_up) = (&mut self.at, &self.given_up);
            self.runtime.block_on(async {
                tokio::select! {
                    changed = at.changed() => changed.map_err(|_| io::Error::other("the transfer ended")),
                    () = given_up.cancelled() => Err(io::Error::other("nobody waits for this any more")),
                }
            })?;
        }
        Ok(())
    }
}

impl Read for Follower {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.given_up.is_cancelled() {
            return Err(io::Error::other("nobody waits for this any more"));
        }
        if self.next >= self.size_bytes || buffer.is_empty() {
            return Ok(0);
        }
        self.wait()?;
        let file = self.file.as_ref().expect("something can be read");
        let length = usize::try_from(self.there - self.next).unwrap_or(usize::MAX).min(buffer.len());
        let got = file.read_at(&mut buffer[..length], self.next)?;
        if got == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "what had arrived is gone"));
        }
        self.next += got as u64;
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::images::progress::Reporter;

    fn growing() -> (Arrivals, Digest, Arc<File>, File) {
        let mut arrivals = Arrivals::default();
        let digest = Digest::sha256(b"x");
        let blob = model::Descriptor {
            media_type: String::new(),
            digest: digest.clone(),
            size: 6,
            annotations: model::Labels::new(),
        };
        arrivals.expect(&digest, Reporter::default().blob(&blob, &[]));
        let file = tempfile::tempfile().unwrap();
        let reader = Arc::new(file.try_clone().unwrap());
        (arrivals, digest, reader, file)
    }

    #[tokio::test]
    async fn bytes_are_read_as_they_come() {
        let (arrivals, digest, reader, mut file) = growing();
        let blob = arrivals.arriving(&digest).unwrap();
        let mut follower = Follow::new(blob.watch(), 6, CancellationToken::new()).reader();
        file.write_all(b"abc").unwrap();
        blob.grows(&reader, 3);
        let (mut follower, first) = tokio::task::spawn_blocking(move || {
            let mut first = [0; 3];
            follower.read_exact(&mut first).unwrap();
            (follower, first)
        })
        .await
        .unwrap();
        assert_eq!(&first, b"abc");
        let rest = tokio::task::spawn_blocking(move || {
            let mut rest = Vec::new();
            follower.read_to_end(&mut rest).map(|_| rest)
        });
        file.write_all(b"def").unwrap();
        blob.grows(&reader, 6);
        assert_eq!(rest.await.unwrap().unwrap(), b"def");
    }

    #[tokio::test]
    async fn a_new_start_and_an_end_are_seen() {
        let (arrivals, digest, reader, mut file) = growing();
        let blob = arrivals.arriving(&digest).unwrap();
        file.write_all(b"abc").unwrap();
        blob.grows(&reader, 3);
        let mut follower = Follow::new(blob.watch(), 6, CancellationToken::new()).reader();
        let mut follower = tokio::task::spawn_blocking(move || {
            follower.read_exact(&mut [0; 3]).unwrap();
            follower
        })
        .await
        .unwrap();
        blob.starts_over();
        let reading = tokio::task::spawn_blocking(move || follower.read_to_end(&mut Vec::new()));
        assert!(reading.await.unwrap().is_err());

        let given_up = CancellationToken::new();
        let mut follower = Follow::new(blob.watch(), 6, given_up.clone()).reader();
        let reading = tokio::task::spawn_blocking(move || follower.read_to_end(&mut Vec::new()));
        given_up.cancel();
        assert!(reading.await.unwrap().is_err());

        let mut follower = Follow::new(blob.watch(), 6, CancellationToken::new()).reader();
        let reading = tokio::task::spawn_blocking(move || follower.read_to_end(&mut Vec::new()));
        drop((blob, arrivals));
        assert!(reading.await.unwrap().is_err());
    }
}
