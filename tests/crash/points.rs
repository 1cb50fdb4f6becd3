//! gantryd ends at each point between two durable steps, the first time and later: what it acknowledged is there, nothing is half there.

use anyhow::Context as _;

use crate::daemon::Daemon;
use crate::ledger::Ledger;
use crate::work::{self, Worker};

/// The points, as the programs name them, and the times at which it ends there.
const POINTS: [(&str, [u32; 2]); 12] = [
    ("group-before", [3, 40]),
    ("group-written", [3, 40]),
    ("content-before-sync", [1, 9]),
    ("content-before-name", [1, 9]),
    ("content-named", [1, 9]),
    ("content-durable", [1, 9]),
    ("prepare-made", [1, 7]),
    ("prepare-recorded", [1, 7]),
    ("commit-before-sync", [1, 5]),
    ("commit-synced", [1, 5]),
    ("remove-recorded", [1, 2]),
    ("collect-recorded", [1, 2]),
];
/// How many clients work at the same time.
const WORKERS: u64 = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_may_end_between_any_two_steps() -> anyhow::Result<()> {
    let folder = harness::folder("points")?;
    let ledger = Ledger::default();
    let mut workers: Vec<_> = (0..WORKERS).map(Worker::new).collect();
    for (point, times) in POINTS {
        for time in times {
            let point = format!("{point}:{time}");
            let life = async {
                let mut daemon = Daemon::spawn_until(folder.path(), &point)?;
                // It may end while it starts: that is a point, too.
                if daemon.ready().await.is_ok() {
                    // It may come to the point while it is asked: what an earlier life left is collected at the start.
                    match ledger.verify(daemon.address()).await {
                        Ok(()) => work::until_ended(&mut workers, &mut daemon, &ledger).await?,
                        Err(error) => {
                            let status = daemon.ended(std::time::Duration::from_secs(5)).await;
                            let killed = status
                                .is_ok_and(|status| std::os::unix::process::ExitStatusExt::signal(&status) == Some(9));
                            anyhow::ensure!(killed, "{error:#}");
                        }
                    }
                }
                anyhow::Ok(())
            };
            life.await.with_context(|| format!("at {point}; gantryd's log:\n{}", Daemon::log(folder.path())))?;
        }
    }
    let mut daemon = Daemon::spawn(folder.path())?;
    daemon.ready().await?;
    ledger.verify(daemon.address()).await?;
    work::collect(&daemon.address()).await?;
    daemon.terminate()?;
    crate::sound(&daemon)
}
