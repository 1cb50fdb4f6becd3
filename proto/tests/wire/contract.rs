//! Where the definitions come from: ours from the files of this crate, the contract from crates that others maintain.
//!
//! Of those crates only the `.proto` files are read. Cargo knows where they are, because they are dependencies for no
//! platform at all: locked and fetched, never built.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use prost_reflect::DescriptorPool;

/// A set of definitions with the name to blame.
pub(crate) struct Definitions {
    pub(crate) from: &'static str,
    pub(crate) pool: DescriptorPool,
}

/// Our own.
pub(crate) static OURS: LazyLock<Definitions> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    Definitions { from: "ours", pool: compile(&[root], &[root], &["/src/", "/tests/"]) }
});

/// The contract. Several sources may define the same message, in older and newer versions.
pub(crate) static CONTRACT: LazyLock<Vec<Definitions>> = LazyLock::new(|| {
    let crates = locations();
    let api = "vendor/github.com/containerd/containerd/api";
    let client = crates["containerd-client"].join("vendor");
    let shim = crates["containerd-shim-protos"].join("vendor");
    let cgroups = shim.join("github.com/containerd/cgroups");
    let shim_api = crates["containerd-shim-protos"].join(api);
    let health = crates["tonic-health"].join("proto");
    let ttrpc = crates["ttrpc"].join("src");
    let cri = crates["k8s-cri"].join("proto");
    vec![
        Definitions {
            from: "containerd-client",
            pool: compile(
                &[&client],
                &[&crates["containerd-client"].join(api), &client.join("google/rpc")],
                &["/vendor/github.com/containerd/containerd/vendor/"],
            ),
        },
        Definitions {
            from: "containerd-shim-protos",
            pool: compile(&[&shim_api, &shim], &[&shim_api, &cgroups.join("stats"), &cgroups.join("cgroup2")], &[]),
        },
        Definitions {
            from: "containerd-shim-protos (cgroups v3)",
            pool: compile(&[&shim], &[&cgroups.join("v3")], &[]),
        },
        Definitions { from: "tonic-health", pool: compile(&[&health], &[&health], &[]) },
        Definitions { from: "k8s-cri", pool: compile(&[&cri], &[&cri], &["v1alpha2"]) },
        Definitions { from: "ttrpc", pool: compile(&[&ttrpc], &[&ttrpc], &[]) },
    ]
});

/// Compiles every `.proto` file below `folders`, but for paths that contain one of `without`.
fn compile(includes: &[&Path], folders: &[&Path], without: &[&str]) -> DescriptorPool {
    let mut files = Vec::new();
    for folder in folders {
        find(folder, &mut files);
    }
    files.retain(|file| !without.iter().any(|part| file.to_string_lossy().contains(part)));
    files.sort();
    assert!(!files.is_empty(), "no .proto files in {folders:?}");
    let set = protox::compile(&files, includes).unwrap_or_else(|error| panic!("{folders:?}: {error:?}"));
    DescriptorPool::from_file_descriptor_set(set).unwrap()
}

fn find(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.unwrap().path();
        if path.is_dir() {
            find(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            found.push(path);
        }
    }
}

/// The folders of all crates of the lock file, by name.
fn locations() -> BTreeMap<String, PathBuf> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--format-version=1", "--locked", "--manifest-path"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages
        .map(|package| {
            let manifest = Path::new(package["manifest_path"].as_str().unwrap());
            (package["name"].as_str().unwrap().to_owned(), manifest.parent().unwrap().to_owned())
        })
        .collect()
}
