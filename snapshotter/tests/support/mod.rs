//! What the tests share: trees described as text, archives made byte by byte, root or a reported skip.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of what the others use too")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use model::Digest;
use rustix::fs::{lgetxattr, llistxattr};
use snapshotter::layer::{
    Applied, Durability, Encoding, LayerError, Limits, StandsOn, Target, Whiteouts, apply, write_image,
};

/// Whether the test can do what only root can; says so when it cannot.
pub fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED {test}: needs root");
    }
    root
}

/// A tree as text: one line for each file, with all that an archive can hold. `times` of folders can be left out.
pub fn describe(root: &Path) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    let mut groups: BTreeMap<(u64, u64), String> = BTreeMap::new();
    describe_into(root, root, &mut lines, &mut groups);
    lines
}

fn describe_into(
    root: &Path,
    path: &Path,
    lines: &mut BTreeMap<String, String>,
    groups: &mut BTreeMap<(u64, u64), String>,
) {
    let meta = fs::symlink_metadata(path).unwrap();
    let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().escape_ascii().to_string();
    let kind = meta.file_type();
    let what = if kind.is_dir() {
        "dir".to_owned()
    } else if kind.is_symlink() {
        format!("link -> {}", fs::read_link(path).unwrap().as_os_str().as_bytes().escape_ascii())
    } else if kind.is_file() {
        format!("file {} {}", meta.len(), Digest::sha256(&fs::read(path).unwrap()).hex())
    } else if kind.is_fifo() {
        "fifo".to_owned()
    } else if kind.is_socket() {
        "socket".to_owned()
    } else {
        let letter = if kind.is_char_device() { 'c' } else { 'b' };
        format!("{letter} {}:{}", rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()))
    };
    let time = format!("{}.{:09}", meta.mtime(), meta.mtime_nsec());
    let mut line = format!("{what} {:o} {}:{} {time}", meta.mode() & 0o7777, meta.uid(), meta.gid());
    for (key, value) in attributes(path) {
        line.push_str(&format!(" {key}={}", value.escape_ascii()));
    }
    if !kind.is_dir() && meta.nlink() > 1 {
        let first = groups.entry((meta.dev(), meta.ino())).or_insert_with(|| name.clone());
        line.push_str(&format!(" same as {first}"));
    }
    lines.insert(name, line);
    if kind.is_dir() {
        let mut entries: Vec<PathBuf> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for entry in entries {
            describe_into(root, &entry, lines, groups);
        }
    }
}

fn attributes(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut list = vec![0; 65536];
    let length = llistxattr(path, &mut list[..]).unwrap_or(0);
    let mut attributes = BTreeMap::new();
    for key in list[..length].split(|byte| *byte == 0).filter(|key| !key.is_empty()) {
        let mut value = vec![0; 65536];
        let length = lgetxattr(path, key, &mut value[..]).unwrap();
        attributes.insert(String::from_utf8_lossy(key).into_owned(), value[..length].to_vec());
    }
    attributes
}

/// The description without the line of the root.
pub fn below_root(root: &Path) -> BTreeMap<String, String> {
    let mut lines = describe(root);
    lines.remove("");
    lines
}

#[track_caller]
pub fn assert_same(left: &BTreeMap<String, String>, right: &BTreeMap<String, String>, context: &str) {
    let mut differences = Vec::new();
    for name in left.keys().chain(right.keys()).collect::<std::collections::BTreeSet<_>>() {
        if left.get(name) != right.get(name) {
            differences.push(format!("{name:?}:\n   left: {:?}\n  right: {:?}", left.get(name), right.get(name)));
        }
    }
    assert!(differences.is_empty(), "{context}\n{}", differences.join("\n"));
}

/// Runs a shell script, which must succeed.
#[track_caller]
pub fn shell(dir: &Path, script: &str) {
    let output = Command::new("bash").arg("-euc").arg(script).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
}

pub fn plain(dir: &Path) -> Target {
    Target { dir: dir.to_owned(), whiteouts: Whiteouts::Delete, parents: Vec::new() }
}

pub fn overlay(dir: &Path, parents: &[&Path]) -> Target {
    let parents = parents.iter().map(|parent| (*parent).to_owned()).collect();
    Target { dir: dir.to_owned(), whiteouts: Whiteouts::OverlayTrusted, parents }
}

pub fn unpack(archive: &[u8], target: &Target) -> Result<Applied, LayerError> {
    apply(archive, Encoding::Detected, target, &Limits::default(), Durability::Later)
}

/// Writes a layer as an image.
pub fn image(archive: &[u8], file: &Path, stands_on: &StandsOn) -> Result<Applied, LayerError> {
    let file = fs::File::options().read(true).write(true).create_new(true).open(file).unwrap();
    write_image(archive, Encoding::Detected, &Limits::default(), file, stands_on)
}

/// A mount of an image.
pub fn erofs(file: &Path) -> Vec<model::Mount> {
    let source = file.to_str().unwrap().to_owned();
    vec![model::Mount { kind: "erofs".into(), source, target: String::new(), options: vec!["ro".into()] }]
}

/// What the tools of the file system itself say of an image.
#[track_caller]
pub fn fsck(file: &Path) {
    let output = Command::new("fsck.erofs").arg(file).output().expect("fsck.erofs of erofs-utils");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && !text.contains("<E>"), "{text}");
}

/// An archive in the making. It checks nothing: wrong archives are what it is for.
#[derive(Default)]
pub struct Tar {
    pub bytes: Vec<u8>,
}

/// The fields of a header that tests vary.
#[derive(Clone)]
pub struct Head<'a> {
    pub name: &'a str,
    pub kind: u8,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub mtime: u64,
    pub link: &'a str,
    pub device: (u64, u64),
}

impl Default for Head<'_> {
    fn default() -> Self {
        Head {
            name: "",
            kind: b'0',
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: 1_000_000_000,
            link: "",
            device: (0, 0),
        }
    }
}

impl Tar {
    pub fn head(mut self, head: &Head<'_>) -> Self {
        let mut block = [0_u8; 512];
        let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
        put(0, &head.name.as_bytes()[..head.name.len().min(100)]);
        put(100, format!("{:07o}", head.mode).as_bytes());
        put(108, format!("{:07o}", head.uid).as_bytes());
        put(116, format!("{:07o}", head.gid).as_bytes());
        put(124, format!("{:011o}", head.size).as_bytes());
        put(136, format!("{:011o}", head.mtime).as_bytes());
        put(148, b"        ");
        put(156, &[head.kind]);
        put(157, &head.link.as_bytes()[..head.link.len().min(100)]);
        put(257, b"ustar\x0000");
        put(329, format!("{:07o}", head.device.0).as_bytes());
        put(337, format!("{:07o}", head.device.1).as_bytes());
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self.bytes.extend_from_slice(&block);
        self
    }

    pub fn data(mut self, data: &[u8]) -> Self {
        self.bytes.extend_from_slice(data);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(self, name: &str, data: &[u8]) -> Self {
        self.head(&Head { name, size: data.len() as u64, ..Head::default() }).data(data)
    }

    pub fn dir(self, name: &str) -> Self {
        self.head(&Head { name, kind: b'5', mode: 0o755, ..Head::default() })
    }

    pub fn symlink(self, name: &str, link: &str) -> Self {
        self.head(&Head { name, kind: b'2', mode: 0o777, link, ..Head::default() })
    }

    pub fn hard_link(self, name: &str, link: &str) -> Self {
        self.head(&Head { name, kind: b'1', link, ..Head::default() })
    }

    /// An extended header for the next entry.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut bytes = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            bytes.extend_from_slice(format!("{length} {key}=").as_bytes());
            bytes.extend_from_slice(value);
            bytes.push(b'\n');
        }
        self.head(&Head { name: "PaxHeader", kind: b'x', size: bytes.len() as u64, ..Head::default() }).data(&bytes)
    }

    pub fn end(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(&[0; 1024]);
        self.bytes
    }
}

/// Mounts of this test, out of everybody else's sight and gone with the thread that made them.
pub struct Private;

impl Private {
    pub fn new() -> Self {
        use nix::mount::{MsFlags, mount};
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        Self
    }

    /// Shows `mounts` to `look` at a folder of its own.
    pub fn with<T>(&self, mounts: &[model::Mount], look: impl FnOnce(&Path) -> T) -> T {
        use nix::mount::{MntFlags, MsFlags, mount, umount2};
        let point = tempfile::tempdir().unwrap();
        for one in mounts {
            let mut flags = MsFlags::empty();
            let mut data = Vec::new();
            for option in &one.options {
                match option.as_str() {
                    "ro" => flags |= MsFlags::MS_RDONLY,
                    "rw" => {}
                    "rbind" => flags |= MsFlags::MS_BIND | MsFlags::MS_REC,
                    other => data.push(other),
                }
            }
            let data = data.join(",");
            mount(Some(&*one.source), point.path(), Some(&*one.kind), flags, Some(&*data)).unwrap();
            if flags.contains(MsFlags::MS_BIND | MsFlags::MS_RDONLY) {
                mount(None::<&str>, point.path(), None::<&str>, flags | MsFlags::MS_REMOUNT, None::<&str>).unwrap();
            }
        }
        let result = look(point.path());
        umount2(point.path(), MntFlags::MNT_DETACH).unwrap();
        result
    }
}

/// An overlay of these folders, nearest first.
pub fn stacked(upper: Option<(&Path, &Path)>, lowers: &[&Path]) -> Vec<model::Mount> {
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let lowers: Vec<String> = lowers.iter().map(|lower| text(lower)).collect();
    let mut options = vec!["index=off".to_owned(), format!("lowerdir={}", lowers.join(":"))];
    if let Some((upper, work)) = upper {
        options.extend([format!("upperdir={}", text(upper)), format!("workdir={}", text(work))]);
    }
    vec![model::Mount { kind: "overlay".into(), source: "overlay".into(), target: String::new(), options }]
}
