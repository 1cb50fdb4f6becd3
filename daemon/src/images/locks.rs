//! Turns: whoever works on something that others may want too, so that they wait and find it done. Memory only; the store has
//! locks of its own against what comes from outside.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

type Turn = tokio::sync::Mutex<()>;

/// Turns by name. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Locks {
    turns: Arc<Mutex<HashMap<String, Weak<Turn>>>>,
}

impl Locks {
    /// Waits until nobody else has a turn of that name.
    ///
    /// # Cancel safety
    /// Dropped while it waits, it was never there.
    pub(super) async fn take(&self, name: String) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            match turns.get(&name).and_then(Weak::upgrade) {
                Some(turn) => turn,
                None => {
                    turns.retain(|_, turn| turn.strong_count() > 0);
                    let turn = Arc::new(Turn::new(()));
                    turns.insert(name, Arc::downgrade(&turn));
                    turn
                }
            }
        };
        turn.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn one_at_a_time_has_a_name() {
        let locks = Locks::default();
        let first = locks.take("a".into()).await;
        let _other = locks.take("b".into()).await;
        let second = tokio::time::timeout(Duration::from_millis(20), locks.take("a".into()));
        assert!(second.await.is_err());
        drop(first);
        let _second = locks.take("a".into()).await;
        assert_eq!(locks.turns.lock().unwrap().len(), 2);
    }
}
