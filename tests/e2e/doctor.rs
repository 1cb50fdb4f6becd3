//! The doctor accounts for what a running container has, finds what is wrong, and works on a stopped daemon as well.

use anyhow::{Context as _, ensure};
use harness::image::BUSYBOX_NAME;
use harness::{Gantryd, Ran};
use serde_json::Value;

fn report(ran: &Ran) -> anyhow::Result<Value> {
    serde_json::from_str(&ran.stdout).with_context(|| format!("the doctor reports: {} {}", ran.stdout, ran.stderr))
}

#[test]
fn everything_of_a_running_container_has_an_owner_and_wrong_bytes_are_found() -> anyhow::Result<()> {
    let mut daemon = Gantryd::with_busybox()?;
    daemon.ctr(&["run", "-d", "--null-io", BUSYBOX_NAME, "doc-c1", "sleep", "1000"])?.ok()?;
    let ran = daemon.gantry(&["--json", "doctor", "--verify"])?;
    let healthy = report(&ran)?;
    ensure!(ran.code == 0 && healthy["findings"] == serde_json::json!([]), "{healthy:#}");
    ensure!(healthy["summary"]["bytes"] == healthy["summary"]["owned_bytes"], "{healthy:#}");
    for kind in ["mount", "cgroup", "shim"] {
        let resources = healthy["resources"].as_array().context("there are resources")?;
        let found = resources.iter().any(|one| one["kind"] == kind && one["owner"] == "task default/doc-c1");
        ensure!(found, "no {kind} of the task in {healthy:#}");
        ensure!(resources.iter().all(|one| one["owner"] != ""), "{healthy:#}");
    }
    let blobs = daemon.root().join("content/blobs/sha256");
    let largest = std::fs::read_dir(&blobs)?
        .filter_map(Result::ok)
        .max_by_key(|entry| entry.metadata().map_or(0, |metadata| metadata.len()))
        .context("there are blobs")?
        .path();
    let mut bytes = std::fs::read(&largest)?;
    bytes[1000] ^= 1;
    std::fs::remove_file(&largest)?;
    std::fs::write(&largest, bytes)?;
    let ran = daemon.gantry(&["--json", "doctor", "--verify"])?;
    let sick = report(&ran)?;
    ensure!(ran.code == 1 && sick["findings"][0]["kind"] == "corrupt", "{sick:#}");
    ensure!(daemon.gantry(&["doctor"])?.stdout.contains("have an owner"), "there is a table, too");
    daemon.ctr(&["tasks", "kill", "--signal", "SIGKILL", "doc-c1"])?.ok()?;
    harness::gantryd::removed_with(&daemon.address(), "doc-c1", 137)?;
    let (root, state) = (daemon.root().display().to_string(), daemon.state().display().to_string());
    let offline = ["doctor", "--root", &root, "--state", &state, "--verify", "--repair"];
    let refused = daemon.gantry(&offline)?;
    ensure!(refused.code != 0 && refused.stderr.contains("another daemon"), "it runs: {}", refused.stderr);
    daemon.terminate()?;
    let mended = daemon.gantry(&offline)?;
    ensure!(mended.stdout.contains("moved to") && mended.stdout.contains("1 repaired"), "{}", mended.stdout);
    ensure!(!largest.exists(), "the blob was moved aside");
    daemon.launch()?;
    // The image is whole again as soon as it was got again.
    daemon.ctr(&["images", "import", &harness::busybox_archive()?.display().to_string()])?.ok()?;
    let well = report(&daemon.gantry(&["--json", "doctor", "--verify"])?)?;
    ensure!(well["findings"].as_array().is_some_and(Vec::is_empty), "{well:#}");
    Ok(())
}
