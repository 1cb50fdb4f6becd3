use std::fs;

use model::{Digest, Labels, Namespace};
use snapshotter::Snapshotter;
use snapshotter::copy::{self, Native};
use store::blob::IngestKey;
use store::record::{ContentRecord, NamespaceRecord, Present};
use store::{StoreError, key, tables};

use super::*;

struct Rig {
    doctor: Doctor,
    dir: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { root: dir.path().join("root"), state: dir.path().join("state"), ..Config::default() };
        fs::create_dir_all(&config.state).unwrap();
        let store = Store::open(&config.root.join("meta"), store::Options::default()).unwrap();
        let blobs = BlobStore::open(&config.root.join("content")).unwrap();
        let native = Native::open(&config.root.join("snapshots/native"), store.clone()).unwrap();
        let drivers = Drivers::from([(copy::NAME.to_owned(), Arc::new(native) as Arc<dyn Snapshotter>)]);
        let doctor = Doctor { config: Arc::new(config), store, blobs, drivers, tasks: None };
        Self { doctor, dir }
    }

    fn blob(&self, bytes: &[u8], labels: &[(&str, &str)]) -> Digest {
        let of = IngestKey { namespace: Namespace::new("n").unwrap(), reference: "r".into() };
        let mut ingest = self.doctor.blobs.ingest(&of, 0, None).unwrap();
        ingest.write(bytes).unwrap();
        ingest.commit(None, None).unwrap();
        let digest = Digest::sha256(bytes);
        let now = std::time::SystemTime::now();
        let labels: Labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let record = ContentRecord { size: bytes.len() as u64, labels, created_at: now, updated_at: now };
        let of = digest.clone();
        let written: Result<(), StoreError> = self.doctor.store.write(move |tx| {
            tx.put(&tables::NAMESPACES, &key(&["n"])?, &NamespaceRecord { labels: Labels::new(), created_at: now })?;
            tx.put(&tables::CONTENT, &key(&["n", of.as_str()])?, &record)?;
            tx.put(&tables::BLOB_HOLDERS, &key(&[of.as_str(), "n"])?, &Present)
        });
        written.unwrap();
        digest
    }

    fn examine(&self, verify: bool, repair: bool) -> (Vec<Finding>, Summary) {
        let (mut findings, mut summary) = (Vec::new(), None);
        self.doctor.examine(&ExamineRequest { verify, repair }, &mut |what| {
            match what {
                What::Finding(finding) => findings.push(finding),
                What::Summary(last) => summary = Some(last),
                What::Account(_) | What::Resource(_) => {}
            }
            Flow::Continue(())
        });
        (findings, summary.expect("the summary comes last"))
    }
}

#[test]
fn a_healthy_root_has_an_owner_for_every_byte() {
    let rig = Rig::new();
    rig.blob(b"good", &[]);
    rig.doctor.drivers[copy::NAME].prepare("n/1/a", None, &Labels::new()).unwrap();
    let (findings, summary) = rig.examine(true, false);
    assert_eq!(findings, []);
    assert_eq!((summary.bytes, summary.verified), (summary.owned_bytes, 1));
    assert!(summary.bytes > 0);
}

#[test]
fn a_corrupt_layer_is_moved_aside_and_forgotten_and_a_document_is_not() {
    let rig = Rig::new();
    let layer = rig.blob(b"layer", &[]);
    let document = rig.blob(b"document", &[("containerd.io/gc.ref.content.0", "x")]);
    for digest in [&layer, &document] {
        let path = rig.doctor.blobs.path(digest);
        fs::remove_file(&path).unwrap();
        fs::write(&path, &b"wrong bytes"[..digest.as_str().len().min(if digest == &layer { 5 } else { 8 })]).unwrap();
    }
    let (quick, _) = rig.examine(false, false);
    assert_eq!(quick, [], "only reading tells");
    let (findings, _) = rig.examine(true, false);
    let kinds: Vec<_> = findings.iter().map(|finding| (finding.kind(), finding.remedy.is_empty())).collect();
    assert!(kinds.contains(&(finding::Kind::Corrupt, false)) && kinds.contains(&(finding::Kind::Corrupt, true)));
    let (_, summary) = rig.examine(true, true);
    assert_eq!((summary.findings, summary.repaired), (2, 1));
    assert!(!rig.doctor.blobs.path(&layer).exists() && rig.doctor.blobs.path(&document).exists());
    assert!(rig.dir.path().join(format!("root/aside/sha256-{}", layer.hex())).exists());
    let (left, _) = rig.examine(true, false);
    assert_eq!(left.len(), 1, "{left:?}");
}

use proto::gantry::v1::finding;

#[test]
fn what_nobody_owns_is_found_and_only_what_is_proven_is_removed() {
    let rig = Rig::new();
    let root = rig.dir.path().join("root");
    fs::create_dir_all(root.join("snapshots/native/snapshots/77/x")).unwrap();
    fs::write(root.join("notes.txt"), "of a person").unwrap();
    let lost = rig.blob(b"lost", &[]);
    fs::remove_file(rig.doctor.blobs.path(&lost)).unwrap();
    let (findings, summary) = rig.examine(false, false);
    assert_eq!(findings.len(), 3, "{findings:#?}");
    assert!(summary.owned_bytes < summary.bytes);
    let (_, summary) = rig.examine(false, true);
    assert_eq!(summary.repaired, 2);
    assert!(root.join("notes.txt").exists() && !root.join("snapshots/native/snapshots/77").exists());
    let (left, _) = rig.examine(false, false);
    assert!(left.iter().all(|finding| finding.subject.ends_with("notes.txt")), "{left:#?}");
}
