//! Many containers: how fast they start, what they take while they idle, how soon a killed daemon has them back.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use client::Client;
use proto::process::Status;
use proto::services::tasks::v1::ListTasksRequest;

use crate::bench::{Bench, NAMESPACES, Section, Side};
use crate::memory;
use crate::report::{Report, Spread, Unit};
use crate::work;

pub(crate) const SECTION: Section =
    Section { name: "density", about: "50 containers: start rate, memory while idle, recovery after kill -9", run };

/// Containers, and how many of them are started at the same time.
const MANY: usize = 50;
const AT_ONCE: usize = 8;
/// How often all of them are started.
const BATCHES: usize = 5;
/// How often the daemon is killed.
const KILLS: usize = 7;

fn run(bench: &mut Bench, report: &mut Report) -> anyhow::Result<()> {
    let times = bench.block_on(rate(bench)).context("start rate")?;
    let [ours, peer] = times.clone().map(|times| Spread::of(times.iter().map(|time| MANY as f64 / time.as_secs_f64())));
    report.times(&format!("{MANY} containers started, {AT_ONCE} at a time"), times, Some(300.0));
    report.add("  as a rate", Unit::PerSecond, ours, Some(peer), None);
    let [ours, peer] = [memory::support(&bench.sides[0].folder)?, memory::support(&bench.sides[1].folder)?];
    let mut row = |what: &str, pick: fn(&memory::Support) -> f64, goal: f64| {
        let [ours, peer] = [pick(&ours), pick(&peer)].map(|value| Spread::of([value]));
        report.add(what, Unit::Kibibytes, ours, Some(peer), Some(goal));
    };
    row("shim of one container, resident", |support| support.shim.resident, 1024.0);
    row("shim of one container, private", |support| support.shim.private, 200.0);
    row(&format!("daemon with {MANY} containers, resident"), |support| support.daemon.resident, 24.0 * 1024.0);
    row(&format!("daemon with {MANY} containers, private"), |support| support.daemon.private, 12.0 * 1024.0);
    let recovered = recovery(bench).context("recovery")?;
    report.times(&format!("kill -9 of the daemon until {MANY} run again"), recovered, Some(30.0));
    let addresses = [bench.ours.address(), bench.peer.address()];
    let sides = bench.sides.clone();
    bench.block_on(async {
        // The connections of before ended with the daemons.
        for ((side, address), namespace) in sides.into_iter().zip(&addresses).zip(NAMESPACES) {
            let client = Client::connect(address, namespace.parse()?).await?;
            end_all(&Side { client, ..side }).await?;
        }
        Ok(())
    })
}

/// How long it takes to start them, several times. The last ones stay.
async fn rate(bench: &Bench) -> anyhow::Result<[Vec<Duration>; 2]> {
    let mut times = [Vec::new(), Vec::new()];
    for batch in 0..BATCHES {
        for (times, side) in times.iter_mut().zip(&bench.sides) {
            if batch > 0 {
                end_all(side).await?;
            }
            let start = Instant::now();
            let mut running = tokio::task::JoinSet::new();
            for number in 0..MANY {
                if running.len() >= AT_ONCE {
                    running.join_next().await.context("one runs")???;
                }
                let client = side.client.clone();
                running.spawn(async move { work::start_sleeper(&client, &format!("many-{number}")).await });
            }
            while let Some(done) = running.join_next().await {
                done??;
            }
            times.push(start.elapsed());
        }
    }
    Ok(times)
}

async fn end_all(side: &Side) -> anyhow::Result<()> {
    for number in 0..MANY {
        work::end(&side.client, &format!("many-{number}")).await?;
    }
    Ok(())
}

/// From the start of the new process until all are listed as running.
fn recovery(bench: &mut Bench) -> anyhow::Result<[Vec<Duration>; 2]> {
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..KILLS {
        bench.ours.kill9()?;
        let start = Instant::now();
        bench.ours.spawn()?;
        times[0].push(bench.block_on(all_run(&bench.ours.address(), NAMESPACES[0], start))?);
        bench.peer.kill9()?;
        let start = Instant::now();
        bench.peer.spawn()?;
        times[1].push(bench.block_on(all_run(&bench.peer.address(), NAMESPACES[1], start))?);
    }
    Ok(times)
}

async fn all_run(address: &std::path::Path, namespace: &str, start: Instant) -> anyhow::Result<Duration> {
    loop {
        let asked = async {
            let client = Client::connect(address, namespace.parse()?).await?;
            let listed = client.tasks().list(ListTasksRequest::default()).await?.into_inner().tasks;
            anyhow::Ok(listed.iter().filter(|task| task.status() == Status::Running).count())
        };
        match asked.await {
            Ok(MANY) => return Ok(start.elapsed()),
            failed => {
                ensure!(start.elapsed() < Duration::from_secs(30), "they are not back: {failed:?}");
                tokio::time::sleep(Duration::from_micros(500)).await;
            }
        }
    }
}
