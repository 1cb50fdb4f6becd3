//! How collection runs beside writers without stopping them.
//!
//! Collection starts to watch, then reads the records one by one, decides, and removes. A change that happens in between is
//! missing from what it read; so while it watches, every change names here what it creates, changes or begins to
//! refer to, from inside its transaction. Whatever was named is spared this time ([`crate::gc::mark::Dead::spare`]).
//!
//! An operation of several steps [`pins`](Barrier::pin) what it works on for as long as it lasts; that counts as a root.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::Namespace;

use crate::gc::node::Node;

/// What was touched since collection began to watch, and what is pinned. Both are names in a namespace.
#[derive(Debug, Default)]
pub struct Barrier {
    watching: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    touched: HashMap<Namespace, HashSet<Node>>,
    pins: HashMap<u64, (Namespace, Vec<Node>)>,
    last_pin: u64,
}

impl Barrier {
    /// Names objects that a change creates, changes or begins to refer to. Call it inside the transaction, before it ends.
    pub fn touch<I: IntoIterator<Item = Node>>(&self, namespace: &Namespace, nodes: impl FnOnce() -> I) {
        if self.watching.load(Ordering::SeqCst) {
            self.lock().touched.entry(namespace.clone()).or_default().extend(nodes());
        }
    }

    /// Holds objects as if by a root until the pin is dropped. They need not exist.
    pub fn pin(self: &Arc<Self>, namespace: &Namespace, nodes: Vec<Node>) -> Pin {
        let mut state = self.lock();
        state.last_pin += 1;
        let id = state.last_pin;
        state.pins.insert(id, (namespace.clone(), nodes.clone()));
        drop(state);
        // In this order: who begins to watch in between finds the pin.
        self.touch(namespace, || nodes);
        Pin { barrier: Arc::clone(self), id }
    }

    /// Begins to watch. Call it inside a transaction: what was changed before can then be read as soon as that is answered.
    pub fn start(&self) {
        self.lock().touched.clear();
        self.watching.store(true, Ordering::SeqCst);
    }

    /// Ends watching.
    pub fn stop(&self) {
        self.watching.store(false, Ordering::SeqCst);
        self.lock().touched.clear();
    }

    /// What was touched in a namespace since the last time this was asked.
    pub fn take_touched(&self, namespace: &Namespace) -> HashSet<Node> {
        self.lock().touched.remove(namespace).unwrap_or_default()
    }

    /// What is pinned in a namespace.
    pub fn pinned(&self, namespace: &Namespace) -> Vec<Node> {
        let state = self.lock();
        state.pins.values().filter(|(of, _)| of == namespace).flat_map(|(_, nodes)| nodes.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is a single insertion or removal.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Objects that an operation works on. They are let go when it is dropped.
#[derive(Debug)]
#[must_use = "what is pinned is let go at once"]
pub struct Pin {
    barrier: Arc<Barrier>,
    id: u64,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.barrier.lock().pins.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_happens_while_watching_is_kept() {
        let barrier = Arc::new(Barrier::default());
        let (a, b) = (Namespace::new("a").unwrap(), Namespace::new("b").unwrap());
        let node = |name: &str| Node::Image(name.into());
        barrier.touch(&a, || [node("before")]);
        barrier.start();
        barrier.touch(&a, || [node("during")]);
        let pin = barrier.pin(&b, vec![node("pinned")]);
        assert_eq!(barrier.take_touched(&a), HashSet::from([node("during")]));
        assert_eq!(barrier.take_touched(&a), HashSet::new());
        assert_eq!(barrier.take_touched(&b), HashSet::from([node("pinned")]));
        assert_eq!(barrier.pinned(&b), [node("pinned")]);
        assert_eq!(barrier.pinned(&a), []);
        drop(pin);
        assert_eq!(barrier.pinned(&b), []);
        barrier.touch(&a, || [node("late")]);
        barrier.stop();
        assert_eq!(barrier.take_touched(&a), HashSet::new());
    }
}
