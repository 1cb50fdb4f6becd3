//! Progress of a transfer, for whoever opened a stream for it.
//!
//! Workers change numbers; every [`PERIOD`] what changed goes out, one message per thing whatever happened in between. Words of
//! a transfer as a whole go out at once, in order, with the numbers that were reached before. Without a stream all of it costs a lock and no message.
//! Words and names are those that clients know (containerd's contract).

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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
    by_name: HashMap<String, usize>,
    words: VecDeque<Progress>,
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
        if state.words.len() < MAX_WORDS {
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
                state.by_name.insert(name, at);
                Some(at)
            }
            None => None,
        };
        drop(state);
        Item { reporter: self.clone(), at }
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

/// Reports to `channel` on `work`; `last` makes the last word of what came out.
pub async fn reporting<T>(
    channel: Option<Channel>,
    work: impl AsyncFnOnce(Reporter) -> T,
    last: impl FnOnce(&T) -> Vec<Progress>,
) -> T {
    let reporter = Reporter::default();
    let Some(channel) = channel else { return work(reporter).await };
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
        self.change(|item| {
            event.clone_into(&mut item.event);
            item.progress = number(bytes);
        });
    }

    /// Says what is done with it now, and that all of it is done.
    pub fn done(&self, event: &str) {
        self.change(|item| {
            event.clone_into(&mut item.event);
            item.progress = item.total;
        });
    }

    /// Says how far it is.
    pub fn at(&self, bytes: u64) {
        self.change(|item| item.progress = number(bytes));
    }

    fn change(&self, change: impl FnOnce(&mut Progress)) {
        let Some(at) = self.at else { return };
        let mut state = self.reporter.lock();
        change(&mut state.items[at]);
        state.changed[at] = true;
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
        let (messages, ()) = tokio::join!(outgoing.collect::<Vec<_>>(), reporting(Some(channel), work, last));
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
