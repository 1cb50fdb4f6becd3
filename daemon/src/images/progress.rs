//! Progress of a transfer, for whoever opened a stream for it.
//!
//! Workers change numbers; every [`PERIOD`] what changed goes out, one message per thing whatever happened in between. Words of
//! a transfer as a whole go out at once, in order, with the numbers that were reached before. Without a stream all of it costs a lock and no message.
//! Words and names are those that clients know (containerd's contract).

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use model::Descriptor;
use proto::types::transfer::Progress;
use tokio::sync::Notify;

use super::document::upload_name;
use crate::streaming::Channel;

/// How often numbers go out.
pub const PERIOD: Duration = Duration::from_millis(300);

/// How long the last words may take to go out.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The most things that are reported on in one transfer; further ones are not.
const MAX_ITEMS: usize = 65_536;

/// The most messages that may wait for a word to be taken in; further words are dropped.
const MAX_WORDS: usize = 1024;

impl State {
    /// Puts numbers that changed behind the words.
    fn tell_numbers(&mut self) {
        for (item, changed) in self.items.iter().zip(&mut self.changed) {
            if std::mem::take(changed) {
                self.words.push_back(item.clone());
            }
        }
    }
}

/// Takes progress in. Clones report to the same stream.
#[derive(Debug, Clone, Default)]
pub struct Reporter {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    words: Notify,
}

#[derive(Debug, Default)]
struct State {
    items: Vec<Progress>,
    changed: Vec<bool>,
    paces: Vec<Pace>,
    by_name: HashMap<String, usize>,
    words: VecDeque<Progress>,
    /// Whether somebody takes words in.
    heard: bool,
    /// The last word about all of it.
    phase: String,
    /// Bytes that were moved, and how fast.
    moved: u64,
    pace: Pace,
}

/// How far a transfer is, for somebody who looks at it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// The last word about all of it.
    pub phase: String,
    /// Bytes that are where they are wanted.
    pub done_bytes: u64,
    /// Bytes that are known to be wanted.
    pub total_bytes: u64,
    /// How fast it goes.
    pub bytes_per_second: u64,
    /// Each thing.
    pub parts: Vec<SeenPart>,
}

/// One thing of a transfer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SeenPart {
    /// Its name.
    pub name: String,
    /// What is done with it.
    pub phase: String,
    /// How far that is, in bytes.
    pub done_bytes: u64,
    /// How far it goes.
    pub total_bytes: u64,
    /// How fast.
    pub bytes_per_second: u64,
}

/// How long a piece of time is that speed is measured over, at least.
const MEASURE: Duration = Duration::from_millis(500);

/// How much the newest measurement counts.
const NEWEST: f64 = 0.4;

/// A speed, smoothed.
#[derive(Debug, Clone, Copy, Default)]
struct Pace {
    since: Option<Instant>,
    from: u64,
    rate: f64,
}

impl Pace {
    /// Notes that `bytes` were reached by now.
    fn reached(&mut self, bytes: u64, now: Instant) {
        let Some(since) = self.since else {
            *self = Self { since: Some(now), from: bytes, rate: 0.0 };
            return;
        };
        let elapsed = now.duration_since(since);
        if elapsed < MEASURE {
            return;
        }
        let measured = bytes.saturating_sub(self.from) as f64 / elapsed.as_secs_f64();
        let rate = if self.rate == 0.0 { measured } else { self.rate + (measured - self.rate) * NEWEST };
        *self = Self { since: Some(now), from: bytes, rate };
    }

    fn bytes_per_second(self) -> u64 {
        self.rate.round() as u64
    }
}

impl Reporter {
    /// Says a word about the transfer as a whole.
    pub fn say(&self, word: impl Into<String>) {
        self.word(Progress { event: word.into(), ..Progress::default() });
    }

    /// Says a word about an image.
    pub fn about(&self, image: &str, word: &str, target: Option<&Descriptor>) {
        let desc = target.cloned().map(Into::into);
        self.word(Progress { event: word.to_owned(), name: image.to_owned(), desc, ..Progress::default() });
    }

    fn word(&self, word: Progress) {
        let mut state = self.lock();
        if word.name.is_empty() {
            state.phase.clone_from(&word.event);
        }
        if state.heard && state.words.len() < MAX_WORDS {
            // What happened before it is told before it.
            state.tell_numbers();
            state.words.push_back(word);
        }
        drop(state);
        self.inner.words.notify_one();
    }

    /// Begins to report on a blob.
    pub fn blob(&self, descriptor: &Descriptor, parents: &[String]) -> Item {
        let name = upload_name(descriptor);
        let mut state = self.lock();
        let known = state.by_name.get(&name).copied();
        let at = match known {
            Some(at) => Some(at),
            None if state.items.len() < MAX_ITEMS => {
                let at = state.items.len();
                state.items.push(Progress {
                    event: "waiting".to_owned(),
                    name: name.clone(),
                    parents: parents.to_vec(),
                    progress: 0,
                    total: number(descriptor.size),
                    desc: Some(descriptor.clone().into()),
                });
                state.changed.push(true);
                state.paces.push(Pace::default());
                state.by_name.insert(name, at);
                Some(at)
            }
            None => None,
        };
        drop(state);
        Item { reporter: self.clone(), at }
    }

    /// How far it is now.
    pub fn seen(&self) -> Seen {
        let mut state = self.lock();
        let now = Instant::now();
        let State { items, paces, phase, moved, pace, .. } = &mut *state;
        pace.reached(*moved, now);
        let part = |(item, pace): (&Progress, &mut Pace)| {
            let (done_bytes, total_bytes) = (item.progress.max(0).unsigned_abs(), item.total.max(0).unsigned_abs());
            pace.reached(done_bytes, now);
            let busy = matches!(item.event.as_str(), "downloading" | "uploading" | "extracting");
            let bytes_per_second = if busy { pace.bytes_per_second() } else { 0 };
            SeenPart { name: item.name.clone(), phase: item.event.clone(), done_bytes, total_bytes, bytes_per_second }
        };
        let parts: Vec<SeenPart> = items.iter().zip(paces).map(part).collect();
        let done = |part: &SeenPart| match part.phase.as_str() {
            "waiting" | "downloading" | "uploading" => part.done_bytes,
            // It is here, whatever else is done with it.
            _ => part.total_bytes,
        };
        Seen {
            phase: phase.clone(),
            done_bytes: parts.iter().map(done).sum(),
            total_bytes: parts.iter().map(|part| part.total_bytes).sum(),
            bytes_per_second: pace.bytes_per_second(),
            parts,
        }
    }

    /// Sends to `channel` what comes in, until dropped. Never ends.
    async fn pump(&self, channel: &Channel) {
        let mut pause = tokio::time::interval(PERIOD);
        pause.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let numbers = tokio::select! {
                _ = pause.tick() => true,
                () = self.inner.words.notified() => false,
            };
            if self.flush(channel, numbers).await.is_err() {
                // Nobody listens any more; the transfer goes on.
                std::future::pending::<()>().await;
            }
        }
    }

    async fn flush(&self, channel: &Channel, numbers: bool) -> Result<(), crate::streaming::StreamError> {
        let messages = {
            let mut state = self.lock();
            if numbers {
                state.tell_numbers();
            }
            std::mem::take(&mut state.words)
        };
        for message in &messages {
            channel.send(message).await?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change under the lock leaves it whole.
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets `work` report to `reporter`, and what it takes in go to `channel`; `last` makes the last word of what came out.
pub async fn reporting<T>(
    reporter: Reporter,
    channel: Option<Channel>,
    work: impl AsyncFnOnce(Reporter) -> T,
    last: impl FnOnce(&T) -> Vec<Progress>,
) -> T {
    let Some(channel) = channel else { return work(reporter).await };
    reporter.lock().heard = true;
    let outcome = tokio::select! {
        outcome = work(reporter.clone()) => outcome,
        () = reporter.pump(&channel) => unreachable!("the pump never ends"),
    };
    let rest = async {
        {
            let mut state = reporter.lock();
            state.tell_numbers();
            state.words.extend(last(&outcome));
        }
        reporter.flush(&channel, false).await
    };
    // A client that does not listen is not waited for.
    let _ = tokio::time::timeout(LAST_WORDS, rest).await;
    outcome
}

/// One thing that is reported on.
#[derive(Debug, Clone)]
pub struct Item {
    reporter: Reporter,
    /// `None` when there are too many.
    at: Option<usize>,
}

impl Item {
    /// Says what is done with it now, and how far that is.
    pub fn set(&self, event: &str, bytes: u64) {
        self.change(|item, pace| {
            event.clone_into(&mut item.event);
            item.progress = number(bytes);
            *pace = Pace::default();
            0
        });
    }

    /// Says what is done with it now, and that all of it is done.
    pub fn done(&self, event: &str) {
        self.change(|item, _| {
            event.clone_into(&mut item.event);
            item.progress = item.total;
            0
        });
    }

    /// Says how far it is.
    pub fn at(&self, bytes: u64) {
        self.change(|item, pace| {
            let moves = matches!(item.event.as_str(), "downloading" | "uploading");
            let moved = if moves { bytes.saturating_sub(item.progress.max(0).unsigned_abs()) } else { 0 };
            item.progress = number(bytes);
            pace.reached(bytes, Instant::now());
            moved
        });
    }

    /// Changes it; what comes out is how many bytes were moved by that.
    fn change(&self, change: impl FnOnce(&mut Progress, &mut Pace) -> u64) {
        let Some(at) = self.at else { return };
        let mut state = self.reporter.lock();
        let State { items, paces, changed, moved, pace, .. } = &mut *state;
        *moved += change(&mut items[at], &mut paces[at]);
        pace.reached(*moved, Instant::now());
        changed[at] = true;
    }
}

fn number(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use model::{Digest, Namespace};

    use super::*;
    use crate::streaming::Streams;

    #[test]
    fn speed_is_measured_and_smoothed() {
        let (mut pace, begin) = (Pace::default(), Instant::now());
        for second in 0..20_u32 {
            pace.reached(u64::from(second) * 1000, begin + Duration::from_secs(1) * second);
        }
        assert_eq!(pace.bytes_per_second(), 1000);
        pace.reached(19_000, begin + Duration::from_secs(60));
        assert!(pace.bytes_per_second() < 1000);
    }

    #[test]
    fn who_looks_sees_how_far_it_is() {
        let reporter = Reporter::default();
        reporter.say("Pulling");
        let blob = |text: &[u8]| Descriptor {
            media_type: "application/vnd.oci.image.layer.v1.tar".into(),
            digest: Digest::sha256(text),
            size: 1000,
            annotations: Default::default(),
        };
        let (one, other) = (reporter.blob(&blob(b"1"), &[]), reporter.blob(&blob(b"2"), &[]));
        one.set("downloading", 100);
        one.at(400);
        other.set("extracting", 10);
        let seen = reporter.seen();
        assert_eq!((seen.phase.as_str(), seen.done_bytes, seen.total_bytes), ("Pulling", 1400, 2000));
        assert_eq!(seen.parts[0].done_bytes, 400);
    }

    #[tokio::test]
    async fn numbers_go_out_now_and_then_and_words_at_once() {
        let streams = Streams::default();
        let namespace = Namespace::new("default").unwrap();
        let outgoing = streams.register(namespace.clone(), "p".into(), futures_util::stream::pending()).unwrap();
        let channel = streams.claim(&namespace, "p").unwrap();
        let descriptor = Descriptor {
            media_type: "application/vnd.oci.image.layer.v1.tar".into(),
            digest: Digest::sha256(b"x"),
            size: 1000,
            annotations: Default::default(),
        };
        let work = async |reporter: Reporter| {
            reporter.say("Resolving");
            let item = reporter.blob(&descriptor, &["image".to_owned()]);
            for bytes in 0..1000 {
                item.set("downloading", bytes);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            item.done("complete");
        };
        let last = |_: &()| vec![Progress { event: "Completed".into(), ..Progress::default() }];
        let (messages, ()) =
            tokio::join!(outgoing.collect::<Vec<_>>(), reporting(Reporter::default(), Some(channel), work, last));
        let messages: Vec<Progress> = messages.iter().map(|any| proto::any::unpack(any).unwrap().unwrap()).collect();
        let events: Vec<&str> = messages.iter().map(|message| message.event.as_str()).collect();
        assert_eq!((events.first(), events.last()), (Some(&"Resolving"), Some(&"Completed")));
        let layer: Vec<_> = messages.iter().filter(|message| !message.name.is_empty()).collect();
        assert!((3..20).contains(&layer.len()), "{events:?}");
        assert_eq!(layer[0].name, format!("layer-{}", descriptor.digest));
        assert_eq!(layer[0].parents, ["image"]);
        let end = layer[layer.len() - 1];
        assert_eq!((end.event.as_str(), end.progress, end.total), ("complete", 1000, 1000));
    }
}
