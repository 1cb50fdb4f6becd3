//! Events are kept, over a stop and over a kill, and what may be missing is said.

use anyhow::{Context as _, ensure};
use harness::Gantryd;
use serde_json::Value;

fn kept(daemon: &Gantryd, arguments: &[&str]) -> anyhow::Result<Vec<Value>> {
    let mut all = vec!["--json", "events", "--no-follow"];
    all.extend(arguments);
    let printed = daemon.gantry(&all)?.ok()?;
    printed.lines().map(|line| serde_json::from_str(line).context("a line is JSON")).collect()
}

#[test]
fn events_are_heard_later_and_gaps_are_said() -> anyhow::Result<()> {
    let mut daemon = Gantryd::start()?;
    daemon.ctr(&["images", "import", &harness::busybox_archive()?.display().to_string()])?.ok()?;
    daemon.terminate()?;
    daemon.launch()?;
    let first = kept(&daemon, &[])?;
    ensure!(first.iter().any(|event| event["topic"] == "/images/create"), "{first:#?}");
    ensure!(first.iter().all(|event| event["gap"].is_null()), "a stop in peace leaves no gap: {first:#?}");
    let cursor = first.last().and_then(|event| event["cursor"].as_str()).context("an event has a cursor")?.to_owned();

    daemon.ctr(&["containers", "create", harness::image::BUSYBOX_NAME, "jou-c1"])?.ok()?;
    daemon.kill9()?;
    daemon.launch()?;
    daemon.ctr(&["containers", "delete", "jou-c1"])?.ok()?;
    // What happened last is on disk after a moment, and a follower makes it be at once: the end of what is kept moves on.
    harness::eventually("the deletion is kept", || {
        let later = kept(&daemon, &["--cursor", &cursor])?;
        let gap = later.iter().position(|event| event["gap"].is_string());
        let deleted = later.iter().position(|event| event["topic"] == "/containers/delete");
        ensure!(gap.is_some() && gap < deleted && deleted.is_some(), "{later:#?}");
        Ok(())
    })?;
    let since = kept(&daemon, &["--since", "1h", "topic==\"/containers/delete\""])?;
    ensure!(since.iter().filter(|event| event["topic"].is_string()).count() == 1, "{since:#?}");
    ensure!(
        daemon.gantry(&["events", "--no-follow", "--cursor", "nonsense"])?.failed()?.contains("cursor"),
        "no cursor"
    );
    Ok(())
}
