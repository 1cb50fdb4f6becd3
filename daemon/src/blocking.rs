//! The one bridge from async code to synchronous code.
//!
//! `store` reads, `snapshotter` and file work are plain blocking code; a request that needs them crosses over here. A change
//! of the store needs no thread: `Store::submit` gives a future.

use std::ops::ControlFlow;

use futures_util::{Stream, stream};
use tokio::sync::mpsc;
use tracing::Span;

/// Items that a search runs ahead of the reader of its stream; then it waits for the reader.
const SEARCH_AHEAD: usize = 64;

/// Runs `work` on the blocking pool, inside the caller's span; a panic in it continues here.
///
/// # Cancel safety
/// Work that has begun runs to its end even if the caller is dropped.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let span = Span::current();
    match tokio::task::spawn_blocking(move || span.in_scope(work)).await {
        Ok(value) => value,
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}

/// Runs `work` on the blocking pool for nobody who waits: cleaning up after a caller that is gone. Without a runtime it runs at once.
pub fn detach(work: impl FnOnce() + Send + 'static) {
    let span = Span::current();
    match tokio::runtime::Handle::try_current() {
        // It ends by itself.
        Ok(runtime) => drop(runtime.spawn_blocking(move || span.in_scope(work))),
        Err(_) => work(),
    }
}

/// The handle through which a search gives what it finds.
#[derive(Debug)]
pub struct Found<T> {
    items: mpsc::Sender<T>,
}

impl<T> Found<T> {
    /// Gives an item; waits while the reader is behind. `Break` once nobody reads any more.
    pub fn give(&self, item: T) -> ControlFlow<()> {
        match self.items.blocking_send(item) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }
}

/// Runs `search` on the blocking pool, inside the caller's span, and streams what it finds.
///
/// # Cancel safety
/// When the stream is dropped, the search is told at its next item.
pub fn search<T: Send + 'static>(search: impl FnOnce(&Found<T>) + Send + 'static) -> impl Stream<Item = T> + Send {
    let (items, found) = mpsc::channel(SEARCH_AHEAD);
    let span = Span::current();
    // It ends by itself: the channel is closed when the stream goes.
    drop(tokio::task::spawn_blocking(move || span.in_scope(|| search(&Found { items }))));
    stream::unfold(found, async |mut found| Some((found.recv().await?, found)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::StreamExt;

    #[tokio::test]
    async fn a_search_stops_when_nobody_reads() {
        let given = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&given);
        let found = super::search(move |found| while found.give(count.fetch_add(1, Ordering::SeqCst)).is_continue() {});
        let first: Vec<_> = found.take(3).collect().await;
        assert_eq!(first, [0, 1, 2]);
        let settled = async {
            while Arc::strong_count(&given) > 1 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), settled).await.expect("the search ends");
    }

    #[tokio::test]
    async fn the_value_comes_back() {
        assert_eq!(super::run(|| 1 + 1).await, 2);
    }

    #[tokio::test]
    #[should_panic(expected = "from the other side")]
    async fn a_panic_continues_in_the_caller() {
        super::run(|| panic!("from the other side")).await
    }
}
