//! `gantry events`

use client::{Client, ClientError};
use proto::gantry::v1::gap::Cause;
use proto::gantry::v1::subscribe_request::Start;
use proto::gantry::v1::{Gap, SubscribeRequest as JournalRequest};
use proto::prost_types::Any;
use proto::services::events::v1::SubscribeRequest;
use proto::types::Envelope;
use serde_json::{Value, json};

use crate::output::{self, Format};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Events of every namespace, not only of the current one.
    #[arg(long)]
    all_namespaces: bool,
    /// Begin with what happened that long ago (30s, 10m, 2h, 1d), at that time (RFC 3339), or `oldest`.
    #[arg(long, value_parser = start, conflicts_with = "cursor")]
    since: Option<Start>,
    /// Begin behind this place; JSON output says the place of each event.
    #[arg(long)]
    cursor: Option<String>,
    /// End with what has happened so far.
    #[arg(long)]
    no_follow: bool,
    /// Only events that match, in containerd's filter language.
    filters: Vec<String>,
}

pub(crate) async fn run(client: &Client, arguments: Arguments, format: Format) -> Result<u8, ClientError> {
    if arguments.since.is_some() || arguments.cursor.is_some() || arguments.no_follow {
        return journal(client, arguments, format).await;
    }
    let mut stream = client.events().subscribe(SubscribeRequest { filters: arguments.filters }).await?.into_inner();
    while let Some(envelope) = stream.message().await? {
        if arguments.all_namespaces || envelope.namespace == client.namespace().as_str() {
            print(&envelope, None, format);
        }
    }
    Err(ClientError::Incomplete("more events: it ended the stream"))
}

/// Prints what the daemon has kept, and with it where that has holes.
async fn journal(client: &Client, arguments: Arguments, format: Format) -> Result<u8, ClientError> {
    let start = arguments.since.or(arguments.cursor.map(Start::Cursor)).unwrap_or(Start::Oldest(true));
    let follow = !arguments.no_follow;
    let request = JournalRequest { filters: arguments.filters, start: Some(start), follow };
    let mut stream = client.journal().subscribe(request).await?.into_inner();
    while let Some(message) = stream.message().await? {
        if let Some(gap) = &message.gap {
            let text = gap_text(gap);
            match format {
                Format::Text => eprintln!("gantry: {text}"),
                Format::Json => output::json(&json!({"cursor": message.cursor, "gap": text, "events": gap.events})),
            }
        }
        if let Some(envelope) = &message.envelope
            && (arguments.all_namespaces || envelope.namespace == client.namespace().as_str())
        {
            print(envelope, Some(&message.cursor), format);
        }
    }
    if follow { Err(ClientError::Incomplete("more events: it ended the stream")) } else { Ok(0) }
}

fn gap_text(gap: &Gap) -> String {
    let number = if gap.events == 0 { "events".to_owned() } else { format!("{} events", gap.events) };
    match gap.cause() {
        Cause::Expired => format!("{number} before this were dropped: they were too old or too many"),
        Cause::Crash => "the daemon was killed here; events of its last moments may be missing".to_owned(),
        Cause::Overflow => format!("{number} are missing here: more happened than could be written"),
        Cause::OtherJournal => "the cursor is of a journal that is gone; this is all there is".to_owned(),
        Cause::Damaged => format!("{number} are missing here: they cannot be read any more"),
        Cause::Unspecified => format!("{number} are missing here"),
    }
}

fn print(envelope: &Envelope, cursor: Option<&str>, format: Format) {
    let time = envelope.timestamp.map(|time| time.to_string()).unwrap_or_default();
    let event = envelope.event.as_ref().map_or(Value::Null, readable);
    match format {
        Format::Text => output::line(&format!("{time} {} {} {event}", envelope.namespace, envelope.topic)),
        Format::Json => {
            let mut line =
                json!({"time": time, "namespace": envelope.namespace, "topic": envelope.topic, "event": event});
            if let Some(cursor) = cursor {
                line["cursor"] = cursor.into();
            }
            output::json(&line);
        }
    }
}

/// Reads `--since`.
fn start(text: &str) -> Result<Start, String> {
    if text == "oldest" {
        return Ok(Start::Oldest(true));
    }
    if let Ok(time) = text.parse() {
        return Ok(Start::Since(time));
    }
    let wrong = || "not a time span like 10m, a time like 2026-01-31T12:00:00Z, or `oldest`".to_owned();
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let ago = number.parse::<u64>().ok().and_then(|number| number.checked_mul(seconds)).ok_or_else(wrong)?;
    let time = std::time::SystemTime::now().checked_sub(std::time::Duration::from_secs(ago)).ok_or_else(wrong)?;
    Ok(Start::Since(time.into()))
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
