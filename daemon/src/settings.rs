//! What the parts are told of the configuration: its keys in, the settings of a part out. It decides nothing but names.

use toml::Value;

use crate::config::{Config, Level, schema};
use crate::images::registry::client::Patience;
use crate::images::registry::hosts::{DEFAULT_PATHS, Legacy, Sources};
use crate::images::verifier::Verifiers;
use crate::images::{self, Chunks};
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
    let usual = images::Settings::default();
    let at = |path: &[&str]| config.document.value(path);
    let number = |path: &[&str]| at(path).and_then(Value::as_integer).and_then(|number| u64::try_from(number).ok());
    // Zero is the usual value, here too.
    let chunk_bytes = number(&["plugins", TRANSFER, "concurrent_layer_fetch_buffer"]).filter(|bytes| *bytes > 0);
    let parallel = number(&["images", "parallel_chunks"]).filter(|parallel| *parallel > 0);
    let time = |path: &[&str]| config.document.text(path).and_then(schema::duration).filter(|time| !time.is_zero());
    let verifiers = &usual.verifiers;
    images::Settings {
        downloads: count(config.transfer.downloads),
        uploads: count(config.transfer.uploads),
        chunks: Chunks {
            bytes: chunk_bytes.unwrap_or(usual.chunks.bytes).clamp(MIN_CHUNK_BYTES, MAX_CHUNK_BYTES),
            parallel: parallel.map_or(usual.chunks.parallel, |parallel| parallel.min(MAX_PARALLEL_CHUNKS) as usize),
        },
        hosts: hosts(config, &[&["plugins", TRANSFER]]),
        cri_hosts: hosts(config, &[&["plugins", CRI_IMAGES, "registry"], &["plugins", CRI, "registry"]]),
        patience: Patience { silence: time(&["images", "silence"]).unwrap_or(usual.patience.silence) },
        verifiers: Verifiers {
            folder: config
                .document
                .text(&["plugins", VERIFIERS, "bin_dir"])
                .map_or(verifiers.folder.clone(), Into::into),
            // Below zero is without limit.
            limit: match at(&["plugins", VERIFIERS, "max_verifiers"]).and_then(Value::as_integer) {
                None => verifiers.limit,
                Some(limit) => usize::try_from(limit).ok(),
            },
            time: time(&["plugins", VERIFIERS, "per_verifier_timeout"]).unwrap_or(verifiers.time),
        },
        ..usual
    }
}

const TRANSFER: &str = "io.containerd.transfer.v1.local";
const CRI_IMAGES: &str = "io.containerd.cri.v1.images";
const CRI: &str = "io.containerd.grpc.v1.cri";
const VERIFIERS: &str = "io.containerd.image-verifier.v1.bindir";

/// The smallest part of a blob that is worth a request, in bytes.
const MIN_CHUNK_BYTES: u64 = 64 << 10;

/// The largest part of a blob that is kept in memory, in bytes.
const MAX_CHUNK_BYTES: u64 = 8 << 20;

/// The most parts of one blob that are fetched at a time.
const MAX_PARALLEL_CHUNKS: u64 = 16;

/// Where registries are found: in the folders that one of the tables names, else as the deprecated keys in it say, else in the usual
/// folders.
fn hosts(config: &Config, tables: &[&[&str]]) -> Sources {
    let tables = tables.iter().filter_map(|path| config.document.value(path)?.as_table());
    let tables: Vec<_> = tables.collect();
    let named = tables.iter().find_map(|table| table.get("config_path")?.as_str().filter(|list| !list.is_empty()));
    if let Some(list) = named {
        return Sources::of_paths(list);
    }
    let legacy = tables.iter().map(|table| Legacy::read(table)).find(|legacy| !legacy.is_empty());
    let headers = tables.iter().find_map(|table| table.get("headers")?.as_table());
    let headers = headers.into_iter().flatten().flat_map(|(name, values)| {
        let values = values.as_array().into_iter().flatten().filter_map(Value::as_str);
        values.map(|value| (name.clone(), value.to_owned()))
    });
    let headers = headers.collect();
    match legacy {
        Some(legacy) => {
            tracing::warn!(
                "the registry keys mirrors, configs and auths are deprecated; hosts.toml files take their place"
            );
            Sources { paths: Vec::new(), legacy, headers }
        }
        None => Sources { paths: DEFAULT_PATHS.map(Into::into).into(), legacy: Legacy::default(), headers },
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Document, Overrides};

    fn images(text: &str) -> images::Settings {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        std::fs::write(&file, text).unwrap();
        let document = Document::load(&file).unwrap();
        assert_eq!(document.warnings(), []);
        for_images(&Config::build(document, &Overrides::default()).unwrap())
    }

    #[test]
    fn registries_are_found_where_the_configuration_says() {
        let usual = images("version = 2");
        assert_eq!(usual.hosts.paths, DEFAULT_PATHS.map(Path::new));
        let set = images(
            r#"
version = 2
[plugins."io.containerd.transfer.v1.local"]
config_path = "/a:/b"
concurrent_layer_fetch_buffer = 1048576
[plugins."io.containerd.grpc.v1.cri".registry.mirrors."docker.io"]
endpoint = ["https://m.example"]
[plugins."io.containerd.image-verifier.v1.bindir"]
bin_dir = "/v"
max_verifiers = -1
per_verifier_timeout = "3s"
[images]
silence = "5s"
parallel_chunks = 1
"#,
        );
        assert_eq!(set.hosts.paths, ["/a", "/b"].map(Path::new));
        assert_eq!(set.cri_hosts.hosts("docker.io", None).unwrap().len(), 2);
        assert_eq!(set.chunks, Chunks { bytes: 1 << 20, parallel: 1 });
        assert_eq!(set.patience.silence.as_secs(), 5);
        assert_eq!((set.verifiers.limit, set.verifiers.time.as_secs()), (None, 3));
    }
}
