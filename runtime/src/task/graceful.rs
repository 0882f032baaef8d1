//! An orderly end of many tasks.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use super::token::CancellationToken;
use crate::time::{Duration, timeout};

/// Ends tasks in order: tells them, waits for them, counts those that stay. Clones are the same.
///
/// A task takes part by being [tracked](Graceful::track), and learns of the end from the
/// [token](Graceful::token).
///
/// ```
/// use overlapped::task::Graceful;
/// use overlapped::time::Duration;
/// overlapped::block_on(async {
///     let graceful = Graceful::new();
///     let token = graceful.token().clone();
///     let server = overlapped::spawn(graceful.track(async move {
///         while token.run_until_cancelled(overlapped::yield_now()).await.is_some() {}
///         "goodbye"
///     }));
///     assert_eq!(graceful.shutdown(Duration::from_secs(10)).await, 0);
///     assert_eq!(server.await.unwrap(), "goodbye");
/// });
/// ```
#[derive(Clone)]
pub struct Graceful(Arc<Inner>);

struct Inner {
    /// Cancelled when the end begins.
    ending: CancellationToken,
    /// Cancelled when it has begun and nobody is left.
    over: CancellationToken,
    tasks: AtomicUsize,
}

impl Graceful {
    /// With nobody tracked.
    pub fn new() -> Graceful {
        Graceful(Arc::new(Inner {
            ending: CancellationToken::new(),
            over: CancellationToken::new(),
            tasks: AtomicUsize::new(0),
        }))
    }

    /// What tells the tasks to end. Cancelling it does so without waiting for them.
    pub fn token(&self) -> &CancellationToken {
        &self.0.ending
    }

    /// A future that counts as a task until it is dropped, which tasks are when they end. Whoever
    /// is tracked when the last one has gone is too late: nobody waits for it.
    pub fn track<F: Future>(&self, future: F) -> Tracked<F> {
        self.0.tasks.fetch_add(1, Ordering::Relaxed);
        Tracked { future, counted: Counted(self.0.clone()) }
    }

    /// How many are tracked.
    pub fn tasks(&self) -> usize {
        self.0.tasks.load(Ordering::Acquire)
    }

    /// Tells all to end, waits until they have, at most as long as `limit`, and returns how many
    /// are left. Those go on: abort them, or end the runtime.
    ///
    /// Cancel-safe: called again, it waits again.
    ///
    /// # Panics
    /// When polled on a thread that drives no processor, as [`sleep`](crate::time::sleep).
    pub async fn shutdown(&self, limit: Duration) -> usize {
        self.0.ending.cancel();
        self.0.look();
        // What is left is the answer, not the lapse of time.
        let _ = timeout(limit, self.0.over.cancelled()).await;
        self.tasks()
    }
}

impl Inner {
    /// After the last one has gone, and after the end has begun: whoever does the second of these
    /// sees both.
    fn look(&self) {
        fence(Ordering::SeqCst);
        if self.ending.is_cancelled() && self.tasks.load(Ordering::Acquire) == 0 {
            self.over.cancel();
        }
    }
}

impl Default for Graceful {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Graceful {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ending = self.0.ending.is_cancelled();
        f.debug_struct("Graceful").field("tasks", &self.tasks()).field("ending", &ending).finish()
    }
}

struct Counted(Arc<Inner>);

impl Drop for Counted {
    fn drop(&mut self) {
        if self.0.tasks.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.look();
        }
    }
}

pin_project! {
    /// The future of [`Graceful::track`].
    #[must_use = "futures do nothing unless awaited"]
    pub struct Tracked<F> {
        #[pin]
        future: F,
        // Dropped after the future.
        counted: Counted,
    }
}

impl<F: Future> Future for Tracked<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.project().future.poll(cx)
    }
}

impl<F> fmt::Debug for Tracked<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracked").field("among", &self.counted.0.tasks).finish_non_exhaustive()
    }
}
