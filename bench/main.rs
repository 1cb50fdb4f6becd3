//! Compares gantryd with Debian's containerd, on this machine, in one run: the same client, the same image, the same calls, turn
//! and turn about. Prints medians and their ratio. It judges nothing: a machine with other work to do gives other numbers.

mod figures;
mod memory;
mod work;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use client::Client;
use figures::{Table, median};
use harness::{Containerd, Gantryd, busybox_archive};

/// Where each side works.
const NAMESPACES: [&str; 2] = ["bench-ours", "bench-peer"];

/// How often each thing is timed.
const ROUNDS: usize = 40;

/// Containers of the start rate, and how many of them are started at the same time.
const MANY: usize = 50;
const AT_ONCE: usize = 8;

/// Containers that idle while memory is counted.
const IDLE: usize = 10;

struct Side {
    client: Client,
    folder: std::path::PathBuf,
}

impl Side {
    async fn new(address: &Path, folder: &Path, namespace: &str) -> anyhow::Result<Self> {
        let client = Client::connect(address, namespace.parse()?).await?;
        Ok(Self { client, folder: folder.to_owned() })
    }
}

fn main() -> anyhow::Result<()> {
    let archive = busybox_archive()?.display().to_string();
    let (ours, peer) = (Gantryd::start()?, Containerd::start()?);
    // The state of OCI runtimes is one for the machine, by namespace and id: each side has a namespace of its own.
    for namespace in ["default", NAMESPACES[0]] {
        ours.ctr(&["-n", namespace, "images", "import", &archive])?.ok()?;
    }
    for namespace in ["default", NAMESPACES[1]] {
        peer.ctr(&["-n", namespace, "images", "import", &archive])?.ok()?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let sides = [
            Side::new(&ours.address(), ours.folder(), NAMESPACES[0]).await?,
            Side::new(&peer.address(), peer.folder(), NAMESPACES[1]).await?,
        ];
        let mut table = Table::default();
        phases(&sides, &mut table).await.context("phases of one container's life")?;
        execs(&sides, &mut table).await.context("execs")?;
        rate(&sides, &mut table).await.context("many containers")?;
        idle(&sides, &mut table).await.context("memory of idle containers")?;
        table.print();
        anyhow::Ok(())
    })?;
    let mut table = Table::default();
    command_line(&ours, &peer, &mut table)?;
    table.print();
    Ok(())
}

/// One container's life over gRPC, in its phases.
async fn phases(sides: &[Side; 2], table: &mut Table) -> anyhow::Result<()> {
    let mut lives: [Vec<work::Life>; 2] = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        for (at, side) in sides.iter().enumerate() {
            let life = work::life(&side.client, &format!("life-{round}")).await?;
            // The first rounds fill caches.
            if round >= 5 {
                lives[at].push(life);
            }
        }
    }
    let phase = |pick: fn(&work::Life) -> Duration| [0, 1].map(|at: usize| median(lives[at].iter().map(pick)));
    table.times("snapshot + create + start + exit + delete of /bin/true", phase(|life| life.whole));
    table.times("  of which create to started", phase(|life| life.started));
    table.times("  of which started to exit seen", phase(|life| life.exited));
    table.times("  of which delete", phase(|life| life.deleted));
    Ok(())
}

/// Execs in a running container, until their exit is seen.
async fn execs(sides: &[Side; 2], table: &mut Table) -> anyhow::Result<()> {
    let mut times: [Vec<Duration>; 2] = [Vec::new(), Vec::new()];
    for side in sides {
        work::start_sleeper(&side.client, "execs").await?;
    }
    for round in 0..ROUNDS {
        for (at, side) in sides.iter().enumerate() {
            let start = Instant::now();
            work::exec_true(&side.client, "execs", &format!("e{round}")).await?;
            times[at].push(start.elapsed());
        }
    }
    table.times("exec of /bin/true until its exit is seen", [0, 1].map(|at: usize| median(times[at].iter().copied())));
    let mut kills = [Duration::ZERO; 2];
    for (at, side) in sides.iter().enumerate() {
        kills[at] = work::end(&side.client, "execs").await?;
    }
    table.times("kill -9 until the exit is seen (once)", kills);
    Ok(())
}

/// Many containers, several at a time.
async fn rate(sides: &[Side; 2], table: &mut Table) -> anyhow::Result<()> {
    let mut times = [Duration::ZERO; 2];
    for (at, side) in sides.iter().enumerate() {
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
        times[at] = start.elapsed();
        for number in 0..MANY {
            work::end(&side.client, &format!("many-{number}")).await?;
        }
    }
    table.times(&format!("{MANY} containers started, {AT_ONCE} at a time"), times);
    Ok(())
}

/// Memory of the daemon, and of what it needs for each idle container.
async fn idle(sides: &[Side; 2], table: &mut Table) -> anyhow::Result<()> {
    let mut found = Vec::new();
    for side in sides {
        for number in 0..IDLE {
            work::start_sleeper(&side.client, &format!("idle-{number}")).await?;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        found.push(memory::support(&side.folder)?);
        for number in 0..IDLE {
            work::end(&side.client, &format!("idle-{number}")).await?;
        }
    }
    let pick = |read: fn(&memory::Support) -> f64| [read(&found[0]), read(&found[1])];
    table.kibibytes("shim of one container, resident", pick(|support| support.shim.resident));
    table.kibibytes("shim of one container, private", pick(|support| support.shim.private));
    table.kibibytes("daemon, resident", pick(|support| support.daemon.resident));
    table.kibibytes("daemon, private", pick(|support| support.daemon.private));
    Ok(())
}

/// What a user waits for at the command line, with the same client for both.
fn command_line(ours: &Gantryd, peer: &Containerd, table: &mut Table) -> anyhow::Result<()> {
    let mut times: [Vec<Duration>; 2] = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS / 2 {
        let arguments = |id: &str| ["run", "--rm", harness::image::BUSYBOX_NAME, id, "true"].map(str::to_owned);
        let id = format!("line-{round}");
        let words = arguments(&id);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let start = Instant::now();
        ours.ctr(&words)?.ok()?;
        times[0].push(start.elapsed());
        let start = Instant::now();
        peer.ctr(&words)?.ok()?;
        times[1].push(start.elapsed());
    }
    table.times("`ctr run --rm` of /bin/true", [0, 1].map(|at: usize| median(times[at].iter().copied())));
    Ok(())
}
