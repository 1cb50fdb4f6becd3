//! Making, asking and deleting tasks.

use std::fs;
use std::time::Duration;

use proto::process::Status;
use proto::services::tasks::v1 as api;

use super::fake::{FakeShim, GOOD_START, PID, commands, install};
use super::*;

#[tokio::test]
async fn from_create_to_delete_nothing_is_left() {
    let (folder, store, shim) = one_container();
    let mut daemon = Daemon::start(settings(folder.path()), &store);

    assert_eq!(daemon.create("c1").await.unwrap(), PID);
    let bundle = folder.path().join("state/io.containerd.runtime.v2.task/ns/c1");
    assert_eq!(fs::read(bundle.join("config.json")).unwrap(), b"{}");
    let bootstrap = fs::read_to_string(bundle.join("bootstrap.json")).unwrap();
    assert!(bootstrap.contains("\"version\":2") && bootstrap.contains("c1.sock"), "{bootstrap}");
    let request = api::StartRequest { container_id: "c1".into(), exec_id: String::new() };
    assert_eq!(daemon.tasks.start(namespace(), request).await.unwrap(), PID);
    let processes = daemon.tasks.list(&namespace()).await;
    assert_eq!(processes.len(), 1);
    assert_eq!((processes[0].id.as_str(), processes[0].pid, processes[0].status()), ("c1", PID, Status::Running));
    assert_eq!(daemon.create("c1").await.unwrap_err().wire_message(), "task c1: already exists");

    shim.set(|now| now.exit = Some(3));
    let deleted = daemon.tasks.delete(namespace(), "c1").await.unwrap();
    assert_eq!((deleted.id.as_str(), deleted.pid, deleted.exit_status), ("c1", PID, 3));
    assert!(daemon.tasks.live().is_empty());
    assert_clean(folder.path());
    assert_eq!((shim.was_called("Shutdown"), commands(folder.path(), "delete")), (1, 0));
    let again = daemon.tasks.delete(namespace(), "c1").await.unwrap_err();
    assert_eq!(again.wire_message(), "task c1 not found");
    // All events of this life are the shim's to send.
    daemon.no_event().await;
    daemon.end().await;
}

#[tokio::test]
async fn what_is_missing_or_malformed_has_its_code() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    record(&store, "c1", "io.containerd.none.v1", b"{}");
    let daemon = Daemon::start(settings(folder.path()), &store);
    for (id, kind, text) in [
        ("none", Kind::NotFound, "container \"none\" in namespace \"ns\": not found"),
        ("no/id", Kind::InvalidArgument, "container id: identifier"),
        ("c1", Kind::Unknown, "failed to start shim"),
    ] {
        let error = daemon.create(id).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{id}");
        assert!(error.wire_message().starts_with(text), "{}", error.wire_message());
    }
    let error = daemon.tasks.pause(namespace(), "c1").await.unwrap_err();
    assert_eq!((error.kind(), error.wire_message().as_str()), (Kind::NotFound, "task c1 not found"));
    assert_clean(folder.path());
    daemon.end().await;
}

#[tokio::test]
async fn a_start_that_fails_says_why_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let mut settings = settings(folder.path());
    settings.timeouts.start = Duration::from_millis(500);
    for (id, start, text) in [
        ("fails", "echo this is why >&2; exit 5", "this is why"),
        ("nonsense", "echo hello", "printed no address: \"hello\""),
        ("silent", "true", "printed no address"),
        ("slow", "echo begun; sleep 20", "did not end within 500ms: begun"),
        ("nobody", GOOD_START, "cannot connect to the shim"),
        ("newer", r#"echo '{"version":4,"address":"unix:///x","protocol":"ttrpc"}'"#, "version 4"),
        ("grpc", r#"echo '{"version":3,"address":"unix:///x","protocol":"grpc"}'"#, "\"grpc\""),
    ] {
        let daemon = Daemon::start(settings.clone(), &store);
        let binary = install(folder.path(), start);
        record(&store, id, binary.to_str().unwrap(), b"{}");
        let error = daemon.create(id).await.unwrap_err();
        assert!(error.wire_message().starts_with("failed to start shim: "), "{id}: {}", error.wire_message());
        assert!(error.wire_message().contains(text), "{id}: {}", error.wire_message());
        assert_clean(folder.path());
        assert!(daemon.tasks.live().is_empty());
        daemon.end().await;
    }
}

#[tokio::test]
async fn a_create_that_fails_passes_the_text_on_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let binary = install(folder.path(), GOOD_START);
    record(&store, "c1", binary.to_str().unwrap(), b"{}");
    let daemon = Daemon::start(settings(folder.path()), &store);
    let text = "OCI runtime create failed: exec: \"nope\": executable file not found in $PATH";
    for _ in 0..2 {
        let shim = FakeShim::start(folder.path(), "c1");
        shim.set(|now| _ = now.fails_in.insert("Create", (Kind::Unknown, text.into())));
        let error = daemon.create("c1").await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unknown);
        assert_eq!(error.wire_message(), format!("failed to create shim task: {text}"));
        assert_clean(folder.path());
        assert_eq!(shim.was_called("Shutdown"), 1);
    }
    assert_eq!(commands(folder.path(), "delete"), 2);
    daemon.end().await;
}

#[tokio::test]
async fn a_shim_that_dies_in_create_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let binary = install(folder.path(), GOOD_START);
    record(&store, "c1", binary.to_str().unwrap(), b"{}");
    let mut daemon = Daemon::start(settings(folder.path()), &store);
    let shim = FakeShim::start(folder.path(), "c1");
    shim.set(|now| now.hangs_in = vec!["Create"]);
    let killer = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        shim.die();
    };
    let (created, ()) = tokio::join!(daemon.create("c1"), killer);
    let error = created.unwrap_err();
    assert!(error.wire_message().starts_with("failed to create shim task: "), "{}", error.wire_message());
    let _ = fs::remove_file(folder.path().join("c1.sock"));
    assert_clean(folder.path());
    assert_eq!(commands(folder.path(), "delete"), 1);
    daemon.no_event().await;
    daemon.end().await;
}

#[tokio::test]
async fn a_client_that_goes_away_undoes_its_create() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let binary = install(folder.path(), GOOD_START);
    record(&store, "c1", binary.to_str().unwrap(), b"{}");
    let daemon = Daemon::start(settings(folder.path()), &store);
    let shim = FakeShim::start(folder.path(), "c1");
    shim.set(|now| now.hangs_in = vec!["Create"]);
    assert!(tokio::time::timeout(Duration::from_millis(500), daemon.create("c1")).await.is_err());
    shim.die();
    let _ = fs::remove_file(folder.path().join("c1.sock"));
    // The next one waits for the undoing, and finds nothing in its way.
    let _shim = FakeShim::start(folder.path(), "c1");
    let created = async {
        loop {
            match daemon.create("c1").await {
                Err(error) if error.kind() == Kind::AlreadyExists => {
                    tokio::time::sleep(Duration::from_millis(20)).await
                }
                result => return result,
            }
        }
    };
    assert_eq!(tokio::time::timeout(LONG, created).await.unwrap().unwrap(), PID);
    daemon.end().await;
}

#[tokio::test]
async fn of_two_creates_at_once_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let binary = install(folder.path(), GOOD_START);
    record(&store, "c1", binary.to_str().unwrap(), b"{}");
    let daemon = Daemon::start(settings(folder.path()), &store);
    let _shim = FakeShim::start(folder.path(), "c1");
    let results = futures_util::future::join_all((0..8).map(|_| daemon.create("c1"))).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    for error in results.into_iter().filter_map(Result::err) {
        assert_eq!(error.kind(), Kind::AlreadyExists, "{error}");
    }
    assert_eq!(commands(folder.path(), "start"), 1);
    daemon.end().await;
}

#[tokio::test]
async fn a_shim_that_has_only_version_2_is_spoken_to_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let start = r#"printf '{"version":3,"address":"unix://%s","protocol":"ttrpc"}' "$SOCKET""#;
    let binary = install(folder.path(), start);
    record(&store, "c1", binary.to_str().unwrap(), b"{}");
    let shim = FakeShim::start(folder.path(), "c1");
    shim.set(|now| now.only_v2 = true);
    let daemon = Daemon::start(settings(folder.path()), &store);
    daemon.create("c1").await.unwrap();
    let bundle = folder.path().join("state/io.containerd.runtime.v2.task/ns/c1");
    let bootstrap = fs::read_to_string(bundle.join("bootstrap.json")).unwrap();
    assert!(bootstrap.contains("\"version\":2"), "{bootstrap}");
    assert_eq!(daemon.tasks.list(&namespace()).await.len(), 1);
    assert_eq!(shim.was_called("v3.Task/State"), 0);
    daemon.end().await;
}

#[tokio::test]
async fn a_shim_that_wants_parameters_gets_them_at_the_second_try_and_then_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    // As new shims do: without their parameters they refuse.
    let start = r#"[ "$(wc -c)" -gt 20 ] || exit 1; printf 'unix://%s' "$SOCKET""#;
    let binary = install(folder.path(), start);
    let daemon = Daemon::start(settings(folder.path()), &store);
    for (id, starts) in [("c1", 2), ("c2", 3)] {
        record(&store, id, binary.to_str().unwrap(), b"{}");
        let _shim = FakeShim::start(folder.path(), id);
        daemon.create(id).await.unwrap();
        assert_eq!(commands(folder.path(), "start"), starts, "{id}");
    }
    daemon.end().await;
}

#[tokio::test]
async fn a_hung_shim_has_an_unknown_state_and_holds_up_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let binary = install(folder.path(), GOOD_START);
    let daemon = Daemon::start(settings(folder.path()), &store);
    let mut shims = Vec::new();
    for id in ["good", "hung"] {
        record(&store, id, binary.to_str().unwrap(), b"{}");
        shims.push(FakeShim::start(folder.path(), id));
        daemon.create(id).await.unwrap();
    }
    shims[1].set(|now| now.hangs_in = vec!["State", "Stats"]);
    let begun = std::time::Instant::now();
    let states: Vec<_> =
        daemon.tasks.list(&namespace()).await.into_iter().map(|p| (p.id.clone(), p.status())).collect();
    assert_eq!(states, [("good".to_owned(), Status::Running), ("hung".to_owned(), Status::Unknown)]);
    let (ns, all) = (namespace(), everything());
    let metrics = daemon.tasks.metrics(&ns, &all);
    let get = daemon.tasks.get(namespace(), api::GetRequest { container_id: "hung".into(), exec_id: String::new() });
    let (metrics, process) = tokio::join!(metrics, get);
    assert_eq!(metrics.len(), 1);
    assert_eq!((process.as_ref().unwrap().status(), process.as_ref().unwrap().pid), (Status::Unknown, PID));
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    daemon.end().await;
}

#[tokio::test]
async fn execs_are_checked_here_and_made_there() {
    let (folder, store, shim) = one_container();
    let daemon = Daemon::start(settings(folder.path()), &store);
    daemon.create("c1").await.unwrap();
    let exec = |exec_id: &str| api::ExecProcessRequest {
        container_id: "c1".into(),
        exec_id: exec_id.into(),
        ..Default::default()
    };
    daemon.tasks.exec(namespace(), exec("e1")).await.unwrap();
    for (id, text) in [("", "exec id cannot be empty"), ("a/b", "invalid exec id a/b")] {
        let error = daemon.tasks.exec(namespace(), exec(id)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        assert!(error.wire_message().starts_with(text), "{}", error.wire_message());
    }
    assert_eq!(shim.was_called("Exec"), 1);
    shim.set(|now| {
        now.fails_in.insert("Kill", (Kind::NotFound, "process already finished: not found".into()));
    });
    let kill = api::KillRequest { container_id: "c1".into(), signal: 9, ..Default::default() };
    let error = daemon.tasks.kill(namespace(), kill).await.unwrap_err();
    assert_eq!((error.kind(), error.wire_message().as_str()), (Kind::NotFound, "process already finished: not found"));
    daemon.end().await;
}
