//! The machine is as it was: after many containers, one after another and at once, nothing is left.

use anyhow::ensure;
use harness::image::BUSYBOX_NAME;
use harness::{Census, Gantryd, eventually};

/// Containers one after another.
const IN_A_ROW: usize = 100;

/// Containers at the same time.
const AT_ONCE: usize = 20;

fn nothing_left(daemon: &Gantryd, prefix: &str, before: &Census) -> anyhow::Result<()> {
    // A snapshot goes when garbage is collected, soon after its container; a client may still be in its last call.
    eventually("nothing is left", || {
        let left = Census::take(daemon.folder(), prefix, daemon.pid()?).left_since(before);
        ensure!(left.is_empty(), "left on the machine:\n{left}");
        Ok(())
    })
}

#[test]
fn a_hundred_containers_in_a_row_leave_nothing() -> anyhow::Result<()> {
    let daemon = Gantryd::with_busybox()?;
    daemon.ctr_run("ty-row-first", &["true"])?.ok()?;
    let before = Census::take(daemon.folder(), "ty-row", daemon.pid()?);
    for number in 0..IN_A_ROW {
        let said = daemon.ctr_run(&format!("ty-row-{number}"), &["echo", &number.to_string()])?.ok()?;
        ensure!(said == format!("{number}\n"), "{said:?}");
    }
    nothing_left(&daemon, "ty-row", &before)
}

#[test]
fn twenty_containers_at_once_leave_nothing() -> anyhow::Result<()> {
    let daemon = Gantryd::with_busybox()?;
    daemon.ctr_run("ty-once-first", &["true"])?.ok()?;
    let before = Census::take(daemon.folder(), "ty-once", daemon.pid()?);
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..AT_ONCE)
            .map(|number| {
                let daemon = &daemon;
                scope.spawn(move || {
                    let script = format!("echo {number}; exit {number}");
                    let ran = daemon.ctr_run(&format!("ty-once-{number}"), &["sh", "-c", &script])?;
                    ensure!(
                        (ran.code, ran.stdout.as_str()) == (i32::try_from(number)?, format!("{number}\n").as_str()),
                        "{ran}"
                    );
                    anyhow::Ok(())
                })
            })
            .collect();
        runs.into_iter().try_for_each(|run| run.join().expect("a run does not panic"))
    })?;
    nothing_left(&daemon, "ty-once", &before)
}

#[test]
fn failures_leave_nothing_either() -> anyhow::Result<()> {
    let daemon = Gantryd::with_busybox()?;
    daemon.ctr_run("ty-fail-first", &["true"])?.ok()?;
    let before = Census::take(daemon.folder(), "ty-fail", daemon.pid()?);
    daemon.ctr_run("ty-fail-1", &["/no/such/program"])?.failed()?;
    daemon.ctr(&["run", "--rm", "--cwd", "/proc/self/fd/9", BUSYBOX_NAME, "ty-fail-2", "true"])?.failed()?;
    daemon.ctr(&["run", "--rm", "--runtime", "io.containerd.none.v1", BUSYBOX_NAME, "ty-fail-3", "true"])?.failed()?;
    daemon
        .ctr(&[
            "run",
            "--rm",
            "--mount",
            "type=bind,src=/no/such/folder,dst=/x,options=rbind",
            BUSYBOX_NAME,
            "ty-fail-4",
            "true",
        ])?
        .failed()?;
    // ctr leaves the record of a container whose task could not be made, with either daemon.
    for id in daemon.ctr(&["containers", "ls", "-q"])?.ok()?.lines() {
        daemon.ctr(&["containers", "rm", id])?.ok()?;
    }
    nothing_left(&daemon, "ty-fail", &before)
}
