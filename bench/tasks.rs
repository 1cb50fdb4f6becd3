//! One container's life in its phases, execs, kills.

use std::time::Duration;

use anyhow::Context as _;

use crate::bench::{Bench, Section, timed};
use crate::report::Report;
use crate::work;

pub(crate) const SECTION: Section =
    Section { name: "tasks", about: "one container's life in its phases, execs, kills, over gRPC", run };

fn run(bench: &mut Bench, report: &mut Report) -> anyhow::Result<()> {
    bench.block_on(async {
        lives(bench, report).await.context("one container's life")?;
        execs(bench, report).await.context("execs")?;
        kills(bench, report).await.context("kills")
    })
}

async fn lives(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let lives = bench
        .alternate(bench.rounds, async |side, round| work::life(&side.client, &format!("life-{round}")).await)
        .await?;
    let phase = |pick: fn(&work::Life) -> Duration| [0, 1].map(|at: usize| lives[at].iter().map(pick).collect());
    report.times("snapshot + create + start + exit + delete of true", phase(|life| life.whole), Some(12.0));
    report.times("  container record and snapshot", phase(|life| life.recorded), None);
    report.times("  create to started", phase(|life| life.created + life.started), Some(8.0));
    report.times("    create", phase(|life| life.created), None);
    report.times("    start", phase(|life| life.started), None);
    report.times("  started to exit seen", phase(|life| life.exited), None);
    report.times("  delete of the task", phase(|life| life.deleted), None);
    report.times("  delete of the record and the snapshot", phase(|life| life.removed), None);
    Ok(())
}

async fn execs(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    for side in &bench.sides {
        work::start_sleeper(&side.client, "execs").await?;
    }
    let times = bench
        .alternate(bench.rounds, async |side, round| {
            timed(work::exec_true(&side.client, "execs", &format!("e{round}"))).await
        })
        .await?;
    for side in &bench.sides {
        work::end(&side.client, "execs").await?;
    }
    report.times("exec of true until its exit is seen", times, Some(5.0));
    Ok(())
}

async fn kills(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let times = bench
        .alternate(bench.rounds / 2, async |side, round| {
            let id = format!("kill-{round}");
            work::start_sleeper(&side.client, &id).await?;
            work::end(&side.client, &id).await
        })
        .await?;
    report.times("kill -9 until the exit is seen", times, Some(1.0));
    Ok(())
}
