//! The layers above an engine, over one that stops, fails and panics on command.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, RwLock};

use std::fs;
use std::time::Instant;

use super::*;
use crate::committer::Reopening;
use crate::engine::{Batch, Pair, Span};
use crate::error::EngineError;
use crate::open::{Engine, wait_for};

type Contents = BTreeMap<(String, Vec<u8>), Vec<u8>>;

/// What is on the disk of a [`Fake`], and what it does next.
#[derive(Default)]
struct Disk {
    durable: RwLock<Contents>,
    plan: Mutex<Plan>,
    changed: Condvar,
    opened: AtomicUsize,
    flushes: AtomicUsize,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Plan {
    #[default]
    Work,
    /// Waits in `flush`.
    Block,
    /// Fails in `flush`, after the changes got there.
    FailLate,
    /// Fails in `apply`, before they did.
    FailEarly,
    /// Panics in `apply`.
    Panic,
    /// Fails in everything, opening included.
    Broken,
}

impl Disk {
    fn plan(&self, plan: Plan) {
        *self.plan.lock().unwrap() = plan;
        self.changed.notify_all();
    }

    fn check(&self, failing: Plan) -> Result<(), EngineError> {
        let plan = *self.plan.lock().unwrap();
        if plan == failing || plan == Plan::Broken {
            return Err(EngineError::Engine { what: "faking", detail: "planned".to_owned() });
        }
        Ok(())
    }
}

/// As sled: applied changes are visible at once, and on disk with the next flush.
struct Fake {
    disk: Arc<Disk>,
    applied: RwLock<Contents>,
}

impl Fake {
    fn open(disk: &Arc<Disk>) -> Result<Self, EngineError> {
        disk.check(Plan::Broken)?;
        disk.opened.fetch_add(1, Ordering::SeqCst);
        let applied = RwLock::new(disk.durable.read().unwrap().clone());
        Ok(Self { disk: Arc::clone(disk), applied })
    }
}

impl MetaStore for Fake {
    fn get(&self, table: &'static str, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        self.disk.check(Plan::Broken)?;
        Ok(self.applied.read().unwrap().get(&(table.to_owned(), key.to_vec())).cloned())
    }

    fn scan(&self, table: &'static str, span: &Span, limit: usize) -> Result<Vec<Pair>, EngineError> {
        self.disk.check(Plan::Broken)?;
        let applied = self.applied.read().unwrap();
        let of_table = applied.iter().filter(|((name, key), _)| {
            use std::ops::RangeBounds;
            name == table && span.bounds().contains(key.as_slice())
        });
        Ok(of_table.take(limit).map(|((_, key), value)| (key.clone(), value.clone())).collect())
    }

    fn tables(&self) -> Result<Vec<String>, EngineError> {
        Ok(self.applied.read().unwrap().keys().map(|(table, _)| table.clone()).collect())
    }

    fn apply(&self, batch: &Batch) -> Result<(), EngineError> {
        self.disk.check(Plan::FailEarly)?;
        assert!(*self.disk.plan.lock().unwrap() != Plan::Panic, "planned");
        let mut applied = self.applied.write().unwrap();
        for (table, changes) in batch.tables() {
            for (key, value) in changes {
                let at = ((*table).to_owned(), key.clone());
                match value {
                    Some(value) => applied.insert(at, value.clone()),
                    None => applied.remove(&at),
                };
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), EngineError> {
        let plan = self.disk.plan.lock().unwrap();
        drop(self.disk.changed.wait_while(plan, |plan| *plan == Plan::Block).unwrap());
        *self.disk.durable.write().unwrap() = self.applied.read().unwrap().clone();
        self.disk.flushes.fetch_add(1, Ordering::SeqCst);
        self.disk.check(Plan::FailLate)
    }
}

#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
struct Number(u64);

impl Record for Number {
    const VERSION: u8 = 1;
}

const A: Table<Number> = Table::new("a");

fn over(disk: &Arc<Disk>) -> Store {
    let again = Arc::clone(disk);
    let reopen = move |old| {
        drop(old);
        Fake::open(&again).map(|fake| Box::new(fake) as Box<dyn MetaStore>).map_err(Reopening::Failed)
    };
    Store::over(Box::new(Fake::open(disk).unwrap()), Box::new(reopen), tempfile::tempfile().unwrap())
}

fn put(store: &Store, number: u64) -> Pending<(), StoreError> {
    store.submit(move |tx| tx.put(&A, b"k", &Number(number)))
}

fn get(store: &Store) -> Option<u64> {
    store.read().get(&A, b"k").unwrap().map(|number| number.0)
}

#[track_caller]
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < limit, "{what}: never");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn readers_see_a_change_only_when_it_is_on_disk_and_do_not_wait_for_that() {
    let disk = Arc::default();
    let store = over(&disk);
    put(&store, 1).wait().unwrap();
    disk.plan(Plan::Block);
    let pending = put(&store, 2);
    let new = store.submit(|tx| tx.put(&A, b"new", &Number(2)));
    eventually("the group is being written", || store.writing_for().is_some());
    for _ in 0..100 {
        assert_eq!(get(&store), Some(1));
        assert_eq!(store.read().scan(&A, b"").unwrap(), [(b"k".to_vec(), Number(1))]);
        assert_eq!(store.read().count(&A, b"").unwrap(), 1);
        thread::sleep(Duration::from_micros(200));
    }
    disk.plan(Plan::Work);
    pending.wait().unwrap();
    new.wait().unwrap();
    assert_eq!((get(&store), store.read().count(&A, b"").unwrap()), (Some(2), 2));
}

#[test]
fn a_group_is_flushed_once() {
    let disk: Arc<Disk> = Arc::default();
    let store = over(&disk);
    disk.plan(Plan::Block);
    let first = put(&store, 0);
    eventually("the first is being written", || store.writing_for().is_some());
    let more: Vec<_> = (1..=20).map(|number| put(&store, number)).collect();
    disk.plan(Plan::Work);
    first.wait().unwrap();
    for pending in more {
        pending.wait().unwrap();
    }
    // The first may have taken some with it; the others are one group of 16 and the rest.
    let flushes = disk.flushes.load(Ordering::SeqCst);
    assert!((2..=3).contains(&flushes), "{flushes} flushes for 21 requests");
}

#[test]
fn a_patient_request_rides_with_the_next_group() {
    let disk: Arc<Disk> = Arc::default();
    let store = over(&disk);
    let long = Duration::from_secs(3600);
    let patient = store.submit_patiently(long, |tx| tx.put(&A, b"patient", &Number(1)));
    put(&store, 1).wait().unwrap();
    patient.wait().map_err(|error: StoreError| error).unwrap();
    assert_eq!(disk.flushes.load(Ordering::SeqCst), 1, "one group for both");
    store
        .submit_patiently(Duration::ZERO, |tx| tx.put(&A, b"alone", &Number(1)))
        .wait()
        .map_err(|error: StoreError| error)
        .unwrap();
    let last = store.submit_patiently(long, |tx| tx.put(&A, b"last", &Number(1)));
    drop(store);
    last.wait().map_err(|error: StoreError| error).unwrap();
}

#[test]
fn reading_requests_flush_nothing() {
    let disk: Arc<Disk> = Arc::default();
    let store = over(&disk);
    store.write(|tx| tx.get(&A, b"k")).map_err(|error: StoreError| error).unwrap();
    store.write(|_| Err::<(), _>(StoreError::Busy)).unwrap_err();
    assert_eq!(disk.flushes.load(Ordering::SeqCst), 0);
}

#[test]
fn after_a_failure_the_disk_tells_what_is_true() {
    let disk: Arc<Disk> = Arc::default();
    let store = over(&disk);
    put(&store, 1).wait().unwrap();
    for (plan, number, truth) in [(Plan::FailEarly, 2, 1), (Plan::FailLate, 3, 3), (Plan::Panic, 4, 3)] {
        let opened = disk.opened.load(Ordering::SeqCst);
        disk.plan(plan);
        let failed = put(&store, number).wait().unwrap_err();
        assert!(matches!(failed, StoreError::Engine(_)), "{failed:?}");
        assert_eq!(disk.opened.load(Ordering::SeqCst), opened + 1, "opened again");
        assert_eq!(get(&store), Some(truth));
        disk.plan(Plan::Work);
    }
    put(&store, 5).wait().unwrap();
    assert_eq!(get(&store), Some(5));
}

#[test]
fn a_store_without_an_engine_refuses_and_comes_back() {
    let disk: Arc<Disk> = Arc::default();
    let store = over(&disk);
    put(&store, 1).wait().unwrap();
    disk.plan(Plan::Broken);
    put(&store, 2).wait().unwrap_err();
    assert!(matches!(store.stopped(), Some(StoreError::Stopped(_))));
    assert!(matches!(store.read().get(&A, b"k"), Err(StoreError::Stopped(_))));
    assert!(matches!(put(&store, 2).wait(), Err(StoreError::Stopped(_))));
    disk.plan(Plan::Work);
    eventually("it works again", || put(&store, 3).wait().is_ok());
    assert!(store.stopped().is_none());
    assert_eq!(get(&store), Some(3));
}

/// A failure that only a reader saw is mended by the next request.
#[test]
fn a_failed_read_makes_the_next_request_open_the_engine_again() {
    let disk: Arc<Disk> = Arc::default();
    let store = over(&disk);
    put(&store, 1).wait().unwrap();
    disk.plan(Plan::Broken);
    store.read().get(&A, b"k").unwrap_err();
    disk.plan(Plan::Work);
    put(&store, 2).wait().unwrap();
    assert_eq!((disk.opened.load(Ordering::SeqCst), get(&store)), (2, Some(2)));
}

#[test]
fn an_engine_that_hangs_while_opening_is_given_up() {
    let (_never, opened) = mpsc::sync_channel(1);
    let given_up = wait_for(&opened, Duration::from_millis(10)).map(drop).unwrap_err();
    assert!(matches!(given_up, OpenCause::Timeout { .. }));
}

/// What sled leaves when it is killed at one point of opening, and would not open with again.
#[test]
fn a_half_written_snapshot_of_sled_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { engine: Engine::Sled, ..Options::default() };
    let store = Store::open(dir.path(), options).unwrap();
    put(&store, 7).wait().unwrap();
    drop(store);
    let half = dir.path().join("sled/snap.FFFFFFFFFFFFFFFF.generating");
    fs::write(&half, b"half").unwrap();
    let store = Store::open(dir.path(), options).unwrap();
    assert_eq!(get(&store), Some(7));
    assert!(!half.exists());
}

/// What is left when redb is killed while it makes its file, under the name that is given to whole ones only.
#[test]
fn a_half_made_file_of_redb_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { engine: Engine::Redb, ..Options::default() };
    fs::create_dir(dir.path().join("redb")).unwrap();
    let half = dir.path().join("redb/meta.redb.unfinished");
    fs::write(&half, vec![0; 5000]).unwrap();
    let store = Store::open(dir.path(), options).unwrap();
    put(&store, 7).wait().unwrap();
    drop(store);
    assert!(!half.exists());
    assert_eq!(get(&Store::open(dir.path(), options).unwrap()), Some(7));
}
