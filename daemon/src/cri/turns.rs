//! Turns: one call at a time works on a pod or on a container.
//!
//! A call that has a pod's turn may take those of its containers, never the other way round.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

/// Who works on what. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Turns {
    all: Arc<Mutex<HashMap<String, Arc<Turn<()>>>>>,
}

/// The turn of one pod or container, until it is dropped.
#[derive(Debug)]
#[must_use = "it ends when it is dropped"]
pub struct Held {
    turns: Turns,
    id: String,
    turn: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits for the turn of `id`; who came first is first.
    pub async fn take(&self, id: &str) -> Held {
        let turn = {
            let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(id.to_owned()).or_default())
        };
        Held { turns: self.clone(), id: id.to_owned(), turn: Some(turn.lock_owned().await) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.turn = None;
        let mut all = self.turns.all.lock().unwrap_or_else(PoisonError::into_inner);
        // Those who wait have a reference as well.
        if all.get(&self.id).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            all.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn turns_are_taken_in_order_and_forgotten() {
        let turns = Turns::default();
        let first = turns.take("a").await;
        let waiting = tokio::spawn({
            let turns = turns.clone();
            async move { drop(turns.take("a").await) }
        });
        let _other = turns.take("b").await;
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        waiting.await.unwrap();
        assert_eq!(turns.all.lock().unwrap().len(), 1, "only b is left");
    }
}
