//! Sandboxes that are a shim, and the tasks in them.

use proto::events::{SandboxCreate, SandboxExit};
use proto::services::tasks::v1 as api;

use super::fake::{FakeShim, PID, commands, install};
use super::*;
use crate::tasks::CreateSandbox;

/// The `start` of a shim whose task service can be shared.
const NEW_START: &str = r#"printf '{"version":3,"address":"unix://%s","protocol":"ttrpc"}' "$SOCKET""#;

struct Scene {
    folder: tempfile::TempDir,
    store: Store,
    shim: FakeShim,
    request: CreateSandbox,
}

/// The sandbox `pod`, whose shim is a fake that runs already, and a container `c1` that names it.
fn scene() -> Scene {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let runtime = install(folder.path(), NEW_START).to_str().unwrap().to_owned();
    record_in(&store, "c1", &runtime, b"{}", "pod");
    let shim = FakeShim::start(folder.path(), "pod");
    let request = CreateSandbox { runtime, ..Default::default() };
    Scene { folder, store, shim, request }
}

impl Daemon {
    /// The topic of the next event, and the sandbox and the status in it.
    async fn sandbox_event(&mut self) -> (String, String, u32) {
        let event = tokio::time::timeout(LONG, self.events.next()).await.expect("an event comes").unwrap();
        let any = event.event.as_ref().unwrap();
        match proto::any::unpack::<SandboxExit>(any).unwrap() {
            Some(exit) => (event.topic.clone(), exit.sandbox_id, exit.exit_status),
            None => {
                let create = proto::any::unpack::<SandboxCreate>(any).unwrap();
                (event.topic.clone(), create.map(|create| create.sandbox_id).unwrap_or_default(), 0)
            }
        }
    }
}

#[tokio::test]
async fn a_container_shares_the_shim_of_its_sandbox_and_does_not_end_it() {
    let Scene { folder, store, shim, request } = scene();
    let mut daemon = Daemon::start(settings(folder.path()), &store);
    let sandboxes = daemon.tasks.sandboxes();
    sandboxes.create(namespace(), "pod", request.clone()).await.unwrap();
    assert_eq!(daemon.sandbox_event().await, ("/sandboxes/create".into(), "pod".into(), 0));
    let again = sandboxes.create(namespace(), "pod", request).await.unwrap_err();
    assert_eq!(again.kind(), Kind::AlreadyExists);
    let (_, address) = sandboxes.start(&namespace(), "pod").await.unwrap();
    assert_eq!((address.version, address.address.ends_with("pod.sock")), (3, true), "{address:?}");

    assert_eq!(daemon.create("c1").await.unwrap(), PID);
    assert_eq!(commands(folder.path(), "start"), 1, "one shim for both");
    let bundle = folder.path().join("state/io.containerd.runtime.v2.task/ns/c1");
    assert_eq!(std::fs::read(bundle.join("sandbox")).unwrap(), b"pod");
    shim.set(|now| now.exit = Some(3));
    daemon.tasks.delete(namespace(), "c1").await.unwrap();
    assert_clean(folder.path());
    assert_eq!((shim.was_called("/Shutdown"), commands(folder.path(), "delete")), (0, 0), "the shim lives on");
    assert!(sandboxes.status(&namespace(), "pod", false).await.is_ok());

    sandboxes.stop(&namespace(), "pod", 1).await.unwrap();
    sandboxes.shutdown(&namespace(), "pod").await.unwrap();
    assert_eq!((shim.was_called("StopSandbox"), shim.was_called("ShutdownSandbox")), (1, 1));
    let left = folder.path().join("state/io.containerd.sandbox.controller.v1.shim/ns/pod");
    assert!(!left.exists());
    assert_eq!(sandboxes.status(&namespace(), "pod", false).await.unwrap_err().kind(), Kind::NotFound);
    // What is not there is stopped and ended.
    sandboxes.stop(&namespace(), "pod", 1).await.unwrap();
    sandboxes.shutdown(&namespace(), "pod").await.unwrap();
    daemon.end().await;
}

#[tokio::test]
async fn a_sandbox_that_cannot_be_made_leaves_nothing() {
    let Scene { folder, store, shim, request } = scene();
    let daemon = Daemon::start(settings(folder.path()), &store);
    shim.set(|now| {
        now.fails_in.insert("CreateSandbox", (Kind::Unknown, "no".into()));
    });
    let sandboxes = daemon.tasks.sandboxes();
    let error = sandboxes.create(namespace(), "pod", request).await.unwrap_err();
    assert_eq!(error.wire_message(), "no");
    assert_eq!((shim.was_called("/Shutdown"), commands(folder.path(), "delete")), (1, 1));
    assert!(!folder.path().join("state/io.containerd.sandbox.controller.v1.shim/ns/pod").exists());
    daemon.end().await;
}

#[tokio::test]
async fn a_restarted_daemon_finds_the_sandbox_and_its_tasks() {
    let Scene { folder, store, shim, request } = scene();
    let daemon = Daemon::start(settings(folder.path()), &store);
    daemon.tasks.sandboxes().create(namespace(), "pod", request).await.unwrap();
    daemon.create("c1").await.unwrap();
    daemon.end().await;

    let mut daemon = Daemon::start(settings(folder.path()), &store);
    let recovery = daemon.tasks.recover().await;
    assert_eq!((recovery.adopted, recovery.ended, recovery.removed), (1, 0, 0));
    let sandboxes = daemon.tasks.sandboxes();
    assert!(sandboxes.status(&namespace(), "pod", false).await.is_ok());
    let request = api::StartRequest { container_id: "c1".into(), exec_id: String::new() };
    assert_eq!(daemon.tasks.start(namespace(), request).await.unwrap(), PID);
    // Its death is the death of all.
    shim.die();
    let mut topics = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let event = tokio::time::timeout(LONG, daemon.events.next()).await.expect("an event comes").unwrap();
        topics.insert(event.topic.clone());
    }
    let wanted = ["/sandboxes/exit", "/tasks/delete", "/tasks/exit"].map(str::to_owned);
    assert_eq!(topics, std::collections::BTreeSet::from(wanted));
    assert_eq!(sandboxes.status(&namespace(), "pod", false).await.unwrap_err().kind(), Kind::NotFound);
    daemon.end().await;
    assert_clean(folder.path());
}

#[tokio::test]
async fn a_sandbox_of_another_kind_does_not_change_how_a_task_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let runtime = install(folder.path(), NEW_START);
    record_in(&store, "c1", runtime.to_str().unwrap(), b"{}", "a-pod-of-kubernetes");
    let _shim = FakeShim::start(folder.path(), "c1");
    let daemon = Daemon::start(settings(folder.path()), &store);
    daemon.create("c1").await.unwrap();
    assert_eq!(commands(folder.path(), "start"), 1);
    daemon.end().await;
}
