//! What a section gets to work with: both daemons, clients of them, and how often to do a thing.

use std::future::Future;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use client::Client;
use harness::{Containerd, Gantryd, busybox_archive};

use crate::report::Report;

/// One subject.
pub(crate) struct Section {
    /// Its name on the command line.
    pub(crate) name: &'static str,
    /// What it measures.
    pub(crate) about: &'static str,
    /// Measures it.
    pub(crate) run: fn(&mut Bench, &mut Report) -> anyhow::Result<()>,
}

/// The namespaces of the two sides. The state of OCI runtimes is one for the machine, by namespace and id: each has its own.
pub(crate) const NAMESPACES: [&str; 2] = ["bench-ours", "bench-peer"];

/// One of the two daemons, as a client sees it.
#[derive(Clone)]
pub(crate) struct Side {
    /// A connection, in the side's namespace.
    pub(crate) client: Client,
    /// The folder that the command lines of the daemon and its shims name.
    pub(crate) folder: PathBuf,
}

/// Both daemons, each with the small image in its namespace, and in `default`.
pub(crate) struct Bench {
    /// Ours.
    pub(crate) ours: Gantryd,
    /// The peer.
    pub(crate) peer: Containerd,
    /// Ours, then the peer.
    pub(crate) sides: [Side; 2],
    /// How often a thing that takes milliseconds is timed.
    pub(crate) rounds: usize,
    runtime: tokio::runtime::Runtime,
}

impl Bench {
    pub(crate) fn start(rounds: usize) -> anyhow::Result<Self> {
        let archive = busybox_archive()?.display().to_string();
        let (ours, peer) = (Gantryd::quiet()?, Containerd::start()?);
        for namespace in ["default", NAMESPACES[0]] {
            ours.ctr(&["-n", namespace, "images", "import", &archive])?.ok()?;
        }
        for namespace in ["default", NAMESPACES[1]] {
            peer.ctr(&["-n", namespace, "images", "import", &archive])?.ok()?;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let sides = runtime.block_on(async {
            let connect = async |address: PathBuf, namespace: &str| {
                anyhow::Ok(Client::connect(&address, namespace.parse()?).await?)
            };
            anyhow::Ok([
                Side { client: connect(ours.address(), NAMESPACES[0]).await?, folder: ours.folder().to_owned() },
                Side { client: connect(peer.address(), NAMESPACES[1]).await?, folder: peer.folder().to_owned() },
            ])
        })?;
        Ok(Self { ours, peer, sides, rounds, runtime })
    }

    /// Runs asynchronous work to its end.
    pub(crate) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Times `work` on both sides, turn and turn about, and gives the times of each. The first rounds fill caches and do not count.
    pub(crate) async fn alternate<T>(
        &self,
        rounds: usize,
        mut work: impl AsyncFnMut(&Side, usize) -> anyhow::Result<T>,
    ) -> anyhow::Result<[Vec<T>; 2]> {
        const WARM_UP: usize = 3;
        let mut results = [Vec::new(), Vec::new()];
        for round in 0..rounds + WARM_UP {
            for (results, side) in results.iter_mut().zip(&self.sides) {
                let result = work(side, round).await?;
                if round >= WARM_UP {
                    results.push(result);
                }
            }
        }
        Ok(results)
    }
}

/// How long `work` takes.
pub(crate) async fn timed(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<Duration> {
    let start = Instant::now();
    work.await?;
    Ok(start.elapsed())
}
