//! Finds what nothing holds: a pure function over the objects of one namespace.
//!
//! Roots are held by themselves; what a held object needs or refers to is held. An object reached only through a flat lease is
//! held with what it needs, not with what its labels refer to. The rest is [`Dead`].
//!
//! Between the reading of the objects and the removal of the dead ones others go on working. Whatever they create, change or
//! begin to refer to in that time is named to [`Dead::spare`], which takes it, and all that hangs on it, off the list again. That
//! is enough: an object that was dead and is held now hangs on something that was changed in between.

use std::collections::{HashMap, HashSet};
use std::time::SystemTime;

use super::labels::{self, Reference};
use super::node::{Node, Object};

/// How firmly an object is held. A firmer hold reaches further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Hold {
    /// By nothing.
    None,
    /// With what it needs.
    Flat,
    /// With all that it refers to.
    Whole,
}

/// The objects that may be removed, and what would be held if one of them were.
#[derive(Debug, Default)]
pub struct Dead {
    objects: HashSet<Node>,
    /// What each object that is not held whole would hold, also for names that no object has yet.
    holds: HashMap<Node, Vec<Node>>,
}

impl Dead {
    /// Takes these nodes off the list, and what they hold.
    pub fn spare(&mut self, nodes: impl IntoIterator<Item = Node>) {
        let mut queue: Vec<Node> = nodes.into_iter().collect();
        while let Some(node) = queue.pop() {
            self.objects.remove(&node);
            queue.extend(self.holds.remove(&node).into_iter().flatten());
        }
    }

    /// Whether nothing may be removed.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Whether this object may be removed.
    pub fn contains(&self, node: &Node) -> bool {
        self.objects.contains(node)
    }

    /// Those that may be removed, in an order that leaves no snapshot without its parent if only a first part of it is removed.
    pub fn in_order(&self) -> Vec<Node> {
        let mut order = Vec::with_capacity(self.objects.len());
        let mut placed: HashMap<&Node, bool> = HashMap::with_capacity(self.objects.len());
        let mut sorted: Vec<&Node> = self.objects.iter().collect();
        sorted.sort();
        // Depth first: what an object holds is placed before it, so that the reverse has holders first.
        for start in sorted {
            let mut stack = vec![(start, false)];
            while let Some((node, held_are_placed)) = stack.pop() {
                if held_are_placed {
                    if placed.insert(node, true) == Some(false) {
                        order.push(node.clone());
                    }
                    continue;
                }
                if placed.contains_key(node) {
                    continue;
                }
                placed.insert(node, false);
                stack.push((node, true));
                for held in self.holds.get(node).into_iter().flatten() {
                    if let Some(held) = self.objects.get(held)
                        && !placed.contains_key(held)
                    {
                        stack.push((held, false));
                    }
                }
            }
        }
        order.reverse();
        order
    }
}

/// The objects of a namespace that nothing holds. `pinned` is held besides the roots.
pub fn mark(objects: &[Object], pinned: impl IntoIterator<Item = Node>, now: SystemTime) -> Dead {
    let graph = Graph::of(objects, now);
    let mut holds = vec![Hold::None; objects.len()];
    let mut queue: Vec<(usize, Hold)> = Vec::new();
    queue.extend(objects.iter().enumerate().filter(|(_, object)| object.root).map(|(at, _)| (at, Hold::Whole)));
    queue.extend(pinned.into_iter().filter_map(|node| Some((*graph.places.get(&node)?, Hold::Whole))));
    while let Some((at, hold)) = queue.pop() {
        if holds[at] >= hold {
            continue;
        }
        holds[at] = hold;
        let on_needs = if objects[at].flat { Hold::Flat } else { hold };
        queue.extend(graph.needs[at].iter().map(|next| (*next, on_needs)));
        if hold == Hold::Whole {
            queue.extend(graph.labels[at].iter().map(|next| (*next, Hold::Whole)));
        }
    }
    let mut dead = Dead::default();
    for (at, object) in objects.iter().enumerate().filter(|(at, _)| holds[*at] != Hold::Whole) {
        // Containers and sandboxes are roots; their owners alone remove them.
        if holds[at] == Hold::None {
            dead.objects.insert(object.node.clone());
        }
        let held = graph.needs[at].iter().chain(&graph.labels[at]).map(|held| objects[*held].node.clone());
        dead.holds.entry(object.node.clone()).or_default().extend(held);
    }
    for (holder, at) in graph.waiting {
        dead.holds.entry(holder).or_default().push(objects[at].node.clone());
    }
    dead
}

/// Who holds whom, by place in the list of objects.
struct Graph<'a> {
    places: HashMap<&'a Node, usize>,
    needs: Vec<Vec<usize>>,
    labels: Vec<Vec<usize>>,
    /// Objects that live as long as one that does not exist, with the name of that one.
    waiting: Vec<(Node, usize)>,
}

impl<'a> Graph<'a> {
    fn of(objects: &'a [Object], now: SystemTime) -> Self {
        let places: HashMap<&Node, usize> = objects.iter().enumerate().map(|(at, object)| (&object.node, at)).collect();
        let mut labels = vec![Vec::new(); objects.len()];
        let mut waiting = Vec::new();
        for (at, object) in objects.iter().enumerate() {
            for (key, value) in &object.labels {
                match labels::reference(key, value) {
                    Some(Reference::Holds(held)) => labels[at].extend(places.get(&held)),
                    Some(Reference::HeldBy(holder)) => match places.get(&holder) {
                        Some(holder) => labels[*holder].push(at),
                        None => waiting.push((holder, at)),
                    },
                    Some(Reference::HoldsIf { snapshot, any }) => {
                        let place = places.get(&snapshot).copied();
                        let holds = |place: &usize| any.iter().any(|one| one.is_true(&objects[*place].labels, now));
                        labels[at].extend(place.filter(holds));
                    }
                    None => {}
                }
            }
        }
        let needs =
            objects.iter().map(|object| object.needs.iter().filter_map(|node| places.get(node).copied()).collect());
        Self { needs: needs.collect(), labels, waiting, places }
    }
}

#[cfg(test)]
mod tests;
