//! What one client may have under way: so many requests, and so many bytes.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

/// Most requests.
const MAX_REQUESTS: usize = 64;

/// Most bytes of their data; but one request may always be under way, however large.
const MAX_BYTES: usize = 64 << 20;

/// What one client may have under way. Its connection's receiver waits for room, and nobody else.
#[derive(Clone, Default)]
pub struct Budget(Arc<Mutex<Used>>);

#[derive(Default)]
struct Used {
    requests: usize,
    bytes: usize,
    waiting: Option<Waker>,
}

/// A request's share, given back when it is dropped: when its reply has been sent.
pub struct Share {
    budget: Budget,
    bytes: usize,
}

impl Budget {
    /// Waits until there is room for one more request.
    pub async fn take(&self, bytes: usize) -> Share {
        poll_fn(|cx| {
            let mut used = self.lock();
            let fits = used.requests < MAX_REQUESTS && used.bytes + bytes <= MAX_BYTES;
            if !fits && used.requests > 0 {
                used.waiting = Some(cx.waker().clone());
                return Poll::Pending;
            }
            used.requests += 1;
            used.bytes += bytes;
            Poll::Ready(())
        })
        .await;
        Share { budget: self.clone(), bytes }
    }

    fn lock(&self) -> MutexGuard<'_, Used> {
        // Nothing panics while it is locked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut used = self.budget.lock();
        used.requests -= 1;
        used.bytes -= self.bytes;
        let waiting = used.waiting.take();
        drop(used);
        if let Some(waker) = waiting {
            waker.wake();
        }
    }
}
