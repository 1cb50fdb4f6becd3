//! Events: the bus that everything which happens is told to, and that clients and parts of the daemon listen on.
//!
//! Publishing never waits. Each subscriber has a queue of its own, large but bounded ([`MAX_QUEUED`], [`MAX_QUEUED_BYTES`]); who
//! reads so slowly that it overflows gets what is queued and then [`Ended::TooSlow`], never a silent gap. There is no
//! replay: what is kept is kept by the [journal](crate::journal). Which fields a filter can see is in [`mod@fields`].

pub mod fields;
mod queue;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use model::Namespace;
use model::error::{Classify, Kind};
use model::filter::Filters;
use model::id::IdError;
use proto::convert::time::TimeError;
use proto::prost::Name;
use proto::prost_types::Any;
use proto::types::Envelope;

use fields::EventFields;
use queue::Queue;

/// Most events that wait for one subscriber. Everybody else's memory is shared with it, so it is generous: a burst of 50
/// containers that start and end is about 400 events.
pub const MAX_QUEUED: usize = 1 << 17;

/// Most bytes of events that wait for one subscriber.
pub const MAX_QUEUED_BYTES: usize = 64 << 20;

/// The longest topic, in bytes.
pub const MAX_TOPIC_BYTES: usize = 1024;

/// Why an event was not taken.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// The namespace of a forwarded event breaks the identifier rule.
    #[error("event envelope has invalid namespace")]
    Namespace(#[source] IdError),
    /// The topic is empty, too long or does not begin with a slash.
    #[error("invalid topic {topic:?}: it must begin with '/' and have at most {MAX_TOPIC_BYTES} bytes")]
    Topic {
        /// The topic.
        topic: String,
    },
    /// A component of the topic breaks the identifier rule.
    #[error("invalid topic {topic:?}: component")]
    TopicComponent {
        /// The topic.
        topic: String,
        /// The rule.
        source: IdError,
    },
    /// A forwarded event does not say when it happened.
    #[error("timestamp must be set on forwarded event")]
    NoTime,
    /// A forwarded event says it happened at no time.
    #[error("timestamp of forwarded event")]
    Time(#[from] TimeError),
    /// A forwarded event is only an envelope.
    #[error("event must be set")]
    Nothing,
}

impl Classify for EventError {
    fn kind(&self) -> Kind {
        Kind::InvalidArgument
    }
}

/// Why a subscription has no more events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// The subscriber did not keep up, and events after the last one it got are lost to it.
    #[error(
        "subscriber too slow: more than {MAX_QUEUED} events or {MAX_QUEUED_BYTES} bytes were waiting, later events are lost"
    )]
    TooSlow,
    /// The daemon stops.
    #[error("daemon is stopping")]
    Stopping,
}

impl Classify for Ended {
    fn kind(&self) -> Kind {
        match self {
            Self::TooSlow => Kind::ResourceExhausted,
            Self::Stopping => Kind::Unavailable,
        }
    }
}

/// Hands events to whoever listens. Clones are the same bus.
#[derive(Debug, Clone, Default)]
pub struct Bus {
    subscribers: Arc<Mutex<Subscribers>>,
}

#[derive(Debug, Default)]
struct Subscribers {
    all: Vec<Subscriber>,
    closed: bool,
}

#[derive(Debug)]
struct Subscriber {
    filters: Filters,
    /// Whether it is a client, and not a part of the daemon.
    outside: bool,
    queue: Arc<Queue>,
}

/// The receiving end of a subscription; dropping it unsubscribes.
#[derive(Debug)]
pub struct Subscription {
    queue: Arc<Queue>,
}

impl Bus {
    /// A bus that nobody listens on.
    pub fn new() -> Self {
        Self::default()
    }

    /// Tells that something happened now. `topic` is one of our own constants or was checked by [`check_topic`].
    pub fn publish<M: Name>(&self, namespace: &Namespace, topic: &str, event: &M) {
        self.publish_any(namespace, topic, proto::any::pack(event), SystemTime::now());
    }

    /// Tells that something happened at `time`, in a message that may be of a type unknown here.
    pub fn publish_any(&self, namespace: &Namespace, topic: &str, event: Any, time: SystemTime) {
        self.deliver(Envelope {
            timestamp: Some(proto::convert::time::to_wire(time)),
            namespace: namespace.to_string(),
            topic: topic.to_owned(),
            event: Some(event),
        });
    }

    /// Passes on an event of somebody who filled in the envelope, a shim for one.
    ///
    /// # Errors
    /// A part of the envelope is missing or malformed; nobody heard of it then.
    pub fn forward(&self, envelope: Envelope) -> Result<(), EventError> {
        Namespace::new(envelope.namespace.as_str()).map_err(EventError::Namespace)?;
        check_topic(&envelope.topic)?;
        proto::convert::time::from_wire(envelope.timestamp.ok_or(EventError::NoTime)?)?;
        if envelope.event.is_none() {
            return Err(EventError::Nothing);
        }
        self.deliver(envelope);
        Ok(())
    }

    /// Listens from now on to the events of all namespaces that match `filters`.
    pub fn subscribe(&self, filters: Filters) -> Subscription {
        self.listen(filters, true)
    }

    /// Listens as a part of the daemon: [`Bus::load`] and [`Bus::is_awaited`] do not see it.
    pub fn subscribe_inside(&self, filters: Filters) -> Subscription {
        self.listen(filters, false)
    }

    fn listen(&self, filters: Filters, outside: bool) -> Subscription {
        let queue = Arc::new(Queue::new(MAX_QUEUED, MAX_QUEUED_BYTES));
        let mut subscribers = self.lock();
        if subscribers.closed {
            queue.end(Ended::Stopping);
        } else {
            subscribers.all.push(Subscriber { filters, outside, queue: Arc::clone(&queue) });
        }
        Subscription { queue }
    }

    /// Ends every subscription, present and future, after what is queued.
    pub fn close(&self) {
        let mut subscribers = self.lock();
        subscribers.closed = true;
        for subscriber in subscribers.all.drain(..) {
            subscriber.queue.end(Ended::Stopping);
        }
    }

    /// How many clients have subscribed and how many events wait for them.
    pub fn load(&self) -> (usize, usize) {
        let subscribers = self.lock();
        let clients = subscribers.all.iter().filter(|subscriber| subscriber.outside);
        clients.fold((0, 0), |(number, waiting), client| (number + 1, waiting + client.queue.len()))
    }

    /// Whether any client would be told of this event now.
    pub fn is_awaited(&self, envelope: &Envelope) -> bool {
        let fields = EventFields::new(envelope);
        let subscribers = self.lock();
        let mut clients = subscribers.all.iter().filter(|subscriber| subscriber.outside);
        clients.any(|client| !client.queue.is_abandoned() && client.filters.matches(&fields))
    }

    /// Queues the event for everybody concerned. The lock gives all of them the same order.
    fn deliver(&self, envelope: Envelope) {
        let envelope = Arc::new(envelope);
        let fields = EventFields::new(&envelope);
        let mut subscribers = self.lock();
        subscribers.all.retain(|subscriber| {
            if subscriber.queue.is_abandoned() {
                return false;
            }
            !subscriber.filters.matches(&fields) || subscriber.queue.push(&envelope)
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Subscribers> {
        // A panic while delivering leaves a list that is still a list.
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscription {
    /// The next event.
    ///
    /// # Errors
    /// There is none after those already given; every later call says the same.
    ///
    /// # Cancel safety
    /// No event is lost if the future is dropped.
    pub async fn next(&mut self) -> Result<Arc<Envelope>, Ended> {
        self.queue.pop().await
    }

    /// The next event, if one is waiting.
    pub fn waiting(&mut self) -> Option<Arc<Envelope>> {
        self.queue.try_pop()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.queue.abandon();
    }
}

/// Checks a topic: `/`, then identifiers joined by `/`.
///
/// # Errors
/// Says which part of the rule is broken.
pub fn check_topic(topic: &str) -> Result<(), EventError> {
    let rest = topic.strip_prefix('/').filter(|rest| !rest.is_empty() && topic.len() <= MAX_TOPIC_BYTES);
    let Some(rest) = rest else {
        return Err(EventError::Topic { topic: topic.chars().take(MAX_TOPIC_BYTES).collect() });
    };
    for component in rest.split('/') {
        model::id::check(component).map_err(|source| EventError::TopicComponent { topic: topic.to_owned(), source })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
