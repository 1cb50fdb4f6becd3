//! Pods and containers in memory: what lists and statuses are answered from.
//!
//! It is rebuilt from the records at the start, and follows them. Reading never waits for a change: a record is replaced whole.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};

use super::CriError;
use super::record::{ContainerRecord, PodPhase, PodRecord};

/// A pod.
#[derive(Debug)]
pub struct Pod {
    /// Its id.
    pub id: String,
    record: RwLock<Arc<PodRecord>>,
}

/// A container.
#[derive(Debug)]
pub struct Container {
    /// Its id.
    pub id: String,
    record: RwLock<Arc<ContainerRecord>>,
}

macro_rules! entry {
    ($name:ident, $record:ident) => {
        impl $name {
            /// What is kept of it, as it is now.
            pub fn record(&self) -> Arc<$record> {
                Arc::clone(&self.record.read().unwrap_or_else(PoisonError::into_inner))
            }

            /// Replaces it. For those alone who made it durable.
            pub(super) fn set(&self, record: $record) -> Arc<$record> {
                let record = Arc::new(record);
                *self.record.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&record);
                record
            }

            /// One that is known from now on.
            pub(super) fn new(id: String, record: $record) -> Arc<Self> {
                Arc::new(Self { id, record: RwLock::new(Arc::new(record)) })
            }
        }
    };
}

entry!(Pod, PodRecord);
entry!(Container, ContainerRecord);

/// All pods and containers.
#[derive(Debug, Default)]
pub struct Index {
    maps: RwLock<Maps>,
}

#[derive(Debug, Default)]
struct Maps {
    pods: BTreeMap<String, Arc<Pod>>,
    containers: BTreeMap<String, Arc<Container>>,
    /// The containers of each pod.
    of_pod: BTreeMap<String, BTreeSet<String>>,
}

impl Index {
    /// A pod that clients may know of, by its id or the beginning of it.
    ///
    /// # Errors
    /// None, or several.
    pub fn pod(&self, id: &str) -> Result<Arc<Pod>, CriError> {
        let maps = self.maps.read().unwrap_or_else(PoisonError::into_inner);
        let pod = find(&maps.pods, "sandbox", id)?;
        match pod.record().phase() {
            PodPhase::Making => Err(CriError::Missing { what: "sandbox", id: id.to_owned() }),
            PodPhase::Running | PodPhase::Stopped | PodPhase::Removing => Ok(pod),
        }
    }

    /// A container, by its id or the beginning of it.
    ///
    /// # Errors
    /// None, or several.
    pub fn container(&self, id: &str) -> Result<Arc<Container>, CriError> {
        find(&self.maps.read().unwrap_or_else(PoisonError::into_inner).containers, "container", id)
    }

    /// The pods that clients may know of, by id.
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        let mut pods = self.all_pods();
        pods.retain(|pod| matches!(pod.record().phase(), PodPhase::Running | PodPhase::Stopped));
        pods
    }

    /// All pods, those in the making and on their way out included.
    pub fn all_pods(&self) -> Vec<Arc<Pod>> {
        self.maps.read().unwrap_or_else(PoisonError::into_inner).pods.values().cloned().collect()
    }

    /// The pod of exactly this id, also one in the making or on its way out.
    pub fn known_pod(&self, id: &str) -> Option<Arc<Pod>> {
        self.maps.read().unwrap_or_else(PoisonError::into_inner).pods.get(id).cloned()
    }

    /// The container of exactly this id.
    pub fn known_container(&self, id: &str) -> Option<Arc<Container>> {
        self.maps.read().unwrap_or_else(PoisonError::into_inner).containers.get(id).cloned()
    }

    /// All containers, by id.
    pub fn containers(&self) -> Vec<Arc<Container>> {
        self.maps.read().unwrap_or_else(PoisonError::into_inner).containers.values().cloned().collect()
    }

    /// The containers of a pod.
    pub fn containers_of(&self, pod: &str) -> Vec<Arc<Container>> {
        let maps = self.maps.read().unwrap_or_else(PoisonError::into_inner);
        let ids = maps.of_pod.get(pod).into_iter().flatten();
        ids.filter_map(|id| maps.containers.get(id)).cloned().collect()
    }

    /// Adds a pod.
    pub(super) fn add_pod(&self, id: &str, record: PodRecord) -> Arc<Pod> {
        let pod = Pod::new(id.to_owned(), record);
        let mut maps = self.maps.write().unwrap_or_else(PoisonError::into_inner);
        maps.pods.insert(id.to_owned(), Arc::clone(&pod));
        pod
    }

    /// Adds a container, once it is on record.
    pub(super) fn add_container(&self, id: &str, record: ContainerRecord) -> Arc<Container> {
        let pod = record.pod.clone();
        let container = Container::new(id.to_owned(), record);
        let mut maps = self.maps.write().unwrap_or_else(PoisonError::into_inner);
        maps.containers.insert(id.to_owned(), Arc::clone(&container));
        maps.of_pod.entry(pod).or_default().insert(id.to_owned());
        container
    }

    /// Forgets a pod, once its record is gone.
    pub(super) fn forget_pod(&self, id: &str) {
        let mut maps = self.maps.write().unwrap_or_else(PoisonError::into_inner);
        maps.pods.remove(id);
        maps.of_pod.remove(id);
    }

    /// Forgets a container, once its record is gone.
    pub(super) fn forget_container(&self, id: &str) {
        let mut maps = self.maps.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(container) = maps.containers.remove(id)
            && let Some(ids) = maps.of_pod.get_mut(&container.record().pod)
        {
            ids.remove(id);
        }
    }
}

/// The one whose id is `id`, or the only one whose id begins so.
fn find<T>(all: &BTreeMap<String, Arc<T>>, what: &'static str, id: &str) -> Result<Arc<T>, CriError> {
    let missing = || CriError::Missing { what, id: id.to_owned() };
    if id.is_empty() {
        return Err(missing());
    }
    if let Some(exact) = all.get(id) {
        return Ok(Arc::clone(exact));
    }
    let mut fitting = all.range(id.to_owned()..).take_while(|(key, _)| key.starts_with(id));
    match (fitting.next(), fitting.next()) {
        (None, _) => Err(missing()),
        (Some((_, only)), None) => Ok(Arc::clone(only)),
        (Some(_), Some(_)) => Err(CriError::Ambiguous { what, id: id.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_may_be_short_but_not_ambiguous() {
        let index = Index::default();
        for id in ["abc", "abd", "x"] {
            index.add_container(id, ContainerRecord { pod: "p".into(), ..ContainerRecord::default() });
        }
        assert_eq!(index.container("abc").unwrap().id, "abc");
        assert_eq!(index.container("x").unwrap().id, "x");
        assert!(matches!(index.container("ab"), Err(CriError::Ambiguous { .. })));
        for id in ["", "abcd", "y"] {
            assert!(matches!(index.container(id), Err(CriError::Missing { .. })), "{id:?}");
        }
        index.forget_container("abd");
        assert_eq!(index.container("ab").unwrap().id, "abc");
        assert_eq!(index.containers_of("p").len(), 2);
    }

    #[test]
    fn a_pod_in_the_making_is_nobodys_business() {
        let index = Index::default();
        let pod = index.add_pod("p", PodRecord::default());
        assert!(index.pod("p").is_err());
        assert!(index.pods().is_empty());
        pod.set(PodRecord { phase: PodPhase::Running.into(), ..PodRecord::default() });
        assert_eq!(index.pods().len(), 1);
        index.forget_pod("p");
        assert!(index.pod("p").is_err());
    }
}
