//! Writes the difference between two trees as a layer archive.

mod same;
mod sink;
mod tar;
mod walk;

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::SystemTime;

use model::error::{Classify, Kind};
use model::{Digest, Mount};

use rustix::fs::Timespec;

use crate::layer::{Compression, Whiteouts, split_lowers};
use sink::Sink;
use tar::TarWriter;
use walk::Walk;

/// What to write down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changes {
    /// What makes `upper` out of `lower`, two plain trees. Without `lower`, everything in `upper`.
    Trees {
        /// The tree as it was.
        lower: Option<PathBuf>,
        /// The tree as it is.
        upper: PathBuf,
    },
    /// What the upper folder of an overlay says about the folders below it.
    Overlay {
        /// The upper folder.
        upper: PathBuf,
        /// How it expresses deletions.
        whiteouts: Whiteouts,
        /// The lower folders, nearest first: what is unchanged in them is left out.
        lowers: Vec<PathBuf>,
    },
}

/// How to write an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The compression.
    pub compression: Compression,
    /// No time in the archive is later than this.
    pub source_date_epoch: Option<SystemTime>,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diff {
    /// The digest of the uncompressed archive.
    pub diff_id: Digest,
    /// The size of the uncompressed archive, in bytes.
    pub size_bytes: u64,
    /// The number of entries.
    pub entries: u64,
}

/// Why a difference could not be written.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    /// A file or folder could not be read.
    #[error("cannot {doing} {}", path.display())]
    Read {
        /// What was being done, as a verb.
        doing: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file changed while it was written down.
    #[error("{} changed while it was read", path.display())]
    Changed {
        /// Which file.
        path: PathBuf,
    },
    /// A file that no archive can hold.
    #[error("cannot write down {}: {why}", path.display())]
    Unsupported {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: &'static str,
    },
    /// The archive could not be written.
    #[error("cannot write the layer")]
    Write {
        /// What the writer said.
        source: io::Error,
    },
}

impl Classify for DiffError {
    fn kind(&self) -> Kind {
        match self {
            Self::Changed { .. } => Kind::FailedPrecondition,
            Self::Unsupported { .. } => Kind::Unimplemented,
            Self::Read { source, .. } | Self::Write { source } => match model::error::io_kind(source) {
                Kind::NotFound | Kind::AlreadyExists => Kind::Internal,
                kind => kind,
            },
        }
    }
}

impl Changes {
    /// The changes between two lists of mounts, where they can be read without mounting: two trees, or an overlay of one layer
    /// more than the other. Without `lower`, everything in `upper`. `None` for other mounts: mount both and compare the trees.
    pub fn from_mounts(lower: &[Mount], upper: &[Mount]) -> Option<Self> {
        let (upper_stack, whiteouts) = stack(upper)?;
        let (lower_stack, _) = stack(lower)?;
        match (&lower_stack[..], &upper_stack[..]) {
            (lower, [top, below @ ..]) if !below.is_empty() && lower == below => {
                Some(Self::Overlay { upper: top.clone(), whiteouts, lowers: lower_stack })
            }
            ([], [upper]) => Some(Self::Trees { lower: None, upper: upper.clone() }),
            ([lower], [upper]) => Some(Self::Trees { lower: Some(lower.clone()), upper: upper.clone() }),
            _ => None,
        }
    }
}

/// The folders that mounts show on top of each other, nearest first.
fn stack(mounts: &[Mount]) -> Option<(Vec<PathBuf>, Whiteouts)> {
    let mount = match mounts {
        [] => return Some((Vec::new(), Whiteouts::OverlayTrusted)),
        [mount] => mount,
        _ => return None,
    };
    let value = |name: &str| mount.options.iter().find_map(|option| option.strip_prefix(name)?.strip_prefix('='));
    let user = mount.options.iter().any(|option| option == "userxattr");
    let whiteouts = if user { Whiteouts::OverlayUser } else { Whiteouts::OverlayTrusted };
    match mount.kind.as_str() {
        "bind" => Some((vec![PathBuf::from(&mount.source)], whiteouts)),
        "overlay" => {
            let lowers = value("lowerdir").map(split_lowers).unwrap_or_default();
            Some((value("upperdir").map(PathBuf::from).into_iter().chain(lowers).collect(), whiteouts))
        }
        _ => None,
    }
}

/// Writes `changes` to `out`, in an order that depends on the trees alone.
///
/// # Errors
/// At the first file that cannot be read; what was written until then is useless.
pub fn write(changes: &Changes, out: impl Write, options: &Options) -> Result<Diff, DiffError> {
    let failed = |source| DiffError::Write { source };
    let latest = options.source_date_epoch.map(seconds);
    let out = TarWriter::new(Sink::new(out, options.compression).map_err(failed)?);
    let out = Walk::new(changes, out, latest)?.run()?;
    let entries = out.entries;
    let (diff_id, size_bytes) = out.sink.finish().map_err(failed)?;
    Ok(Diff { diff_id, size_bytes, entries })
}

fn seconds(time: SystemTime) -> Timespec {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timespec { tv_sec: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(since.subsec_nanos()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, source: &str, options: &[&str]) -> Vec<Mount> {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        vec![Mount { kind: kind.into(), source: source.into(), target: String::new(), options }]
    }

    #[test]
    fn one_layer_more_is_read_from_that_layer() {
        let active = mount("overlay", "overlay", &["workdir=/w", "upperdir=/3", "lowerdir=/2:/1"]);
        let view = mount("overlay", "overlay", &["lowerdir=/2:/1"]);
        let overlay = |upper: &str, lowers: &[&str]| {
            let lowers = lowers.iter().map(PathBuf::from).collect();
            Some(Changes::Overlay { upper: upper.into(), whiteouts: Whiteouts::OverlayTrusted, lowers })
        };
        assert_eq!(Changes::from_mounts(&view, &active), overlay("/3", &["/2", "/1"]));
        assert_eq!(Changes::from_mounts(&mount("bind", "/1", &["ro"]), &view), overlay("/2", &["/1"]));
        assert_eq!(Changes::from_mounts(&mount("bind", "/2", &["ro"]), &active), None);
        assert_eq!(Changes::from_mounts(&mount("bind", "/2", &["ro"]), &view), None);
    }

    #[test]
    fn binds_are_trees() {
        let (a, b) = (mount("bind", "/a", &[]), mount("bind", "/b", &[]));
        let trees = |lower: Option<&str>| Some(Changes::Trees { lower: lower.map(Into::into), upper: "/b".into() });
        assert_eq!(Changes::from_mounts(&a, &b), trees(Some("/a")));
        assert_eq!(Changes::from_mounts(&[], &b), trees(None));
        assert_eq!(Changes::from_mounts(&a, &mount("ext4", "/dev/x", &[])), None);
    }
}
