//! Reading and writing the small text files of cgroupfs.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use super::CgroupError;

/// A whole file; `None` when it is not there or cannot be read (a controller or kernel without it).
pub(super) fn text(folder: &Path, file: &str) -> Option<String> {
    std::fs::read_to_string(folder.join(file)).ok()
}

/// A single number. The kernel's word for no limit becomes `none`.
pub(super) fn number(folder: &Path, file: &str, none: u64) -> Option<u64> {
    let text = text(folder, file)?;
    let word = text.trim();
    if word == "max" { Some(none) } else { word.parse().ok() }
}

/// Lines of `key value`.
pub(super) fn table(folder: &Path, file: &str) -> HashMap<String, u64> {
    let text = text(folder, file).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let (key, value) = line.split_once(' ')?;
            Some((key.to_owned(), value.trim().parse().ok()?))
        })
        .collect()
}

/// Writes a value in one write, as cgroupfs wants it.
pub(super) fn write(folder: &Path, file: &str, value: &str) -> Result<(), CgroupError> {
    let path = folder.join(file);
    let attempt = || std::fs::OpenOptions::new().write(true).open(&path)?.write_all(value.as_bytes());
    attempt().map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => CgroupError::Gone { path: path.clone() },
        _ => CgroupError::Io { path: path.clone(), source },
    })
}

/// Page sizes for which the folder has files `hugetlb.<size>.<suffix>`, sorted.
pub(super) fn hugetlb_sizes(folder: &Path, suffix: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut sizes: Vec<String> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            Some(name.strip_prefix("hugetlb.")?.strip_suffix(suffix)?.strip_suffix('.')?.to_owned())
        })
        .filter(|size| !size.contains('.'))
        .collect();
    sizes.sort();
    sizes
}

/// `rdma.current` or `rdma.max`: `mlx4_0 hca_handle=2 hca_object=max`.
pub(super) fn rdma(folder: &Path, file: &str) -> Vec<super::v1::RdmaEntry> {
    let text = text(folder, file).unwrap_or_default();
    let value = |field: Option<&str>| {
        let word = field.and_then(|field| field.split_once('=')).map_or("0", |(_, value)| value);
        if word == "max" { u32::MAX } else { word.parse().unwrap_or(0) }
    };
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let device = words.next()?.to_owned();
            let hca_handles = value(words.next());
            Some(super::v1::RdmaEntry { device, hca_handles, hca_objects: value(words.next()) })
        })
        .collect()
}
