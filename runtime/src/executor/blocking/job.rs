//! One piece of blocking code, and its result on the way to the task that awaits it.
//!
//! Whoever moves the stage on owns what was in it: a thread of the pool takes the work and leaves
//! the result, the task takes the result, or abandons the job and drops what it finds. Work and
//! results are dropped outside the lock.

use std::future::Future;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use overlapped_iomgr::panics::{caught, log};

use super::Job;
use crate::executor::task::JoinError;

enum Stage<F, T> {
    Waiting(F),
    Running,
    Ended(Result<T, JoinError>),
    /// The result has been taken, or nobody wants it.
    Left,
}

struct Cell<F, T>(Mutex<(Stage<F, T>, Option<Waker>)>);

/// What becomes of a job, as a future. Dropping it drops the work if it has not begun, and
/// otherwise its result.
pub(in super::super) struct Outcome<F, T>(Arc<Cell<F, T>>);

/// A job for the pool, and its outcome.
pub(in super::super) fn prepare<F, T>(work: F) -> (Arc<dyn Job>, Outcome<F, T>)
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let cell = Arc::new(Cell(Mutex::new((Stage::Waiting(work), None))));
    (cell.clone(), Outcome(cell))
}

impl<F, T> Cell<F, T> {
    fn lock(&self) -> MutexGuard<'_, (Stage<F, T>, Option<Waker>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace(&self, stage: Stage<F, T>) -> Stage<F, T> {
        mem::replace(&mut self.lock().0, stage)
    }

    /// Leaves a result.
    fn end(&self, result: Result<T, JoinError>) {
        let mut cell = self.lock();
        if matches!(cell.0, Stage::Left) {
            drop(cell);
            return discard(result);
        }
        let work = mem::replace(&mut cell.0, Stage::Ended(result));
        let waker = cell.1.take();
        drop(cell);
        discard(work);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Drops what is the user's, on a thread that must not unwind.
fn discard<T>(value: T) {
    if caught(|| drop(value)).is_none() {
        log(|| tracing::error!("blocking code or its result panicked while it was dropped"));
    }
}

impl<F, T> Job for Cell<F, T>
where
    F: FnOnce() -> T + Send,
    T: Send,
{
    fn run(&self) {
        let mut cell = self.lock();
        let work = match mem::replace(&mut cell.0, Stage::Running) {
            Stage::Waiting(work) => work,
            // Abandoned before its turn came.
            other => return cell.0 = other,
        };
        drop(cell);
        self.end(catch_unwind(AssertUnwindSafe(work)).map_err(JoinError::panicked));
    }

    fn refuse(&self, why: JoinError) {
        self.end(Err(why));
    }
}

impl<F, T> Future for Outcome<F, T> {
    type Output = Result<T, JoinError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // Only the executor's own task polls this: its waker is no foreign code.
        let mut cell = self.0.lock();
        if !matches!(cell.0, Stage::Ended(_)) {
            cell.1 = Some(cx.waker().clone());
            return Poll::Pending;
        }
        match mem::replace(&mut cell.0, Stage::Left) {
            Stage::Ended(result) => Poll::Ready(result),
            _ => unreachable!("just looked"),
        }
    }
}

impl<F, T> Drop for Outcome<F, T> {
    fn drop(&mut self) {
        discard(self.0.replace(Stage::Left));
    }
}
