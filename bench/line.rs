//! What a user waits for at the command line, with the same client for both.

use std::time::Instant;

use crate::bench::{Bench, Section};
use crate::report::Report;

pub(crate) const SECTION: Section = Section { name: "line", about: "`ctr run --rm` at the command line", run };

fn run(bench: &mut Bench, report: &mut Report) -> anyhow::Result<()> {
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..bench.rounds / 2 {
        let id = format!("line-{round}");
        let words = ["run", "--rm", harness::image::BUSYBOX_NAME, &id, "true"];
        let start = Instant::now();
        bench.ours.ctr(&words)?.ok()?;
        times[0].push(start.elapsed());
        let start = Instant::now();
        bench.peer.ctr(&words)?.ok()?;
        times[1].push(start.elapsed());
    }
    report.times("`ctr run --rm` of true", times, Some(20.0));
    Ok(())
}
