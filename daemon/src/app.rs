//! Wiring: the one place that knows the concrete type of every part, builds them in order, serves, and drains.
//!
//! ```text
//!   open:  folders and lock → store → blobs, drivers → metadata → tasks
//!   run:   sockets are made → tasks found again → ttrpc, collection, gRPC → READY … stop → STOPPING
//!          → shims are not heard any more → subscriptions end → requests in flight → sockets are removed
//! ```
//!
//! A socket is there before it is served: a client that comes early waits in the backlog. Shims stay; what they have to say while
//! nobody listens, they say to the next daemon.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use model::error::Classify;
use proto::cri::image_service_server::ImageServiceServer;
use proto::cri::runtime_service_server::RuntimeServiceServer;
use proto::gantry::v1::doctor_server::DoctorServer;
use proto::gantry::v1::events_server::EventsServer as JournalServer;
use proto::gantry::v1::operations_server::OperationsServer;
use proto::grpc::health::v1::health_server::HealthServer;
use proto::services::containers::v1::containers_server::ContainersServer;
use proto::services::content::v1::content_server::ContentServer;
use proto::services::diff::v1::diff_server::DiffServer;
use proto::services::events::v1::events_server::EventsServer;
use proto::services::images::v1::images_server::ImagesServer;
use proto::services::introspection::v1::introspection_server::IntrospectionServer;
use proto::services::leases::v1::leases_server::LeasesServer;
use proto::services::namespaces::v1::namespaces_server::NamespacesServer;
use proto::services::sandbox::v1::controller_server::ControllerServer;
use proto::services::sandbox::v1::store_server::StoreServer;
use proto::services::snapshots::v1::snapshots_server::SnapshotsServer;
use proto::services::streaming::v1::streaming_server::StreamingServer;
use proto::services::tasks::v1::tasks_server::TasksServer;
use proto::services::transfer::v1::transfer_server::TransferServer;
use proto::services::version::v1::version_server::VersionServer;
use sd_notify::NotifyState;
use snapshotter::{SnapshotError, Snapshotter, copy, overlay};
use store::blob::{BlobError, BlobStore};
use store::{Store, StoreError};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tracing::{info, warn};

use crate::api;
use crate::api::layers::Traffic;
use crate::blocking;
use crate::checkpoints::Checkpoints;
use crate::config::{Config, Engine};
use crate::containers::Containers;
use crate::cri::{self, Cri};
use crate::doctor::{Doctor, rescue};
use crate::events::{Bus, Subscription};
use crate::gc::schedule::{self, Trigger};
use crate::home::{Home, HomeError};
use crate::images::Images;
use crate::journal::Journal;
use crate::meta::content::Sharing;
use crate::meta::{self, Drivers, Meta};
use crate::metrics::{self, Requests};
use crate::mounts::MountDir;
use crate::namespaces::Namespaces;
use crate::plugins::{self, Driver, Plugin};
use crate::proxy;
use crate::restart::Monitor;
use crate::sandboxes::Sandboxes;
use crate::serve::{ServeError, serve};
use crate::settings;
use crate::socket::{self, SocketError};
use crate::streaming::Streams;
use crate::tasks::Tasks;
use crate::ttrpc;
use crate::ttrpc::events::Forward;

/// How long work in the background may take to end when the daemon stops.
const STOP_TIME: Duration = Duration::from_secs(5);

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The folders cannot be used.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The metadata store cannot be opened.
    #[error(transparent)]
    Store(#[from] store::OpenError),
    /// The journal of events cannot be opened.
    #[error("cannot open the journal of events")]
    Journal(#[from] StoreError),
    /// The blobs cannot be used.
    #[error("cannot open the content store")]
    Content(#[from] BlobError),
    /// A plugin that the configuration requires is not there.
    #[error("required plugin {name} is not there")]
    Required {
        /// Its name, `type.id`.
        name: String,
    },
    /// The address of the metrics cannot be had.
    #[error("cannot serve metrics on {address}")]
    Metrics {
        /// The address.
        address: std::net::SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// A socket cannot be had.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The server ended by itself.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// Signals cannot be heard.
    #[error("cannot listen for signals")]
    Signals(#[from] io::Error),
}

/// The daemon, built but not serving.
pub struct App {
    config: Arc<Config>,
    home: Home,
    rows: Vec<Plugin>,
    parts: Parts,
    state: State,
    doctor: Doctor,
    /// The journal and what it hears, until that is started.
    journal: Option<(Journal, Subscription)>,
    /// Everything in the background.
    tracker: TaskTracker,
    /// Ends everything in the background.
    stop: CancellationToken,
}

/// What the services are built from.
struct Parts {
    bus: Bus,
    namespaces: Namespaces,
    containers: Containers,
    meta: Meta,
    mounts: MountDir,
    images: Images,
    tasks: Tasks,
    sandboxes: Sandboxes,
    cri: Option<Cri>,
}

/// What can be said about the daemon while it runs. Clones say the same.
#[derive(Debug, Clone)]
pub struct State {
    traffic: Traffic,
    bus: Bus,
    store: Store,
    tasks: Tasks,
    images: Images,
    trigger: Trigger,
    journal: Option<Journal>,
    tracker: TaskTracker,
}

impl State {
    /// The figures about each method.
    pub fn requests(&self) -> Requests {
        self.traffic.requests()
    }

    /// What else is worth to be a figure: its name, what it says, its value.
    pub fn figures(&self) -> Vec<(&'static str, &'static str, f64)> {
        let (subscribers, waiting) = self.bus.load();
        let collection = self.trigger.figures();
        let journal = self.journal.as_ref().map(|journal| journal.extent());
        let (events, bytes) = journal.map_or((0, 0), |extent| (extent.next - extent.oldest, extent.bytes));
        let store_stopped = self.store.stopped().is_some();
        vec![
            ("gantry_requests_in_flight", "Requests that are being answered", self.traffic.in_flight() as f64),
            ("gantry_tasks", "Tasks that have a shim", self.tasks.live().len() as f64),
            ("gantry_event_subscribers", "Clients that listen to events", subscribers as f64),
            ("gantry_events_waiting", "Events that wait for clients", waiting as f64),
            ("gantry_journal_events", "Events that are kept", events as f64),
            ("gantry_journal_bytes", "Bytes of events that are kept", bytes as f64),
            ("gantry_pulls_begun", "Pulls of images that have begun", self.images.pulls().begun as f64),
            ("gantry_pulls_failed", "Pulls of images that have failed", self.images.pulls().failed as f64),
            ("gantry_gc_runs", "Collections that have ended", collection.runs as f64),
            ("gantry_gc_removed", "Things that collections have removed", collection.removed as f64),
            ("gantry_gc_last_seconds", "How long the last collection took", collection.last.as_secs_f64()),
            ("gantry_store_stopped", "1 while the metadata store cannot be used", f64::from(u8::from(store_stopped))),
        ]
    }

    /// Writes it to the log.
    pub fn log(&self) {
        let (subscribers, queued_events) = self.bus.load();
        info!(
            requests = self.traffic.begun(),
            in_flight = self.traffic.in_flight(),
            subscribers,
            queued_events,
            tasks = self.tasks.live().len(),
            background = self.tracker.len(),
            store_writing_for = ?self.store.writing_for(),
            store_stopped = self.store.stopped().map(tracing::field::display),
            "state"
        );
    }
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("config", &self.config).finish_non_exhaustive()
    }
}

impl App {
    /// Builds every part. Nothing is served and nothing runs yet.
    ///
    /// # Errors
    /// A part cannot be built; the message says which and why.
    pub async fn open(config: Config) -> Result<Self, StartError> {
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let config = Arc::new(config);
        adjust_oom_score(config.oom_score);
        let opened = Arc::clone(&config);
        let Opened { home, store, blobs, drivers, told } = blocking::run(move || open_folders(&opened)).await?;
        let rows = plugins::rows(&config, &told);
        check_required(&config, &rows)?;
        for row in rows.iter().filter(|row| config.is_disabled(&row.kind, &row.id)) {
            warn!(plugin = format!("{}.{}", row.kind, row.id), "this plugin cannot be switched off");
        }
        let bus = Bus::new();
        let journal = match config.journal.enabled {
            true => {
                let (store, settings) = (store.clone(), config.journal);
                let opened = blocking::run(move || Journal::open(store, settings)).await?;
                Some((opened, Journal::listen(&bus)))
            }
            false => None,
        };
        let tasks = Tasks::new(settings::for_tasks(&config), store.clone(), bus.clone(), tracker.clone(), stop.clone());
        let trigger = Trigger::default();
        let doctor = Doctor {
            config: Arc::clone(&config),
            store: store.clone(),
            blobs: blobs.clone(),
            drivers: drivers.clone(),
            tasks: Some(tasks.clone()),
        };
        let sharing = if config.isolated_content { Sharing::Isolated } else { Sharing::Shared };
        let meta = Meta::new(meta::Parts {
            store: store.clone(),
            blobs: blobs.clone(),
            sharing,
            drivers,
            bus: bus.clone(),
            trigger: trigger.clone(),
        });
        let containers = Containers::new(store.clone(), bus.clone(), &meta);
        let images = Images::new(meta.clone(), settings::for_images(&config));
        let mounts = MountDir::new(config.state.join("mounts"));
        let cri = (!config.is_disabled(plugins::GRPC, "cri")).then(|| {
            Cri::new(cri::Parts {
                settings: cri::Settings::of(&config),
                containers: containers.clone(),
                meta: meta.clone(),
                images: images.clone(),
                tasks: tasks.clone(),
                bus: bus.clone(),
                store: store.clone(),
                mounts: mounts.clone(),
                tracker: tracker.clone(),
                stop: stop.clone(),
            })
        });
        let parts = Parts {
            sandboxes: Sandboxes::new(store.clone(), &meta),
            bus: bus.clone(),
            namespaces: Namespaces::new(store.clone(), blobs, bus.clone(), trigger),
            containers,
            images,
            meta,
            mounts,
            tasks: tasks.clone(),
            cri,
        };
        let state = State {
            traffic: Traffic::default(),
            bus,
            store,
            tasks,
            images: parts.images.clone(),
            trigger: parts.meta.trigger().clone(),
            journal: journal.as_ref().map(|(journal, _)| journal.clone()),
            tracker: tracker.clone(),
        };
        Ok(Self { config, home, rows, parts, state, doctor, journal, tracker, stop })
    }

    /// What can be said about it while it runs.
    pub fn state(&self) -> State {
        self.state.clone()
    }

    /// Serves until `stop`, then drains.
    ///
    /// # Errors
    /// It cannot serve, or ended before it was told to.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), StartError> {
        let (grpc, grpc_bound) = socket::bind(&self.config.grpc.socket)?;
        let (ttrpc, ttrpc_bound) = socket::bind(&self.config.ttrpc)?;
        let ttrpc = UnixListener::from_std(ttrpc).map_err(ServeError::Socket)?;
        let routes = self.routes(&stop)?;
        if let Some((journal, subscription)) = self.journal.take() {
            self.tracker.spawn(journal.run(self.parts.bus.clone(), subscription));
        }

        // It says itself what it found.
        let _ = self.parts.tasks.recover().await;
        let shims = Forward::new(self.parts.tasks.clone());
        let shims_stop = self.stop.child_token();
        let shims = ttrpc::Server::new(shims, self.tracker.clone(), shims_stop.clone());
        let heard = self.tracker.spawn(shims.serve(ttrpc));

        let mounts = self.parts.mounts.clone();
        blocking::run(move || mounts.clear()).await;
        self.parts.images.settle(&self.parts.namespaces).await;
        if let Some(cri) = &self.parts.cri {
            cri.recover().await;
            cri.start().await;
        }
        self.serve_figures().await?;
        if !self.config.is_disabled(plugins::MONITOR, "restart") {
            let monitor = Monitor {
                containers: self.parts.containers.clone(),
                meta: self.parts.meta.clone(),
                namespaces: self.parts.namespaces.clone(),
                tasks: self.parts.tasks.clone(),
            };
            self.tracker.spawn(monitor.run(self.config.restart_interval, self.stop.child_token()));
        }
        let meta = self.parts.meta.clone();
        self.tracker.spawn(schedule::run(meta, self.config.gc.clone(), self.stop.child_token()));

        let bus = self.parts.bus.clone();
        let stopping = stop.clone();
        self.tracker.spawn(async move {
            stopping.cancelled().await;
            notify(NotifyState::Stopping);
            // First the shims, so that nothing is said that no subscriber can hear.
            shims_stop.cancel();
            let _ = heard.await;
            bus.close();
        });

        info!(address = %self.config.grpc.socket.address.display(), pid = std::process::id(), "serving");
        notify(NotifyState::Ready);
        let served = serve(routes, grpc, self.state.traffic.clone(), stop.clone()).await;
        // If the server failed, the rest must end as well.
        stop.cancel();
        self.stop.cancel();
        self.tracker.close();
        if tokio::time::timeout(STOP_TIME, self.tracker.wait()).await.is_err() {
            warn!(background = self.tracker.len(), "work in the background was cut off");
        }
        drop((grpc_bound, ttrpc_bound));
        info!("stopped");
        Ok(served?)
    }

    /// Serves figures where there is an address for them.
    async fn serve_figures(&self) -> Result<(), StartError> {
        if let Some(address) = self.config.metrics.address {
            let with_times = self.config.metrics.grpc_histogram;
            let (state, stop) = (self.state(), self.stop.child_token());
            metrics::serve(address, with_times, state, &self.tracker, stop)
                .await
                .map_err(|source| StartError::Metrics { address, source })?;
        }
        if let Some(debug) = &self.config.debug {
            // The file stays until the process ends; the next one replaces it.
            let (listener, bound) = socket::bind(debug)?;
            let served = metrics::serve_debug(listener, self.state(), &self.tracker, self.stop.child_token());
            served.map_err(ServeError::Socket)?;
            let stop = self.stop.child_token();
            self.tracker.spawn(async move {
                stop.cancelled().await;
                drop(bound);
            });
        }
        Ok(())
    }

    fn routes(&self, stop: &CancellationToken) -> Result<Routes, StartError> {
        let limits = &self.config.grpc;
        // One place for the bounds of messages.
        macro_rules! sized {
            ($server:ident, $service:expr) => {
                $server::new($service)
                    .max_decoding_message_size(limits.max_receive_bytes)
                    .max_encoding_message_size(limits.max_send_bytes)
            };
        }
        let parts = &self.parts;
        let identity = self.home.identity()?;
        let (images, streams) = (parts.images.clone(), Streams::default());
        let checkpoints = Checkpoints::new(parts.tasks.clone(), parts.meta.clone(), parts.mounts.clone());
        let tasks = api::tasks::TasksService::new(parts.tasks.clone(), checkpoints, stop.clone());
        let sandbox_controllers =
            api::sandboxes::Controllers::new(parts.sandboxes.clone(), parts.tasks.sandboxes(), stop.clone());
        let introspection = api::introspection::Introspection::new(self.rows.clone(), identity, parts.tasks.clone());
        let journal = self.journal.as_ref().map(|(journal, _)| journal.clone());
        let processors = self.config.processors.clone();
        let diff = api::diff::Service::new(parts.meta.clone(), parts.mounts.clone(), processors);
        let mut routes = Routes::default();
        if let Some(cri) = &parts.cri {
            routes = routes
                .add_service(sized!(RuntimeServiceServer, cri.clone()))
                .add_service(sized!(ImageServiceServer, cri.clone()));
        }
        Ok(routes
            .add_service(sized!(VersionServer, api::version::Version))
            .add_service(sized!(HealthServer, api::health::Health::new(stop.clone(), SERVICES)))
            .add_service(sized!(IntrospectionServer, introspection))
            .add_service(sized!(NamespacesServer, api::namespaces::Service::new(parts.namespaces.clone())))
            .add_service(sized!(
                ContainersServer,
                api::containers::Service::new(parts.containers.clone(), parts.images.clone())
            ))
            .add_service(sized!(ContentServer, api::content::Service::new(parts.meta.clone())))
            .add_service(sized!(ImagesServer, api::images::Service::new(parts.meta.clone())))
            .add_service(sized!(LeasesServer, api::leases::Service::new(parts.meta.clone())))
            .add_service(sized!(SnapshotsServer, api::snapshots::Service::new(parts.meta.clone())))
            .add_service(sized!(DiffServer, diff))
            .add_service(sized!(StreamingServer, api::streaming::Service::new(streams.clone())))
            .add_service(sized!(OperationsServer, api::operations::Service::new(images.operations().clone())))
            .add_service(sized!(TransferServer, api::transfer::Service::new(images, streams)))
            .add_service(sized!(TasksServer, tasks))
            .add_service(sized!(StoreServer, api::sandboxes::Records::new(parts.sandboxes.clone())))
            .add_service(sized!(ControllerServer, sandbox_controllers))
            .add_service(sized!(DoctorServer, api::doctor::Service::new(self.doctor.clone())))
            .add_service(sized!(JournalServer, api::journal::Service::new(journal)))
            .add_service(sized!(EventsServer, api::events::Events::new(parts.bus.clone()))))
    }
}

/// The services that health can be asked of by name.
const SERVICES: &[&str] = &[
    "containerd.services.containers.v1.Containers",
    "containerd.services.content.v1.Content",
    "containerd.services.diff.v1.Diff",
    "containerd.services.events.v1.Events",
    "containerd.services.images.v1.Images",
    "containerd.services.introspection.v1.Introspection",
    "containerd.services.leases.v1.Leases",
    "containerd.services.namespaces.v1.Namespaces",
    "containerd.services.sandbox.v1.Controller",
    "containerd.services.sandbox.v1.Store",
    "containerd.services.snapshots.v1.Snapshots",
    "containerd.services.streaming.v1.Streaming",
    "containerd.services.tasks.v1.Tasks",
    "containerd.services.transfer.v1.Transfer",
    "containerd.services.version.v1.Version",
    "gantry.v1.Operations",
    "gantry.v1.Doctor",
    "gantry.v1.Events",
    "runtime.v1.ImageService",
    "runtime.v1.RuntimeService",
];

/// What is on disk.
struct Opened {
    home: Home,
    store: Store,
    blobs: BlobStore,
    drivers: Drivers,
    /// What clients are told of the drivers, those included that cannot be used.
    told: Vec<Driver>,
}

fn open_folders(config: &Config) -> Result<Opened, StartError> {
    let home = Home::open(config)?;
    let options = store_options(config);
    let store = rescue::open(&home.metadata(), options, config)?;
    let blobs = BlobStore::open(&home.content())?;
    blobs.verify_on_read(config.verify_on_read);
    let (drivers, told) = open_drivers(config, &home, &store);
    Ok(Opened { home, store, blobs, drivers, told })
}

fn store_options(config: &Config) -> store::Options {
    let engine = match config.engine {
        Engine::Sled => store::Engine::Sled,
        Engine::Redb => store::Engine::Redb,
    };
    let mut options = store::Options { engine, ..store::Options::default() };
    if let Some(limit) = config.timeout("io.containerd.timeout.bolt.open") {
        options.open_limit = limit;
    }
    options
}

/// Opens the snapshot drivers that are not switched off. One that this machine cannot run is left out, and clients are told why.
fn open_drivers(config: &Config, home: &Home, store: &Store) -> (Drivers, Vec<Driver>) {
    let overlay = || {
        let root = config.overlay.root_path.clone().unwrap_or_else(|| home.snapshots(overlay::NAME));
        let mount_options = config.overlay.mount_options.clone();
        let layer_format = config.overlay.layer_format;
        let options = overlay::Options { mount_options, layer_format, ..overlay::Options::default() };
        let driver = overlay::Overlay::open(&root, store.clone(), options)?;
        Ok(Arc::new(driver) as Arc<dyn Snapshotter>)
    };
    let native = || {
        let driver = copy::Native::open(&home.snapshots(copy::NAME), store.clone())?;
        Ok(Arc::new(driver) as Arc<dyn Snapshotter>)
    };
    type Open<'a> = &'a dyn Fn() -> Result<Arc<dyn Snapshotter>, SnapshotError>;
    let known: [(&str, Open<'_>); 2] = [(overlay::NAME, &overlay), (copy::NAME, &native)];
    let (mut drivers, mut told) = (Drivers::new(), Vec::new());
    for (name, open) in known {
        if config.is_disabled(plugins::SNAPSHOTTER, name) {
            continue;
        }
        let mut row = Driver { name: name.to_owned(), ..Driver::default() };
        match open() {
            Ok(driver) => {
                row.root = driver.root().map(|root| root.display().to_string());
                row.capabilities = driver.capabilities();
                drivers.insert(name.to_owned(), driver);
            }
            Err(error) => {
                warn!(snapshotter = name, error = &error as &dyn std::error::Error, "snapshotter left out");
                row.failure = Some(error.wire_message());
            }
        }
        told.push(row);
    }
    for (name, plugin) in &config.proxies {
        if let Some(why) = plugin.kind.refusal() {
            warn!(plugin = name, kind = plugin.kind.name(), why, "proxy plugin not used");
        } else if drivers.contains_key(name) {
            warn!(plugin = name, "proxy plugin not used: there is a snapshotter of that name");
        } else if !config.is_disabled(plugins::SNAPSHOTTER, name) {
            drivers.insert(name.clone(), Arc::new(proxy::Snapshots::new(name, plugin)));
            let capabilities = plugin.capabilities.clone();
            told.push(Driver { name: name.clone(), capabilities, ..Driver::default() });
        }
    }
    (drivers, told)
}

/// Opens the store of a daemon that does not run, and gives its root folder. Nobody else can open it while this process lives.
///
/// # Errors
/// A daemon runs, or the folders cannot be used.
pub fn open_store(config: &Config) -> Result<(std::path::PathBuf, Store), StartError> {
    let home = Home::open(config)?;
    let store = rescue::open(&home.metadata(), store_options(config), config)?;
    std::mem::forget(home);
    Ok((config.root.clone(), store))
}

/// Opens the folders of a daemon that does not run, to be examined.
///
/// # Errors
/// A daemon runs, or the folders cannot be used.
pub fn open_stopped(config: Config) -> Result<Doctor, StartError> {
    let Opened { store, blobs, drivers, home, .. } = open_folders(&config)?;
    // Nobody may start on them meanwhile; the process ends soon.
    std::mem::forget(home);
    Ok(Doctor { config: Arc::new(config), store, blobs, drivers, tasks: None })
}

fn check_required(config: &Config, rows: &[Plugin]) -> Result<(), StartError> {
    let there = |row: &Plugin, name: &str| row.failure.is_none() && format!("{}.{}", row.kind, row.id) == name;
    let missing = |name: &&String| !rows.iter().any(|row| there(row, name));
    match config.required_plugins.iter().find(missing) {
        Some(name) => Err(StartError::Required { name: name.clone() }),
        None => Ok(()),
    }
}

/// Asks the kernel to spare the daemon, if it may: lowering the score needs a capability.
fn adjust_oom_score(score: i32) {
    if score == 0 {
        return;
    }
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
        warn!(score, %error, "cannot set the OOM score");
    }
}

/// Tells a supervising systemd; without one this does nothing.
fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        warn!(%error, "cannot notify the service manager");
    }
}
