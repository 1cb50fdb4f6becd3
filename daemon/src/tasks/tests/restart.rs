//! What a daemon finds that comes after another.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use proto::process::Status;
use tempfile::TempDir;

use super::super::Recovery;
use super::fake::{FakeShim, GOOD_START, PID, commands, install};
use super::loss::exit_event;
use super::*;
use crate::ttrpc::events::Sink;

struct Rig {
    folder: TempDir,
    store: Store,
    binary: PathBuf,
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let binary = install(folder.path(), GOOD_START);
        Self { folder, store, binary }
    }

    fn daemon(&self) -> Daemon {
        Daemon::start(settings(self.folder.path()), &self.store)
    }

    /// A daemon makes a task and ends.
    async fn task(&self, id: &str) -> FakeShim {
        record(&self.store, id, self.binary.to_str().unwrap(), b"{}");
        let shim = FakeShim::start(self.folder.path(), id);
        let daemon = self.daemon();
        daemon.create(id).await.unwrap();
        daemon.end().await;
        assert!(!shim.down.is_cancelled(), "shims stay");
        shim
    }

    fn bundle(&self, id: &str) -> PathBuf {
        self.folder.path().join("state/io.containerd.runtime.v2.task/ns").join(id)
    }
}

#[tokio::test]
async fn a_running_task_is_found_again() {
    let rig = Rig::new();
    let _shim = rig.task("c1").await;
    let mut daemon = rig.daemon();
    assert_eq!(daemon.tasks.recover().await, Recovery { adopted: 1, ..Default::default() });
    let processes = daemon.tasks.list(&namespace()).await;
    assert_eq!((processes[0].pid, processes[0].status()), (PID, Status::Running));
    daemon.no_event().await;
    daemon.tasks.delete(namespace(), "c1").await.unwrap();
    assert_clean(rig.folder.path());
    daemon.end().await;
}

#[tokio::test]
async fn an_exit_meanwhile_is_told_once_whoever_tells_it() {
    let rig = Rig::new();
    let shim = rig.task("c1").await;
    shim.set(|now| now.exit = Some(42));
    let mut daemon = rig.daemon();
    assert_eq!(daemon.tasks.recover().await.adopted, 1);
    assert_eq!(daemon.event().await, ("/tasks/exit".into(), "c1".into(), 42));
    // The shim had kept it, too.
    daemon.tasks.take(exit_event("c1", PID, 42)).await.unwrap();
    daemon.no_event().await;
    daemon.end().await;
    // And the daemon after that knows that it was told.
    let mut daemon = rig.daemon();
    assert_eq!(daemon.tasks.recover().await.adopted, 1);
    daemon.no_event().await;
    assert_eq!(daemon.tasks.delete(namespace(), "c1").await.unwrap().exit_status, 42);
    daemon.end().await;
}

#[tokio::test]
async fn an_exit_that_nobody_could_hear_is_told_at_the_next_start() {
    let rig = Rig::new();
    let shim = rig.task("c1").await;
    shim.set(|now| now.exit = Some(42));
    let deaf = Daemon::start_unheard(settings(rig.folder.path()), &rig.store);
    deaf.tasks.recover().await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    deaf.end().await;
    let mut daemon = rig.daemon();
    daemon.tasks.recover().await;
    assert_eq!(daemon.event().await, ("/tasks/exit".into(), "c1".into(), 42));
    daemon.end().await;
}

#[tokio::test]
async fn a_dead_shim_is_noticed_and_cleaned_up() {
    let rig = Rig::new();
    let shim = rig.task("c1").await;
    shim.die();
    let mut daemon = rig.daemon();
    assert_eq!(daemon.tasks.recover().await, Recovery { ended: 1, ..Default::default() });
    assert_eq!(daemon.event().await, ("/tasks/exit".into(), "c1".into(), 137));
    assert_eq!(daemon.event().await, ("/tasks/delete".into(), "c1".into(), 137));
    assert!(daemon.tasks.live().is_empty());
    assert_eq!(commands(rig.folder.path(), "delete"), 1);
    assert_clean(rig.folder.path());
    assert!(!rig.folder.path().join("c1.sock").exists(), "nor its socket is left");
    daemon.end().await;
}

#[tokio::test]
async fn what_the_shim_wrote_down_says_how_it_ended() {
    let rig = Rig::new();
    let shim = rig.task("c1").await;
    shim.die();
    let journal = model::journal::Journal {
        version: model::journal::VERSION,
        namespace: "ns".into(),
        id: "c1".into(),
        pid: 4711,
        started: 1,
        exit: Some(model::task::Exit { status: 17, at: SystemTime::now() }),
        published: true,
    };
    fs::write(rig.bundle("c1").join(model::journal::FILE_NAME), serde_json::to_vec(&journal).unwrap()).unwrap();
    let mut daemon = rig.daemon();
    daemon.tasks.recover().await;
    // That the last daemon took it does not mean that a client heard it.
    assert_eq!(daemon.event().await, ("/tasks/exit".into(), "c1".into(), 17));
    assert_eq!(daemon.event().await, ("/tasks/delete".into(), "c1".into(), 17));
    daemon.end().await;
}

#[tokio::test]
async fn a_wedged_shim_is_reported_and_holds_up_nobody() {
    let rig = Rig::new();
    let wedged = rig.task("wedged").await;
    let _good = rig.task("good").await;
    wedged.set(|now| now.hangs_in = vec!["State"]);
    let mut daemon = rig.daemon();
    let begun = Instant::now();
    let recovery = daemon.tasks.recover().await;
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    assert_eq!(recovery, Recovery { adopted: 1, wedged: vec!["ns/wedged".into()], ..Default::default() });
    let states: Vec<_> =
        daemon.tasks.list(&namespace()).await.into_iter().map(|p| (p.id.clone(), p.status())).collect();
    assert_eq!(states, [("good".to_owned(), Status::Running), ("wedged".to_owned(), Status::Unknown)]);
    wedged.die();
    assert_eq!(daemon.event().await.0, "/tasks/exit");
    daemon.end().await;
}

#[tokio::test]
async fn what_is_no_task_is_removed_without_a_word() {
    let rig = Rig::new();
    let empty = rig.task("empty").await;
    empty.set(|now| now.is_empty = true);
    let _unreached = rig.task("unreached").await;
    fs::remove_file(rig.bundle("unreached").join("bootstrap.json")).unwrap();
    fs::create_dir(rig.bundle(".half")).unwrap();
    let mut daemon = rig.daemon();
    assert_eq!(daemon.tasks.recover().await, Recovery { removed: 2, ..Default::default() });
    daemon.no_event().await;
    assert_eq!(empty.was_called("Shutdown"), 1);
    assert_clean(rig.folder.path());
    daemon.end().await;
}

#[tokio::test]
async fn a_task_without_a_container_is_killed_and_told() {
    let rig = Rig::new();
    let shim = rig.task("c1").await;
    rig.store.write(|tx| tx.delete(&tables::CONTAINERS, &key(&["ns", "c1"])?)).unwrap();
    let mut daemon = rig.daemon();
    assert_eq!(daemon.tasks.recover().await, Recovery { ended: 1, ..Default::default() });
    assert_eq!(daemon.event().await, ("/tasks/exit".into(), "c1".into(), 137));
    assert_eq!((shim.was_called("Kill"), shim.was_called("Shutdown")), (1, 1));
    assert_clean(rig.folder.path());
    daemon.end().await;
}

#[tokio::test]
async fn many_are_found_at_once() {
    let rig = Rig::new();
    let mut shims = Vec::new();
    for number in 0..40 {
        let id = format!("c{number}");
        shims.push(rig.task(&id).await);
        if number % 4 == 0 {
            shims[number].set(|now| now.hangs_in = vec!["State"]);
        }
    }
    let daemon = rig.daemon();
    let begun = Instant::now();
    let recovery = daemon.tasks.recover().await;
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert_eq!((recovery.adopted, recovery.wedged.len()), (30, 10));
    daemon.end().await;
}
