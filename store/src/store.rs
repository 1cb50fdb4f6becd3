//! The store: opened once, cloned freely, closed with its last clone.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use futures_channel::oneshot;
use rustix::fs::{FlockOperation, flock};

use crate::atomic::sync_dir;
use crate::committer::{Committer, Job, QUEUE, Reopen, Reopening, Request, Watch};
use crate::engine::MetaStore;
use crate::error::{EngineError, OpenCause, OpenError, StoreError};
use crate::pending::Pending;
use crate::read::{Read, Reader};
use crate::redb_engine::RedbEngine;
use crate::reserve;
use crate::shared::Shared;
use crate::sled_engine::SledEngine;
use crate::table::{Record, Table};
use crate::tx::Tx;

/// The schema that this program writes: raised when tables change in a way that an older program would get wrong.
const SCHEMA: u32 = 1;

/// How long an ended predecessor may take to let go of its locks: a child of it that was not yet executed holds them too.
const LOCK_WAIT: Duration = Duration::from_secs(1);
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// The engine that keeps the metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Engine {
    /// sled 0.34.
    #[default]
    Sled,
    /// redb 4.
    Redb,
}

impl Engine {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Sled, Self::Redb];

    /// Its name in the configuration, and of its folder.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sled => "sled",
            Self::Redb => "redb",
        }
    }
}

impl std::fmt::Display for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The name of an engine that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown metadata engine {0:?}, known are sled and redb")]
pub struct UnknownEngine(String);

impl std::str::FromStr for Engine {
    type Err = UnknownEngine;

    fn from_str(name: &str) -> Result<Self, UnknownEngine> {
        Self::ALL.into_iter().find(|engine| engine.name() == name).ok_or_else(|| UnknownEngine(name.to_owned()))
    }
}

/// How to open a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The engine.
    pub engine: Engine,
    /// How long the engine may take to open.
    pub open_limit: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { engine: Engine::default(), open_limit: Duration::from_secs(30) }
    }
}

/// All metadata. Clones share it; the last one to go closes it, after every request that was submitted.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    watch: Arc<Watch>,
    /// `None` only while dropping.
    queue: Option<SyncSender<Box<dyn Job>>>,
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
        let io = |what| move |source| OpenCause::Io { what, source };
        make_dir(dir).map_err(io("cannot make the folder")).map_err(failed)?;
        let lock = lock(dir).map_err(failed)?;
        if let Some(found) = other_engine(dir, options.engine) {
            return Err(failed(OpenCause::OtherEngine { found, wanted: options.engine }));
        }
        let home = dir.join(options.engine.name());
        make_dir(&home).map_err(io("cannot make the engine's folder")).map_err(failed)?;
        sync_dir(dir).map_err(io("cannot sync the folder")).map_err(failed)?;
        let engine = open_engine(home.clone(), options, None).map_err(failed)?;
        reserve::take(dir);
        let store = Self::over(engine, Box::new(move |old| reopen_engine(&home, options, old)), lock);
        store.check_schema().map_err(failed)?;
        Ok(store)
    }

    fn over(engine: Box<dyn MetaStore>, reopen: Reopen, lock: File) -> Self {
        let shared = Arc::new(Shared::new(engine));
        let watch = Arc::new(Watch::new());
        let (queue, requests) = mpsc::sync_channel(QUEUE);
        let committer = Committer { queue: requests, shared: Arc::clone(&shared), watch: Arc::clone(&watch), reopen };
        let committer = spawn("store-committer", move || committer.run());
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
        let request = Box::new(Request::new(work, reply));
        let Some(queue) = &self.inner.queue else { return Pending::refused(StoreError::Closed) };
        match queue.try_send(request) {
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
        match self.inner.queue.as_ref().map(|queue| queue.send(request)) {
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

/// Moves the folder of a store that cannot be opened out of the way, and returns where to. The store must not be open.
///
/// # Errors
/// What the file system said.
pub fn move_aside(dir: &Path) -> io::Result<PathBuf> {
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    for attempt in 0..1000 {
        let mut name = dir.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        name.push(format!(".broken-{seconds}-{attempt}"));
        let aside = dir.with_file_name(name);
        if fs::symlink_metadata(&aside).is_ok() {
            continue;
        }
        fs::rename(dir, &aside)?;
        if let Some(parent) = aside.parent() {
            sync_dir(parent)?;
        }
        return Ok(aside);
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// The engine whose data is there, when that of the wanted one is not.
fn other_engine(dir: &Path, wanted: Engine) -> Option<Engine> {
    let present = |engine: &Engine| dir.join(engine.name()).is_dir();
    if present(&wanted) { None } else { Engine::ALL.into_iter().find(present) }
}

/// Opens the engine, after closing `old`, in a thread of its own: if it hangs the caller gets its turn all the same.
fn open_engine(
    home: PathBuf,
    options: Options,
    old: Option<Box<dyn MetaStore>>,
) -> Result<Box<dyn MetaStore>, OpenCause> {
    let (done, opened) = mpsc::sync_channel(1);
    spawn("store-open", move || {
        drop(old);
        // Nobody takes it when the time was up; then it is closed again.
        let _ = done.send(open_patiently(&home, options.engine));
    });
    wait_for(&opened, options.open_limit)
}

fn reopen_engine(
    home: &Path,
    options: Options,
    old: Option<Box<dyn MetaStore>>,
) -> Result<Box<dyn MetaStore>, Reopening> {
    let failed = |detail| EngineError::Engine { what: "opening it again", detail };
    if home.parent().is_some_and(reserve::give_up) {
        tracing::warn!("space reserved for the metadata store given up");
    }
    open_engine(home.to_owned(), options, old).map_err(|cause| match cause {
        OpenCause::Damaged(error) => Reopening::Failed(error),
        OpenCause::Timeout { .. } => Reopening::Hangs(failed(cause.to_string())),
        cause => Reopening::Failed(failed(cause.to_string())),
    })
}

fn wait_for(
    opened: &Receiver<Result<Box<dyn MetaStore>, EngineError>>,
    limit: Duration,
) -> Result<Box<dyn MetaStore>, OpenCause> {
    match opened.recv_timeout(limit) {
        Ok(Ok(engine)) => Ok(engine),
        Ok(Err(EngineError::Locked)) => Err(OpenCause::Locked),
        Ok(Err(error)) => Err(OpenCause::Damaged(error)),
        Err(mpsc::RecvTimeoutError::Timeout) => Err(OpenCause::Timeout { limit }),
        Err(mpsc::RecvTimeoutError::Disconnected) => Err(OpenCause::Damaged(EngineError::Engine {
            what: "opening",
            detail: "the engine panicked; its text is on standard error".to_owned(),
        })),
    }
}

fn open_patiently(home: &Path, engine: Engine) -> Result<Box<dyn MetaStore>, EngineError> {
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        let opened: Result<Box<dyn MetaStore>, _> = match engine {
            Engine::Sled => SledEngine::open(home).map(|engine| Box::new(engine) as _),
            Engine::Redb => RedbEngine::open(home).map(|engine| Box::new(engine) as _),
        };
        match opened {
            Err(EngineError::Locked) if Instant::now() < deadline => thread::sleep(LOCK_RETRY),
            opened => return opened,
        }
    }
}

fn lock(dir: &Path) -> Result<File, OpenCause> {
    let io = |source| OpenCause::Io { what: "cannot lock the folder", source };
    let file = File::options().create(true).truncate(false).write(true).open(dir.join("lock")).map_err(io)?;
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => thread::sleep(LOCK_RETRY),
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(OpenCause::Locked),
            Err(error) => return Err(io(error.into())),
        }
    }
}

fn make_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    thread::Builder::new().name(name.to_owned()).spawn(work).expect("a process that opens a store may start a thread")
}

#[cfg(test)]
mod tests;
