//! The tests that every driver passes. They know nothing of a driver but the trait; mounting is the caller's, who may have to be
//! root for it.
//!
//! ```ignore
//! for case in contract::CASES {
//!     (case.run)(&contract::Subject { open: &open, mount: &mount });
//! }
//! ```

#![expect(clippy::unwrap_used, reason = "these are tests, for other crates to run")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::thread;
use std::time::SystemTime;

use model::error::{Classify, Kind};
use model::snapshot::{SnapshotInfo, SnapshotKind};
use model::{Labels, Mount};
use tempfile::TempDir;

use crate::{CAPABILITY_REBASE, LabelMask, SnapshotError, Snapshotter, Update};

/// What is done with a mounted snapshot.
pub type Look<'l> = dyn FnMut(&Path) + 'l;
/// Mounts, shows the place, and unmounts.
pub type With<'w> = dyn Fn(&[Mount], &mut Look<'_>) + 'w;

/// A driver to be tested.
#[derive(Clone, Copy)]
pub struct Subject<'s> {
    /// Opens the driver on a folder; on the same folder again, once the first one is dropped.
    pub open: &'s dyn Fn(&Path) -> Box<dyn Snapshotter>,
    /// Mounts, shows the place, and unmounts.
    pub mount: &'s With<'s>,
}

/// One rule of the contract.
pub struct Case {
    /// The rule, as a sentence.
    pub name: &'static str,
    /// Checks it; panics where it is broken.
    pub run: fn(&Subject<'_>),
}

/// All rules.
pub const CASES: &[Case] = &[
    Case { name: "a snapshot starts as its parent is", run: a_snapshot_starts_as_its_parent_is },
    Case { name: "a long chain shows all its layers", run: a_long_chain_shows_all_its_layers },
    Case { name: "what is deleted stays deleted", run: what_is_deleted_stays_deleted },
    Case { name: "the root belongs to whom the parent's did", run: the_root_belongs_to_whom_the_parents_did },
    Case { name: "views are read only", run: views_are_read_only },
    Case { name: "keys are free strings", run: keys_are_free_strings },
    Case { name: "impossible keys are refused", run: impossible_keys_are_refused },
    Case { name: "keys and names are one space", run: keys_and_names_are_one_space },
    Case { name: "parents are committed", run: parents_are_committed },
    Case { name: "mounts are repeatable", run: mounts_are_repeatable },
    Case { name: "only active snapshots are committed", run: only_active_snapshots_are_committed },
    Case { name: "a commit replaces labels and key", run: a_commit_replaces_labels_and_key },
    Case { name: "a parent stays while it has children", run: a_parent_stays_while_it_has_children },
    Case { name: "labels are changed by mask", run: labels_are_changed_by_mask },
    Case { name: "walking shows all until told to stop", run: walking_shows_all_until_told_to_stop },
    Case { name: "usage is measured while active and kept from then on", run: usage_is_measured_and_kept },
    Case { name: "everything is there after reopening", run: everything_is_there_after_reopening },
    Case { name: "nothing is left of what was removed", run: nothing_is_left_of_what_was_removed },
    Case { name: "a parent is given at the commit or refused", run: a_parent_is_given_at_the_commit_or_refused },
    Case { name: "one of many wins a key", run: one_of_many_wins_a_key },
    Case { name: "many work side by side", run: many_work_side_by_side },
];

struct Fixture<'s> {
    subject: &'s Subject<'s>,
    dir: TempDir,
    driver: Option<Box<dyn Snapshotter>>,
}

impl<'s> Fixture<'s> {
    fn new(subject: &'s Subject<'s>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let driver = Some((subject.open)(dir.path()));
        Self { subject, dir, driver }
    }

    fn driver(&self) -> &dyn Snapshotter {
        self.driver.as_deref().expect("it is open")
    }

    fn reopen(&mut self) {
        self.driver = None;
        self.driver = Some((self.subject.open)(self.dir.path()));
    }

    fn with(&self, mounts: &[Mount], look: &mut Look<'_>) {
        (self.subject.mount)(mounts, look);
    }

    /// Commits `name` on `parent`, after `change` was done to it.
    fn layer(&self, name: &str, parent: Option<&str>, change: impl Fn(&Path)) {
        let key = format!("making {name}");
        let mounts = self.driver().prepare(&key, parent, &Labels::new()).unwrap();
        self.with(&mounts, &mut |root| change(root));
        self.driver().commit(name, &key, &Labels::new(), None).unwrap();
    }

    /// The files that a snapshot with this parent shows.
    fn shown(&self, parent: &str) -> BTreeMap<String, String> {
        let mut files = BTreeMap::new();
        let mounts = self.driver().view("a look", Some(parent), &Labels::new()).unwrap();
        self.with(&mounts, &mut |root| files = tree(root));
        self.driver().remove("a look").unwrap();
        files
    }

    fn prepare(&self, key: &str, parent: Option<&str>) -> Result<Vec<Mount>, SnapshotError> {
        self.driver().prepare(key, parent, &Labels::new())
    }

    fn names(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        self.driver()
            .walk(&mut |info| {
                names.insert(info.name);
                ControlFlow::Continue(())
            })
            .unwrap();
        names
    }
}

/// The names and contents below a folder; a folder's content is `/`, a link's where it leads.
fn tree(root: &Path) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            if kind.is_dir() {
                files.insert(name, "/".to_owned());
                folders.push(path);
            } else if kind.is_symlink() {
                files.insert(name, format!("-> {}", fs::read_link(&path).unwrap().display()));
            } else {
                files.insert(name, fs::read_to_string(&path).unwrap());
            }
        }
    }
    files
}

fn files(expected: &[(&str, &str)]) -> BTreeMap<String, String> {
    expected.iter().map(|(name, content)| ((*name).to_owned(), (*content).to_owned())).collect()
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    files(pairs)
}

#[track_caller]
fn assert_kind<T: std::fmt::Debug>(result: Result<T, SnapshotError>, kind: Kind) {
    match result {
        Err(error) => assert_eq!(error.kind(), kind, "{}", error.wire_message()),
        Ok(value) => panic!("should have been {kind:?}, was {value:?}"),
    }
}

fn write(root: &Path, name: &str, content: &str) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn a_snapshot_starts_as_its_parent_is(subject: &Subject<'_>) {
    let fixture = Fixture::new(subject);
    fixture.layer("base", None, |root| {
        assert_eq!(tree(root), files(&[]));
        write(root, "etc/one", "1");
        write(root, "etc/two", "2");
        symlink("one", root.join("etc/link")).unwrap();
    });
    let base = files(&[("etc", "/"), ("etc/one", "1"), ("etc/two", "2"), ("etc/link", "-> one")]);
    assert_eq!(fixture.shown("base"), base);
    fixture.layer("next", Some("base"), |root| {
        assert_eq!(tree(root), base);
        write(root, "etc/one", "changed");
        write(root, "new", "3");
    });
    let mut next = base.clone();
    next.extend(files(&[("etc/one", "changed"), ("new", "3")]));
    assert_eq!(fixture.shown("next"), next);
    assert_eq!(fixture.shown("base"), base);
    // Two children of one parent know nothing of each other.
    let mounts = fixture.prepare("other", Some("base")).unwrap();
    fixture.with(&mounts, &mut |root| {
        assert_eq!(tree(root), base);
        write(root, "other", "");
    });
    assert_eq!(fixture.shown("next"), next);
}

fn a_long_chain_shows_all_its_layers(subject: &Subject<'_>) {
    const LAYERS: usize = 40;
    let fixture = Fixture::new(subject);
    let mut expected = files(&[]);
    for layer in 0..LAYERS {
        let parent = layer.checked_sub(1).map(|below| below.to_string());
        fixture.layer(&layer.to_string(), parent.as_deref(), |root| {
            write(root, &format!("file{layer}"), "new");
            write(root, "all", &layer.to_string());
        });
        expected.extend(files(&[(&format!("file{layer}"), "new"), ("all", &layer.to_string())]));
    }
    assert_eq!(fixture.shown(&(LAYERS - 1).to_string()), expected);
}

fn what_is_deleted_stays_deleted(subject: &Subject<'_>) {
    let fixture = Fixture::new(subject);
    fixture.layer("base", None, |root| {
        for name in ["a/1", "a/2", "b/1", "b/deep/1", "c", "d/1", "e", "f/1"] {
            write(root, name, "old");
        }
    });
    fixture.layer("next", Some("base"), |root| {
        fs::remove_file(root.join("a/1")).unwrap();
        // A folder in the place of a folder, a file in the place of a folder, and the other way round.
        fs::remove_dir_all(root.join("b")).unwrap();
        write(root, "b/new", "new");
        fs::remove_file(root.join("c")).unwrap();
        write(root, "c/new", "new");
        fs::remove_dir_all(root.join("d")).unwrap();
        write(root, "d", "new");
        fs::rename(root.join("e"), root.join("moved")).unwrap();
        fs::remove_dir_all(root.join("f")).unwrap();
    });
    let next = [
        ("a", "/"),
        ("a/2", "old"),
        ("b", "/"),
        ("b/new", "new"),
        ("c", "/"),
        ("c/new", "new"),
        ("d", "new"),
        ("moved", "old"),
    ];
    assert_eq!(fixture.shown("next"), files(&next));
    fixture.layer("last", Some("next"), |root| {
        assert_eq!(tree(root), files(&next));
        write(root, "a/1", "back");
        write(root, "f/2", "back");
    });
    let mut last = files(&next);
    last.extend(files(&[("a/1", "back"), ("f", "/"), ("f/2", "back")]));
    assert_eq!(fixture.shown("last"), last);
    fixture.layer("unchanged", Some("last"), |_| {});
    assert_eq!(fixture.shown("unchanged"), last);
}

fn the_root_belongs_to_whom_the_parents_did(subject: &Subject<'_>) {
    let fixture = Fixture::new(subject);
    let looks = |root: &Path| {
        let meta = fs::metadata(root).unwrap();
        (meta.mode() & 0o7777, meta.uid(), meta.gid())
    };
    fixture.layer("base", None, |root| {
        assert_eq!(looks(root), (0o755, 0, 0));
        std::os::unix::fs::chown(root, Some(11), Some(22)).unwrap();
        fs::set_permissions(root, fs::Permissions::from_mode(0o1711)).unwrap();
    });
    fixture.layer("next", Some("base"), |root| assert_eq!(looks(root), (0o1711, 11, 22)));
    let mounts = fixture.driver().view("view", Some("next"), &Labels::new()).unwrap();
    fixture.with(&mounts, &mut |root| assert_eq!(looks(root), (0o1711, 11, 22)));
}

fn views_are_read_only(subject: &Subject<'_>) {
    let fixture = Fixture::new(subject);
    fixture.layer("one", None, |root| write(root, "file", "1"));
    fixture.layer("two", Some("one"), |root| write(root, "file", "2"));
    for parent in [None, Some("one"), Some("two")] {
        let mounts = fixture.driver().view("view", parent, &Labels::new()).unwrap();
        assert!(mounts.last().unwrap().options.iter().all(|option| option != "rw"));
        fixture.with(&mounts, &mut |root| {
            let error = fs::write(root.join("file"), "changed").unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem, "{error}");
        });
        fixture.driver().remove("view").unwrap();
    }
}

fn keys_are_free_strings(subject: &Subject<'_>) {
    let fixture = Fixture::new(subject);
    let keys = ["a/b/../c", "..", ".", "/", "extract-1-x sha256:abc", "ünï\n", " ", "default/1/key", &"k".repeat(2000)];
    for key in keys {
        fixture.prepare(key, None).unwrap();
        assert_eq!(fixture.driver().stat(key).unwrap().name, key);
    }
    assert_eq!(fixture.names(), keys.iter().map(|key| (*key).to_owned()).collect());
    for key in keys {
        let name = format!("committed {key}");
        fixture.driver().commit(&name, key, &Labels::new(), None).unwrap();
        fixture.prepare(key, Some(&name)).unwrap();
    }
}

fn impossible_keys_are_refused(subject: &Subject<'_>) {
    let fixture = Fixture::new(subject);
    for key in ["", "a\0b", &"k".repeat(100_000)] {
        assert_kind(fixture.prepare(key, None), Kind::InvalidArgument);
        assert_kind(fixture.driver().view(key, None, &Labels::new()), Kind::InvalidArgument);
    }
    fixture.prepare("key", None).unwrap();
    assert_kind(fixture.driver().commit("", "key", &Labels::new(), None), Kind::InvalidArgument);
    assert_eq!(fixture.names().len(), 1);
}

fn keys_and_names_are_one_space(subject: &Subject<'_>) {
    let fixture = Fixture::new(subject);
    fixture.layer("committed", None, |_| {});
    fixture.prepare("active", None).unwrap();
    fixture.driver().view("view", None, &Labels::new()).unwrap();
    for key in ["committed", "active", "view"] {
        assert_kind(fixture.prepare(key, None), Kind::AlreadyExists);
        assert_kind(fixture.driver().view(key, Some("committed"), &Labels::new()), Kind::AlreadyExists);
        assert_kind(fixture.driver().commit(key, "active", &Labels::new(), None), Kind::AlreadyExists);
    }
    assert_eq!(fixture.driver().stat("active").unwrap().kind, SnapshotKind::Active);
}

fn parents_are_committed(subject: &Subject<'_>) {
    let fixture = Fixture::new(subject);
    fixture.prepare("active", None).unwrap();
    fixture.driver().view("view", None, &Labels::new()).unwrap();
    for parent in ["active", "view"] {
        assert_kind(fixture.prepare("x", Some(parent)), Kind::InvalidArgument);
        assert_kind(fixture.driver().view("x", Some(parent), &Labels::new()), Kind::InvalidArgument);
    }
    for parent in ["nowhere", ""] {
        assert_kind(fixture.prepare("x", Some(parent)), Kind::NotFound);
    }
    assert_eq!(fixture.names().len(), 2);
}

fn mounts_are_repeatable(subject: &Subject<'_>) {
    let mut fixture = Fixture::new(subject);
    fixture.layer("one", None, |_| {});
    fixture.layer("two", Some("one"), |_| {});
    let mut made = BTreeMap::new();
    for parent in [None, Some("one"), Some("two")] {
        let key = format!("active on {parent:?}");
        made.insert(key.clone(), fixture.prepare(&key, parent).unwrap());
        let key = format!("view of {parent:?}");
        made.insert(key.clone(), fixture.driver().view(&key, parent, &Labels::new()).unwrap());
    }
    for _ in 0..2 {
        for (key, mounts) in &made {
            assert!(!mounts.is_empty());
            assert_eq!(&fixture.driver().mounts(key).unwrap(), mounts, "{key}");
        }
        fixture.reopen();
    }
    assert_kind(fixture.driver().mounts("one"), Kind::FailedPrecondition);
    assert_kind(fixture.driver().mounts("nowhere"), Kind::NotFound);
}

fn only_active_snapshots_are_committed(subject: &Subject<'_>) {
    let fixture = Fixture::new(subject);
    fixture.layer("committed", None, |_| {});
    fixture.driver().view("view", Some("committed"), &Labels::new()).unwrap();
    for key in ["committed", "view"] {
        assert_kind(fixture.driver().commit("name", key, &Labels::new(), None), Kind::FailedPrecondition);
    }
    assert_kind(fixture.driver().commit("name", "nowhere", &Labels::new(), None), Kind::NotFound);
    assert_kind(fixture.driver().stat("name"), Kind::NotFound);
}

fn a_commit_replaces_labels_and_key(subject: &Subject<'_>) {
    let fixture = Fixture::new(subject);
    let start = SystemTime::now();
    let before = labels(&[("a", "1"), ("empty", "")]);
    fixture.driver().prepare("key", None, &before).unwrap();
    let active = fixture.driver().stat("key").unwrap();
    let expected = SnapshotInfo {
        kind: SnapshotKind::Active,
        name: "key".to_owned(),
        parent: None,
        labels: labels(&[("a", "1")]),
        ..active
    };
    assert_eq!(fixture.driver().stat("key").unwrap(), expected);
    assert!(expected.created_at >= start && expected.updated_at >= expected.created_at);
    fixture.driver().commit("name", "key", &labels(&[("b", "2")]), None).unwrap();
    let committed = fixture.driver().stat("name").unwrap();
    assert_eq!((committed.kind, committed.labels), (SnapshotKind::Committed, labels(&[("b", "2")])));
    assert_kind(fixture.driver().stat("key"), Kind::NotFound);
    assert_kind(fixture.driver().usage("key"), Kind::NotFound);
    // The key is free again.
    fixture.prepare("key", Some("name")).unwrap();
    assert_eq!(fixture.driver().stat("key").unwrap().parent.as_deref(), Some("name"));
}

fn a_parent_stays_while_it_has_children(subject: &Subject<'_>) {
    let fixture = Fixture::new(subject);
    fixture.layer("base", None, |_| {});
    fixture.prepare("active", Some("base")).unwrap();
    assert_kind(fixture.driver().remove("base"), Kind::FailedPrecondition);
    fixture.driver().commit("next", "active", &Labels::new(), None).unwrap();
    assert_kind(fixture.driver().remove("base"), Kind::FailedPrecondition);
    fixture.driver().view("view", Some("next"), &Labels::new()).unwrap();
    assert_kind(fixture.driver().remove("next"), Kind::FailedPrecondition);
    fixture.driver().remove("view").unwrap();
    fixture.driver().remove("next").unwrap();
    fixture.driver().remove("base").unwrap();
    assert_kind(fixture.driver().remove("base"), Kind::NotFound);
    assert_kind(fixture.prepare("x", Some("base")), Kind::NotFound);
    assert_eq!(fixture.names(), BTreeSet::new());
    // A new one of the same name has nothing of the old one.
    fixture.layer("base", None, |root| assert_eq!(tree(root), files(&[])));
}

fn labels_are_changed_by_mask(subject: &Subject<'_>) {
    let fixture = Fixture::new(subject);
    fixture.driver().prepare("key", None, &labels(&[("a", "1"), ("b", "2"), ("c", "3")])).unwrap();
    let before = fixture.driver().stat("key").unwrap();
    let update = |given: &[(&str, &str)], mask| {
        let update = Update { name: "key".to_owned(), labels: labels(given), mask };
        let answer = fixture.driver().update(&update).unwrap();
        assert_eq!(answer, fixture.driver().stat("key").unwrap());
        answer.labels
    };
    let keys = |keys: &[&str]| LabelMask::Keys(keys.iter().map(|key| (*key).to_owned()).collect());
    let some = update(&[("a", "new"), ("b", ""), ("ignored", "x"), ("d", "4")], keys(&["a", "b", "d", "missing"]));
    assert_eq!(some, labels(&[("a", "new"), ("c", "3"), ("d", "4")]));
    assert_eq!(update(&[], keys(&["c"])), labels(&[("a", "new"), ("d", "4")]));
    assert_eq!(update(&[("x", "1"), ("y", "")], LabelMask::All), labels(&[("x", "1")]));
    let after = fixture.driver().stat("key").unwrap();
    assert!(after.created_at == before.created_at && after.updated_at > before.updated_at);
    let update = Update { name: "nowhere".to_owned(), labels: Labels::new(), mask: LabelMask::All };
    assert_kind(fixture.driver().update(&update), Kind::NotFound);
}

fn walking_shows_all_until_told_to_stop(subject: &Subject<'_>) {
    const MANY: usize = 600;
    let fixture = Fixture::new(subject);
    thread::scope(|scope| {
        for part in 0..6 {
            let fixture = &fixture;
            let driver = fixture.driver();
            scope.spawn(move || {
                for n in (part..MANY).step_by(6) {
                    driver.view(&format!("view {n}"), None, &Labels::new()).unwrap();
                }
            });
        }
    });
    assert_eq!(fixture.names(), (0..MANY).map(|n| format!("view {n}")).collect());
    let mut seen = 0;
    fixture
        .driver()
        .walk(&mut |_| {
            seen += 1;
            if seen == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
    assert_eq!(seen, 3);
}

fn usage_is_measured_and_kept(subject: &Subject<'_>) {
    let fixture = Fixture::new(subject);
    let mounts = fixture.prepare("key", None).unwrap();
    let empty = fixture.driver().usage("key").unwrap();
    fixture.with(&mounts, &mut |root| {
        write(root, "file", &"x".repeat(100_000));
        fs::hard_link(root.join("file"), root.join("again")).unwrap();
        fs::File::create(root.join("hole")).unwrap().set_len(1 << 30).unwrap();
    });
    let full = fixture.driver().usage("key").unwrap();
    assert_eq!(full.inodes, empty.inodes + 2);
    let added = full.size_bytes - empty.size_bytes;
    assert!((100_000..200_000).contains(&added), "{added} bytes more");
    fixture.driver().commit("name", "key", &Labels::new(), None).unwrap();
    assert_eq!(fixture.driver().usage("name").unwrap(), full);
    assert_kind(fixture.driver().usage("nowhere"), Kind::NotFound);
}

fn everything_is_there_after_reopening(subject: &Subject<'_>) {
    let mut fixture = Fixture::new(subject);
    fixture.layer("base", None, |root| write(root, "file", "1"));
    let mounts = fixture.driver().prepare("active", Some("base"), &labels(&[("a", "1")])).unwrap();
    fixture.with(&mounts, &mut |root| write(root, "mine", "2"));
    let info = fixture.driver().stat("active").unwrap();
    for _ in 0..2 {
        fixture.reopen();
        fixture.driver().cleanup().unwrap();
        assert_eq!(fixture.driver().stat("active").unwrap(), info);
        assert_eq!(fixture.driver().mounts("active").unwrap(), mounts);
        fixture.with(&mounts, &mut |root| assert_eq!(tree(root), files(&[("file", "1"), ("mine", "2")])));
        assert_kind(fixture.driver().remove("base"), Kind::FailedPrecondition);
    }
    // New ones have nothing of the old ones.
    let mounts = fixture.prepare("fresh", None).unwrap();
    fixture.with(&mounts, &mut |root| assert_eq!(tree(root), files(&[])));
}

fn nothing_is_left_of_what_was_removed(subject: &Subject<'_>) {
    let mut fixture = Fixture::new(subject);
    let Some(root) = fixture.driver().root().map(Path::to_owned) else { return };
    let before = tree(&root);
    fixture.layer("base", None, |root| write(root, "a/b/file", "1"));
    fixture.layer("next", Some("base"), |root| fs::remove_dir_all(root.join("a")).unwrap());
    fixture.prepare("active", Some("next")).unwrap();
    fixture.driver().view("view", Some("next"), &Labels::new()).unwrap();
    assert_kind(fixture.prepare("view", None), Kind::AlreadyExists);
    assert_kind(fixture.prepare("x", Some("nowhere")), Kind::NotFound);
    for key in ["view", "active", "next", "base"] {
        fixture.driver().remove(key).unwrap();
    }
    fixture.driver().cleanup().unwrap();
    assert_eq!(tree(&root), before);
    fixture.reopen();
    assert_eq!(tree(&root), before);
}

fn a_parent_is_given_at_the_commit_or_refused(subject: &Subject<'_>) {
    let fixture = Fixture::new(subject);
    fixture.layer("base", None, |root| write(root, "below", "1"));
    fixture.layer("other", None, |_| {});
    let mounts = fixture.prepare("key", None).unwrap();
    fixture.with(&mounts, &mut |root| write(root, "above", "2"));
    let commit = |name: &str, key: &str, parent: &str| fixture.driver().commit(name, key, &Labels::new(), Some(parent));
    // One that has a parent keeps it.
    fixture.prepare("with parent", Some("base")).unwrap();
    assert_kind(commit("name", "with parent", "other"), Kind::FailedPrecondition);
    if !fixture.driver().capabilities().iter().any(|capability| capability == CAPABILITY_REBASE) {
        assert_kind(commit("name", "key", "base"), Kind::FailedPrecondition);
        assert_eq!(fixture.driver().stat("key").unwrap().kind, SnapshotKind::Active);
        return;
    }
    assert_kind(commit("name", "key", "nowhere"), Kind::NotFound);
    assert_kind(commit("name", "key", "with parent"), Kind::InvalidArgument);
    commit("name", "key", "base").unwrap();
    assert_eq!(fixture.driver().stat("name").unwrap().parent.as_deref(), Some("base"));
    assert_eq!(fixture.shown("name"), files(&[("above", "2"), ("below", "1")]));
    fixture.driver().remove("with parent").unwrap();
    assert_kind(fixture.driver().remove("base"), Kind::FailedPrecondition);
    fixture.driver().remove("name").unwrap();
    fixture.driver().remove("base").unwrap();
}

fn one_of_many_wins_a_key(subject: &Subject<'_>) {
    const THREADS: usize = 8;
    let fixture = Fixture::new(subject);
    fixture.layer("base", None, |_| {});
    let run = |work: &(dyn Fn(usize) -> Result<(), SnapshotError> + Sync)| {
        let outcomes: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|n| scope.spawn(move || work(n))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
        outcomes.into_iter().filter_map(Result::err).map(|error| error.kind()).collect::<Vec<_>>()
    };
    let driver = fixture.driver();
    for _ in 0..5 {
        let lost = run(&|_| driver.prepare("key", Some("base"), &Labels::new()).map(drop));
        assert!(lost.iter().all(|kind| *kind == Kind::AlreadyExists), "{lost:?}");
        run(&|n| driver.commit(&format!("name {n}"), "key", &Labels::new(), None));
        let names: Vec<_> = fixture.names().into_iter().filter(|name| name.starts_with("name")).collect();
        let lost = run(&|_| driver.remove(&names[0]));
        assert!(lost.iter().all(|kind| *kind == Kind::NotFound), "{lost:?}");
    }
    driver.cleanup().unwrap();
    assert_eq!(fixture.names(), BTreeSet::from(["base".to_owned()]));
}

fn many_work_side_by_side(subject: &Subject<'_>) {
    const THREADS: usize = 8;
    const ROUNDS: usize = 12;
    let fixture = Fixture::new(subject);
    fixture.layer("base", None, |_| {});
    let driver = fixture.driver();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let (key, name) = (format!("key {thread} {round}"), format!("name {thread} {round}"));
                    driver.prepare(&key, Some("base"), &Labels::new()).unwrap();
                    driver.commit(&name, &key, &Labels::new(), None).unwrap();
                    driver.view(&key, Some(&name), &Labels::new()).unwrap();
                    // Sweeping must not take what others are making.
                    driver.cleanup().unwrap();
                    driver.mounts(&key).unwrap();
                    driver.remove(&key).unwrap();
                    if round % 2 == 0 {
                        driver.remove(&name).unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(fixture.names().len(), 1 + THREADS * ROUNDS / 2);
    for name in fixture.names() {
        let mounts = driver.prepare("look", Some(&name), &Labels::new()).unwrap();
        fixture.with(&mounts, &mut |root| assert_eq!(tree(root), files(&[])));
        driver.remove("look").unwrap();
    }
}
