//! Tasks are made, started, paused, killed and deleted at random, while gantryd and the shims are killed with SIGKILL at any moment. Each
//! step is checked against a small model: what was acknowledged holds, what was under way has happened or has not. In the end every exit was
//! told, exactly as it was, and nothing is left on the machine.
//!
//! `GANTRY_TASK_SECONDS` sets for how long; `GANTRY_TASK_SEED` repeats the choices of a run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail, ensure};
use client::container::NewContainer;
use client::spec::{PROCESS_URL, Wanted};
use client::task::{Process, Stdio};
use client::{Client, ClientError};
use harness::census::Census;
use harness::image::BUSYBOX_NAME;
use harness::{Gantryd, busybox_archive};
use proto::events::TaskExit;
use proto::process::Status;
use proto::prost_types::Any;
use proto::services::events::v1::SubscribeRequest;
use proto::services::snapshots::v1::RemoveSnapshotRequest;

use harness::Random;

/// For how long, unless `GANTRY_TASK_SECONDS` says otherwise.
const SECONDS: u64 = 35;
/// Containers at the same time.
const SLOTS: usize = 4;
/// Of a hundred steps, during how many the daemon is killed.
const DAEMON_KILLS: u64 = 6;
/// How long anything may take that takes a moment.
const PATIENCE: Duration = Duration::from_secs(30);
/// The namespace of all of it.
const NAMESPACE: &str = "gk";

/// Ends with another code for each signal.
const PROGRAM: &str = "trap 'exit 3' USR1; trap 'exit 4' USR2; while :; do sleep 100 & wait; done";
const USR1: u32 = 10;
const USR2: u32 = 12;
const KILL: u32 = 9;

/// What is known of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    None,
    Created,
    Running,
    Paused,
    Stopped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Create,
    Start,
    Exec,
    Pause,
    Resume,
    Signal(u32, u32),
    Delete,
    KillShim,
}

/// One life of a container; each has an id of its own.
#[derive(Debug, Clone)]
struct Life {
    id: String,
    state: State,
    /// The exits that it may have.
    exits: BTreeSet<u32>,
    /// What was done, for messages.
    done: Vec<String>,
    execs: u32,
}

impl Life {
    fn new(id: String) -> Self {
        Self { id, state: State::None, exits: BTreeSet::new(), done: Vec::new(), execs: 0 }
    }
}

/// The exits that were told, by container.
type Told = Arc<Mutex<BTreeMap<String, Vec<u32>>>>;

struct World {
    daemon: Gantryd,
    client: Client,
    random: Random,
    lives: Vec<Life>,
    next: u32,
    /// Those that are over, with what they may have ended with.
    over: Vec<Life>,
    /// What answers to calls said of exits.
    answered: BTreeMap<String, Vec<u32>>,
    told: Told,
    kills: [u32; 2],
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_survive_kills_of_the_daemon_and_of_shims() -> anyhow::Result<()> {
    let number = |name: &str, other: u64| std::env::var(name).map_or(Ok(other), |text| text.parse());
    let seconds = number("GANTRY_TASK_SECONDS", SECONDS)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos() as u64;
    let seed = number("GANTRY_TASK_SEED", now)?;
    eprintln!("seed {seed}");
    let daemon = Gantryd::start()?;
    daemon.ctr(&["-n", NAMESPACE, "images", "import", &busybox_archive()?.display().to_string()])?.ok()?;
    let client = connect(&daemon.address()).await?;
    let told = Told::default();
    let listener = tokio::spawn(listen(daemon.address(), told.clone()));
    let mut world = World {
        daemon,
        client,
        random: Random::new(seed),
        lives: Vec::new(),
        next: 0,
        over: Vec::new(),
        answered: BTreeMap::new(),
        told,
        kills: [0, 0],
    };
    // One life first, for the folders that stay.
    for action in [Action::Create, Action::Start, Action::Signal(KILL, 137), Action::Delete] {
        if world.lives.is_empty() {
            world.fresh();
        }
        world.act(0, action).await?;
    }
    world.lives.clear();
    let before = world.census()?;
    for _ in 0..SLOTS {
        world.fresh();
    }
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut steps = 0;
    while Instant::now() < end {
        let slot = world.random.below(SLOTS as u64) as usize;
        world.step(slot).await.with_context(|| {
            format!("seed {seed}, step {steps}, {:?}\ngantryd's log:\n{}", world.lives[slot], tail(&world.daemon.log()))
        })?;
        steps += 1;
    }
    let finished = world.finish(&before).await;
    listener.abort();
    finished.with_context(|| format!("seed {seed}\ngantryd's log:\n{}", tail(&world.daemon.log())))?;
    let [daemons, shims] = world.kills;
    eprintln!(
        "{steps} steps, {daemons} kills of the daemon, {shims} of shims, {} lives, seed {seed}",
        world.over.len()
    );
    ensure!(steps > 20 && daemons > 0, "too few steps to test anything");
    Ok(())
}

impl World {
    fn fresh(&mut self) {
        self.next += 1;
        self.lives.push(Life::new(format!("gk-{}-{}", std::process::id(), self.next)));
    }

    fn census(&self) -> anyhow::Result<Census> {
        let prefix = format!("gk-{}-", std::process::id());
        Ok(Census::take(self.daemon.folder(), &prefix, self.daemon.pid()?))
    }

    async fn step(&mut self, slot: usize) -> anyhow::Result<()> {
        let dice = self.random.below(100);
        let action = match (self.lives[slot].state, dice) {
            (State::None, _) => Action::Create,
            (State::Created, 0..80) => Action::Start,
            (State::Created, 80..90) => Action::Delete,
            (State::Running, 0..40) => Action::Exec,
            (State::Running, 40..60) => Action::Pause,
            (State::Running, 60..70) => Action::Signal(USR1, 3),
            (State::Running, 70..80) => Action::Signal(USR2, 4),
            (State::Created, _) | (State::Running, 80..92) => Action::Signal(KILL, 137),
            (State::Paused, 0..85) => Action::Resume,
            (State::Running | State::Paused, _) => Action::KillShim,
            (State::Stopped, 0..90) => Action::Delete,
            (State::Stopped, _) => Action::KillShim,
        };
        self.lives[slot].done.push(format!("{action:?}"));
        if self.random.below(100) < DAEMON_KILLS {
            self.act_and_kill(slot, action).await
        } else {
            self.act(slot, action).await
        }
    }

    /// Does it, undisturbed.
    async fn act(&mut self, slot: usize, action: Action) -> anyhow::Result<()> {
        let life = self.lives[slot].clone();
        if action == Action::KillShim {
            self.kill_shim(&life.id)?;
            return self.shim_is_lost(slot).await;
        }
        let exit = perform(&self.client, &life, action).await?;
        self.done(slot, action, exit);
        if action == Action::Delete {
            self.bury(slot).await?;
        }
        Ok(())
    }

    /// Does it, and kills the daemon at some moment of it.
    async fn act_and_kill(&mut self, slot: usize, action: Action) -> anyhow::Result<()> {
        let life = self.lives[slot].clone();
        let moment = Duration::from_micros(self.random.below(20_000));
        let (client, daemon) = (self.client.clone(), &mut self.daemon);
        self.kills[0] += 1;
        if action == Action::KillShim {
            daemon.kill9()?;
            self.kill_shim(&life.id)?;
            self.relaunch().await?;
            return self.shim_is_lost(slot).await;
        }
        let acting = perform(&client, &life, action);
        let killing = async {
            tokio::time::sleep(moment).await;
            daemon.kill9()
        };
        let (acted, killed) = tokio::join!(acting, killing);
        killed?;
        self.relaunch().await?;
        // The others are as they were.
        for (other, life) in self.lives.iter().enumerate().filter(|(other, _)| *other != slot) {
            let (state, _) = state_of(&self.client, &life.id).await?;
            ensure!(state == life.state, "container {other} is {state:?} after the kill, and was {life:?}");
        }
        if let Ok(exit) = acted {
            self.done(slot, action, exit);
            if action == Action::Delete {
                self.bury(slot).await?;
            }
            return Ok(());
        }
        self.settle(slot, action).await
    }

    /// Finds out whether what was under way has happened.
    async fn settle(&mut self, slot: usize, action: Action) -> anyhow::Result<()> {
        let life = self.lives[slot].clone();
        let (state, _) = state_of(&self.client, &life.id).await?;
        let before = life.state;
        let legal: &[State] = match action {
            Action::Create => &[State::None, State::Created],
            Action::Start => &[State::Created, State::Running],
            Action::Pause => &[State::Running, State::Paused],
            Action::Resume => &[State::Running, State::Paused],
            Action::Signal(..) => &[before, State::Stopped],
            Action::Delete => &[before, State::Stopped, State::None],
            Action::Exec | Action::KillShim => &[before],
        };
        ensure!(legal.contains(&state), "it is {state:?} after a kill during {action:?}, and was {before:?}");
        self.lives[slot].state = state;
        match (action, state) {
            (Action::Create | Action::Delete, State::None) => self.bury(slot).await?,
            // It may come a moment later.
            (Action::Signal(_, code), _) => {
                self.lives[slot].exits.extend([code, 137]);
                let exit = perform(&self.client, &self.lives[slot], Action::Signal(KILL, 137)).await?;
                self.done(slot, Action::Signal(KILL, 137), exit);
            }
            (Action::Delete, _) => _ = self.lives[slot].exits.insert(137),
            _ => {}
        }
        Ok(())
    }

    /// Writes down what was acknowledged.
    fn done(&mut self, slot: usize, action: Action, exit: Option<u32>) {
        let life = &mut self.lives[slot];
        life.state = match action {
            Action::Create => State::Created,
            Action::Start | Action::Resume => State::Running,
            Action::Pause => State::Paused,
            Action::Exec | Action::KillShim => life.state,
            Action::Signal(_, code) => {
                if life.exits.is_empty() {
                    life.exits.insert(code);
                }
                State::Stopped
            }
            Action::Delete => State::None,
        };
        if let Some(exit) = exit
            && action != Action::Exec
            && !(action == Action::Delete && life.exits.is_empty())
        {
            self.answered.entry(life.id.clone()).or_default().push(exit);
        }
    }

    fn kill_shim(&mut self, id: &str) -> anyhow::Result<()> {
        self.kills[1] += 1;
        let folder = self.daemon.folder().display().to_string();
        let mut killed = 0;
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
            let is_shim = words.first().is_some_and(|program| program.ends_with("gantry-shim"));
            if is_shim && words.iter().any(|word| word == id) && words.iter().any(|word| word.starts_with(&folder)) {
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)?;
                killed += 1;
            }
        }
        ensure!(killed > 0, "{id} has no shim");
        Ok(())
    }

    /// The shim of a task was killed: the task ends with it.
    async fn shim_is_lost(&mut self, slot: usize) -> anyhow::Result<()> {
        let life = &mut self.lives[slot];
        if life.exits.is_empty() {
            life.exits.insert(137);
        }
        let end = Instant::now() + PATIENCE;
        while state_of(&self.client, &life.id).await?.0 != State::None {
            ensure!(Instant::now() < end, "the task is still there though its shim is not");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.bury(slot).await
    }

    /// Removes the records of a life that is over, and begins the next one.
    async fn bury(&mut self, slot: usize) -> anyhow::Result<()> {
        let id = self.lives[slot].id.clone();
        match self.client.container(&id).await {
            Ok(container) => self.client.remove_container(&container).await?,
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
        let snapshot = RemoveSnapshotRequest { snapshotter: client::DEFAULT_SNAPSHOTTER.into(), key: id };
        match self.client.snapshots().remove(snapshot).await {
            Err(error) if error.code() != tonic::Code::NotFound => return Err(error.into()),
            _ => {}
        }
        self.fresh();
        let over = self.lives.swap_remove(slot);
        self.over.push(over);
        Ok(())
    }

    async fn relaunch(&mut self) -> anyhow::Result<()> {
        self.daemon.launch()?;
        self.client = connect(&self.daemon.address()).await?;
        Ok(())
    }

    /// Ends all lives, and looks whether every exit was told and nothing is left.
    async fn finish(&mut self, before: &Census) -> anyhow::Result<()> {
        for slot in 0..SLOTS {
            loop {
                let action = match self.lives[slot].state {
                    State::None => break,
                    State::Created | State::Running => Action::Signal(KILL, 137),
                    State::Paused => Action::Resume,
                    State::Stopped => Action::Delete,
                };
                self.act(slot, action).await?;
            }
        }
        let end = Instant::now() + PATIENCE;
        while let Err(error) = self.exits_are_told() {
            ensure!(Instant::now() < end, "{error:#}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        harness::eventually("nothing is left", || {
            let mut left = self.census()?.left_since(before);
            for entry in std::fs::read_dir(format!("/run/containerd/runc/{NAMESPACE}")).into_iter().flatten().flatten()
            {
                left.push_str(&format!("state {}\n", entry.path().display()));
            }
            ensure!(left.is_empty(), "{left}");
            Ok(())
        })
    }

    fn exits_are_told(&self) -> anyhow::Result<()> {
        let told = self.told.lock().expect("nobody panicked");
        for life in self.over.iter().filter(|life| !life.exits.is_empty()) {
            let all = told.get(&life.id).with_context(|| format!("nobody was told of the end of {life:?}"))?;
            // A kill between the telling and its record tells it twice; never differently.
            let answers = self.answered.get(&life.id).into_iter().flatten();
            let different: BTreeSet<&u32> = all.iter().chain(answers).collect();
            ensure!(
                different.len() == 1,
                "told were {all:?}, answers were {:?}: {life:?}",
                self.answered.get(&life.id)
            );
            ensure!(different.iter().all(|exit| life.exits.contains(exit)), "told was {all:?}: {life:?}");
            ensure!(all.len() <= 3, "told again and again: {all:?}, {life:?}");
        }
        Ok(())
    }
}

/// Does it, and gives the exit that an answer spoke of.
async fn perform(client: &Client, life: &Life, action: Action) -> Result<Option<u32>, ClientError> {
    let process = client.process(&life.id, "");
    match action {
        Action::Create => {
            let image = client.resolve(&client.image(BUSYBOX_NAME).await?).await?;
            let args = ["sh", "-c", PROGRAM].map(str::to_owned).to_vec();
            let new = NewContainer {
                id: &life.id,
                image: &image,
                snapshotter: client::DEFAULT_SNAPSHOTTER,
                runtime: client::DEFAULT_RUNTIME,
                runtime_options: None,
                user: None,
                wanted: &Wanted { args, ..Default::default() },
                labels: BTreeMap::new(),
            };
            let container = client.create_container(new).await?;
            client.create_task(&container, Stdio::default()).await?;
        }
        Action::Start => _ = process.start().await?,
        Action::Exec => {
            // The state is asked first: the trap of the program is set a moment after the start is answered.
            let container = client.container(&life.id).await?;
            let spec = serde_json::from_slice(&container.spec.unwrap_or_default().value).unwrap_or_default();
            let wanted = Wanted { args: ["sh", "-c", "exit 5"].map(str::to_owned).to_vec(), ..Default::default() };
            let process = client::spec::exec(&spec, &wanted, None)?;
            let any = Any { type_url: PROCESS_URL.into(), value: serde_json::to_vec(&process).unwrap_or_default() };
            let name = format!("e{}-{}", life.execs, life.done.len());
            let process = client.add_process(&life.id, &name, any, Stdio::default()).await?;
            process.start().await?;
            let exit = process.wait().await?;
            assert_eq!(exit.status, 5, "an exec in {life:?}");
            process.delete().await?;
        }
        Action::Pause | Action::Resume => {
            use proto::services::tasks::v1::{PauseTaskRequest, ResumeTaskRequest};
            let container_id = life.id.clone();
            let mut tasks = client.tasks();
            match action {
                Action::Pause => _ = tasks.pause(PauseTaskRequest { container_id }).await?,
                _ => _ = tasks.resume(ResumeTaskRequest { container_id }).await?,
            }
        }
        Action::Signal(signal, _) => return signalled(&process, signal).await.map(Some),
        Action::Delete => return Ok(Some(process.delete().await?.status)),
        Action::KillShim => {}
    }
    Ok(None)
}

/// Sends a signal until the process has ended: a program hears one only once it has its trap.
async fn signalled(process: &Process, signal: u32) -> Result<u32, ClientError> {
    let ended = process.wait();
    tokio::pin!(ended);
    loop {
        match process.kill(signal, false).await {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
        tokio::select! {
            exit = &mut ended => return Ok(exit?.status),
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
    }
}

async fn state_of(client: &Client, id: &str) -> anyhow::Result<(State, u32)> {
    let process = match client.process(id, "").state().await {
        Err(error) if error.is_not_found() => return Ok((State::None, 0)),
        process => process?,
    };
    let state = match process.status() {
        Status::Created => State::Created,
        Status::Running => State::Running,
        Status::Paused => State::Paused,
        Status::Stopped => State::Stopped,
        other => bail!("{id} is {other:?}"),
    };
    Ok((state, process.exit_status))
}

async fn connect(address: &Path) -> anyhow::Result<Client> {
    Ok(Client::connect(address, NAMESPACE.parse()?).await?)
}

/// Listens as dockerd does: again and again.
async fn listen(address: std::path::PathBuf, told: Told) {
    loop {
        let hear = async {
            let client = connect(&address).await?;
            let filters = vec![format!("namespace=={NAMESPACE},topic==\"/tasks/exit\"")];
            let mut events = client.events().subscribe(SubscribeRequest { filters }).await?.into_inner();
            while let Some(event) = events.message().await? {
                let Some(any) = &event.event else { continue };
                if let Some(exit) = proto::any::unpack::<TaskExit>(any)?.filter(|exit| exit.id == exit.container_id) {
                    let mut told = told.lock().expect("nobody panicked");
                    told.entry(exit.container_id).or_default().push(exit.exit_status);
                }
            }
            anyhow::Ok(())
        };
        let _ = hear.await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
