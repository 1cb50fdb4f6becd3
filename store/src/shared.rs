//! What readers and the committer share: the engine, and the shield.
//!
//! The shield is what was there before the group that is being written. It lies over the engine from just before the
//! group is applied until it is on disk, so nobody ever reads what a crash could take back, and no lock is held across
//! a flush. A reader holds the shield's lock for the length of one call; the committer only to lay it on or lift it.

use std::sync::RwLock;

use crate::chunks;
use crate::engine::{MetaStore, Pair, Span};
use crate::error::{EngineError, StoreError};
use crate::overlay::{Overlay, scan_over};
use crate::read::raw::Values;

/// The committed state of all tables.
pub(crate) struct Shared {
    engine: Box<dyn MetaStore>,
    shield: RwLock<Overlay>,
}

/// A shield's lock is only ever held by code that cannot panic halfway through a change.
const UNPOISONED: &str = "no holder of the shield panics while it changes it";

impl Shared {
    pub(crate) fn new(engine: Box<dyn MetaStore>) -> Self {
        Self { engine, shield: RwLock::default() }
    }

    /// The committed value at `key`.
    pub(crate) fn get(&self, table: &'static str, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let shield = self.shield.read().expect(UNPOISONED);
        match shield.get(table, key) {
            Some(value) => Ok(value.map(<[u8]>::to_vec)),
            None => chunks::get(&*self.engine, table, key),
        }
    }

    /// The first `limit` committed pairs of `span`.
    pub(crate) fn scan(
        &self,
        table: &'static str,
        span: &Span,
        limit: usize,
        values: Values,
    ) -> Result<Vec<Pair>, StoreError> {
        let shield = self.shield.read().expect(UNPOISONED);
        // The pieces of a shielded value may be gone already; what the shield says of it counts anyway.
        let wanted = |key: &[u8]| values == Values::Whole && shield.get(table, key).is_none();
        scan_over(&[&shield], table, span, limit, |span, limit| chunks::scan(&*self.engine, table, span, limit, wanted))
    }

    /// Makes `changes` durable, then visible. Only the committer calls this, one call at a time.
    ///
    /// # Errors
    /// [`StoreError`]. If it came from the engine the changes are in doubt, and readers keep seeing the state before.
    pub(crate) fn commit(&self, changes: &Overlay) -> Result<(), CommitError> {
        let staged = chunks::stage(&*self.engine, changes).map_err(CommitError::Untouched)?;
        *self.shield.write().expect(UNPOISONED) = staged.before;
        self.engine.apply(&staged.batch).map_err(CommitError::InDoubt)?;
        self.engine.flush().map_err(CommitError::InDoubt)?;
        *self.shield.write().expect(UNPOISONED) = Overlay::default();
        Ok(())
    }
}

/// How a commit failed.
pub(crate) enum CommitError {
    /// Nothing was changed.
    Untouched(StoreError),
    /// The changes may or may not be there after the next start.
    InDoubt(EngineError),
}
