//! Issuer scopes: who a request belongs to besides its file (D4).
//!
//! NT ties a request to the thread that issued it, and cancels it when that thread ends (X-30). Here
//! a program says what belongs together: requests that are issued inside a scope are its own, on
//! whatever threads, and closing it cancels and joins them, so that nothing of it is in flight
//! afterwards (a task group's requests, a connection's, a call's).

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use crate::irp::View;
use crate::irp::slot::{SlotPtr, flags};
use crate::major::{Major, minor};
use crate::processor::{Core, Remote};
use crate::status::Status;
use crate::wait::Event;

/// What the requests of a scope share.
pub(crate) struct Inner {
    /// Requests whose driver side is not finished.
    live: AtomicUsize,
    /// Requests that somebody has yet to take the result of: those in flight among them.
    charged: AtomicUsize,
    /// Bytes of their data.
    bytes: AtomicUsize,
    limits: Limits,
    closed: AtomicBool,
    /// Requests enter under a read lock; closing takes it for writing, and finds those it must wait
    /// for counted.
    gate: RwLock<()>,
    /// On while the scope is closed and `live` is zero.
    empty: Event,
}

impl Inner {
    /// A request is to be issued.
    pub(crate) fn enter(&self) -> Result<(), Status> {
        let _entering = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        if self.closed.load(Ordering::Relaxed) {
            return Err(Status::CANCELLED);
        }
        if self.charged.fetch_add(1, Ordering::Relaxed) >= self.limits.requests {
            self.charged.fetch_sub(1, Ordering::Relaxed);
            return Err(Status::QUOTA_EXCEEDED);
        }
        self.live.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Charges a request's data. `false`: too many bytes are in flight already.
    fn charge(&self, bytes: usize) -> bool {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let admitted = bytes == 0 || before.saturating_add(bytes) <= self.limits.bytes;
        if !admitted {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        admitted
    }

    /// A request that has entered gets no memory.
    pub(crate) fn turn_back(&self) {
        self.charged.fetch_sub(1, Ordering::Relaxed);
        self.leave();
    }

    /// It is done, or was not issued after all.
    fn leave(&self) {
        if self.live.fetch_sub(1, Ordering::AcqRel) == 1 && self.closed.load(Ordering::SeqCst) {
            self.empty.set();
        }
    }
}

thread_local! {
    /// What the innermost [`within`] on this thread's stack has; null without one.
    static CURRENT: Cell<*const Arc<Inner>> = const { Cell::new(ptr::null()) };
}

/// The scope that requests of this thread belong to at this moment.
#[inline]
pub(crate) fn current() -> Option<Arc<Inner>> {
    let current = CURRENT.get();
    // SAFETY: `within` keeps it for as long as it is there.
    (!current.is_null()).then(|| unsafe { (*current).clone() })
}

/// Runs `work` with a scope as the current one.
fn within<R>(scope: &Arc<Inner>, work: impl FnOnce() -> R) -> R {
    /// Puts the scope before back, even if `work` panics.
    struct Before(*const Arc<Inner>);
    impl Drop for Before {
        fn drop(&mut self) {
            CURRENT.set(self.0);
        }
    }
    let _before = Before(CURRENT.replace(scope));
    work()
}

/// What the requests of a scope may take at a time; those beyond it are refused at issue with
/// [`Status::QUOTA_EXCEEDED`] (S-18, S-19).
///
/// A request counts until its result has been taken, or dropped, by whatever route: a packet that stays
/// in its port, a block that is not looked at, a future that is not polled again, a callback that does
/// not run. So who never reaps can issue no more, and takes nothing from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests.
    pub requests: usize,
    /// Bytes of their data: their buffers' room for reads, their contents for writes. A pooled receive
    /// has none.
    pub bytes: usize,
}

impl Limits {
    /// No limits.
    pub const NONE: Limits = Limits { requests: usize::MAX, bytes: usize::MAX };
}

/// What belongs together: requests that are issued inside a scope are its own, on whatever threads.
/// Closing it cancels and joins them, so that nothing of it is in flight afterwards (a task group's
/// requests, a connection's, a call's), and it may have [`Limits`].
///
/// Clones are the same scope. Dropping it changes nothing for its requests: close it.
///
/// ```
/// # use overlapped_iomgr as overlapped;
/// use overlapped::IssuerScope;
///
/// let scope = IssuerScope::new();
/// scope.run(|| { /* requests issued here are the scope's */ });
/// assert_eq!(scope.live(), 0);
/// assert_eq!(scope.close_wait(None), Ok(true));
/// ```
#[derive(Clone)]
pub struct IssuerScope(Arc<Inner>);

impl IssuerScope {
    /// An empty scope.
    pub fn new() -> IssuerScope {
        IssuerScope::with_limits(Limits::NONE)
    }

    /// An empty scope whose requests have limits.
    ///
    /// ```
    /// # use overlapped_iomgr as overlapped;
    /// use overlapped::{IssuerScope, Limits};
    ///
    /// let scope = IssuerScope::with_limits(Limits { requests: 64, bytes: 1 << 20 });
    /// assert_eq!((scope.live(), scope.bytes()), (0, 0));
    /// ```
    pub fn with_limits(limits: Limits) -> IssuerScope {
        IssuerScope(Arc::new(Inner {
            live: AtomicUsize::new(0),
            charged: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            limits,
            closed: AtomicBool::new(false),
            gate: RwLock::new(()),
            empty: Event::manual(false),
        }))
    }

    /// Runs `work`; the requests that it issues on this thread are the scope's, and of no scope
    /// around it.
    pub fn run<R>(&self, work: impl FnOnce() -> R) -> R {
        within(&self.0, work)
    }

    /// The future, whose polls run in the scope.
    ///
    /// Cancel-safe if the future is.
    pub fn wrap<F: Future>(&self, future: F) -> impl Future<Output = F::Output> {
        Scoped { scope: self.0.clone(), future: Box::pin(future) }
    }

    /// Requests of the scope that are in flight.
    pub fn live(&self) -> usize {
        self.0.live.load(Ordering::Acquire)
    }

    /// Requests of the scope whose results have not been taken, those in flight among them: what
    /// [`Limits::requests`] limits.
    pub fn outstanding(&self) -> usize {
        self.0.charged.load(Ordering::Relaxed)
    }

    /// Bytes of their data.
    pub fn bytes(&self) -> usize {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// Asks for an early end of all its requests, on every processor. Does not wait, and does not
    /// close it.
    pub fn cancel(&self) {
        let scope = self.0.clone();
        Remote::broadcast(move |core| core.cancel_scope(&scope));
    }

    fn begin_close(&self) {
        let closing = self.0.gate.write().unwrap_or_else(PoisonError::into_inner);
        self.0.closed.store(true, Ordering::SeqCst);
        drop(closing);
        self.cancel();
        if self.live() == 0 {
            self.0.empty.set();
        }
    }

    /// Closes the scope: no request is issued in it any more (it is refused with
    /// [`Status::CANCELLED`]), those in flight are cancelled, and this waits until they are done. Their
    /// results report as ever.
    ///
    /// Cancel-safe: dropped early, the scope is closed all the same, and may be waited for again.
    pub async fn close(&self) {
        self.begin_close();
        self.0.empty.signalled().await;
    }

    /// [`IssuerScope::close`] on a plain thread, waiting at most `timeout`. `false`: the time is over;
    /// what is left goes on to its end.
    ///
    /// # Errors
    /// [`Status::WOULD_DEADLOCK`] on a runtime's worker or inside a completion routine.
    pub fn close_wait(&self, timeout: Option<Duration>) -> Result<bool, Status> {
        self.begin_close();
        self.0.empty.wait(timeout)
    }
}

impl Default for IssuerScope {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for IssuerScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuerScope").field("live", &self.live()).finish_non_exhaustive()
    }
}

struct Scoped<F> {
    scope: Arc<Inner>,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for Scoped<F> {
    type Output = F::Output;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Scoped { scope, future } = self.get_mut();
        within(scope, || future.as_mut().poll(cx))
    }
}

impl Core {
    /// Cancels every request of the scope.
    pub(crate) fn cancel_scope(&self, scope: &Arc<Inner>) {
        // SAFETY: owner's thread; live slots.
        self.cancel_where(|slot| unsafe {
            (*slot.0.as_ptr()).flags.has(flags::SCOPED)
                && (*slot.0.as_ptr()).scope.as_ref().is_some_and(|its| Arc::ptr_eq(its, scope))
        });
    }
}

/// A request of a scope is done.
///
/// # Safety
/// Owner's thread; the request is finished, or was not issued.
#[cold]
pub(crate) unsafe fn left(slot: SlotPtr) {
    // SAFETY: the caller's.
    unsafe {
        if let Some(scope) = &(*slot.0.as_ptr()).scope {
            scope.leave();
        }
    }
}

/// The result of a scope's request has been taken.
///
/// # Safety
/// The slot is done and the caller's alone; [`left`] has been called.
#[cold]
pub(crate) unsafe fn reaped(slot: SlotPtr) {
    // SAFETY: the caller's.
    unsafe {
        if let Some(scope) = (*slot.0.as_ptr()).scope.take() {
            let charge = std::mem::take(&mut (*slot.0.as_ptr()).charge);
            scope.bytes.fetch_sub(charge as usize, Ordering::Relaxed);
            scope.charged.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Charges a prepared request to its scope.
///
/// # Safety
/// The slot is the caller's, filled and not issued.
#[cold]
pub(crate) unsafe fn admit(slot: SlotPtr) -> Result<(), Status> {
    // SAFETY: the caller's.
    unsafe {
        let Some(scope) = &(*slot.0.as_ptr()).scope else { return Ok(()) };
        let view = View::of(&slot);
        // A pooled receive has no memory yet.
        let pooled = view.major() == Major::Read && view.minor() == minor::POOLED;
        let bytes = if pooled { 0 } else { view.len() };
        let charge = u32::try_from(bytes).unwrap_or(u32::MAX);
        if !scope.charge(charge as usize) {
            return Err(Status::QUOTA_EXCEEDED);
        }
        (*slot.0.as_ptr()).charge = charge;
        Ok(())
    }
}
