use proto::services::images::v1::{
    CreateImageRequest, DeleteImageRequest, GetImageRequest, Image, ListImagesRequest, UpdateImageRequest,
};
use proto::types::Descriptor;

use super::*;

fn target(size: i64, media_type: &str) -> Descriptor {
    Descriptor {
        media_type: media_type.into(),
        digest: Digest::sha256(b"m").to_string(),
        size,
        annotations: Labels::new(),
    }
}

fn image(name: &str, pairs: &[(&str, &str)]) -> Image {
    Image { name: name.into(), labels: labels(pairs), target: Some(target(7, "application/x")), ..Default::default() }
}

fn create(image: Image) -> Request<CreateImageRequest> {
    DEFAULT.request(CreateImageRequest { image: Some(image), source_date_epoch: None })
}

#[tokio::test]
async fn images_follow_the_rules() {
    let rig = Rig::new();
    let mut heard = rig.listen();
    let mut images = rig.images();
    let update = |image, paths: &[&str]| {
        let update_mask = (!paths.is_empty()).then(|| mask(paths)).flatten();
        DEFAULT.request(UpdateImageRequest { image: Some(image), update_mask, source_date_epoch: None })
    };
    // Clients update before they create.
    refused(images.update(update(image("a", &[]), &[])).await, Code::NotFound, "image \"a\": not found");
    let made = images.create(create(image("a", &[("x", "1"), ("y", "")]))).await.unwrap().into_inner().image.unwrap();
    assert_eq!(made.labels, labels(&[("x", "1")]));
    assert_eq!(made.created_at, made.updated_at);
    refused(images.create(create(image("a", &[]))).await, Code::AlreadyExists, "image \"a\": already exists");
    for (bad, text) in [
        (image("", &[]), "name must not be empty"),
        (Image { target: Some(target(0, "m")), ..image("b", &[]) }, "greater than zero"),
        (Image { target: Some(target(1, "")), ..image("b", &[]) }, "media type"),
        (Image { target: Some(Descriptor { digest: "x".into(), ..target(1, "m") }), ..image("b", &[]) }, "digest"),
        (Image { target: None, ..image("b", &[]) }, "image target must be set"),
        (image("b", &[("k", &"v".repeat(4096))]), "maximum size"),
    ] {
        refused(images.create(create(bad)).await, Code::InvalidArgument, text);
    }
    for (sent, paths, expected) in [
        (image("a", &[("z", "3")]), &["labels.z"][..], labels(&[("x", "1"), ("z", "3")])),
        (image("a", &[("q", "0")]), &["labels.x"], labels(&[("z", "3")])),
        (image("a", &[("q", "0")]), &["target"], labels(&[("z", "3")])),
        (Image { target: None, ..image("a", &[("only", "1")]) }, &["labels"], labels(&[("only", "1")])),
        (image("a", &[("all", "1")]), &[], labels(&[("all", "1")])),
    ] {
        let got = images.update(update(sent, paths)).await.unwrap().into_inner().image.unwrap();
        assert_eq!(got.labels, expected, "{paths:?}");
        assert_eq!(got.created_at, made.created_at);
        assert_ne!(got.updated_at, made.updated_at);
    }
    let annotated = Descriptor { annotations: labels(&[("n", "1")]), ..target(9, "application/y") };
    let sent = Image { target: Some(annotated), ..image("a", &[]) };
    let got = images.update(update(sent.clone(), &["annotations.n"])).await.unwrap().into_inner().image.unwrap();
    let expected = Descriptor { annotations: labels(&[("n", "1")]), ..target(7, "application/x") };
    assert_eq!(got.target, Some(expected));
    let got = images.update(update(sent.clone(), &["target"])).await.unwrap().into_inner().image.unwrap();
    assert_eq!(got.target, sent.target);
    for bad in ["name", "created_at", "size"] {
        refused(images.update(update(image("a", &[]), &[bad])).await, Code::InvalidArgument, "cannot update");
    }
    refused(images.update(update(image("", &[]), &[])).await, Code::InvalidArgument, "name");

    let delete = |name: &str, target| DEFAULT.request(DeleteImageRequest { name: name.into(), sync: true, target });
    let wrong = Descriptor { digest: Digest::sha256(b"other").to_string(), ..Default::default() };
    refused(images.delete(delete("a", Some(wrong))).await, Code::NotFound, "image \"a\"");
    images.delete(delete("a", Some(target(1, "")))).await.unwrap();
    refused(images.delete(delete("a", None)).await, Code::NotFound, "image \"a\": not found");
    refused(
        images.get(DEFAULT.request(GetImageRequest { name: "a".into() })).await,
        Code::NotFound,
        "image \"a\": not found",
    );
    let mut expected = vec!["/images/create"];
    expected.extend(["/images/update"; 7]);
    expected.push("/images/delete");
    assert_eq!(topics(&mut heard).await, expected);
}

#[tokio::test]
async fn filters_look_at_every_field_of_an_image() {
    let rig = Rig::new();
    let mut images = rig.images();
    images.create(create(image("docker.io/a", &[("x.y", "1")]))).await.unwrap();
    images.create(create(image("docker.io/b", &[]))).await.unwrap();
    let digest = Digest::sha256(b"m");
    for (filter, count) in [
        ("".to_owned(), 2),
        ("name~=/a$/".to_owned(), 1),
        (format!("target.digest=={digest}"), 2),
        ("target.mediatype==application/x".to_owned(), 2),
        ("labels.x.y==1".to_owned(), 1),
        ("labels.\"x.y\"==1".to_owned(), 1),
        ("labels.none".to_owned(), 0),
    ] {
        let list = DEFAULT.request(ListImagesRequest { filters: vec![filter.clone()] });
        assert_eq!(images.list(list).await.unwrap().into_inner().images.len(), count, "{filter}");
    }
    let list = DEFAULT.request(ListImagesRequest { filters: vec!["name==".into()] });
    refused(images.list(list).await, Code::InvalidArgument, "filters");
}

#[tokio::test]
async fn the_time_can_be_given() {
    let rig = Rig::new();
    let time = prost_types::Timestamp { seconds: 1_000_000, nanos: 0 };
    let create = CreateImageRequest { image: Some(image("a", &[])), source_date_epoch: Some(time) };
    let made = rig.images().create(DEFAULT.request(create)).await.unwrap().into_inner().image.unwrap();
    assert_eq!((made.created_at, made.updated_at), (Some(time), Some(time)));
}
