//! What readers and the committer share: the engine, and the shield.
//!
//! The shield is what was there before the group that is being written. It lies over the engine from just before the
//! group is applied until it is on disk, so nobody ever reads what a crash could take back, and no reader waits for a
//! flush. The committer takes the lock for writing only to lay the shield on, to lift it, or to change the engine.
//!
//! After a failure an engine is of no more use: both refuse everything, reads too, until they are opened again. So the
//! committer does that, and what it finds on disk is the truth.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::chunks;
use crate::engine::{MetaStore, Pair, Span};
use crate::error::{EngineError, StoreError};
use crate::overlay::{Overlay, scan_over};
use crate::read::raw::Values;

/// The committed state of all tables.
pub(crate) struct Shared {
    state: RwLock<State>,
    /// Whether the engine failed since it was opened.
    failed: AtomicBool,
}

struct State {
    /// The engine, or why there is none.
    engine: Result<Box<dyn MetaStore>, Arc<EngineError>>,
    shield: Overlay,
}

impl State {
    fn engine(&self) -> Result<&dyn MetaStore, StoreError> {
        self.engine.as_deref().map_err(|error| StoreError::Stopped(Arc::clone(error)))
    }
}

impl Shared {
    pub(crate) fn new(engine: Box<dyn MetaStore>) -> Self {
        Self {
            state: RwLock::new(State { engine: Ok(engine), shield: Overlay::default() }),
            failed: AtomicBool::new(false),
        }
    }

    /// The committed value at `key`.
    pub(crate) fn get(&self, table: &'static str, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let state = self.state();
        match state.shield.get(table, key) {
            Some(value) => Ok(value.map(<[u8]>::to_vec)),
            None => self.noting(chunks::get(state.engine()?, table, key)),
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
        let state = self.state();
        let engine = state.engine()?;
        // The pieces of a shielded value may be gone already; what the shield says of it counts anyway.
        let wanted = |key: &[u8]| values == Values::Whole && state.shield.get(table, key).is_none();
        self.noting(scan_over(&[&state.shield], table, span, limit, |span, limit| {
            chunks::scan(engine, table, span, limit, wanted)
        }))
    }

    /// Makes `changes` durable, then visible. Only the committer calls this.
    ///
    /// # Errors
    /// [`StoreError`]. If it came from the engine the changes are in doubt; readers then keep seeing what was before,
    /// until [`Shared::replace`].
    pub(crate) fn commit(&self, changes: &Overlay) -> Result<(), StoreError> {
        let staged = self.noting(chunks::stage(self.state().engine()?, changes))?;
        self.state_mut().shield = staged.before;
        {
            let state = self.state();
            let engine = state.engine()?;
            let written = engine.apply(&staged.batch).and_then(|()| engine.flush());
            self.noting(written.map_err(StoreError::from))?;
        }
        self.state_mut().shield = Overlay::default();
        Ok(())
    }

    /// Whether the engine failed and must be opened again.
    pub(crate) fn needs_reopening(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Notes that the engine failed, where that was not seen here.
    pub(crate) fn note_failure(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Takes the engine out, because of `error`. From here on all is refused.
    pub(crate) fn take_engine(&self, error: Arc<EngineError>) -> Option<Box<dyn MetaStore>> {
        std::mem::replace(&mut self.state_mut().engine, Err(error)).ok()
    }

    /// Goes on with a freshly opened engine, and with what that has on disk.
    pub(crate) fn replace(&self, engine: Box<dyn MetaStore>) {
        *self.state_mut() = State { engine: Ok(engine), shield: Overlay::default() };
        self.failed.store(false, Ordering::Relaxed);
    }

    /// Why there is no engine.
    pub(crate) fn stopped(&self) -> Option<StoreError> {
        self.state().engine().err()
    }

    fn noting<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(StoreError::Engine(_)) = &result {
            self.note_failure();
        }
        result
    }

    /// An engine that panics leaves nothing half-done in the state itself, so a poisoned lock is as good as any.
    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
