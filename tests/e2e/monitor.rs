//! Containers that are to run are started again, and what the daemon does can be read as figures.

use std::net::TcpListener;

use anyhow::{Context as _, ensure};
use harness::image::BUSYBOX_NAME;
use harness::{Gantryd, busybox_archive, eventually};

fn pid(daemon: &Gantryd, id: &str) -> anyhow::Result<u32> {
    let listed = daemon.ctr(&["tasks", "ls"])?.ok()?;
    let line = listed.lines().find(|line| line.split_whitespace().next() == Some(id)).context("it has no task")?;
    ensure!(line.contains("RUNNING"), "{line}");
    Ok(line.split_whitespace().nth(1).context("a line has a pid")?.parse()?)
}

#[test]
fn a_container_that_is_to_run_is_started_again_and_counted() -> anyhow::Result<()> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let debug = harness::folder("v")?;
    let socket = debug.path().join("d.sock").display().to_string();
    let daemon = Gantryd::with_config(&format!(
        "[metrics]\naddress = '127.0.0.1:{port}'\ngrpc_histogram = true\n[debug]\naddress = '{socket}'\n\
         [plugins.'io.containerd.internal.v1.restart']\ninterval = '200ms'\n"
    ))?;
    daemon.ctr(&["images", "import", &busybox_archive()?.display().to_string()])?.ok()?;
    let labels = ["--label", "containerd.io/restart.status=running", "--label", "containerd.io/restart.count=0"];
    let mut run = vec!["run", "-d", "--null-io"];
    run.extend(labels);
    run.extend([BUSYBOX_NAME, "mon-c1", "sleep", "1000"]);
    daemon.ctr(&run)?.ok()?;
    let first = pid(&daemon, "mon-c1")?;
    daemon.ctr(&["tasks", "kill", "--signal", "SIGKILL", "mon-c1"])?.ok()?;
    eventually("it runs again", || {
        let now = pid(&daemon, "mon-c1")?;
        ensure!(now != first, "it is the same process");
        Ok(())
    })?;
    let info = daemon.ctr(&["containers", "info", "mon-c1"])?.ok()?;
    // Started again once, or twice if it was looked at before its first start.
    let counted = |times: u32| info.contains(&format!("\"containerd.io/restart.count\": \"{times}\""));
    ensure!(counted(1) || counted(2), "{info}");
    daemon.ctr(&["containers", "label", "mon-c1", "containerd.io/restart.status=stopped"])?.ok()?;
    eventually("it is stopped", || {
        ensure!(!daemon.ctr(&["tasks", "ls"])?.ok()?.contains("mon-c1"), "it still has a task");
        Ok(())
    })?;
    daemon.ctr(&["containers", "delete", "mon-c1"])?.ok()?;

    let curl = harness::programs::find("curl")?;
    let url = format!("http://127.0.0.1:{port}/v1/metrics");
    let figures = harness::run(&curl, &["-sf", &url])?.ok()?;
    for line in [
        "grpc_service=\"containerd.services.tasks.v1.Tasks\",grpc_method=\"Create\",grpc_code=\"Ok\"} ",
        "gantry_tasks 0",
        "gantry_gc_runs",
    ] {
        ensure!(figures.contains(line), "{line} is not in\n{figures}");
    }
    let vars = harness::run(&curl, &["-sf", "--unix-socket", &socket, "http://d/debug/vars"])?.ok()?;
    let vars: serde_json::Value = serde_json::from_str(&vars)?;
    ensure!(vars["gantry_store_stopped"] == 0.0, "{vars}");
    Ok(())
}
