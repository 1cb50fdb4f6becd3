//! Hostile archives: each is refused with a clear error or comes to nothing, and nothing outside the target changes.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use model::error::{Classify, Kind};
use snapshotter::layer::{Durability, Encoding, LayerError, Limits, Target, Whiteouts, apply};
use support::{Head, Tar, assert_same, describe, is_root, unpack};

/// What an archive has to come to.
enum Ends {
    /// In this kind of error, whose text holds this.
    Refused(Kind, &'static str),
    /// In these names below the target.
    Contained(&'static [&'static str]),
}
use Ends::{Contained, Refused};

/// A folder with a host around the target: a tree that must not change, and that archives try to change.
struct Host {
    temp: tempfile::TempDir,
    before: BTreeMap<String, String>,
}

impl Host {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let outside = temp.path().join("outside");
        fs::create_dir_all(outside.join("etc")).unwrap();
        fs::write(outside.join("etc/passwd"), "root:x:0:0\n").unwrap();
        fs::write(outside.join("victim"), "victim").unwrap();
        fs::create_dir(temp.path().join("target")).unwrap();
        let before = describe(&outside);
        Self { temp, before }
    }

    fn target(&self) -> PathBuf {
        self.temp.path().join("target")
    }

    fn outside(&self) -> PathBuf {
        self.temp.path().join("outside")
    }

    #[track_caller]
    fn check(&self, context: &str) {
        assert_same(&self.before, &describe(&self.outside()), context);
        let names = |dir: &Path| -> Vec<_> { fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect() };
        let mut there = names(self.temp.path());
        there.sort();
        assert_eq!(there, ["outside", "target"], "{context}");
    }
}

fn run(name: &str, archive: &dyn Fn(&Host) -> Tar, whiteouts: Whiteouts) -> (Host, Result<(), LayerError>) {
    let host = Host::new();
    let target = Target { dir: host.target(), whiteouts, parents: Vec::new() };
    let result = unpack(&archive(&host).end(), &target).map(drop);
    host.check(&format!("{name} with {whiteouts:?}"));
    (host, result)
}

#[track_caller]
fn check(name: &str, archive: impl Fn(&Host) -> Tar, ends: &Ends) {
    for whiteouts in [Whiteouts::Delete, Whiteouts::OverlayTrusted, Whiteouts::OverlayUser] {
        let (host, result) = run(name, &archive, whiteouts);
        match (ends, result) {
            (Refused(kind, text), Err(error)) => {
                let message = error.wire_message();
                assert!(error.kind() == *kind && message.contains(text), "{name}: {:?} {message}", error.kind());
            }
            (Contained(names), Ok(())) => {
                let there = describe(&host.target());
                let there: Vec<&str> = there.keys().map(String::as_str).filter(|name| !name.is_empty()).collect();
                assert_eq!(&there, names, "{name} with {whiteouts:?}");
            }
            (Refused(..), Ok(())) => panic!("{name}: was not refused, came to {:?}", describe(&host.target())),
            (Contained(_), Err(error)) => panic!("{name}: was refused: {}", error.wire_message()),
        }
    }
}

const LEADS_OUT: Ends = Refused(Kind::InvalidArgument, "leads out of the layer");

/// A path to the host's files, to put into links.
fn outside(host: &Host) -> String {
    host.outside().to_str().unwrap().to_owned()
}

#[test]
fn names_do_not_lead_out() {
    if !is_root("names_do_not_lead_out") {
        return;
    }
    for name in ["../outside/victim", "a/../../outside/victim", "/../outside/victim", "..", "../target2"] {
        check(name, |_| Tar::default().file(name, b"evil"), &LEADS_OUT);
        check(name, |_| Tar::default().dir(name), &LEADS_OUT);
        check(name, |_| Tar::default().symlink(name, "x"), &LEADS_OUT);
        check(name, |_| Tar::default().head(&Head { name, kind: b'6', ..Head::default() }), &LEADS_OUT);
        check(name, |_| Tar::default().pax(&[("path", name.as_bytes())]).file("ok", b"evil"), &LEADS_OUT);
    }
    check("absolute", |_| Tar::default().file("/victim", b"evil"), &Contained(&["victim"]));
    check("within", |_| Tar::default().dir("a").file("a/../b", b"x"), &Contained(&["a", "b"]));
    check("root as a file", |_| Tar::default().file(".", b"x"), &Refused(Kind::InvalidArgument, "only a folder"));
    check("root as a link", |_| Tar::default().symlink("./", "/"), &Refused(Kind::InvalidArgument, "only a folder"));
    check("NUL", |_| Tar::default().pax(&[("path", b"a\0b")]).file("x", b""), &Refused(Kind::InvalidArgument, "NUL"));
}

#[test]
fn symbolic_links_are_resolved_within() {
    if !is_root("symbolic_links_are_resolved_within") {
        return;
    }
    // A link out of the target leads to a place of that name within.
    let through = |host: &Host| Tar::default().symlink("link", &outside(host)).file("link/victim", b"evil");
    let (host, result) = run("absolute link", &through, Whiteouts::Delete);
    result.unwrap();
    let within = host.target().join(host.outside().strip_prefix("/").unwrap()).join("victim");
    assert_eq!(fs::read(within).unwrap(), b"evil");
    check(
        "relative link",
        |_| Tar::default().symlink("link", "../outside").file("link/victim", b"evil"),
        &Contained(&["link", "outside", "outside/victim"]),
    );
    check(
        "links in a row",
        |_| Tar::default().symlink("a", "..").symlink("b", "a/outside").file("b/victim", b"evil"),
        &Contained(&["a", "b", "outside", "outside/victim"]),
    );
    check(
        "links in a circle",
        |_| Tar::default().symlink("a", "b").symlink("b", "a").file("a/x", b""),
        &Refused(Kind::Unknown, "Too many levels of symbolic links"),
    );
    check(
        "to itself",
        |_| Tar::default().symlink("a", "a/../a/b").file("a/x", b""),
        &Refused(Kind::Unknown, "symbolic links"),
    );
    // The file itself, and all that is done to it, is never done through a link.
    let last = |host: &Host| {
        let head = Head { name: "link", mode: 0o4777, uid: 7, gid: 7, size: 4, mtime: 1, ..Head::default() };
        let tar = Tar::default().symlink("link", &format!("{}/victim", outside(host)));
        tar.pax(&[("SCHILY.xattr.user.evil", b"1")]).head(&head).data(b"evil")
    };
    check("file over link", last, &Contained(&["link"]));
    let folder = |host: &Host| {
        let head = Head { name: "link", kind: b'5', mode: 0o777, uid: 7, gid: 7, mtime: 1, ..Head::default() };
        Tar::default().symlink("link", &outside(host)).pax(&[("SCHILY.xattr.user.evil", b"1")]).head(&head)
    };
    check("folder over link", folder, &Contained(&["link"]));
    for kind in [b'3', b'6'] {
        let node = |host: &Host| {
            let tar = Tar::default().symlink("link", &format!("{}/victim", outside(host)));
            tar.head(&Head { name: "link", kind, mode: 0o777, uid: 7, device: (1, 3), ..Head::default() })
        };
        check("node over link", node, &Contained(&["link"]));
    }
    // Owner, mode, attributes and times of a link are its own.
    let own = |host: &Host| {
        let link = outside(host);
        let head =
            Head { name: "link", kind: b'2', mode: 0o7777, uid: 7, gid: 7, mtime: 1, link: &link, ..Head::default() };
        Tar::default().pax(&[("SCHILY.xattr.security.evil", b"1")]).head(&head)
    };
    check("attributes of a link", own, &Contained(&["link"]));
    check(
        "a folder that became a link gets no times",
        |host| Tar::default().dir("d").file("d/x", b"").symlink("d", &outside(host)),
        &Contained(&["d"]),
    );
}

#[test]
fn hard_links_do_not_lead_out() {
    if !is_root("hard_links_do_not_lead_out") {
        return;
    }
    let nowhere = Refused(Kind::InvalidArgument, "which is nowhere");
    check("up", |_| Tar::default().hard_link("x", "../outside/victim"), &LEADS_OUT);
    check("absolute", |host| Tar::default().hard_link("x", &format!("{}/victim", outside(host))), &nowhere);
    check("through a link", |host| Tar::default().symlink("l", &outside(host)).hard_link("x", "l/victim"), &nowhere);
    // A second name of a link is a link; what is written to it replaces it.
    check(
        "to a link",
        |host| {
            let tar = Tar::default().symlink("l", &format!("{}/victim", outside(host)));
            tar.hard_link("x", "l").file("x", b"evil").hard_link("y", "l")
        },
        &Contained(&["l", "x", "y"]),
    );
    check(
        "to a folder",
        |_| Tar::default().dir("d").hard_link("x", "d"),
        &Refused(Kind::InvalidArgument, "to a folder"),
    );
    check("to the root", |_| Tar::default().hard_link("x", "."), &Refused(Kind::InvalidArgument, "to the root"));
    check("to itself", |_| Tar::default().file("x", b"1").hard_link("x", "./x"), &Contained(&["x"]));
    check("to nothing", |_| Tar::default().hard_link("x", "y"), &nowhere);
}

#[test]
fn whiteouts_do_not_lead_out() {
    if !is_root("whiteouts_do_not_lead_out") {
        return;
    }
    let nothing = Refused(Kind::InvalidArgument, "whiteout of nothing");
    for name in [".wh...", ".wh..", ".wh.", "a/.wh...", "a/.wh."] {
        check(name, |_| Tar::default().dir("a").file(name, b""), &nothing);
    }
    check("up", |_| Tar::default().file("../outside/.wh.victim", b""), &LEADS_OUT);
    check("up opaque", |_| Tar::default().file("../.wh..wh..opq", b""), &LEADS_OUT);
    for name in ["link/.wh.victim", "link/.wh.etc", "link/.wh..wh..opq"] {
        let through = |host: &Host| Tar::default().symlink("link", &outside(host)).file(name, b"");
        for whiteouts in [Whiteouts::Delete, Whiteouts::OverlayTrusted] {
            run(name, &through, whiteouts).1.unwrap();
        }
    }
    // A link is deleted, not what it leads to.
    let host = Host::new();
    std::os::unix::fs::symlink(host.outside(), host.target().join("link")).unwrap();
    let target = Target { dir: host.target(), whiteouts: Whiteouts::Delete, parents: Vec::new() };
    unpack(&Tar::default().file(".wh.link", b"").end(), &target).unwrap();
    host.check("whiteout of a link");
    assert_eq!(fs::read_dir(host.target()).unwrap().count(), 0);
}

#[test]
fn devices_out_of_range_are_refused() {
    if !is_root("devices_out_of_range_are_refused") {
        return;
    }
    let wide = |number: u64| -> [u8; 8] { (number | 1 << 63).to_be_bytes() };
    for (major, minor) in [(4096, 0), (0, 1 << 20), (1 << 32, 3), (1 << 40, 1 << 40)] {
        for kind in [b'3', b'4'] {
            let device = |_: &Host| {
                let mut tar = Tar::default().head(&Head { name: "device", kind, ..Head::default() });
                tar.bytes[329..337].copy_from_slice(&wide(major));
                tar.bytes[337..345].copy_from_slice(&wide(minor));
                resum(&mut tar.bytes);
                tar
            };
            check("device", device, &Refused(Kind::InvalidArgument, "out of range"));
        }
    }
    let most = Head { name: "device", kind: b'3', device: (0o7777, 0o3_777_777), ..Head::default() };
    check("the last device", |_| Tar::default().head(&most), &Contained(&["device"]));
}

/// Makes the checksum of the first header right again.
fn resum(block: &mut [u8]) {
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block[..512].iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

#[test]
fn owners_out_of_range_are_refused() {
    if !is_root("owners_out_of_range_are_refused") {
        return;
    }
    let range = Refused(Kind::DataLoss, "out of range");
    for id in ["4294967295", "4294967296", "18446744073709551615"] {
        for key in ["uid", "gid"] {
            check(id, |_| Tar::default().pax(&[(key, id.as_bytes())]).file("x", b""), &range);
        }
    }
    check(
        "no number",
        |_| Tar::default().pax(&[("uid", b"-1")]).file("x", b""),
        &Refused(Kind::DataLoss, "bad number"),
    );
}

#[test]
fn huge_headers_are_bounded() {
    if !is_root("huge_headers_are_bounded") {
        return;
    }
    let long = "n/".repeat(3000);
    check(
        "long",
        |_| Tar::default().pax(&[("path", long.as_bytes())]).file("x", b""),
        &Refused(Kind::ResourceExhausted, "name"),
    );
    let wide = "n".repeat(300);
    check(
        "wide",
        |_| Tar::default().pax(&[("path", wide.as_bytes())]).file("x", b""),
        &Refused(Kind::InvalidArgument, "too long"),
    );
    for kind in [b'x', b'g', b'L', b'K'] {
        // The size alone must not make anybody allocate.
        let claims =
            |_: &Host| Tar::default().head(&Head { name: "x", kind, size: 0o77_777_777_777, ..Head::default() });
        check("claim", claims, &Refused(Kind::ResourceExhausted, "extended header"));
    }
    let many = |_: &Host| {
        let value = vec![b'v'; 300_000];
        (0..9).fold(Tar::default(), |tar, n| tar.pax(&[(&format!("SCHILY.xattr.user.{n}"), &value)]))
    };
    check("many", many, &Refused(Kind::ResourceExhausted, "extended header"));
    let limits = Limits { entries: 3, ..Limits::default() };
    let host = Host::new();
    let tar = (0..4).fold(Tar::default(), |tar, n| tar.file(&n.to_string(), b"")).end();
    let error = apply(&*tar, Encoding::Plain, &support::plain(&host.target()), &limits, Durability::Later).unwrap_err();
    assert!(matches!(error, LayerError::TooMuch { .. }), "{error}");
    let limits = Limits { total_bytes: 10_000, ..Limits::default() };
    let tar = Tar::default().file("x", &vec![0; 1 << 20]).end();
    let error = apply(&*tar, Encoding::Plain, &support::plain(&host.target()), &limits, Durability::Later).unwrap_err();
    assert_eq!(error.kind(), Kind::ResourceExhausted, "{error}");
}

#[test]
fn sparse_bombs_take_no_room() {
    if !is_root("sparse_bombs_take_no_room") {
        return;
    }
    let sparse = |map: &'static str, size: &'static str, data: &'static [u8]| {
        move |_: &Host| {
            let records: [(&str, &[u8]); 2] =
                [("GNU.sparse.map", map.as_bytes()), ("GNU.sparse.size", size.as_bytes())];
            Tar::default().pax(&records).file("x", data)
        }
    };
    let impossible = Refused(Kind::DataLoss, "impossible sparse map");
    check("overlapping", sparse("0,2,1,2", "9", b"abcd"), &impossible);
    check("backwards", sparse("5,1,0,1", "9", b"ab"), &impossible);
    check("beyond the end", sparse("0,4", "3", b"abcd"), &impossible);
    check("overflow", sparse("18446744073709551615,4", "18446744073709551615", b"abcd"), &impossible);
    check("more than there is", sparse("0,400", "400", b"abcd"), &impossible);
    check("odd", sparse("0,4,9", "400", b"abcd"), &Refused(Kind::DataLoss, "bad sparse map"));
    check(
        "too large for any file",
        sparse("0,4", "18446744073709551615", b"abcd"),
        &Refused(Kind::InvalidArgument, "set the size"),
    );
    // Large but possible: no room, no time.
    let (host, result) = run("1 TiB of nothing", &sparse("0,4", "1099511627776", b"abcd"), Whiteouts::Delete);
    result.unwrap();
    let meta = fs::metadata(host.target().join("x")).unwrap();
    assert!(meta.len() == 1 << 40 && meta.blocks() * 512 < 65_536);
    let claims = |count: &'static str| {
        move |_: &Host| {
            let records: [(&str, &[u8]); 4] = [
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.name", b"x"),
                ("GNU.sparse.realsize", b"1000"),
            ];
            let mut map = count.as_bytes().to_vec();
            map.resize(512, 0);
            Tar::default().pax(&records).file("y", &map)
        }
    };
    check("a map of ever so many", claims("99999999999\n"), &Refused(Kind::ResourceExhausted, "segments"));
    check("an endless number", claims("999999999999999999999999"), &Refused(Kind::DataLoss, "bad sparse map"));
    check("a map that does not end", claims("9\n1\n"), &Refused(Kind::DataLoss, "sparse map"));
    let old = |_: &Host| {
        let mut tar = Tar::default().head(&Head { name: "x", kind: b'S', size: 4, ..Head::default() });
        tar.bytes[482] = 1;
        resum(&mut tar.bytes);
        let mut block = vec![0; 512];
        block[504] = 1;
        (0..20_000).for_each(|_| tar.bytes.extend_from_slice(&block));
        tar
    };
    check("an old map that does not end", old, &Refused(Kind::DataLoss, "sparse map"));
}

#[test]
fn damaged_archives_are_told_apart_from_whole_ones() {
    let whole = Tar::default().file("a", &[1; 1000]).pax(&[("mtime", b"1.5")]).file("b", &[2; 700]).end();
    let attempt = |bytes: &[u8]| {
        let dir = tempfile::tempdir().unwrap();
        unpack(bytes, &support::plain(dir.path())).map(|done| done.entries)
    };
    assert_eq!(attempt(&whole).unwrap(), 2);
    // Without the two empty blocks at the end it is still whole; so it is with more of them, and with anything behind.
    assert_eq!(attempt(&whole[..whole.len() - 1024]).unwrap(), 2);
    assert_eq!(attempt(&whole[..whole.len() - 512]).unwrap(), 2);
    assert_eq!(attempt(&[&whole[..], &[0; 9000]].concat()).unwrap(), 2);
    assert_eq!(attempt(&[]).unwrap(), 0);
    // Some writers end with the data of the last file, without its padding.
    assert_eq!(attempt(&whole[..whole.len() - 1024 - 300]).unwrap(), 2);
    for cut in [1, 511, 513, 600, 1500, 2040, 2100, 2600, 3000, 3100, 3600] {
        assert!(cut < whole.len() - 1024);
        let error = attempt(&whole[..cut]).unwrap_err();
        assert!(matches!(error, LayerError::Truncated { .. }), "{cut}: {error}");
        assert_eq!(error.kind(), Kind::DataLoss);
    }
    for at in [0, 100, 125, 300] {
        let mut bad = whole.clone();
        bad[at] ^= 0x11;
        let error = attempt(&bad).unwrap_err();
        assert!(matches!(error, LayerError::Damaged { .. }), "{at}: {error}");
    }
    let text = b"this is no archive at all, ".repeat(40);
    assert!(matches!(attempt(&text), Err(LayerError::Damaged { .. })));
    assert!(matches!(attempt(b"short"), Err(LayerError::Truncated { .. })));
    let unknown = Tar::default().head(&Head { name: "x", kind: b'V', ..Head::default() }).end();
    assert!(matches!(attempt(&unknown), Err(LayerError::Refused { .. })));
}

#[test]
fn damaged_compression_is_an_error_even_behind_the_archive() {
    let tar = Tar::default().file("a", &[1; 100_000]).end();
    let attempt = |bytes: &[u8]| {
        let dir = tempfile::tempdir().unwrap();
        unpack(bytes, &support::plain(dir.path()))
    };
    let gzip = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
        std::io::Write::write_all(&mut encoder, &tar).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = zstd::stream::encode_all(&*tar, 3).unwrap();
    for (name, bytes) in [("gzip", &gzip), ("zstd", &zstd)] {
        attempt(bytes).unwrap();
        for cut in [bytes.len() - 1, bytes.len() - 6, bytes.len() / 2, 12] {
            let error = attempt(&bytes[..cut]).unwrap_err();
            assert_eq!(error.kind(), Kind::DataLoss, "{name} cut at {cut}: {}", error.wire_message());
        }
        let mut behind = bytes.clone();
        behind.extend_from_slice(b"garbage");
        let error = attempt(&behind).unwrap_err();
        assert!(matches!(error, LayerError::Damaged { .. } | LayerError::Truncated { .. }), "{name}: {error}");
    }
    // The checksum behind the data of a gzip member.
    let mut bad = gzip.clone();
    let at = bad.len() - 8;
    bad[at] ^= 1;
    assert!(matches!(attempt(&bad), Err(LayerError::Damaged { .. })));
    // Plain means plain.
    let dir = tempfile::tempdir().unwrap();
    let plain = apply(&*gzip, Encoding::Plain, &support::plain(dir.path()), &Limits::default(), Durability::Later);
    assert!(plain.is_err());
}

#[test]
fn a_reader_that_fails_is_no_damage() {
    struct Failing(usize);
    impl std::io::Read for Failing {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            if self.0 == 0 {
                return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "registry went away"));
            }
            self.0 -= 1;
            let tar = Tar::default().file("a", &[1; 400]).bytes;
            buffer[..tar.len()].copy_from_slice(&tar);
            Ok(tar.len())
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let error = apply(Failing(3), Encoding::Plain, &support::plain(dir.path()), &Limits::default(), Durability::Later);
    let error = error.unwrap_err();
    assert!(matches!(error, LayerError::Read { .. }) && error.kind() == Kind::DeadlineExceeded, "{error}");
}

#[test]
fn attributes_that_steer_overlayfs_are_left_out() {
    if !is_root("attributes_that_steer_overlayfs_are_left_out") {
        return;
    }
    for key in ["trusted.overlay.opaque", "trusted.overlay.redirect", "user.overlay.opaque", "trusted.other"] {
        let record = format!("SCHILY.xattr.{key}");
        let dir = |_: &Host| Tar::default().pax(&[(&record, b"y")]).dir("d").pax(&[(&record, b"y")]).file("f", b"");
        for whiteouts in [Whiteouts::OverlayTrusted, Whiteouts::OverlayUser, Whiteouts::Delete] {
            let (host, result) = run(key, &dir, whiteouts);
            result.unwrap();
            for (name, line) in describe(&host.target()) {
                assert!(!line.contains(key), "{name}: {line}");
            }
        }
    }
}

#[test]
fn a_link_swapped_in_meanwhile_leads_nowhere() {
    if !is_root("a_link_swapped_in_meanwhile_leads_nowhere") {
        return;
    }
    const FILES: usize = 300;
    let host = Host::new();
    let names: Vec<String> = (0..FILES).map(|n| format!("{}/victim{n}", ["a", "b/c/d", "n/m"][n % 3])).collect();
    let mut tar = Tar::default();
    for name in &names {
        let head = Head { name, mode: 0o4777, uid: 7, gid: 7, size: 4, ..Head::default() };
        tar = tar.pax(&[("SCHILY.xattr.user.evil", b"1")]).head(&head).data(b"evil");
        tar = tar.dir(&format!("{name}-dir")).file(&format!("{name}-dir/.wh..wh..opq"), b"");
    }
    let archive = tar.end();
    let stop = AtomicBool::new(false);
    let outcomes = std::thread::scope(|scope| {
        // No swapped folder is above another: the swapping itself would follow the links.
        for name in ["a", "b", "n/m"] {
            let (host, stop) = (&host, &stop);
            scope.spawn(move || {
                let (real, aside) =
                    (host.target().join(name), host.temp.path().join("target").join(name.replace('/', "-") + ".aside"));
                while !stop.load(Ordering::Relaxed) {
                    if fs::rename(&real, &aside).is_ok() {
                        let _ = std::os::unix::fs::symlink(host.outside(), &real);
                        std::thread::yield_now();
                        let _ = fs::remove_file(&real);
                        let _ = fs::rename(&aside, &real);
                    }
                }
            });
        }
        let target = Target { dir: host.target(), whiteouts: Whiteouts::Delete, parents: Vec::new() };
        let outcomes: Vec<_> = (0..10).map(|_| unpack(&archive, &target).is_ok()).collect();
        stop.store(true, Ordering::Relaxed);
        outcomes
    });
    // Whether an attempt gets through is luck; where it writes to is not.
    eprintln!("outcomes: {outcomes:?}");
    host.check("raced");
}
