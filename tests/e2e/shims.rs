//! Shims and daemons are of one protocol: ours runs under Debian's containerd, Debian's under ours. And shims that are not as they
//! should be: dead, stopped, silent, of another protocol.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use harness::image::BUSYBOX_NAME;
use harness::{Containerd, Gantryd, Ran, busybox_archive, eventually, programs};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::restart::Events;

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

/// A shim that is not ours, in the lives that it shares with a daemon: a restart, and its own death.
fn foreign(shim: &Path, id: &str) -> anyhow::Result<()> {
    let mut daemon = Gantryd::with_busybox()?;
    let runtime = shim.display().to_string();
    life(&|arguments| daemon.ctr(arguments), &runtime, &format!("{id}-life"))?;

    let kept = format!("{id}-kept");
    daemon.ctr(&["run", "-d", "--runtime", &runtime, BUSYBOX_NAME, &kept, "sleep", "1000"])?.ok()?;
    daemon.kill9()?;
    daemon.launch()?;
    ensure!(status(&daemon, &kept)?.as_deref() == Some("RUNNING"), "it is taken over");
    let said = daemon.ctr(&["tasks", "exec", "--exec-id", "e1", &kept, "echo", "still here"])?.ok()?;
    ensure!(said == "still here\n", "{said:?}");

    // Its death: what is left of the container goes with it, and clients are told.
    let process = pid(&daemon, &kept)?;
    let server = shim_of(process)?;
    let events = Events::listen(&daemon)?;
    kill(Pid::from_raw(server), Signal::SIGKILL)?;
    eventually("its process is gone", || {
        ensure!(!Path::new(&format!("/proc/{process}")).exists(), "not yet");
        ensure!(status(&daemon, &kept)?.is_none(), "it is still listed");
        Ok(())
    })?;
    // The end of the exec may come first.
    let exit = loop {
        let exit = events.next("/tasks/exit", &kept, Duration::from_secs(20))?;
        if exit["event"]["id"] == kept.as_str() {
            break exit;
        }
    };
    ensure!(exit["event"]["exit_status"] == 137, "{exit}");
    events.next("/tasks/delete", &kept, Duration::from_secs(20))?;
    let state = daemon.state().display().to_string();
    eventually("its root filesystem is unmounted", || {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        ensure!(!mounts.lines().any(|line| line.contains(&state)), "not yet");
        Ok(())
    })?;
    daemon.ctr(&["containers", "rm", &kept])?.ok()?;
    // The name is free.
    let again = daemon.ctr(&["run", "--rm", "--runtime", &runtime, BUSYBOX_NAME, &kept, "echo", "again"])?.ok()?;
    ensure!(again == "again\n", "{again:?}");
    Ok(())
}

/// The state of a task, if it is listed.
fn status(daemon: &Gantryd, id: &str) -> anyhow::Result<Option<String>> {
    let listed = daemon.ctr(&["tasks", "ls"])?.ok()?;
    let line = listed.lines().find(|line| line.split_whitespace().next() == Some(id));
    Ok(line.and_then(|line| line.split_whitespace().nth(2)).map(str::to_owned))
}

fn pid(daemon: &Gantryd, id: &str) -> anyhow::Result<i32> {
    let listed = daemon.ctr(&["tasks", "ls"])?.ok()?;
    let line = listed.lines().find(|line| line.split_whitespace().next() == Some(id)).context("it is listed")?;
    Ok(line.split_whitespace().nth(1).context("a line has a pid")?.parse()?)
}

/// The parent of a container's first process is its shim.
fn shim_of(pid: i32) -> anyhow::Result<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    text.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok()).context("it has a parent")
}

/// A shim whose `start` is a piece of shell.
fn script(folder: &Path, name: &str, start: &str) -> anyhow::Result<PathBuf> {
    let path = folder.join(name);
    let text = format!("#!/bin/sh\nfor word; do action=$word; done\ncase $action in start) {start};; esac\n");
    std::fs::write(&path, text)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

#[test]
fn debians_shim_is_taken_over_and_cleaned_up_behind() -> anyhow::Result<()> {
    foreign(&programs::find("containerd-shim-runc-v2")?, "sh-16")
}

#[test]
fn the_next_debians_shim_runs_too() -> anyhow::Result<()> {
    foreign(&programs::trixie("containerd")?.join("root/usr/bin/containerd-shim-runc-v2"), "sh-17")
}

#[test]
fn a_stopped_shim_holds_up_nobody() -> anyhow::Result<()> {
    let mut daemon = Gantryd::with_busybox()?;
    for id in ["sh-good", "sh-stop"] {
        daemon.ctr(&["run", "-d", BUSYBOX_NAME, id, "sleep", "1000"])?.ok()?;
    }
    let server = Pid::from_raw(shim_of(pid(&daemon, "sh-stop")?)?);
    kill(server, Signal::SIGSTOP)?;
    ensure!(status(&daemon, "sh-stop")?.as_deref() == Some("UNKNOWN"), "its state is not known");
    ensure!(status(&daemon, "sh-good")?.as_deref() == Some("RUNNING"), "the other one answers");
    // Start-up as well.
    daemon.kill9()?;
    daemon.launch()?;
    ensure!(status(&daemon, "sh-stop")?.as_deref() == Some("UNKNOWN"), "its state is still not known");
    ensure!(daemon.log().contains("the shim does not answer"), "it is reported");
    let said = daemon.ctr(&["tasks", "exec", "--exec-id", "e1", "sh-good", "echo", "here"])?.ok()?;
    ensure!(said == "here\n", "{said:?}");
    ensure!(daemon.ctr_run("sh-new", &["echo", "new"])?.ok()? == "new\n", "new containers run");
    kill(server, Signal::SIGCONT)?;
    eventually("it answers again", || {
        ensure!(status(&daemon, "sh-stop")?.as_deref() == Some("RUNNING"), "not yet");
        Ok(())
    })
}

#[test]
fn a_shim_that_does_not_start_holds_up_nobody_and_leaves_nothing() -> anyhow::Result<()> {
    let daemon = Gantryd::with_busybox()?;
    let silent = script(daemon.folder(), "containerd-shim-silent-v1", "exec sleep 1000")?.display().to_string();
    let address = daemon.address().display().to_string();
    let mut hung = std::process::Command::new(programs::find("ctr")?)
        .args(["--address", &address, "run", "--runtime", &silent, BUSYBOX_NAME, "sh-hung", "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    eventually("its start is under way", || {
        ensure!(daemon.state().join("io.containerd.runtime.v2.task/default/sh-hung").exists(), "not yet");
        Ok(())
    })?;
    ensure!(daemon.ctr_run("sh-other", &["echo", "other"])?.ok()? == "other\n", "others run");
    // The client goes away: what was begun is undone.
    hung.kill()?;
    hung.wait()?;
    eventually("nothing is left of it", || {
        ensure!(!daemon.state().join("io.containerd.runtime.v2.task/default/sh-hung").exists(), "not yet");
        Ok(())
    })
}

#[test]
fn shims_that_speak_something_else_are_refused_by_name() -> anyhow::Result<()> {
    let daemon = Gantryd::with_busybox()?;
    for (name, start, text) in [
        ("grpc", r#"printf '{"version":3,"address":"unix:///run/nobody","protocol":"grpc"}'"#, "over \"grpc\""),
        ("future", r#"printf '{"version":9,"address":"unix:///run/nobody","protocol":"ttrpc"}'"#, "version 9"),
        ("mute", "true", "printed no address"),
        ("broken", "echo this is why >&2; exit 3", "this is why"),
        ("liar", "printf unix:///run/nobody-listens-here", "cannot connect to the shim"),
    ] {
        let shim = script(daemon.folder(), &format!("containerd-shim-{name}-v1"), start)?.display().to_string();
        let id = format!("sh-{name}");
        let refused = daemon.ctr(&["run", "--rm", "--runtime", &shim, BUSYBOX_NAME, &id, "true"])?.failed()?;
        ensure!(refused.contains(text), "{name}: {refused}");
        ensure!(!daemon.state().join(format!("io.containerd.runtime.v2.task/default/{id}")).exists(), "{name}");
    }
    let missing =
        daemon.ctr(&["run", "--rm", "--runtime", "io.containerd.none.v1", BUSYBOX_NAME, "sh-none", "true"])?;
    ensure!(missing.failed()?.contains("containerd-shim-none-v1"), "the binary that is not there is named");
    Ok(())
}

/// Idle clients: many, up to what the limit of files allows.
#[test]
fn idle_connections_cost_nothing_and_block_nobody() -> anyhow::Result<()> {
    const WANTED: usize = 10_000;
    let daemon = Gantryd::start()?;
    let (limit, _) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
    let own = usize::try_from(limit)?.saturating_sub(200).min(WANTED);
    let mut connections = Vec::with_capacity(own);
    for number in 0..own {
        let stream = std::os::unix::net::UnixStream::connect(daemon.address());
        connections.push(stream.with_context(|| format!("connection {number} of {own}"))?);
    }
    // Some of them begin to speak, and stop in the middle.
    for stream in connections.iter_mut().take(50) {
        std::io::Write::write_all(stream, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0")?;
    }
    ensure!(daemon.ctr(&["version"])?.ok()?.contains("Server"), "it answers beside {own} idle connections");
    ensure!(daemon.ctr(&["namespaces", "ls"])?.code == 0, "and goes on to");
    drop(connections);
    ensure!(daemon.ctr(&["version"])?.code == 0, "and after they are gone");
    Ok(())
}

#[test]
fn a_task_is_saved_as_content_and_restored_from_it() -> anyhow::Result<()> {
    // A CRIU that knows this kernel; Debian 12's does not.
    let criu = harness::folder("criu")?;
    std::os::unix::fs::symlink(programs::trixie("criu")?.join("bin/criu"), criu.path().join("criu"))?;
    let path = format!("{}:{}", criu.path().display(), std::env::var("PATH").unwrap_or_default());
    let config = format!("[plugins.\"io.containerd.shim.v1.manager\"]\nenv = [\"PATH={path}\"]\n");
    let daemon = Gantryd::with_config(&config)?;
    daemon.ctr(&["images", "import", &busybox_archive()?.display().to_string()])?.ok()?;

    daemon.ctr(&["run", "-d", BUSYBOX_NAME, "sh-own", "sleep", "1000"])?.ok()?;
    let refused = daemon.ctr(&["tasks", "checkpoint", "sh-own"])?.failed()?;
    ensure!(refused.contains("not supported by the built-in executor"), "{refused}");
    ensure!(status(&daemon, "sh-own")?.as_deref() == Some("RUNNING"), "and the container runs on");

    daemon.ctr(&["run", "-d", "--runc-binary", "runc", BUSYBOX_NAME, "sh-cp", "sleep", "1000"])?.ok()?;
    daemon.ctr(&["containers", "checkpoint", "--task", "--rw", "sh-cp", "sh-saved"])?.ok()?;
    ensure!(daemon.ctr(&["images", "ls", "-q"])?.ok()?.contains("sh-saved"), "it is an image");
    daemon.ctr(&["tasks", "kill", "-s", "KILL", "sh-cp"])?.ok()?;
    eventually("it stops", || {
        ensure!(status(&daemon, "sh-cp")?.as_deref() == Some("STOPPED"), "not yet");
        Ok(())
    })?;
    daemon.ctr(&["tasks", "rm", "sh-cp"])?;
    daemon.ctr(&["containers", "rm", "sh-cp"])?.ok()?;
    // ctr stays for as long as the task runs.
    let address = daemon.address().display().to_string();
    let mut restored = std::process::Command::new(programs::find("ctr")?)
        .args(["--address", &address, "containers", "restore", "--live", "--rw", "sh-cp", "sh-saved"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let running = eventually("it runs again", || {
        ensure!(status(&daemon, "sh-cp")?.as_deref() == Some("RUNNING"), "not yet");
        Ok(())
    });
    let said = daemon.ctr(&["tasks", "exec", "--exec-id", "e1", "sh-cp", "echo", "back"]);
    let _ = daemon.ctr(&["tasks", "kill", "-s", "KILL", "sh-cp"]);
    let _ = restored.kill();
    restored.wait()?;
    running?;
    ensure!(said?.ok()? == "back\n", "the restored container is a whole one");
    Ok(())
}
