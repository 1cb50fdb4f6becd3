use std::io::Write as _;

use super::*;

fn tar(entries: &[(&str, tar::EntryType, &str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind, link, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        if link.is_empty() {
            builder.append_data(&mut header, name, *content).unwrap();
        } else {
            builder.append_link(&mut header, name, link).unwrap();
        }
    }
    builder.into_inner().unwrap()
}

fn file<'a>(name: &'a str, content: &'a [u8]) -> (&'a str, tar::EntryType, &'a str, &'a [u8]) {
    (name, tar::EntryType::Regular, "", content)
}

/// A file with a name that no builder writes.
fn raw(name: &[u8], kind: u8, size: u64) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header.as_mut_bytes()[156] = kind;
    header.set_size(size);
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn read(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, ArchiveError> {
    let mut archive = Archive::new(bytes)?;
    let mut all = Vec::new();
    while let Some(entry) = archive.next_entry()? {
        let content = archive.read_whole(1 << 20)?;
        all.push((entry, content));
    }
    archive.finish()?;
    Ok(all)
}

#[test]
fn what_was_written_is_read_however_it_is_compressed() {
    let long = format!("blobs/{}", "x".repeat(300));
    let plain = tar(&[
        file("./index.json", b"{}"),
        file(&long, &[7; 1000]),
        ("a/layer.tar", tar::EntryType::Symlink, "../b.tar", b""),
        ("c", tar::EntryType::Link, "index.json", b""),
    ]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    for bytes in [plain.clone(), gzip.finish().unwrap(), zstd::encode_all(&plain[..], 1).unwrap()] {
        let all = read(&bytes).unwrap();
        assert_eq!(all[0], (Entry { path: "index.json".into(), kind: EntryKind::File, size: 2 }, b"{}".to_vec()));
        assert_eq!((all[1].0.path.as_str(), all[1].1.len()), (long.as_str(), 1000));
        assert_eq!(all[2].0.kind, EntryKind::Symlink("../b.tar".into()));
        assert_eq!(all[3].0.kind, EntryKind::HardLink("index.json".into()));
        assert_eq!(all.len(), 4);
    }
}

#[test]
fn an_archive_that_ends_early_says_where() {
    let whole = tar(&[file("a", &[1; 2000]), file("b", &[2; 10])]);
    for end in [100, 512, 700, 2400, 2600, 3072, 3100] {
        match read(&whole[..end]) {
            Err(ArchiveError::Truncated { .. }) => {}
            other => panic!("cut at {end}: {other:?}"),
        }
    }
    assert!(matches!(read(b""), Err(ArchiveError::Truncated { .. })));
}

#[test]
fn hostile_archives_are_refused() {
    let sparse = raw(b"a", b'S', 0);
    let device = raw(b"a", b'3', 0);
    let out = raw(b"../../etc/passwd", b'0', 0);
    let inside = raw(b"a/../../b", b'0', 0);
    let binary = raw(b"\xff\xfe", b'0', 0);
    let large_header = raw(b"a", b'x', 1 << 40);
    let mut bad_records = raw(b"a", b'x', 5);
    bad_records.extend_from_slice(&{
        let mut block = [0; BLOCK_BYTES];
        block[..5].copy_from_slice(b"9 a=\n");
        block
    });
    let mut huge = raw(b"a", b'0', 0);
    huge[124..136].fill(0xff);
    let mut sum: u64 = huge.iter().map(|b| u64::from(*b)).sum();
    sum = sum - huge[148..156].iter().map(|b| u64::from(*b)).sum::<u64>() + 8 * 32;
    huge[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    for (name, bytes) in [
        ("sparse", sparse),
        ("device", device),
        ("out", out),
        ("inside", inside),
        ("binary", binary),
        ("large header", large_header),
        ("bad records", bad_records),
        ("huge", huge),
        ("text", vec![b'x'; 4096]),
        ("xz", b"\xfd7zXZ\0rest".to_vec()),
    ] {
        let error = read(&bytes).unwrap_err();
        assert!(!matches!(error, ArchiveError::Read { .. }), "{name}: {error:?}");
    }
}

#[test]
fn a_document_has_a_bound_and_so_has_the_number_of_entries() {
    let claims = raw(b"index.json", b'0', 1 << 40);
    let mut archive = Archive::new(&claims[..]).unwrap();
    archive.next_entry().unwrap();
    assert!(matches!(archive.read_whole(8 << 20), Err(ArchiveError::TooMuch { .. })));

    let many = raw(b"a", b'5', 0).repeat(MAX_ENTRIES + 1);
    assert!(matches!(read(&many), Err(ArchiveError::TooMuch { .. })));
}

#[test]
fn paths_are_cleaned() {
    for (path, clean_path) in [
        ("./a//b/", Some("a/b")),
        ("/a", Some("a")),
        ("a/../b", Some("b")),
        ("..", None),
        ("a/../../b", None),
        ("", Some("")),
    ] {
        assert_eq!(clean(path).as_deref(), clean_path, "{path}");
    }
}

/// Numbers that are the same in every run.
fn numbers(mut state: u64) -> impl FnMut() -> usize {
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap()
    }
}

#[test]
fn damaged_archives_end_somehow() {
    let long = "y/".repeat(120);
    let good =
        tar(&[file("index.json", b"{}"), file(&long, &[1; 700]), ("l", tar::EntryType::Symlink, "index.json", b"")]);
    let mut next = numbers(0x2545_f491_4f6c_dd1d);
    for _ in 0..3000 {
        let mut bytes = good.clone();
        for _ in 0..1 + next() % 8 {
            let at = next() % bytes.len();
            bytes[at] = next() as u8;
        }
        // Half of them with headers that are right about themselves.
        if next().is_multiple_of(2) {
            for at in (0..bytes.len() - BLOCK_BYTES).step_by(BLOCK_BYTES) {
                let block = &mut bytes[at..at + BLOCK_BYTES];
                let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
                let field: u64 = block[148..156].iter().map(|byte| u64::from(*byte)).sum();
                let text = format!("{:06o}\0 ", sum - field + 8 * u64::from(b' '));
                block[148..156].copy_from_slice(text.as_bytes());
            }
        }
        bytes.truncate(bytes.len() - next() % 600);
        let _ = read(&bytes);
    }
}
