//! Large values, cut into pieces that an engine takes without special treatment.
//!
//! Every value in the engine begins with a tag: the value itself follows, or a note on where its pieces are. Pieces are
//! never changed: a new value gets new ones, in the same batch that removes the old.

use crate::engine::{Batch, MetaStore, Pair, Span};
use crate::error::StoreError;
use crate::key::printable;
use crate::overlay::Overlay;

/// The largest value, and the largest piece, that the engine sees, in bytes. sled keeps up to 17 values in one page and
/// moves a page that is larger than 128 KiB to a file of its own, without syncing it; so small a piece never gets there.
pub(crate) const PIECE_BYTES: usize = 6 * 1024;

/// The table of pieces: number of the value, number of the piece, both big-endian.
const PIECES: &str = "_pieces";
/// Where the number of the last value in pieces is kept, big-endian.
const LAST: (&str, &[u8]) = ("_meta", b"pieces");

const WHOLE: u8 = 0;
const IN_PIECES: u8 = 1;

/// A batch for the engine, and what lies at its keys before it is applied.
pub(crate) struct Staged {
    pub(crate) batch: Batch,
    pub(crate) before: Overlay,
}

/// The note on a value in pieces.
#[derive(Clone, Copy)]
struct Note {
    number: u64,
    length: u64,
}

/// The value at `key`, put together.
pub(crate) fn get(engine: &dyn MetaStore, table: &'static str, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
    engine.get(table, key)?.map(|stored| whole(engine, table, key, stored)).transpose()
}

/// The first `limit` pairs of `span`, those whose value is `wanted` put together, the others with an empty one.
pub(crate) fn scan(
    engine: &dyn MetaStore,
    table: &'static str,
    span: &Span,
    limit: usize,
    wanted: impl Fn(&[u8]) -> bool,
) -> Result<Vec<Pair>, StoreError> {
    let mut pairs = engine.scan(table, span, limit)?;
    for (key, value) in &mut pairs {
        let stored = std::mem::take(value);
        if wanted(key) {
            *value = whole(engine, table, key, stored)?;
        }
    }
    Ok(pairs)
}

/// What the engine must do to make `changes`.
pub(crate) fn stage(engine: &dyn MetaStore, changes: &Overlay) -> Result<Staged, StoreError> {
    let mut staged = Staged { batch: Batch::default(), before: Overlay::default() };
    let mut last = None;
    for (table, key, value) in changes.entries() {
        let old = engine.get(table, key)?;
        if let Some(note) = old.as_deref().and_then(note) {
            for at in 0..note.pieces() {
                staged.batch.delete(PIECES, piece_key(note.number, at));
            }
        }
        // A damaged value must not keep anybody from replacing or removing it.
        let old = match old.map(|stored| whole(engine, table, key, stored)).transpose() {
            Err(StoreError::Damaged { .. }) => None,
            old => old?,
        };
        staged.before.set(table, key.to_vec(), old);
        match value {
            None => staged.batch.delete(table, key.to_vec()),
            Some(value) if value.len() <= PIECE_BYTES => {
                staged.batch.put(table, key.to_vec(), [&[WHOLE], value].concat());
            }
            Some(value) => {
                let number = last.map_or_else(|| last_number(engine), Ok)? + 1;
                last = Some(number);
                for (at, piece) in (0..).zip(value.chunks(PIECE_BYTES)) {
                    staged.batch.put(PIECES, piece_key(number, at), piece.to_vec());
                }
                let note = Note { number, length: value.len() as u64 };
                staged.batch.put(table, key.to_vec(), note.encode());
            }
        }
    }
    if let Some(number) = last {
        staged.batch.put(LAST.0, LAST.1.to_vec(), number.to_be_bytes().to_vec());
    }
    Ok(staged)
}

impl Note {
    fn pieces(self) -> u32 {
        u32::try_from(self.length.div_ceil(PIECE_BYTES as u64)).unwrap_or(u32::MAX)
    }

    fn encode(self) -> Vec<u8> {
        [&[IN_PIECES][..], &self.number.to_be_bytes(), &self.length.to_be_bytes()].concat()
    }
}

fn note(stored: &[u8]) -> Option<Note> {
    let (&IN_PIECES, rest) = stored.split_first()? else { return None };
    let (number, length) = (rest.get(..8)?, rest.get(8..16)?);
    let number_of = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_be_bytes);
    Some(Note { number: number_of(number)?, length: number_of(length)? })
}

fn whole(engine: &dyn MetaStore, table: &'static str, key: &[u8], mut stored: Vec<u8>) -> Result<Vec<u8>, StoreError> {
    let damaged = |detail| StoreError::Damaged { table, key: printable(key), detail };
    if stored.first() == Some(&WHOLE) {
        stored.remove(0);
        return Ok(stored);
    }
    let note = note(&stored).ok_or_else(|| damaged("its first byte is unknown"))?;
    // Its length is not trusted for an allocation: it comes from disk.
    let mut value = Vec::new();
    for at in 0..note.pieces() {
        let piece = engine.get(PIECES, &piece_key(note.number, at))?.ok_or_else(|| damaged("a piece is missing"))?;
        value.extend_from_slice(&piece);
    }
    if value.len() as u64 == note.length { Ok(value) } else { Err(damaged("its pieces have the wrong length")) }
}

fn last_number(engine: &dyn MetaStore) -> Result<u64, StoreError> {
    let (table, key) = LAST;
    let damaged = || StoreError::Damaged { table, key: printable(key), detail: "it is no number" };
    match engine.get(table, key)? {
        Some(bytes) => Ok(u64::from_be_bytes(bytes.try_into().map_err(|_| damaged())?)),
        None => Ok(0),
    }
}

fn piece_key(number: u64, at: u32) -> Vec<u8> {
    [&number.to_be_bytes()[..], &at.to_be_bytes()].concat()
}
