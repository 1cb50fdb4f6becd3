//! The checks of `fuzz/` on the stable compiler: archives that are nearly right, by the thousand, the same ones each time.
#![allow(clippy::unwrap_used, reason = "these are tests")]

#[path = "../../fuzz/checks/layers.rs"]
mod layers;
mod support;

use support::{Head, Tar, is_root};

/// Cases a run makes, unless `GANTRY_FUZZ_CASES` says otherwise.
const CASES: usize = 1500;

/// Numbers without a pattern, always the same.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % limit
    }

    fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }
}

const NAMES: &[&str] = &[
    "a",
    "a/b",
    "a/b/c",
    "b",
    "c",
    "./a",
    "/a",
    "a//b",
    "../a",
    "a/../b",
    "l",
    "l/x",
    "k/x",
    ".wh.a",
    "a/.wh.b",
    ".wh..wh..opq",
    "a/.wh..wh..opq",
    ".wh.",
    ".wh..wh.x",
    ".wh..wh.d/x",
    "d/",
    ".",
    "",
];
const LINKS: &[&str] = &["a", "../a", "/a/b", "l", "k", "nowhere", ".", "", "/", "a/b/../../.."];
const KINDS: &[u8] = b"00000555122346gxLKSZ7";

fn archive(numbers: &mut Numbers) -> Vec<u8> {
    let mut tar = Tar::default();
    for _ in 0..numbers.below(12) {
        if numbers.below(6) == 0 {
            let key = numbers.one(&[
                "path",
                "linkpath",
                "size",
                "uid",
                "mtime",
                "SCHILY.xattr.user.k",
                "SCHILY.xattr.trusted.x",
                "GNU.sparse.major",
                "GNU.sparse.map",
                "GNU.sparse.name",
                "SCHILY.xattr.system.posix_acl_access",
            ]);
            let value = numbers.one(&["", "a", "5", "0,5", "-1", "99999999999999999999", "1.5", "l/x", "\u{2}\0\0\0"]);
            tar = tar.pax(&[(key, value.as_bytes())]);
        }
        let kind = KINDS[numbers.below(KINDS.len())];
        let size = match numbers.below(8) {
            0 => 9000,
            1 => 1 << 40,
            _ => numbers.below(3) as u64 * 700,
        };
        let head = Head {
            name: numbers.one(NAMES),
            kind,
            mode: numbers.one(&[&0o644_u32, &0o7777, &0, &0o755]).to_owned(),
            uid: numbers.below(3) as u32,
            gid: numbers.below(3) as u32,
            size: if matches!(kind, b'0' | b'7' | b'x' | b'g' | b'L' | b'K' | b'S') { size } else { 0 },
            mtime: numbers.below(3) as u64,
            link: numbers.one(LINKS),
            device: (numbers.below(3) as u64, numbers.below(3) as u64),
        };
        let data = if head.size < 10_000 { vec![b'd'; usize::try_from(head.size).unwrap()] } else { b"short".to_vec() };
        tar = tar.head(&head).data(&data);
    }
    let mut bytes = if numbers.below(4) == 0 { tar.bytes } else { tar.end() };
    // Some are damaged afterwards.
    if numbers.below(3) == 0 && !bytes.is_empty() {
        for _ in 0..1 + numbers.below(4) {
            let at = numbers.below(bytes.len());
            bytes[at] = u8::try_from(numbers.below(256)).unwrap();
        }
        if numbers.below(3) == 0 {
            bytes.truncate(numbers.below(bytes.len()));
        }
    }
    match numbers.below(8) {
        0 => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            std::io::Write::write_all(&mut encoder, &bytes).unwrap();
            encoder.finish().unwrap()
        }
        1 => zstd::encode_all(&bytes[..], 1).unwrap(),
        _ => bytes,
    }
}

fn run(seed: u64, check: fn(&[u8])) {
    let cases = std::env::var("GANTRY_FUZZ_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES);
    let mut numbers = Numbers(seed);
    for case in 0..cases {
        let bytes = archive(&mut numbers);
        let outcome = std::panic::catch_unwind(|| check(&bytes));
        if let Err(panic) = outcome {
            let at = std::env::temp_dir().join(format!("gantry-fuzz-{seed:x}-{case}"));
            std::fs::write(&at, &bytes).unwrap();
            eprintln!("case {case} is kept in {}", at.display());
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn folders_take_or_refuse_any_archive() {
    if is_root("folders_take_or_refuse_any_archive") {
        run(0x9e37_79b9_7f4a_7c15, layers::into_folder);
    }
}

#[test]
fn images_are_as_folders_for_any_archive() {
    if is_root("images_are_as_folders_for_any_archive") {
        run(0x2545_f491_4f6c_dd1d, layers::into_image);
    }
}
