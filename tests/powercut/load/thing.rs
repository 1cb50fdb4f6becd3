//! Contents and layers that can be made again from their names, so that a check needs nothing but names.

use std::io::Write as _;

/// The namespaces that are worked in.
pub(crate) const NAMESPACES: [&str; 2] = ["one", "two"];
/// The snapshotter.
pub(crate) const SNAPSHOTTER: &str = "overlayfs";
/// Files of a layer.
const FILES: u64 = 12;

/// The bytes that go with a name.
pub(crate) fn bytes(name: &str, length: usize) -> Vec<u8> {
    let mut state = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(length);
    out
}

/// The files of a layer: their names and lengths.
pub(crate) fn files(layer: &str) -> Vec<(String, usize)> {
    (0..FILES).map(|file| (format!("{layer}/file-{file}"), [7, 600, 5000, 70_000][file as usize % 4])).collect()
}

/// A layer as an archive.
pub(crate) fn archive(layer: &str) -> std::io::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut folder = tar::Header::new_gnu();
    folder.set_entry_type(tar::EntryType::Directory);
    folder.set_size(0);
    folder.set_mode(0o755);
    builder.append_data(&mut folder, format!("{layer}/"), std::io::empty())?;
    for (path, length) in files(layer) {
        let mut header = tar::Header::new_gnu();
        header.set_size(length as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, &path, bytes(&path, length).as_slice())?;
    }
    builder.into_inner()
}

/// Says a line at once: the next moment the power may be gone.
pub(crate) fn say(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes())?;
    out.flush()
}
