//! From one engine to the other, everything or nothing.
//!
//! The copy is made beside the original and takes its place when it is whole. If that is interrupted, either the
//! original is as it was, or both are there and opening says so.

use std::fs;
use std::path::Path;

use crate::atomic::sync_dir;
use crate::committer::GROUP_BYTES;
use crate::engine::{Batch, MetaStore, Span};
use crate::error::{EngineError, OpenCause, OpenError};
use crate::open::{Options, lock, make_dir, move_aside, open_engine, present};

/// How many records are read at a time.
const PAGE: usize = 200;

/// Converts the store in `dir` to the engine of `options`, and moves the old data aside within the folder. The store must
/// not be open. Whether anything was to be done.
///
/// # Errors
/// [`OpenError`]; the store is then as it was before.
pub fn convert(dir: &Path, options: Options) -> Result<bool, OpenError> {
    convert_in(dir, options).map_err(|cause| OpenError { dir: dir.to_owned(), cause })
}

fn convert_in(dir: &Path, options: Options) -> Result<bool, OpenCause> {
    let io = |what| move |source| OpenCause::Io { what, source };
    let _lock = lock(dir)?;
    let from = match present(dir)[..] {
        [from] if from != options.engine => from,
        [_] | [] => return Ok(false),
        _ => return Err(OpenCause::BothEngines),
    };
    let unfinished = dir.join(format!("{}.unfinished", options.engine));
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).map_err(io("cannot remove an earlier attempt"))?;
    }
    make_dir(&unfinished).map_err(io("cannot make the new engine's folder"))?;
    let old_home = dir.join(from.name());
    let old = open_engine(old_home.clone(), Options { engine: from, ..options }, None)?;
    let new = open_engine(unfinished.clone(), options, None)?;
    copy(&*old, &*new).map_err(OpenCause::Damaged)?;
    drop((old, new));
    fs::rename(&unfinished, dir.join(options.engine.name())).map_err(io("cannot name the new data"))?;
    sync_dir(dir).map_err(io("cannot sync the folder"))?;
    move_aside(&old_home).map_err(io("cannot move the old data aside"))?;
    Ok(true)
}

fn copy(old: &dyn MetaStore, new: &dyn MetaStore) -> Result<(), EngineError> {
    for table in old.tables()? {
        // Engines name tables by what lives as long as the program. There are few, and this is done once.
        let table: &'static str = table.leak();
        let mut span = Span::prefix(&[]);
        loop {
            let page = old.scan(table, &span, PAGE)?;
            let Some((last, _)) = page.last() else { break };
            span = span.behind(last);
            let (mut batch, mut bytes) = (Batch::default(), 0);
            for (key, value) in page {
                bytes += key.len() + value.len();
                batch.put(table, key, value);
                if bytes >= GROUP_BYTES {
                    write(new, &std::mem::take(&mut batch))?;
                    bytes = 0;
                }
            }
            write(new, &batch)?;
        }
    }
    Ok(())
}

fn write(new: &dyn MetaStore, batch: &Batch) -> Result<(), EngineError> {
    new.apply(batch)?;
    new.flush()
}
