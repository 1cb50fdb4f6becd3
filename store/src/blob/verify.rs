//! Comparing a blob with its name before it is read.
//!
//! Blobs are never changed, so one that was compared is compared again only when its file is another one, or has another size or
//! time. What is remembered is bounded; beyond that it is forgotten as a whole.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use model::Digest;
use model::digest::Hasher;

use super::error::{BlobError, IoContext};

/// The most blobs that are remembered.
const MAX_REMEMBERED: usize = 100_000;

/// How much is read at a time, in bytes.
const PIECE: usize = 256 << 10;

/// What tells one state of a file from another: device, inode, size, and the time of the last change of bytes or attributes.
type Print = (u64, u64, u64, i64, i64);

/// Whether to compare, and what was.
#[derive(Debug, Default)]
pub(super) struct Verification {
    wanted: AtomicBool,
    good: Mutex<HashMap<Digest, Print>>,
}

impl Verification {
    pub(super) fn set_wanted(&self, wanted: bool) {
        self.wanted.store(wanted, Ordering::Relaxed);
    }

    /// Compares an open blob with its name, if that is wanted and was not done yet. Afterwards the file is at its beginning.
    pub(super) fn check(&self, digest: &Digest, file: &mut File) -> Result<(), BlobError> {
        if !self.wanted.load(Ordering::Relaxed) {
            return Ok(());
        }
        let metadata = file.metadata().during("looking up content")?;
        let print = (metadata.dev(), metadata.ino(), metadata.size(), metadata.ctime(), metadata.ctime_nsec());
        if self.good.lock().unwrap_or_else(PoisonError::into_inner).get(digest) == Some(&print) {
            return Ok(());
        }
        let got = hash(digest, file).during("comparing content with its digest")?;
        if got != *digest {
            return Err(BlobError::Corrupt { digest: digest.clone(), got });
        }
        let mut good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        if good.len() >= MAX_REMEMBERED {
            good.clear();
        }
        good.insert(digest.clone(), print);
        Ok(())
    }
}

fn hash(digest: &Digest, file: &mut File) -> io::Result<Digest> {
    let (mut hasher, mut piece) = (Hasher::new(digest.algorithm()), vec![0; PIECE]);
    loop {
        match file.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => hasher.update(&piece[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    file.rewind()?;
    Ok(hasher.finish())
}
