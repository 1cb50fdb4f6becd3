//! The queue of one subscriber: bounded by number and by bytes, filled without waiting, read by one task.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::prost::Message;
use proto::types::Envelope;
use tokio::sync::Notify;

use super::Ended;

/// Events that wait for one subscriber.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Notify,
    max_events: usize,
    max_bytes: usize,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<(usize, Arc<Envelope>)>,
    bytes: usize,
    ended: Option<Ended>,
    abandoned: bool,
}

impl Queue {
    pub(super) fn new(max_events: usize, max_bytes: usize) -> Self {
        Self { state: Mutex::default(), changed: Notify::new(), max_events, max_bytes }
    }

    /// Adds an event. False if the queue takes no more, now or ever again.
    pub(super) fn push(&self, envelope: &Arc<Envelope>) -> bool {
        let size = envelope.encoded_len();
        let mut state = self.lock();
        if state.ended.is_some() {
            return false;
        }
        if state.waiting.len() >= self.max_events || (state.bytes + size > self.max_bytes && !state.waiting.is_empty())
        {
            state.ended = Some(Ended::TooSlow);
        } else {
            state.bytes += size;
            state.waiting.push_back((size, Arc::clone(envelope)));
        }
        let taken = state.ended.is_none();
        drop(state);
        self.changed.notify_one();
        taken
    }

    /// Takes no more events, for this reason.
    pub(super) fn end(&self, why: Ended) {
        self.lock().ended.get_or_insert(why);
        self.changed.notify_one();
    }

    /// The oldest event, or why there is none and will be none.
    pub(super) async fn pop(&self) -> Result<Arc<Envelope>, Ended> {
        loop {
            {
                let mut state = self.lock();
                if let Some((size, envelope)) = state.waiting.pop_front() {
                    state.bytes -= size;
                    return Ok(envelope);
                }
                if let Some(why) = state.ended {
                    return Err(why);
                }
            }
            // A push between the look above and this wait leaves a permit, so it is not missed.
            self.changed.notified().await;
        }
    }

    /// The oldest event, if there is one.
    pub(super) fn try_pop(&self) -> Option<Arc<Envelope>> {
        let mut state = self.lock();
        let (size, envelope) = state.waiting.pop_front()?;
        state.bytes -= size;
        Some(envelope)
    }

    /// Nobody reads any more.
    pub(super) fn abandon(&self) {
        let mut state = self.lock();
        state.abandoned = true;
        state.waiting = VecDeque::new();
        state.bytes = 0;
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.lock().abandoned
    }

    pub(super) fn len(&self) -> usize {
        self.lock().waiting.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(topic: &str) -> Arc<Envelope> {
        Arc::new(Envelope { topic: topic.into(), ..Default::default() })
    }

    #[tokio::test]
    async fn a_full_queue_gives_what_it_has_and_then_says_so() {
        let queue = Queue::new(2, 1 << 20);
        assert_eq!(["/a", "/b", "/c", "/d"].map(|topic| queue.push(&event(topic))), [true, true, false, false]);
        assert_eq!(queue.pop().await.unwrap().topic, "/a");
        assert_eq!(queue.pop().await.unwrap().topic, "/b");
        assert_eq!(queue.pop().await, Err(Ended::TooSlow));
        assert_eq!(queue.pop().await, Err(Ended::TooSlow));
    }

    #[tokio::test]
    async fn bytes_are_bounded_too_but_one_event_always_fits() {
        let queue = Queue::new(100, 10);
        assert!(queue.push(&event("/more-than-ten-bytes")));
        assert!(!queue.push(&event("/b")));
        assert_eq!(queue.pop().await.unwrap().topic, "/more-than-ten-bytes");
        assert_eq!(queue.pop().await, Err(Ended::TooSlow));
    }

    #[tokio::test]
    async fn a_reader_that_waits_is_woken() {
        let queue = Arc::new(Queue::new(2, 1 << 20));
        let reader = Arc::clone(&queue);
        let (got, ()) = tokio::join!(async move { reader.pop().await.unwrap().topic.clone() }, async {
            tokio::task::yield_now().await;
            queue.push(&event("/late"));
        });
        assert_eq!(got, "/late");
    }
}
