//! Random uploads, tags, leases, layers, deletions, crashes and collections, against a small model of what is held: nothing that is
//! held is ever removed, and after a collection in peace nothing that is not held is there.

use std::collections::{BTreeMap, BTreeSet};

use proto::services::content::v1::DeleteContentRequest;
use proto::services::images::v1::{CreateImageRequest, DeleteImageRequest, Image, UpdateImageRequest};
use proto::services::leases::v1::{AddResourceRequest, CreateRequest, DeleteRequest, Resource};
use proto::services::snapshots::v1::{CommitSnapshotRequest, PrepareSnapshotRequest, RemoveSnapshotRequest};
use proto::types::Descriptor;

use super::*;

/// How many runs there are, and how long each is.
const RUNS: u64 = 10;
const STEPS: usize = 50;

/// How many of each thing there can be.
const THINGS: u64 = 7;

/// Numbers that look random and are the same every time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// A blob or a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Thing {
    Blob(u64),
    Layer(u64),
}

/// What should be there.
#[derive(Debug, Default)]
struct Model {
    /// Blobs and what their labels refer to.
    blobs: BTreeMap<u64, Vec<Thing>>,
    /// Layers and what they stand on.
    layers: BTreeMap<u64, Option<u64>>,
    images: BTreeMap<u64, u64>,
    /// Leases: whether they are flat, and what they hold.
    leases: BTreeMap<u64, (bool, BTreeSet<Thing>)>,
}

impl Model {
    /// Everything that is held and there.
    fn held(&self) -> BTreeSet<Thing> {
        let mut held = BTreeMap::<Thing, bool>::new();
        let mut open: Vec<(Thing, bool)> = self.images.values().map(|blob| (Thing::Blob(*blob), true)).collect();
        for (flat, things) in self.leases.values() {
            open.extend(things.iter().map(|thing| (*thing, !flat)));
        }
        while let Some((thing, whole)) = open.pop() {
            let is_there = match thing {
                Thing::Blob(blob) => self.blobs.contains_key(&blob),
                Thing::Layer(layer) => self.layers.contains_key(&layer),
            };
            if !is_there || held.get(&thing).is_some_and(|so_far| *so_far >= whole) {
                continue;
            }
            held.insert(thing, whole);
            match thing {
                Thing::Blob(blob) if whole => open.extend(self.blobs[&blob].iter().map(|next| (*next, true))),
                Thing::Blob(_) => {}
                Thing::Layer(layer) => open.extend(self.layers[&layer].map(|below| (Thing::Layer(below), whole))),
            }
        }
        held.into_keys().collect()
    }

    /// Forgets what is not held.
    fn collect(&mut self) {
        let held = self.held();
        self.blobs.retain(|blob, _| held.contains(&Thing::Blob(*blob)));
        self.layers.retain(|layer, _| held.contains(&Thing::Layer(*layer)));
    }
}

fn bytes(blob: u64) -> Vec<u8> {
    format!("blob {blob}").into_bytes()
}

fn digest(blob: u64) -> Digest {
    Digest::sha256(&bytes(blob))
}

impl Rig {
    fn has(&self, thing: Thing) -> bool {
        match thing {
            Thing::Blob(blob) => {
                self.meta.content(&DEFAULT.namespace(), digest(blob)).is_ok() && self.has_blob(&digest(blob))
            }
            Thing::Layer(layer) => {
                let name = crate::meta::snapshots::SnapshotName {
                    namespace: DEFAULT.namespace(),
                    snapshotter: NATIVE.into(),
                    key: format!("layer-{layer}"),
                };
                self.meta.snapshot(&name).is_ok()
            }
        }
    }

    #[track_caller]
    fn check(&self, model: &Model, after: &str) {
        for thing in model.held() {
            assert!(self.has(thing), "{thing:?} is held and gone after {after}: {model:#?}");
        }
    }

    /// One random change, to the rig and to the model.
    async fn step(&self, random: &mut Random, model: &mut Model) -> String {
        let one = random.below(THINGS);
        match random.below(9) {
            0 | 1 => {
                // Only what is lower is referred to, so there are no circles.
                let refers = (0..random.below(3)).map(|_| match random.below(2) {
                    0 if one > 0 => Thing::Blob(random.below(one)),
                    _ => Thing::Layer(random.below(THINGS)),
                });
                let refers: Vec<Thing> = refers.collect();
                let mut pairs = Vec::new();
                for (at, thing) in refers.iter().enumerate() {
                    pairs.push(match thing {
                        Thing::Blob(blob) => (format!("containerd.io/gc.ref.content.{at}"), digest(*blob).to_string()),
                        Thing::Layer(layer) => {
                            (format!("containerd.io/gc.ref.snapshot.{NATIVE}/{at}"), format!("layer-{layer}"))
                        }
                    });
                }
                let lease = random.below(3);
                let lease = model.leases.contains_key(&lease).then_some(lease);
                let name = lease.map(|lease| format!("lease-{lease}"));
                let call = Call { namespace: "default", lease: name.as_deref() };
                let pairs: Vec<_> = pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
                match self.put(call, &bytes(one), &pairs).await {
                    Ok(_) => {
                        model.blobs.insert(one, refers);
                    }
                    Err(status) => assert_eq!(status.code(), Code::AlreadyExists, "{status:?}"),
                }
                if let Some((_, things)) = lease.and_then(|lease| model.leases.get_mut(&lease)) {
                    things.insert(Thing::Blob(one));
                }
                format!("put {one}")
            }
            2 => {
                let name = random.below(3);
                let descriptor = Descriptor {
                    media_type: "m".into(),
                    digest: digest(one).to_string(),
                    size: 1,
                    ..Default::default()
                };
                let image =
                    Some(Image { name: format!("image-{name}"), target: Some(descriptor), ..Default::default() });
                let create = CreateImageRequest { image: image.clone(), source_date_epoch: None };
                if self.images().create(DEFAULT.request(create)).await.is_err() {
                    let update = UpdateImageRequest { image, ..Default::default() };
                    self.images().update(DEFAULT.request(update)).await.unwrap();
                }
                model.images.insert(name, one);
                format!("tag {name} {one}")
            }
            3 => {
                let (name, sync) = (random.below(3), random.below(2) == 0);
                let delete = DeleteImageRequest { name: format!("image-{name}"), sync, target: None };
                let was = model.images.remove(&name).is_some();
                assert_eq!(self.images().delete(DEFAULT.request(delete)).await.is_ok(), was);
                format!("untag {name} {sync}")
            }
            4 => {
                let (name, flat) = (random.below(3), random.below(2) == 0);
                let pairs: &[(&str, &str)] = if flat { &[("containerd.io/gc.flat", "true")] } else { &[] };
                let create = CreateRequest { id: format!("lease-{name}"), labels: labels(pairs) };
                if self.leases().create(DEFAULT.request(create)).await.is_ok() {
                    model.leases.insert(name, (flat, BTreeSet::new()));
                }
                format!("lease {name} {flat}")
            }
            5 => {
                let name = random.below(3);
                let delete = DeleteRequest { id: format!("lease-{name}"), sync: false };
                let was = model.leases.remove(&name).is_some();
                assert_eq!(self.leases().delete(DEFAULT.request(delete)).await.is_ok(), was);
                format!("release {name}")
            }
            6 => {
                let name = random.below(3);
                let thing = if random.below(2) == 0 { Thing::Blob(one) } else { Thing::Layer(one) };
                let resource = match thing {
                    Thing::Blob(blob) => Resource { id: digest(blob).to_string(), r#type: "content".into() },
                    Thing::Layer(layer) => {
                        Resource { id: format!("layer-{layer}"), r#type: format!("snapshots/{NATIVE}") }
                    }
                };
                let add = AddResourceRequest { id: format!("lease-{name}"), resource: Some(resource) };
                if self.leases().add_resource(DEFAULT.request(add)).await.is_ok() {
                    model.leases.get_mut(&name).expect("it is there").1.insert(thing);
                }
                format!("hold {name} {thing:?}")
            }
            7 => {
                let below = one.checked_sub(1).filter(|below| model.layers.contains_key(below));
                let prepare = PrepareSnapshotRequest {
                    snapshotter: NATIVE.into(),
                    key: format!("active-{one}"),
                    parent: below.map(|below| format!("layer-{below}")).unwrap_or_default(),
                    labels: Labels::new(),
                };
                // The layer below may have been collected by a step at the same time.
                if self.snapshots().prepare(DEFAULT.request(prepare)).await.is_err() {
                    return format!("layer {one}, refused");
                }
                let (name, key) = (format!("layer-{one}"), format!("active-{one}"));
                let commit =
                    CommitSnapshotRequest { snapshotter: NATIVE.into(), name, key: key.clone(), ..Default::default() };
                if self.snapshots().commit(DEFAULT.request(commit)).await.is_ok() {
                    model.layers.insert(one, below);
                } else {
                    let remove = RemoveSnapshotRequest { snapshotter: NATIVE.into(), key };
                    let _ = self.snapshots().remove(DEFAULT.request(remove)).await;
                }
                format!("layer {one}")
            }
            _ => {
                let delete = DeleteContentRequest { digest: digest(one).to_string() };
                if self.content().delete(DEFAULT.request(delete)).await.is_ok() {
                    model.blobs.remove(&one);
                }
                format!("delete {one}")
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_held_is_removed_and_nothing_else_stays() {
    for run in 1..=RUNS {
        let mut random = Random(run.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut model = Model::default();
        let mut rig = Rig::new();
        for _ in 0..STEPS {
            match random.below(8) {
                0 => {
                    rig.collect().await;
                    model.collect();
                    for thing in (0..THINGS).flat_map(|one| [Thing::Blob(one), Thing::Layer(one)]) {
                        let held = model.held().contains(&thing);
                        assert_eq!(rig.has(thing), held, "{thing:?} after a collection: {model:#?}");
                    }
                }
                1 => {
                    // Everything in memory is gone, as after a kill.
                    let dir = Arc::clone(&rig.dir);
                    rig.stop.cancel();
                    drop(rig);
                    rig = reopen(dir).await;
                    rig.check(&model, "a restart");
                }
                2 | 3 => {
                    // A change while a collection runs: what it may not take is what is held afterwards.
                    let (_, what) = tokio::join!(rig.collect(), rig.step(&mut random, &mut model));
                    // What was not held may be there or not.
                    model.blobs.retain(|blob, _| rig.has(Thing::Blob(*blob)));
                    let lost: Vec<_> =
                        model.layers.keys().copied().filter(|layer| !rig.has(Thing::Layer(*layer))).collect();
                    let before = model.held();
                    model.layers.retain(|layer, _| !lost.contains(layer));
                    assert_eq!(before, model.held(), "layers {lost:?} were held after {what}");
                }
                _ => {
                    let what = rig.step(&mut random, &mut model).await;
                    if what.starts_with("untag") && what.ends_with("true") {
                        // It waited for a collection.
                        model.collect();
                    }
                    rig.check(&model, &what);
                }
            }
        }
        rig.collect().await;
        model.collect();
        let there = (0..THINGS).flat_map(|one| [Thing::Blob(one), Thing::Layer(one)]).filter(|thing| rig.has(*thing));
        assert_eq!(there.collect::<BTreeSet<_>>(), model.held(), "run {run}");
    }
}

/// Opens the same folder again, as soon as its locks are free.
async fn reopen(dir: Arc<tempfile::TempDir>) -> Rig {
    loop {
        // The schedule of the one before ends by itself and holds the store until then.
        match Store::open(&dir.path().join("meta"), store::Options::default()) {
            Ok(store) => {
                drop(store);
                return Rig::open(dir, Sharing::Shared);
            }
            Err(_) => tokio::task::yield_now().await,
        }
    }
}
