//! What this daemon is made of, in containerd's terms: the rows that clients look for before they use something.
//!
//! Pure: facts in, rows out. A row is here only if what it names works; clients decide by rows.

use std::collections::BTreeMap;

use model::filter::Fields;
use model::platform::Platform;

use crate::config::Config;

/// The type of the plugin that runs containers.
pub const RUNTIME: &str = "io.containerd.runtime.v2";

/// The type of what is served over gRPC.
pub const GRPC: &str = "io.containerd.grpc.v1";

/// The type of what looks after containers.
pub const MONITOR: &str = "io.containerd.monitor.container.v1";

/// The type of snapshotters.
pub const SNAPSHOTTER: &str = "io.containerd.snapshotter.v1";

/// The log URI schemes that every shim takes.
const LOG_SCHEMES: &str = "fifo,binary,binary-v2,file";

/// One part of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plugin {
    /// What kind of part it is.
    pub kind: String,
    /// Which one of its kind.
    pub id: String,
    /// The kinds it stands on.
    pub requires: Vec<&'static str>,
    /// The platforms it works for.
    pub platforms: Vec<Platform>,
    /// Facts for clients.
    pub exports: BTreeMap<String, String>,
    /// What it can do beyond the basics.
    pub capabilities: Vec<String>,
    /// Why it is not in use, if it is not.
    pub failure: Option<String>,
}

impl Plugin {
    fn new(kind: &str, id: &str, requires: &[&'static str]) -> Self {
        Self { kind: kind.to_owned(), id: id.to_owned(), requires: requires.to_vec(), ..Self::default() }
    }

    fn on_this_platform(mut self) -> Self {
        self.platforms.push(Platform::host());
        self
    }

    fn export(mut self, name: &str, value: impl ToString) -> Self {
        self.exports.insert(name.to_owned(), value.to_string());
        self
    }
}

impl Fields for Plugin {
    fn field(&self, path: &[String]) -> Option<String> {
        let text = match path.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["type"] => self.kind.clone(),
            ["id"] => self.id.clone(),
            _ => return None,
        };
        Some(text).filter(|text| !text.is_empty())
    }
}

/// A snapshot driver, as far as clients are told about it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Driver {
    /// Its name.
    pub name: String,
    /// Its folder, if it has one on this machine.
    pub root: Option<String>,
    /// What it can do beyond the basics.
    pub capabilities: Vec<String>,
    /// Why it cannot be used on this machine, if it cannot.
    pub failure: Option<String>,
}

/// The rows, in the order in which the parts stand on each other.
pub fn rows(config: &Config, drivers: &[Driver]) -> Vec<Plugin> {
    const CONTENT: &str = "io.containerd.content.v1";
    const METADATA: &str = "io.containerd.metadata.v1";
    const EVENT: &str = "io.containerd.event.v1";
    const GC: &str = "io.containerd.gc.v1";
    const DIFFER: &str = "io.containerd.differ.v1";
    const LEASE: &str = "io.containerd.lease.v1";
    const STREAMING: &str = "io.containerd.streaming.v1";
    const TRANSFER: &str = "io.containerd.transfer.v1";
    const SERVICE: &str = "io.containerd.service.v1";
    const INTERNAL: &str = "io.containerd.internal.v1";

    let mut rows =
        vec![Plugin::new(CONTENT, "content", &[]).export("root", crate::home::content(&config.root).display())];
    for driver in drivers {
        let mut row = Plugin::new(SNAPSHOTTER, &driver.name, &[]);
        let proxy = config.proxies.get(&driver.name);
        row.platforms.push(proxy.and_then(|proxy| proxy.platform.clone()).unwrap_or_else(Platform::host));
        row.exports.extend(proxy.map(|proxy| proxy.exports.clone()).unwrap_or_default());
        row.capabilities.clone_from(&driver.capabilities);
        row.failure.clone_from(&driver.failure);
        rows.push(match &driver.root {
            Some(root) => row.export("root", root),
            None => row,
        });
    }
    for (name, proxy) in &config.proxies {
        if proxy.kind == crate::proxy::Kind::Snapshot {
            // It is among the drivers.
            continue;
        }
        let mut row = Plugin::new(proxy.kind.plugin_type(), name, &[]);
        row.platforms.push(proxy.platform.clone().unwrap_or_else(Platform::host));
        row.exports.clone_from(&proxy.exports);
        row.capabilities.clone_from(&proxy.capabilities);
        row.failure = proxy.kind.refusal().map(str::to_owned);
        rows.push(row);
    }
    let engine = if config.engine == crate::config::Engine::Redb { "redb" } else { "sled" };
    let gc = &config.gc;
    rows.extend([
        Plugin::new(METADATA, engine, &[CONTENT, SNAPSHOTTER])
            .export("policy", if config.isolated_content { "isolated" } else { "shared" }),
        Plugin::new(DIFFER, "walking", &[METADATA]).on_this_platform(),
        Plugin::new(EVENT, "exchange", &[]),
        Plugin::new(GC, "scheduler", &[METADATA])
            .export("PauseThreshold", gc.pause_threshold)
            .export("DeletionThreshold", gc.deletion_threshold)
            .export("MutationThreshold", gc.mutation_threshold)
            .export("ScheduleDelay", humane(gc.schedule_delay)),
        Plugin::new(LEASE, "manager", &[METADATA]),
        Plugin::new(STREAMING, "manager", &[METADATA]),
        Plugin::new(TRANSFER, "local", &[LEASE, METADATA, DIFFER, STREAMING]),
        Plugin::new(RUNTIME, "task", &[EVENT, METADATA]).on_this_platform().export("log-uri-schemes", LOG_SCHEMES),
        Plugin::new(INTERNAL, "opt", &[]).export("path", config.opt_path.display()),
    ]);
    if !config.is_disabled(MONITOR, "restart") {
        let mut row = Plugin::new(MONITOR, "restart", &[SERVICE]);
        row.capabilities = crate::restart::CAPABILITIES.map(str::to_owned).into();
        rows.push(row);
    }
    let parts: [(&str, &[&str]); 9] = [
        ("introspection", &[]),
        ("containers", &[EVENT, METADATA]),
        ("content", &[EVENT, METADATA]),
        ("diff", &[DIFFER]),
        ("images", &[METADATA, GC]),
        ("leases", &[METADATA]),
        ("namespaces", &[EVENT, METADATA]),
        ("snapshots", &[EVENT, METADATA]),
        ("tasks", &[EVENT, RUNTIME, METADATA]),
    ];
    rows.extend(parts.map(|(id, requires)| Plugin::new(SERVICE, &format!("{id}-service"), requires)));
    rows.extend(parts.map(|(id, _)| Plugin::new(GRPC, id, &[SERVICE])));
    if !config.is_disabled(GRPC, "cri") {
        rows.extend(["images", "runtime"].map(|id| Plugin::new("io.containerd.cri.v1", id, &[METADATA])));
        rows.push(Plugin::new(GRPC, "cri", &["io.containerd.cri.v1", RUNTIME]).on_this_platform());
    }
    rows.extend(["events", "healthcheck", "version"].map(|id| Plugin::new(GRPC, id, &[])));
    rows.extend([Plugin::new(GRPC, "streaming", &[STREAMING]), Plugin::new(GRPC, "transfer", &[TRANSFER])]);
    rows
}

/// A duration as Go prints it, who says "0s" for none.
fn humane(duration: std::time::Duration) -> String {
    if duration.is_zero() { "0s".to_owned() } else { format!("{duration:?}") }
}

#[cfg(test)]
mod tests {
    use model::filter::Filters;

    use super::*;

    #[test]
    fn clients_find_what_they_look_for() {
        let driver = Driver { name: "overlayfs".into(), root: Some("/r".into()), ..Driver::default() };
        let rows = rows(&Config::default(), &[driver]);
        for (filter, found) in [
            ("type==io.containerd.runtime.v2", 1),
            ("type==io.containerd.snapshotter.v1, id==overlayfs", 1),
            ("type~=snapshot,id==native", 0),
            ("id==restart", 1),
            ("platforms", 0),
            ("type==io.containerd.grpc.v1,id==tasks", 1),
        ] {
            let filters = Filters::parse(&[filter]).unwrap();
            assert_eq!(rows.iter().filter(|row| filters.matches(*row)).count(), found, "{filter}");
        }
        let runtime = rows.iter().find(|row| row.kind == RUNTIME).unwrap();
        assert_eq!(runtime.platforms, [Platform::host()]);
    }

    #[test]
    fn no_row_is_there_twice() {
        let rows = rows(&Config::default(), &[]);
        let names: std::collections::BTreeSet<_> = rows.iter().map(|row| (&row.kind, &row.id)).collect();
        assert_eq!(names.len(), rows.len());
    }
}
