//! gantryd is killed with SIGKILL while clients work, at any moment and often while it starts, and started again:
//! what it acknowledged is there, what it removed is gone, and what is on disk fits together.
//!
//! `GANTRY_KILLS` sets how often.

mod daemon;
mod ledger;
mod work;

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use store::check::check;

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
    let mut random = Random(seed | 1);
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
    daemon.terminate()?;
    let (present, gone) = ledger.counts();
    eprintln!("{kills} kills, {present} things there, {gone} gone, seed {seed}");
    ensure!(present > u64::from(kills) && gone > 0, "the kills came too early to test anything");
    sound(&daemon)
}

/// What is on disk fits together, down to the folders of the snapshots.
fn sound(daemon: &Daemon) -> anyhow::Result<()> {
    let options = store::Options::default();
    let store = store::Store::open(&daemon.root().join("meta"), options)?;
    let blobs = store::blob::BlobStore::open(&daemon.root().join("content"))?;
    let findings = check(&store.read(), &blobs)?;
    let damage: Vec<_> = findings.iter().filter(|finding| finding.is_damage()).map(ToString::to_string).collect();
    ensure!(damage.is_empty(), "damage: {damage:#?}");

    use store::Read as _;
    let reader = store.read();
    let records = reader.scan(&store::tables::BACKEND_SNAPSHOTS, &store::prefix(&["overlayfs"])?)?;
    let folders = daemon.root().join("snapshots/overlayfs/snapshots");
    for (_, record) in &records {
        let folder = folders.join(record.id.to_string());
        ensure!(folder.is_dir(), "{} of a snapshot is not there", folder.display());
    }
    Ok(())
}

/// xorshift64: enough to choose moments.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
