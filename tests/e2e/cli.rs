//! Our own command line, as a user types it.

use std::io::Write as _;
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use harness::image::BUSYBOX_NAME;
use harness::{Gantryd, Registry, busybox_archive, eventually};

fn json(text: &str) -> anyhow::Result<serde_json::Value> {
    serde_json::from_str(text).with_context(|| format!("this is not JSON: {text}"))
}

#[test]
fn an_image_is_pulled_run_and_removed() -> anyhow::Result<()> {
    let registry = Registry::start()?;
    let reference = registry.push(&busybox_archive()?, "library/busybox:1")?;
    let daemon = Gantryd::start()?;
    let pulled = daemon.gantry(&["pull", &reference])?;
    ensure!(pulled.code == 0 && pulled.stdout.starts_with(&format!("{reference}@sha256:")), "{pulled}");
    ensure!(pulled.stderr.contains("layer"), "progress is told in lines: {pulled}");
    let listed = json(&daemon.gantry(&["images", "ls", "--json"])?.ok()?)?;
    ensure!(listed[0]["name"] == reference.as_str(), "{listed}");
    ensure!(listed[0]["size"].as_i64().is_some_and(|size| size > 100_000), "{listed}");
    ensure!(daemon.gantry(&["run", "--rm", &reference, "echo", "hello"])?.ok()? == "hello\n", "it runs");
    // A second pull finds everything here.
    daemon.gantry(&["pull", &reference])?.ok()?;
    daemon.gantry(&["images", "rm", &reference])?.ok()?;
    ensure!(json(&daemon.gantry(&["images", "ls", "--json"])?.ok()?)? == serde_json::json!([]), "it is gone");
    let blobs = daemon.ctr(&["content", "ls", "-q"])?.ok()?;
    ensure!(blobs.trim().is_empty(), "its blobs are gone when the command returns: {blobs}");
    Ok(())
}

#[test]
fn a_pull_that_cannot_work_says_why() -> anyhow::Result<()> {
    let registry = Registry::start()?;
    let daemon = Gantryd::start()?;
    let missing = daemon.gantry(&["pull", &format!("{}/no/such:image", registry.host())])?;
    ensure!(missing.code == 125 && missing.stderr.contains("no/such"), "{missing}");
    let nobody = daemon.gantry(&["pull", "127.0.0.1:1/a:b"])?;
    ensure!(nobody.code == 125 && nobody.stderr.contains("127.0.0.1:1"), "{nobody}");
    let nameless = daemon.gantry(&["pull", "busybox"])?;
    ensure!(nameless.stderr.contains("docker.io/library/busybox"), "a hint is given: {nameless}");
    ensure!(daemon.ctr(&["content", "active"])?.ok()?.lines().count() <= 1, "no ingest is left");
    Ok(())
}

fn with_image() -> anyhow::Result<Gantryd> {
    let daemon = Gantryd::start()?;
    daemon.gantry(&["images", "import", &busybox_archive()?.display().to_string()])?.ok()?;
    Ok(daemon)
}

#[test]
fn what_run_is_asked_for_is_what_the_process_sees() -> anyhow::Result<()> {
    let daemon = with_image()?;
    let run = |options: &[&str], script: &str| {
        let mut all = vec!["run", "--rm"];
        all.extend(options);
        all.extend([BUSYBOX_NAME, "sh", "-c", script]);
        daemon.gantry(&all)
    };
    ensure!(run(&[], "exit 42")?.code == 42, "the exit code is passed on");
    ensure!(
        run(&[], "kill -TERM $$")?.code == 143 || run(&[], "exit 143")?.code == 143,
        "a signal is 128 and its number"
    );
    ensure!(run(&["-e", "A=b c"], "echo \"$A\"")?.ok()? == "b c\n", "variables");
    ensure!(run(&["-w", "/tmp"], "pwd")?.ok()? == "/tmp\n", "working directory");
    ensure!(run(&["-u", "web"], "id -u; id -g; id -G")?.ok()? == "33\n34\n34 10\n", "user and groups");
    ensure!(run(&["-u", "1234:5678"], "id -u; id -g")?.ok()? == "1234\n5678\n", "numbers need no entry");
    ensure!(run(&["-u", "nobody"], "true")?.failed()?.contains("nobody"), "an unknown user is named");
    ensure!(run(&["--read-only"], "touch /x")?.failed()?.contains("Read-only"), "read-only root");
    ensure!(run(&["--hostname", "box"], "hostname")?.ok()? == "box\n", "host name");
    let share = daemon.folder().join("share");
    std::fs::create_dir(&share)?;
    let volume = format!("{}:/share", share.display());
    run(&["-v", &volume], "echo data > /share/file")?.ok()?;
    ensure!(std::fs::read_to_string(share.join("file"))? == "data\n", "a volume is the host's folder");
    ensure!(
        run(&["-v", &format!("{volume}:ro")], "touch /share/x")?.failed()?.contains("Read-only"),
        "a volume can be read-only"
    );
    ensure!(run(&["--net-host"], "ls /sys/class/net")?.ok()?.contains("lo"), "the host's network");
    let both = run(&[], "echo out; echo err >&2")?;
    ensure!((both.stdout.as_str(), both.stderr.as_str()) == ("out\n", "err\n"), "{both}");
    let missing = daemon.gantry(&["run", "--rm", BUSYBOX_NAME, "/no/such/program"])?;
    ensure!(missing.code == 127, "a missing command is 127: {missing}");
    ensure!(daemon.gantry(&["ps", "-a", "-q"])?.ok()?.is_empty(), "nothing is left");
    Ok(())
}

#[test]
fn limits_are_enforced() -> anyhow::Result<()> {
    let daemon = with_image()?;
    let run = |options: &[&str], script: &str| {
        let mut all = vec!["run", "--rm"];
        all.extend(options);
        all.extend([BUSYBOX_NAME, "sh", "-c", script]);
        daemon.gantry(&all)
    };
    let hungry = "x=0123456789abcdef; while true; do x=$x$x; done";
    ensure!(run(&["-m", "16m"], hungry)?.code == 137, "too much memory is the end");
    let forks = run(&["--pids-limit", "5"], "for i in 1 2 3 4 5 6 7 8 9; do sleep 5 & done; wait")?;
    ensure!(forks.stderr.contains("fork"), "too many processes are refused: {forks}");
    ensure!(run(&["--cpus", "0"], "true")?.failed()?.contains("processors"), "senseless limits are refused");
    Ok(())
}

#[test]
fn a_container_in_the_background() -> anyhow::Result<()> {
    let daemon = with_image()?;
    let log = format!("file://{}", daemon.folder().join("out.log").display());
    let script = "echo started; trap 'echo ending; exit 9' TERM; while true; do sleep 0.1; done";
    ensure!(
        daemon.gantry(&["run", "-d", "--name", "bg", "--log-uri", &log, BUSYBOX_NAME, "sh", "-c", script])?.ok()?
            == "bg\n",
        "its id is printed"
    );
    eventually("it has started", || {
        ensure!(daemon.gantry(&["logs", "bg"])?.ok()?.contains("started"), "not yet");
        Ok(())
    })?;
    let listed = json(&daemon.gantry(&["ps", "-o", "json"])?.ok()?)?;
    ensure!(
        listed[0]["id"] == "bg" && listed[0]["status"] == "running" && listed[0]["pid"].as_i64().is_some(),
        "{listed}"
    );
    ensure!(
        daemon.gantry(&["exec", "bg", "sh", "-c", "echo in; exit 3"])?.code == 3,
        "the code of an exec is passed on"
    );
    ensure!(
        daemon
            .gantry(&["exec", "-e", "A=1", "-w", "/tmp", "-u", "web", "bg", "sh", "-c", "echo $A; pwd; id -u"])?
            .ok()?
            == "1\n/tmp\n33\n",
        "exec options"
    );
    ensure!(daemon.gantry(&["exec", "bg", "/no/such"])?.code == 127, "a missing command is 127");
    ensure!(daemon.gantry(&["rm", "bg"])?.failed()?.contains("runs"), "what runs is not removed");
    let again = daemon.gantry(&["run", "-d", "--name", "bg", BUSYBOX_NAME, "true"])?.failed()?;
    ensure!(again.contains("already exists"), "a name is used once: {again}");
    ensure!(daemon.gantry(&["stop", "bg"])?.ok()? == "bg\n", "it stops");
    let listed = json(&daemon.gantry(&["ps", "-a", "--json"])?.ok()?)?;
    ensure!(listed[0]["exit_status"] == 9, "it ended by itself: {listed}");
    ensure!(daemon.gantry(&["logs", "bg"])?.ok()? == "started\nending\n", "its log is whole");
    daemon.gantry(&["rm", "bg"])?.ok()?;
    ensure!(daemon.gantry(&["kill", "bg"])?.failed()?.contains("not found"), "it is gone");
    Ok(())
}

#[test]
fn stop_kills_what_does_not_listen() -> anyhow::Result<()> {
    let daemon = with_image()?;
    daemon
        .gantry(&[
            "run",
            "-d",
            "--name",
            "deaf",
            BUSYBOX_NAME,
            "sh",
            "-c",
            "trap '' TERM; while true; do sleep 1; done",
        ])?
        .ok()?;
    daemon.gantry(&["stop", "-t", "1", "deaf"])?.ok()?;
    let listed = json(&daemon.gantry(&["ps", "-a", "--json"])?.ok()?)?;
    ensure!(listed[0]["exit_status"] == 137, "{listed}");
    daemon.gantry(&["rm", "deaf"])?.ok()?;
    Ok(())
}

#[test]
fn input_is_passed_on_to_its_end() -> anyhow::Result<()> {
    let daemon = with_image()?;
    let text = "line\n".repeat(100_000);
    let mut child = daemon
        .gantry_command(&["run", "--rm", "-i", BUSYBOX_NAME, "wc", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("its input is a pipe")?.write_all(text.as_bytes())?;
    let ended = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&ended.stdout).trim().to_owned();
    ensure!(ended.status.success() && said == text.len().to_string(), "{said} {}", ended.status);
    Ok(())
}

#[test]
fn a_container_whose_output_nobody_reads_ends() -> anyhow::Result<()> {
    let daemon = with_image()?;
    let mut child = daemon
        .gantry_command(&["run", "--rm", BUSYBOX_NAME, "yes"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    drop(child.stdout.take());
    let ended = eventually("it ends", || child.try_wait()?.context("it still runs"));
    if ended.is_err() {
        child.kill()?;
        child.wait()?;
    }
    ensure!(ended?.code() == Some(137), "it was killed");
    ensure!(daemon.gantry(&["ps", "-a", "-q"])?.ok()?.is_empty(), "nothing is left");
    Ok(())
}

#[test]
fn much_output_arrives_whole() -> anyhow::Result<()> {
    let daemon = with_image()?;
    let said = daemon
        .gantry(&[
            "run",
            "--rm",
            BUSYBOX_NAME,
            "sh",
            "-c",
            "i=0; while [ $i -lt 20000 ]; do echo line $i of many; i=$((i+1)); done",
        ])?
        .ok()?;
    ensure!(said.lines().count() == 20_000 && said.ends_with("line 19999 of many\n"), "{} lines", said.lines().count());
    Ok(())
}

#[test]
fn a_daemon_that_is_not_there_is_an_error_that_says_so() -> anyhow::Result<()> {
    let mut daemon = Gantryd::start()?;
    daemon.terminate()?;
    let failed = daemon.gantry(&["ps"])?;
    ensure!(failed.code == 125 && failed.stderr.contains("is gantryd running?"), "{failed}");
    daemon.launch()
}
