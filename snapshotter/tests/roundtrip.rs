//! A diff, applied to what it was taken from, gives what it was taken for: on plain trees, as a layer of an overlay, and read
//! back from that layer.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, mknodat, utimensat};
use snapshotter::diff::{self, Changes, Options};
use snapshotter::layer::{Compression, StandsOn, Whiteouts};
use support::{Private, assert_same, below_root, erofs, fsck, image, is_root, overlay, plain, shell, stacked, unpack};

/// One thing done to a tree. What does not fit the tree as it is, is left out.
#[derive(Debug, Clone)]
enum Step {
    Folder(PathBuf, u32),
    File(PathBuf, usize, u8, u32),
    Sparse(PathBuf, u64),
    Symlink(PathBuf, &'static str),
    HardLink(PathBuf, PathBuf),
    Node(PathBuf, u8),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
    Mode(PathBuf, u32),
    Owner(PathBuf, u32, u32),
    Attribute(PathBuf, &'static str, Vec<u8>),
    Time(PathBuf, i64, i64),
}

fn path() -> impl Strategy<Value = PathBuf> {
    let name = prop_oneof![
        6 => "[abc]",
        1 => Just("ünïcode".to_owned()),
        1 => Just("with space\n".to_owned()),
        1 => Just("x".repeat(200)),
    ];
    proptest::collection::vec(name, 1..4).prop_map(|names| names.iter().collect())
}

fn step() -> impl Strategy<Value = Step> {
    let mode = prop_oneof![Just(0o755), Just(0o700), Just(0o1777), Just(0o2755), Just(0o4711), Just(0)];
    let file_mode = mode.clone();
    let target = prop_oneof![Just("a"), Just("../b/c"), Just("/etc/passwd"), Just("nowhere")];
    let key = prop_oneof![Just("user.one"), Just("user.two")];
    let seconds = prop_oneof![Just(0_i64), Just(1_500_000_000), -1000..3_000_000_000_i64];
    let nanos = prop_oneof![2 => Just(0_i64), 1 => 0..1_000_000_000_i64];
    prop_oneof![
        4 => (path(), mode.clone()).prop_map(|(path, mode)| Step::Folder(path, mode)),
        6 => (path(), 0..3000_usize, any::<u8>(), file_mode).prop_map(|(p, size, seed, mode)| Step::File(p, size, seed, mode)),
        1 => (path(), 0..3_u64).prop_map(|(path, blocks)| Step::Sparse(path, blocks)),
        2 => (path(), target).prop_map(|(path, target)| Step::Symlink(path, target)),
        3 => (path(), path()).prop_map(|(from, to)| Step::HardLink(from, to)),
        1 => (path(), 0..3_u8).prop_map(|(path, kind)| Step::Node(path, kind)),
        4 => path().prop_map(Step::Remove),
        2 => (path(), path()).prop_map(|(from, to)| Step::Rename(from, to)),
        2 => (path(), mode).prop_map(|(path, mode)| Step::Mode(path, mode)),
        1 => (path(), 0..70_000_u32, 0..3_000_000_u32).prop_map(|(path, uid, gid)| Step::Owner(path, uid, gid)),
        1 => (path(), key, proptest::collection::vec(any::<u8>(), 0..40)).prop_map(|(p, key, value)| Step::Attribute(p, key, value)),
        3 => (path(), seconds, nanos).prop_map(|(path, seconds, nanos)| Step::Time(path, seconds, nanos)),
    ]
}

/// Does a step, as far as it is possible.
fn perform(root: &Path, step: &Step) -> std::io::Result<()> {
    let at = |path: &Path| root.join(path);
    match step {
        Step::Folder(path, mode) => {
            fs::create_dir_all(at(path))?;
            fs::set_permissions(at(path), fs::Permissions::from_mode(*mode))
        }
        Step::File(path, size, seed, mode) => {
            let _ = at(path).parent().map(fs::create_dir_all);
            let data: Vec<u8> = (0..*size).map(|n| (n as u8).wrapping_mul(*seed)).collect();
            fs::write(at(path), data)?;
            fs::set_permissions(at(path), fs::Permissions::from_mode(*mode))
        }
        Step::Sparse(path, blocks) => {
            fs::write(at(path), "start")?;
            fs::OpenOptions::new().write(true).open(at(path))?.set_len(5 + blocks * (3 << 20))?;
            if *blocks == 2 {
                use std::io::{Seek, SeekFrom, Write};
                let mut file = fs::OpenOptions::new().write(true).open(at(path))?;
                file.seek(SeekFrom::Start(2 << 20))?;
                file.write_all(b"middle")?;
            }
            Ok(())
        }
        Step::Symlink(path, target) => symlink(target, at(path)),
        Step::HardLink(from, to) => fs::hard_link(at(from), at(to)),
        Step::Node(path, kind) => {
            let (kind, device) = match kind {
                0 => (FileType::Fifo, 0),
                1 => (FileType::CharacterDevice, rustix::fs::makedev(1, 7)),
                _ => (FileType::BlockDevice, rustix::fs::makedev(250, 70_000)),
            };
            Ok(mknodat(CWD, at(path), kind, Mode::from_raw_mode(0o640), device)?)
        }
        Step::Remove(path) if fs::symlink_metadata(at(path))?.is_dir() => fs::remove_dir_all(at(path)),
        Step::Remove(path) => fs::remove_file(at(path)),
        Step::Rename(from, to) => fs::rename(at(from), at(to)),
        Step::Mode(path, mode) if !at(path).is_symlink() => {
            fs::set_permissions(at(path), fs::Permissions::from_mode(*mode))
        }
        Step::Mode(..) => Ok(()),
        Step::Owner(path, uid, gid) => std::os::unix::fs::lchown(at(path), Some(*uid), Some(*gid)),
        Step::Attribute(path, key, value) => {
            Ok(rustix::fs::lsetxattr(at(path), *key, value, rustix::fs::XattrFlags::empty())?)
        }
        Step::Time(path, tv_sec, tv_nsec) => {
            let time = Timespec { tv_sec: *tv_sec, tv_nsec: *tv_nsec };
            let times = Timestamps { last_access: time, last_modification: time };
            Ok(utimensat(CWD, at(path), &times, AtFlags::SYMLINK_NOFOLLOW)?)
        }
    }
}

/// Steps that follow links work on the tree only as long as no link leads out of it, so links are looked at first.
fn perform_within(root: &Path, step: &Step) {
    let (Step::Folder(path, _)
    | Step::File(path, ..)
    | Step::Sparse(path, _)
    | Step::Symlink(path, _)
    | Step::HardLink(path, _)
    | Step::Node(path, _)
    | Step::Remove(path)
    | Step::Rename(path, _)
    | Step::Mode(path, _)
    | Step::Owner(path, ..)
    | Step::Attribute(path, ..)
    | Step::Time(path, ..)) = step;
    let mut paths = vec![path];
    if let Step::HardLink(_, other) | Step::Rename(_, other) = step {
        paths.push(other);
    }
    let writes = matches!(step, Step::File(..) | Step::Sparse(..) | Step::Folder(..));
    for path in paths {
        let above = path.ancestors().skip(usize::from(!writes));
        if above.filter(|path| !path.as_os_str().is_empty()).any(|path| root.join(path).is_symlink()) {
            return;
        }
        // A pipe or a device blocks or swallows what is written to it.
        if writes && fs::symlink_metadata(root.join(path)).is_ok_and(|meta| !meta.is_file() && !meta.is_dir()) {
            return;
        }
    }
    let _ = perform(root, step);
}

fn copy(from: &Path, to: &Path) {
    shell(Path::new("/"), &format!("cp -a '{}' '{}'", from.display(), to.display()));
}

fn archive(changes: &Changes, compression: Compression) -> Vec<u8> {
    let mut bytes = Vec::new();
    let options = Options { compression, source_date_epoch: None };
    diff::write(changes, &mut bytes, &options).unwrap_or_else(|error| panic!("{error:?}"));
    bytes
}

fn check(private: &Private, before: &[Step], after: &[Step]) {
    let temp = tempfile::tempdir().unwrap();
    let dir = |name: &str| temp.path().join(name);
    fs::create_dir(dir("a")).unwrap();
    before.iter().for_each(|step| perform_within(&dir("a"), step));
    copy(&dir("a"), &dir("b"));
    after.iter().for_each(|step| perform_within(&dir("b"), step));
    let expected = below_root(&dir("b"));

    // Everything, into nothing.
    let whole = archive(&Changes::Trees { lower: None, upper: dir("b") }, Compression::Zstd);
    fs::create_dir(dir("whole")).unwrap();
    unpack(&whole, &plain(&dir("whole"))).unwrap();
    assert_same(&expected, &below_root(&dir("whole")), "the whole tree");
    let mode = |path: &Path| fs::metadata(path).unwrap().mode();
    assert_eq!(mode(&dir("b")), mode(&dir("whole")));

    // The difference, onto a copy of what was.
    let trees = Changes::Trees { lower: Some(dir("a")), upper: dir("b") };
    let changes = archive(&trees, Compression::Gzip);
    copy(&dir("a"), &dir("again"));
    unpack(&changes, &plain(&dir("again"))).unwrap_or_else(|error| panic!("{error:?}"));
    assert_same(&expected, &below_root(&dir("again")), "the difference");

    // The same as a layer on top of what was.
    for name in ["upper", "work"] {
        fs::create_dir(dir(name)).unwrap();
    }
    unpack(&changes, &overlay(&dir("upper"), &[&dir("a")])).unwrap_or_else(|error| panic!("{error:?}"));
    let merged = private.with(&stacked(Some((&dir("upper"), &dir("work"))), &[&dir("a")]), below_root);
    assert_same(&without_group(&expected), &without_group(&merged), "the overlay");

    // The whole tree and the same layer as images, read by the kernel.
    image(&whole, &dir("whole.erofs"), &StandsOn::Nothing).unwrap_or_else(|error| panic!("{error:?}"));
    fsck(&dir("whole.erofs"));
    let shown = private.with(&erofs(&dir("whole.erofs")), below_root);
    assert_same(&expected, &shown, "the image of the whole tree");
    image(&changes, &dir("layer.erofs"), &StandsOn::Folders(vec![dir("a")]))
        .unwrap_or_else(|error| panic!("{error:?}"));
    fsck(&dir("layer.erofs"));
    let merged =
        private.with(&erofs(&dir("layer.erofs")), |top| private.with(&stacked(None, &[top, &dir("a")]), below_root));
    assert_same(&without_group(&expected), &without_group(&merged), "the image on top of what was");

    // That layer, written down again.
    let layer = Changes::Overlay { upper: dir("upper"), whiteouts: Whiteouts::OverlayTrusted, lowers: vec![dir("a")] };
    let again = archive(&layer, Compression::None);
    copy(&dir("a"), &dir("twice"));
    unpack(&again, &plain(&dir("twice"))).unwrap_or_else(|error| panic!("{error:?}"));
    assert_same(&without_group(&expected), &without_group(&below_root(&dir("twice"))), "the layer read back");
    // The same trees give the same bytes.
    assert_eq!(again, archive(&layer, Compression::None));
}

/// Whether a name of the layer and one below it are one file is not an overlay's to keep.
fn without_group(lines: &std::collections::BTreeMap<String, String>) -> std::collections::BTreeMap<String, String> {
    lines.iter().map(|(name, line)| (name.clone(), line.split(" same as ").next().unwrap().to_owned())).collect()
}

#[test]
fn a_diff_makes_the_one_tree_of_the_other() {
    if !is_root("a_diff_makes_the_one_tree_of_the_other") {
        return;
    }
    let private = Private::new();
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(40);
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 400, ..Config::default() };
    let steps = |count| proptest::collection::vec(step(), 0..count);
    TestRunner::new(config)
        .run(&(steps(40), steps(25)), |(before, after)| {
            check(&private, &before, &after);
            Ok(())
        })
        .unwrap();
}

#[test]
fn times_are_cut_at_the_epoch() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("late"), "x").unwrap();
    fs::create_dir(temp.path().join("folder")).unwrap();
    shell(temp.path(), "printf y > early; touch -d @1000.5 early");
    let epoch = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let mut bytes = Vec::new();
    let changes = Changes::Trees { lower: None, upper: temp.path().to_owned() };
    let options = Options { compression: Compression::Gzip, source_date_epoch: Some(epoch) };
    let written = diff::write(&changes, &mut bytes, &options).unwrap();
    let out = tempfile::tempdir().unwrap();
    let applied = unpack(&bytes, &plain(out.path())).unwrap();
    assert_eq!(
        (applied.diff_id, applied.size_bytes, applied.entries),
        (written.diff_id, written.size_bytes, written.entries)
    );
    let mtime = |name: &str| fs::metadata(out.path().join(name)).unwrap().modified().unwrap();
    assert_eq!(mtime("late"), epoch);
    assert_eq!(mtime("folder"), epoch);
    assert_eq!(mtime("early"), SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_500));
}

#[test]
fn gnu_tar_reads_what_is_written() {
    if !is_root("gnu_tar_reads_what_is_written") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    shell(
        temp.path(),
        r#"
        mkdir -p tree/a theirs; cd tree
        long=$(printf 'd%.0s' $(seq 150)); mkdir -p "a/$long/$long"; echo deep > "a/$long/$long/f"
        ln -s "a/$long/$long/f" link; ln "a/$long/$long/f" hard; mkfifo a/fifo; mknod a/dev c 300 70000
        chown 3000000:4000000 a; touch -d '1950-01-01' a/old; touch -d @5000000000.25 a/new
        truncate -s 40M a/sparse; echo middle | dd of=a/sparse bs=1M seek=20 conv=notrunc status=none
        truncate -s 9G a/huge; setfattr -n user.key -v value a/old 2>/dev/null || true
        "#,
    );
    let bytes = archive(&Changes::Trees { lower: None, upper: temp.path().join("tree") }, Compression::None);
    assert!(bytes.len() < 1 << 20, "holes were written out: {}", bytes.len());
    fs::write(temp.path().join("archive.tar"), bytes).unwrap();
    // Reading nine gigabytes of zeros back takes its time, so the largest file is left to its size.
    let untar = "tar -xpf archive.tar -C theirs --numeric-owner --xattrs --xattrs-include='*'";
    shell(
        temp.path(),
        &format!("{untar}; test $(stat -c %s theirs/a/huge) = 9663676416; rm theirs/a/huge tree/a/huge"),
    );
    shell(temp.path(), "touch -r tree/a theirs/a");
    assert_same(&below_root(&temp.path().join("tree")), &below_root(&temp.path().join("theirs")), "GNU tar");
}

#[test]
fn what_a_layer_cannot_say_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join(".wh.file"), "").unwrap();
    let changes = Changes::Trees { lower: None, upper: temp.path().to_owned() };
    let options = Options { compression: Compression::None, source_date_epoch: None };
    let error = diff::write(&changes, Vec::new(), &options).unwrap_err();
    assert!(matches!(error, diff::DiffError::Unsupported { .. }), "{error}");
}
