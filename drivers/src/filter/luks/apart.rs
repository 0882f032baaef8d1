//! Long work away from the processors' threads.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::thread;

use super::error::LuksError;
use crate::hal::system::is_simulated;

/// Does it on a thread of its own.
///
/// # Cancel safety
/// Dropped before it is done, the work goes on, and its result is lost.
///
/// # Errors
/// [`LuksError::NoResources`]: there is no thread to be had, or the work has panicked.
pub(super) async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, LuksError> {
    let place = Arc::new(Mutex::new(Place::Working(None)));
    let its = Finish(place.clone(), None);
    spawn(move || {
        let mut its = its;
        its.1 = Some(work());
    })?;
    poll_fn(|cx| {
        let mut place = lock(&place);
        match std::mem::replace(&mut *place, Place::Working(None)) {
            Place::Done(result) => Poll::Ready(result.ok_or(LuksError::NoResources)),
            Place::Working(_) => {
                *place = Place::Working(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    })
    .await
}

/// Does it on a thread that nobody joins. On a simulated machine, which has no threads, at once.
pub(super) fn spawn(work: impl FnOnce() + Send + 'static) -> Result<(), LuksError> {
    if is_simulated() {
        work();
        return Ok(());
    }
    let thread = thread::Builder::new().name("luks-key".into()).spawn(work);
    thread.map(drop).map_err(|_| LuksError::NoResources)
}

enum Place<T> {
    Working(Option<Waker>),
    /// `None`: it has panicked.
    Done(Option<T>),
}

fn lock<T>(place: &Mutex<T>) -> MutexGuard<'_, T> {
    place.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells the result when it is dropped.
struct Finish<T>(Arc<Mutex<Place<T>>>, Option<T>);

impl<T> Drop for Finish<T> {
    fn drop(&mut self) {
        let before = std::mem::replace(&mut *lock(&self.0), Place::Done(self.1.take()));
        if let Place::Working(Some(waker)) = before {
            waker.wake();
        }
    }
}
