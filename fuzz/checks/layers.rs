//! What must be true of a layer, whatever its bytes are. Used by the targets of cargo-fuzz and by a short test of the workspace.
#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "these are checks; not every user needs all of them"
)]

use std::fs;

use model::error::Classify;
use snapshotter::layer::{Durability, Encoding, LayerError, Limits, StandsOn, Target, Whiteouts, apply, write_image};

/// Small enough for thousands of cases a second.
fn limits() -> Limits {
    Limits { entries: 1000, name_bytes: 4096, header_bytes: 1 << 16, sparse_segments: 1000, total_bytes: 1 << 22 }
}

/// Unpacks into a folder below one that holds a witness, as a plain tree and as a layer of an overlay.
pub fn into_folder(bytes: &[u8]) {
    for whiteouts in [Whiteouts::Delete, Whiteouts::OverlayTrusted] {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("witness"), "untouched").unwrap();
        let dir = place.path().join("layer");
        fs::create_dir(&dir).unwrap();
        let target = Target { dir, whiteouts, parents: Vec::new() };
        let outcome = apply(bytes, Encoding::Detected, &target, &limits(), Durability::Later);
        if let Err(error) = outcome {
            told(&error);
        }
        assert_eq!(fs::read(place.path().join("witness")).unwrap(), b"untouched");
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2, "something was made beside the layer");
    }
}

/// Writes an image; where the folder takes the layer, so does the image, and both name the same bytes.
pub fn into_image(bytes: &[u8]) {
    let place = tempfile::tempdir().unwrap();
    let file = |name: &str| {
        let path = place.path().join(name);
        fs::File::options().read(true).write(true).create_new(true).open(path).unwrap()
    };
    let image = write_image(bytes, Encoding::Detected, &limits(), file("image"), &StandsOn::Nothing);
    let unknown = write_image(bytes, Encoding::Detected, &limits(), file("unknown"), &StandsOn::Unknown);
    for error in [&image, &unknown].into_iter().filter_map(|outcome| outcome.as_ref().err()) {
        told(error);
    }
    let dir = place.path().join("layer");
    fs::create_dir(&dir).unwrap();
    let target = Target { dir, whiteouts: Whiteouts::Delete, parents: Vec::new() };
    let folder = apply(bytes, Encoding::Detected, &target, &limits(), Durability::Later);
    match (&image, &folder) {
        (Ok(image), Ok(folder)) => {
            assert_eq!(image, folder);
            let bytes = fs::read(place.path().join("image")).unwrap();
            assert_eq!(bytes.len() % 4096, 0);
            assert_eq!(bytes[1024..1028], 0xe0f5_e1e2_u32.to_le_bytes());
        }
        // What a file system refuses for reasons of its own, a length or a right, an image may take.
        (Ok(_), Err(LayerError::Write { .. })) => {}
        (Ok(_), Err(error)) => panic!("the image took what the folder refuses: {error:?}"),
        (Err(LayerError::NotAsImage { .. }), Ok(_)) => {}
        (Err(error), Ok(_)) => panic!("the image refuses what the folder took: {error:?}"),
        (Err(_), Err(_)) => {}
    }
}

/// Every refusal can be told to somebody.
fn told(error: &LayerError) {
    assert!(!error.wire_message().is_empty());
}
