//! What the parts are told of the configuration: its keys in, the settings of a part out. It decides nothing but names.

use crate::config::{Config, Level};
use crate::images;
use crate::tasks::{self, Timeouts};

/// What the tasks need to know of the configuration.
pub fn for_tasks(config: &Config) -> tasks::Settings {
    let daemon_binary = std::env::current_exe().unwrap_or_else(|_| "gantryd".into());
    let beside = |name: &str| daemon_binary.with_file_name(name);
    let usual = Timeouts::default();
    // Zero stands for no limit, which nothing here waits for: it is the usual one then.
    let limit = |name: &str, usual| config.timeout(name).unwrap_or(usual);
    tasks::Settings {
        root: config.root.clone(),
        state: config.state.clone(),
        grpc_address: config.grpc.socket.address.clone(),
        ttrpc_address: config.ttrpc.address.clone(),
        gantry_shim: beside("gantry-shim"),
        daemon_binary,
        runtimes: config.runtimes.clone(),
        socket_dir: config.shim_socket_dir(),
        shim_env: config
            .shims
            .env
            .iter()
            .map(|entry| match entry.split_once('=') {
                Some((key, value)) => (key.to_owned(), value.to_owned()),
                None => (entry.clone(), String::new()),
            })
            .collect(),
        debug: matches!(config.log.level, Level::Trace | Level::Debug),
        timeouts: Timeouts {
            load: limit("io.containerd.timeout.shim.load", usual.load),
            cleanup: limit("io.containerd.timeout.shim.cleanup", usual.cleanup),
            shutdown: limit("io.containerd.timeout.shim.shutdown", usual.shutdown),
            state: limit("io.containerd.timeout.task.state", usual.state),
            stats: limit("io.containerd.timeout.metrics.shimstats", usual.stats),
            ..usual
        },
    }
}

/// What moving images needs to know of the configuration.
pub fn for_images(config: &Config) -> images::Settings {
    let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    images::Settings {
        downloads: count(config.transfer.downloads),
        uploads: count(config.transfer.uploads),
        ..images::Settings::default()
    }
}
