//! A set of tasks whose results are awaited as they come.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker, ready};

use slab::Slab;

use super::finished::Finished;
use crate::executor::{AbortHandle, JoinError, JoinHandle, spawn, spawn_blocking, spawn_local};

/// A set of tasks whose results are taken in the order in which they end. Dropping it aborts those
/// that have not.
///
/// Taking a result costs the same however many tasks there are: the thread that completes a task
/// puts it on the set's list.
///
/// ```
/// use overlapped::task::JoinSet;
/// overlapped::block_on(async {
///     let mut set = JoinSet::new();
///     for i in 0..10 {
///         set.spawn(async move { i * i });
///     }
///     let mut sum = 0;
///     while let Some(result) = set.join_next().await {
///         sum += result?;
///     }
///     assert_eq!(sum, 285);
/// #   Ok::<_, overlapped::JoinError>(())
/// })?;
/// # Ok::<_, overlapped::JoinError>(())
/// ```
pub struct JoinSet<T> {
    tasks: Slab<JoinHandle<T>>,
    finished: Arc<Finished>,
}

/// A task of a set, as the waker of its handle.
struct Member {
    key: usize,
    finished: Arc<Finished>,
}

impl Wake for Member {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.finished.push(self.key);
    }
}

impl<T> JoinSet<T> {
    /// An empty set.
    pub fn new() -> JoinSet<T> {
        JoinSet { tasks: Slab::new(), finished: Arc::new(Finished::new()) }
    }

    /// Tasks whose results have not been taken.
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Whether all results have been taken.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// As [`crate::spawn`].
    ///
    /// # Panics
    /// Outside a runtime.
    #[track_caller]
    pub fn spawn<F>(&mut self, future: F) -> AbortHandle
    where
        F: Future<Output = T> + Send + 'static,
        T: Send + 'static,
    {
        self.insert(spawn(future))
    }

    /// As [`crate::spawn_local`].
    ///
    /// # Panics
    /// On a thread that is no worker.
    #[track_caller]
    pub fn spawn_local<F>(&mut self, future: F) -> AbortHandle
    where
        F: Future<Output = T> + 'static,
        T: 'static,
    {
        self.insert(spawn_local(future))
    }

    /// As [`crate::spawn_blocking`].
    ///
    /// # Panics
    /// Outside a runtime.
    #[track_caller]
    pub fn spawn_blocking<F>(&mut self, work: F) -> AbortHandle
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        self.insert(spawn_blocking(work))
    }

    fn insert(&mut self, mut handle: JoinHandle<T>) -> AbortHandle {
        let abort = handle.abort_handle();
        let entry = self.tasks.vacant_entry();
        let member = Member { key: entry.key(), finished: self.finished.clone() };
        if !handle.watch(&Waker::from(Arc::new(member))) {
            self.finished.push(entry.key());
        }
        entry.insert(handle);
        abort
    }

    /// Waits for the next task to end and takes its result. `None`: the set is empty.
    ///
    /// Cancel-safe: a result that was not returned stays in the set.
    ///
    /// # Errors
    /// That of the task, if it panicked or was aborted. The others go on.
    pub async fn join_next(&mut self) -> Option<Result<T, JoinError>> {
        poll_fn(|cx| self.poll_join_next(cx)).await
    }

    fn poll_join_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T, JoinError>>> {
        if self.tasks.is_empty() {
            return Poll::Ready(None);
        }
        let key = ready!(self.finished.poll_pop(cx));
        Poll::Ready(Some(self.take(key)))
    }

    /// Takes the result of a task that has ended. `None`: there is none, be the set empty or not.
    ///
    /// # Errors
    /// As [`JoinSet::join_next`].
    pub fn try_join_next(&mut self) -> Option<Result<T, JoinError>> {
        self.finished.pop().map(|key| self.take(key))
    }

    fn take(&mut self, key: usize) -> Result<T, JoinError> {
        let mut handle = self.tasks.remove(key);
        match Pin::new(&mut handle).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => result,
            Poll::Pending => unreachable!("only tasks that have ended are on the list"),
        }
    }

    /// Waits for all tasks and returns their values in the order in which they ended.
    ///
    /// Dropping the future drops the set, and so aborts what has not ended.
    ///
    /// # Errors
    /// That of the first task that fails; the others are aborted.
    ///
    /// ```
    /// use overlapped::task::JoinSet;
    /// overlapped::block_on(async {
    ///     let mut set: JoinSet<u32> = JoinSet::new();
    ///     set.spawn(async { 1 });
    ///     set.spawn(async { panic!("no value") });
    ///     assert!(set.join_all().await.is_err());
    /// });
    /// ```
    pub async fn join_all(mut self) -> Result<Vec<T>, JoinError> {
        let mut values = Vec::with_capacity(self.len());
        while let Some(result) = self.join_next().await {
            values.push(result?);
        }
        Ok(values)
    }

    /// Aborts all tasks. They stay in the set until they are joined, as cancelled or with the
    /// result that they had already.
    pub fn abort_all(&mut self) {
        self.tasks.iter().for_each(|(_, handle)| handle.abort());
    }

    /// Aborts all tasks and waits until their futures are gone. Their results are dropped.
    ///
    /// Cancel-safe: called again, it waits for the rest.
    pub async fn shutdown(&mut self) {
        self.abort_all();
        while self.join_next().await.is_some() {}
    }

    /// Lets all tasks go on without the set, which is empty afterwards. Results that have not been
    /// taken are dropped.
    pub fn detach_all(&mut self) {
        // A task that ends at this very moment still tells the old list.
        self.finished = Arc::new(Finished::new());
        self.tasks.clear();
    }
}

impl<T> Drop for JoinSet<T> {
    fn drop(&mut self) {
        self.abort_all();
    }
}

impl<T> Default for JoinSet<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for JoinSet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinSet").field("tasks", &self.len()).finish()
    }
}
