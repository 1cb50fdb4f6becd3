//! The Kubernetes container runtime interface, v1: pods and containers as a kubelet asks for them.
//!
//! ```text
//!   kubelet ──gRPC──► service (RuntimeService), image_service (ImageService): one line per call
//!                        │
//!        ┌───────────────┼───────────────┬───────────────┬──────────────┬─────────────┐
//!      pod/            container*      images          streaming/     stats/        node
//!   run stop remove   create start    pull list       exec attach    figures,     version,
//!   status list       stop remove …   status remove   port-forward   metrics      status, config
//!        │               │
//!      net/ pause      spec/
//!        └──────┬────────┘
//!          index (in memory) ◄── records (durable: the containers of namespace `k8s.io`) ◄── recover, at the start
//! ```
//!
//! It owns what is particular to Kubernetes: pods, their networks, names, states. Everything else it asks of the daemon's other
//! parts, by their own functions: a pod's first process and each container is a container, a snapshot and a task of namespace
//! `k8s.io`, which `ctr -n k8s.io` sees and can use. What only the CRI knows of them is a typed record in an extension of
//! the container ([`record`]); the [`index`] holds the same in memory, so that lists cost no reading. A change is durable before
//! it is in the index, and in the index before the call returns.
//!
//! Who calls what: [`service`] and [`image_service`] call one method of [`Cri`] per RPC, each in the file of its area, with the
//! request as it came and `Result<Answer, Failure>` back. [`watch`] hears of ends of tasks and calls `pod_ended` or
//! `container_ended`. `pod::stop` and `pod::remove` call `end_container_of_pod` and `remove_container_of_pod`; [`recover`] calls
//! `recover_pod` and `recover_container`. Whoever changes a container or a pod tells [`events`].
//!
//! No lock is held across a wait, but for the turn of one pod or one container ([`turns`]). What can hang (a shim, a CNI plugin)
//! has a deadline where it is called. It must not know how tasks are run, how snapshots are made, or what a registry is.

pub mod container;
pub mod error;
pub mod events;
mod exec;
pub mod handlers;
pub mod id;
pub mod image_service;
mod images;
pub mod index;
pub mod names;
pub mod net;
mod node;
pub mod nri;
mod pause;
pub mod pod;
pub mod record;
mod recover;
pub mod service;
pub mod settings;
pub mod spec;
pub mod state;
pub mod stats;
pub mod stats_calls;
mod stream_calls;
pub mod streaming;
pub mod turns;
mod watch;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use model::{Labels, Namespace};
use store::Store;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{Failure, Scope};
use crate::containers::Containers;
use crate::events::Bus;
use crate::images::Images;
use crate::meta::Meta;
use crate::mounts::MountDir;
use crate::tasks::Tasks;

pub use error::CriError;
pub use index::{Container, Index, Pod};
pub use settings::Settings;

/// The namespace that everything of Kubernetes is in.
pub const NAMESPACE: &str = "k8s.io";

/// The folder below root and state, containerd's so that tools find it.
pub const FOLDER: &str = "io.containerd.grpc.v1.cri";

/// The parts of the daemon that the CRI stands on.
#[derive(Debug)]
pub struct Parts {
    /// What it is told of the configuration.
    pub settings: Settings,
    /// Containers, as records.
    pub containers: Containers,
    /// Content, images, leases, snapshots.
    pub meta: Meta,
    /// Pulls and unpacks.
    pub images: Images,
    /// Runs containers.
    pub tasks: Tasks,
    /// Where everything that happens is told.
    pub bus: Bus,
    /// For reading many records at once.
    pub store: Store,
    /// A folder for short mounts.
    pub mounts: MountDir,
    /// Work in the background runs here.
    pub tracker: TaskTracker,
    /// Ends work in the background.
    pub stop: CancellationToken,
}

/// The CRI. Clones are the same.
#[derive(Debug, Clone)]
pub struct Cri {
    pub(crate) inner: Arc<Inner>,
}

/// What all of it shares.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) settings: Settings,
    pub(crate) namespace: Namespace,
    pub(crate) containers: Containers,
    pub(crate) meta: Meta,
    pub(crate) images: Images,
    pub(crate) tasks: Tasks,
    pub(crate) bus: Bus,
    pub(crate) store: Store,
    pub(crate) mounts: MountDir,
    pub(crate) tracker: TaskTracker,
    pub(crate) stop: CancellationToken,
    /// Pods and containers, in memory.
    pub(crate) index: Index,
    /// Names of pods and containers that are taken.
    pub(crate) names: names::Names,
    /// Who works on which pod or container.
    pub(crate) turns: turns::Turns,
    /// Networks of pods.
    pub(crate) net: net::Networks,
    /// Tells clients what happened.
    pub(crate) events: events::Feed,
    /// The streaming server, once it serves.
    pub(crate) streaming: OnceLock<streaming::Server>,
    /// Serves NRI plugins.
    pub(crate) nri: nri::Nri,
    /// Samples of what containers use.
    pub(crate) stats: stats_calls::Stats,
    /// What containers are made with that is found out once.
    pub(crate) containers_known: container::Known,
    /// Facts about images, by id.
    pub(crate) image_facts: images::Facts,
    /// What runtimes can do, once they were asked.
    pub(crate) features: handlers::Features,
}

impl Cri {
    /// The CRI over the parts of the daemon. Nothing runs yet, and nothing is known: see [`Cri::recover`], then [`Cri::start`].
    pub fn new(parts: Parts) -> Self {
        let Parts { settings, containers, meta, images, tasks, bus, store, mounts, tracker, stop } = parts;
        let net = net::Networks::new(&settings);
        let nri = nri::Nri::new(&settings);
        let stats = stats_calls::Stats::new(&settings);
        let inner = Inner {
            settings,
            namespace: Namespace::new(NAMESPACE).expect("it is an identifier"),
            containers,
            meta,
            images,
            tasks,
            bus,
            store,
            mounts,
            tracker,
            stop,
            index: Index::default(),
            names: names::Names::default(),
            turns: turns::Turns::default(),
            net,
            events: events::Feed::default(),
            streaming: OnceLock::new(),
            nri,
            stats,
            containers_known: container::Known::default(),
            image_facts: images::Facts::default(),
            features: handlers::Features::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The scope of everything the CRI does, without a lease.
    pub(crate) fn scope(&self) -> Scope {
        Scope { namespace: self.inner.namespace.clone(), lease: None }
    }

    /// Where durable files of pods and containers are.
    pub(crate) fn root(&self) -> PathBuf {
        self.inner.settings.root.join(FOLDER)
    }

    /// Where files are that die with the machine.
    pub(crate) fn state(&self) -> PathBuf {
        self.inner.settings.state.join(FOLDER)
    }

    /// A pod by its id, or by the beginning of it.
    ///
    /// # Errors
    /// None, or several.
    pub(crate) fn pod(&self, id: &str) -> Result<Arc<Pod>, CriError> {
        self.inner.index.pod(id)
    }

    /// A container by its id, or by the beginning of it.
    ///
    /// # Errors
    /// None, or several.
    pub(crate) fn container(&self, id: &str) -> Result<Arc<Container>, CriError> {
        self.inner.index.container(id)
    }

    /// Changes what is kept of a pod: durable, then in memory. Callers have the pod's turn.
    ///
    /// # Errors
    /// The store failed; nothing is changed then.
    pub(crate) async fn change_pod(
        &self,
        pod: &Pod,
        change: impl FnOnce(&mut record::PodRecord),
    ) -> Result<Arc<record::PodRecord>, Failure> {
        let mut record = (*pod.record()).clone();
        change(&mut record);
        let (namespace, id) = (self.inner.namespace.clone(), pod.id.clone());
        self.inner.containers.set_extension(namespace, id, record::POD_EXTENSION, record::pack(&record)).await?;
        Ok(pod.set(record))
    }

    /// Changes what is kept of a container: durable, then in memory. Callers have the container's turn.
    ///
    /// # Errors
    /// The store failed; nothing is changed then.
    pub(crate) async fn change_container(
        &self,
        container: &Container,
        change: impl FnOnce(&mut record::ContainerRecord),
    ) -> Result<Arc<record::ContainerRecord>, Failure> {
        let mut record = (*container.record()).clone();
        change(&mut record);
        let (namespace, id) = (self.inner.namespace.clone(), container.id.clone());
        let packed = record::pack(&record);
        self.inner.containers.set_extension(namespace, id, record::CONTAINER_EXTENSION, packed).await?;
        Ok(container.set(record))
    }
}

/// Labels of a pod or container as containerd keeps them, those of the client among them.
pub(crate) fn labels_with_kind(labels: &std::collections::BTreeMap<String, String>, kind: &str) -> Labels {
    let mut all: Labels = labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    // Longer ones than a container's record may have are kept in our own record alone.
    all.retain(|key, value| model::labels::check(&Labels::from([(key.clone(), value.clone())])).is_ok());
    all.insert(KIND_LABEL.to_owned(), kind.to_owned());
    all
}

/// The label that tells pods from containers.
pub const KIND_LABEL: &str = "io.cri-containerd.kind";
/// Its value for a pod's first process.
pub const KIND_SANDBOX: &str = "sandbox";
/// Its value for a container of a pod.
pub const KIND_CONTAINER: &str = "container";
