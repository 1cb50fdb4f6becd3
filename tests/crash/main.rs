//! gantryd is killed with SIGKILL while clients work, at any moment and often while it starts, and started again:
//! what it acknowledged is there, what it removed is gone, and what is on disk fits together.
//!
//! `GANTRY_KILLS` sets how often.

mod daemon;
mod ledger;
mod points;
mod tasks;
mod work;

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use harness::Random;
use store::Read as _;
use store::check::check;
use store::tables::BACKEND_SNAPSHOTS;

use daemon::Daemon;
use ledger::Ledger;
use work::Worker;

/// How often it is killed, unless `GANTRY_KILLS` says otherwise.
const KILLS: u32 = 24;
/// How many clients work at the same time.
const WORKERS: u64 = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives() -> anyhow::Result<()> {
    let kills = std::env::var("GANTRY_KILLS").map_or(Ok(KILLS), |kills| kills.parse())?;
    let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos() as u64;
    let mut random = Random::new(seed);
    let folder = harness::folder("crash")?;
    let ledger = Ledger::default();
    let mut workers: Vec<_> = (0..WORKERS).map(Worker::new).collect();

    for life in 0..kills {
        if life % 3 == 2 {
            // Killed while it starts.
            let mut daemon = Daemon::spawn(folder.path())?;
            tokio::time::sleep(Duration::from_micros(random.below(150_000))).await;
            daemon.kill()?;
            continue;
        }
        let mut daemon = Daemon::spawn(folder.path())?;
        let life = async {
            daemon.ready().await?;
            ledger.verify(daemon.address()).await?;
            let moment = Duration::from_micros(random.below(400_000));
            work::until_killed(&mut workers, &mut daemon, &ledger, moment).await?;
            anyhow::Ok(())
        };
        life.await.with_context(|| format!("seed {seed}; gantryd's log:\n{}", Daemon::log(folder.path())))?;
    }

    let mut daemon = Daemon::spawn(folder.path())?;
    daemon.ready().await?;
    ledger.verify(daemon.address()).await.with_context(|| format!("seed {seed}"))?;
    work::collect(&daemon.address()).await?;
    daemon.terminate()?;
    let (present, gone) = ledger.counts();
    eprintln!("{kills} kills, {present} things there, {gone} gone, seed {seed}");
    ensure!(present > u64::from(kills) && gone > 0, "the kills came too early to test anything");
    sound(&daemon)
}

/// What is on disk fits together, and after a collection nothing is left over, down to the folders of the snapshots.
pub(crate) fn sound(daemon: &Daemon) -> anyhow::Result<()> {
    let store = store::Store::open(&daemon.root().join("meta"), store::Options::default())?;
    let blobs = store::blob::BlobStore::open(&daemon.root().join("content"))?;
    let findings: Vec<_> = check(&store.read(), &blobs)?.iter().map(ToString::to_string).collect();
    ensure!(findings.is_empty(), "{findings:#?}");

    let records = store.read().scan(&BACKEND_SNAPSHOTS, &store::prefix(&["overlayfs"])?)?;
    let recorded: BTreeSet<_> = records.iter().map(|(_, record)| record.id.to_string()).collect();
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(daemon.root().join("snapshots/overlayfs/snapshots"))? {
        found.insert(entry?.file_name().to_string_lossy().into_owned());
    }
    ensure!(found == recorded, "folders of snapshots: {found:?}, recorded are {recorded:?}");
    Ok(())
}
