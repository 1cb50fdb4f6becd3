//! Archives that GNU tar made are unpacked as GNU tar unpacks them.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use model::Digest;
use snapshotter::layer::{Durability, Encoding, Limits, apply};
use support::{assert_same, describe, is_root, plain, shell, unpack};

/// A tree with everything in it that a root filesystem has.
fn make_tree(dir: &Path) {
    shell(
        dir,
        r#"
        mkdir -p a/b/c empty "with space" setgid restricted
        echo hello > a/file; printf '' > a/empty; head -c 700000 /dev/urandom > a/b/large
        head -c 512 /dev/urandom > a/exactly-a-block
        ln -s ../file a/b/relative; ln -s /etc/passwd a/absolute; ln -s nowhere a/dangling
        ln a/file a/b/c/hard; ln a/file zz-hard; ln a/dangling a/hard-to-link
        mkfifo a/fifo; mknod a/char c 1 3; mknod a/block b 7 200; mknod a/big-minor c 10 70000
        cp /bin/true a/setuid; chown 1000:1001 a/setuid; chmod 6755 a/setuid
        chown -h 12:34 a/absolute; chown 3000000:4000000 a/empty
        chmod 2775 setgid; chown 0:50 setgid; echo x > setgid/inherits-not; mkdir setgid/sub; chmod 755 setgid/sub; chmod g-s setgid/sub
        chgrp 0 setgid/inherits-not setgid/sub
        chmod 0500 restricted; echo y > restricted/z; chmod 000 restricted/z; chmod 1777 empty
        long=$(printf 'd%.0s' $(seq 120)); mkdir -p "$long/$long"; echo deep > "$long/$long/$long"
        ln -s "$long/$long/$long" long-link; ln "$long/$long/$long" "$long/hard"
        echo uni > 'ünïcode-名前'; echo nl > $'new\nline'; printf raw > $'raw-\xff\xfe'
        touch -d '1969-12-31 12:00:00.25 UTC' a/before-epoch; touch -d '2040-01-01 00:00:00.123456789 UTC' a/after
        touch -d '2001-02-03 04:05:06 UTC' a/b/c a/b empty "with space"
        touch -h -d '2002-02-02 UTC' a/dangling
        "#,
    );
}

fn tar(dir: &Path, archive: &Path, options: &[&str]) -> bool {
    let output =
        Command::new("tar").arg("-cf").arg(archive).args(options).arg("-C").arg(dir).arg(".").output().unwrap();
    if !output.status.success() {
        eprintln!("tar {options:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    output.status.success()
}

fn untar(archive: &Path, dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    let mut command = Command::new("tar");
    command.args(["-xpf"]).arg(archive).args(["--numeric-owner", "--xattrs", "--xattrs-include=*", "-C"]).arg(dir);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Makes an archive of `tree` and unpacks it both ways.
fn compare(tree: &Path, options: &[&str]) {
    let temp = tempfile::tempdir().unwrap();
    let archive = temp.path().join("archive.tar");
    if !tar(tree, &archive, options) {
        assert!(archive.metadata().is_ok_and(|meta| meta.len() > 0), "{options:?} made nothing");
    }
    let (theirs, ours) = (temp.path().join("theirs"), temp.path().join("ours"));
    untar(&archive, &theirs);
    fs::create_dir(&ours).unwrap();
    let bytes = fs::read(&archive).unwrap();
    let applied = unpack(&bytes, &plain(&ours)).unwrap();
    assert_eq!(applied.size_bytes, bytes.len() as u64, "{options:?}");
    assert_eq!(applied.diff_id, Digest::sha256(&bytes), "{options:?}");
    assert_same(&describe(&theirs), &describe(&ours), &format!("tar {options:?}"));
}

#[test]
fn every_format_is_unpacked_as_tar_does() {
    if !is_root("every_format_is_unpacked_as_tar_does") {
        return;
    }
    let tree = tempfile::tempdir().unwrap();
    make_tree(tree.path());
    for options in [
        &["--format=gnu"][..],
        &["--format=pax"],
        &["--format=posix", "--sort=name", "--numeric-owner"],
        &["--format=gnu", "--blocking-factor=1"],
        &["--format=pax", "--pax-option=globexthdr.name=g,comment=hello"],
    ] {
        compare(tree.path(), options);
    }
    // The older formats cannot hold all of it: tar leaves out what does not fit, and says so.
    compare(tree.path(), &["--format=ustar"]);
    compare(tree.path(), &["--format=oldgnu"]);
    compare(tree.path(), &["--format=v7"]);
}

#[test]
fn attributes_are_kept() {
    if !is_root("attributes_are_kept") {
        return;
    }
    let tree = tempfile::tempdir().unwrap();
    shell(tree.path(), "echo x > file; mkdir dir; cp /bin/true capable; mkfifo fifo; ln -s file link");
    let set = |name: &str, key: &str, value: &[u8]| {
        rustix::fs::lsetxattr(tree.path().join(name), key, value, rustix::fs::XattrFlags::empty()).unwrap();
    };
    set("file", "user.text", b"value");
    set("file", "user.binary", b"a\0b\nc=d");
    set("file", "user.large", &[b'x'; 1500]);
    set("dir", "user.on-a-folder", b"1");
    // Version 2, effective, cap_net_raw.
    set("capable", "security.capability", &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    compare(tree.path(), &["--format=pax", "--xattrs", "--xattrs-include=*"]);
}

#[test]
fn sparse_files_stay_sparse() {
    if !is_root("sparse_files_stay_sparse") {
        return;
    }
    let tree = tempfile::tempdir().unwrap();
    shell(
        tree.path(),
        r#"
        truncate -s 50M hole; truncate -s 8M end; echo start | dd of=end conv=notrunc status=none
        for i in $(seq 60); do echo "part $i" | dd of=many bs=1M seek=$i conv=notrunc status=none; done
        truncate -s 70M many; printf x > dense; truncate -s 12345678901 huge; echo y >> huge
        "#,
    );
    let options: [&[&str]; 4] = [
        &["--format=gnu", "--sparse"],
        &["--format=pax", "--sparse-version=0.0"],
        &["--format=pax", "--sparse-version=0.1"],
        &["--format=pax", "--sparse-version=1.0"],
    ];
    for options in options {
        let temp = tempfile::tempdir().unwrap();
        let archive = temp.path().join("archive.tar");
        let options = [options, &["--sparse", "--hole-detection=seek", "--exclude=huge"]].concat();
        assert!(tar(tree.path(), &archive, &options));
        assert!(archive.metadata().unwrap().len() < 1 << 20, "tar did not find the holes");
        compare(tree.path(), &options);
        let ours = temp.path().join("ours");
        fs::create_dir(&ours).unwrap();
        unpack(&fs::read(&archive).unwrap(), &plain(&ours)).unwrap();
        for name in ["hole", "many", "end"] {
            let meta = fs::metadata(ours.join(name)).unwrap();
            let allocated = std::os::unix::fs::MetadataExt::blocks(&meta) * 512;
            assert!(allocated < 1 << 20, "{name} takes {allocated} bytes with {options:?}");
        }
    }
    // Sizes beyond what octal digits hold, without reading all of it back.
    for options in [["--format=gnu", "--sparse"], ["--format=pax", "--sparse"]] {
        let temp = tempfile::tempdir().unwrap();
        let (archive, ours) = (temp.path().join("archive.tar"), temp.path().join("ours"));
        assert!(tar(tree.path(), &archive, &options));
        fs::create_dir(&ours).unwrap();
        unpack(&fs::read(&archive).unwrap(), &plain(&ours)).unwrap();
        assert_eq!(fs::metadata(ours.join("huge")).unwrap().len(), 12_345_678_903);
    }
}

#[test]
fn compressed_layers_are_told_by_their_first_bytes() {
    let tree = tempfile::tempdir().unwrap();
    shell(tree.path(), "mkdir in; echo one > in/one; echo two > in/two; tar -cf plain.tar -C in .");
    shell(
        tree.path(),
        r#"
        gzip -c plain.tar > one.gz
        head -c 3000 plain.tar | gzip -c > many.gz; tail -c +3001 plain.tar | gzip -c >> many.gz
        "#,
    );
    let plain_bytes = fs::read(tree.path().join("plain.tar")).unwrap();
    let mut zstd = zstd_of(&plain_bytes[..4000]);
    zstd.extend(zstd_of(&plain_bytes[4000..]));
    fs::write(tree.path().join("frames.zst"), zstd).unwrap();
    let expected = Digest::sha256(&plain_bytes);
    for name in ["plain.tar", "one.gz", "many.gz", "frames.zst"] {
        let ours = tempfile::tempdir().unwrap();
        let reader = fs::File::open(tree.path().join(name)).unwrap();
        let limits = Limits::default();
        let applied = apply(reader, Encoding::Detected, &plain(ours.path()), &limits, Durability::Synced).unwrap();
        assert_eq!((applied.diff_id, applied.size_bytes), (expected.clone(), plain_bytes.len() as u64), "{name}");
        assert_eq!(fs::read_to_string(ours.path().join("two")).unwrap(), "two\n");
    }
}

fn zstd_of(bytes: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(bytes, 3).unwrap()
}
