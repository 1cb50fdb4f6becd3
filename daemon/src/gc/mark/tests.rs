use std::collections::BTreeSet;
use std::time::{Duration, UNIX_EPOCH};

use model::Labels;

use super::*;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_600_800)
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn content(name: &str, pairs: &[(&str, &str)]) -> Object {
    Object::content(name.into(), labels(pairs))
}

fn snapshot(name: &str, parent: Option<&str>, pairs: &[(&str, &str)]) -> Object {
    Object::snapshot("s", name.into(), parent.map(Into::into), labels(pairs))
}

fn image(name: &str, target: &str, pairs: &[(&str, &str)]) -> Object {
    Object::image(name.into(), target.into(), labels(pairs), now())
}

fn lease(name: &str, resources: &[Node], pairs: &[(&str, &str)]) -> Object {
    Object::lease(name.into(), resources.to_vec(), labels(pairs), now())
}

/// The names of the dead, in order.
fn dead(objects: &[Object]) -> Vec<String> {
    let mut names: Vec<String> = mark(objects, [], now()).objects.iter().map(name).collect();
    names.sort();
    names
}

fn name(node: &Node) -> String {
    match node {
        Node::Content(name) => format!("c:{name}"),
        Node::Snapshot { name, .. } => format!("s:{name}"),
        Node::Image(name) => format!("i:{name}"),
        Node::Ingest(name) => format!("g:{name}"),
        Node::Lease(name) => format!("l:{name}"),
        Node::Container(name) => format!("k:{name}"),
        Node::Sandbox(name) => format!("b:{name}"),
    }
}

const PAST: &str = "2020-01-01T00:00:00Z";
const FUTURE: &str = "2099-01-01T00:00:00Z";

#[test]
fn an_image_holds_its_whole_tree() {
    let tree = [
        image("i", "index", &[]),
        content("index", &[("containerd.io/gc.ref.content.m.0", "manifest")]),
        content(
            "manifest",
            &[("containerd.io/gc.ref.content.config", "config"), ("containerd.io/gc.ref.content.l.0", "layer")],
        ),
        content("config", &[("containerd.io/gc.ref.snapshot.s", "top")]),
        content("layer", &[]),
        content("other", &[]),
        snapshot("base", None, &[]),
        snapshot("top", Some("base"), &[]),
        snapshot("lost", Some("base"), &[]),
    ];
    assert_eq!(dead(&tree), ["c:other", "s:lost"]);
    assert_eq!(dead(&tree[1..]).len(), 8);
}

#[test]
fn what_is_a_root_and_until_when() {
    for (object, survives) in [
        (content("a", &[("containerd.io/gc.root", "")]), true),
        (content("a", &[]), false),
        (snapshot("a", None, &[("containerd.io/gc.root", "x")]), true),
        (snapshot("a", None, &[]), false),
        (image("a", "t", &[]), true),
        (image("a", "t", &[("containerd.io/gc.expire", FUTURE)]), true),
        (image("a", "t", &[("containerd.io/gc.expire", PAST)]), false),
        (image("a", "t", &[("containerd.io/gc.expire", "nonsense")]), true),
        (lease("a", &[], &[]), true),
        (lease("a", &[], &[("containerd.io/gc.expire", PAST)]), false),
        (Object::ingest("a".into(), None, true), true),
        (Object::ingest("a".into(), None, false), false),
        (Object::container("a".into(), None, Labels::new()), true),
        (Object::sandbox("a".into(), Labels::new()), true),
    ] {
        assert_eq!(dead(std::slice::from_ref(&object)).is_empty(), survives, "{object:?}");
    }
}

#[test]
fn leases_hold_all_kinds_of_resources() {
    let resources = [
        Node::Content("c".into()),
        Node::snapshot("s", "n"),
        Node::Image("i".into()),
        Node::Ingest("g".into()),
        Node::Content("not there yet".into()),
    ];
    let expired_image = image("i", "t", &[("containerd.io/gc.expire", PAST)]);
    let mut objects = vec![
        lease("l", &resources, &[("containerd.io/gc.expire", FUTURE)]),
        content("c", &[("containerd.io/gc.ref.content.0", "deep")]),
        content("deep", &[]),
        snapshot("n", Some("p"), &[]),
        snapshot("p", None, &[]),
        expired_image,
        content("t", &[]),
        Object::ingest("g".into(), Some("e".into()), false),
        content("e", &[]),
    ];
    assert_eq!(dead(&objects), [""; 0]);
    objects[0] = lease("l", &resources, &[("containerd.io/gc.expire", PAST)]);
    assert_eq!(dead(&objects).len(), objects.len());
}

#[test]
fn a_flat_lease_holds_needs_but_not_labels() {
    let objects = [
        lease("l", &[Node::Content("c".into()), Node::snapshot("s", "n")], &[("containerd.io/gc.flat", "")]),
        content("c", &[("containerd.io/gc.ref.content.0", "deep")]),
        content("deep", &[]),
        snapshot("n", Some("p"), &[("containerd.io/gc.ref.content", "deep")]),
        snapshot("p", None, &[]),
    ];
    assert_eq!(dead(&objects), ["c:deep"]);
    // Reached the other way as well, the blob is held whole.
    let mut also = objects.to_vec();
    also.push(image("i", "c", &[]));
    assert_eq!(dead(&also), [""; 0]);
}

#[test]
fn containers_and_sandboxes_hold_by_labels_and_snapshot() {
    let objects = [
        Object::container(
            "k".into(),
            Some(Node::snapshot("s", "rw")),
            labels(&[("containerd.io/gc.ref.content.x", "c")]),
        ),
        Object::sandbox("b".into(), labels(&[("containerd.io/gc.ref.snapshot.s", "sand")])),
        snapshot("rw", Some("p"), &[]),
        snapshot("p", None, &[]),
        snapshot("sand", None, &[]),
        content("c", &[]),
        content("d", &[]),
    ];
    assert_eq!(dead(&objects), ["c:d"]);
}

#[test]
fn a_back_reference_ties_the_lives_together() {
    let objects = [
        Object::container("k".into(), None, Labels::new()),
        content("with the container", &[("containerd.io/gc.bref.container", "k")]),
        content("with nothing", &[("containerd.io/gc.bref.container.x", "gone")]),
        snapshot("with a blob", None, &[("containerd.io/gc.bref.content", "with the container")]),
        content("with the image", &[("containerd.io/gc.bref.image", "i")]),
        image("i", "t", &[("containerd.io/gc.expire", PAST), ("containerd.io/gc.bref.snapshot.s", "with a blob")]),
    ];
    assert_eq!(dead(&objects), ["c:with nothing"]);
}

#[test]
fn a_condition_holds_only_while_it_is_true() {
    let objects = |used: &str| {
        [
            image("i", "t", &[("containerd.io/gc.cond.snapshot.s", "usedat<1h|n")]),
            snapshot("n", None, &[("containerd.io/gc.cond.value-usedat", used)]),
        ]
    };
    assert_eq!(dead(&objects(FUTURE)), [""; 0]);
    assert_eq!(dead(&objects(PAST)), ["s:n"]);
}

#[test]
fn cycles_alone_hold_nothing() {
    let objects = [
        content("a", &[("containerd.io/gc.ref.content", "b")]),
        content("b", &[("containerd.io/gc.ref.content", "a")]),
    ];
    assert_eq!(dead(&objects), ["c:a", "c:b"]);
    assert_eq!(mark(&objects, [], now()).in_order().len(), 2);
}

#[test]
fn children_go_before_their_parents() {
    let objects = [
        snapshot("a", None, &[]),
        snapshot("z", Some("a"), &[]),
        snapshot("b", Some("z"), &[]),
        snapshot("c", Some("a"), &[]),
    ];
    let order: Vec<String> = mark(&objects, [], now()).in_order().iter().map(name).collect();
    let place = |wanted: &str| order.iter().position(|name| name == wanted).unwrap();
    assert!(place("s:b") < place("s:z") && place("s:z") < place("s:a") && place("s:c") < place("s:a"), "{order:?}");
}

#[test]
fn what_changes_meanwhile_is_spared_with_all_that_hangs_on_it() {
    let objects = [
        content("manifest", &[("containerd.io/gc.ref.content.l.0", "layer")]),
        content("layer", &[]),
        content("other", &[]),
    ];
    let mut left = mark(&objects, [], now());
    left.spare([Node::Content("manifest".into()), Node::Content("new".into())]);
    assert_eq!(left.in_order(), [Node::Content("other".into())]);
    let pinned = mark(&objects, [Node::Content("manifest".into())], now());
    assert_eq!(pinned.in_order(), [Node::Content("other".into())]);
}

/// A small generator, so that a failure can be run again by its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }

    fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }
}

fn random_objects(random: &mut Random) -> Vec<Object> {
    let count = 1 + random.below(24);
    (0..count)
        .map(|at| {
            let mut pairs = Vec::new();
            for _ in 0..random.below(4) {
                let to = random.below(count).to_string();
                let key = ["ref.content.", "ref.snapshot.s/", "ref.image.", "bref.content.", "bref.snapshot.s/"]
                    [random.below(5)];
                pairs.push((format!("containerd.io/gc.{key}{}", random.below(9)), to));
            }
            if random.one_in(8) {
                pairs.push(("containerd.io/gc.root".into(), "1".into()));
            }
            if random.one_in(3) {
                pairs.push(("containerd.io/gc.expire".into(), [PAST, FUTURE][random.below(2)].into()));
            }
            if random.one_in(2) {
                pairs.push(("containerd.io/gc.flat".into(), "1".into()));
            }
            let labels: Labels = pairs.into_iter().collect();
            let name = at.to_string();
            let other = random.below(count).to_string();
            match random.below(6) {
                0 | 1 => Object::content(name, labels),
                2 | 3 => Object::snapshot("s", name, random.one_in(2).then_some(other), labels),
                4 => Object::image(name, other, labels, now()),
                _ => Object::lease(name, vec![Node::Content(other.clone()), Node::snapshot("s", other)], labels, now()),
            }
        })
        .collect()
}

/// The same answer by the plainest means: repeat every rule until nothing changes.
fn plain(objects: &[Object]) -> BTreeSet<Node> {
    let mut whole: BTreeSet<Node> = objects.iter().filter(|o| o.root).map(|o| o.node.clone()).collect();
    let mut flat: BTreeSet<Node> = BTreeSet::new();
    loop {
        let before = (whole.len(), flat.len());
        for object in objects {
            for (key, value) in &object.labels {
                match labels::reference(key, value) {
                    Some(Reference::Holds(held)) if whole.contains(&object.node) => drop(whole.insert(held)),
                    Some(Reference::HeldBy(holder)) if whole.contains(&holder) && exists(objects, &holder) => {
                        whole.insert(object.node.clone());
                    }
                    _ => {}
                }
            }
            for need in &object.needs {
                if whole.contains(&object.node) && !object.flat {
                    whole.insert(need.clone());
                } else if whole.contains(&object.node) || flat.contains(&object.node) {
                    flat.insert(need.clone());
                }
            }
        }
        if before == (whole.len(), flat.len()) {
            let dead = objects.iter().map(|object| object.node.clone());
            return dead.filter(|node| !whole.contains(node) && !flat.contains(node)).collect();
        }
    }
}

fn exists(objects: &[Object], node: &Node) -> bool {
    objects.iter().any(|object| object.node == *node)
}

#[test]
fn nothing_reachable_goes_and_nothing_unreachable_stays() {
    for seed in 1..4000 {
        let objects = random_objects(&mut Random(seed * 0x9e37_79b9));
        let got: BTreeSet<Node> = mark(&objects, [], now()).objects.into_iter().collect();
        assert_eq!(got, plain(&objects), "seed {seed}: {objects:#?}");
    }
}

/// Any change between mark and sweep, told to `spare`, leaves nothing on the list that the changed heap holds.
#[test]
fn sparing_what_changed_is_enough() {
    for seed in 1..4000 {
        let mut random = Random(seed * 0x51_7cc1);
        let before = random_objects(&mut random);
        let mut left = mark(&before, [], now());
        let mut after = before.clone();
        if random.one_in(2) {
            // Some references are to names that nothing has yet.
            let missing = after.remove(random.below(after.len()));
            left = mark(&after, [], now());
            after.push(missing.clone());
            left.spare(missing.holds());
            left.spare([missing.node]);
        }
        for _ in 0..1 + random.below(3) {
            let at = random.below(after.len());
            let target = random.below(after.len()).to_string();
            let changed = &mut after[at];
            match random.below(3) {
                0 => drop(changed.labels.insert("containerd.io/gc.ref.content.new".into(), target)),
                1 => changed.root = true,
                _ => changed.needs.push(Node::snapshot("s", target)),
            }
            let changed = changed.clone();
            left.spare(changed.holds());
            left.spare([changed.node]);
        }
        let dead_now = plain(&after);
        for node in &left.objects {
            assert!(dead_now.contains(node), "seed {seed}: {node:?} is held");
        }
    }
}
