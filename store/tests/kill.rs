//! Killed with SIGKILL at any moment, opened again in a fresh process: nothing that was acknowledged is missing, and what
//! is there fits together. (That says nothing about power cuts; for those the syncs are there.)
//!
//! The parent starts this same binary as the child. The child opens, checks all that it finds and says what that is, then
//! goes on writing and acknowledges each commit on its standard output. So every life checks what the one before left.
//! `STORE_KILLS` sets how often each kind of child is killed.
#![expect(clippy::unwrap_used, reason = "a test ends where it is surprised")]

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read as _, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use model::{Digest, Namespace};
use store::blob::{BlobStore, IngestKey};
use store::{Engine, Options, Read, Record, Store, StoreError, Table, key, key_parts, prefix};

const ROLE: &str = "STORE_KILL_CHILD";
const DIR: &str = "STORE_KILL_DIR";
const WRITERS: &str = "STORE_KILL_WRITERS";
const SEED: &str = "STORE_KILL_SEED";

/// How often each kind of child is killed, unless `STORE_KILLS` says otherwise.
const KILLS: u32 = 60;
/// After so many lives the folder is replaced: opening is most fragile while a store is young.
const LIVES: u32 = 12;

#[test]
fn sled_keeps_what_it_acknowledged() {
    kill_often("sled", 3);
}

#[test]
fn redb_keeps_what_it_acknowledged() {
    kill_often("redb", 3);
}

#[test]
fn blobs_keep_what_they_acknowledged() {
    kill_often("blobs", 3);
}

/// What the parent starts. It never ends by itself.
#[test]
#[ignore = "the child of the tests above, not a test"]
fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let dir = std::env::var(DIR).unwrap();
    let writers: u64 = std::env::var(WRITERS).unwrap().parse().unwrap();
    let seed: u64 = std::env::var(SEED).unwrap().parse().unwrap();
    // The test harness has begun a line of its own.
    say(format_args!(""));
    match role.as_str() {
        "blobs" => blobs::child(dir.as_ref(), writers, seed),
        engine => metadata::child(dir.as_ref(), engine.parse().unwrap(), writers),
    }
}

/// Per writer, the last number that was acknowledged.
type Acknowledged = BTreeMap<u64, u64>;

fn kill_often(role: &str, writers: u64) {
    let kills = std::env::var("STORE_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let mut random = Random(seed | 1);
    let (mut total, mut opened) = (0, 0);
    for kind in ["early", "late"] {
        let mut lives = 0;
        while lives < kills {
            let dir = tempfile::tempdir().unwrap();
            let mut acknowledged = Acknowledged::new();
            for _ in 0..LIVES.min(kills - lives) {
                let moment = match kind {
                    "early" => Moment::AfterStart(Duration::from_micros(random.below(40_000))),
                    _ => Moment::AfterOpening(Duration::from_micros(random.below(100_000))),
                };
                let before: u64 = acknowledged.values().sum();
                opened += u32::from(live(role, dir.path(), writers, random.next(), moment, &mut acknowledged));
                total += acknowledged.values().sum::<u64>() - before;
                lives += 1;
            }
            // A last life, unkilled, checks what the last kill left.
            let mut check = acknowledged.clone();
            live(role, dir.path(), 0, random.next(), Moment::Never, &mut check);
        }
    }
    eprintln!("{role}: {} kills, {opened} after opening, {total} commits acknowledged, seed {seed}", 2 * kills);
    assert!(total > u64::from(kills) && opened < 2 * kills, "no mixture of kills: {total} commits, {opened} opened");
}

/// When a child is killed.
enum Moment {
    /// So long after it was started.
    AfterStart(Duration),
    /// So long after it said that it had opened.
    AfterOpening(Duration),
    /// It has no writers and ends by itself.
    Never,
}

/// How long a child may take to open before that is a failure.
const OPEN_LIMIT: Duration = Duration::from_secs(30);

/// One life of a child; whether it had opened before its end.
fn live(role: &str, dir: &Path, writers: u64, seed: u64, moment: Moment, acknowledged: &mut Acknowledged) -> bool {
    let started = Instant::now();
    let mut child = Command::new("/proc/self/exe")
        .args(["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env(DIR, dir)
        .env(WRITERS, writers.to_string())
        .env(SEED, seed.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let mut stderr = child.stderr.take().unwrap();
    let errors = thread::spawn(move || {
        let mut text = String::new();
        let _ = stderr.read_to_string(&mut text);
        text
    });
    let (opening, opened) = mpsc::channel();
    let lines = thread::spawn(move || {
        let tell = |line: &String| {
            if line.starts_with("OPEN") {
                let _ = opening.send(());
            }
        };
        stdout.lines().map_while(Result::ok).inspect(tell).collect::<Vec<_>>()
    });
    let killed = match moment {
        Moment::AfterStart(time) => {
            thread::sleep(time.saturating_sub(started.elapsed()));
            true
        }
        Moment::AfterOpening(time) => {
            // An error means that it ended, or hangs; either shows below.
            let _ = opened.recv_timeout(OPEN_LIMIT);
            thread::sleep(time);
            true
        }
        Moment::Never => false,
    };
    if killed {
        // It may have failed already, which its status tells.
        let _ = child.kill();
    }
    let status = child.wait().unwrap();
    let (lines, errors) = (lines.join().unwrap(), errors.join().unwrap());
    let as_wanted = if killed { status.signal() == Some(9) } else { status.success() };
    assert!(as_wanted, "{role} ended with {status} in {}:\n{errors}", dir.display());

    let mut opened = false;
    for line in lines {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            // What was found on opening: at least all that was acknowledged, and at most one commit more per writer.
            ["HAVE", writer, number] => {
                let (writer, number): (u64, u64) = (writer.parse().unwrap(), number.parse().unwrap());
                let promised = acknowledged.insert(writer, number).unwrap_or(0);
                assert!(number >= promised, "{role}: writer {writer} had {promised} acknowledged, {number} are there");
                assert!(number <= promised + 1, "{role}: writer {writer} has {number}, sent at most {}", promised + 1);
            }
            ["OPEN", writers] => {
                let found: usize = writers.parse().unwrap();
                assert!(
                    found >= acknowledged.values().filter(|number| **number > 0).count(),
                    "{role}: a writer is gone"
                );
                opened = true;
            }
            ["DONE", writer, number] => {
                acknowledged.insert(writer.parse().unwrap(), number.parse().unwrap());
            }
            // The test harness has its own lines.
            _ => {}
        }
    }
    let must_open = !matches!(moment, Moment::AfterStart(_));
    assert!(opened || !must_open, "{role} did not open in {}:\n{errors}", dir.display());
    opened
}

/// Says something in one write, so that no kill can cut it.
fn say(line: std::fmt::Arguments<'_>) {
    let line = format!("{line}\n");
    io::stdout().lock().write_all(line.as_bytes()).unwrap();
    io::stdout().lock().flush().unwrap();
}

/// xorshift64: enough to choose moments and sizes.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

mod metadata {
    use super::*;

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Entry {
        number: u64,
        bytes: Vec<u8>,
    }
    impl Record for Entry {
        const VERSION: u8 = 1;
    }

    /// `[writer, number]`: everything that was ever committed.
    const LOG: Table<Entry> = Table::new("log");
    /// `[writer]`: the last number.
    const LAST: Table<Entry> = Table::new("last");
    /// `[writer]`: a value that is replaced all the time, large ones among them.
    const CURRENT: Table<Entry> = Table::new("current");

    fn entry(writer: u64, number: u64, length: u64) -> Entry {
        Entry { number, bytes: (0..length).map(|at| (at * 7 + writer * 13 + number * 31) as u8).collect() }
    }

    /// The value of `CURRENT`: every ninth is in pieces.
    fn current(writer: u64, number: u64) -> Entry {
        entry(writer, number, if number.is_multiple_of(9) { 20_000 } else { 300 })
    }

    pub(super) fn child(dir: &Path, engine: Engine, writers: u64) {
        let store = Store::open(dir, Options { engine, ..Options::default() }).unwrap();
        let last = check(&store);
        for (writer, number) in &last {
            say(format_args!("HAVE {writer} {number}"));
        }
        say(format_args!("OPEN {}", last.len()));
        thread::scope(|scope| {
            for writer in 0..writers {
                let (store, begun) = (store.clone(), last.get(&writer).copied().unwrap_or(0));
                scope.spawn(move || {
                    for number in begun + 1.. {
                        commit(&store, writer, number).unwrap();
                        say(format_args!("DONE {writer} {number}"));
                    }
                });
            }
        });
    }

    fn commit(store: &Store, writer: u64, number: u64) -> Result<(), StoreError> {
        store.write(move |tx| {
            let name = writer.to_string();
            let own = key(&[&name])?;
            assert_eq!(tx.get(&LAST, &own)?.map_or(0, |last| last.number), number - 1);
            tx.put(&LOG, &key(&[&name, &format!("{number:010}")])?, &entry(writer, number, 280))?;
            tx.put(&LAST, &own, &entry(writer, number, 20))?;
            tx.put(&CURRENT, &own, &current(writer, number))?;
            tx.next_id("commits")?;
            Ok(())
        })
    }

    /// All tables agree, and each writer's history is an exact prefix of what it sent.
    fn check(store: &Store) -> BTreeMap<u64, u64> {
        let reader = store.read();
        let mut found = BTreeMap::new();
        for (name, last) in reader.scan(&LAST, b"").unwrap() {
            let writer: u64 = key_parts(&name).unwrap()[0].parse().unwrap();
            assert_eq!(last, entry(writer, last.number, 20));
            assert_eq!(reader.get(&CURRENT, &name).unwrap(), Some(current(writer, last.number)));
            let log = reader.scan(&LOG, &prefix(&[&writer.to_string()]).unwrap()).unwrap();
            assert!(
                log.iter()
                    .map(|(_, entry)| entry)
                    .eq(&(1..=last.number).map(|n| entry(writer, n, 280)).collect::<Vec<_>>())
            );
            found.insert(writer, last.number);
        }
        let all: u64 = found.values().sum();
        assert_eq!(reader.count(&LOG, b"").unwrap() as u64, all, "no log without its writer");
        assert_eq!(reader.count(&CURRENT, b"").unwrap(), found.len());
        // One number per commit, none lost and none of a failed one kept.
        let next = store
            .write(|tx| match tx.next_id("commits") {
                Ok(next) => Err::<u64, _>(Probe::Next(next)),
                Err(error) => Err(Probe::Failed(error)),
            })
            .unwrap_err();
        assert!(matches!(next, Probe::Next(next) if next == all + 1), "{next:?} after {all}");
        found
    }

    /// Carries a number out of a request that changes nothing.
    #[derive(Debug)]
    enum Probe {
        Next(u64),
        #[expect(dead_code, reason = "printed")]
        Failed(StoreError),
    }
    impl From<StoreError> for Probe {
        fn from(error: StoreError) -> Self {
            Self::Failed(error)
        }
    }
}

mod blobs {
    use super::*;

    /// More than there ever are.
    const MOST_WRITERS: u64 = 8;

    fn content(writer: u64, number: u64) -> Vec<u8> {
        let mut random = Random((writer + 1) * 1_000_003 + number);
        let length = random.below(if number.is_multiple_of(5) { 400_000 } else { 5_000 });
        (0..length)
            .map(|at| (at * number + at / 251 + writer) as u8)
            .chain((number * MOST_WRITERS + writer).to_be_bytes())
            .collect()
    }

    fn reference(writer: u64, number: u64) -> IngestKey {
        IngestKey { namespace: Namespace::new("ns").unwrap(), reference: format!("{writer}/{number}") }
    }

    pub(super) fn child(dir: &Path, writers: u64, seed: u64) {
        let store = BlobStore::open(dir).unwrap();
        let last = check(&store);
        for (writer, number) in &last {
            say(format_args!("HAVE {writer} {number}"));
        }
        say(format_args!("OPEN {}", last.len()));
        let random = Arc::new(Mutex::new(Random(seed | 1)));
        thread::scope(|scope| {
            for writer in 0..writers {
                let (store, random, begun) = (&store, Arc::clone(&random), last.get(&writer).copied().unwrap_or(0));
                scope.spawn(move || {
                    for number in begun + 1.. {
                        let piece = 100 + random.lock().unwrap().below(60_000) as usize;
                        commit(store, writer, number, piece);
                        say(format_args!("DONE {writer} {number}"));
                    }
                });
            }
        });
    }

    /// Goes on with what an earlier life left of this ingest, if it left anything.
    fn commit(store: &BlobStore, writer: u64, number: u64, piece: usize) {
        let bytes = content(writer, number);
        let expected = Digest::sha256(&bytes);
        let mut ingest = store.ingest(&reference(writer, number), bytes.len() as u64, Some(&expected)).unwrap();
        let there = usize::try_from(ingest.offset()).unwrap();
        for piece in bytes[there..].chunks(piece) {
            ingest.write(piece).unwrap();
        }
        ingest.commit(Some(bytes.len() as u64), Some(&expected)).unwrap();
    }

    /// Every blob is what its name says, every writer has an exact prefix, and nothing else is there.
    fn check(store: &BlobStore) -> BTreeMap<u64, u64> {
        let mut there = BTreeMap::new();
        for blob in store.walk().unwrap() {
            let blob = blob.unwrap();
            let bytes = store.read(&blob.digest, 1 << 20).unwrap();
            assert_eq!(Digest::sha256(&bytes), blob.digest);
            there.insert(blob.digest, blob.size);
        }
        let mut found = BTreeMap::new();
        for writer in 0..MOST_WRITERS {
            let last =
                (1..).take_while(|number| there.remove(&Digest::sha256(&content(writer, *number))).is_some()).count();
            if last > 0 {
                found.insert(writer, last as u64);
            }
        }
        assert!(there.is_empty(), "blobs that nobody committed: {there:?}");
        store.remove_stray_ingests().unwrap();
        assert!(store.strays().unwrap().is_empty());
        // The blob of an unfinished ingest is the next one of its writer, or the one whose ingest was not removed any more.
        for (_, status) in store.ingests().unwrap() {
            let (writer, number) = status.reference.split_once('/').unwrap();
            let last = found.get(&writer.parse().unwrap()).copied().unwrap_or(0);
            assert!((last..=last + 1).contains(&number.parse().unwrap()), "{status:?} after {last}");
        }
        found
    }
}
