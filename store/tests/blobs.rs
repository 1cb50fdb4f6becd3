//! Blobs and ingests in real folders.
#![expect(clippy::unwrap_used, reason = "a test ends where it is surprised")]

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use model::error::{Classify, Kind};
use model::{Algorithm, Digest, Hasher, Namespace};
use store::blob::{BlobError, BlobStore, IngestKey, MAX_REFERENCE_BYTES};

fn key(reference: &str) -> IngestKey {
    key_in("default", reference)
}

fn key_in(namespace: &str, reference: &str) -> IngestKey {
    IngestKey { namespace: Namespace::new(namespace).unwrap(), reference: reference.to_owned() }
}

fn fresh() -> (tempfile::TempDir, BlobStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = BlobStore::open(dir.path()).unwrap();
    (dir, store)
}

fn digest_of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new(algorithm);
    hasher.update(bytes);
    hasher.finish()
}

#[track_caller]
fn put(store: &BlobStore, bytes: &[u8]) -> Digest {
    let mut ingest = store.ingest(&key("put"), 0, None).unwrap();
    ingest.write(bytes).unwrap();
    ingest.commit(None, None).unwrap().digest
}

fn entries(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().count()
}

#[test]
fn what_is_written_is_found_by_its_digest() {
    let (dir, store) = fresh();
    let mut ingest = store.ingest(&key("r"), 11, None).unwrap();
    ingest.write(b"hello ").unwrap();
    assert_eq!(ingest.digest().unwrap(), Digest::sha256(b"hello "));
    ingest.write(b"world").unwrap();
    let committed = ingest.commit(Some(11), Some(&Digest::sha256(b"hello world"))).unwrap();
    assert_eq!((committed.size, committed.already_existed), (11, false));
    let digest = committed.digest;
    assert_eq!(digest, Digest::sha256(b"hello world"));
    assert_eq!(store.info(&digest).unwrap(), Some(11));
    assert_eq!(store.read(&digest, 11).unwrap(), b"hello world");

    let path = dir.path().join("blobs/sha256").join(digest.hex());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o444);
    assert_eq!(fs::metadata(dir.path().join("blobs/sha256")).unwrap().permissions().mode() & 0o7777, 0o700);
    assert_eq!(entries(&dir.path().join("ingest")), 0, "nothing is left of the ingest");

    let reader = store.reader(&digest).unwrap();
    let mut buffer = [0; 32];
    assert_eq!(reader.read_at(&mut buffer, 6).unwrap(), 5);
    assert_eq!(&buffer[..5], b"world");
    assert_eq!(reader.read_at(&mut buffer, 11).unwrap(), 0);
    assert_eq!(reader.read_at(&mut buffer, 12).unwrap_err().kind(), Kind::OutOfRange);
    assert_eq!(store.read(&digest, 10).unwrap_err().kind(), Kind::ResourceExhausted);

    let walked: Vec<_> = store.walk().unwrap().map(Result::unwrap).collect();
    assert_eq!(walked.len(), 1);
    assert_eq!((&walked[0].digest, walked[0].size), (&digest, 11));
    assert!(store.delete(&digest).unwrap() && !store.delete(&digest).unwrap());
    assert_eq!(store.file(&digest).unwrap_err().wire_message(), format!("content {digest}: not found"));
    assert_eq!(store.info(&digest).unwrap(), None);
}

#[test]
fn the_empty_blob_is_a_blob() {
    let (_dir, store) = fresh();
    let committed = store.ingest(&key("r"), 0, None).unwrap().commit(Some(0), None).unwrap();
    assert_eq!(store.info(&committed.digest).unwrap(), Some(0));
}

#[test]
fn an_ingest_goes_on_where_it_was_dropped() {
    let (dir, store) = fresh();
    let mut ingest = store.ingest(&key("r"), 6, None).unwrap();
    ingest.write(b"abc").unwrap();
    let begun = ingest.status();
    drop(ingest);

    // As after a restart.
    let store = {
        drop(store);
        BlobStore::open(dir.path()).unwrap()
    };
    let status = store.status(&key("r")).unwrap();
    assert_eq!((status.reference.as_str(), status.offset, status.total), ("r", 3, 6));
    assert_eq!(status.started_at, begun.started_at);
    assert!(status.updated_at >= status.started_at);

    let mut ingest = store.ingest(&key("r"), 0, None).unwrap();
    assert_eq!((ingest.offset(), ingest.status().total), (3, 6), "a total of 0 does not forget the promised one");
    assert_eq!(ingest.status().started_at, begun.started_at);
    assert_eq!(ingest.digest().unwrap(), Digest::sha256(b"abc"));
    ingest.write(b"def").unwrap();
    assert_eq!(ingest.commit(Some(6), None).unwrap().digest, Digest::sha256(b"abcdef"));
    assert_eq!(store.status(&key("r")).unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn bytes_of_an_earlier_boot_are_not_trusted() {
    let (dir, store) = fresh();
    let mut ingest = store.ingest(&key("r"), 0, None).unwrap();
    ingest.write(b"abc").unwrap();
    drop(ingest);
    let folder = fs::read_dir(dir.path().join("ingest")).unwrap().next().unwrap().unwrap().path();
    let note = fs::read_to_string(folder.join("startedat")).unwrap();
    fs::write(folder.join("startedat"), format!("{}\nanother boot", note.lines().next().unwrap())).unwrap();
    let ingest = store.ingest(&key("r"), 0, None).unwrap();
    assert_eq!(ingest.offset(), 0);
}

#[test]
fn one_opener_at_a_time() {
    let (_dir, store) = fresh();
    let first = store.ingest(&key("r"), 0, None).unwrap();
    let second = store.ingest(&key("r"), 0, None).unwrap_err();
    assert_eq!(second.wire_message(), "ref r locked: unavailable");
    assert_eq!(store.abort(&key("r")).unwrap_err().kind(), Kind::Unavailable);
    drop(store.ingest(&key_in("other", "r"), 0, None).unwrap());
    drop(store.ingest(&key("s"), 0, None).unwrap());
    drop(first);
    drop(store.ingest(&key("r"), 0, None).unwrap());
    store.abort(&key("r")).unwrap();
    assert_eq!(store.abort(&key("r")).unwrap_err().wire_message(), "reference r: not found");
}

#[test]
fn namespaces_do_not_see_each_others_ingests() {
    let (_dir, store) = fresh();
    for (namespace, reference, bytes) in [("a", "r", &b"x"[..]), ("a", "ns/with/slashes", b"yy"), ("b", "r", b"zzz")] {
        store.ingest(&key_in(namespace, reference), 0, None).unwrap().write(bytes).unwrap();
    }
    let mut of_a: Vec<_> = store.statuses(&Namespace::new("a").unwrap()).unwrap();
    of_a.sort_by(|one, other| one.reference.cmp(&other.reference));
    let seen: Vec<_> = of_a.iter().map(|status| (status.reference.as_str(), status.offset)).collect();
    assert_eq!(seen, [("ns/with/slashes", 2), ("r", 1)]);
    assert_eq!(store.status(&key_in("b", "r")).unwrap().offset, 3);
    assert_eq!(store.ingests().unwrap().len(), 3);
}

#[test]
fn a_wrong_size_or_digest_is_refused_in_the_words_clients_know() {
    let (_dir, store) = fresh();
    let other = Digest::sha256(b"other");
    let mut ingest = store.ingest(&key("r"), 0, None).unwrap();
    ingest.write(b"hello").unwrap();
    let refused = ingest.commit(Some(6), None).unwrap_err();
    assert_eq!(refused.wire_message(), "unexpected commit size 5, expected 6: failed precondition");

    let ingest = store.ingest(&key("r"), 0, Some(&other)).unwrap();
    assert_eq!(ingest.offset(), 5, "what was written stays");
    let refused = ingest.commit(Some(5), Some(&other)).unwrap_err();
    let got = Digest::sha256(b"hello");
    assert_eq!(
        refused.wire_message(),
        format!("unexpected commit digest {got}, expected {other}: failed precondition")
    );
    assert_eq!(store.walk().unwrap().count(), 0);
    store.abort(&key("r")).unwrap();
    assert!(store.ingests().unwrap().is_empty());
}

#[test]
fn the_same_content_twice_is_one_blob() {
    let (dir, store) = fresh();
    let digest = put(&store, b"same");
    let mut ingest = store.ingest(&key("again"), 0, None).unwrap();
    ingest.write(b"same").unwrap();
    let committed = ingest.commit(None, Some(&digest)).unwrap();
    assert!(committed.already_existed);
    assert_eq!(committed.digest, digest);
    assert_eq!(store.walk().unwrap().count(), 1);
    assert_eq!(entries(&dir.path().join("ingest")), 0);
}

#[test]
fn cutting_back_begins_again() {
    let (_dir, store) = fresh();
    let mut ingest = store.ingest(&key("r"), 0, None).unwrap();
    ingest.write(b"abcdef").unwrap();
    assert_eq!(ingest.truncate(7).unwrap_err().kind(), Kind::OutOfRange);
    ingest.truncate(6).unwrap();
    ingest.truncate(3).unwrap();
    ingest.write(b"X").unwrap();
    assert_eq!(ingest.digest().unwrap(), Digest::sha256(b"abcX"));
    ingest.truncate(0).unwrap();
    assert_eq!((ingest.offset(), ingest.digest().unwrap()), (0, Digest::sha256(b"")));
    ingest.write(b"new").unwrap();
    assert_eq!(ingest.commit(Some(3), None).unwrap().digest, Digest::sha256(b"new"));
}

#[test]
fn the_expected_digest_chooses_the_algorithm() {
    let (dir, store) = fresh();
    let bytes = vec![7; 700_000];
    for algorithm in Algorithm::ALL {
        let expected = digest_of(algorithm, &bytes);
        // Promised from the beginning, and only said at the end.
        for promised in [Some(&expected), None] {
            let mut ingest = store.ingest(&key("r"), 0, promised).unwrap();
            for piece in bytes.chunks(100_000) {
                ingest.write(piece).unwrap();
            }
            assert_eq!(ingest.commit(None, Some(&expected)).unwrap().digest, expected);
        }
        assert!(dir.path().join("blobs").join(algorithm.name()).join(expected.hex()).is_file());
    }
    assert_eq!(store.walk().unwrap().count(), 3);
}

#[test]
fn large_content_is_the_same_in_any_pieces() {
    let (_dir, store) = fresh();
    let bytes: Vec<u8> = (0..20_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let expected = Digest::sha256(&bytes);
    let mut ingest = store.ingest(&key("copied"), 0, None).unwrap();
    assert_eq!(ingest.copy_from(&mut bytes.as_slice()).unwrap(), bytes.len() as u64);
    assert_eq!(ingest.commit(None, Some(&expected)).unwrap().size, bytes.len() as u64);
    let mut back = Vec::new();
    store.reader(&expected).unwrap().read_to_end(&mut back).unwrap();
    assert!(back == bytes);
}

#[test]
fn bad_references_are_refused() {
    let (dir, store) = fresh();
    for bad in [String::new(), "x".repeat(MAX_REFERENCE_BYTES + 1)] {
        assert_eq!(store.ingest(&key(&bad), 0, None).unwrap_err().kind(), Kind::InvalidArgument);
    }
    // Nothing in a reference gets into a path.
    for odd in ["../../x", "/", "a\nb", "\0", &"y".repeat(MAX_REFERENCE_BYTES)] {
        drop(store.ingest(&key(odd), 0, None).unwrap());
        assert_eq!(store.status(&key(odd)).unwrap().reference, odd);
    }
    assert_eq!(entries(&dir.path().join("ingest")), 5);
}

#[test]
fn what_a_crash_leaves_is_seen_and_swept() {
    let (dir, store) = fresh();
    let mut open = store.ingest(&key("open"), 0, None).unwrap();
    open.write(b"x").unwrap();
    drop(store.ingest(&key("dropped"), 0, None).unwrap());
    let half = dir.path().join("ingest").join("0".repeat(64));
    fs::create_dir(&half).unwrap();
    fs::write(half.join("ref"), "default/gone").unwrap();
    let stray = dir.path().join("blobs/sha256/not-a-digest");
    fs::write(&stray, "x").unwrap();
    let mut strays = store.strays().unwrap();
    strays.sort();
    assert_eq!(strays, [stray, half.clone()]);
    assert_eq!(store.walk().unwrap().count(), 0);
    assert_eq!(store.remove_stray_ingests().unwrap(), 1);
    assert!(!half.exists());
    assert_eq!(store.ingests().unwrap().len(), 2);
    assert_eq!(open.commit(None, None).unwrap().digest, Digest::sha256(b"x"));
}

/// Needs a file system of its own that can be full: a tmpfs, so root.
#[test]
fn a_full_disk_is_said_and_the_ingest_survives_it() {
    let dir = tempfile::tempdir().unwrap();
    let options = c"size=1m";
    let mounted = rustix::mount::mount("none", dir.path(), "tmpfs", rustix::mount::MountFlags::empty(), Some(options));
    if let Err(error) = mounted {
        eprintln!("skipped: a tmpfs cannot be mounted here: {error}");
        return;
    }
    let outcome = std::panic::catch_unwind(|| {
        let store = BlobStore::open(dir.path()).unwrap();
        let mut ingest = store.ingest(&key("r"), 0, None).unwrap();
        ingest.write(&[1; 300_000]).unwrap();
        let refused = ingest.write(&[2; 2_000_000]).unwrap_err();
        assert!(matches!(refused, BlobError::Space { .. }), "{refused:?}");
        assert_eq!(refused.kind(), Kind::ResourceExhausted);
        assert_eq!(ingest.offset(), 300_000, "nothing of the refused bytes is in");
        ingest.write(b"end").unwrap();
        let mut expected = vec![1; 300_000];
        expected.extend(b"end");
        assert_eq!(ingest.commit(None, None).unwrap().digest, Digest::sha256(&expected));
    });
    rustix::mount::unmount(dir.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

#[test]
fn a_damaged_blob_is_not_read_where_blobs_are_compared() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = BlobStore::open(dir.path()).unwrap();
    let key = IngestKey { namespace: model::Namespace::new("n").unwrap(), reference: "r".into() };
    let mut ingest = blobs.ingest(&key, 0, None).unwrap();
    ingest.write(b"good bytes").unwrap();
    let digest = ingest.commit(None, None).unwrap().digest;
    blobs.verify_on_read(true);
    for _ in 0..2 {
        assert_eq!(blobs.read(&digest, 100).unwrap(), b"good bytes");
    }
    let path = blobs.path(&digest);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, b"evil bytes").unwrap();
    assert!(matches!(blobs.read(&digest, 100), Err(BlobError::Corrupt { .. })));
    blobs.verify_on_read(false);
    assert_eq!(blobs.read(&digest, 100).unwrap(), b"evil bytes");
}
