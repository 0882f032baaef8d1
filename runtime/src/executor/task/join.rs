//! A spawned task's result.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::pin::Pin;
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use super::state::Detached;
use super::{Header, TaskId, close, leave};

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
    /// `None` once the result is taken.
    task: Option<NonNull<Header>>,
    result: PhantomData<T>,
}

// SAFETY: the handle's protocol runs over the task's state word; what crosses threads by it is the
// result.
unsafe impl<T: Send> Send for JoinHandle<T> {}
// SAFETY: as above; shared, a handle only asks and aborts.
unsafe impl<T: Send> Sync for JoinHandle<T> {}

impl<T> Unpin for JoinHandle<T> {}

impl<T> JoinHandle<T> {
    /// # Safety
    /// The task's output is a `Result<T, JoinError>`, and the handle's reference comes with it.
    pub(super) unsafe fn new(task: NonNull<Header>) -> JoinHandle<T> {
        JoinHandle { task: Some(task), result: PhantomData }
    }

    fn header(&self) -> Option<&Header> {
        // SAFETY: the handle's reference.
        self.task.map(|task| unsafe { task.as_ref() })
    }

    /// Ends the task at its next await: its future is dropped, its requests are cancelled, and the
    /// handle yields a [`JoinError`] that says so. A task that has finished stays finished.
    pub fn abort(&self) {
        if let Some(task) = self.task {
            // SAFETY: the handle's reference.
            unsafe { close(task) };
        }
    }

    /// Whether the task has ended.
    pub fn is_finished(&self) -> bool {
        self.header().is_none_or(|header| header.state.is_complete())
    }

    /// A handle that can abort the task and does not keep its result.
    pub fn abort_handle(&self) -> AbortHandle {
        if let Some(header) = self.header() {
            header.state.refer();
        }
        AbortHandle(self.task)
    }

    /// The task's number.
    ///
    /// # Panics
    /// When the handle has given its result.
    pub fn id(&self) -> TaskId {
        TaskId::of(self.task.expect("the handle has given its result").addr())
    }

    /// Leaves a waker with the task. `false`: it is complete instead, and wakes nobody.
    pub(crate) fn watch(&mut self, waker: &Waker) -> bool {
        let task = self.task.expect("a handle was polled after it had given its result");
        // SAFETY: the handle's reference; the waker's place is the handle's while `JOIN_WAKER` is
        // clear, and holds a waker, whose bits both may read, while it is set.
        unsafe {
            let header = task.as_ref();
            if header.state.is_complete() {
                return false;
            }
            let place = header.join.get();
            if header.state.has_waker() {
                // Only compared: the runner may be taking it.
                if (*place.cast::<ManuallyDrop<Waker>>()).will_wake(waker) {
                    return true;
                }
                // Too late to take it back means that it is complete.
                if !header.state.take_waker_back() {
                    return false;
                }
                (*place).assume_init_drop();
            }
            (*place).write(waker.clone());
            let offered = header.state.offer_waker();
            if !offered {
                (*place).assume_init_drop();
            }
            offered
        }
    }

    /// Takes the result and lets go of the task.
    ///
    /// # Safety
    /// The task is complete.
    unsafe fn take(&mut self, task: NonNull<Header>) -> Result<T, JoinError> {
        self.task = None;
        let mut result = MaybeUninit::<Result<T, JoinError>>::uninit();
        // SAFETY: complete with a handle: the output is the handle's, of this type, and taken once
        // because `task` is `None` now.
        unsafe {
            (task.as_ref().vtable.take)(task, result.as_mut_ptr().cast());
            leave(task);
            result.assume_init()
        }
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.watch(cx.waker()) {
            return Poll::Pending;
        }
        let task = self.task.expect("`watch` has looked");
        // SAFETY: complete, as `watch` has found.
        Poll::Ready(unsafe { self.take(task) })
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        let Some(task) = self.task else { return };
        // SAFETY: the handle's reference ends here, and what the state says is the handle's.
        unsafe {
            match task.as_ref().state.detach() {
                Detached::Left => return,
                Detached::DropWaker => (*task.as_ref().join.get()).assume_init_drop(),
                Detached::DropOutput => (task.as_ref().vtable.drop_output)(task),
            }
            leave(task);
        }
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle").field("finished", &self.is_finished()).finish()
    }
}

/// Aborts a task, from anywhere and as often as one likes; see [`JoinHandle::abort_handle`]. It
/// keeps the task's memory, not its future or its result.
///
/// ```
/// # overlapped::block_on(async {
/// let task = overlapped::spawn(std::future::pending::<()>());
/// let abort = task.abort_handle();
/// std::thread::spawn(move || abort.abort());
/// assert!(task.await.unwrap_err().is_cancelled());
/// # });
/// ```
pub struct AbortHandle(Option<NonNull<Header>>);

// SAFETY: it touches nothing but the task's state word.
unsafe impl Send for AbortHandle {}
// SAFETY: as above.
unsafe impl Sync for AbortHandle {}

impl AbortHandle {
    /// As [`JoinHandle::abort`].
    pub fn abort(&self) {
        if let Some(task) = self.0 {
            // SAFETY: our reference.
            unsafe { close(task) };
        }
    }

    /// Whether the task has ended.
    pub fn is_finished(&self) -> bool {
        // SAFETY: our reference.
        self.0.is_none_or(|task| unsafe { task.as_ref() }.state.is_complete())
    }
}

impl Clone for AbortHandle {
    fn clone(&self) -> Self {
        if let Some(task) = self.0 {
            // SAFETY: our reference; the clone gets its own.
            unsafe { task.as_ref() }.state.refer();
        }
        AbortHandle(self.0)
    }
}

impl Drop for AbortHandle {
    fn drop(&mut self) {
        if let Some(task) = self.0 {
            // SAFETY: our reference ends here.
            unsafe { leave(task) };
        }
    }
}

impl fmt::Debug for AbortHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AbortHandle").field("finished", &self.is_finished()).finish()
    }
}

/// Why a task has no result: it panicked, it was aborted (also by its runtime's end), or it is
/// blocking code that was refused.
pub struct JoinError(Why);

enum Why {
    Panicked {
        /// If that was text.
        said: Option<Box<str>>,
        /// Only given away, never looked at: it need not be `Sync`.
        payload: Mutex<Box<dyn Any + Send>>,
    },
    Cancelled,
    QueueFull,
    NoThread,
}

impl JoinError {
    pub(in super::super) fn panicked(panic: Box<dyn Any + Send>) -> JoinError {
        let said = message(&*panic).map(Box::from);
        JoinError(Why::Panicked { said, payload: Mutex::new(panic) })
    }

    pub(in super::super) fn cancelled() -> JoinError {
        JoinError(Why::Cancelled)
    }

    pub(in super::super) fn queue_full() -> JoinError {
        JoinError(Why::QueueFull)
    }

    pub(in super::super) fn no_thread() -> JoinError {
        JoinError(Why::NoThread)
    }

    /// Whether the task was aborted or its runtime ended.
    pub fn is_cancelled(&self) -> bool {
        matches!(self.0, Why::Cancelled)
    }

    /// Whether the task panicked.
    pub fn is_panic(&self) -> bool {
        matches!(self.0, Why::Panicked { .. })
    }

    /// Whether it is blocking code that was never run because too much of it waits, or because no
    /// thread can be had; see [`spawn_blocking`](crate::spawn_blocking). It may be tried again.
    pub fn is_refused(&self) -> bool {
        matches!(self.0, Why::QueueFull | Why::NoThread)
    }

    /// The panic's payload, for [`std::panic::resume_unwind`].
    pub fn into_panic(self) -> Option<Box<dyn Any + Send>> {
        match self.0 {
            Why::Panicked { payload, .. } => {
                Some(payload.into_inner().unwrap_or_else(PoisonError::into_inner))
            }
            _ => None,
        }
    }
}

/// What a panic has said, if that is text.
fn message(payload: &(dyn Any + Send)) -> Option<&str> {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Why::Panicked { said: Some(said), .. } => write!(f, "the task panicked: {said}"),
            Why::Panicked { said: None, .. } => f.write_str("the task panicked"),
            Why::Cancelled => f.write_str("the task was aborted"),
            Why::QueueFull => f.write_str(
                "blocking code was refused: all threads are busy and the queue is full \
                 (`Builder::blocking_queue`)",
            ),
            Why::NoThread => f.write_str("blocking code was refused: no thread can be started"),
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
        let kind = match error.0 {
            Why::QueueFull | Why::NoThread => std::io::ErrorKind::ResourceBusy,
            Why::Panicked { .. } | Why::Cancelled => std::io::ErrorKind::Other,
        };
        std::io::Error::new(kind, error)
    }
}
