//! What goes to a registry and comes back, line by line, for whoever asked to see it (`http_debug`, `http_trace`).
//!
//! Lines go to the client's `logs_stream`, or to the log of the daemon. What they hold of credentials is left out. A reader that is
//! too slow loses lines: a transfer does not wait for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proto::bytes::Bytes;
use reqwest::header::{AUTHORIZATION, COOKIE, HeaderMap, PROXY_AUTHORIZATION, SET_COOKIE};
use reqwest::{Method, Response, Url};
use tokio::sync::mpsc;

use crate::streaming::Channel;
use crate::streaming::bytes::Sender;

/// Lines that wait for their reader.
const LINES_AHEAD: usize = 256;

/// How much is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Level {
    /// Nothing.
    #[default]
    Off,
    /// Requests and answers.
    Debug,
    /// Connections and times.
    Trace,
    /// Both.
    Both,
}

impl Level {
    fn requests(self) -> bool {
        matches!(self, Self::Debug | Self::Both)
    }

    fn connections(self) -> bool {
        matches!(self, Self::Trace | Self::Both)
    }
}

/// Takes what happens. Clones write to the same place.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    level: Level,
    lines: Option<mpsc::Sender<Bytes>>,
    number: Arc<AtomicU64>,
}

impl Trace {
    /// Shows nothing.
    pub fn off() -> Self {
        Self::default()
    }

    /// Shows what `level` says, on `channel` if there is one. To be called within the runtime.
    pub fn new(level: Level, channel: Option<Channel>) -> Self {
        let lines = channel.map(|channel| {
            let (lines, mut queue) = mpsc::channel::<Bytes>(LINES_AHEAD);
            let mut target = Sender::new(channel);
            // Ends with the last clone of this, or with the client.
            tokio::spawn(async move {
                while let Some(line) = queue.recv().await {
                    if target.send(line).await.is_err() {
                        return;
                    }
                }
            });
            lines
        });
        Self { level, lines, number: Arc::default() }
    }

    /// Whether anything is shown.
    pub fn is_on(&self) -> bool {
        self.level != Level::Off
    }

    pub(super) fn request(&self, method: &Method, url: &Url, headers: &HeaderMap) -> u64 {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        if self.level.requests() {
            self.say(format!("[{number}] > {method} {}\n{}", shown(url), fields(number, '>', headers)));
        }
        number
    }

    pub(super) fn answer(&self, number: u64, response: &Response, took: Duration) {
        if self.level.requests() {
            let head = format!("[{number}] < {:?} {}\n", response.version(), response.status());
            self.say(head + &fields(number, '<', response.headers()));
        }
        if self.level.connections() {
            let from = response.remote_addr().map_or_else(|| "?".to_owned(), |address| address.to_string());
            self.say(format!("[{number}] * {from} answered after {} ms\n", took.as_millis()));
        }
    }

    pub(super) fn failed(&self, number: u64, why: &str) {
        if self.is_on() {
            self.say(format!("[{number}] ! {why}\n"));
        }
    }

    fn say(&self, text: String) {
        match &self.lines {
            Some(lines) => drop(lines.try_send(Bytes::from(text))),
            None => text.lines().for_each(|line| tracing::info!(target: "registry", "{line}")),
        }
    }
}

/// An address without its query, which may hold a signature.
fn shown(url: &Url) -> String {
    let mut short = url.clone();
    if short.query().is_some_and(|query| !query.starts_with("ns=") && !query.starts_with("mount=")) {
        short.set_query(Some("…"));
    }
    short.to_string()
}

fn fields(number: u64, direction: char, headers: &HeaderMap) -> String {
    let secret = [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE, SET_COOKIE];
    let one = |(name, value): (&reqwest::header::HeaderName, &reqwest::header::HeaderValue)| {
        let value = match secret.contains(name) || value.is_sensitive() {
            true => "…".to_owned(),
            false => String::from_utf8_lossy(value.as_bytes()).into_owned(),
        };
        format!("[{number}] {direction} {name}: {value}\n")
    };
    headers.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn credentials_are_not_shown() {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Basic c2VjcmV0"));
        headers.insert("accept", HeaderValue::from_static("a/b"));
        let mut other = HeaderValue::from_static("hunter2");
        other.set_sensitive(true);
        headers.insert("x-token", other);
        let text = fields(1, '>', &headers);
        assert!(text.contains("accept: a/b") && !text.contains("c2VjcmV0") && !text.contains("hunter2"), "{text}");
        let url = Url::parse("https://r.example/v2/a?X-Signature=secret").unwrap();
        assert!(!shown(&url).contains("secret"));
    }
}
