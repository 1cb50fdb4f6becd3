//! Every dependency has a licence that `deny.toml` allows, also on machines without cargo-deny.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use harness::run::run_command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace")
}

/// The names between `allow = [` and `]`.
fn allowed() -> BTreeSet<String> {
    let policy = std::fs::read_to_string(root().join("deny.toml")).expect("deny.toml can be read");
    let list =
        policy.split("allow = [").nth(1).and_then(|rest| rest.split("\n]").next()).expect("deny.toml allows licences");
    list.lines().filter_map(|line| line.trim().strip_prefix('"')?.split('"').next().map(str::to_owned)).collect()
}

/// The expression that `deny.toml` gives for a crate which names a file instead of a licence.
fn clarified(name: &str) -> Option<String> {
    let policy = std::fs::read_to_string(root().join("deny.toml")).expect("deny.toml can be read");
    let entry =
        policy.split("[[licenses.clarify]]").skip(1).find(|entry| entry.contains(&format!("crate = \"{name}\"")))?;
    entry.split("expression = \"").nth(1)?.split('"').next().map(str::to_owned)
}

/// Whether an SPDX expression can be satisfied: one side of each OR, both sides of each AND.
fn fits(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let flat = expression.replace('/', " OR ").replace(['(', ')'], " ");
    flat.split(" OR ").any(|choice| choice.split(" AND ").all(|name| allowed.contains(name.trim())))
}

#[test]
fn every_dependency_has_a_licence_that_is_allowed() {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args([
        "metadata",
        "--locked",
        "--format-version",
        "1",
        "--all-features",
        "--filter-platform",
        "x86_64-unknown-linux-gnu",
    ]);
    command.arg("--manifest-path").arg(root().join("Cargo.toml"));
    let metadata: serde_json::Value = serde_json::from_str(&run_command(command).unwrap().ok().unwrap()).unwrap();
    let allowed = allowed();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 100, "cargo lists the dependencies");
    let refused: Vec<String> = packages
        .iter()
        .filter(|package| {
            let said = package["license"].as_str().map(str::to_owned);
            let expression = said.or_else(|| clarified(package["name"].as_str().unwrap_or_default()));
            !fits(&expression.unwrap_or_else(|| "none".to_owned()), &allowed)
        })
        .map(|package| format!("{} {}: {}", package["name"], package["version"], package["license"]))
        .collect();
    assert!(refused.is_empty(), "deny.toml does not allow: {refused:#?}");
}

#[test]
fn an_expression_is_read_as_spdx_means_it() {
    let allowed = BTreeSet::from(["MIT".to_owned(), "ISC".to_owned()]);
    for (expression, answer) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("MIT OR GPL-3.0", true),
        ("MIT AND GPL-3.0", false),
        ("MIT AND ISC", true),
        ("Apache-2.0/MIT", true),
    ] {
        assert_eq!(fits(expression, &allowed), answer, "{expression}");
    }
}
