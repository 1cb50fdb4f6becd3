//! Shims and daemons are of one protocol: ours runs under Debian's containerd, Debian's under ours.

use anyhow::ensure;
use harness::image::BUSYBOX_NAME;
use harness::{Containerd, Gantryd, Ran, busybox_archive, programs};

type Ctr<'a> = dyn Fn(&[&str]) -> anyhow::Result<Ran> + 'a;

/// What a container does in its life, the same under either daemon.
fn life(ctr: &Ctr, runtime: &str, id: &str) -> anyhow::Result<()> {
    let run = |rest: &[&str]| {
        let mut all = vec!["run", "--runtime", runtime];
        all.extend(rest);
        ctr(&all)
    };
    ensure!(run(&["--rm", BUSYBOX_NAME, id, "echo", "hello"])?.ok()? == "hello\n", "output arrives");
    let ended = run(&["--rm", BUSYBOX_NAME, id, "sh", "-c", "echo out; echo err >&2; exit 3"])?;
    ensure!((ended.code, ended.stdout.as_str()) == (3, "out\n"), "{ended}");
    ensure!(ended.stderr.contains("err\n"), "errors are apart: {ended}");
    let missing = run(&["--rm", BUSYBOX_NAME, id, "/no/such/program"])?.failed()?;
    ensure!(missing.contains("no such file or directory"), "a missing command is named: {missing}");

    run(&["-d", BUSYBOX_NAME, id, "sleep", "1000"])?.ok()?;
    let exec = |name: &str, command: &[&str]| {
        let mut all = vec!["tasks", "exec", "--exec-id", name, id];
        all.extend(command);
        ctr(&all)
    };
    ensure!(exec("e1", &["echo", "inside"])?.ok()? == "inside\n", "exec works");
    ensure!(exec("e2", &["sh", "-c", "exit 5"])?.code == 5, "the code of an exec is passed on");
    ensure!(ctr(&["tasks", "ps", id])?.ok()?.lines().count() >= 2, "its processes are listed");
    ctr(&["tasks", "pause", id])?.ok()?;
    ensure!(ctr(&["tasks", "ls"])?.ok()?.contains("PAUSED"), "it is paused");
    ctr(&["tasks", "resume", id])?.ok()?;
    ensure!(ctr(&["tasks", "metrics", id])?.ok()?.contains("memory"), "it has figures");
    ctr(&["tasks", "kill", "-s", "KILL", id])?.ok()?;
    harness::eventually("it stops", || {
        ensure!(ctr(&["tasks", "ls"])?.ok()?.contains("STOPPED"), "not yet");
        Ok(())
    })?;
    // ctr tells the exit code of a removed task in a warning.
    let removed = ctr(&["tasks", "rm", id])?;
    ensure!(removed.code == 0 && removed.stderr.contains("exit code 137"), "{removed}");
    ctr(&["containers", "rm", id])?.ok()?;
    Ok(())
}

#[test]
fn our_shim_serves_debians_containerd() -> anyhow::Result<()> {
    let peer = Containerd::start()?;
    peer.ctr(&["images", "import", &busybox_archive()?.display().to_string()])?.ok()?;
    life(&|arguments| peer.ctr(arguments), "io.containerd.gantry.v1", "sh-peer")
}

#[test]
fn our_daemon_runs_debians_shim() -> anyhow::Result<()> {
    let daemon = Gantryd::with_busybox()?;
    let shim = programs::find("containerd-shim-runc-v2")?;
    life(&|arguments| daemon.ctr(arguments), &shim.display().to_string(), "sh-runc")
}

#[test]
fn our_daemon_runs_our_shim() -> anyhow::Result<()> {
    let daemon = Gantryd::with_busybox()?;
    life(&|arguments| daemon.ctr(arguments), "io.containerd.runc.v2", "sh-own")
}

#[test]
fn our_shim_runs_debians_runc() -> anyhow::Result<()> {
    let daemon = Gantryd::with_busybox()?;
    let run = |rest: &[&str]| {
        let mut all = vec!["run", "--rm", "--runc-binary", "runc", BUSYBOX_NAME, "sh-ext"];
        all.extend(rest);
        daemon.ctr(&all)
    };
    ensure!(run(&["echo", "by runc"])?.ok()? == "by runc\n", "output arrives");
    ensure!(run(&["sh", "-c", "exit 4"])?.code == 4, "the code is passed on");
    let missing = run(&["/no/such/program"])?.failed()?;
    ensure!(missing.contains("no such file or directory"), "runc's own words: {missing}");
    Ok(())
}
