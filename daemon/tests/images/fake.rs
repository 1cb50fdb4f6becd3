//! A registry that does what it is told, and remembers what it was asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::fixtures::{Image, Made};

/// A request.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Asked {
    pub fn is_blob(&self, digest: &str) -> bool {
        self.bare().ends_with(&format!("/blobs/{digest}"))
    }

    /// The path without a query.
    pub fn bare(&self) -> &str {
        self.path.split('?').next().unwrap()
    }

    /// From where on it asks for a blob.
    pub fn offset(&self) -> usize {
        self.range().0
    }

    /// From where on it asks for a blob, and up to where, if it says so.
    pub fn range(&self) -> (usize, Option<usize>) {
        let Some(range) = self.headers.get("range") else { return (0, None) };
        let (begin, end) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        (begin.parse().unwrap(), end.parse::<usize>().ok().map(|last| last + 1))
    }
}

/// What to do with the body of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Send {
    #[default]
    All,
    /// So many bytes, then the connection closes.
    Cut(usize),
    /// So many bytes, then nothing.
    Stall(usize),
    /// So many bytes, then one after the other, slowly.
    Drip(usize),
}

#[derive(Debug, Clone, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub send: Send,
    /// Claims another length than the body has.
    pub length: Option<usize>,
}

impl Answer {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, body: body.into(), ..Self::default() }
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

pub struct Fake {
    pub host: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    serving: JoinHandle<()>,
}

impl Fake {
    /// Serves with `answer`, which also hears how often the same was asked before.
    pub async fn start(answer: impl Fn(&Asked, usize) -> Answer + std::marker::Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer) = (Arc::clone(&asked), Arc::new(answer));
        let serving = tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                tokio::spawn(async move {
                    let decide = |asked: &Asked| {
                        let mut seen = seen.lock().unwrap();
                        let before =
                            seen.iter().filter(|one: &&Asked| (&one.method, &one.path) == (&asked.method, &asked.path));
                        let before = before.count();
                        seen.push(asked.clone());
                        drop(seen);
                        answer(asked, before)
                    };
                    serve(connection, decide).await;
                });
            }
        });
        Self { host, asked, serving }
    }

    /// Serves what was made under `tag`.
    pub async fn of(made: &Made, root: &str) -> Self {
        let (made, root) = (made.clone(), root.to_owned());
        Self::start(move |asked, _| serve_made(&made, &root, asked)).await
    }

    pub fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.host)
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub fn blob_requests(&self, digest: &str) -> Vec<Asked> {
        self.asked().into_iter().filter(|asked| asked.is_blob(digest)).collect()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// What a good registry answers; `root` is what every tag names.
pub fn serve_made(made: &Made, root: &str, asked: &Asked) -> Answer {
    let last = asked.bare().rsplit('/').next().unwrap();
    if asked.bare() == "/v2/" {
        return Answer::new(200, "{}");
    }
    if asked.path.contains("/manifests/") {
        let digest = if last.contains(':') { last } else { root };
        return match (made.blobs.get(digest), made.media_types.get(digest)) {
            (Some(bytes), Some(media_type)) => {
                Answer::new(200, bytes.clone()).with("Content-Type", media_type).with("Docker-Content-Digest", digest)
            }
            _ => unknown("MANIFEST_UNKNOWN"),
        };
    }
    match made.blobs.get(last) {
        Some(bytes) if asked.headers.contains_key("range") => {
            let (at, end) = asked.range();
            let end = end.unwrap_or(bytes.len()).min(bytes.len());
            let range = format!("bytes {at}-{}/{}", end - 1, bytes.len());
            Answer::new(206, &bytes[at..end]).with("Content-Range", range)
        }
        Some(bytes) => Answer::new(200, bytes.clone()),
        None => unknown("BLOB_UNKNOWN"),
    }
}

pub fn unknown(code: &str) -> Answer {
    Answer::new(404, format!(r#"{{"errors":[{{"code":"{code}","message":"it is not here"}}]}}"#))
}

async fn serve(connection: TcpStream, decide: impl Fn(&Asked) -> Answer) {
    let mut connection = BufReader::new(connection);
    let mut line = String::new();
    if connection.read_line(&mut line).await.is_err() {
        return;
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return };
    let mut asked = Asked { method, path, ..Asked::default() };
    loop {
        line.clear();
        if connection.read_line(&mut line).await.is_err() || line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.trim().split_once(':') {
            asked.headers.insert(name.to_lowercase(), value.trim().to_owned());
        }
    }
    let length = asked.headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    let _ = connection.read_exact(&mut body).await;
    asked.body = String::from_utf8_lossy(&body).into_owned();
    let answer = decide(&asked);
    let mut head = format!("HTTP/1.1 {} -\r\nConnection: close\r\n", answer.status);
    head += &format!("Content-Length: {}\r\n", answer.length.unwrap_or(answer.body.len()));
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    let body = match answer.send {
        _ if asked.method == "HEAD" => &[],
        Send::All => &answer.body[..],
        Send::Cut(length) | Send::Stall(length) | Send::Drip(length) => &answer.body[..length.min(answer.body.len())],
    };
    let _ = connection.write_all(head.as_bytes()).await;
    let _ = connection.write_all(body).await;
    let _ = connection.flush().await;
    if let Send::Drip(sent) = answer.send {
        for byte in answer.body.iter().skip(sent) {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if connection.write_all(&[*byte]).await.is_err() || connection.flush().await.is_err() {
                return;
            }
        }
    }
    if let Send::Stall(_) = answer.send {
        tokio::time::sleep(Duration::from_secs(3600)).await;
    }
    let _ = connection.shutdown().await;
}

/// A good registry but for what `change` does to its answers.
pub async fn changed(
    made: &Made,
    image: &Image,
    change: impl Fn(&Asked, usize, Answer) -> Answer + std::marker::Send + Sync + 'static,
) -> Fake {
    let (made, root) = (made.clone(), image.manifest.clone());
    Fake::start(move |asked, before| change(asked, before, serve_made(&made, &root, asked))).await
}
