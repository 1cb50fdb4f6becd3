//! `gantry events`

use client::{Client, ClientError};
use proto::prost_types::Any;
use proto::services::events::v1::SubscribeRequest;
use serde_json::{Value, json};

use crate::output::{self, Format};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Events of every namespace, not only of the current one.
    #[arg(long)]
    all_namespaces: bool,
    /// Only events that match, in containerd's filter language.
    filters: Vec<String>,
}

pub(crate) async fn run(client: &Client, arguments: Arguments, format: Format) -> Result<u8, ClientError> {
    let mut stream = client.events().subscribe(SubscribeRequest { filters: arguments.filters }).await?.into_inner();
    while let Some(envelope) = stream.message().await? {
        if !arguments.all_namespaces && envelope.namespace != client.namespace().as_str() {
            continue;
        }
        let time = envelope.timestamp.map(|time| time.to_string()).unwrap_or_default();
        let event = envelope.event.as_ref().map_or(Value::Null, readable);
        match format {
            Format::Text => output::line(&format!("{time} {} {} {event}", envelope.namespace, envelope.topic)),
            Format::Json => output::json(
                &json!({"time": time, "namespace": envelope.namespace, "topic": envelope.topic, "event": event}),
            ),
        }
    }
    Err(ClientError::Incomplete("more events: it ended the stream"))
}

macro_rules! known {
    ($any:expr, $($event:path { $($field:ident),* },)*) => {
        $(
            if let Ok(Some(event)) = proto::any::unpack::<$event>($any) {
                return json!({ $(stringify!($field): event.$field),* });
            }
        )*
    };
}

/// The fields of an event that people and programs look for. One of an unknown type is shown by its type.
fn readable(any: &Any) -> Value {
    use proto::events::{
        ContainerCreate, ContainerDelete, ContainerUpdate, ContentCreate, ContentDelete, NamespaceCreate,
        NamespaceDelete, NamespaceUpdate, SnapshotCommit, SnapshotPrepare, SnapshotRemove, TaskCreate, TaskDelete,
        TaskExecAdded, TaskExecStarted, TaskExit, TaskOom, TaskPaused, TaskResumed, TaskStart,
    };
    use proto::services::images::v1::{ImageCreate, ImageDelete, ImageUpdate};
    known! { any,
        TaskCreate { container_id, bundle, pid },
        TaskStart { container_id, pid },
        TaskExit { container_id, id, pid, exit_status },
        TaskDelete { container_id, id, pid, exit_status },
        TaskOom { container_id },
        TaskExecAdded { container_id, exec_id },
        TaskExecStarted { container_id, exec_id, pid },
        TaskPaused { container_id },
        TaskResumed { container_id },
        ContainerCreate { id, image },
        ContainerUpdate { id, image, labels, snapshot_key },
        ContainerDelete { id },
        ImageCreate { name, labels },
        ImageUpdate { name, labels },
        ImageDelete { name },
        ContentCreate { digest, size },
        ContentDelete { digest },
        SnapshotPrepare { key, parent, snapshotter },
        SnapshotCommit { key, name, snapshotter },
        SnapshotRemove { key, snapshotter },
        NamespaceCreate { name, labels },
        NamespaceUpdate { name, labels },
        NamespaceDelete { name },
    }
    json!({"type_url": any.type_url, "bytes": any.value.len()})
}
