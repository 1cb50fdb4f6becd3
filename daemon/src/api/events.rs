//! The events service: publish, forward, subscribe.

use std::time::SystemTime;

use futures_util::{Stream, stream};
use model::filter::Filters;
use proto::services::events::v1::{ForwardRequest, PublishRequest, SubscribeRequest, events_server};
use proto::types::Envelope;
use tonic::{Request, Response, Status};

use super::{Failure, Reply, call, unary, unscoped};
use crate::events::{Bus, EventError, Subscription, check_topic};

/// The service.
#[derive(Debug, Clone)]
pub struct Events {
    bus: Bus,
}

impl Events {
    /// Publishes to and listens on `bus`.
    pub fn new(bus: Bus) -> Self {
        Self { bus }
    }
}

#[tonic::async_trait]
impl events_server::Events for Events {
    async fn publish(&self, request: Request<PublishRequest>) -> Result<Response<()>, Status> {
        unary(request, async |scope, PublishRequest { topic, event }| {
            check_topic(&topic)?;
            let event = event.ok_or(EventError::Nothing)?;
            self.bus.publish_any(&scope.namespace, &topic, event, SystemTime::now());
            Ok(())
        })
        .await
    }

    async fn forward(&self, request: Request<ForwardRequest>) -> Result<Response<()>, Status> {
        unscoped(request, async |ForwardRequest { envelope }| {
            Ok(self.bus.forward(envelope.ok_or(EventError::Nothing)?)?)
        })
        .await
    }

    type SubscribeStream = Reply<Envelope>;

    async fn subscribe(&self, request: Request<SubscribeRequest>) -> Result<Response<Self::SubscribeStream>, Status> {
        let filters = Filters::parse(&request.get_ref().filters).map_err(Failure::from)?;
        Ok(Response::new(call::reply(envelopes(self.bus.subscribe(filters)))))
    }
}

/// What a subscription brings, and at last why it brings no more.
fn envelopes(subscription: Subscription) -> impl Stream<Item = Result<Envelope, Failure>> + Send {
    stream::unfold(Some(subscription), async |subscription| {
        let mut subscription = subscription?;
        match subscription.next().await {
            Ok(envelope) => Some((Ok(Envelope::clone(&envelope)), Some(subscription))),
            Err(ended) => Some((Err(ended.into()), None)),
        }
    })
}
