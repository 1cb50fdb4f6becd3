//! Events of the CRI: what happened to pods and containers, for clients of GetContainerEvents.
//!
//! While nobody listens, events of the last minutes are kept, so that a client that lost its connection and comes back hears what it
//! missed. A client that reads too slowly is not fed silently with gaps: its stream ends with an error that says so, and it
//! lists, as it does after any lost connection.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt, stream};
use proto::cri as wire;
use tokio::sync::broadcast::{self, error::RecvError};

use super::record::now;
use super::{Cri, CriError};
use crate::api::Failure;

/// Events that a client may be behind.
const AHEAD: usize = 1024;
/// Events that are kept while nobody listens.
const KEPT: usize = 4096;
/// How long they are kept.
const KEPT_FOR: Duration = Duration::from_secs(5 * 60);

/// Tells clients what happened.
#[derive(Debug)]
pub struct Feed {
    clients: broadcast::Sender<wire::ContainerEventResponse>,
    /// What happened while nobody listened.
    missed: Mutex<VecDeque<(Instant, wire::ContainerEventResponse)>>,
}

impl Default for Feed {
    fn default() -> Self {
        Self { clients: broadcast::Sender::new(AHEAD), missed: Mutex::default() }
    }
}

impl Feed {
    /// Tells all clients, or keeps it for the next one.
    fn tell(&self, event: wire::ContainerEventResponse) {
        // Held over both, so that a client that comes now hears it once: here, or there.
        let mut missed = self.missed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(broadcast::error::SendError(event)) = self.clients.send(event) {
            missed.push_back((Instant::now(), event));
            while missed.len() > KEPT || missed.front().is_some_and(|(at, _)| at.elapsed() > KEPT_FOR) {
                missed.pop_front();
            }
        }
    }

    /// What was missed, and then what happens.
    fn listen(&self) -> impl Stream<Item = Result<wire::ContainerEventResponse, Failure>> + Send + use<> {
        let mut missed = self.missed.lock().unwrap_or_else(PoisonError::into_inner);
        let events = self.clients.subscribe();
        let before: Vec<_> =
            missed.drain(..).filter(|(at, _)| at.elapsed() <= KEPT_FOR).map(|(_, event)| Ok(event)).collect();
        let after = stream::unfold(Some(events), async |events| {
            let mut events = events?;
            match events.recv().await {
                Ok(event) => Some((Ok(event), Some(events))),
                Err(RecvError::Closed) => None,
                Err(RecvError::Lagged(count)) => {
                    let why =
                        format!("{count} events were not read in time and are lost: list pods and containers again");
                    Some((Err(CriError::Exhausted(why).into()), None))
                }
            }
        });
        stream::iter(before).chain(after)
    }
}

impl Cri {
    pub(super) fn get_container_events(
        &self,
        _request: wire::GetEventsRequest,
    ) -> Result<impl Stream<Item = Result<wire::ContainerEventResponse, Failure>> + Send + use<>, Failure> {
        Ok(self.inner.events.listen().take_until(self.inner.stop.clone().cancelled_owned()))
    }

    /// Something happened to a container, or to a pod (then `id` is the pod's). Called after it is in the index, for deletions before
    /// it is forgotten. Never waits.
    pub(super) fn happened(&self, what: wire::ContainerEventType, id: &str, pod: &str) {
        let status = self.inner.index.known_pod(pod).map(|pod| self.status_of_pod(&pod));
        let containers = self.inner.index.containers_of(pod);
        self.inner.events.tell(wire::ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: what.into(),
            created_at: now(),
            pod_sandbox_status: status,
            containers_statuses: containers.iter().map(|container| self.status_of_container(container)).collect(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: &str) -> wire::ContainerEventResponse {
        wire::ContainerEventResponse { container_id: id.to_owned(), ..Default::default() }
    }

    async fn next(events: &mut (impl Stream<Item = Result<wire::ContainerEventResponse, Failure>> + Unpin)) -> String {
        events.next().await.unwrap().unwrap().container_id
    }

    #[tokio::test]
    async fn a_client_that_comes_back_hears_what_it_missed_once() {
        let feed = Feed::default();
        feed.tell(event("1"));
        let mut first = Box::pin(feed.listen());
        feed.tell(event("2"));
        assert_eq!((next(&mut first).await, next(&mut first).await), ("1".into(), "2".into()));
        let mut second = Box::pin(feed.listen());
        drop(first);
        feed.tell(event("3"));
        assert_eq!(next(&mut second).await, "3");
        drop(second);
        for number in 0..KEPT + 10 {
            feed.tell(event(&number.to_string()));
        }
        assert_eq!(next(&mut Box::pin(feed.listen())).await, "10");
    }

    #[tokio::test]
    async fn a_slow_client_is_told() {
        let feed = Feed::default();
        let mut slow = Box::pin(feed.listen());
        for number in 0..AHEAD + 1 {
            feed.tell(event(&number.to_string()));
        }
        let failure = slow.next().await.unwrap().unwrap_err();
        assert!(failure.message().contains("list pods"), "{}", failure.message());
        assert!(slow.next().await.is_none());
    }
}
