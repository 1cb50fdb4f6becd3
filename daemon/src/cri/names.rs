//! Names that are taken: of pods and containers, by whoever makes or has them.
//!
//! A name is reserved before anything is made, so that of two equal requests one fails at once. A [`Reservation`] gives its name back
//! when it is dropped, unless it was kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use proto::cri::{ContainerMetadata, PodSandboxMetadata};

use super::CriError;

/// All names that are taken, and for whom. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Names {
    taken: Arc<Mutex<HashMap<String, String>>>,
}

/// A name that is held.
#[derive(Debug)]
#[must_use = "it is given back when it is dropped"]
pub struct Reservation {
    names: Names,
    name: Option<String>,
}

impl Names {
    /// Takes a name for `id`.
    ///
    /// # Errors
    /// Somebody else has it.
    pub fn reserve(&self, name: String, id: &str) -> Result<Reservation, CriError> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.get(&name) {
            Some(other) if other != id => return Err(CriError::Reserved { id: other.clone(), name }),
            _ => taken.insert(name.clone(), id.to_owned()),
        };
        Ok(Reservation { names: self.clone(), name: Some(name) })
    }

    /// Gives back the name that belongs to `id`; nothing if it is somebody else's.
    pub fn release(&self, name: &str, id: &str) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.get(name).is_some_and(|owner| owner == id) {
            taken.remove(name);
        }
    }
}

impl Reservation {
    /// The name stays taken until it is released.
    pub fn keep(mut self) {
        self.name = None;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(name) = self.name.take() {
            self.names.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
        }
    }
}

/// The name of a pod, which says all that makes it unique.
pub fn of_pod(metadata: &PodSandboxMetadata) -> String {
    let PodSandboxMetadata { name, uid, namespace, attempt } = metadata;
    format!("{name}_{namespace}_{uid}_{attempt}")
}

/// The name of a container, which says all that makes it unique.
pub fn of_container(container: &ContainerMetadata, pod: &PodSandboxMetadata) -> String {
    let PodSandboxMetadata { name, uid, namespace, .. } = pod;
    format!("{}_{name}_{namespace}_{uid}_{}", container.name, container.attempt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_for_one_until_it_is_given_back() {
        let names = Names::default();
        let held = names.reserve("a".into(), "1").unwrap();
        let refused = names.reserve("a".into(), "2").unwrap_err();
        assert_eq!(refused.to_string(), "name \"a\" is reserved for \"1\"");
        drop(held);
        names.reserve("a".into(), "2").unwrap().keep();
        assert!(names.reserve("a".into(), "3").is_err());
        names.release("a", "3");
        assert!(names.reserve("a".into(), "3").is_err(), "only its owner gives a name back");
        names.release("a", "2");
        assert!(names.reserve("a".into(), "3").is_ok());
    }
}
