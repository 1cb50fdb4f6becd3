//! ARCHITECTURE.md is true: every path in its map is there, every module of the programs is in the map, and the arrows between
//! the crates are the ones that Cargo has.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace").to_owned()
}

const CRATES: [&str; 9] = ["client", "daemon", "executor", "model", "proto", "shim", "snapshotter", "store", "tests"];

/// The lines of the map: a path, then what it is for.
fn map() -> Vec<String> {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md can be read");
    let block =
        text.split("```map\n").nth(1).and_then(|rest| rest.split("```").next()).expect("ARCHITECTURE.md has a map");
    block.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn every_path_of_the_map_is_there() {
    let missing: Vec<String> = map().into_iter().filter(|path| !root().join(path).exists()).collect();
    assert!(missing.is_empty(), "in ARCHITECTURE.md, not in the tree: {missing:?}");
}

#[test]
fn every_module_is_in_the_map() {
    let map: BTreeSet<String> = map().into_iter().map(|path| path.trim_end_matches('/').to_owned()).collect();
    let mut missing = Vec::new();
    for name in CRATES.into_iter().filter(|name| *name != "tests") {
        for entry in std::fs::read_dir(root().join(name).join("src")).unwrap() {
            let entry = entry.unwrap();
            let file = entry.file_name().to_string_lossy().into_owned();
            let stem = file.trim_end_matches(".rs");
            if matches!(stem, "lib" | "main") {
                continue;
            }
            let paths = [format!("{name}/src/{stem}"), format!("{name}/src/{stem}.rs")];
            if !paths.iter().any(|path| map.contains(path)) {
                missing.push(format!("{name}/src/{file}"));
            }
        }
    }
    assert!(missing.is_empty(), "in the tree, not in ARCHITECTURE.md: {missing:?}");
}

#[test]
fn the_crates_depend_on_each_other_as_drawn() {
    let allowed = |name: &str| -> &[&str] {
        match name {
            "proto" | "executor" | "store" => &["model"],
            "snapshotter" => &["store", "model"],
            "shim" => &["proto", "executor", "model"],
            "daemon" => &["proto", "store", "snapshotter", "model"],
            "client" => &["proto", "model"],
            _ => &[],
        }
    };
    for name in CRATES.into_iter().filter(|name| *name != "tests") {
        let manifest = std::fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
        let normal =
            manifest.split("[dependencies]").nth(1).unwrap_or_default().split("\n[").next().unwrap_or_default();
        for line in normal.lines() {
            let dependency = line.split([' ', '.', '=']).next().unwrap_or_default();
            let ours = CRATES.contains(&dependency);
            assert!(!ours || allowed(name).contains(&dependency), "{name} must not depend on {dependency}");
        }
    }
}
