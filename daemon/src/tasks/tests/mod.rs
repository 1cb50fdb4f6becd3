//! Tasks against shims that misbehave, and against real ones where they are installed.

mod fake;
mod lifecycle;
mod loss;
mod real;
mod restart;
mod sandbox;

use std::path::Path;
use std::time::{Duration, SystemTime};

use model::error::{Classify, Kind};
use model::filter::Filters;
use model::{ContainerId, Namespace};
use proto::events::{TaskDelete, TaskExit};
use store::record::{Any, ContainerRecord, Runtime};
use store::{Options, Store, key, tables};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::settings::{Settings, Timeouts};
use super::{CreateTask, Tasks};
use crate::events::{Bus, Subscription};

/// Longer than anything takes here, on a busy machine.
const LONG: Duration = Duration::from_secs(30);

/// Settings with everything below `folder`.
pub(super) fn settings(folder: &Path) -> Settings {
    Settings {
        root: folder.join("root"),
        state: folder.join("state"),
        grpc_address: folder.join("g.sock"),
        ttrpc_address: folder.join("g.sock.ttrpc"),
        daemon_binary: folder.join("gantryd"),
        gantry_shim: folder.join("gantry-shim"),
        runtimes: Default::default(),
        socket_dir: folder.join("s"),
        shim_env: Vec::new(),
        debug: false,
        timeouts: Timeouts {
            load: Duration::from_secs(2),
            state: Duration::from_millis(500),
            shutdown: Duration::from_secs(2),
            ..Timeouts::default()
        },
    }
}

/// A daemon as far as tasks are concerned. Its folder is the test's, so that a second one can come after it.
struct Daemon {
    tasks: Tasks,
    events: Subscription,
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Daemon {
    fn start(settings: Settings, store: &Store) -> Self {
        let bus = Bus::new();
        let events = bus.subscribe(everything());
        Self::over(settings, store, bus, events)
    }

    /// One on whose events nobody has subscribed.
    fn start_unheard(settings: Settings, store: &Store) -> Self {
        Self::over(settings, store, Bus::new(), Bus::new().subscribe(everything()))
    }

    fn over(settings: Settings, store: &Store, bus: Bus, events: Subscription) -> Self {
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let tasks = Tasks::new(settings, store.clone(), bus, tracker.clone(), stop.clone());
        Self { tasks, events, tracker, stop }
    }

    /// Ends as a daemon ends: shims stay.
    async fn end(self) {
        self.stop.cancel();
        self.tracker.close();
        tokio::time::timeout(LONG, self.tracker.wait()).await.expect("nothing holds up the end of the daemon");
    }

    async fn create(&self, id: &str) -> Result<u32, super::TaskError> {
        self.tasks.create(namespace(), id, CreateTask::default()).await
    }

    /// The next event: topic, id, status.
    async fn event(&mut self) -> (String, String, u32) {
        let event = tokio::time::timeout(LONG, self.events.next()).await.expect("an event comes").unwrap();
        let any = event.event.as_ref().unwrap();
        let (id, status) = if let Some(exit) = proto::any::unpack::<TaskExit>(any).unwrap() {
            (exit.container_id, exit.exit_status)
        } else if let Some(delete) = proto::any::unpack::<TaskDelete>(any).unwrap() {
            (delete.container_id, delete.exit_status)
        } else {
            (String::new(), 0)
        };
        (event.topic.clone(), id, status)
    }

    /// Fails if an event comes within a moment.
    async fn no_event(&mut self) {
        if let Ok(event) = tokio::time::timeout(Duration::from_millis(300), self.events.next()).await {
            panic!("an event that should not be: {event:?}");
        }
    }
}

pub(super) fn everything() -> Filters {
    Filters::parse::<&str>(&[]).unwrap()
}

fn namespace() -> Namespace {
    Namespace::new("ns").unwrap()
}

fn store(folder: &Path) -> Store {
    Store::open(&folder.join("meta"), Options::default()).unwrap()
}

/// Records a container.
fn record(store: &Store, id: &str, runtime: &str, spec: &[u8]) {
    record_in(store, id, runtime, spec, "");
}

/// Records a container that names a sandbox.
fn record_in(store: &Store, id: &str, runtime: &str, spec: &[u8], sandbox: &str) {
    let at = SystemTime::now();
    let record = ContainerRecord {
        labels: Default::default(),
        image: String::new(),
        runtime: Runtime { name: runtime.into(), options: None },
        spec: Some(Any { type_url: "spec".into(), value: spec.to_vec() }),
        snapshotter: String::new(),
        snapshot_key: String::new(),
        extensions: Default::default(),
        sandbox: sandbox.into(),
        created_at: at,
        updated_at: at,
    };
    let id = ContainerId::new(id).unwrap();
    store.write(move |tx| tx.put(&tables::CONTAINERS, &key(&["ns", id.as_str()])?, &record)).unwrap();
}

/// Nothing of a task is left: no bundle, no work folder, no socket of ours.
#[track_caller]
fn assert_clean(folder: &Path) {
    for below in ["state", "root"] {
        let tasks = folder.join(below).join("io.containerd.runtime.v2.task/ns");
        let left: Vec<_> = std::fs::read_dir(&tasks).into_iter().flatten().flatten().map(|e| e.path()).collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
    let sockets: Vec<_> =
        std::fs::read_dir(folder.join("s")).into_iter().flatten().flatten().map(|e| e.path()).collect();
    assert!(sockets.is_empty(), "left behind: {sockets:?}");
}

/// The container `c1`, whose shim is a fake that runs already: its folder, the store, the shim.
fn one_container() -> (tempfile::TempDir, Store, fake::FakeShim) {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let binary = fake::install(folder.path(), fake::GOOD_START);
    record(&store, "c1", binary.to_str().unwrap(), b"{}");
    let shim = fake::FakeShim::start(folder.path(), "c1");
    (folder, store, shim)
}
