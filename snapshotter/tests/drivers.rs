//! Both drivers pass the contract; and what only one of them promises.
#![cfg(feature = "contract")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use model::error::{Classify, Kind};
use model::snapshot::{SnapshotInfo, SnapshotKind, Usage};
use model::{Labels, Mount};
use snapshotter::contract::{CASES, Subject};
use snapshotter::copy::Native;
use snapshotter::diff::{self, Changes};
use snapshotter::layer::{Compression, Encoding, Limits, Target, Whiteouts};
use snapshotter::overlay::{LayerFormat, Options, Overlay};
use snapshotter::{SnapshotError, Snapshotter, Update};
use store::Store;
use support::{Head, Private, Tar, assert_same, below_root, describe, is_root, shell, unpack};

fn store(dir: &Path) -> Store {
    Store::open(&dir.join("meta"), store::Options::default()).unwrap()
}

fn overlay(dir: &Path) -> Overlay {
    Overlay::open(&dir.join("overlayfs"), store(dir), Options::default()).unwrap()
}

fn native(dir: &Path) -> Native {
    Native::open(&dir.join("native"), store(dir)).unwrap()
}

fn check_contract(open: &dyn Fn(&Path) -> Box<dyn Snapshotter>) {
    let private = Private::new();
    let subject = Subject { open, mount: &|mounts, look| private.with(mounts, |root| look(root)) };
    for case in CASES {
        eprintln!("{}", case.name);
        (case.run)(&subject);
    }
}

#[test]
fn overlayfs_passes_the_contract() {
    if is_root("overlayfs_passes_the_contract") {
        check_contract(&|dir| Box::new(overlay(dir)));
    }
}

/// The driver with every layer as an image: what was written into a snapshot is unpacked as an extraction when it is committed.
struct AsImages(Overlay);

impl AsImages {
    fn open(dir: &Path) -> Self {
        let options = Options { layer_format: LayerFormat::Erofs, ..Options::default() };
        Self(Overlay::open(&dir.join("overlayfs"), store(dir), options).unwrap())
    }

    fn layer(&self, key: &str) -> Vec<u8> {
        static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let left_key = format!("left of a diff {}", COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        let parent = self.0.stat(key).unwrap().parent;
        let mounts = self.0.mounts(key).unwrap();
        let left = match &parent {
            Some(parent) => self.0.view(&left_key, Some(parent), &Labels::new()).unwrap(),
            None => Vec::new(),
        };
        let mut bytes = Vec::new();
        let options = diff::Options { compression: Compression::None, source_date_epoch: None };
        diff::write(&Changes::from_mounts(&left, &mounts).unwrap(), &mut bytes, &options).unwrap();
        if parent.is_some() {
            self.0.remove(&left_key).unwrap();
        }
        bytes
    }
}

impl Snapshotter for AsImages {
    fn name(&self) -> &str {
        self.0.name()
    }
    fn root(&self) -> Option<&Path> {
        self.0.root()
    }
    fn capabilities(&self) -> Vec<String> {
        self.0.capabilities()
    }
    fn prepare(&self, key: &str, parent: Option<&str>, labels: &Labels) -> Result<Vec<Mount>, SnapshotError> {
        self.0.prepare(key, parent, labels)
    }
    fn view(&self, key: &str, parent: Option<&str>, labels: &Labels) -> Result<Vec<Mount>, SnapshotError> {
        self.0.view(key, parent, labels)
    }
    fn mounts(&self, key: &str) -> Result<Vec<Mount>, SnapshotError> {
        self.0.mounts(key)
    }
    fn commit(&self, name: &str, key: &str, labels: &Labels, parent: Option<&str>) -> Result<(), SnapshotError> {
        let is_plain =
            self.0.stat(key).is_ok_and(|info| info.kind == SnapshotKind::Active) && self.0.stat(name).is_err();
        if !is_plain || name.is_empty() || name.len() > 4096 || name.contains('\0') {
            return self.0.commit(name, key, labels, parent);
        }
        let below = self.0.stat(key).unwrap().parent;
        let bytes = self.layer(key);
        let extraction = format!("extract-{name} of {key}");
        let mounts = self.0.prepare(&extraction, below.as_deref(), &Labels::new())?;
        let slot = self.0.layer_image(&mounts).unwrap().expect("images were asked for");
        let slot = if parent.is_some() { slot.on_unknown() } else { slot };
        slot.write(&bytes[..], Encoding::Plain, &Limits::default()).unwrap();
        // Of many who commit one key, the one that removes it wins. What is refused leaves it as it was.
        let outcome = match parent {
            None => self.0.remove(key).and_then(|()| self.0.commit(name, &extraction, labels, None)),
            Some(_) => self.0.commit(name, &extraction, labels, parent).and_then(|()| self.0.remove(key)),
        };
        if outcome.is_err() {
            self.0.remove(&extraction).unwrap();
        }
        outcome
    }
    fn remove(&self, key: &str) -> Result<(), SnapshotError> {
        self.0.remove(key)
    }
    fn stat(&self, key: &str) -> Result<SnapshotInfo, SnapshotError> {
        self.0.stat(key)
    }
    fn update(&self, update: &Update) -> Result<SnapshotInfo, SnapshotError> {
        self.0.update(update)
    }
    fn walk(&self, each: &mut dyn FnMut(SnapshotInfo) -> ControlFlow<()>) -> Result<(), SnapshotError> {
        self.0.walk(each)
    }
    fn usage(&self, key: &str) -> Result<Usage, SnapshotError> {
        self.0.usage(key)
    }
    fn cleanup(&self) -> Result<(), SnapshotError> {
        self.0.cleanup()
    }
}

#[test]
fn overlayfs_with_images_passes_the_contract() {
    if !is_root("overlayfs_with_images_passes_the_contract") {
        return;
    }
    let private = Private::new();
    let subject = Subject {
        open: &|dir| Box::new(AsImages::open(dir)),
        mount: &|mounts, look| private.with(mounts, |root| look(root)),
    };
    for case in CASES {
        eprintln!("{}", case.name);
        // An image takes less than the files it was made of.
        if case.name.starts_with("usage is measured") {
            continue;
        }
        (case.run)(&subject);
    }
}

/// Unpacks a layer as an extraction does.
fn extract(driver: &Overlay, name: &str, parent: Option<&str>, bytes: &[u8]) {
    let key = format!("default/7/extract-1-abcd {name}");
    let mounts = driver.prepare(&key, parent, &Labels::new()).unwrap();
    let slot = driver.layer_image(&mounts).unwrap().expect("an image");
    slot.write(bytes, Encoding::Detected, &Limits::default()).unwrap();
    driver.commit(name, &key, &Labels::new(), None).unwrap();
}

fn images(dir: &Path) -> Overlay {
    let options = Options { layer_format: LayerFormat::Erofs, ..Options::default() };
    Overlay::open(&dir.join("overlayfs"), store(dir), options).unwrap()
}

fn mounted_below(dir: &Path) -> usize {
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    mounts
        .lines()
        .filter(|line| line.split(' ').nth(4).is_some_and(|place| place.starts_with(dir.to_str().unwrap())))
        .count()
}

#[test]
fn images_are_mounted_when_somebody_stands_on_them_until_they_are_removed() {
    if !is_root("images_are_mounted_when_somebody_stands_on_them_until_they_are_removed") {
        return;
    }
    let private = Private::new();
    let dir = tempfile::tempdir().unwrap();
    let driver = images(dir.path());
    extract(&driver, "one", None, &Tar::default().file("a", b"1").file("b", b"1").end());
    extract(&driver, "two", Some("one"), &Tar::default().file(".wh.a", b"").file("c", b"2").end());
    let mounts = driver.prepare("key", Some("two"), &Labels::new()).unwrap();
    let shown = |mounts: &[Mount]| private.with(mounts, |root| below_root(root).into_keys().collect::<Vec<_>>());
    assert_eq!(shown(&mounts), ["b", "c"]);
    assert_eq!(mounted_below(dir.path()), 2);
    // As one image and the folder it is mounted on.
    let usage = driver.usage("one").unwrap();
    assert_eq!(usage.inodes, 2);
    assert!(usage.size_bytes >= 8192, "{usage:?}");
    drop(driver);
    // After a reboot nothing is mounted; what was handed out before is whole again as soon as the driver is back.
    for place in fs::read_dir(dir.path().join("overlayfs/snapshots")).unwrap() {
        let _ = nix::mount::umount2(&place.unwrap().path().join("fs"), nix::mount::MntFlags::MNT_DETACH);
    }
    assert_eq!(mounted_below(dir.path()), 0);
    let driver = images(dir.path());
    assert_eq!(shown(&mounts), ["b", "c"]);
    let view = driver.view("view", Some("one"), &Labels::new()).unwrap();
    assert_eq!(shown(&view), ["a", "b"]);
    // Removed while an overlay still shows it.
    private.with(&mounts, |root| {
        for key in ["view", "key", "two", "one"] {
            driver.remove(key).unwrap();
        }
        assert_eq!(fs::read(root.join("c")).unwrap(), b"2");
    });
    assert_eq!(mounted_below(dir.path()), 0);
    assert_eq!(fs::read_dir(dir.path().join("overlayfs/snapshots")).unwrap().count(), 0);
}

#[test]
fn who_asks_for_the_mounts_of_an_extraction_gets_files() {
    if !is_root("who_asks_for_the_mounts_of_an_extraction_gets_files") {
        return;
    }
    let private = Private::new();
    let dir = tempfile::tempdir().unwrap();
    let driver = images(dir.path());
    extract(&driver, "one", None, &Tar::default().file("a", b"1").dir("d").file("d/x", b"1").end());
    let mounts = driver.prepare("extract-2 two", Some("one"), &Labels::new()).unwrap();
    let slot = driver.layer_image(&mounts).unwrap().unwrap();
    let layer = Tar::default().file(".wh.a", b"").file("d/.wh..wh..opq", b"").file("c", b"2").hard_link("e", "c").end();
    slot.write(&layer[..], Encoding::Plain, &Limits::default()).unwrap();
    assert_eq!(driver.mounts("extract-2 two").unwrap(), mounts);
    let shown = private.with(&mounts, |root| {
        fs::write(root.join("more"), "3").unwrap();
        below_root(root).into_keys().collect::<Vec<_>>()
    });
    assert_eq!(shown, ["c", "d", "e", "more"]);
    // From now on it is a snapshot like any other.
    assert!(driver.layer_image(&mounts).unwrap().is_none());
    driver.commit("two", "extract-2 two", &Labels::new(), None).unwrap();
    let view = driver.view("view", Some("two"), &Labels::new()).unwrap();
    assert_eq!(private.with(&view, |root| below_root(root).into_keys().collect::<Vec<_>>()), ["c", "d", "e", "more"]);
    // Others were never meant to be images.
    let plain = driver.prepare("key", Some("two"), &Labels::new()).unwrap();
    assert!(driver.layer_image(&plain).unwrap().is_none());
    assert!(driver.layer_image(&view).unwrap().is_none());
    for key in ["key", "view", "two", "one"] {
        driver.remove(key).unwrap();
    }
    assert_eq!(mounted_below(dir.path()), 0);
}

#[test]
fn an_image_that_gets_its_parent_late_looks_the_same() {
    if !is_root("an_image_that_gets_its_parent_late_looks_the_same") {
        return;
    }
    let private = Private::new();
    let dir = tempfile::tempdir().unwrap();
    let driver = images(dir.path());
    let base = Tar::default()
        .head(&Head { name: "d", kind: b'5', mode: 0o711, uid: 7, gid: 8, mtime: 1000, ..Head::default() })
        .file("d/old", b"")
        .head(&Head { name: ".", kind: b'5', mode: 0o1755, uid: 3, gid: 4, mtime: 2000, ..Head::default() })
        .pax(&[("SCHILY.xattr.user.key", b"v")])
        .dir("with-attributes")
        .end();
    extract(&driver, "base", None, &base);
    let late = |name: &str, bytes: &[u8]| {
        let key = format!("extract-1 {name}");
        let mounts = driver.prepare(&key, None, &Labels::new()).unwrap();
        let slot = driver.layer_image(&mounts).unwrap().unwrap().on_unknown();
        slot.write(bytes, Encoding::Plain, &Limits::default()).unwrap();
        driver.commit(name, &key, &Labels::new(), Some("base"))
    };
    late("next", &Tar::default().file("d/new", b"").file("d/.wh.old", b"").end()).unwrap();
    let view = driver.view("view", Some("next"), &Labels::new()).unwrap();
    private.with(&view, |root| {
        let lines = describe(root);
        assert_eq!(lines["d"], "dir 711 7:8 1000.000000000");
        assert_eq!(lines[""], "dir 1755 3:4 2000.000000000");
        assert!(!lines.contains_key("d/old"));
    });
    // An image has no room for what it did not know of.
    let error = late("attributes", &Tar::default().file("with-attributes/new", b"").end()).unwrap_err();
    assert!(matches!(error, SnapshotError::CannotRebase { .. }), "{error}");
    for key in ["extract-1 attributes", "view", "next", "base"] {
        driver.remove(key).unwrap();
    }
    assert_eq!(mounted_below(dir.path()), 0);
}

#[test]
fn native_passes_the_contract() {
    if is_root("native_passes_the_contract") {
        check_contract(&|dir| Box::new(native(dir)));
    }
}

#[test]
fn two_drivers_share_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let overlay = Overlay::open(&dir.path().join("overlayfs"), store.clone(), Options::default()).unwrap();
    let native = Native::open(&dir.path().join("native"), store).unwrap();
    overlay.prepare("key", None, &Labels::new()).unwrap();
    assert_eq!(native.stat("key").unwrap_err().kind(), Kind::NotFound);
    native.prepare("key", None, &Labels::new()).unwrap();
    overlay.remove("key").unwrap();
    native.stat("key").unwrap();
}

/// The folder of the only snapshot.
fn only_folder(root: &Path) -> PathBuf {
    let mut folders: Vec<_> =
        fs::read_dir(root.join("snapshots")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(folders.len(), 1, "{folders:?}");
    folders.remove(0)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn folders_are_closed_to_others() {
    let dir = tempfile::tempdir().unwrap();
    let driver = overlay(dir.path());
    driver.prepare("key", None, &Labels::new()).unwrap();
    let root = driver.root().unwrap();
    let snapshot = only_folder(root);
    let expected = [
        (root.to_owned(), 0o700),
        (root.join("snapshots"), 0o700),
        (snapshot.join("fs"), 0o755),
        (snapshot.join("work"), 0o711),
        (snapshot, 0o700),
    ];
    for (path, expected) in expected {
        assert_eq!(mode(&path), expected, "{}: {:o}", path.display(), mode(&path));
    }
}

#[test]
fn a_crash_leaves_garbage_that_cleanup_finds() {
    let dir = tempfile::tempdir().unwrap();
    let driver = overlay(dir.path());
    driver.prepare("key", None, &Labels::new()).unwrap();
    let root = driver.root().unwrap().to_owned();
    let mine = only_folder(&root);
    // As after a crash between the folder and its record, and in the middle of a removal.
    for name in ["4711/fs/deep", "4712/work", "strange"] {
        fs::create_dir_all(root.join("snapshots").join(name)).unwrap();
    }
    fs::write(root.join("snapshots/4711/fs/deep/file"), "").unwrap();
    driver.cleanup().unwrap();
    let mut left: Vec<_> = fs::read_dir(root.join("snapshots")).unwrap().map(|entry| entry.unwrap().path()).collect();
    left.sort();
    assert_eq!(left, [mine, root.join("snapshots/strange")]);
}

#[test]
fn a_lost_folder_of_an_active_snapshot_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let driver = overlay(dir.path());
    driver.prepare("base", None, &Labels::new()).unwrap();
    let root = driver.root().unwrap().to_owned();
    let base = only_folder(&root);
    fs::set_permissions(base.join("fs"), fs::Permissions::from_mode(0o711)).unwrap();
    driver.commit("committed", "base", &Labels::new(), None).unwrap();
    let mounts = driver.prepare("key", Some("committed"), &Labels::new()).unwrap();
    driver.view("view", None, &Labels::new()).unwrap();
    drop(driver);
    for entry in fs::read_dir(root.join("snapshots")).unwrap() {
        let path = entry.unwrap().path();
        if path != base {
            fs::remove_dir_all(path).unwrap();
        }
    }
    let driver = overlay(dir.path());
    assert_eq!(driver.mounts("key").unwrap(), mounts);
    let target = Target::from_mounts(&mounts).unwrap();
    assert_eq!(mode(&target.dir), 0o711);
    assert_eq!(mode(&target.dir.with_file_name("work")), 0o711);
    let view = driver.mounts("view").unwrap();
    assert!(Path::new(&view[0].source).is_dir());
}

#[test]
fn numbers_are_not_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let driver = overlay(dir.path());
        for _ in 0..70 {
            let mounts = driver.prepare("key", None, &Labels::new()).unwrap();
            assert!(seen.insert(mounts[0].source.clone()), "{}", mounts[0].source);
            driver.remove("key").unwrap();
        }
    }
    // Not even when the records are lost and the folders are not.
    let driver = overlay(dir.path());
    driver.prepare("old", None, &Labels::new()).unwrap();
    let old = only_folder(driver.root().unwrap());
    fs::write(old.join("fs/file"), "").unwrap();
    drop(driver);
    fs::remove_dir_all(dir.path().join("meta")).unwrap();
    let driver = overlay(dir.path());
    for n in 0..300 {
        let mounts = driver.prepare(&format!("key {n}"), None, &Labels::new()).unwrap();
        assert_eq!(fs::read_dir(&mounts[0].source).unwrap().count(), 0);
    }
    driver.cleanup().unwrap();
    assert!(!old.exists());
}

#[test]
fn what_is_not_done_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let overlay = Overlay::open(&dir.path().join("overlayfs"), store.clone(), Options::default()).unwrap();
    let native = Native::open(&dir.path().join("native"), store).unwrap();
    let drivers: [&dyn Snapshotter; 2] = [&overlay, &native];
    for driver in drivers {
        for label in ["containerd.io/snapshot/uidmapping", "containerd.io/snapshot/gidmapping"] {
            let labels = Labels::from([(label.to_owned(), "0:1000:65536".to_owned())]);
            let error = driver.prepare("key", None, &labels).unwrap_err();
            assert!(matches!(error, SnapshotError::UnsupportedLabel { .. }));
            assert_eq!(error.kind(), Kind::Unimplemented);
        }
    }
}

#[test]
fn full_copies_keep_everything() {
    if !is_root("full_copies_keep_everything") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let driver = native(dir.path());
    let base = PathBuf::from(&driver.prepare("base", None, &Labels::new()).unwrap()[0].source);
    shell(
        &base,
        r#"
        mkdir -p a/b setgid; echo x > a/file; ln a/file a/b/hard; ln -s ../file a/b/link; mkfifo a/fifo; mknod a/null c 1 3
        cp /bin/true a/suid; chown 5:6 a/suid; chmod 6755 a/suid; chown -h 7:8 a/b/link; chmod 2770 setgid; chown 0:9 setgid
        truncate -s 30M a/sparse; echo y | dd of=a/sparse bs=1M seek=10 conv=notrunc status=none
        touch -d '1990-01-01 00:00:00.5' a/file; touch -h -d '1991-01-01' a/b/link; touch -d '1992-01-01' a/b a setgid
        "#,
    );
    let set = |name: &str, key: &str, value: &[u8]| {
        rustix::fs::lsetxattr(base.join(name), key, value, rustix::fs::XattrFlags::empty()).unwrap();
    };
    set("a/file", "user.key", b"value");
    set("a/b", "trusted.overlay.opaque", b"y");
    set("a/suid", "security.capability", &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    drop(std::os::unix::net::UnixListener::bind(base.join("a/socket")).unwrap());
    driver.commit("committed", "base", &Labels::new(), None).unwrap();
    let copy = PathBuf::from(&driver.prepare("copy", Some("committed"), &Labels::new()).unwrap()[0].source);
    assert_ne!(base, copy);
    assert_same(&support::describe(&base), &support::describe(&copy), "the copy");
    assert!(fs::metadata(copy.join("a/sparse")).unwrap().blocks() * 512 < 1 << 20);
    assert_ne!(fs::metadata(base.join("a/file")).unwrap().ino(), fs::metadata(copy.join("a/file")).unwrap().ino());
}

/// Layers with everything that layers do to each other.
fn layers() -> Vec<Vec<u8>> {
    let base = Tar::default()
        .dir("etc")
        .file("etc/keep", b"1")
        .file("etc/gone", b"1")
        .dir("opaque")
        .file("opaque/gone", b"1")
        .dir("opaque/sub")
        .file("opaque/sub/gone", b"1")
        .dir("replaced")
        .file("replaced/gone", b"1")
        .dir("becomes-file")
        .file("becomes-file/gone", b"1")
        .file("becomes-dir", b"1")
        .file("linked", b"link me")
        .dir("usr/bin")
        .symlink("bin", "usr/bin")
        .file("usr/bin/tool", b"1")
        .dir("mixed")
        .file("mixed/old", b"1");
    let second = Tar::default()
        .file("etc/.wh.gone", b"")
        .file("etc/new", b"2")
        // What the layer brings itself is not hidden, before or behind the marker.
        .file("opaque/before", b"2")
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/after", b"2")
        .dir("opaque/sub")
        .file("opaque/sub/new", b"2")
        // The folder is gone, and there is a new one of the same name.
        .file(".wh.replaced", b"")
        .dir("replaced")
        .file("replaced/new", b"2")
        .file("becomes-file", b"2")
        .dir("becomes-dir")
        .file("becomes-dir/new", b"2")
        // To a file that only the layer below has.
        .hard_link("second-name", "linked")
        .hard_link("deep/er/third-name", "linked")
        // The other way round.
        .dir("mixed")
        .file("mixed/new", b"2")
        .file(".wh.mixed", b"");
    let third = Tar::default()
        .file(".wh.etc", b"")
        .file("usr/.wh.bin", b"")
        .file(".wh.second-name", b"")
        .file("opaque/sub/.wh.new", b"")
        .file("usr/bin/back", b"3")
        .file(".wh.not-there", b"");
    let fourth = Tar::default().file("only", b"4").dir("etc").file("etc/only", b"4").file(".wh..wh..opq", b"");
    [base, second, third, fourth].into_iter().map(Tar::end).collect()
}

#[test]
fn layers_look_the_same_however_they_are_kept() {
    if !is_root("layers_look_the_same_however_they_are_kept") {
        return;
    }
    let private = Private::new();
    let dir = tempfile::tempdir().unwrap();
    let flat = dir.path().join("flat");
    fs::create_dir(&flat).unwrap();
    let drivers: [Box<dyn Snapshotter>; 2] = [
        Box::new(
            Overlay::open(&dir.path().join("overlayfs"), store(&dir.path().join("o")), Options::default()).unwrap(),
        ),
        Box::new(Native::open(&dir.path().join("native"), store(&dir.path().join("n"))).unwrap()),
    ];
    for (at, layer) in layers().iter().enumerate() {
        let (name, parent) = (at.to_string(), at.checked_sub(1).map(|below| below.to_string()));
        unpack(layer, &support::plain(&flat)).unwrap();
        let expected = without_times(&below_root(&flat));
        for driver in &drivers {
            let mounts = driver.prepare("key", parent.as_deref(), &Labels::new()).unwrap();
            unpack(layer, &Target::from_mounts(&mounts).unwrap()).unwrap();
            let shown = private.with(&mounts, below_root);
            assert_same(&expected, &without_times(&shown), &format!("layer {at} by {}", driver.name()));
            driver.commit(&name, "key", &Labels::new(), None).unwrap();
            let mounts = driver.view("view", Some(&name), &Labels::new()).unwrap();
            let shown = private.with(&mounts, below_root);
            assert_same(&expected, &without_times(&shown), &format!("view of layer {at} by {}", driver.name()));
            driver.remove("view").unwrap();
        }
    }
    // What the drawing above was about.
    let names: Vec<String> = below_root(&flat).into_keys().collect();
    assert_eq!(names, ["etc", "etc/only", "only"]);
}

#[test]
fn a_layer_unpacked_before_its_parent_is_the_same() {
    if !is_root("a_layer_unpacked_before_its_parent_is_the_same") {
        return;
    }
    let private = Private::new();
    let dir = tempfile::tempdir().unwrap();
    let driver = overlay(dir.path());
    let flat = dir.path().join("flat");
    fs::create_dir(&flat).unwrap();
    // Without the layer that links to a file below it: that one needs its parent.
    let layers: Vec<_> = layers().into_iter().enumerate().filter(|(at, _)| *at != 1).map(|(_, layer)| layer).collect();
    for (at, layer) in layers.iter().enumerate().rev() {
        let mounts = driver.prepare(&format!("key {at}"), None, &Labels::new()).unwrap();
        let target = Target { whiteouts: Whiteouts::OverlayTrusted, ..Target::from_mounts(&mounts).unwrap() };
        if at < layers.len() - 1 {
            unpack(layer, &target).unwrap();
        } else {
            // The roots below are not known yet, so a whole new root cannot be said.
            unpack(&Tar::default().file("only", b"4").file(".wh.bin", b"").end(), &target).unwrap();
        }
    }
    for at in 0..layers.len() {
        let parent = at.checked_sub(1).map(|below| below.to_string());
        driver.commit(&at.to_string(), &format!("key {at}"), &Labels::new(), parent.as_deref()).unwrap();
    }
    for layer in &layers[..layers.len() - 1] {
        unpack(layer, &support::plain(&flat)).unwrap();
    }
    unpack(&Tar::default().file("only", b"4").file(".wh.bin", b"").end(), &support::plain(&flat)).unwrap();
    let mounts = driver.view("view", Some(&(layers.len() - 1).to_string()), &Labels::new()).unwrap();
    let shown = private.with(&mounts, below_root);
    assert_same(&without_times(&below_root(&flat)), &without_times(&shown), "rebased");
}

/// Folders that no archive names get the time of the moment.
fn without_times(lines: &std::collections::BTreeMap<String, String>) -> std::collections::BTreeMap<String, String> {
    let cut = |line: &String| match line.strip_prefix("dir ") {
        Some(rest) => format!("dir {}", rest.split(' ').take(2).collect::<Vec<_>>().join(" ")),
        // Whether names in different layers are one file, an overlay does not keep.
        None => line.split(" same as ").next().unwrap().to_owned(),
    };
    lines.iter().map(|(name, line)| (name.clone(), cut(line))).collect()
}

#[test]
fn folders_that_a_layer_only_mentions_look_as_below() {
    if !is_root("folders_that_a_layer_only_mentions_look_as_below") {
        return;
    }
    let private = Private::new();
    let dir = tempfile::tempdir().unwrap();
    let driver = overlay(dir.path());
    // An access list that gives user 5 everything in whatever is made in the folder.
    let acl: &[u8] = &[
        2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 7, 0, 5, 0, 0, 0, 4, 0, 5, 0, 255, 255, 255, 255, 16, 0, 7,
        0, 255, 255, 255, 255, 32, 0, 5, 0, 255, 255, 255, 255,
    ];
    let folder = |name, mode| Head { name, kind: b'5', mode, uid: 3, gid: 4, ..Head::default() };
    let base = Tar::default()
        .pax(&[("SCHILY.xattr.user.key", b"value"), ("SCHILY.xattr.system.posix_acl_default", acl)])
        .head(&folder("tmp", 0o1777))
        .file("tmp/plain", b"")
        .head(&folder("tmp/deep", 0o2750))
        .head(&folder("said", 0o700));
    let layer = Tar::default()
        .file("tmp/file", b"")
        .file("tmp/deep/file", b"")
        .file("said/file", b"")
        .head(&Head { mtime: 7, ..folder("said", 0o711) })
        .file("new/file", b"")
        // The bit counts from the moment it is set, and files in such a folder keep the owner that the archive gives them.
        .head(&folder("./", 0o2755))
        .file("in-root", b"")
        .dir("bit")
        .file("bit/before", b"")
        .head(&folder("bit", 0o2755))
        .file("bit/after", b"")
        .dir("bit/dir");
    let mounts = driver.prepare("a", None, &Labels::new()).unwrap();
    unpack(&base.end(), &Target::from_mounts(&mounts).unwrap()).unwrap();
    driver.commit("base", "a", &Labels::new(), None).unwrap();
    let layer = layer.end();
    let on_top = |parent: Option<&str>, name: &str| {
        let mounts = driver.prepare(name, parent, &Labels::new()).unwrap();
        let target = Target { whiteouts: Whiteouts::OverlayTrusted, ..Target::from_mounts(&mounts).unwrap() };
        unpack(&layer, &target).unwrap();
        let new_parent = if parent.is_some() { None } else { Some("base") };
        driver.commit(&format!("{name}, committed"), name, &Labels::new(), new_parent).unwrap();
        let mounts =
            driver.view(&format!("{name}, viewed"), Some(&format!("{name}, committed")), &Labels::new()).unwrap();
        let mut shown = private.with(&mounts, below_root);
        // It is nowhere below, so it has the time of the moment.
        shown.remove("new");
        shown
    };
    let (at_once, later) = (on_top(Some("base"), "at once"), on_top(None, "later"));
    assert_same(&at_once, &later, "parent known at once, and later");
    assert!(at_once["tmp"].starts_with("dir 1777 3:4 1000000000.000000000"), "{}", at_once["tmp"]);
    assert!(
        at_once["tmp"].contains("user.key=value") && at_once["tmp"].contains("posix_acl_default"),
        "{}",
        at_once["tmp"]
    );
    assert!(!at_once["tmp/file"].contains("posix_acl") && !at_once["tmp/plain"].contains("posix_acl"), "{at_once:?}");
    assert!(at_once["tmp/deep"].starts_with("dir 2750 3:4"), "{}", at_once["tmp/deep"]);
    assert_eq!(at_once["said"], "dir 711 3:4 7.000000000");
    for name in ["in-root", "bit/before", "bit/after", "bit/dir", "tmp/deep/file"] {
        assert!(at_once[name].contains(" 0:0 "), "{name}: {}", at_once[name]);
    }
    assert!(!later.values().any(|line| line.contains("gantry")), "{later:?}");

    let mounts = driver.prepare("hiding", None, &Labels::new()).unwrap();
    let target = Target { whiteouts: Whiteouts::OverlayTrusted, ..Target::from_mounts(&mounts).unwrap() };
    unpack(&Tar::default().file(".wh..wh..opq", b"").end(), &target).unwrap();
    let error = driver.commit("hidden", "hiding", &Labels::new(), Some("base")).unwrap_err();
    assert!(matches!(error, SnapshotError::CannotRebase { .. }), "{error}");
}
