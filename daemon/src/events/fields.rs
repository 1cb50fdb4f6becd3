//! What a filter can ask about an event: `namespace`, `topic` and, of the types known here, `event.<field>`.

use model::filter::{Fields, label_key};
use proto::prost_types::Any;
use proto::services::images::v1 as images;
use proto::{any, events};

/// The fields of an event.
pub struct EventFields<'a> {
    envelope: &'a proto::types::Envelope,
}

impl<'a> EventFields<'a> {
    /// Looks at `envelope`; the event in it is only opened if somebody asks.
    pub fn new(envelope: &'a proto::types::Envelope) -> Self {
        Self { envelope }
    }
}

impl Fields for EventFields<'_> {
    fn field(&self, path: &[String]) -> Option<String> {
        let (first, rest) = path.split_first()?;
        let text = match (first.as_str(), rest) {
            ("namespace", []) => self.envelope.namespace.clone(),
            ("topic", []) => self.envelope.topic.clone(),
            ("event", [field, rest @ ..]) => event_field(self.envelope.event.as_ref()?, field, rest)?,
            _ => return None,
        };
        Some(text).filter(|text| !text.is_empty())
    }
}

/// Opens the event if it is one of the listed types and gives one of its text fields.
macro_rules! text_fields {
    ($event:expr, $field:expr, $rest:expr; $($type:path { $($name:ident),* } $(with $labels:ident)?;)*) => {
        $(
            if any::is::<$type>($event) {
                let message = any::unpack::<$type>($event).ok()??;
                return match ($field, $rest) {
                    $((stringify!($name), []) => Some(message.$name),)*
                    $((stringify!($labels), key) => message.$labels.get(&label_key(key)).cloned(),)?
                    _ => None,
                };
            }
        )*
    };
}

fn event_field(event: &Any, field: &str, rest: &[String]) -> Option<String> {
    if any::is::<events::ContainerCreate>(event)
        && let ("runtime", [name]) = (field, rest)
    {
        let message = any::unpack::<events::ContainerCreate>(event).ok()??;
        return (name == "name").then(|| message.runtime.map(|runtime| runtime.name)).flatten();
    }
    text_fields! { event, field, rest;
        events::ContainerCreate { id, image };
        events::ContainerUpdate { id, image, snapshot_key } with labels;
        events::ContainerDelete { id };
        events::ContentCreate { digest };
        events::ContentDelete { digest };
        events::NamespaceCreate { name } with labels;
        events::NamespaceUpdate { name } with labels;
        events::NamespaceDelete { name };
        events::SnapshotPrepare { key, parent, snapshotter };
        events::SnapshotCommit { key, name, snapshotter };
        events::SnapshotRemove { key, snapshotter };
        events::TaskCreate { container_id, bundle, checkpoint };
        events::TaskStart { container_id };
        events::TaskDelete { container_id, id };
        events::TaskExit { container_id, id };
        events::TaskOom { container_id };
        events::TaskExecAdded { container_id, exec_id };
        events::TaskExecStarted { container_id, exec_id };
        events::TaskPaused { container_id };
        events::TaskResumed { container_id };
        events::TaskCheckpointed { container_id, checkpoint };
        images::ImageCreate { name } with labels;
        images::ImageUpdate { name } with labels;
        images::ImageDelete { name };
    }
    None
}

#[cfg(test)]
mod tests {
    use proto::types::Envelope;

    use super::*;

    #[test]
    fn fields_of_known_events() {
        let runtime = events::container_create::Runtime { name: "runc".into(), options: None };
        let create = events::ContainerCreate { id: "c".into(), image: String::new(), runtime: Some(runtime) };
        let labels = [("a.b".to_owned(), "v".to_owned())].into();
        let update = images::ImageUpdate { name: "i".into(), labels };
        for (event, path, value) in [
            (any::pack(&create), &["event", "id"][..], Some("c")),
            (any::pack(&create), &["event", "image"], None),
            (any::pack(&create), &["event", "runtime", "name"], Some("runc")),
            (any::pack(&create), &["event", "runtime"], None),
            (any::pack(&create), &["event", "nothing"], None),
            (any::pack(&create), &["event"], None),
            (any::pack(&update), &["event", "labels", "a", "b"], Some("v")),
            (any::pack(&update), &["topic"], Some("/t")),
            (Any { type_url: "unknown".into(), value: vec![1] }, &["event", "id"], None),
            (Any { type_url: "containerd.events.TaskExit".into(), value: vec![0xff] }, &["event", "id"], None),
        ] {
            let envelope = Envelope { topic: "/t".into(), event: Some(event), ..Default::default() };
            let path: Vec<String> = path.iter().map(|part| (*part).to_owned()).collect();
            assert_eq!(EventFields::new(&envelope).field(&path).as_deref(), value, "{path:?}");
        }
    }
}
