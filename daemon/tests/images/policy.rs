//! When a registry is slow, busy or never content: each ends within policy, and says why.

use std::time::Duration;

use proto::types::transfer::{AuthResponse, AuthType};
use tonic::Code;

use crate::client::{Left, image_names, pull, pull_as};
use crate::fake::{Answer, Asked, Fake, Send, changed};
use crate::fixtures::{Compress, Image, Made, layer, noise, root};
use crate::server::{Server, config, refused};

fn made() -> (Made, Image) {
    let mut made = Made::default();
    let image = made.image("amd64", &[layer(&[("noise", &noise(300_000))])], Compress::No);
    (made, image)
}

/// A daemon that is told this.
async fn told(text: &str) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    std::fs::write(&file, format!("version = 2\n{text}")).unwrap();
    let mut config = config(folder.path());
    config.document = daemon::config::Document::load(&file).unwrap();
    Server::start_with(config, folder).await
}

/// A daemon that waits only so long.
async fn impatient() -> Server {
    told("[images]\nsilence = '300ms'\n").await
}

/// No image, no snapshot; of blobs at most an upload to resume.
async fn nothing_recorded(server: &Server) {
    let left = Left::of(server).await;
    assert_eq!((left.images.len(), left.snapshots.len(), left.leases), (0, 0, 0), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_falls_silent_is_given_up() {
    let (made, image) = made();
    let layer = image.layers[0].clone();
    let fake = changed(&made, &image, move |asked, _, mut good| {
        if asked.is_blob(&layer) {
            good.send = Send::Stall(if asked.offset() == 0 { 100_000 } else { 0 });
        }
        good
    })
    .await;
    let server = impatient().await;
    refused(pull(&server, &fake.name("a:t")).await, Code::Unavailable, &fake.host);
    nothing_recorded(&server).await;
    // What came is gone on with.
    let offsets: Vec<usize> = fake.blob_requests(&image.layers[0]).iter().map(Asked::offset).collect();
    assert!(offsets.len() > 1 && offsets[1..].iter().all(|offset| *offset == 100_000), "{offsets:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_sends_next_to_nothing_is_given_up() {
    let (made, image) = made();
    let layer = image.layers[0].clone();
    let fake = changed(&made, &image, move |asked, _, mut good| {
        if asked.is_blob(&layer) {
            good.send = Send::Drip(0);
        }
        good
    })
    .await;
    let server = impatient().await;
    refused(pull(&server, &fake.name("a:t")).await, Code::Unavailable, "sent only");
    nothing_recorded(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_busy_is_asked_when_it_says() {
    if !root() {
        return;
    }
    let (made, image) = made();
    let fake = changed(&made, &image, |_, before, good| match before {
        0 => Answer::new(429, "slow down").with("Retry-After", "1"),
        _ => good,
    })
    .await;
    let server = Server::start().await;
    pull(&server, &fake.name("a:t")).await.unwrap();
    assert_eq!(fake.blob_requests(&image.layers[0]).len(), 2);
    // Longer than anybody waits.
    let fake = Fake::start(|_, _| Answer::new(429, "slow down").with("Retry-After", "7200")).await;
    let error = tokio::time::timeout(Duration::from_secs(30), pull(&server, &fake.name("a:t"))).await.unwrap();
    let error = error.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    assert!(error.message().contains("asks to wait 7200 s") && error.message().contains("slow down"), "{error:?}");
    assert_eq!(fake.asked().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_never_content_is_asked_twice() {
    let (made, image) = made();
    let fake = changed(&made, &image, |_, _, _| {
        Answer::new(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you?"}]}"#)
            .with("WWW-Authenticate", "Basic realm=\"here\"")
    })
    .await;
    let server = Server::start().await;
    let mut asks = 0;
    let outcome = pull_as(&server, &fake.name("a:t"), |_| {
        asks += 1;
        let kind = AuthType::Credentials.into();
        AuthResponse { auth_type: kind, username: "u".into(), secret: "p".into(), ..Default::default() }
    })
    .await;
    refused(outcome, Code::PermissionDenied, "who are you? (UNAUTHORIZED)");
    assert_eq!((asks, fake.asked().len()), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_sends_us_in_circles_is_left() {
    let fake = Fake::start(|asked, _| Answer::new(307, "").with("Location", asked.path.clone())).await;
    let server = Server::start().await;
    refused(pull(&server, &fake.name("a:t")).await, Code::Unknown, "redirects more than");
    assert!(fake.asked().len() < 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_of_a_failed_pull_are_kept_for_the_next_one() {
    if !root() {
        return;
    }
    let mut made = Made::default();
    let image = made.image("amd64", &[layer(&[("a", &noise(50_000))]), layer(&[("b", &noise(60_000))])], Compress::No);
    let last = image.layers[1].clone();
    let fake = changed(&made, &image, move |asked, before, good| match asked.is_blob(&last) && before == 0 {
        true => Answer::new(403, "not yet"),
        false => good,
    })
    .await;
    // One after the other, so that the first is here when the second fails.
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.transfer.downloads = 1;
    let server = Server::start_with(config, folder).await;
    refused(pull(&server, &fake.name("a:t")).await, Code::PermissionDenied, "not yet");
    // What the pull held is let go beside its answer.
    let kept = async {
        loop {
            let leases = crate::client::lease_labels(&server).await;
            if let [labels] = &leases[..]
                && labels.contains_key("gantry.io/kept-for")
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), kept).await.expect("one lease keeps what was fetched");
    crate::client::collect(&server).await;
    pull(&server, &fake.name("a:t")).await.unwrap();
    assert_eq!(fake.blob_requests(&image.layers[0]).len(), 1, "the first layer was kept");
    assert_eq!(image_names(&server).await, [fake.name("a:t")]);
    assert_eq!(crate::client::leases(&server).await, 0, "nothing is kept of what is on record");
}

#[tokio::test(flavor = "multi_thread")]
async fn verifiers_have_a_say_before_anything_is_fetched() {
    use std::os::unix::fs::PermissionsExt as _;
    let (made, image) = made();
    let fake = Fake::of(&made, &image.manifest).await;
    let folder = tempfile::tempdir().unwrap();
    let bin = folder.path().join("verifiers");
    std::fs::create_dir(&bin).unwrap();
    let script = bin.join("strict");
    std::fs::write(&script, "#!/bin/sh\necho \"$2 is not signed\"\nexit 1\n").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let text = format!("[plugins.'io.containerd.image-verifier.v1.bindir']\nbin_dir = '{}'\n", bin.display());
    let server = told(&text).await;
    let name = fake.name("a:t");
    refused(pull(&server, &name).await, Code::PermissionDenied, &format!("{name} is not signed"));
    nothing_recorded(&server).await;
    assert!(fake.asked().iter().all(|asked| !asked.path.contains("/blobs/")));
}
