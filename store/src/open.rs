//! Opening an engine: whose folder it is, who else has it, and how long it may take.
//!
//! ```text
//! <dir>/lock  reserve  sled/ or redb/
//! ```

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{FlockOperation, flock};

use crate::atomic::{sync_dir, sync_parent};
use crate::committer::Reopening;
use crate::engine::MetaStore;
use crate::error::{EngineError, OpenCause};
use crate::redb_engine::RedbEngine;
use crate::reserve;
use crate::sled_engine::SledEngine;

/// How long an ended predecessor may take to let go of its locks: a child of it that was not yet executed holds them too.
const LOCK_WAIT: Duration = Duration::from_secs(1);
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// How many names are tried for a folder that is moved aside.
const MOST_NAMES: u32 = 1000;

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

/// Opens the engine in `dir`, which is made if it does not exist; and the lock on the folder, to be held as long.
pub(crate) fn open(dir: &Path, options: Options) -> Result<(Box<dyn MetaStore>, File), OpenCause> {
    let io = |what| move |source| OpenCause::Io { what, source };
    make_dir(dir).and_then(|()| sync_parent(dir)).map_err(io("cannot make the folder"))?;
    let lock = lock(dir)?;
    match present(dir)[..] {
        [] => {}
        [found] if found == options.engine => {}
        [found] => return Err(OpenCause::OtherEngine { found, wanted: options.engine }),
        _ => return Err(OpenCause::BothEngines),
    }
    let home = dir.join(options.engine.name());
    make_dir(&home).map_err(io("cannot make the engine's folder"))?;
    sync_dir(dir).map_err(io("cannot sync the folder"))?;
    let engine = open_engine(home, options, None)?;
    reserve::take(dir);
    Ok((engine, lock))
}

/// The engines whose data is there.
pub(crate) fn present(dir: &Path) -> Vec<Engine> {
    Engine::ALL.into_iter().filter(|engine| dir.join(engine.name()).is_dir()).collect()
}

/// Moves the folder of a store that cannot be opened out of the way, and returns where to. The store must not be open.
///
/// # Errors
/// What the file system said.
pub fn move_aside(dir: &Path) -> io::Result<PathBuf> {
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    for attempt in 0..MOST_NAMES {
        let mut name = dir.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        name.push(format!(".aside-{seconds}-{attempt}"));
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

/// Opens the engine, after closing `old`, in a thread of its own: if it hangs the caller gets its turn all the same.
pub(crate) fn open_engine(
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

/// Closes a failed engine and opens it again, with the space that was reserved for that.
pub(crate) fn reopen(
    dir: &Path,
    options: Options,
    old: Option<Box<dyn MetaStore>>,
) -> Result<Box<dyn MetaStore>, Reopening> {
    let failed = |detail| EngineError::Engine { what: "opening it again", detail };
    if reserve::give_up(dir) {
        tracing::warn!("space reserved for the metadata store given up");
    }
    open_engine(dir.join(options.engine.name()), options, old).map_err(|cause| match cause {
        OpenCause::Damaged(error) => Reopening::Failed(error),
        OpenCause::Timeout { .. } => Reopening::Hangs(failed(cause.to_string())),
        cause => Reopening::Failed(failed(cause.to_string())),
    })
}

pub(crate) fn wait_for(
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

pub(crate) fn lock(dir: &Path) -> Result<File, OpenCause> {
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

pub(crate) fn make_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

pub(crate) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    thread::Builder::new().name(name.to_owned()).spawn(work).expect("a process that opens a store may start a thread")
}
