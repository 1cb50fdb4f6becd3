//! A real registry behind a proxy that breaks what it passes on: each fault ends within policy, and nothing wrong is kept.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use tonic::Code;

use crate::client::{Left, contents, image_names, pull, snapshots};
use crate::fake::{Answer, Asked, Fake, Send};
use crate::fixtures::{Compress, Image, Made, two_layers};
use crate::registry::Registry;
use crate::server::Server;

/// What the registry says, asked on a connection of its own.
fn forward(registry: &str, asked: &Asked) -> Answer {
    let mut connection = TcpStream::connect(registry).unwrap();
    let mut head = format!("{} {} HTTP/1.0\r\nHost: {registry}\r\n", asked.method, asked.path);
    for (name, value) in asked.headers.iter().filter(|(name, _)| !["host", "connection"].contains(&name.as_str())) {
        head += &format!("{name}: {value}\r\n");
    }
    connection.write_all(format!("{head}\r\n").as_bytes()).unwrap();
    let mut bytes = Vec::new();
    connection.read_to_end(&mut bytes).unwrap();
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let mut answer = Answer::new(status, &bytes[end + 4..]);
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        if !["content-length", "connection"].contains(&name.to_lowercase().as_str()) {
            answer.headers.push((name.to_owned(), value.to_owned()));
        }
    }
    answer
}

/// What a proxy does to the answers for one layer, or for documents.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// The connection breaks, each time.
    Reset,
    /// A byte is another one.
    Flipped,
    /// It says that there is more, or less, than there is.
    Longer,
    Shorter,
    Status(u16),
    /// Documents are something else than they are.
    ContentType,
    /// Credentials are wanted that are never right.
    Unauthorized,
}

async fn proxy(registry: &Registry, layer: &str, fault: Fault) -> Fake {
    let (registry, layer) = (registry.host.clone(), layer.to_owned());
    Fake::start(move |asked, _| {
        let mut answer = forward(&registry, asked);
        let (is_layer, is_document) = (asked.is_blob(&layer), asked.path.contains("/manifests/"));
        match fault {
            Fault::None => {}
            Fault::ContentType if is_document => {
                answer.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("content-type"));
                answer.headers.push(("Content-Type".into(), "application/vnd.oci.image.index.v1+json".into()));
            }
            Fault::Unauthorized => {
                return Answer::new(401, "go away").with("WWW-Authenticate", "Basic realm=\"x\"");
            }
            _ if !is_layer => {}
            Fault::Reset => answer.send = Send::Cut(answer.body.len() / 2),
            Fault::Flipped => answer.body[10] ^= 0x20,
            Fault::Longer => {
                answer.body.extend_from_slice(b"more");
            }
            Fault::Shorter => {
                answer.body.pop();
            }
            Fault::Status(status) => return Answer::new(status, "the proxy says no"),
            Fault::ContentType => {}
        }
        answer
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_ends_with_an_error_that_says_what_it_was() {
    let Some(registry) = Registry::start() else { return };
    let mut made = Made::default();
    let image: Image = made.image("amd64", &two_layers(), Compress::Gzip);
    registry.push(&made, &image.manifest, "a:t");
    let layer = &image.layers[0];
    let cases = [
        (Fault::Reset, Code::Unavailable, "cannot get blob"),
        (Fault::Flipped, Code::DataLoss, "was asked for"),
        (Fault::Longer, Code::DataLoss, "bytes of"),
        (Fault::Shorter, Code::Unavailable, "ended after"),
        (Fault::Status(404), Code::NotFound, "the proxy says no"),
        (Fault::Status(403), Code::PermissionDenied, "the proxy says no"),
        (Fault::Status(429), Code::ResourceExhausted, "the proxy says no"),
        (Fault::Status(500), Code::Unavailable, "answers 500"),
        (Fault::ContentType, Code::InvalidArgument, "was sent as"),
        (Fault::Unauthorized, Code::PermissionDenied, "go away"),
    ];
    let one = |(fault, code, words): (Fault, Code, &'static str)| {
        let (registry, made) = (&registry, &made);
        async move {
            let server = Server::start().await;
            let fake = proxy(registry, layer, fault).await;
            let error = pull(&server, &fake.name("a:t")).await.unwrap_err();
            assert_eq!(error.code(), code, "{fault:?}: {error:?}");
            assert!(error.message().contains(words), "{fault:?}: {error:?}");
            assert!(error.message().contains(&fake.host), "{fault:?} names the host: {error:?}");
            let left = Left::of(&server).await;
            assert_eq!((left.images.len(), left.snapshots.len()), (0, 0), "{fault:?}: {left:?}");
            for blob in contents(&server).await {
                assert_eq!(blob.size as usize, made.blobs[&blob.digest].len(), "{fault:?}");
            }
            assert!(contents(&server).await.iter().all(|blob| blob.digest != *layer), "{fault:?}");
            // Nothing of it stands in the way of the next pull.
            let good = proxy(registry, layer, Fault::None).await;
            pull(&server, &good.name("a:t")).await.unwrap_or_else(|error| panic!("{fault:?}: {error:?}"));
            assert_eq!((image_names(&server).await.len(), snapshots(&server).await.len()), (1, 2), "{fault:?}");
        }
    };
    futures_util::future::join_all(cases.map(one)).await;
}
