//! Who uses a file or folder that is named by what it is: a blob by its digest, a snapshot by its driver's key.
//!
//! Somebody may be about to record such a name while collection is about to remove what it stands for, since nobody has recorded
//! it. Users hold the name while they look and record; collection removes only what nobody holds, and users wait until it is
//! over. It guards names in memory; it opens nothing.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// The names in use.
#[derive(Debug, Default)]
pub struct Busy {
    names: Mutex<HashMap<String, Use>>,
    freed: Condvar,
}

#[derive(Debug)]
enum Use {
    /// By that many users, at least one.
    Held(usize),
    /// By one that must be alone, for one collection that removes it.
    Claimed,
}

impl Busy {
    /// Holds a name; waits while it is being removed, which is the time of a removal and no more. For blocking code.
    pub fn hold(self: &Arc<Self>, name: impl Into<String>) -> Hold {
        let name = name.into();
        let mut names = self.lock();
        loop {
            match names.get_mut(&name) {
                None => {
                    names.insert(name.clone(), Use::Held(1));
                    break;
                }
                Some(Use::Held(users)) => {
                    *users += 1;
                    break;
                }
                Some(Use::Claimed) => names = self.freed.wait(names).unwrap_or_else(PoisonError::into_inner),
            }
        }
        drop(names);
        Hold { busy: Arc::clone(self), name }
    }

    /// Claims a name for removal; `None` while somebody holds it.
    pub fn claim(self: &Arc<Self>, name: impl Into<String>) -> Option<Claim> {
        let name = name.into();
        let mut names = self.lock();
        if names.contains_key(&name) {
            return None;
        }
        names.insert(name.clone(), Use::Claimed);
        drop(names);
        Some(Claim { busy: Arc::clone(self), name })
    }

    /// Claims a name for a change that must be alone; waits for its users and other claims. For blocking code.
    pub fn claim_waiting(self: &Arc<Self>, name: impl Into<String>) -> Claim {
        let name = name.into();
        let mut names = self.lock();
        while names.contains_key(&name) {
            names = self.freed.wait(names).unwrap_or_else(PoisonError::into_inner);
        }
        names.insert(name.clone(), Use::Claimed);
        drop(names);
        Claim { busy: Arc::clone(self), name }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Use>> {
        // Every change under the lock is a single insertion, removal or number.
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A held name. It is let go when this is dropped.
#[derive(Debug)]
#[must_use = "the name is let go at once"]
pub struct Hold {
    busy: Arc<Busy>,
    name: String,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut names = self.busy.lock();
        match names.get_mut(&self.name) {
            Some(Use::Held(users)) if *users > 1 => *users -= 1,
            _ => {
                names.remove(&self.name);
                self.busy.freed.notify_all();
            }
        }
    }
}

/// A name that nobody else may use. Others go on when this is dropped.
#[derive(Debug)]
#[must_use = "the claim ends at once"]
pub struct Claim {
    busy: Arc<Busy>,
    name: String,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.busy.lock().remove(&self.name);
        self.busy.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_name_is_not_removed() {
        let busy = Arc::new(Busy::default());
        let (first, second) = (busy.hold("a"), busy.hold("a"));
        assert!(busy.claim("a").is_none());
        assert!(busy.claim("b").is_some());
        drop(first);
        assert!(busy.claim("a").is_none());
        drop(second);
        let claim = busy.claim("a").unwrap();
        assert!(busy.claim("a").is_none());
        let waiting = std::thread::spawn({
            let busy = Arc::clone(&busy);
            move || drop(busy.hold("a"))
        });
        drop(claim);
        waiting.join().unwrap();
        let hold = busy.hold("a");
        let waiting = std::thread::spawn({
            let busy = Arc::clone(&busy);
            move || drop(busy.claim_waiting("a"))
        });
        drop(hold);
        waiting.join().unwrap();
        assert!(busy.claim("a").is_some());
    }
}
