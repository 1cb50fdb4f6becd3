//! The answer to a request that may still be under way.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use futures_channel::oneshot;

use crate::error::StoreError;

/// The answer to a request: awaited, or waited for. It comes once the change is on disk.
///
/// # Cancel safety
/// Dropping it only forgets the answer; the change is made all the same.
#[must_use = "the outcome of the change is lost otherwise"]
#[derive(Debug)]
pub struct Pending<T, E> {
    state: State<T, E>,
}

#[derive(Debug)]
enum State<T, E> {
    /// The committer will answer.
    Waiting(oneshot::Receiver<Result<T, E>>),
    /// The request was refused before it reached the committer; empty once that was said.
    Refused(Option<StoreError>),
}

// Nothing in it is ever pinned: the receiver is `Unpin`, whatever it carries.
impl<T, E> Unpin for Pending<T, E> {}

impl<T, E: From<StoreError>> Pending<T, E> {
    pub(crate) fn waiting(answer: oneshot::Receiver<Result<T, E>>) -> Self {
        Self { state: State::Waiting(answer) }
    }

    pub(crate) fn refused(error: StoreError) -> Self {
        Self { state: State::Refused(Some(error)) }
    }

    /// Blocks the thread until the answer is there. Not for async code, and not inside a request: the committer would wait
    /// for itself.
    ///
    /// # Errors
    /// What the closure returned, or a [`StoreError`] when the change could not be made.
    pub fn wait(mut self) -> Result<T, E> {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut context = Context::from_waker(&waker);
        loop {
            match Pin::new(&mut self).poll(&mut context) {
                Poll::Ready(answer) => return answer,
                Poll::Pending => thread::park(),
            }
        }
    }
}

impl<T, E: From<StoreError>> Future for Pending<T, E> {
    type Output = Result<T, E>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.state {
            State::Waiting(answer) => {
                Pin::new(answer).poll(context).map(|answer| answer.unwrap_or_else(|_| Err(StoreError::Closed.into())))
            }
            State::Refused(error) => Poll::Ready(Err(error.take().unwrap_or(StoreError::Closed).into())),
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
