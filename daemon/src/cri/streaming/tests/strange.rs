//! What only broken or hostile clients do. Each loses its own connection, and the server goes on.

use std::time::Duration;

use proptest::prelude::{ProptestConfig, any, proptest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::task::TaskTracker;

use super::client::{Client, request};
use super::{ALL, Rig};
use crate::cri::streaming::spdy::Connection;

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n";

#[tokio::test]
async fn bad_requests_are_refused_in_words() {
    let rig = Rig::new().await;
    let exec = || rig.exec(&["true"], ALL);
    let protocols = format!("{UPGRADE}X-Stream-Protocol-Version: v9.channel.k8s.io\r\n");
    let old = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 8\r\n";
    let used = exec();
    drop(Client::connect(rig.address, &used, "v4.channel.k8s.io").await);
    for (method, path, headers, status) in [
        ("PUT", exec(), UPGRADE, "405"),
        ("GET", "/".to_owned(), UPGRADE, "404"),
        ("GET", "/exec/unknown".to_owned(), UPGRADE, "404"),
        ("GET", used, UPGRADE, "404"),
        ("GET", exec().replace("exec", "attach"), UPGRADE, "404"),
        ("GET", format!("{}/more", exec()), UPGRADE, "404"),
        ("GET", exec(), "", "400"),
        ("GET", exec(), &protocols, "403"),
        ("GET", exec(), old, "426"),
    ] {
        let (answer, _) = request(rig.address, method, &path, headers).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{method} {path} {headers:?}: {answer}");
    }
}

#[tokio::test]
async fn streams_that_nobody_asked_for_end_the_session() {
    let rig = Rig::new().await;
    for kinds in [&["error", "stdin", "video"][..], &["error", "error"]] {
        let mut client = Client::connect(rig.address, &rig.exec(&["true"], ALL), "v4.channel.k8s.io").await;
        for kind in kinds {
            client.open(&[("streamType", kind)]).await;
        }
        client.until_the_end().await;
        assert!(client.got.is_empty());
    }
}

#[tokio::test]
async fn a_silent_client_is_left() {
    let rig = Rig::with_idle(Duration::from_millis(50)).await;
    let mut client = Client::connect(rig.address, &rig.forward(&[]), "portforward.k8s.io").await;
    client.until_the_end().await;
    assert!(client.closed);
}

#[tokio::test]
async fn data_for_a_stream_that_was_never_opened_ends_the_connection() {
    let rig = Rig::new().await;
    let mut client = Client::connect(rig.address, &rig.forward(&[]), "portforward.k8s.io").await;
    client.send(5, b"data", false).await;
    client.until_the_end().await;
    assert!(client.closed);
}

#[tokio::test]
async fn thousands_of_streams_that_nobody_keeps_are_no_burden() {
    let rig = Rig::new().await;
    let mut client = Client::connect(rig.address, &rig.forward(&[]), "portforward.k8s.io").await;
    // All are of no known type, so none is kept and none is refused.
    for _ in 0..2000 {
        client.open(&[("streamType", "none")]).await;
    }
    client.ping(1).await;
    while !client.control.contains(&6) {
        client.frame().await;
    }
    assert_eq!(client.control.iter().filter(|kind| **kind == 2).count(), 2000);
    assert!(!client.control.contains(&3));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any bytes end the connection or are waited for; nothing panics, and the connection ends when the client goes.
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..400), control in any::<bool>(), kind in 0_u8..10) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut client, server) = tokio::io::duplex(1 << 16);
            let tracker = TaskTracker::new();
            let mut connection = Connection::new(server, Duration::from_secs(60), &tracker);
            let mut bytes = bytes;
            if control && bytes.len() >= 8 {
                let len = u8::try_from((bytes.len() - 8).min(255)).unwrap();
                bytes[..8].copy_from_slice(&[0x80, 3, 0, kind, 0, 0, 0, len]);
            }
            client.write_all(&bytes).await.unwrap();
            client.shutdown().await.unwrap();
            while connection.accept().await.is_some() {}
            drop(connection);
            let mut rest = Vec::new();
            client.read_to_end(&mut rest).await.unwrap();
            tracker.close();
            tracker.wait().await;
        });
    }
}
