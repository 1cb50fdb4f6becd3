//! The daemon may die at any moment: containers live on, and nothing that happened meanwhile is lost.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use harness::image::BUSYBOX_NAME;
use harness::{Gantryd, eventually};

fn status(daemon: &Gantryd, id: &str) -> anyhow::Result<String> {
    let listed = daemon.ctr(&["tasks", "ls"])?.ok()?;
    let line = listed
        .lines()
        .find(|line| line.split_whitespace().next() == Some(id))
        .with_context(|| format!("{id} is not listed:\n{listed}"))?;
    Ok(line.split_whitespace().nth(2).context("a line has a status")?.to_owned())
}

/// Events as `gantry events` prints them, one JSON document a line.
pub(crate) struct Events {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Events {
    pub(crate) fn listen(daemon: &Gantryd) -> anyhow::Result<Self> {
        let mut child = daemon
            .gantry_command(&["--json", "events"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let out = child.stdout.take().context("its output is a pipe")?;
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, lines })
    }

    /// The next event with this topic about this container.
    pub(crate) fn next(&self, topic: &str, id: &str, limit: Duration) -> anyhow::Result<serde_json::Value> {
        let end = std::time::Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(std::time::Instant::now());
            let line =
                self.lines.recv_timeout(left).with_context(|| format!("no {topic} about {id} within {limit:?}"))?;
            let event: serde_json::Value = serde_json::from_str(&line)?;
            if event["topic"] == topic && event["event"]["container_id"] == id {
                return Ok(event);
            }
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn containers_live_on_when_the_daemon_is_killed() -> anyhow::Result<()> {
    let mut daemon = Gantryd::with_busybox()?;
    for id in ["rs-a", "rs-b", "rs-c"] {
        daemon.ctr(&["run", "-d", BUSYBOX_NAME, id, "sleep", "1000"])?.ok()?;
    }
    daemon.ctr(&["tasks", "pause", "rs-b"])?.ok()?;
    let before = daemon.ctr(&["tasks", "ls"])?.ok()?;
    daemon.kill9()?;
    daemon.launch()?;
    let after = daemon.ctr(&["tasks", "ls"])?.ok()?;
    let sorted = |text: &str| {
        let mut lines: Vec<String> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        lines.sort();
        lines
    };
    ensure!(sorted(&before) == sorted(&after), "before:\n{before}\nafter:\n{after}");
    ensure!(status(&daemon, "rs-b")? == "PAUSED", "a paused container stays paused");
    daemon.ctr(&["tasks", "resume", "rs-b"])?.ok()?;
    let said = daemon.ctr(&["tasks", "exec", "--exec-id", "e1", "rs-a", "echo", "still here"])?.ok()?;
    ensure!(said == "still here\n", "exec works after the restart: {said:?}");
    for id in ["rs-a", "rs-b", "rs-c"] {
        daemon.ctr(&["tasks", "kill", "-s", "KILL", id])?.ok()?;
        eventually("it stops", || {
            ensure!(status(&daemon, id)? == "STOPPED", "not yet");
            Ok(())
        })?;
        harness::gantryd::removed_with(&daemon.address(), id, 137)?;
        daemon.ctr(&["containers", "rm", id])?.ok()?;
    }
    Ok(())
}

#[test]
fn a_container_that_ends_while_the_daemon_is_away_is_reported_once() -> anyhow::Result<()> {
    let mut daemon = Gantryd::with_busybox()?;
    // It ends when the file goes, so that the moment is ours.
    let gate = daemon.folder().join("gate");
    std::fs::write(&gate, "")?;
    let mount = format!("type=bind,src={},dst=/gate,options=rbind:ro", daemon.folder().display());
    let script = "while [ -e /gate/gate ]; do sleep 0.05; done; exit 7";
    daemon.ctr(&["run", "-d", "--mount", &mount, BUSYBOX_NAME, "rs-away", "sh", "-c", script])?.ok()?;
    let listed = daemon.ctr(&["tasks", "ls"])?.ok()?;
    let pid: i32 = listed
        .lines()
        .find(|line| line.starts_with("rs-away"))
        .and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .context("it has a pid")?;
    daemon.kill9()?;
    std::fs::remove_file(&gate)?;
    eventually("it ends", || {
        ensure!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "not yet");
        Ok(())
    })?;
    // The listener tries until the daemon is back, as dockerd does.
    daemon.launch()?;
    eventually("it is listed with its end", || {
        ensure!(status(&daemon, "rs-away")? == "STOPPED", "not yet");
        Ok(())
    })?;
    harness::gantryd::removed_with(&daemon.address(), "rs-away", 7)?;
    daemon.ctr(&["containers", "rm", "rs-away"])?.ok()?;
    Ok(())
}

#[test]
fn the_exit_event_of_an_absence_reaches_a_listener() -> anyhow::Result<()> {
    let mut daemon = Gantryd::with_busybox()?;
    daemon.ctr(&["run", "-d", BUSYBOX_NAME, "rs-event", "sleep", "1000"])?.ok()?;
    let listed = daemon.ctr(&["tasks", "ls"])?.ok()?;
    let pid: i32 = listed
        .lines()
        .find(|line| line.starts_with("rs-event"))
        .and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .context("it has a pid")?;
    daemon.kill9()?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)?;
    eventually("it ends", || {
        ensure!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "not yet");
        Ok(())
    })?;
    daemon.launch()?;
    // A client that lives on events alone, as dockerd does, comes back some time after the daemon and must hear of it.
    let events = Events::listen(&daemon)?;
    let exit = events.next("/tasks/exit", "rs-event", Duration::from_secs(20))?;
    ensure!(exit["event"]["exit_status"] == 137, "{exit}");
    harness::gantryd::removed_with(&daemon.address(), "rs-event", 137)?;
    Ok(())
}

#[test]
fn a_killed_shim_is_noticed_and_cleaned() -> anyhow::Result<()> {
    let daemon = Gantryd::with_busybox()?;
    daemon.ctr(&["run", "-d", BUSYBOX_NAME, "rs-shim", "sleep", "1000"])?.ok()?;
    let events = Events::listen(&daemon)?;
    let listed = daemon.ctr(&["tasks", "ls"])?.ok()?;
    let pid: u32 = listed
        .lines()
        .find(|line| line.starts_with("rs-shim"))
        .and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .context("it has a pid")?;
    // The parent of a container's first process is its shim.
    let parent = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let parent: i32 =
        parent.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok()).context("it has a parent")?;
    let name = std::fs::read_to_string(format!("/proc/{parent}/cmdline"))?;
    ensure!(name.contains("gantry-shim"), "the parent is the shim: {name}");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(parent), nix::sys::signal::Signal::SIGKILL)?;
    let exit = events.next("/tasks/exit", "rs-shim", Duration::from_secs(10))?;
    ensure!(exit["event"]["exit_status"] == 137, "{exit}");
    events.next("/tasks/delete", "rs-shim", Duration::from_secs(10))?;
    eventually("its process is gone", || {
        ensure!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "not yet");
        Ok(())
    })?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let state = daemon.state().display().to_string();
    eventually("its root filesystem is unmounted", || {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        ensure!(!mounts.lines().any(|line| line.contains(&state)), "not yet");
        Ok(())
    })
    .with_context(|| mounts)?;
    daemon.ctr(&["containers", "rm", "rs-shim"])?.ok()?;
    Ok(())
}

#[test]
fn asked_to_end_the_daemon_ends_and_containers_stay() -> anyhow::Result<()> {
    let mut daemon = Gantryd::with_busybox()?;
    daemon.ctr(&["run", "-d", BUSYBOX_NAME, "rs-term", "sleep", "1000"])?.ok()?;
    let ended = daemon.terminate()?;
    ensure!(ended.success(), "it ends well: {ended}");
    daemon.launch()?;
    ensure!(status(&daemon, "rs-term")? == "RUNNING", "it still runs");
    Ok(())
}
