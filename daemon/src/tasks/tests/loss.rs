//! Shims that die.

use std::fs;
use std::time::Duration;

use proto::convert::time;
use proto::services::tasks::v1 as api;
use proto::types::Envelope;

use super::fake::{FakeShim, PID, commands};
use super::*;
use crate::ttrpc::events::Sink;

/// The exit event that a shim sends.
pub(super) fn exit_event(id: &str, pid: u32, exit_status: u32) -> Envelope {
    let event = TaskExit {
        container_id: id.into(),
        id: id.into(),
        pid,
        exit_status,
        exited_at: Some(time::to_wire(SystemTime::now())),
    };
    Envelope {
        timestamp: Some(time::to_wire(SystemTime::now())),
        namespace: "ns".into(),
        topic: "/tasks/exit".into(),
        event: Some(proto::any::pack(&event)),
    }
}

#[tokio::test]
async fn the_death_of_a_shim_ends_its_task() {
    let (folder, store, shim) = one_container();
    let mut daemon = Daemon::start(settings(folder.path()), &store);
    daemon.create("c1").await.unwrap();
    let waiting = tokio::spawn({
        let tasks = daemon.tasks.clone();
        let request = api::WaitRequest { container_id: "c1".into(), exec_id: String::new() };
        async move { tasks.wait(namespace(), request).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    shim.die();
    assert_eq!(daemon.event().await, ("/tasks/exit".into(), "c1".into(), 137));
    assert_eq!(daemon.event().await, ("/tasks/delete".into(), "c1".into(), 137));
    let waited = tokio::time::timeout(LONG, waiting).await.unwrap().unwrap().unwrap();
    assert_eq!(waited.exit_status, 137, "who waits is not left alone");
    assert_eq!(commands(folder.path(), "delete"), 1);
    // The id is free again, and everything else gone, once a new task can be made.
    let _shim = {
        let _ = fs::remove_file(folder.path().join("c1.sock"));
        FakeShim::start(folder.path(), "c1")
    };
    let error = daemon.tasks.pause(namespace(), "c1").await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    daemon.create("c1").await.unwrap();
    daemon.no_event().await;
    daemon.end().await;
}

#[tokio::test]
async fn an_exit_that_was_told_is_not_told_again() {
    let (folder, store, shim) = one_container();
    let mut daemon = Daemon::start(settings(folder.path()), &store);
    daemon.create("c1").await.unwrap();
    // One of an earlier task of that name comes late: it is passed on, and is not this task's.
    daemon.tasks.take(exit_event("c1", PID + 1, 9)).await.unwrap();
    assert_eq!(daemon.event().await, ("/tasks/exit".into(), "c1".into(), 9));
    for _ in 0..2 {
        daemon.tasks.take(exit_event("c1", PID, 5)).await.unwrap();
    }
    assert_eq!(daemon.event().await, ("/tasks/exit".into(), "c1".into(), 5));
    daemon.no_event().await;
    let bundle = folder.path().join("state/io.containerd.runtime.v2.task/ns/c1");
    assert!(fs::read_to_string(bundle.join("exit-published.json")).unwrap().contains("\"status\":5"));
    shim.die();
    assert_eq!(daemon.event().await, ("/tasks/delete".into(), "c1".into(), 5));
    daemon.no_event().await;
    daemon.end().await;
}

#[tokio::test]
async fn a_delete_that_finds_the_shim_dying_says_how_the_task_ended() {
    let (folder, store, shim) = one_container();
    let daemon = Daemon::start(settings(folder.path()), &store);
    daemon.create("c1").await.unwrap();
    shim.set(|now| now.hangs_in = vec!["Delete"]);
    let killer = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        shim.die();
    };
    let (deleted, ()) = tokio::join!(daemon.tasks.delete(namespace(), "c1"), killer);
    assert_eq!(deleted.unwrap().exit_status, 137);
    daemon.end().await;
}

#[tokio::test]
async fn a_shim_that_has_forgotten_its_task_is_ended() {
    let (folder, store, shim) = one_container();
    let daemon = Daemon::start(settings(folder.path()), &store);
    daemon.create("c1").await.unwrap();
    shim.set(|now| {
        now.fails_in.insert("Delete", (Kind::NotFound, "container not created: not found".into()));
    });
    let error = daemon.tasks.delete(namespace(), "c1").await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(daemon.tasks.live().is_empty());
    assert_clean(folder.path());
    daemon.end().await;
}

#[tokio::test]
async fn a_running_task_is_not_deleted() {
    let (folder, store, shim) = one_container();
    let daemon = Daemon::start(settings(folder.path()), &store);
    daemon.create("c1").await.unwrap();
    shim.set(|now| {
        now.fails_in.insert("Delete", (Kind::FailedPrecondition, "cannot delete a running process".into()));
    });
    let error = daemon.tasks.delete(namespace(), "c1").await.unwrap_err();
    assert_eq!(error.kind(), Kind::FailedPrecondition);
    assert_eq!(daemon.tasks.live().len(), 1);
    daemon.end().await;
}
