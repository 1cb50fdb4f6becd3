use proto::services::leases::v1::{
    AddResourceRequest, CreateRequest, DeleteRequest, DeleteResourceRequest, ListRequest, ListResourcesRequest,
    Resource,
};

use super::*;

fn resource(kind: &str, id: &str) -> Option<Resource> {
    Some(Resource { id: id.into(), r#type: kind.into() })
}

#[tokio::test]
async fn leases_are_made_listed_and_deleted() {
    let rig = Rig::new();
    let mut leases = rig.leases();
    let create = |id: &str, pairs: &[(&str, &str)]| {
        DEFAULT.request(CreateRequest { id: id.into(), labels: super::labels(pairs) })
    };
    let made = leases.create(create("a b:c", &[("x", "1"), ("gone", "")])).await.unwrap().into_inner().lease.unwrap();
    assert_eq!((made.id.as_str(), made.labels), ("a b:c", labels(&[("x", "1")])));
    refused(leases.create(create("a b:c", &[])).await, Code::AlreadyExists, "lease \"a b:c\": already exists");
    let fresh = leases.create(create("", &[])).await.unwrap().into_inner().lease.unwrap();
    assert!(fresh.id.contains('-'), "{}", fresh.id);
    let long = "v".repeat(4096);
    refused(leases.create(create("long", &[("k", &long)])).await, Code::InvalidArgument, "greater than maximum size");

    let list = |filter: &str| DEFAULT.request(ListRequest { filters: vec![filter.into()] });
    for (filter, count) in [("", 2), ("id==\"a b:c\"", 1), ("labels.x==1", 1), ("labels.x==2", 0)] {
        assert_eq!(leases.list(list(filter)).await.unwrap().into_inner().leases.len(), count, "{filter}");
    }
    refused(leases.list(list("=")).await, Code::InvalidArgument, "filters");
    assert_eq!(leases.list(OTHER.request(ListRequest::default())).await.unwrap().into_inner().leases, []);

    let delete = |id: &str, sync| DEFAULT.request(DeleteRequest { id: id.into(), sync });
    leases.delete(delete("a b:c", false)).await.unwrap();
    refused(leases.delete(delete("a b:c", true)).await, Code::NotFound, "lease \"a b:c\": not found");
    leases.delete(delete(&fresh.id, true)).await.unwrap();
}

#[tokio::test]
async fn resources_need_not_exist() {
    let rig = Rig::new();
    let mut leases = rig.leases();
    leases.create(DEFAULT.request(CreateRequest { id: "l".into(), ..Default::default() })).await.unwrap();
    let digest = Digest::sha256(b"nobody has this");
    let all = [
        resource("content", digest.as_str()),
        resource("images", "docker.io/library/a:latest"),
        resource("ingests", "layer-1"),
        resource("snapshots/overlayfs", "k 1"),
    ];
    for _ in 0..2 {
        for resource in all.clone() {
            leases.add_resource(DEFAULT.request(AddResourceRequest { id: "l".into(), resource })).await.unwrap();
        }
    }
    let listed = |id: &str| DEFAULT.request(ListResourcesRequest { id: id.into() });
    let mut got = leases.list_resources(listed("l")).await.unwrap().into_inner().resources;
    got.sort_by(|a, b| a.r#type.cmp(&b.r#type));
    assert_eq!(got, all.clone().map(Option::unwrap));

    for (resource, code, text) in [
        (resource("content", "x"), Code::InvalidArgument, "invalid content resource id x"),
        (resource("snapshots", "x"), Code::InvalidArgument, "invalid resource type"),
        (resource("tasks", "x"), Code::Unimplemented, "not supported yet"),
        (None, Code::InvalidArgument, "resource must be set"),
    ] {
        let add = AddResourceRequest { id: "l".into(), resource: resource.clone() };
        refused(leases.add_resource(DEFAULT.request(add)).await, code, text);
        let delete = DeleteResourceRequest { id: "l".into(), resource };
        refused(leases.delete_resource(DEFAULT.request(delete)).await, code, text);
    }
    let delete = DeleteResourceRequest { id: "l".into(), resource: all[3].clone() };
    leases.delete_resource(DEFAULT.request(delete.clone())).await.unwrap();
    leases.delete_resource(DEFAULT.request(delete)).await.unwrap();
    assert_eq!(leases.list_resources(listed("l")).await.unwrap().into_inner().resources.len(), 3);

    refused(leases.list_resources(listed("m")).await, Code::NotFound, "lease \"m\"");
    let add = AddResourceRequest { id: "m".into(), resource: all[0].clone() };
    refused(leases.add_resource(DEFAULT.request(add)).await, Code::NotFound, "lease \"m\"");
    let delete = DeleteResourceRequest { id: "m".into(), resource: all[0].clone() };
    refused(leases.delete_resource(DEFAULT.request(delete)).await, Code::NotFound, "lease \"m\"");
    // A lease made anew is empty.
    leases.delete(DEFAULT.request(DeleteRequest { id: "l".into(), sync: false })).await.unwrap();
    leases.create(DEFAULT.request(CreateRequest { id: "l".into(), ..Default::default() })).await.unwrap();
    assert_eq!(leases.list_resources(listed("l")).await.unwrap().into_inner().resources, []);
}

#[tokio::test]
async fn the_lease_of_the_metadata_holds_what_is_made() {
    use proto::services::snapshots::v1::PrepareSnapshotRequest;
    let rig = Rig::new();
    let mut leases = rig.leases();
    let gone = Call::with_lease("gone");
    refused(rig.put(gone, b"x", &[]).await, Code::NotFound, "lease does not exist");
    let prepare = PrepareSnapshotRequest { snapshotter: NATIVE.into(), key: "k".into(), ..Default::default() };
    refused(rig.snapshots().prepare(gone.request(prepare.clone())).await, Code::NotFound, "lease does not exist");
    assert_eq!(rig.meta.ingest_statuses(&DEFAULT.namespace(), &[]).unwrap(), []);

    leases.create(DEFAULT.request(CreateRequest { id: "l".into(), ..Default::default() })).await.unwrap();
    let held = Call::with_lease("l");
    let digest = rig.put(held, b"x", &[]).await.unwrap();
    rig.snapshots().prepare(held.request(prepare)).await.unwrap();
    let message =
        WriteContentRequest { r#ref: "half".into(), data: b"h".as_slice().into(), action: 1, ..Default::default() };
    rig.write(held, vec![message]).await.1.unwrap();
    let listed = leases.list_resources(held.request(ListResourcesRequest { id: "l".into() })).await.unwrap();
    let mut listed: Vec<_> = listed.into_inner().resources.into_iter().map(|r| (r.r#type, r.id)).collect();
    listed.sort();
    let expected = [("content", digest.as_str()), ("ingests", "half"), ("snapshots/native", "k")];
    assert_eq!(listed, expected.map(|(kind, id)| (kind.to_owned(), id.to_owned())));
    // The header is sent with the deletion of that very lease.
    leases.delete(held.request(DeleteRequest { id: "l".into(), sync: true })).await.unwrap();
    assert!(!rig.has_blob(&digest));
    assert_eq!(rig.driver_snapshots(), 0);
}

#[tokio::test]
async fn a_lease_of_any_size_can_go() {
    let rig = Rig::new();
    let mut leases = rig.leases();
    for (id, pairs) in [("deleted", &[][..]), ("expired", &[("containerd.io/gc.expire", "2020-01-01T00:00:00Z")])] {
        leases.create(DEFAULT.request(CreateRequest { id: id.into(), labels: labels(pairs) })).await.unwrap();
        // More than one transaction may write.
        for part in 0..5 {
            let id = id.to_owned();
            let fill = move |tx: &mut store::Tx<'_>| {
                for number in 0..3_000 {
                    let name = format!("{part}-{number:0300}");
                    let key = store::key(&["default", &id, "images", &name])?;
                    let record = store::record::LeaseResourceRecord { added_at: std::time::SystemTime::now() };
                    tx.put(&store::tables::LEASE_RESOURCES, &key, &record)?;
                }
                Ok::<_, store::StoreError>(())
            };
            rig.meta.inner.store.write(fill).unwrap();
        }
    }
    leases.delete(DEFAULT.request(DeleteRequest { id: "deleted".into(), sync: true })).await.unwrap();
    let left = store::Read::count(&rig.meta.inner.store.read(), &store::tables::LEASE_RESOURCES, b"").unwrap();
    assert_eq!(left, 0);
    assert!(rig.meta.leases(&DEFAULT.namespace(), &[]).unwrap().is_empty());
}
