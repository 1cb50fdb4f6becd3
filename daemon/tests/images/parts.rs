//! Large blobs in parts, and registries that are not good at it.

use std::sync::Arc;

use crate::client::{image_names, pull, snapshots};
use crate::fake::{Answer, Asked, Fake, Send, changed};
use crate::fixtures::{Compress, Image, Made, layer, noise, root};
use crate::server::Server;

/// An image with a layer that is worth parts.
fn huge() -> (Made, Image) {
    let mut made = Made::default();
    let image = made.image("amd64", &[layer(&[("noise", &noise(9_000_000))])], Compress::No);
    (made, image)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_blob_comes_in_parts_that_cover_it_once() {
    if !root() {
        return;
    }
    let (made, image) = huge();
    let (server, fake) = (Server::start().await, Fake::of(&made, &image.manifest).await);
    pull(&server, &fake.name("a:t")).await.unwrap();
    let mut ranges: Vec<_> = fake.blob_requests(&image.layers[0]).iter().map(Asked::range).collect();
    ranges.sort_unstable();
    let size = made.blobs[&image.layers[0]].len();
    assert!(ranges.len() > 3, "{ranges:?}");
    let mut at = 0;
    for (begin, end) in ranges {
        assert_eq!(begin, at);
        at = end.unwrap();
    }
    assert_eq!(at, size);
    assert_eq!(snapshots(&server).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_sends_all_instead_is_fine() {
    if !root() {
        return;
    }
    let (made, image) = huge();
    let bytes = Arc::new(made.blobs[&image.layers[0]].clone());
    let layer = image.layers[0].clone();
    let fake = changed(&made, &image, move |asked, _, good| match asked.is_blob(&layer) {
        true => Answer::new(200, bytes.to_vec()),
        false => good,
    })
    .await;
    let server = Server::start().await;
    pull(&server, &fake.name("a:t")).await.unwrap();
    assert_eq!(fake.blob_requests(&image.layers[0]).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_fails_is_gone_on_with_in_one_stream() {
    if !root() {
        return;
    }
    let (made, image) = huge();
    let layer = image.layers[0].clone();
    let fake = changed(&made, &image, move |asked, _, mut good| {
        let (begin, end) = asked.range();
        if asked.is_blob(&layer) && begin > 0 && end.is_some() {
            // Only the first part is whole.
            good.send = Send::Cut(1000);
        }
        good
    })
    .await;
    let server = Server::start().await;
    pull(&server, &fake.name("a:t")).await.unwrap();
    let last = fake.blob_requests(&image.layers[0]).last().unwrap().range();
    assert!(last.0 > 0 && last.1.is_none(), "{last:?}");
    assert_eq!(image_names(&server).await, [fake.name("a:t")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_from_the_wrong_place_are_not_believed() {
    let (made, image) = huge();
    let layer = image.layers[0].clone();
    let fake = changed(&made, &image, move |asked, _, good| {
        let (begin, end) = asked.range();
        if asked.is_blob(&layer) && begin > 0 {
            let end = end.map_or_else(String::new, |end| end.to_string());
            return Answer::new(206, good.body).with("Content-Range", format!("bytes 0-{end}/9001472"));
        }
        good
    })
    .await;
    let server = Server::start().await;
    let error = pull(&server, &fake.name("a:t")).await.unwrap_err();
    assert!(error.message().contains("bytes from 0 on instead of"), "{error:?}");
    assert!(image_names(&server).await.is_empty());
}
