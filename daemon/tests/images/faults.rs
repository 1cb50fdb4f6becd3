//! Registries that fail or lie.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use model::Digest;
use proto::services::content::v1::content_client::ContentClient;
use proto::services::content::v1::{Status as IngestStatus, WriteAction, WriteContentRequest};
use proto::services::leases::v1::leases_client::LeasesClient;
use proto::services::leases::v1::{CreateRequest, ListRequest};
use serde_json::json;
use tonic::Code;

use crate::client::{Left, contents, image_names, ingests, nothing_left, pull, snapshots};
use crate::fake::{Answer, Asked, Fake, Send, changed, serve_made, unknown};
use crate::fixtures::{Compress, INDEX, Image, MANIFEST, Made, layer, noise, root};
use crate::server::{Server, refused};

/// An image with one large layer.
fn large() -> (Made, Image) {
    let mut made = Made::default();
    let image = made.image("amd64", &[layer(&[("noise", &noise(2_000_000))])], Compress::No);
    (made, image)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_not_found_in_the_words_of_the_registry() {
    let server = Server::start().await;
    let fake = Fake::start(|_, _| unknown("MANIFEST_UNKNOWN")).await;
    let error = pull(&server, &fake.name("a/b:t")).await;
    refused(error, Code::NotFound, &format!("{} has no t of a/b: it is not here (MANIFEST_UNKNOWN)", fake.host));
    nothing_left(Left::of(&server).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_is_unavailable() {
    let server = Server::start().await;
    let error = pull(&server, "127.0.0.1:1/a:t").await;
    refused(error, Code::Unavailable, "127.0.0.1:1");
    nothing_left(Left::of(&server).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_registry_is_asked_again_and_then_named_with_its_status() {
    let (made, image) = large();
    let layer = image.layers[0].clone();
    let fake = changed(&made, &image, move |asked, _, good| match asked.is_blob(&layer) {
        true => Answer::new(503, "<h1>over capacity</h1>"),
        false => good,
    })
    .await;
    let server = Server::start().await;
    let error = pull(&server, &fake.name("a:t")).await;
    refused(error, Code::Unavailable, "answers 503");
    assert!(fake.blob_requests(&image.layers[0]).len() > 1);
    let left = Left::of(&server).await;
    assert_eq!((left.images.len(), left.snapshots.len(), left.leases), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_blob_is_not_asked_for_again() {
    let (mut made, image) = large();
    made.blobs.remove(&image.layers[0]);
    let (server, fake) = (Server::start().await, Fake::of(&made, &image.manifest).await);
    refused(pull(&server, &fake.name("a:t")).await, Code::NotFound, &image.layers[0]);
    assert_eq!(fake.blob_requests(&image.layers[0]).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_is_another_one_is_refused_and_not_kept() {
    let (made, image) = large();
    let layer = image.layers[0].clone();
    let fake = changed(&made, &image, move |asked, _, mut good| {
        if asked.is_blob(&layer) {
            good.body[1000] ^= 1;
        }
        good
    })
    .await;
    let server = Server::start().await;
    refused(pull(&server, &fake.name("a:t")).await, Code::DataLoss, &image.layers[0]);
    nothing_left(Left::of(&server).await);
    // With a good registry nothing of it stands in the way.
    if root() {
        let good = Fake::of(&made, &image.manifest).await;
        pull(&server, &good.name("a:t")).await.unwrap();
        assert_eq!(good.blob_requests(&image.layers[0])[0].offset(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_is_too_long_is_refused() {
    let (made, image) = large();
    let layer = image.layers[0].clone();
    let fake = changed(&made, &image, move |asked, _, mut good| {
        if asked.is_blob(&layer) {
            good.body.extend_from_slice(b"more");
        }
        good
    })
    .await;
    let server = Server::start().await;
    refused(pull(&server, &fake.name("a:t")).await, Code::DataLoss, "bytes of");
    let left = Left::of(&server).await;
    assert_eq!((left.images.len(), left.snapshots.len(), left.leases), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_is_gone_on_with_where_it_broke() {
    if !root() {
        return;
    }
    let (made, image) = large();
    let layer = image.layers[0].clone();
    let fake = changed(&made, &image, move |asked, before, mut good| {
        if asked.is_blob(&layer) && before < 2 {
            good.send = Send::Cut(700_000);
        }
        good
    })
    .await;
    let server = Server::start().await;
    pull(&server, &fake.name("a:t")).await.unwrap();
    let offsets: Vec<usize> = fake.blob_requests(&image.layers[0]).iter().map(Asked::offset).collect();
    assert_eq!(offsets, [0, 700_000, 1_400_000]);
    assert_eq!(snapshots(&server).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_without_ranges_begins_again() {
    if !root() {
        return;
    }
    let (made, image) = large();
    let layer = image.layers[0].clone();
    let fake = changed(&made, &image, {
        let made = made.clone();
        move |asked, before, good| match asked.is_blob(&layer) {
            true => Answer {
                send: if before == 0 { Send::Cut(700_000) } else { Send::All },
                ..Answer::new(200, made.blobs[&layer].clone())
            },
            false => good,
        }
    })
    .await;
    let server = Server::start().await;
    pull(&server, &fake.name("a:t")).await.unwrap();
    assert_eq!(snapshots(&server).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_fetched_is_kept_for_the_next_pull() {
    if !root() {
        return;
    }
    let (made, image) = large();
    let (layer, broken) = (image.layers[0].clone(), Arc::new(AtomicBool::new(true)));
    let is_broken = Arc::clone(&broken);
    let fake = changed(&made, &image, move |asked, before, mut good| {
        if asked.is_blob(&layer) && is_broken.load(Ordering::SeqCst) {
            if before > 0 {
                return Answer::new(500, "");
            }
            good.send = Send::Cut(900_000);
        }
        good
    })
    .await;
    let server = Server::start().await;
    refused(pull(&server, &fake.name("a:t")).await, Code::Unavailable, "answers 500");
    let left = ingests(&server).await;
    assert_eq!((left.len(), left[0].offset, left[0].total), (1, 900_000, made.blobs[&image.layers[0]].len() as i64));
    assert_eq!(left[0].r#ref, format!("layer-{}", image.layers[0]));
    broken.store(false, Ordering::SeqCst);
    let folder = server.stop().await;

    let server = Server::start_in(folder).await;
    pull(&server, &fake.name("a:t")).await.unwrap();
    assert_eq!(fake.blob_requests(&image.layers[0]).last().unwrap().offset(), 900_000);
    assert_eq!((ingests(&server).await.len(), snapshots(&server).await.len()), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_stops_its_pull() {
    let (made, image) = large();
    let layer = image.layers[0].clone();
    let fake = changed(&made, &image, move |asked, _, mut good| {
        if asked.is_blob(&layer) {
            good.send = Send::Stall(500_000);
        }
        good
    })
    .await;
    let server = Server::start().await;
    let name = fake.name("a:t");
    let pulling = tokio::time::timeout(Duration::from_millis(50), pull(&server, &name));
    // Long enough to have begun: till the upload has grown.
    let grown = async {
        let begun = |ingest: &IngestStatus| ingest.r#ref.starts_with("layer-") && ingest.offset > 0;
        while !ingests(&server).await.iter().any(begun) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let stuck = tokio::spawn({
        let (channel, name) = (server.channel.clone(), name.clone());
        async move {
            let mut client = proto::services::transfer::v1::transfer_client::TransferClient::new(channel);
            let request = proto::services::transfer::v1::TransferRequest {
                source: Some(proto::any::pack(&crate::client::registry(&name))),
                destination: Some(proto::any::pack(&crate::client::store(&name))),
                options: None,
            };
            let _ = client.transfer(crate::server::plain(request)).await;
        }
    });
    tokio::time::timeout(Duration::from_secs(20), grown).await.unwrap();
    // A second one waits for the first, and is no trouble when it goes.
    assert!(pulling.await.is_err());
    stuck.abort();
    let expected = Left { ingests: vec![format!("layer-{}", image.layers[0])], ..Left::default() };
    let settled = async {
        while Left::of(&server).await != expected {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(10), settled).await;
    assert!(in_time.is_ok(), "left: {:?}", Left::of(&server).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_unpacks_to_something_else_is_refused() {
    if !root() {
        return;
    }
    let mut made = Made::default();
    let layers = [layer(&[("a", b"a")]), layer(&[("b", b"b")])];
    let wrong = [Digest::sha256(&layers[0]), Digest::sha256(b"something else")];
    let image = made.image_of("amd64", &layers, Compress::Gzip, &wrong);
    let (server, fake) = (Server::start().await, Fake::of(&made, &image.manifest).await);
    refused(pull(&server, &fake.name("a:t")).await, Code::DataLoss, wrong[1].as_str());
    let left = Left::of(&server).await;
    // The lower layer is good, and belongs to nobody: it is collected.
    assert!(!left.snapshots.iter().any(|name| name.starts_with("extract-")), "{left:?}");
    assert_eq!((left.images.len(), left.ingests.len(), left.leases), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_that_does_not_fit_its_manifest_is_refused() {
    let mut made = Made::default();
    let image = made.image_of("amd64", &[layer(&[("a", b"a")])], Compress::Gzip, &[]);
    let (server, fake) = (Server::start().await, Fake::of(&made, &image.manifest).await);
    refused(pull(&server, &fake.name("a:t")).await, Code::InvalidArgument, "0 diff ids, but its manifest has 1 layers");
    // A layer that was on its way may be left to be gone on with.
    let left = Left::of(&server).await;
    assert_eq!((left.images.len(), left.snapshots.len(), left.leases), (0, 0, 0), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_could_be_two_things_are_refused() {
    let (mut made, image) = large();
    let index = made.index(&[("amd64", &image)]);
    let mixture = {
        let mut document: serde_json::Value = serde_json::from_slice(&made.blobs[&image.manifest]).unwrap();
        document["manifests"] = json!([made.descriptor(&image.manifest)]);
        made.document(MANIFEST, &document)
    };
    let schema1 = made.document(
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        &json!({"schemaVersion": 1, "name": "a", "fsLayers": [], "history": []}),
    );
    // An index that calls its child an index, which it is not.
    let mislabelled = {
        let mut child = made.descriptor(&image.manifest);
        child["mediaType"] = INDEX.into();
        made.document(INDEX, &json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [child]}))
    };
    let server = Server::start().await;
    for (root, sent_as, code, words) in [
        (&image.manifest, INDEX, Code::InvalidArgument, "says that it is"),
        (&index, MANIFEST, Code::InvalidArgument, "says that it is"),
        (&mixture, MANIFEST, Code::InvalidArgument, "ambiguous"),
        (&mislabelled, INDEX, Code::InvalidArgument, "says that it is"),
        (&schema1, "application/vnd.docker.distribution.manifest.v1+prettyjws", Code::Unimplemented, "schema 1"),
        (&schema1, "application/json", Code::Unimplemented, "schema 1"),
    ] {
        let fake = {
            let (made, root, sent_as) = (made.clone(), root.clone(), sent_as.to_owned());
            Fake::start(move |asked, _| {
                let mut answer = serve_made(&made, &root, asked);
                if asked.path.ends_with("/manifests/t") {
                    answer.headers[0].1.clone_from(&sent_as);
                }
                answer
            })
            .await
        };
        refused(pull(&server, &fake.name("a:t")).await, code, words);
    }
    nothing_left(Left::of(&server).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_is_another_one_or_too_large_is_refused() {
    let (mut made, image) = large();
    let index = made.index(&[("amd64", &image)]);
    let server = Server::start().await;
    for (change, code) in [
        (
            (|mut answer: Answer| {
                answer.body.push(b'\n');
                answer
            }) as fn(Answer) -> Answer,
            Code::DataLoss,
        ),
        (
            |mut answer| {
                answer.body = vec![b' '; 9 << 20];
                answer
            },
            Code::ResourceExhausted,
        ),
    ] {
        for victim in ["t", &image.manifest] {
            let (made, index, victim) = (made.clone(), index.clone(), format!("/manifests/{victim}"));
            let fake = Fake::start(move |asked, _| {
                let answer = serve_made(&made, &index, asked);
                if asked.path.ends_with(&victim) { change(answer) } else { answer }
            })
            .await;
            let error = pull(&server, &fake.name("a:t")).await.unwrap_err();
            assert_eq!(error.code(), code, "{error:?}");
        }
    }
    nothing_left(Left::of(&server).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_registry_is_told_so() {
    let server = Server::start().await;
    for (answer, code) in [
        (Answer::new(200, "<html>").with("Content-Type", "text/html"), Code::InvalidArgument),
        (Answer::new(200, "{}").with("Content-Type", "application/json"), Code::Unimplemented),
        (Answer::new(418, "teapot"), Code::Unavailable),
    ] {
        let fake = Fake::start(move |_, _| answer.clone()).await;
        let error = pull(&server, &fake.name("a:t")).await.unwrap_err();
        assert_eq!(error.code(), code, "{error:?}");
        assert!(error.message().contains(&fake.host) || error.message().contains("sha256:"), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_layers_write_nothing_outside() {
    if !root() {
        return;
    }
    let server = Server::start().await;
    let victim = server.path("victim");
    let raw = |name: &str, kind: tar::EntryType, link: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_mode(0o777);
        header.set_entry_type(kind);
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        header.as_bytes().to_vec()
    };
    let end = vec![0; 1024];
    let folder = server.path("").display().to_string();
    let escape = format!("../../../../../../../../{}/victim", folder.trim_matches('/'));
    let through_link =
        [raw("l", tar::EntryType::Symlink, &folder), raw("l/victim", tar::EntryType::Regular, ""), end.clone()]
            .concat();
    let dotted = [raw(&escape, tar::EntryType::Regular, ""), end.clone()].concat();
    let hard = [raw("h", tar::EntryType::Link, &escape), end.clone()].concat();
    for layer in [through_link, dotted, hard] {
        let mut made = Made::default();
        let image = made.image("amd64", &[layer], Compress::Gzip);
        let fake = Fake::of(&made, &image.manifest).await;
        // Refused or kept inside, as the layer has it; never outside.
        let _ = pull(&server, &fake.name("a:t")).await;
        assert!(!victim.exists());
    }
    assert!(image_names(&server).await.len() <= 3);
    assert!(!contents(&server).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_begins_lets_go_of_what_an_earlier_one_was_pulling() {
    let server = Server::start().await;
    let labels = [("gantry.io/transfer".to_owned(), "true".to_owned())].into();
    let mut client = LeasesClient::new(server.channel.clone());
    let ours = CreateRequest { id: "ours".into(), labels };
    client.create(crate::server::plain(ours)).await.unwrap();
    let other = CreateRequest { id: "somebody's".into(), labels: Default::default() };
    client.create(crate::server::plain(other)).await.unwrap();
    let server = Server::start_in(server.stop().await).await;
    let mut client = LeasesClient::new(server.channel.clone());
    let left = client.list(crate::server::plain(ListRequest::default())).await.unwrap().into_inner().leases;
    assert_eq!(left.iter().map(|lease| lease.id.as_str()).collect::<Vec<_>>(), ["somebody's"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_client_is_sending_is_waited_for() {
    if !root() {
        return;
    }
    let (made, image) = large();
    let (server, fake) = (Server::start().await, Fake::of(&made, &image.manifest).await);
    let mut sessions = Vec::new();
    for name in [format!("manifest-{}", image.manifest), format!("layer-{}", image.layers[0])] {
        let (send, queue) = tokio::sync::mpsc::channel(1);
        let open = WriteContentRequest { r#ref: name, ..Default::default() };
        send.send(open).await.unwrap();
        let mut client = ContentClient::new(server.channel.clone());
        let requests = crate::server::plain(tokio_stream::wrappers::ReceiverStream::new(queue));
        let mut answers = client.write(requests).await.unwrap().into_inner();
        answers.message().await.unwrap().unwrap();
        sessions.push((send, answers));
    }
    let name = fake.name("a:t");
    let pulling = pull(&server, &name);
    tokio::pin!(pulling);
    let early = tokio::time::timeout(Duration::from_millis(700), &mut pulling).await;
    assert!(early.is_err(), "{early:?}");
    drop(sessions);
    tokio::time::timeout(Duration::from_secs(20), pulling).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_upload_left_wrong_is_replaced() {
    if !root() {
        return;
    }
    let (made, image) = large();
    let (server, fake) = (Server::start().await, Fake::of(&made, &image.manifest).await);
    for (name, size) in [
        (format!("manifest-{}", image.manifest), made.blobs[&image.manifest].len()),
        (format!("layer-{}", image.layers[0]), 1000),
        (format!("config-{}", image.config), made.blobs[&image.config].len() + 1),
    ] {
        let write = WriteContentRequest {
            action: WriteAction::Write as i32,
            r#ref: name,
            data: vec![0; size].into(),
            ..Default::default()
        };
        let mut client = ContentClient::new(server.channel.clone());
        let mut answers = client.write(crate::server::plain(tokio_stream::iter([write]))).await.unwrap().into_inner();
        while answers.message().await.unwrap().is_some() {}
    }
    assert_eq!(ingests(&server).await.len(), 3);
    // The layer goes on where the upload stands, which cannot come out well: it is fetched anew.
    pull(&server, &fake.name("a:t")).await.unwrap();
    let offsets: Vec<usize> = fake.blob_requests(&image.layers[0]).iter().map(Asked::offset).collect();
    assert_eq!(offsets, [1000, 0]);
    assert_eq!(ingests(&server).await.len(), 0);
}
