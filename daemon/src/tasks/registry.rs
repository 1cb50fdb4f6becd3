//! Who owns an id. The only table of tasks; a lock around memory and nothing else.
//!
//! ```text
//!  (free) ──reserve──► Creating ──commit──► Live ──retire──► Leaving ──drop──► (free)
//!                         └────────drop───► (free)
//! ```
//!
//! A [`Reservation`] is the right to an id, for making a task and for taking one apart. It is a value: whoever holds it works
//! alone on that id, and dropping it, wherever that happens, frees the id.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::{ContainerId, Namespace};
use tokio::sync::Notify;

/// Names a task.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// The namespace.
    pub namespace: Namespace,
    /// The container.
    pub id: ContainerId,
}

/// How long a new task waits for the last one of its name to be taken apart.
const LEAVING_TIME: Duration = Duration::from_secs(10);

/// The id belongs to somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taken;

/// All tasks, by name. Generic so that its rules can be tested without shims.
#[derive(Debug)]
pub(super) struct Registry<T> {
    table: Arc<Table<T>>,
}

#[derive(Debug)]
struct Table<T> {
    slots: Mutex<HashMap<Key, Slot<T>>>,
    freed: Notify,
    leaving_time: Duration,
}

#[derive(Debug)]
enum Slot<T> {
    Creating,
    Live(Arc<T>),
    Leaving(Arc<T>),
}

impl<T> Table<T> {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Slot<T>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Clone for Registry<T> {
    fn clone(&self) -> Self {
        Self { table: self.table.clone() }
    }
}

impl<T> Default for Registry<T> {
    fn default() -> Self {
        Self::with(LEAVING_TIME)
    }
}

impl<T> Registry<T> {
    fn with(leaving_time: Duration) -> Self {
        Self { table: Arc::new(Table { slots: Mutex::default(), freed: Notify::new(), leaving_time }) }
    }

    /// Takes an id for a new task. If the last task of that name is just being taken apart, it waits for that.
    ///
    /// # Errors
    /// There is a task, or somebody is making one.
    pub(super) async fn reserve(&self, key: &Key) -> Result<Reservation<T>, Taken> {
        let waiting = async {
            loop {
                let freed = self.table.freed.notified();
                tokio::pin!(freed);
                // From here on a wake-up is not missed.
                freed.as_mut().enable();
                match self.try_reserve(key) {
                    Some(answer) => return answer,
                    None => freed.await,
                }
            }
        };
        tokio::time::timeout(self.table.leaving_time, waiting).await.unwrap_or(Err(Taken))
    }

    /// `None` while the last task is leaving.
    fn try_reserve(&self, key: &Key) -> Option<Result<Reservation<T>, Taken>> {
        let mut slots = self.table.lock();
        match slots.get(key) {
            None => {
                slots.insert(key.clone(), Slot::Creating);
                Some(Ok(Reservation { table: self.table.clone(), key: key.clone(), held: true }))
            }
            Some(Slot::Creating | Slot::Live(_)) => Some(Err(Taken)),
            Some(Slot::Leaving(_)) => None,
        }
    }

    /// The task of that name.
    pub(super) fn get(&self, key: &Key) -> Option<Arc<T>> {
        match self.table.lock().get(key) {
            Some(Slot::Live(task)) => Some(task.clone()),
            _ => None,
        }
    }

    /// The task of that name, also while it is being taken apart.
    pub(super) fn get_or_leaving(&self, key: &Key) -> Option<Arc<T>> {
        match self.table.lock().get(key) {
            Some(Slot::Live(task) | Slot::Leaving(task)) => Some(task.clone()),
            _ => None,
        }
    }

    /// All tasks, in no order.
    pub(super) fn list(&self) -> Vec<(Key, Arc<T>)> {
        let slots = self.table.lock();
        slots
            .iter()
            .filter_map(|(key, slot)| match slot {
                Slot::Live(task) => Some((key.clone(), task.clone())),
                _ => None,
            })
            .collect()
    }

    /// Whether anybody holds a reservation.
    #[cfg(test)]
    pub(super) fn is_busy(&self) -> bool {
        self.table.lock().values().any(|slot| !matches!(slot, Slot::Live(_)))
    }

    /// Takes this very task out of the list; nobody finds it from here on. `None` if somebody else did so before.
    pub(super) fn retire(&self, key: &Key, task: &Arc<T>) -> Option<Reservation<T>> {
        let mut slots = self.table.lock();
        let slot = slots.get_mut(key)?;
        match slot {
            Slot::Live(live) if Arc::ptr_eq(live, task) => {
                *slot = Slot::Leaving(task.clone());
                Some(Reservation { table: self.table.clone(), key: key.clone(), held: true })
            }
            _ => None,
        }
    }
}

/// The right to an id. Dropping it frees the id.
#[derive(Debug)]
#[must_use]
pub(super) struct Reservation<T> {
    table: Arc<Table<T>>,
    key: Key,
    held: bool,
}

impl<T> Reservation<T> {
    /// Whose right it is.
    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    /// Puts the task in the list; the id is its own now.
    pub(super) fn commit(mut self, task: Arc<T>) {
        self.held = false;
        self.table.lock().insert(self.key.clone(), Slot::Live(task));
    }
}

impl<T> Drop for Reservation<T> {
    fn drop(&mut self) {
        if self.held {
            self.table.lock().remove(&self.key);
            self.table.freed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> Key {
        Key { namespace: Namespace::new("ns").unwrap(), id: ContainerId::new(id).unwrap() }
    }

    #[tokio::test]
    async fn of_two_who_reserve_one_gets_it() {
        let registry = Registry::<u32>::default();
        let first = registry.reserve(&key("a")).await.unwrap();
        assert_eq!(registry.reserve(&key("a")).await.unwrap_err(), Taken);
        let other = registry.reserve(&key("b")).await.unwrap();
        assert!(registry.get(&key("a")).is_none(), "not before it is made");
        first.commit(Arc::new(1));
        assert_eq!(registry.reserve(&key("a")).await.unwrap_err(), Taken);
        assert_eq!(registry.get(&key("a")).as_deref(), Some(&1));
        drop(other);
        assert_eq!(registry.list().len(), 1);
        drop(registry.reserve(&key("b")).await.unwrap());
    }

    #[tokio::test]
    async fn a_task_is_retired_once_and_only_itself() {
        let registry = Registry::<u32>::default();
        let task = Arc::new(1);
        registry.reserve(&key("a")).await.unwrap().commit(task.clone());
        assert!(registry.retire(&key("a"), &Arc::new(1)).is_none(), "another one of that name");
        let leaving = registry.retire(&key("a"), &task).unwrap();
        assert!(registry.retire(&key("a"), &task).is_none());
        assert!(registry.get(&key("a")).is_none() && registry.list().is_empty());
        assert!(registry.get_or_leaving(&key("a")).is_some());
        drop(leaving);
        assert!(registry.get_or_leaving(&key("a")).is_none());
    }

    #[tokio::test]
    async fn a_new_task_waits_for_the_last_one_to_leave() {
        let registry = Registry::<u32>::default();
        let task = Arc::new(1);
        registry.reserve(&key("a")).await.unwrap().commit(task.clone());
        let leaving = registry.retire(&key("a"), &task).unwrap();
        let waiting = tokio::spawn({
            let registry = registry.clone();
            async move { registry.reserve(&key("a")).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(leaving);
        waiting.await.unwrap().unwrap().commit(Arc::new(2));
        assert_eq!(registry.get(&key("a")).as_deref(), Some(&2));
    }

    #[tokio::test]
    async fn but_not_for_ever() {
        let registry = Registry::<u32>::with(Duration::from_millis(50));
        let task = Arc::new(1);
        registry.reserve(&key("a")).await.unwrap().commit(task.clone());
        let _leaving = registry.retire(&key("a"), &task).unwrap();
        assert_eq!(registry.reserve(&key("a")).await.unwrap_err(), Taken);
    }
}
