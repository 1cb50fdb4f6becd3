//! Port-forward over SPDY: each TCP connection is a pair of streams, one for data and one for errors, joined by a request id.

use std::collections::HashMap;
use std::time::Duration;

use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::session::Backend;
use super::spdy::{Connection, Stream};

/// The name of the protocol.
pub(super) const PROTOCOL: &str = "portforward.k8s.io";
/// How long one stream of a pair waits for the other.
const PAIRING: Duration = Duration::from_secs(30);
/// Streams that may wait for their other half.
const MAX_HALVES: usize = 256;
/// How long the text of an error may take to be written.
const REPORTING: Duration = Duration::from_secs(10);

/// What has come of a pair.
#[derive(Debug)]
struct Half {
    since: Instant,
    data: Option<Stream>,
    error: Option<Stream>,
}

/// Serves a connection until its client leaves.
pub(super) async fn serve(
    mut connection: Connection,
    pod: String,
    backend: std::sync::Arc<dyn Backend>,
    tracker: &TaskTracker,
) {
    let mut halves: HashMap<String, Half> = HashMap::new();
    // A server in the pod may hold its end open for ever: what is left ends with the client.
    let gone = CancellationToken::new();
    let _guard = gone.clone().drop_guard();
    while let Some(stream) = connection.accept().await {
        halves.retain(|_, half| half.since.elapsed() < PAIRING);
        let Some(request) = request_id(&stream) else {
            debug!("port-forward stream of no known type");
            continue;
        };
        if halves.len() >= MAX_HALVES && !halves.contains_key(&request) {
            debug!(request, "too many port-forward streams wait for their other half");
            continue;
        }
        let half = halves.entry(request.clone()).or_insert(Half { since: Instant::now(), data: None, error: None });
        let slot = if stream.header("streamtype") == Some("error") { &mut half.error } else { &mut half.data };
        if slot.replace(stream).is_some() {
            debug!(request, "a second port-forward stream of the same type replaces the first");
        }
        if let Some(Half { data: Some(data), error: Some(error), .. }) = halves.get_mut(&request).map(Half::take) {
            halves.remove(&request);
            let (pod, backend, gone) = (pod.clone(), backend.clone(), gone.clone());
            tracker.spawn(async move { gone.run_until_cancelled(pair(data, error, pod, &*backend)).await });
        }
    }
}

impl Half {
    /// Both, if both are there; otherwise all stays as it is.
    fn take(&mut self) -> Self {
        if self.data.is_some() && self.error.is_some() {
            return Self { since: self.since, data: self.data.take(), error: self.error.take() };
        }
        Self { since: self.since, data: None, error: None }
    }
}

/// What joins the two streams of a pair. Clients that send no id open the error stream first, and then the data stream.
fn request_id(stream: &Stream) -> Option<String> {
    let kind = stream.header("streamtype")?;
    match (stream.header("requestid"), kind) {
        (Some(id), "data" | "error") => Some(id.to_owned()),
        (None, "error") => Some(stream.id().to_string()),
        (None, "data") => Some((stream.id().checked_sub(2)?).to_string()),
        _ => None,
    }
}

/// One TCP connection, from the first byte to the last.
async fn pair(mut data: Stream, mut error: Stream, pod: String, backend: &dyn Backend) {
    let asked = data.header("port").unwrap_or_default().to_owned();
    let result = match asked.parse::<u16>() {
        Ok(port) if port != 0 => match backend.connect(pod.clone(), port).await {
            Ok(mut socket) => {
                copy_bidirectional(&mut data, &mut socket).await.map(drop).map_err(|error| error.to_string())
            }
            Err(why) => Err(why),
        },
        _ => Err("not a port number".to_owned()),
    };
    if let Err(why) = result {
        let text = format!("an error occurred forwarding port {asked} to pod {pod}: {why}");
        debug!(pod, port = asked, why, "port-forward failed");
        drop(timeout(REPORTING, error.write_all(text.as_bytes())).await);
    }
    drop(timeout(REPORTING, error.shutdown()).await);
    drop(timeout(REPORTING, data.shutdown()).await);
}
