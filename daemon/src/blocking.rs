//! The one bridge from async code to synchronous code.
//!
//! `store` reads, `snapshotter` and file work are plain blocking code; a request that needs them crosses over here. A change
//! of the store needs no thread: `Store::submit` gives a future.

use tracing::Span;

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

#[cfg(test)]
mod tests {
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
