//! What garbage collection is about: the objects of a namespace, and how they hold each other.

use std::time::SystemTime;

use model::Labels;

use super::labels;

/// The name of an object within its namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Node {
    /// A blob, by its digest. Labels may hold anything, so this is text.
    Content(String),
    /// A snapshot.
    Snapshot {
        /// The snapshotter.
        snapshotter: String,
        /// The key or name.
        name: String,
    },
    /// An image, by its name.
    Image(String),
    /// An unfinished blob, by its reference.
    Ingest(String),
    /// A lease, by its id.
    Lease(String),
    /// A container, by its id.
    Container(String),
    /// A sandbox, by its id.
    Sandbox(String),
}

impl Node {
    /// The node of a snapshot.
    pub fn snapshot(snapshotter: impl Into<String>, name: impl Into<String>) -> Self {
        Self::Snapshot { snapshotter: snapshotter.into(), name: name.into() }
    }
}

/// One object as collection sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its name.
    pub node: Node,
    /// It stays whether or not anything holds it.
    pub root: bool,
    /// What it holds whole is held without what that refers to by labels (`containerd.io/gc.flat` on a lease).
    pub flat: bool,
    /// What it cannot be without: the parent of a snapshot, the target of an image, the resources of a lease.
    pub needs: Vec<Node>,
    /// Its labels, which may refer to more.
    pub labels: Labels,
}

impl Object {
    /// A blob.
    pub fn content(digest: String, labels: Labels) -> Self {
        Self { root: labels::is_root(&labels), flat: false, needs: Vec::new(), node: Node::Content(digest), labels }
    }

    /// A snapshot.
    pub fn snapshot(snapshotter: &str, name: String, parent: Option<String>, labels: Labels) -> Self {
        let needs = parent.map(|parent| Node::snapshot(snapshotter, parent)).into_iter().collect();
        Self { root: labels::is_root(&labels), flat: false, needs, node: Node::snapshot(snapshotter, name), labels }
    }

    /// An image: a root until it expires.
    pub fn image(name: String, target: String, labels: Labels, now: SystemTime) -> Self {
        let root = !labels::is_expired(&labels, now);
        Self { root, flat: false, needs: vec![Node::Content(target)], node: Node::Image(name), labels }
    }

    /// A lease: a root until it expires.
    pub fn lease(id: String, resources: Vec<Node>, labels: Labels, now: SystemTime) -> Self {
        let root = !labels::is_expired(&labels, now);
        let flat = labels.contains_key(labels::FLAT);
        // Nothing that a lease says by other labels is followed.
        Self { root, flat, needs: resources, node: Node::Lease(id), labels: Labels::new() }
    }

    /// An unfinished blob: a root until its time is over.
    pub fn ingest(reference: String, expected: Option<String>, fresh: bool) -> Self {
        let needs = expected.map(Node::Content).into_iter().collect();
        Self { root: fresh, flat: false, needs, node: Node::Ingest(reference), labels: Labels::new() }
    }

    /// A container: always a root, collection never removes one.
    pub fn container(id: String, snapshot: Option<Node>, labels: Labels) -> Self {
        Self { root: true, flat: false, needs: snapshot.into_iter().collect(), node: Node::Container(id), labels }
    }

    /// A sandbox: always a root, collection never removes one.
    pub fn sandbox(id: String, labels: Labels) -> Self {
        Self { root: true, flat: false, needs: Vec::new(), node: Node::Sandbox(id), labels }
    }

    /// Everything that this object holds by itself or by its labels, as far as it says so unconditionally.
    pub fn holds(&self) -> Vec<Node> {
        let mut held = self.needs.clone();
        for (key, value) in &self.labels {
            match labels::reference(key, value) {
                Some(labels::Reference::Holds(node)) => held.push(node),
                Some(labels::Reference::HoldsIf { snapshot, .. }) => held.push(snapshot),
                Some(labels::Reference::HeldBy(_)) | None => {}
            }
        }
        held
    }
}
