//! The store: opened once, cloned freely, closed with its last clone.

use std::collections::VecDeque;
use std::fs::File;
use std::path::Path;
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use futures_channel::oneshot;

use crate::committer::{Committer, Item, QUEUE, Reopen, Request, Watch};
use crate::engine::MetaStore;
use crate::error::{OpenCause, OpenError, StoreError};
use crate::open::{self, Options};
use crate::pending::Pending;
use crate::read::{Read, Reader};
use crate::shared::Shared;
use crate::table::{Record, Table};
use crate::tx::Tx;

/// The schema that this program writes: raised when tables change in a way that an older program would get wrong.
const SCHEMA: u32 = 1;

/// All metadata. Clones share it; the last one to go closes it, after every request that was submitted.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    watch: Arc<Watch>,
    /// `None` only while dropping.
    queue: Option<SyncSender<Item>>,
    committer: Mutex<Option<JoinHandle<()>>>,
    /// Holds the folder's lock; last, so that the engine is closed before.
    _lock: File,
}

impl Store {
    /// Opens the store in the folder `dir`, which is made if it does not exist.
    ///
    /// # Errors
    /// [`OpenError`] says why and names the folder. Nothing is moved, removed or repaired without being asked.
    pub fn open(dir: &Path, options: Options) -> Result<Self, OpenError> {
        let failed = |cause| OpenError { dir: dir.to_owned(), cause };
        let (engine, lock) = open::open(dir, options).map_err(failed)?;
        let dir_again = dir.to_owned();
        let store = Self::over(engine, Box::new(move |old| open::reopen(&dir_again, options, old)), lock);
        store.check_schema().map_err(failed)?;
        Ok(store)
    }

    fn over(engine: Box<dyn MetaStore>, reopen: Reopen, lock: File) -> Self {
        let shared = Arc::new(Shared::new(engine));
        let watch = Arc::new(Watch::new());
        let (queue, requests) = mpsc::sync_channel(QUEUE);
        let (shared_too, watch_too) = (Arc::clone(&shared), Arc::clone(&watch));
        let patient = VecDeque::new();
        let committer = Committer { queue: requests, patient, shared: shared_too, watch: watch_too, reopen };
        let committer = open::spawn("store-committer", move || committer.run());
        let inner = Inner { shared, watch, queue: Some(queue), committer: Mutex::new(Some(committer)), _lock: lock };
        Self { inner: Arc::new(inner) }
    }

    /// Reads what is committed and on disk.
    pub fn read(&self) -> Reader {
        Reader::new(Arc::clone(&self.inner.shared))
    }

    /// Lets the committer run `work`, once, alone, and makes its writes durable together. If it returns an error or
    /// panics, none of its writes is kept.
    ///
    /// `work` must only read and write records: no other I/O, no waiting, above all not for another request.
    /// It never blocks; with more than [`QUEUE`] requests waiting the answer is [`StoreError::Busy`].
    pub fn submit<T, E>(&self, work: impl FnOnce(&mut Tx<'_>) -> Result<T, E> + Send + 'static) -> Pending<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        self.enqueue(Item::Now(Box::new(Request::new(work, reply))), answer)
    }

    /// [`Store::submit`] for what has time: it becomes durable with the next group that others make necessary, at the latest
    /// after `patience`. Nobody's request takes longer for it.
    pub fn submit_patiently<T, E>(
        &self,
        patience: Duration,
        work: impl FnOnce(&mut Tx<'_>) -> Result<T, E> + Send + 'static,
    ) -> Pending<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        self.enqueue(Item::Until(Instant::now() + patience, Box::new(Request::new(work, reply))), answer)
    }

    fn enqueue<T, E: From<StoreError>>(&self, item: Item, answer: oneshot::Receiver<Result<T, E>>) -> Pending<T, E> {
        let Some(queue) = &self.inner.queue else { return Pending::refused(StoreError::Closed) };
        match queue.try_send(item) {
            Ok(()) => Pending::waiting(answer),
            Err(TrySendError::Full(_)) => Pending::refused(StoreError::Busy),
            Err(TrySendError::Disconnected(_)) => Pending::refused(StoreError::Closed),
        }
    }

    /// [`Store::submit`], and waits for the answer. Not for async code. Waits for room in the queue, too.
    ///
    /// # Errors
    /// What `work` returned, or a [`StoreError`] when the change could not be made.
    pub fn write<T, E>(&self, work: impl FnOnce(&mut Tx<'_>) -> Result<T, E> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let request = Box::new(Request::new(work, reply));
        match self.inner.queue.as_ref().map(|queue| queue.send(Item::Now(request))) {
            Some(Ok(())) => Pending::waiting(answer).wait(),
            _ => Err(StoreError::Closed.into()),
        }
    }

    /// For how long the group that is being written has been at it, `None` between groups: seconds mean that the disk or
    /// the engine hangs.
    pub fn writing_for(&self) -> Option<Duration> {
        self.inner.watch.writing_for()
    }

    /// Why nothing can be read or written at present, `None` if all is well. Requests make the store try to go on.
    pub fn stopped(&self) -> Option<StoreError> {
        self.inner.shared.stopped()
    }

    fn check_schema(&self) -> Result<(), OpenCause> {
        const META: Table<SchemaRecord> = Table::new("_meta");
        const KEY: &[u8] = b"schema";
        match self.read().get(&META, KEY).map_err(OpenCause::Schema)? {
            Some(SchemaRecord { version }) if version > SCHEMA => {
                Err(OpenCause::Newer { found: version, known: SCHEMA })
            }
            Some(_) => Ok(()),
            None => self.write(|tx| tx.put(&META, KEY, &SchemaRecord { version: SCHEMA })).map_err(OpenCause::Schema),
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("stopped", &self.stopped()).finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.queue = None;
        let committer = self.committer.get_mut().ok().and_then(Option::take);
        if let Some(committer) = committer.filter(|committer| committer.thread().id() != thread::current().id()) {
            // It answers for its own panics, and has nothing to tell otherwise.
            let _ = committer.join();
        }
    }
}

#[derive(serde::Serialize, serde::Deserialize)]
struct SchemaRecord {
    version: u32,
}

impl Record for SchemaRecord {
    const VERSION: u8 = 1;
}

#[cfg(test)]
mod tests;
