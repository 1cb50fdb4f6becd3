//! Events of the CRI: what happened to pods and containers, for clients of GetContainerEvents.

use futures_util::{Stream, stream};
use proto::cri as wire;

use super::{Cri, CriError};
use crate::api::Failure;

/// Tells clients what happened.
#[derive(Debug, Default)]
pub struct Feed {}

impl Cri {
    pub(super) fn get_container_events(
        &self,
        _request: wire::GetEventsRequest,
    ) -> Result<impl Stream<Item = Result<wire::ContainerEventResponse, Failure>> + Send + use<>, Failure> {
        let refused: Failure = CriError::Unimplemented("GetContainerEvents is not there yet".into()).into();
        let nothing: stream::Empty<Result<wire::ContainerEventResponse, Failure>> = stream::empty();
        Err::<_, Failure>(refused).map(|()| nothing)
    }

    /// Something happened to a container, or to a pod (then `id` is the pod's). Called after it is in the index, for deletions before
    /// it is forgotten. Never waits.
    pub(super) fn happened(&self, _what: wire::ContainerEventType, _id: &str, _pod: &str) {}
}
