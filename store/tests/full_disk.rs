//! A full disk: what was acknowledged stays, what could not be written is refused, and when there is room again work goes
//! on. Needs a file system of its own that can be full: a tmpfs, so root.
#![expect(clippy::unwrap_used, reason = "a test ends where it is surprised")]

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use model::error::{Classify, Kind};
use store::{Engine, Options, Read, Record, Store, StoreError, Table};

#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
struct Entry {
    number: u64,
    bytes: Vec<u8>,
}

impl Record for Entry {
    const VERSION: u8 = 1;
}

const A: Table<Entry> = Table::new("a");
const B: Table<Entry> = Table::new("b");

fn entry(number: u64) -> Entry {
    Entry { number, bytes: (0..3000).map(|at| (at * 7 + number * 13) as u8).collect() }
}

fn write(store: &Store, number: u64) -> Result<(), StoreError> {
    store.write(move |tx| {
        tx.put(&A, &number.to_be_bytes(), &entry(number))?;
        tx.put(&B, &number.to_be_bytes(), &entry(number))
    })
}

fn fill_and_go_on(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let flags = rustix::mount::MountFlags::empty();
    if let Err(error) = rustix::mount::mount("none", dir.path(), "tmpfs", flags, Some(c"size=16m")) {
        eprintln!("skipped: a tmpfs cannot be mounted here: {error}");
        return;
    }
    let outcome = std::panic::catch_unwind(|| on_a_small_disk(dir.path(), engine));
    rustix::mount::unmount(dir.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn on_a_small_disk(dir: &Path, engine: Engine) {
    let ballast = dir.join("ballast");
    fs::write(&ballast, vec![1; 8 << 20]).unwrap();
    let options = Options { engine, ..Options::default() };
    let home = dir.join("meta");
    let store = Store::open(&home, options).unwrap();
    let mut written = 0;
    let refused = loop {
        match write(&store, written) {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refused.kind(), Kind::ResourceExhausted, "{refused:?}");
    assert!(written > 100, "{written}");
    // The refused one is there as a whole or not at all.
    let there = store.read().count(&A, b"").unwrap() as u64;
    assert!((written..=written + 1).contains(&there), "{there} of {written}");
    check(&store, there);

    // There is always room to remove something.
    store.write(move |tx| tx.delete(&B, &(there - 1).to_be_bytes())).unwrap();
    store.write(move |tx| tx.delete(&A, &(there - 1).to_be_bytes())).unwrap();
    check(&store, there - 1);

    // Until that is used up, too.
    let mut next = there - 1;
    while write(&store, next).is_ok() {
        next += 1;
    }
    fs::remove_file(&ballast).unwrap();
    let limit = Instant::now() + Duration::from_secs(20);
    while let Err(error) = write(&store, next) {
        assert!(Instant::now() < limit, "still refused with room on the disk: {error:?}");
        thread::sleep(Duration::from_millis(50));
    }
    assert!(store.stopped().is_none());
    check(&store, next + 1);
    drop(store);
    check(&Store::open(&home, options).unwrap(), next + 1);
}

/// Both tables have exactly the first `count` entries.
#[track_caller]
fn check(store: &Store, count: u64) {
    for table in [&A, &B] {
        let all: Vec<_> = store.read().scan(table, b"").unwrap().into_iter().map(|(_, entry)| entry).collect();
        assert_eq!(all.len() as u64, count);
        assert!(all == (0..count).map(entry).collect::<Vec<_>>());
    }
}

#[test]
fn sled_goes_on() {
    fill_and_go_on(Engine::Sled);
}

#[test]
fn redb_goes_on() {
    fill_and_go_on(Engine::Redb);
}
