//! `gantry.v1.Events`: the journal.

use futures_util::{Stream, stream};
use model::filter::Filters;
use proto::gantry::v1 as wire;
use proto::gantry::v1::subscribe_request::Start as WireStart;
use proto::gantry::v1::{StateRequest, StateResponse, SubscribeRequest, SubscribeResponse, events_server};
use tonic::{Request, Response, Status};

use super::{Failure, Reply, call, unscoped};
use crate::journal::{Follower, Gap, Item, Journal, JournalError, Start, What};

/// The service.
#[derive(Debug, Clone)]
pub struct Service {
    journal: Option<Journal>,
}

impl Service {
    /// Reads `journal`; none if events are not kept.
    pub fn new(journal: Option<Journal>) -> Self {
        Self { journal }
    }

    fn journal(&self) -> Result<&Journal, JournalError> {
        self.journal.as_ref().ok_or(JournalError::Off)
    }
}

#[tonic::async_trait]
impl events_server::Events for Service {
    type SubscribeStream = Reply<SubscribeResponse>;

    async fn subscribe(&self, request: Request<SubscribeRequest>) -> Result<Response<Self::SubscribeStream>, Status> {
        unscoped(request, async |SubscribeRequest { filters, start, follow }| {
            let filters = Filters::parse(&filters)?;
            let start = match start {
                None => Start::Now,
                Some(WireStart::Cursor(text)) => Start::Behind(text.parse()?),
                Some(WireStart::Since(time)) => Start::Since(proto::convert::time::from_wire(time)?),
                Some(WireStart::Oldest(_)) => Start::Oldest,
            };
            Ok(call::reply(items(self.journal()?.follow(start, filters, follow).await?)))
        })
        .await
    }

    async fn state(&self, request: Request<StateRequest>) -> Result<Response<StateResponse>, Status> {
        unscoped(request, async |StateRequest {}| {
            let journal = self.journal()?;
            let extent = journal.extent();
            let newest = journal.newest().to_string();
            Ok(StateResponse { newest, events: extent.next - extent.oldest, bytes: extent.bytes })
        })
        .await
    }
}

fn items(follower: Follower) -> impl Stream<Item = Result<SubscribeResponse, Failure>> + Send {
    stream::unfold(Some(follower), async |follower| {
        let mut follower = follower?;
        match follower.next().await {
            Ok(Some(item)) => Some((Ok(to_wire(item)), Some(follower))),
            Ok(None) => None,
            Err(error) => Some((Err(error.into()), None)),
        }
    })
}

fn to_wire(item: Item) -> SubscribeResponse {
    let cursor = item.cursor.to_string();
    let (envelope, gap) = match item.what {
        What::Event(envelope) => (Some(envelope), None),
        What::Gap(gap) => (None, Some(gap_to_wire(gap))),
        What::Others => (None, None),
    };
    SubscribeResponse { cursor, envelope, gap }
}

fn gap_to_wire(gap: Gap) -> wire::Gap {
    use wire::gap::Cause;
    let (cause, events) = match gap {
        Gap::Expired(events) => (Cause::Expired, events),
        Gap::Crash => (Cause::Crash, 0),
        Gap::Overflow(events) => (Cause::Overflow, events),
        Gap::OtherJournal => (Cause::OtherJournal, 0),
        Gap::Damaged(events) => (Cause::Damaged, events),
    };
    wire::Gap { cause: cause.into(), events }
}
