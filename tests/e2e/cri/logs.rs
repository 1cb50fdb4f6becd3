//! Logs of containers: their form, their rotation, and that nothing is lost.

use anyhow::ensure;
use harness::eventually;
use proto::cri;
use tonic::Code;

use super::rig::{Rig, code, content, script_config};

#[test]
fn lines_have_the_form_that_kubelets_read() -> anyhow::Result<()> {
    let rig = Rig::start()?;
    let pod = rig.pod("form")?;
    let script = "echo out; echo err >&2; printf 'no newline'";
    let id = rig.run(&pod, script_config("c", script))?;
    let path = rig.ended(&id)?.log_path;
    ensure!(path == rig.logs().join("form/c.log").display().to_string(), "{path}");
    let log = std::fs::read_to_string(&path)?;
    let mut seen: Vec<(&str, &str, &str)> = Vec::new();
    for line in log.lines() {
        let fields: Vec<&str> = line.splitn(4, ' ').collect();
        ensure!(fields.len() == 4 && fields[0].len() >= "2026-01-01T00:00:00.0Z".len(), "{line}");
        ensure!(fields[0].as_bytes()[10] == b'T' && fields[0].contains('.'), "{line}");
        seen.push((fields[1], fields[2], fields[3]));
    }
    seen.sort_unstable();
    ensure!(seen == [("stderr", "F", "err"), ("stdout", "F", "no newline"), ("stdout", "F", "out")], "{log}");
    use std::os::unix::fs::MetadataExt as _;
    ensure!(std::fs::metadata(&path)?.mode() & 0o777 == 0o640, "others may not read it");
    Ok(())
}

#[test]
fn long_lines_come_in_pieces() -> anyhow::Result<()> {
    let config = "[plugins.\"io.containerd.grpc.v1.cri\"]\nmax_container_log_line_size = 100\n";
    let rig = Rig::with_config(config)?;
    let pod = rig.pod("long")?;
    let id = rig.run(&pod, script_config("c", "head -c 250 /dev/zero | tr '\\0' x; echo; echo short"))?;
    let log = std::fs::read_to_string(rig.ended(&id)?.log_path)?;
    let tags: Vec<_> = log.lines().map(|line| line.split(' ').nth(2).unwrap_or_default()).collect();
    ensure!(tags == ["P", "P", "F", "F"], "{log}");
    ensure!(content(&log)? == format!("{}\nshort\n", "x".repeat(250)), "{log}");
    Ok(())
}

#[test]
fn a_log_that_is_turned_over_loses_nothing() -> anyhow::Result<()> {
    let rig = Rig::start()?;
    let pod = rig.pod("rotate")?;
    let count = 3000;
    let id = rig.run(
        &pod,
        script_config("c", &format!("i=0; while test $i -lt {count}; do i=$((i+1)); echo $i; done; sleep 1000")),
    )?;
    let path = rig.status(&id)?.log_path;
    let request = || cri::ReopenContainerLogRequest { container_id: id.clone() };
    let mut old = String::new();
    for turn in 0..5 {
        eventually("there is output", || {
            ensure!(turn > 0 || std::fs::metadata(&path).is_ok_and(|meta| meta.len() > 0));
            Ok(())
        })?;
        let aside = format!("{path}.{turn}");
        std::fs::rename(&path, &aside)?;
        rig.ask(rig.cri().reopen_container_log(request()))?;
        ensure!(std::fs::metadata(&path).is_ok(), "there is a new file");
        old += &std::fs::read_to_string(&aside)?;
    }
    let expected: String = (1..=count).map(|number| format!("{number}\n")).collect();
    eventually("all of it arrives", || {
        let all = content(&format!("{old}{}", std::fs::read_to_string(&path)?))?;
        ensure!(all == expected, "{} of {} bytes", all.len(), expected.len());
        Ok(())
    })?;
    rig.stop(&id, 0)?;
    ensure!(code(rig.ask(rig.cri().reopen_container_log(request()))) == Code::FailedPrecondition, "only while it runs");
    Ok(())
}

#[test]
fn a_terminal_has_one_output() -> anyhow::Result<()> {
    let rig = Rig::start()?;
    let pod = rig.pod("tty")?;
    let mut config = script_config("c", "test -t 1 && echo terminal; echo err >&2");
    config.tty = true;
    let id = rig.run(&pod, config)?;
    let log = std::fs::read_to_string(rig.ended(&id)?.log_path)?;
    ensure!(!log.contains(" stderr ") && log.contains("terminal") && log.contains("err"), "{log}");
    Ok(())
}

#[test]
fn the_last_words_are_in_the_log_when_the_end_is_told() -> anyhow::Result<()> {
    let rig = Rig::start()?;
    let pod = rig.pod("last")?;
    for round in 0..5 {
        let name = format!("c{round}");
        let id = rig.run(&pod, script_config(&name, "head -c 300000 /dev/zero | tr '\\0' y; echo; echo last"))?;
        let log = content(&std::fs::read_to_string(rig.ended(&id)?.log_path)?)?;
        ensure!(log.len() == 300_000 + "\nlast\n".len() && log.ends_with("\nlast\n"), "{} bytes", log.len());
    }
    Ok(())
}

#[test]
fn a_shim_that_knows_no_such_logs_has_one_all_the_same() -> anyhow::Result<()> {
    let shim = harness::programs::find("containerd-shim-runc-v2")?;
    let config = format!(
        "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.debian]\nruntime_type = \"io.containerd.runc.v2\"\nruntime_path = {shim:?}\n"
    );
    let mut rig = Rig::with_config(&config)?;
    let pod = rig.run_pod_with(rig.pod_config("foreign"), "debian")?;
    let (status, output) = rig.run_to_end(&pod, script_config("short", "echo out; echo err >&2; exit 3"))?;
    ensure!(status.exit_code == 3 && output.len() == "out\nerr\n".len(), "{status:?} {output}");
    let script = "i=0; while test $i -lt 300; do i=$((i+1)); echo $i; sleep 0.01; done; sleep 1000";
    let id = rig.run(&pod, script_config("long", script))?;
    let path = rig.status(&id)?.log_path;
    let request = || cri::ReopenContainerLogRequest { container_id: id.clone() };
    eventually("there is output", || {
        ensure!(std::fs::metadata(&path).is_ok_and(|meta| meta.len() > 0));
        Ok(())
    })?;
    let aside = format!("{path}.1");
    std::fs::rename(&path, &aside)?;
    rig.ask(rig.cri().reopen_container_log(request()))?;
    rig.daemon.kill9()?;
    let expected: String = (1..=300).map(|number| format!("{number}\n")).collect();
    eventually("all of it arrives, whether or not there is a daemon", || {
        let all = content(&format!("{}{}", std::fs::read_to_string(&aside)?, std::fs::read_to_string(&path)?))?;
        ensure!(all == expected, "{} of {} bytes", all.len(), expected.len());
        Ok(())
    })?;
    rig.daemon.launch()?;
    rig.stop(&id, 0)?;
    Ok(())
}

#[test]
fn who_wants_no_log_gets_none() -> anyhow::Result<()> {
    let rig = Rig::start()?;
    let pod = rig.pod("nolog")?;
    let mut config = script_config("c", "echo nobody reads this");
    config.log_path = String::new();
    let id = rig.run(&pod, config)?;
    let status = rig.ended(&id)?;
    ensure!(status.log_path.is_empty() && status.exit_code == 0, "{status:?}");
    Ok(())
}
