use proto::events::{ContainerCreate, TaskExit};

use super::*;

fn namespace(name: &str) -> Namespace {
    Namespace::new(name).unwrap()
}

fn filters(filters: &[&str]) -> Filters {
    Filters::parse(filters).unwrap()
}

#[tokio::test]
async fn subscribers_get_what_their_filters_let_pass_in_order() {
    let bus = Bus::new();
    let mut all = bus.subscribe(Filters::parse::<&str>(&[]).unwrap());
    let mut tasks = bus.subscribe(filters(&["namespace==moby,topic~=|^/tasks/|"]));
    let mut one = bus.subscribe(filters(&["event.container_id==c1"]));
    bus.publish(&namespace("moby"), "/containers/create", &ContainerCreate { id: "c1".into(), ..Default::default() });
    for id in ["c1", "c2"] {
        bus.publish(&namespace("moby"), "/tasks/exit", &TaskExit { container_id: id.into(), ..Default::default() });
    }
    bus.publish(&namespace("other"), "/tasks/exit", &TaskExit { container_id: "c3".into(), ..Default::default() });
    bus.close();
    let mut topics = Vec::new();
    while let Ok(event) = all.next().await {
        topics.push(format!("{}{}", event.namespace, event.topic));
    }
    assert_eq!(topics, ["moby/containers/create", "moby/tasks/exit", "moby/tasks/exit", "other/tasks/exit"]);
    assert_eq!(tasks.next().await.unwrap().topic, "/tasks/exit");
    assert_eq!(tasks.next().await.unwrap().topic, "/tasks/exit");
    assert_eq!(tasks.next().await, Err(Ended::Stopping));
    assert_eq!(one.next().await.unwrap().topic, "/tasks/exit");
    assert_eq!(one.next().await, Err(Ended::Stopping));
}

#[tokio::test]
async fn a_dropped_subscription_is_forgotten_at_the_next_event() {
    let bus = Bus::new();
    let subscription = bus.subscribe(Filters::default());
    assert_eq!(bus.load().0, 1);
    drop(subscription);
    bus.publish(&namespace("a"), "/x", &TaskExit::default());
    assert_eq!(bus.load(), (0, 0));
}

#[tokio::test]
async fn a_subscription_to_a_closed_bus_ends_at_once() {
    let bus = Bus::new();
    bus.close();
    assert_eq!(bus.subscribe(Filters::default()).next().await, Err(Ended::Stopping));
}

#[test]
fn forwarded_envelopes_are_checked() {
    let good = Envelope {
        timestamp: Some(proto::convert::time::to_wire(SystemTime::now())),
        namespace: "default".into(),
        topic: "/tasks/exit".into(),
        event: Some(proto::any::pack(&TaskExit::default())),
    };
    let bus = Bus::new();
    bus.forward(good.clone()).unwrap();
    for (what, bad) in [
        ("namespace", Envelope { namespace: String::new(), ..good.clone() }),
        ("namespace", Envelope { namespace: "a/b".into(), ..good.clone() }),
        ("topic", Envelope { topic: String::new(), ..good.clone() }),
        ("topic", Envelope { topic: "tasks".into(), ..good.clone() }),
        ("topic", Envelope { topic: "/".into(), ..good.clone() }),
        ("topic", Envelope { topic: "/tasks//exit".into(), ..good.clone() }),
        ("topic", Envelope { topic: "/tasks/".into(), ..good.clone() }),
        ("timestamp", Envelope { timestamp: None, ..good.clone() }),
        ("event", Envelope { event: None, ..good }),
    ] {
        let refused = bus.forward(bad).unwrap_err();
        assert_eq!(refused.kind(), Kind::InvalidArgument);
        assert!(refused.to_string().contains(what), "{what}: {refused}");
    }
}
