//! Compiles the `.proto` files of the wire into Rust: messages always, gRPC servers and clients behind the feature `grpc`.
//!
//! It runs as the build script of the crate `proto` and needs no `protoc`. Services that are spoken over ttrpc get no code:
//! their methods are told apart by name where frames are handled.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

/// Folders below `proto/` that hold definitions.
const FOLDERS: [&str; 8] = ["containerd", "cri", "gantry", "google", "grpc", "nri", "runtimeoptions", "ttrpc"];

/// Packages whose services travel over ttrpc.
const TTRPC_PACKAGES: [&str; 5] = [
    "containerd.task.v3",
    "containerd.runtime.sandbox.v1",
    "containerd.services.events.ttrpc.v1",
    "gantry.shim.v1",
    "nri.pkg.api.v1alpha1",
];

/// Fields that carry payloads large enough to be worth sharing instead of copying.
const SHARED_BYTES: [&str; 5] = [
    ".containerd.services.content.v1.ReadContentResponse.data",
    ".containerd.services.content.v1.WriteContentRequest.data",
    ".containerd.types.transfer.Data.data",
    ".ttrpc.Request.payload",
    ".ttrpc.Response.payload",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let mut files = Vec::new();
    println!("cargo::rerun-if-changed=../build.rs");
    for folder in FOLDERS {
        println!("cargo::rerun-if-changed={folder}");
        definitions(&root.join(folder), &mut files)?;
    }
    files.sort();

    let mut descriptors = protox::compile(&files, [&root])?;
    for file in &mut descriptors.file {
        if TTRPC_PACKAGES.contains(&file.package()) {
            file.service.clear();
        }
    }

    let mut messages = prost_build::Config::new();
    messages.enable_type_names().include_file("wire.rs").bytes(SHARED_BYTES);
    // Sorted maps: the same message always has the same bytes.
    messages.btree_map(["."]);
    tonic_prost_build::configure()
        // Nobody reaches us by host name, and `connect` would only get in the way of methods of that name.
        .build_transport(false)
        .server_mod_attribute(".", "#[cfg(feature = \"grpc\")]")
        .client_mod_attribute(".", "#[cfg(feature = \"grpc\")]")
        .compile_fds_with_config(descriptors, messages)?;
    Ok(())
}

/// Adds every `.proto` file below `folder`, if there is such a folder.
fn definitions(folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            definitions(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            found.push(path);
        }
    }
    Ok(())
}
