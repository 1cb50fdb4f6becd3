//! What is timed: the calls any client makes, in the order it makes them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use client::Client;
use client::container::NewContainer;
use client::spec::{PROCESS_URL, Wanted};
use client::task::{Process, Stdio};
use harness::image::BUSYBOX_NAME;
use proto::prost_types::Any;
use proto::services::containers::v1::Container;

/// The phases of one container's life.
pub(crate) struct Life {
    /// All of it.
    pub(crate) whole: Duration,
    /// The container's record, and its snapshot.
    pub(crate) recorded: Duration,
    /// The call that creates the task.
    pub(crate) created: Duration,
    /// The call that starts it.
    pub(crate) started: Duration,
    /// From there until its exit is seen.
    pub(crate) exited: Duration,
    /// The call that deletes the task.
    pub(crate) deleted: Duration,
    /// The removal of the record and the snapshot.
    pub(crate) removed: Duration,
}

/// Gives the time since it was last asked.
struct Laps(Instant);

impl Laps {
    fn lap(&mut self) -> Duration {
        let now = Instant::now();
        now - std::mem::replace(&mut self.0, now)
    }
}

async fn create(client: &Client, id: &str, args: &[&str]) -> anyhow::Result<Container> {
    let image = client.resolve(&client.image(BUSYBOX_NAME).await?).await?;
    let wanted = Wanted { args: args.iter().map(|&arg| arg.to_owned()).collect(), ..Default::default() };
    let new = NewContainer {
        id,
        image: &image,
        snapshotter: client::DEFAULT_SNAPSHOTTER,
        runtime: client::DEFAULT_RUNTIME,
        runtime_options: None,
        user: None,
        wanted: &wanted,
        labels: BTreeMap::new(),
    };
    Ok(client.create_container(new).await?)
}

/// One container that does nothing, from its snapshot to its removal.
pub(crate) async fn life(client: &Client, id: &str) -> anyhow::Result<Life> {
    let begin = Instant::now();
    let mut laps = Laps(begin);
    let container = create(client, id, &["true"]).await?;
    let recorded = laps.lap();
    let process = client.create_task(&container, Stdio::default()).await?;
    let created = laps.lap();
    let wait = {
        let process = process.clone();
        tokio::spawn(async move { process.wait().await })
    };
    process.start().await?;
    let started = laps.lap();
    let exit = wait.await??;
    let exited = laps.lap();
    anyhow::ensure!(exit.status == 0, "/bin/true ended with {}", exit.status);
    process.delete().await?;
    let deleted = laps.lap();
    client.remove_container(&container).await?;
    let removed = laps.lap();
    Ok(Life { whole: begin.elapsed(), recorded, created, started, exited, deleted, removed })
}

/// A container that sleeps.
pub(crate) async fn start_sleeper(client: &Client, id: &str) -> anyhow::Result<Process> {
    let container = create(client, id, &["sleep", "100000"]).await?;
    let process = client.create_task(&container, Stdio::default()).await?;
    process.start().await?;
    Ok(process)
}

/// Runs `true` in a container and forgets it.
pub(crate) async fn exec_true(client: &Client, id: &str, exec: &str) -> anyhow::Result<()> {
    let container = client.container(id).await?;
    let spec = serde_json::from_slice(&container.spec.context("it has a specification")?.value)?;
    let process = client::spec::exec(&spec, &Wanted { args: vec!["true".into()], ..Default::default() }, None)?;
    let any = Any { type_url: PROCESS_URL.into(), value: serde_json::to_vec(&process)? };
    let process = client.add_process(id, exec, any, Stdio::default()).await?;
    process.start().await?;
    process.wait().await?;
    process.delete().await?;
    Ok(())
}

/// Kills and removes a container. Returns how long its exit took to be seen.
pub(crate) async fn end(client: &Client, id: &str) -> anyhow::Result<Duration> {
    let process = client.process(id, "");
    let wait = {
        let process = process.clone();
        tokio::spawn(async move { process.wait().await })
    };
    // The wait must be there first, or its own way is timed as well.
    tokio::time::sleep(Duration::from_millis(2)).await;
    let start = Instant::now();
    process.kill(9, false).await?;
    wait.await??;
    let seen = start.elapsed();
    process.delete().await?;
    client.remove_container(&client.container(id).await?).await?;
    Ok(seen)
}
