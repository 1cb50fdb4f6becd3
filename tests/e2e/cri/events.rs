//! Events of pods and containers, for a client that stays, and for one that comes back.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use proto::cri as wire;
use tonic::Streaming;
use wire::ContainerEventType::{
    ContainerCreatedEvent, ContainerDeletedEvent, ContainerStartedEvent, ContainerStoppedEvent,
};

use super::rig::{Rig, script_config};

/// How long an event may take.
const PATIENCE: Duration = Duration::from_secs(30);

type Events = Streaming<wire::ContainerEventResponse>;

fn listen(rig: &Rig) -> anyhow::Result<Events> {
    Ok(rig.ask(rig.cri().get_container_events(wire::GetEventsRequest {}))?)
}

fn next(rig: &Rig, events: &mut Events) -> anyhow::Result<wire::ContainerEventResponse> {
    let event =
        rig.wait(async { tokio::time::timeout(PATIENCE, events.message()).await }).context("no event came")??;
    event.context("the stream ended")
}

#[test]
fn a_client_hears_of_everything_in_order() -> anyhow::Result<()> {
    let rig = Rig::start()?;
    let mut events = listen(&rig)?;
    let pod = rig.pod("events")?;
    let id = rig.run(&pod, script_config("c", "exit 4"))?;
    rig.ended(&id)?;
    rig.remove(&id)?;
    rig.remove_pods()?;
    let expected = [
        (&pod.id, ContainerCreatedEvent),
        (&pod.id, ContainerStartedEvent),
        (&id, ContainerCreatedEvent),
        (&id, ContainerStartedEvent),
        (&id, ContainerStoppedEvent),
        (&id, ContainerDeletedEvent),
        (&pod.id, ContainerStoppedEvent),
        (&pod.id, ContainerDeletedEvent),
    ];
    for (of, kind) in expected {
        let event = next(&rig, &mut events)?;
        ensure!((&event.container_id, event.container_event_type()) == (of, kind), "expected {kind:?}: {event:?}");
        ensure!(event.created_at > 0, "{event:?}");
        let status = event.pod_sandbox_status.as_ref().context("the pod's status comes with it")?;
        ensure!(status.id == pod.id, "{event:?}");
        if (of, kind) == (&id, ContainerStoppedEvent) {
            let status = event.containers_statuses.iter().find(|status| status.id == id).context("its status")?;
            ensure!(status.exit_code == 4 && status.finished_at > 0, "{status:?}");
        }
    }
    Ok(())
}

#[test]
fn a_client_that_comes_back_hears_what_it_missed() -> anyhow::Result<()> {
    let rig = Rig::start()?;
    drop(listen(&rig)?);
    // What is told while the loss of the client is not noticed yet goes to nobody: it would list after it came back.
    rig.wait(async { tokio::time::sleep(Duration::from_millis(300)).await });
    let pod = rig.pod("missed")?;
    let mut events = listen(&rig)?;
    for kind in [ContainerCreatedEvent, ContainerStartedEvent] {
        let event = next(&rig, &mut events)?;
        ensure!((&event.container_id, event.container_event_type()) == (&pod.id, kind), "{event:?}");
    }
    Ok(())
}
