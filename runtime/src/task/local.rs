//! Values that belong to a task.
//!
//! A scope owns its value and lends it to the thread for the time of each poll, so it goes where
//! the task goes. What the key held before is put back when the poll ends, by return or by panic.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread;

use pin_project_lite::pin_project;

/// Declares values that belong to a task: statics of type [`LocalKey`](crate::task::LocalKey).
///
/// ```
/// overlapped::task_local! {
///     /// Who asks.
///     pub static CLIENT: String;
///     static DEPTH: u32;
/// }
///
/// async fn greet() -> String {
///     CLIENT.with(|client| format!("hello, {client}"))
/// }
///
/// overlapped::block_on(async {
///     let greeting = CLIENT.scope("Ada".into(), DEPTH.scope(1, greet()));
///     assert_eq!(greeting.await, "hello, Ada");
///     assert!(CLIENT.try_with(|_| ()).is_err());
/// });
/// ```
#[macro_export]
macro_rules! task_local {
    ($($(#[$attribute:meta])* $visible:vis static $name:ident: $type:ty;)*) => {$(
        $(#[$attribute])*
        $visible static $name: $crate::task::LocalKey<$type> = {
            ::std::thread_local! {
                static SLOT: ::std::cell::RefCell<::std::option::Option<$type>> =
                    const { ::std::cell::RefCell::new(::std::option::Option::None) };
            }
            $crate::task::LocalKey::new(SLOT)
        };
    )*};
}

/// A value that belongs to a task; see [`task_local!`](crate::task_local). A spawned task does not
/// inherit it.
pub struct LocalKey<T: 'static>(thread::LocalKey<RefCell<Option<T>>>);

/// There is no value: the caller is outside the key's scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotInScope(());

impl fmt::Display for NotInScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no scope has set this task-local value: call it inside `LocalKey::scope`")
    }
}

impl std::error::Error for NotInScope {}

impl<T: 'static> LocalKey<T> {
    #[doc(hidden)]
    pub const fn new(slot: thread::LocalKey<RefCell<Option<T>>>) -> LocalKey<T> {
        LocalKey(slot)
    }

    /// Runs a future with the value set. Scopes nest: the inner value hides the outer one. The
    /// value is there also while the future is dropped.
    pub fn scope<F: Future>(&'static self, value: T, future: F) -> Scope<T, F> {
        Scope { key: self, value: Some(value), future: Some(future) }
    }

    /// Calls a function with the value set.
    ///
    /// # Panics
    /// Inside [`LocalKey::with`] of the same key: it has the value borrowed.
    #[track_caller]
    pub fn sync_scope<R>(&'static self, value: T, f: impl FnOnce() -> R) -> R {
        let mut value = Some(value);
        let _lent = Lent::new(self, &mut value);
        f()
    }

    /// Calls a function with a reference to the value.
    ///
    /// # Panics
    /// Outside the key's scopes.
    #[track_caller]
    pub fn with<R>(&'static self, f: impl FnOnce(&T) -> R) -> R {
        self.try_with(f).unwrap_or_else(|error| panic!("{error}"))
    }

    /// As [`LocalKey::with`].
    ///
    /// # Errors
    /// [`NotInScope`].
    pub fn try_with<R>(&'static self, f: impl FnOnce(&T) -> R) -> Result<R, NotInScope> {
        let call = |slot: &RefCell<Option<T>>| slot.borrow().as_ref().map(f);
        self.0.try_with(call).ok().flatten().ok_or(NotInScope(()))
    }

    /// A copy of the value.
    ///
    /// # Panics
    /// Outside the key's scopes.
    #[track_caller]
    pub fn get(&'static self) -> T
    where
        T: Copy,
    {
        self.with(|value| *value)
    }
}

impl<T: 'static> LocalKey<T> {
    /// Exchanges the thread's value. `false`: it cannot be had now.
    fn swap(&'static self, value: &mut Option<T>) -> bool {
        let swap = |slot: &RefCell<Option<T>>| {
            slot.try_borrow_mut().map(|mut slot| std::mem::swap(&mut *slot, value)).is_ok()
        };
        self.0.try_with(swap).unwrap_or(false)
    }
}

impl<T: 'static> fmt::Debug for LocalKey<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalKey").finish_non_exhaustive()
    }
}

/// A value lent to the thread, until dropped: then lender and thread have theirs back.
struct Lent<'a, T: 'static> {
    key: &'static LocalKey<T>,
    value: &'a mut Option<T>,
}

impl<'a, T: 'static> Lent<'a, T> {
    /// `None`: [`LocalKey::with`] has the thread's value borrowed, or the thread is at its end.
    fn try_new(key: &'static LocalKey<T>, value: &'a mut Option<T>) -> Option<Lent<'a, T>> {
        key.swap(value).then_some(Lent { key, value })
    }

    #[track_caller]
    fn new(key: &'static LocalKey<T>, value: &'a mut Option<T>) -> Lent<'a, T> {
        Lent::try_new(key, value)
            .expect("a scope cannot begin inside `LocalKey::with` of the same key")
    }
}

impl<T: 'static> Drop for Lent<'_, T> {
    fn drop(&mut self) {
        // Nothing borrows it now: borrows begin and end within a scope.
        self.key.swap(self.value);
    }
}

pin_project! {
    /// The future of [`LocalKey::scope`].
    #[must_use = "futures do nothing unless awaited"]
    pub struct Scope<T: 'static, F> {
        key: &'static LocalKey<T>,
        value: Option<T>,
        // `None` once it is ready.
        #[pin]
        future: Option<F>,
    }

    impl<T: 'static, F> PinnedDrop for Scope<T, F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            let _lent = Lent::try_new(this.key, this.value);
            this.future.set(None);
        }
    }
}

impl<T: 'static, F: Future> Future for Scope<T, F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        let future = this.future.as_mut().as_pin_mut();
        let future = future.expect("a scope was polled after it had ended");
        let _lent = Lent::new(this.key, this.value);
        let polled = future.poll(cx);
        if polled.is_ready() {
            this.future.set(None);
        }
        polled
    }
}

impl<T: 'static, F> fmt::Debug for Scope<T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").field("ended", &self.future.is_none()).finish_non_exhaustive()
    }
}
