//! The runtime a thread is in, and the free functions that use it.

use std::cell::RefCell;
use std::future::Future;
use std::panic::Location;
use std::sync::Arc;

use super::handle::{Handle, spawn_here};
use super::shared::Shared;
#[cfg(doc)]
use super::task::JoinError;
use super::task::JoinHandle;
use super::worker;

thread_local! {
    static CONTEXT: RefCell<Option<Handle>> = const { RefCell::new(None) };
}

/// Puts the calling thread into a runtime until dropped.
pub(super) struct Scope(Option<Handle>);

impl Scope {
    pub(super) fn enter(shared: &Arc<Shared>) -> Scope {
        Scope(CONTEXT.with(|c| c.borrow_mut().replace(Handle::new(shared.clone()))))
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        let _ = CONTEXT.try_with(|c| *c.borrow_mut() = self.0.take());
    }
}

#[track_caller]
pub(crate) fn current() -> Handle {
    CONTEXT
        .with(|c| c.borrow().clone())
        .expect("this thread is not in a runtime: call it inside `block_on` or a task")
}

/// Starts a task on the current runtime; it runs whether or not the handle is awaited.
///
/// # Panics
/// Outside a runtime.
///
/// ```
/// overlapped::block_on(async {
///     let task = overlapped::spawn(async { "done" });
///     assert_eq!(task.await.unwrap(), "done");
/// });
/// ```
#[inline]
#[track_caller]
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let here = Location::caller();
    match worker::give(future, |worker, future| spawn_here(worker, future, here)) {
        Ok(handle) => handle,
        Err(future) => current().spawn(future),
    }
}

/// Starts a task that stays on the calling worker and need not be `Send`.
///
/// # Panics
/// On a thread that is no worker: outside a runtime, or in the `block_on` of a multi-thread one.
///
/// ```
/// use std::rc::Rc;
/// overlapped::block_on(async {
///     let shared = Rc::new(5);
///     let task = overlapped::spawn_local({ let shared = shared.clone(); async move { *shared } });
///     assert_eq!(task.await.unwrap(), 5);
/// });
/// ```
#[track_caller]
pub fn spawn_local<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    current().spawn_local(future)
}

/// Runs blocking code on a thread of its own kind; the handle yields its value.
///
/// There are at most [`Builder::blocking_limit`](crate::Builder::blocking_limit) such threads. When
/// all are busy, further code waits, first in, first out. When
/// [`Builder::blocking_queue`](crate::Builder::blocking_queue) pieces wait already, it is dropped,
/// and the handle yields an error that [is refused](JoinError::is_refused). So it is when no thread
/// can be started and none is there.
///
/// Aborting drops code that waits (its place in the queue is free when its turn comes); code that
/// runs goes on, and its value is dropped. The runtime's end drops code that waits, and gives the
/// rest its time limit; what still runs then is
/// [counted](crate::RuntimeReport::blocking_threads) and left alone.
///
/// # Panics
/// Outside a runtime.
///
/// ```
/// overlapped::block_on(async {
///     let sum = overlapped::spawn_blocking(|| (1..=10).sum::<u32>());
///     assert_eq!(sum.await.unwrap(), 55);
/// });
/// ```
#[track_caller]
pub fn spawn_blocking<T, F>(work: F) -> JoinHandle<T>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    current().spawn_blocking(work)
}
