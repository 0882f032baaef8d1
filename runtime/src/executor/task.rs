//! Tasks: a future on the heap with its state word, made by `async-task`.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use super::shared::Shared;

/// What travels with every task.
pub(super) struct Meta {
    aborted: AtomicBool,
    shared: Arc<Shared>,
    /// Its place in the list of tasks.
    pub(super) ticket: super::shared::Ticket,
}

impl Meta {
    pub(super) fn new(shared: Arc<Shared>, ticket: super::shared::Ticket) -> Meta {
        Meta { aborted: AtomicBool::new(false), shared, ticket }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

pub(super) type Runnable = async_task::Runnable<Meta>;
type Outcome<T> = Result<T, Box<dyn Any + Send>>;

/// A task's metadata by address: it lies in the task's own allocation, which lives as long as its
/// future and every handle to it.
struct MetaPtr(NonNull<Meta>);

// SAFETY: `Meta` is `Sync`, and this is a shared reference to it.
unsafe impl Send for MetaPtr {}
// SAFETY: as above.
unsafe impl Sync for MetaPtr {}

impl Deref for MetaPtr {
    type Target = Meta;
    fn deref(&self) -> &Meta {
        // SAFETY: kept in the task's future or beside its handle only, so the allocation is there.
        unsafe { self.0.as_ref() }
    }
}

/// The future that is really spawned: catches panics and sees aborts.
pub(super) struct Guarded<F> {
    future: Option<F>,
    meta: MetaPtr,
}

impl<F: Future> Guarded<F> {
    pub(super) fn new(future: F, meta: &Meta) -> Self {
        Guarded { future: Some(future), meta: MetaPtr(NonNull::from(meta)) }
    }
}

/// The payload that marks an aborted task.
struct Aborted;

/// Ends the calling task as aborted.
pub(super) fn abort() -> ! {
    std::panic::resume_unwind(Box::new(Aborted))
}

impl<F: Future> Future for Guarded<F> {
    type Output = Outcome<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: `future` is structurally pinned: it is never moved, only dropped in place when
        // set to `None`; `meta` is not pinned.
        let this = unsafe { self.get_unchecked_mut() };
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            if this.meta.aborted.load(Ordering::Acquire) {
                this.future = None;
                return Poll::Ready(Err(Box::new(Aborted) as Box<dyn Any + Send>));
            }
            let future = this.future.as_mut().expect("a task is polled until it is ready");
            // SAFETY: see above.
            let poll = unsafe { Pin::new_unchecked(future) }.poll(cx).map(Ok);
            if poll.is_ready() {
                this.future = None;
            }
            poll
        }));
        outcome.unwrap_or_else(|panic| Poll::Ready(Err(panic)))
    }
}

impl<F> Drop for Guarded<F> {
    fn drop(&mut self) {
        // A future's drop may panic like its poll; nobody is left to hear of it.
        if catch_unwind(AssertUnwindSafe(|| self.future = None)).is_err() {
            tracing::error!("a task's future panicked while it was dropped");
        }
        self.meta.shared.forget_task(self.meta.ticket);
    }
}

/// A spawned task's result, awaitable on any thread and in any runtime. Dropping it detaches the
/// task, which goes on.
///
/// ```
/// # overlapped::block_on(async {
/// let handle = overlapped::spawn(async { 6 * 7 });
/// assert_eq!(handle.await.unwrap(), 42);
/// # });
/// ```
pub struct JoinHandle<T> {
    task: Option<async_task::FallibleTask<Outcome<T>, Meta>>,
    meta: MetaPtr,
}

impl<T> JoinHandle<T> {
    pub(super) fn new(task: async_task::Task<Outcome<T>, Meta>) -> JoinHandle<T> {
        let meta = MetaPtr(NonNull::from(task.metadata()));
        JoinHandle { task: Some(task.fallible()), meta }
    }

    /// Ends the task at its next await: its future is dropped, its requests are cancelled, and the
    /// handle yields a [`JoinError`] that says so. A task that has finished stays finished.
    pub fn abort(&self) {
        self.meta.aborted.store(true, Ordering::Release);
        self.meta.shared.wake_task(self.meta.ticket);
    }

    /// Whether the task has ended.
    pub fn is_finished(&self) -> bool {
        self.task.as_ref().is_none_or(|task| task.is_finished())
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let task = self.task.as_mut().expect("only `drop` takes it");
        Pin::new(task).poll(cx).map(|outcome| match outcome {
            None => Err(JoinError(None)),
            Some(Ok(value)) => Ok(value),
            Some(Err(panic)) if panic.is::<Aborted>() => Err(JoinError(None)),
            Some(Err(panic)) => Err(JoinError(Some(panic))),
        })
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.detach();
        }
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle").field("finished", &self.is_finished()).finish()
    }
}

/// Why a task has no result: it panicked, or it was aborted (also by its runtime's end).
pub struct JoinError(Option<Box<dyn Any + Send>>);

impl JoinError {
    pub(super) fn panicked(panic: Box<dyn Any + Send>) -> JoinError {
        JoinError(Some(panic))
    }

    pub(super) fn cancelled() -> JoinError {
        JoinError(None)
    }

    /// Whether the task was aborted or its runtime ended.
    pub fn is_cancelled(&self) -> bool {
        self.0.is_none()
    }

    /// Whether the task panicked.
    pub fn is_panic(&self) -> bool {
        self.0.is_some()
    }

    /// The panic's payload, for [`std::panic::resume_unwind`].
    pub fn into_panic(self) -> Option<Box<dyn Any + Send>> {
        self.0
    }

    fn message(&self) -> Option<&str> {
        let payload = self.0.as_ref()?;
        payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.0, self.message()) {
            (None, _) => f.write_str("the task was aborted"),
            (_, Some(message)) => write!(f, "the task panicked: {message}"),
            _ => f.write_str("the task panicked"),
        }
    }
}

impl fmt::Debug for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinError({self})")
    }
}

impl std::error::Error for JoinError {}

impl From<JoinError> for std::io::Error {
    fn from(error: JoinError) -> Self {
        std::io::Error::other(error.to_string())
    }
}
