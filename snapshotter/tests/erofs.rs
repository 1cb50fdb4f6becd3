//! A layer as an image is the layer as a folder: the kernel, and the tools of the file system, say so.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::fs;
use std::path::Path;

use snapshotter::layer::{LayerError, StandsOn};
use support::{
    Head, Private, Tar, assert_same, describe, erofs, fsck, image, is_root, overlay, plain, shell, stacked, unpack,
};

/// Unpacks an archive both ways and compares what the kernel shows.
#[track_caller]
fn compare(private: &Private, archive: &[u8]) {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("dir");
    fs::create_dir(&dir).unwrap();
    let unpacked = unpack(archive, &plain(&dir)).unwrap();
    let file = temp.path().join("image");
    let written = image(archive, &file, &StandsOn::Nothing).unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!(unpacked, written);
    fsck(&file);
    let shown = private.with(&erofs(&file), describe);
    assert_same(&rooted(describe(&dir)), &rooted(shown), "the image");
    // The tools read the same out of it.
    shell(temp.path(), "fsck.erofs --extract=extracted image >log 2>&1 || { tail -3 log >&2; exit 1; }");
    let (ours, theirs) = (contents(&describe(&dir)), contents(&describe(&temp.path().join("extracted"))));
    assert_same(&ours, &theirs, "what fsck.erofs extracts");
}

/// The time of a root that the archive says nothing about is whatever it is.
fn rooted(mut lines: std::collections::BTreeMap<String, String>) -> std::collections::BTreeMap<String, String> {
    lines.remove("");
    lines
}

/// Files with their contents, and folders. Of the rest, the tools leave some out.
fn contents(lines: &std::collections::BTreeMap<String, String>) -> std::collections::BTreeMap<String, String> {
    // Its version in Debian 12 leaves out the end of a file that is a hole.
    let is_sparse = |name: &str| matches!(name, "hole" | "sparse");
    let kept =
        lines.iter().filter(|(name, line)| !is_sparse(name) && (line.starts_with("file") || line.starts_with("dir")));
    let what = |line: &String| {
        line.split(' ').take(if line.starts_with("file") { 3 } else { 1 }).collect::<Vec<_>>().join(" ")
    };
    kept.map(|(name, line)| (name.clone(), what(line))).collect()
}

fn archive_of(dir: &Path) -> Vec<u8> {
    let options = "--numeric-owner --xattrs --xattrs-include='*' --format=pax --sparse --sort=name";
    shell(dir.parent().unwrap(), &format!("tar -cf archive.tar {options} -C '{}' .", dir.display()));
    fs::read(dir.with_file_name("archive.tar")).unwrap()
}

#[test]
fn every_kind_of_file_is_read_back() {
    if !is_root("every_kind_of_file_is_read_back") {
        return;
    }
    let private = Private::new();
    let temp = tempfile::tempdir().unwrap();
    let tree = temp.path().join("tree");
    fs::create_dir(&tree).unwrap();
    shell(
        &tree,
        r#"
        mkdir -p a/b/c empty setgid "with space"
        for size in 0 1 2 511 2047 2048 2049 3000 4031 4032 4033 4095 4096 4097 6143 6144 6145 8191 8192 8193 1000000; do
          head -c $size /dev/urandom > "a/size-$size"
        done
        for n in $(seq 1 300); do echo $n > "a/b/a-file-with-a-rather-long-name-to-fill-blocks-$n"; mkdir "empty/$n"; done
        ln -s ../file a/b/relative; ln -s nowhere a/dangling; ln a/size-1 a/b/c/hard; ln a/size-1 hard; ln a/dangling a/hard-to-link
        ln -s "$(printf 'x%.0s' $(seq 3000))" long-link; ln -s "$(printf 'y/%.0s' $(seq 2000))" longest-link
        mkfifo a/fifo; mknod a/char c 1 3; mknod a/block b 7 200; mknod a/big-minor c 10 70000
        cp /bin/true a/setuid; chown 1000:1001 a/setuid; chmod 6755 a/setuid; chown -h 12:34 a/dangling; chown 3000000:4000000 empty
        chmod 2775 setgid; chmod 1777 empty; chmod 000 a/size-511
        echo '!first' > '!before-the-dots'; echo uni > 'ünïcode'; printf raw > $'raw-\xff\xfe'; echo nl > $'new\nline'
        touch -d '1969-12-31 12:00:00.25 UTC' a/size-2; touch -d '2040-01-01 00:00:00.123456789 UTC' a/size-3000
        truncate -s 40M sparse; echo middle | dd of=sparse bs=1M seek=20 conv=notrunc status=none; truncate -s 100M hole
        setfattr -n user.small -v x a/size-4033; setfattr -n user.small -v y empty
        setfattr -n user.large -v "$(head -c 3000 /dev/zero | tr '\0' z)" a/size-1
        setcap cap_net_raw+ep a/setuid 2>/dev/null || setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 a/setuid
        "#,
    );
    let bytes = archive_of(&tree);
    compare(&private, &bytes);
    // The same archive gives the same image.
    for name in ["one", "two"] {
        image(&bytes, &temp.path().join(name), &StandsOn::Nothing).unwrap();
    }
    shell(temp.path(), "cmp one two");
}

#[test]
fn a_large_attribute_and_access_lists_are_kept() {
    if !is_root("a_large_attribute_and_access_lists_are_kept") {
        return;
    }
    let private = Private::new();
    let temp = tempfile::tempdir().unwrap();
    let acl: &[u8] = &[
        2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 5, 0, 232, 3, 0, 0, 4, 0, 5, 0, 255, 255, 255, 255, 16, 0, 5,
        0, 255, 255, 255, 255, 32, 0, 5, 0, 255, 255, 255, 255,
    ];
    let large = vec![b'v'; 20_000];
    let archive = Tar::default()
        .pax(&[("SCHILY.xattr.user.large", &large), ("SCHILY.xattr.user.other", b"o")])
        .file("large", b"content")
        .pax(&[("SCHILY.xattr.system.posix_acl_access", acl)])
        .head(&Head { name: "acl", mode: 0o755, ..Head::default() })
        .pax(&[("SCHILY.xattr.system.posix_acl_default", acl)])
        .dir("dir")
        .pax(&[("SCHILY.xattr.trusted.overlay.opaque", b"y"), ("SCHILY.xattr.strange.key", b"y")])
        .dir("no-tricks")
        .end();
    let file = temp.path().join("image");
    image(&archive, &file, &StandsOn::Unknown).unwrap();
    fsck(&file);
    let shown = private.with(&erofs(&file), describe);
    assert!(shown["large"].contains(&format!("user.large={} user.other=o", "v".repeat(20_000))));
    let acl = acl.escape_ascii();
    assert!(shown["acl"].ends_with(&format!(" system.posix_acl_access={acl}")), "{}", shown["acl"]);
    assert!(shown["dir"].ends_with(&format!(" system.posix_acl_default={acl}")), "{}", shown["dir"]);
    assert!(!shown["no-tricks"].contains('='), "{}", shown["no-tricks"]);
}

#[test]
fn what_comes_later_replaces_what_came_before() {
    if !is_root("what_comes_later_replaces_what_came_before") {
        return;
    }
    let private = Private::new();
    compare(
        &private,
        &Tar::default()
            .dir("usr")
            .dir("usr/lib")
            .dir("a")
            .dir("b")
            .file("a/file", b"old")
            .hard_link("b/link", "a/file")
            .file("a/file", b"new")
            .dir("folder")
            .file("folder/x", b"x")
            .file("folder", b"a file now")
            .symlink("lib", "usr/lib")
            .file("lib/through", b"t")
            .file("usr/lib/plain", b"p")
            .file("becomes", b"x")
            .dir("becomes")
            .file("becomes/inner", b"i")
            .file("self", b"s")
            .hard_link("self", "self")
            .end(),
    );
}

#[test]
fn whiteouts_hide_what_is_below_and_nothing_else() {
    if !is_root("whiteouts_hide_what_is_below_and_nothing_else") {
        return;
    }
    let private = Private::new();
    let temp = tempfile::tempdir().unwrap();
    let below = temp.path().join("below");
    fs::create_dir(&below).unwrap();
    shell(
        &below,
        "mkdir -p gone kept/in whole/a again implied; echo 1 > gone/x; echo 2 > kept/in/y; echo 3 > whole/a/z; echo 4 > again/old
         echo 5 > file; echo 6 > linked; ln -s file slink; chown 7:8 implied; chmod 711 implied; touch -d @1000 implied
         setfattr -n user.kept -v yes implied",
    );
    let archive = Tar::default()
        .file(".wh.gone", b"")
        .file("whole/.wh..wh..opq", b"")
        .file("whole/new", b"n")
        .file(".wh.again", b"")
        .dir("again")
        .file("again/new", b"n")
        .file("mine", b"m")
        .file(".wh.mine", b"")
        .file("kept/in/.wh.y", b"")
        .file("implied/new", b"n")
        .hard_link("second", "linked")
        .hard_link("third", "slink")
        .file(".wh..wh.plnk", b"")
        .end();
    let upper = temp.path().join("upper");
    fs::create_dir(&upper).unwrap();
    unpack(&archive, &overlay(&upper, &[&below])).unwrap();
    let file = temp.path().join("image");
    image(&archive, &file, &StandsOn::Folders(vec![below.clone()])).unwrap();
    fsck(&file);
    let as_dir = private.with(&stacked(None, &[&upper, &below]), describe);
    let as_image = private.with(&erofs(&file), |top| private.with(&stacked(None, &[top, &below]), describe));
    // Folders that only the whiteouts made have no time of their own.
    let timeless = |lines: &std::collections::BTreeMap<String, String>| {
        let mut lines = lines.clone();
        for name in ["", "whole", "kept", "kept/in"] {
            lines.remove(name);
        }
        lines
    };
    assert_same(&timeless(&as_dir), &timeless(&as_image), "the image on top");
    assert!(as_image["implied"].starts_with("dir 711 7:8 1000.") && as_image["implied"].ends_with("user.kept=yes"));
    for gone in ["gone", "whole/a", "again/old", "kept/in/y"] {
        assert!(!as_image.contains_key(gone), "{gone}");
    }
    // Where it is unknown what is below, what needs it says so.
    let needs = |archive: Vec<u8>| {
        let error = image(&archive, &temp.path().join("never"), &StandsOn::Unknown).unwrap_err();
        fs::remove_file(temp.path().join("never")).unwrap();
        assert!(matches!(error, LayerError::ParentNeeded { .. }), "{error}");
    };
    needs(Tar::default().hard_link("second", "linked").end());
    needs(Tar::default().file(".wh..wh..opq", b"").end());
}

#[test]
fn whiteouts_by_the_ten_thousand_are_one_inode() {
    if !is_root("whiteouts_by_the_ten_thousand_are_one_inode") {
        return;
    }
    let private = Private::new();
    let temp = tempfile::tempdir().unwrap();
    let mut tar = Tar::default();
    for number in 0..70_000 {
        tar = tar.file(&format!("d{}/.wh.{number}", number % 7), b"");
    }
    let file = temp.path().join("image");
    image(&tar.end(), &file, &StandsOn::Unknown).unwrap();
    fsck(&file);
    private.with(&erofs(&file), |root| {
        use std::os::unix::fs::MetadataExt;
        let one = fs::symlink_metadata(root.join("d3/10")).unwrap();
        assert_eq!((one.nlink(), one.rdev()), (70_000, 0));
        assert_eq!(fs::read_dir(root.join("d0")).unwrap().count(), 10_000);
    });
}

#[test]
fn bad_archives_are_refused_as_in_folders() {
    let temp = tempfile::tempdir().unwrap();
    for (number, archive) in [
        Tar::default().file("../out", b"x").end(),
        Tar::default().file("file", b"x").file("file/inner", b"x").end(),
        Tar::default().hard_link("link", "nowhere").end(),
        Tar::default().dir("d").hard_link("link", "d").end(),
        Tar::default().symlink("loop", "loop").file("loop/x", b"").end(),
        Tar::default().file(".wh..", b"").end(),
        Tar::default().head(&Head { name: "dev", kind: b'3', device: (5000, 1), ..Head::default() }).end(),
        Tar::default().head(&Head { name: "cut", size: 100_000, ..Head::default() }).data(b"short").end(),
        Tar::default().symlink("empty", "").end(),
    ]
    .into_iter()
    .enumerate()
    {
        let dir = temp.path().join(format!("dir-{number}"));
        fs::create_dir(&dir).unwrap();
        let as_dir = unpack(&archive, &plain(&dir)).unwrap_err();
        let as_image = image(&archive, &temp.path().join(format!("image-{number}")), &StandsOn::Nothing).unwrap_err();
        use model::error::Classify;
        assert_eq!(as_dir.kind(), as_image.kind(), "{as_dir:?}\n{as_image:?}");
    }
}
