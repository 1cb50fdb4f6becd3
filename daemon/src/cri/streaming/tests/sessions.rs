//! What clients do every day.

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;

use super::client::Client;
use super::{ALL, Rig, Session, Wanted, shouting};

/// Opens the streams of an exec; gives the ids of error, stdin, stdout, stderr.
async fn open_all(client: &mut Client<TcpStream>) -> [u32; 4] {
    let mut ids = [0; 4];
    for (id, kind) in ids.iter_mut().zip(["error", "stdin", "stdout", "stderr"]) {
        *id = client.open(&[("streamType", kind)]).await;
    }
    ids
}

#[tokio::test]
async fn exec_over_spdy_carries_all_streams_and_the_exit_code() {
    let rig = Rig::new().await;
    let path = rig.exec(&["sh", "-c", "cat; echo oops >&2; exit 3"], ALL);
    let mut client = Client::connect(rig.address, &path, "v4.channel.k8s.io").await;
    let [error, stdin, stdout, stderr] = open_all(&mut client).await;
    client.send(stdin, b"one ", false).await;
    client.ping(9).await;
    client.send(stdin, b"two", true).await;
    client.until_the_end().await;
    assert_eq!((client.text(stdout).as_str(), client.text(stderr).as_str()), ("one two", "oops\n"));
    let report: serde_json::Value = serde_json::from_str(&client.text(error)).unwrap();
    assert_eq!(report["details"]["causes"][0]["message"], "3");
    assert!(client.control.contains(&6), "the ping is answered: {:?}", client.control);
}

#[tokio::test]
async fn old_versions_report_in_plain_text_and_success_by_silence() {
    let rig = Rig::new().await;
    for (command, report) in [("exit 0", ""), ("exit 4", "command terminated with non-zero exit code: 4")] {
        let path = rig.exec(&["sh", "-c", command], ALL);
        let mut client = Client::connect(rig.address, &path, "v2.channel.k8s.io, channel.k8s.io").await;
        let [error, ..] = open_all(&mut client).await;
        client.until_the_end().await;
        assert_eq!(client.text(error), report);
    }
    let path = rig.exec(&["/no/such/program"], ALL);
    let mut client = Client::connect(rig.address, &path, "v1.unknown, v4.channel.k8s.io").await;
    let [error, ..] = open_all(&mut client).await;
    client.until_the_end().await;
    assert!(client.text(error).contains("InternalError"), "{}", client.text(error));
}

#[tokio::test]
async fn megabytes_go_both_ways_at_once() {
    let rig = Rig::new().await;
    let path = rig.exec(&["cat"], Wanted { stderr: false, ..ALL });
    let mut client = Client::connect(rig.address, &path, "v4.channel.k8s.io").await;
    let error = client.open(&[("streamtype", "error")]).await;
    let stdin = client.open(&[("streamtype", "stdin")]).await;
    let stdout = client.open(&[("streamtype", "stdout")]).await;
    let piece = vec![b'x'; 100_000];
    for _ in 0..40 {
        client.send(stdin, &piece, false).await;
        while client.got.get(&stdout).map_or(0, |(bytes, _)| bytes.len()) == 0 {
            client.frame().await;
        }
    }
    client.send(stdin, b"", true).await;
    client.until_the_end().await;
    assert_eq!(client.text(stdout).len(), 4_000_000);
    assert!(client.text(error).contains("Success"));
    assert!(client.control.contains(&9), "windows are opened again");
}

#[tokio::test]
async fn a_terminal_hears_of_its_size() {
    let rig = Rig::new().await;
    let path = rig.exec(&["true"], Wanted { stdin: false, stdout: true, stderr: false, tty: true });
    let mut client = Client::connect(rig.address, &path, "v3.channel.k8s.io").await;
    client.open(&[("streamType", "error")]).await;
    let stdout = client.open(&[("streamType", "stdout")]).await;
    let resize = client.open(&[("streamType", "resize")]).await;
    client.send(resize, br#"{"Width":120,"Height":40}"#, false).await;
    client.until_the_end().await;
    assert_eq!(client.text(stdout), "120x40");
}

#[tokio::test]
async fn ports_are_forwarded_in_pairs_of_streams() {
    let rig = Rig::new().await;
    let port = shouting().await.to_string();
    let mut client = Client::connect(rig.address, &rig.forward(&[]), "portforward.k8s.io").await;
    let mut pairs = Vec::new();
    for request in ["0", "1", "2"] {
        let error = client.open(&[("streamType", "error"), ("port", &port), ("requestID", request)]).await;
        let data = client.open(&[("streamType", "data"), ("port", &port), ("requestID", request)]).await;
        pairs.push((error, data));
    }
    // Clients before the request ids.
    let error = client.open(&[("streamType", "error"), ("port", &port)]).await;
    let data = client.open(&[("streamType", "data"), ("port", &port)]).await;
    pairs.push((error, data));
    for (_, data) in &pairs {
        client.send(*data, format!("hello {data}").as_bytes(), true).await;
    }
    for (error, data) in pairs {
        assert_eq!(client.all(data).await, format!("HELLO {data}"));
        assert_eq!(client.all(error).await, "");
    }
    let error = client.open(&[("streamType", "error"), ("port", "1"), ("requestID", "9")]).await;
    client.open(&[("streamType", "data"), ("port", "1"), ("requestID", "9")]).await;
    let text = client.all(error).await;
    assert!(text.contains("forwarding port 1 to pod p") && text.contains("refused"), "{text}");
}

async fn websocket(rig: &Rig, path: &str, protocol: &str) -> WebSocketStream<TcpStream> {
    let mut request = format!("ws://{}{path}", rig.address).into_client_request().unwrap();
    if !protocol.is_empty() {
        request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_str(protocol).unwrap());
    }
    let socket = TcpStream::connect(rig.address).await.unwrap();
    tokio_tungstenite::client_async(request, socket).await.unwrap().0
}

/// All binary messages until the end, joined by channel.
async fn by_channel(socket: &mut WebSocketStream<TcpStream>) -> [String; 4] {
    let mut got: [Vec<u8>; 4] = Default::default();
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Binary(bytes) = message {
            got[usize::from(bytes[0])].extend_from_slice(&bytes[1..]);
        }
    }
    got.map(|bytes| String::from_utf8(bytes).unwrap())
}

#[tokio::test]
async fn exec_over_a_websocket_with_half_close() {
    let rig = Rig::new().await;
    let path = rig.exec(&["sh", "-c", "cat; echo oops >&2; exit 5"], ALL);
    let mut socket = websocket(&rig, &path, "v5.channel.k8s.io").await;
    socket.send(Message::binary(b"\0hello".to_vec())).await.unwrap();
    socket.send(Message::binary(vec![255, 0])).await.unwrap();
    let [_, stdout, stderr, error] = by_channel(&mut socket).await;
    assert_eq!((stdout.as_str(), stderr.as_str()), ("hello", "oops\n"));
    assert!(error.contains(r#""message":"5""#), "{error}");
}

#[tokio::test]
async fn a_websocket_that_names_no_protocol_speaks_the_oldest() {
    let rig = Rig::new().await;
    let path = rig.exec(&["sh", "-c", "echo out; exit 1"], Wanted { stdin: false, ..ALL });
    let [_, stdout, _, error] = by_channel(&mut websocket(&rig, &path, "").await).await;
    assert_eq!((stdout.as_str(), error.as_str()), ("out\n", "command terminated with non-zero exit code: 1"));
    let path = rig.exec(&["sh", "-c", "echo out"], Wanted { stdin: false, stderr: false, ..ALL });
    let mut socket = websocket(&rig, &path, "base64.channel.k8s.io").await;
    let mut texts = Vec::new();
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Text(text) = message {
            texts.push(text.to_string());
        }
    }
    assert_eq!(texts, ["1", "1b3V0Cg=="]);
}

#[tokio::test]
async fn attach_ends_with_its_client_or_its_process() {
    let rig = Rig::new().await;
    let attach = || Session::Attach { container: "c".to_owned(), wanted: Wanted { stderr: false, ..ALL } };
    let mut socket = websocket(&rig, &rig.path(attach()), "v5.channel.k8s.io").await;
    socket.send(Message::binary(b"\0echo".to_vec())).await.unwrap();
    socket.send(Message::binary(vec![255, 0])).await.unwrap();
    let [_, stdout, _, error] = by_channel(&mut socket).await;
    assert_eq!((stdout.as_str(), error.as_str()), ("echo", r#"{"metadata":{},"status":"Success"}"#));
}

#[tokio::test]
async fn ports_are_forwarded_over_websockets_old_and_new() {
    let rig = Rig::new().await;
    let port = shouting().await;
    let mut socket = websocket(&rig, &rig.forward(&[port]), "v4.channel.k8s.io").await;
    socket.send(Message::binary(b"\0hello".to_vec())).await.unwrap();
    let [low, high] = port.to_le_bytes();
    let mut firsts = Vec::new();
    while firsts.len() < 2 {
        if let Message::Binary(bytes) = socket.next().await.unwrap().unwrap() {
            firsts.push(bytes.to_vec());
        }
    }
    assert_eq!(firsts, [vec![0, low, high], vec![1, low, high]]);
    drop(socket);

    let socket = websocket(&rig, &rig.forward(&[]), "SPDY/3.1+portforward.k8s.io").await;
    let mut client = Client::over(super::super::websocket::tunnel(socket, &tokio_util::task::TaskTracker::new()));
    let (error, data) = {
        let headers = |kind| [("streamType", kind), ("requestID", "7")];
        let port = port.to_string();
        let error = client.open(&[headers("error").as_slice(), &[("port", &port)]].concat()).await;
        (error, client.open(&[headers("data").as_slice(), &[("port", &port)]].concat()).await)
    };
    client.send(data, b"tunnelled", true).await;
    assert_eq!(client.all(data).await, "TUNNELLED");
    assert_eq!(client.all(error).await, "");
}
