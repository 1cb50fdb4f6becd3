//! What every engine must do for the layers above it, and what those promise on top: the same suite over both.

#![expect(clippy::unwrap_used, reason = "a test ends where it is surprised")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use model::error::{Classify, Kind};
use store::{
    Engine, MAX_TX_BYTES, OpenCause, Options, QUEUE, Read, Record, Store, StoreError, Table, convert, key, move_aside,
    prefix,
};

#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
struct Note {
    text: String,
    bytes: Vec<u8>,
}

impl Record for Note {
    const VERSION: u8 = 1;
}

const A: Table<Note> = Table::new("a");
const B: Table<Note> = Table::new("b");

fn note(text: &str) -> Note {
    Note { text: text.to_owned(), bytes: Vec::new() }
}

fn large(seed: usize, length: usize) -> Note {
    let bytes = (0..length).map(|at| ((at * 31 + seed * 7) % 251) as u8).collect();
    Note { text: format!("large {seed}"), bytes }
}

#[track_caller]
fn open(dir: &Path, engine: Engine) -> Store {
    Store::open(dir, Options { engine, ..Options::default() }).unwrap()
}

/// A suite: each function becomes a test per engine, with a fresh folder.
macro_rules! over_both_engines {
    ($($name:ident),* $(,)?) => {
        mod sled {
            $(#[test]
            fn $name() {
                let dir = tempfile::tempdir().unwrap();
                super::$name(dir.path(), store::Engine::Sled);
            })*
        }
        mod redb {
            $(#[test]
            fn $name() {
                let dir = tempfile::tempdir().unwrap();
                super::$name(dir.path(), store::Engine::Redb);
            })*
        }
    };
}

over_both_engines!(
    a_change_is_made_in_all_tables_or_in_none,
    a_request_sees_its_own_writes,
    requests_run_one_after_the_other,
    an_error_or_a_panic_leaves_nothing_behind,
    many_threads_share_flushes_and_lose_nothing,
    everything_is_there_after_reopening,
    large_values_come_back_and_leave_nothing_when_removed,
    a_change_that_is_too_large_is_refused_whole,
    scans_keep_to_their_prefix_and_order,
    long_lists_are_read_in_pages,
    readers_see_whole_changes_only,
    numbers_are_given_out_once,
    a_second_opener_is_refused_and_the_next_one_is_not,
    another_engines_data_is_not_overlooked,
    everything_can_be_moved_to_the_other_engine,
    a_newer_schema_is_refused,
    damaged_files_are_said_and_can_be_moved_aside,
    a_full_queue_refuses_and_does_not_block,
    answers_come_to_async_callers_too,
    closing_finishes_what_was_submitted,
    a_name_with_a_nul_is_refused,
);

fn a_change_is_made_in_all_tables_or_in_none(dir: &Path, engine: Engine) {
    let store = open(dir, engine);
    store
        .write(|tx| {
            tx.put(&A, b"k", &note("1"))?;
            tx.put(&B, b"k", &note("1"))
        })
        .unwrap();
    let failed = store.write(|tx| {
        tx.put(&A, b"k", &note("2"))?;
        tx.delete(&B, b"k")?;
        Err::<(), StoreError>(StoreError::Busy)
    });
    assert!(matches!(failed, Err(StoreError::Busy)));
    let reader = store.read();
    assert_eq!(reader.get(&A, b"k").unwrap(), Some(note("1")));
    assert_eq!(reader.get(&B, b"k").unwrap(), Some(note("1")));
    assert_eq!(reader.get(&A, b"other").unwrap(), None);
    assert_eq!(reader.scan(&Table::<Note>::new("never-written"), b"").unwrap(), []);
}

fn a_request_sees_its_own_writes(dir: &Path, engine: Engine) {
    let store = open(dir, engine);
    store.write(|tx| tx.put(&A, b"old", &note("old"))).unwrap();
    let seen = store
        .write(|tx| {
            tx.put(&A, b"new", &note("new"))?;
            tx.delete(&A, b"old")?;
            assert_eq!(tx.get(&A, b"new")?, Some(note("new")));
            assert_eq!(tx.get(&A, b"old")?, None);
            assert!(tx.contains(&A, b"new")? && !tx.any(&A, b"old")?);
            tx.keys(&A, b"")
        })
        .map_err(|error: StoreError| error)
        .unwrap();
    assert_eq!(seen, [b"new".to_vec()]);
    assert_eq!(store.read().keys(&A, b"").unwrap(), seen);
}

fn requests_run_one_after_the_other(dir: &Path, engine: Engine) {
    const CLAIMS: usize = 200;
    let store = open(dir, engine);
    let won = Arc::new(AtomicUsize::new(0));
    thread::scope(|scope| {
        for thread in 0..4 {
            let (store, won) = (store.clone(), Arc::clone(&won));
            scope.spawn(move || {
                for name in 0..CLAIMS {
                    let claimed = store.write(move |tx| {
                        let key = key(&["claim", &name.to_string()])?;
                        if tx.contains(&A, &key)? {
                            return Ok::<_, StoreError>(false);
                        }
                        tx.put(&A, &key, &note(&thread.to_string()))?;
                        Ok(true)
                    });
                    won.fetch_add(usize::from(claimed.unwrap()), Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(won.load(Ordering::Relaxed), CLAIMS, "each name is claimed once, whoever asks");
}

fn an_error_or_a_panic_leaves_nothing_behind(dir: &Path, engine: Engine) {
    let store = open(dir, engine);
    // Holds the committer until all three wait, so that they run in one group.
    let (go, gate) = mpsc::channel::<()>();
    let first = store.submit(move |_| {
        gate.recv().unwrap();
        Ok::<_, StoreError>(())
    });
    let good = store.submit(|tx| tx.put(&A, b"before", &note("kept")));
    let panics = store.submit(|tx| {
        assert_eq!(tx.get(&A, b"before")?, Some(note("kept")), "an earlier request of the group is seen");
        tx.put(&A, b"panicked", &note("lost"))?;
        panic!("on {}", "purpose");
        #[expect(unreachable_code, reason = "gives the closure its type")]
        Ok::<(), StoreError>(())
    });
    let fails = store.submit(|tx| {
        tx.delete(&A, b"before")?;
        Err::<(), StoreError>(StoreError::Busy)
    });
    let after = store.submit(|tx| tx.keys(&A, b""));
    go.send(()).unwrap();
    first.wait().unwrap();
    good.wait().unwrap();
    match panics.wait() {
        Err(StoreError::Panicked { text }) => assert_eq!(text, "on purpose"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(fails.wait(), Err(StoreError::Busy)));
    assert_eq!(after.wait().unwrap(), [b"before".to_vec()]);
    assert_eq!(store.read().keys(&A, b"").unwrap(), [b"before".to_vec()]);
}

fn many_threads_share_flushes_and_lose_nothing(dir: &Path, engine: Engine) {
    const THREADS: usize = 8;
    const EACH: usize = 150;
    let store = open(dir, engine);
    let begun = Instant::now();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let store = store.clone();
            scope.spawn(move || {
                for at in 0..EACH {
                    let name = key(&[&thread.to_string(), &format!("{at:04}")]).unwrap();
                    store
                        .write(move |tx| {
                            tx.put(&A, &name, &large(at, 250))?;
                            tx.put(&B, &name, &large(at, 250))?;
                            tx.next_id("done")
                        })
                        .map_err(|error: StoreError| error)
                        .unwrap();
                }
            });
        }
    });
    let rate = (THREADS * EACH) as f64 / begun.elapsed().as_secs_f64();
    eprintln!("{engine}: {rate:.0} commits/s at {THREADS} threads");
    let reader = store.read();
    assert_eq!(reader.count(&A, b"").unwrap(), THREADS * EACH);
    assert_eq!(reader.count(&B, &prefix(&["3"]).unwrap()).unwrap(), EACH);
    let next = store.write(|tx| tx.next_id("done")).map_err(|error: StoreError| error).unwrap();
    assert_eq!(next as usize, THREADS * EACH + 1);
    assert_eq!(store.writing_for(), None);
}

fn everything_is_there_after_reopening(dir: &Path, engine: Engine) {
    for round in 0..5_usize {
        let store = open(dir, engine);
        assert_eq!(store.read().count(&A, b"").unwrap(), round);
        for earlier in 0..round {
            let name = earlier.to_string();
            assert_eq!(store.read().get(&A, name.as_bytes()).unwrap(), Some(large(earlier, earlier * 9000)));
        }
        let name = round.to_string();
        store.write(move |tx| tx.put(&A, name.as_bytes(), &large(round, round * 9000))).unwrap();
    }
}

fn large_values_come_back_and_leave_nothing_when_removed(dir: &Path, engine: Engine) {
    const PIECES: Table<Note> = Table::new("_pieces");
    let store = open(dir, engine);
    for length in [0, 1, 6 * 1024 - 20, 6 * 1024, 6 * 1024 + 1, 64 * 1024, 1024 * 1024] {
        let value = large(length, length);
        let written = value.clone();
        store.write(move |tx| tx.put(&A, b"k", &written)).unwrap();
        assert_eq!(store.read().get(&A, b"k").unwrap(), Some(value.clone()), "{length}");
        assert_eq!(store.read().scan(&A, b"").unwrap(), [(b"k".to_vec(), value)], "{length}");
        assert_eq!(store.read().keys(&A, b"").unwrap(), [b"k".to_vec()]);
    }
    assert!(store.read().count(&PIECES, b"").unwrap() > 100);
    store.write(|tx| tx.put(&A, b"k", &note("small"))).unwrap();
    assert_eq!(store.read().count(&PIECES, b"").unwrap(), 0);

    store.write(|tx| tx.put(&A, b"k", &large(1, 100_000))).unwrap();
    store.write(|tx| tx.put(&A, b"l", &large(2, 100_000))).unwrap();
    store.write(|tx| tx.delete(&A, b"k")).unwrap();
    assert_eq!(store.read().get(&A, b"l").unwrap(), Some(large(2, 100_000)));
    drop(store);
    let store = open(dir, engine);
    assert_eq!(store.read().get(&A, b"l").unwrap(), Some(large(2, 100_000)));
    store.write(|tx| tx.delete(&A, b"l")).unwrap();
    assert_eq!(store.read().count(&PIECES, b"").unwrap(), 0);
}

fn a_change_that_is_too_large_is_refused_whole(dir: &Path, engine: Engine) {
    let store = open(dir, engine);
    for round in 0..3 {
        store.write(move |tx| tx.put(&A, b"fits", &large(round, MAX_TX_BYTES - 4096))).unwrap();
        assert_eq!(store.read().get(&A, b"fits").unwrap(), Some(large(round, MAX_TX_BYTES - 4096)));
    }
    let refused = store.write(|tx| {
        tx.put(&A, b"first", &note("x"))?;
        tx.put(&A, b"second", &large(0, MAX_TX_BYTES))
    });
    let refused = refused.unwrap_err();
    assert_eq!(refused.kind(), Kind::ResourceExhausted, "{refused}");
    assert_eq!(store.read().keys(&A, b"").unwrap(), [b"fits".to_vec()]);
}

fn scans_keep_to_their_prefix_and_order(dir: &Path, engine: Engine) {
    let store = open(dir, engine);
    let names: [&[u8]; 9] = [b"", b"\0", b"a", b"a\0", b"a\0b", b"a\xff", b"a\xff\xff", b"b", b"\xff\xff"];
    store
        .write(move |tx| {
            for name in names.iter().rev() {
                tx.put(&A, name, &Note { text: String::new(), bytes: name.to_vec() })?;
            }
            Ok::<_, StoreError>(())
        })
        .unwrap();
    let prefixes: [&[u8]; 8] = [b"", b"\0", b"a", b"a\0", b"a\xff", b"c", b"\xff", b"\xff\xff\xff"];
    for wanted in prefixes {
        let expected: Vec<_> = names.iter().filter(|name| name.starts_with(wanted)).map(|name| name.to_vec()).collect();
        assert_eq!(store.read().keys(&A, wanted).unwrap(), expected, "{wanted:?}");
        let found = store.read().scan(&A, wanted).unwrap();
        assert!(found.iter().all(|(name, note)| *name == note.bytes));
        assert_eq!(found.len(), expected.len());
        assert_eq!(store.read().any(&A, wanted).unwrap(), !expected.is_empty());
    }
}

fn long_lists_are_read_in_pages(dir: &Path, engine: Engine) {
    let store = open(dir, engine);
    store
        .write(|tx| {
            for at in 0..250 {
                tx.put(&A, &key(&["ns", &format!("{at:03}")])?, &note(&at.to_string()))?;
            }
            tx.put(&A, &key(&["nt", "x"])?, &note("not in the namespace"))
        })
        .unwrap();
    let reader = store.read();
    let prefix = prefix(&["ns"]).unwrap();
    let (mut after, mut all) = (None::<Vec<u8>>, Vec::new());
    loop {
        let page = reader.scan_from(&A, &prefix, after.as_deref(), 100).unwrap();
        assert!(page.len() <= 100);
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        all.extend(page.into_iter().map(|(_, note)| note.text));
    }
    assert_eq!(all, (0..250).map(|at| at.to_string()).collect::<Vec<_>>());
}

/// A reader never sees half a change in one call, nor a value whose pieces are of two changes.
fn readers_see_whole_changes_only(dir: &Path, engine: Engine) {
    let store = open(dir, engine);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let reader = store.read();
                while !stop.load(Ordering::Relaxed) {
                    let all = reader.scan(&A, b"").unwrap();
                    assert!(all.is_empty() || all.len() == 5, "{}", all.len());
                    for (_, note) in &all {
                        assert_eq!(note, &all[0].1, "all five are written together");
                    }
                }
            });
        }
        for round in 0..150 {
            store
                .write(move |tx| {
                    for name in 0..5 {
                        let name = format!("k{}", name + round % 3);
                        tx.put(&A, name.as_bytes(), &large(round, 15_000))?;
                    }
                    for gone in tx.keys(&A, b"")? {
                        let number = usize::from(gone[1] - b'0');
                        if !(round % 3..round % 3 + 5).contains(&number) {
                            tx.delete(&A, &gone)?;
                        }
                    }
                    Ok::<_, StoreError>(())
                })
                .unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
}

fn numbers_are_given_out_once(dir: &Path, engine: Engine) {
    let next = |store: &Store, name: &'static str| {
        store.write(move |tx| tx.next_id(name)).map_err(|error: StoreError| error).unwrap()
    };
    let store = open(dir, engine);
    assert_eq!((next(&store, "x"), next(&store, "x"), next(&store, "y")), (1, 2, 1));
    let two = store.write(|tx| Ok::<_, StoreError>((tx.next_id("x")?, tx.next_id("x")?))).unwrap();
    assert_eq!(two, (3, 4));
    drop(store);
    assert_eq!(next(&open(dir, engine), "x"), 5);
}

fn a_second_opener_is_refused_and_the_next_one_is_not(dir: &Path, engine: Engine) {
    let store = open(dir, engine);
    let refused = Store::open(dir, Options { engine, ..Options::default() }).unwrap_err();
    assert!(matches!(refused.cause, OpenCause::Locked), "{refused:?}");
    assert!(!refused.may_move_aside());
    assert!(refused.to_string().contains(dir.to_str().unwrap()), "{refused}");
    let reader = store.read();
    drop(store);
    // The reader keeps the engine, so this one waits a little and is refused, too; without it the folder is free.
    drop(reader);
    open(dir, engine);
}

fn another_engines_data_is_not_overlooked(dir: &Path, engine: Engine) {
    drop(open(dir, engine));
    let other = if engine == Engine::Sled { Engine::Redb } else { Engine::Sled };
    let refused = Store::open(dir, Options { engine: other, ..Options::default() }).unwrap_err();
    assert!(matches!(refused.cause, OpenCause::OtherEngine { found, .. } if found == engine), "{refused:?}");
    open(dir, engine);
}

fn everything_can_be_moved_to_the_other_engine(dir: &Path, engine: Engine) {
    let other = if engine == Engine::Sled { Engine::Redb } else { Engine::Sled };
    let to = |engine| convert(dir, Options { engine, ..Options::default() });
    let store = open(dir, engine);
    for number in 0..500 {
        let name = format!("{number:03}");
        store.submit(move |tx| tx.put(&A, name.as_bytes(), &large(number, number * 40))).wait().unwrap();
    }
    store.write(|tx| tx.next_id("n")).map_err(|error: StoreError| error).unwrap();
    let all = store.read().scan(&A, b"").unwrap();
    assert!(matches!(to(other).unwrap_err().cause, OpenCause::Locked));
    drop(store);

    assert!(!to(engine).unwrap(), "it is that already");
    // What an interrupted attempt left is no hindrance.
    std::fs::create_dir(dir.join(format!("{other}.unfinished"))).unwrap();
    std::fs::write(dir.join(format!("{other}.unfinished/junk")), "junk").unwrap();
    assert!(to(other).unwrap());
    let store = open(dir, other);
    assert!(store.read().scan(&A, b"").unwrap() == all);
    assert_eq!(store.write(|tx| tx.next_id("n")).map_err(|error: StoreError| error).unwrap(), 2);
    store.write(|tx| tx.delete(&A, b"499")).unwrap();
    drop(store);

    // Interrupted between its last two steps, both are there: nobody guesses.
    std::fs::create_dir(dir.join(engine.name())).unwrap();
    for engine in Engine::ALL {
        let refused = Store::open(dir, Options { engine, ..Options::default() }).unwrap_err();
        assert!(matches!(refused.cause, OpenCause::BothEngines), "{refused:?}");
        assert!(matches!(to(engine).unwrap_err().cause, OpenCause::BothEngines));
    }
}

fn a_newer_schema_is_refused(dir: &Path, engine: Engine) {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Schema {
        version: u32,
    }
    impl Record for Schema {
        const VERSION: u8 = 1;
    }
    const META: Table<Schema> = Table::new("_meta");
    open(dir, engine).write(|tx| tx.put(&META, b"schema", &Schema { version: 1000 })).unwrap();
    let refused = Store::open(dir, Options { engine, ..Options::default() }).unwrap_err();
    assert!(matches!(refused.cause, OpenCause::Newer { found: 1000, .. }), "{refused:?}");
    assert!(!refused.may_move_aside());
}

fn damaged_files_are_said_and_can_be_moved_aside(dir: &Path, engine: Engine) {
    let home = dir.join("meta");
    open(&home, engine).write(|tx| tx.put(&A, b"k", &large(1, 5000))).unwrap();
    let file = match engine {
        Engine::Sled => home.join("sled/conf"),
        Engine::Redb => home.join("redb/meta.redb"),
    };
    let mut bytes = std::fs::read(&file).unwrap();
    for byte in &mut bytes {
        *byte ^= 0x5a;
    }
    std::fs::write(&file, bytes).unwrap();
    let refused = Store::open(&home, Options { engine, ..Options::default() }).unwrap_err();
    assert!(matches!(refused.cause, OpenCause::Damaged(_)), "{refused:?}");
    assert!(refused.may_move_aside());
    let aside = move_aside(&home).unwrap();
    assert!(aside.join(engine.name()).is_dir());
    assert_eq!(open(&home, engine).read().count(&A, b"").unwrap(), 0);
}

fn a_full_queue_refuses_and_does_not_block(dir: &Path, engine: Engine) {
    let store = open(dir, engine);
    let (go, gate) = mpsc::channel::<()>();
    let blocked = store.submit(move |_| {
        gate.recv().unwrap();
        Ok::<_, StoreError>(())
    });
    let waiting: Vec<_> = (0..QUEUE + 1).map(|_| store.submit(|tx| tx.next_id("n"))).collect();
    go.send(()).unwrap();
    blocked.wait().unwrap();
    let answers: Vec<Result<u64, StoreError>> = waiting.into_iter().map(store::Pending::wait).collect();
    let refused = answers.iter().filter(|answer| matches!(answer, Err(StoreError::Busy))).count();
    assert!((1..=2).contains(&refused), "{refused} of {} were refused", answers.len());
    let last = answers.iter().flatten().max().copied();
    assert_eq!(last, Some((QUEUE + 1 - refused) as u64));
}

fn answers_come_to_async_callers_too(dir: &Path, engine: Engine) {
    use std::future::Future;
    use std::task::{Context, Poll, Wake, Waker};

    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let store = open(dir, engine);
    let (go, gate) = mpsc::channel::<()>();
    let mut pending = store.submit(move |tx| {
        gate.recv().unwrap();
        tx.put(&A, b"k", &note("x"))
    });
    let woken = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&woken));
    let mut context = Context::from_waker(&waker);
    let mut pinned = std::pin::Pin::new(&mut pending);
    assert!(pinned.as_mut().poll(&mut context).is_pending());
    go.send(()).unwrap();
    let limit = Instant::now() + Duration::from_secs(20);
    while woken.0.load(Ordering::SeqCst) == 0 {
        assert!(Instant::now() < limit, "never woken");
        thread::yield_now();
    }
    match pinned.poll(&mut context) {
        Poll::Ready(answer) => answer.unwrap(),
        Poll::Pending => panic!("woken without an answer"),
    }
    assert!(store.read().contains(&A, b"k").unwrap());
}

fn closing_finishes_what_was_submitted(dir: &Path, engine: Engine) {
    let store = open(dir, engine);
    for at in 0..100 {
        // Nobody waits for the answer.
        drop(store.submit(move |tx| tx.put(&A, format!("{at}").as_bytes(), &note("x"))));
    }
    drop(store);
    assert_eq!(open(dir, engine).read().count(&A, b"").unwrap(), 100);
}

fn a_name_with_a_nul_is_refused(dir: &Path, engine: Engine) {
    let store = open(dir, engine);
    let refused = store.write(|tx| tx.put(&A, &key(&["ns", "a\0b"])?, &note("x"))).unwrap_err();
    assert_eq!(refused.kind(), Kind::InvalidArgument);
    assert_eq!(store.read().count(&A, b"").unwrap(), 0);
}

/// Random requests, some of which fail, against a map: every read on the way and at the end agrees.
mod against_a_map {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Put(u8, u16),
        Delete(u8),
        Scan(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0_u8..12, prop_oneof![0_u16..50, 6000..20000_u16]).prop_map(|(name, length)| Step::Put(name, length)),
            (0_u8..12).prop_map(Step::Delete),
            (0_u8..3).prop_map(Step::Scan),
        ]
    }

    fn name(number: u8) -> Vec<u8> {
        key(&[&(number % 3).to_string(), &number.to_string()]).unwrap()
    }

    fn agrees(engine: Engine, requests: Vec<(Vec<Step>, bool)>) {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path(), engine);
        let mut truth: BTreeMap<Vec<u8>, Note> = BTreeMap::new();
        let half = requests.len() / 2;
        for (at, (steps, fails)) in requests.into_iter().enumerate() {
            if at == half {
                drop(store);
                store = open(dir.path(), engine);
            }
            let mut expected = truth.clone();
            let outcome = store.write(move |tx| {
                for step in steps {
                    match step {
                        Step::Put(number, length) => {
                            let note = large(usize::from(number), usize::from(length));
                            tx.put(&A, &name(number), &note)?;
                            expected.insert(name(number), note);
                        }
                        Step::Delete(number) => {
                            tx.delete(&A, &name(number))?;
                            expected.remove(&name(number));
                        }
                        Step::Scan(group) => {
                            let prefix = prefix(&[&group.to_string()])?;
                            let found = tx.scan(&A, &prefix)?;
                            let inside = expected.iter().filter(|(key, _)| key.starts_with(&prefix));
                            assert!(found.iter().map(|(key, note)| (key, note)).eq(inside));
                        }
                    }
                }
                if fails { Err(StoreError::Busy) } else { Ok(expected) }
            });
            match outcome {
                Ok(expected) => truth = expected,
                Err(StoreError::Busy) => assert!(fails),
                Err(error) => panic!("{error}"),
            }
            let all: BTreeMap<_, _> = store.read().scan(&A, b"").unwrap().into_iter().collect();
            assert_eq!(all, truth);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
        #[test]
        fn sled_agrees(requests in vec((vec(step(), 0..8), any::<bool>()), 1..12)) {
            agrees(Engine::Sled, requests);
        }
        #[test]
        fn redb_agrees(requests in vec((vec(step(), 0..8), any::<bool>()), 1..12)) {
            agrees(Engine::Redb, requests);
        }
    }
}

#[test]
fn engines_are_found_by_name() {
    for engine in Engine::ALL {
        assert_eq!(engine.name().parse(), Ok(engine));
    }
    assert!("bolt".parse::<Engine>().is_err());
}
